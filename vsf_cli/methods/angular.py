"""Angular guidance."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.config.option import option
from vsf_cli.methods.base import Method
from vsf_cli.methods.vectors import dot, orthogonal_part, widened

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.methods.tokens import Context

__all__ = ["Angular"]


@dataclass(frozen=True)
class Angular(Method):
    r"""Angular guidance: the output is rotated away from the negative prompt's, and keeps its norm.

    .. math::
        h = \|h^+\| \Big( \frac{\sin(\theta + \varphi)}{\sin\theta} \hat h^+ - \frac{\sin\varphi}{\sin\theta} \hat h^- \Big) ,
        \quad \varphi = \min\Big(\tau\pi \tanh\frac{s \, \theta}{\tau\pi}, \; \pi - \theta\Big)

    where :math:`h^+` is attention to [image, positive] and :math:`h^-` to [image, negative], in cross attention to the prompts
    alone, and :math:`\theta` is the angle between them, of a token over all heads together. It is evaluated as
    :math:`\cos\varphi \, h^+ - \sin\varphi \, \|h^+\| \, u`, with :math:`u` the direction of the part of :math:`h^-` that is
    orthogonal to :math:`h^+`. So nothing is divided by 0 where both outputs are equal or opposite, and :math:`h^+` stays.

    The public code rotates the output of a block's feed-forward, and in the single blocks of Flux that of the whole block; here
    it is the output of attention, as with all other methods. Its limit is :math:`\tau\pi` for Flux, which is this one, as in
    the rotation of the latents by ADG; for Stable Diffusion 3 it is :math:`\tau\theta`, which is a smaller scale and no limit,
    :math:`\varphi = \tau \tanh(s/\tau) \, \theta`. It has no :math:`\pi - \theta`, beyond which the rotation comes back to
    :math:`h^-`.

    References:
        | https://github.com/weathon/nag2, by an author of VSF
        | Angle Domain Guidance: Latent Diffusion Requires Rotation Rather Than Extrapolation (Jin et al., 2025)
        | https://arxiv.org/abs/2506.11039

    Arguments:
        scale: The rotation :math:`s` as a multiple of the angle, 0 or more; 0 is no guidance. The default is what the public
            code's demonstration of Stable Diffusion 3.5 comes to, 0.5 tanh(4 / 0.5).
        tau: The largest rotation :math:`\tau`, as a multiple of :math:`\pi`.
        padding: Whether the negative prompt keeps its padding, as published.

    Raises:
        RequestError: If a number is out of its range.
    """

    name: ClassVar[str] = "angular"
    label: ClassVar[str] = "angular guidance"

    scale: float = option(0.5, help="Rotation of angular guidance, in angles.", min=0, sweep=True, search=(0.0, 6.0))
    tau: float = option(0.5, help="Limit of the rotation, times pi.", above=0, max=1, sweep=True, search=(0.02, 0.3))
    padding: bool = option(True, help="Whether angular guidance pads the negative prompt.")

    @property
    def off(self) -> str:
        return "angular_scale 0" if self.scale == 0 else ""

    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        rotated = self._rotate(widened(base), widened(self.attend_image_to_negative(query, context)))
        return self.keep_unguided_rows(rotated.to(base.dtype), base, context)

    def _rotate(self, output: "Tensor", away: "Tensor") -> "Tensor":
        """Returns an output, rotated away from another one; both have the shape (B, H, L, D)."""
        import torch

        across = orthogonal_part(away, output)
        # Above 0, so that where one is 0 no quotient and no gradient is NaN.
        length, width = (dot(one, one).clamp_min(1e-24).sqrt() for one in (output, across))
        theta = torch.atan2(width, dot(away, output) / length)
        limit = self.tau * math.pi
        phi = torch.minimum(limit * torch.tanh(self.scale * theta / limit), math.pi - theta)
        return phi.cos() * output - (phi.sin() * length / width) * across
