"""Guidance methods: how the attention of image tokens to a positive and a negative prompt is combined.

Each method is a frozen dataclass. Its fields are its hyper-parameters: the keys of `[method]` in a preset, the options of the
command line, the entries of the metadata and the axes of a sweep all come from them. This module can be read without
importing torch; only its arithmetic needs it.

The letters of shapes are those of `vsf_cli.attention`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CFG",
    "METHODS",
    "NAG",
    "NASA",
    "VSF",
    "WEF",
    "Context",
    "KeyValue",
    "Method",
    "Negative",
    "NoGuidance",
    "method_named",
    "parameters_by_setting",
    "setting_name",
]

WINDOW = ("start", "stop")


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of some tokens, each with shape (B, H, tokens, D)."""

    key: "Tensor"
    value: "Tensor"

    def join(self, other: "KeyValue") -> "KeyValue":
        """These tokens, then the others."""
        import torch

        return KeyValue(
            torch.cat([self.key, other.key], dim=2),
            torch.cat([self.value, other.value], dim=2),
        )


@dataclass(frozen=True)
class Negative(KeyValue):
    """Keys and values of the negative prompts, padded to N tokens.

    Arguments:
        lengths: How many tokens of each row are real, with shape (B,); None means all of them.
    """

    lengths: "Tensor | None" = None

    def seen_after(self, before: int, copies: int = 1) -> "Tensor | None":
        """Which keys are real where the negative prompts stand behind `before` others, with shape (B, 1, 1, keys)."""
        if self.lengths is None:
            return None
        import torch

        places = torch.arange(self.key.shape[2], device=self.key.device)
        real = places < self.lengths.view(-1, 1, 1, 1)  # [B, 1, 1, N]
        return torch.cat([real.new_ones(len(real), 1, 1, before), *[real] * copies], dim=-1)

    def attend(self, query: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Attention to the real tokens with shape (B, H, Q, D), and its log-sum-exp with shape (B, H, Q)."""
        from vsf_cli.attention import attention_with_lse, masked_attention_with_lse

        if self.lengths is None:
            return attention_with_lse(query, self.key, self.value)
        return masked_attention_with_lse(query, self.key, self.value, self.lengths)


@dataclass(frozen=True)
class Context:
    """What the queries of one attention can attend to.

    Arguments:
        stock: The tokens [image, positive], padding included: all that the model without guidance attends to.
        images: How many of them are image tokens; 0 in cross attention.
        negative: The negative prompts' tokens.
    """

    stock: KeyValue
    images: int
    negative: Negative

    @property
    def image(self) -> KeyValue:
        """The image tokens; a view."""
        return KeyValue(self.stock.key[:, :, : self.images], self.stock.value[:, :, : self.images])

    @property
    def positive(self) -> KeyValue:
        """The positive prompt's tokens; a view."""
        return KeyValue(self.stock.key[:, :, self.images :], self.stock.value[:, :, self.images :])


class Method(ABC):
    """A way to combine attention to a positive and to a negative prompt.

    Class attributes:
        name: The name in presets, on the command line and in metadata.
        label: The name as the paper writes it.
        guides_attention: Whether the method acts inside attention, so that the model has to be patched.
        accepts_guidance_scale: Whether it may run with `guidance_scale` above 1, diffusers' own CFG.
        passes_negative_prompt: Whether the pipeline itself is given the negative prompt.
        copies: How often the negative prompt joins the text; of two copies the first counts as part of the positive.
        flips_embedding: Whether the negative prompt joins the text with its embedding flipped; attention is the model's own.
        padding: Whether the negative prompt is padded as the positive is; a method may have it as a hyper-parameter.
        special_tokens: Whether the tokens for beginning and end of the negative prompt take part; a method may have it as a
            hyper-parameter.
        beta: What is subtracted from the logits of the negative prompt, in nats; 0 where a method has no such bias.
        start, stop: The window of the steps that are guided, as fractions of all; the others are the unguided model's own.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    guides_attention: ClassVar[bool] = True
    accepts_guidance_scale: ClassVar[bool] = False
    passes_negative_prompt: ClassVar[bool] = False
    copies: ClassVar[int] = 1
    flips_embedding: ClassVar[bool] = False
    padding: bool = False
    special_tokens: bool = True
    beta: float = 0.0
    start: float = 0.0
    stop: float = 1.0

    @classmethod
    def kinds(cls) -> dict[str, type]:
        """The type of each hyper-parameter, by name."""
        return {entry.name: type(entry.default) for entry in fields(cls)}  # type: ignore[arg-type]

    @property
    def parameters(self) -> dict[str, float]:
        """The hyper-parameters by name."""
        return asdict(self)  # type: ignore[call-overload]

    def __str__(self) -> str:
        told = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)  # type: ignore[arg-type]
            # What is on or off, and the window, are told only where they are not as usual.
            if not (isinstance(entry.default, bool) or entry.name in WINDOW) or getattr(self, entry.name) != entry.default
        }
        words = (f"{name}={_written(value)}" for name, value in told.items())
        return f"{self.label} {' '.join(words)}".strip()

    def checked(self, guided: "Tensor", unguided: "Tensor", context: Context) -> "Tensor":
        """The guided output, but of rows without a negative prompt the unguided one."""
        lengths = context.negative.lengths
        if lengths is None:
            return guided
        import torch

        return torch.where((lengths > 0).view(-1, 1, 1, 1), guided, unguided)

    def acts_at(self, progress: float) -> bool:
        """Whether a step is guided, by how much of all steps is done as it begins: 0 at the first, below 1 at the last."""
        return self.start <= progress < self.stop

    @abstractmethod
    def attend(self, query: "Tensor", positive_query: "Tensor | None", context: Context) -> tuple["Tensor", "Tensor | None"]:
        """Attention of the image rows, where the method acts, and of the positive prompt's rows.

        Arguments:
            query: The image's queries, with shape (B, H, I, D).
            positive_query: The positive prompt's queries, with shape (B, H, P, D); None in cross attention.
            context: What they can attend to.

        Returns:
            The outputs for the same rows, with the shapes of the queries.
        """

    def attend_negative(self, query: "Tensor", context: Context) -> "Tensor":
        """Attention of the negative prompt's rows: to [image, negative], as if it were the only prompt (section 3.2).

        Arguments:
            query: The negative prompt's queries, with shape (B, H, N, D). Rows of padding give values of no meaning.
            context: What they can attend to.
        """
        from vsf_cli.attention import attention

        keys = context.image.join(context.negative)
        return attention(query, keys.key, keys.value, context.negative.seen_after(context.images))


def _written(value: float) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:g}"


@dataclass(frozen=True)
class NoGuidance(Method):
    """No guidance: the negative prompt has no effect. For comparison."""

    name: ClassVar[str] = "none"
    label: ClassVar[str] = "none"
    guides_attention: ClassVar[bool] = False
    accepts_guidance_scale: ClassVar[bool] = True

    def attend(self, query: "Tensor", positive_query: "Tensor | None", context: Context) -> tuple["Tensor", "Tensor | None"]:
        import torch

        from vsf_cli.attention import attention

        # The very call of the unguided model, all rows at once: the same bits.
        rows = query if positive_query is None else torch.cat([query, positive_query], dim=2)
        output = attention(rows, context.stock.key, context.stock.value)
        images = query.shape[2]
        return output[:, :, :images], None if positive_query is None else output[:, :, images:]


@dataclass(frozen=True)
class VSF(Method):
    r"""Value sign flip: the image attends to the negative prompt, whose values are then subtracted.

    .. math:: z = \mathrm{softmax}\big([s_{I}, \; s_{P}, \; s_{N} - \beta]\big) \, [v_{I}; \; v_{P}; \; -\alpha v_{N}] ,
        \quad s = q k^T / \sqrt{D}

    which is evaluated exactly and without a mask, from the stock attention :math:`O_1` with its log-sum-exp :math:`L_1` and
    the attention to the negative prompt alone, :math:`O_2` with :math:`L_2`, as

    .. math:: z = (1 - w) O_1 - \alpha w O_2 , \quad w = \mathrm{sigmoid}(L_2 - \beta - L_1)

    References:
        | VSF: Simple, Efficient, and Effective Negative Guidance in Few-Step Image Generation Models By Value Sign Flip
        | (Guo & Du, 2025), equation 6 and sections 3.2-3.3
        | https://arxiv.org/abs/2508.10931

    Arguments:
        alpha: The flip strength :math:`\alpha \geq 0`. 0 is not the same as no guidance: the negative prompt still takes its
            share of attention (section 3.3).
        beta: The bias :math:`\beta` subtracted from the logits of the negative prompt, in nats. Infinity turns guidance off.
        special_tokens: Whether the tokens for beginning and end of the negative prompt are among its tokens, as in the paper.
            They mean nothing of their own, and yet take a share of attention: subtracting them takes away what was not meant.
        mask: Whether the flipped tokens are seen by the image alone. For the paper's ablation (section 4.8): without it, all
            rows see all tokens, and there is no bias. In joint attention only.
        duplication: Whether an unflipped copy of the negative prompt goes on through the blocks. For the ablation: without it,
            and without the mask, all rows see the flipped tokens alone.
        reference_layout: Whether another unflipped copy stands among the positive prompt, as in the paper's public code. For
            comparison: the flip has to cancel that copy first.
        start, stop: The window of the steps that are guided, as fractions of all (not in the paper). The first steps decide
            what is there; without guidance in the last ones the picture is cleaner.

    Raises:
        RequestError: If `alpha` is negative or not finite, `beta` is not a number or minus infinity, the window is empty or
            beyond 0 to 1, or a mask is asked for without duplication.
    """

    name: ClassVar[str] = "vsf"
    label: ClassVar[str] = "VSF"

    alpha: float = 3.0
    beta: float = 0.3
    special_tokens: bool = True
    mask: bool = True
    duplication: bool = True
    reference_layout: bool = False
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if self.mask and not self.duplication:
            raise RequestError("VSF without duplication has no mask: pass --no-duplication with --no-mask")
        if not 0 <= self.start < self.stop <= 1:
            raise RequestError(
                f"start is {self.start:g} and stop {self.stop:g}, but they must be two fractions of 0 to 1, the larger last"
            )
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise RequestError(f"alpha is {self.alpha:g}, but a flip strength is a finite number of 0 or more")
        if math.isnan(self.beta) or self.beta == -math.inf:
            raise RequestError(f"beta is {self.beta:g}, but a bias is a number of nats, or inf to turn guidance off")

    @property
    def copies(self) -> int:  # type: ignore[override]
        """Two in the layout of the public code."""
        return 2 if self.reference_layout else 1

    def attend(self, query: "Tensor", positive_query: "Tensor | None", context: Context) -> tuple["Tensor", "Tensor | None"]:
        import torch

        from vsf_cli.attention import attention_with_lse

        if not self.mask:
            positive = None if positive_query is None else self._attend_everything(positive_query, context)
            return self._attend_everything(query, context), positive

        images, stock = query.shape[2], context.stock
        # The stock call of the unguided model: all rows at once.
        rows = query if positive_query is None else torch.cat([query, positive_query], dim=2)
        output, lse = attention_with_lse(rows, stock.key, stock.value)
        subtracted, negative_lse = context.negative.attend(query)

        w = torch.sigmoid(negative_lse - self.beta - lse[:, :, :images]).unsqueeze(-1)  # [B, H, I, 1]
        guided = (1 - w) * output[:, :, :images] - self.alpha * w * subtracted
        return guided.to(query.dtype), None if positive_query is None else output[:, :, images:]

    def attend_negative(self, query: "Tensor", context: Context) -> "Tensor":
        return super().attend_negative(query, context) if self.mask else self._attend_everything(query, context)

    def _attend_everything(self, query: "Tensor", context: Context) -> "Tensor":
        """Attention to [image, positive, negative, flipped negative], or without the third: the ablation."""
        from vsf_cli.attention import attention

        if not context.images:
            raise RequestError("VSF without its mask is for joint attention: cross attention has no mask to leave out")
        negative, copies = context.negative, 1 + self.duplication
        keys = context.stock.join(negative) if self.duplication else context.stock
        keys = keys.join(KeyValue(negative.key, -self.alpha * negative.value))
        return attention(query, keys.key, keys.value, negative.seen_after(context.stock.key.shape[2], copies))


@dataclass(frozen=True)
class CFG(NoGuidance):
    r"""Classifier-free guidance with a negative prompt, as diffusers has it: outside of attention, two calls a step.

    .. math:: u = f(p^-) + \lambda \, (f(p^+) - f(p^-))

    with :math:`\lambda` the pipeline's `guidance_scale`. For models that were not distilled.

    References:
        | VSF (Guo & Du, 2025), equation 2
        | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022)
        | https://arxiv.org/abs/2207.12598
    """

    name: ClassVar[str] = "cfg"
    label: ClassVar[str] = "CFG"

    passes_negative_prompt: ClassVar[bool] = True


@dataclass(frozen=True)
class NASA(Method):
    r"""Negative-away steer attention: the attention to the negative prompt is subtracted, as much everywhere.

    .. math:: Z = Z^+ - \alpha \, Z^-

    where :math:`Z^+` is attention to [image, positive] and :math:`Z^-` to [image, negative]; in cross attention to the prompts
    alone.

    References:
        | VSF (Guo & Du, 2025), equation 3
        | SNOOPI: Supercharged One-step Diffusion Distillation with Proper Guidance (Nguyen et al., 2024)
        | https://arxiv.org/abs/2412.02687

    Arguments:
        alpha: The strength :math:`\alpha`, usually 0 to 1; 0 is no guidance.
        padding: Whether the negative prompt keeps its padding, as published.

    Raises:
        RequestError: If `alpha` is negative or not finite.
    """

    name: ClassVar[str] = "nasa"
    label: ClassVar[str] = "NASA"

    alpha: float = 0.25
    padding: bool = True

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)

    def attend(self, query: "Tensor", positive_query: "Tensor | None", context: Context) -> tuple["Tensor", "Tensor | None"]:
        positive, text = NoGuidance().attend(query, positive_query, context)
        guided = positive - self.alpha * self.attend_negative(query, context)
        return self.checked(guided, positive, context), text


@dataclass(frozen=True)
class NAG(Method):
    r"""Normalized attention guidance: extrapolation away from the negative prompt, held to a norm, and blended.

    .. math::
        \tilde Z = Z^+ + \phi \, (Z^+ - Z^-) , \quad
        \hat Z = \tilde Z \, \min(r, \tau) / r , \; r = \|\tilde Z\|_1 / \|Z^+\|_1 , \quad
        Z = a \hat Z + (1 - a) Z^+

    with the norm of a token over all heads together.

    References:
        | VSF (Guo & Du, 2025), equations 4 and 5
        | Normalized Attention Guidance (Chen et al., 2025)
        | https://arxiv.org/abs/2505.21179

    Arguments:
        scale: :math:`\phi`, 0 or more; 0 is no guidance. NAG's own code calls :math:`\phi + 1` its scale.
        tau: The greatest ratio of norms :math:`\tau`, above 0; infinity does not limit it.
        alpha: The blend :math:`a`, 0 to 1; 0 is no guidance.
        padding: Whether the negative prompt keeps its padding, as published.

    Raises:
        RequestError: If a number is out of its range.
    """

    name: ClassVar[str] = "nag"
    label: ClassVar[str] = "NAG"

    scale: float = 4.0
    tau: float = 2.5
    alpha: float = 0.125
    padding: bool = True

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)
        if not self.tau > 0:
            raise RequestError(f"tau is {self.tau:g}, but a ratio of norms is above 0")
        if not 0 <= self.alpha <= 1:
            raise RequestError(f"alpha is {self.alpha:g}, but a blend is 0 to 1")

    def attend(self, query: "Tensor", positive_query: "Tensor | None", context: Context) -> tuple["Tensor", "Tensor | None"]:
        positive, text = NoGuidance().attend(query, positive_query, context)
        away = positive + self.scale * (positive - self.attend_negative(query, context))
        ratio = _norm(away) / _norm(positive)
        held = away * (ratio.clamp(max=self.tau) / ratio).to(away.dtype)
        return self.checked(self.alpha * held + (1 - self.alpha) * positive, positive, context), text


@dataclass(frozen=True)
class WEF(NoGuidance):
    r"""Whole embedding flip: the negative prompt's embedding, flipped, joins the positive one before the model. An ablation.

    .. math:: e = [e^+ ; \; -\alpha \, e^-]

    Keys are flipped with it, so that the image attends to what is least like the negative prompt: the paper found no effect.

    References:
        | VSF (Guo & Du, 2025), section 4.8 and Figure 10

    Arguments:
        alpha: The strength :math:`\alpha \geq 0`.
        padding: Whether the negative prompt keeps its padding, as in the paper.

    Raises:
        RequestError: If `alpha` is negative or not finite.
    """

    name: ClassVar[str] = "wef"
    label: ClassVar[str] = "WEF"
    accepts_guidance_scale: ClassVar[bool] = False
    flips_embedding: ClassVar[bool] = True

    alpha: float = 1.0
    padding: bool = True

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)


def _norm(output: "Tensor") -> "Tensor":
    """The L1 norm of each token over all heads, from shape (B, H, L, D) to (B, 1, L, 1), in float32 or more."""
    wide = output if output.element_size() > 4 else output.float()
    return wide.abs().sum((1, 3), keepdim=True).clamp_min(1e-7)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise RequestError(f"{name} is {value:g}, but must be a finite number of 0 or more")


METHODS: dict[str, type[Method]] = {"none": NoGuidance, "vsf": VSF, "nasa": NASA, "nag": NAG, "wef": WEF, "cfg": CFG}


def setting_name(method: str, parameter: str) -> str:
    """A hyper-parameter's name on the command line: VSF's own as it is, others behind their method's name."""
    return parameter if method == VSF.name else f"{method}_{parameter}"


def parameters_by_setting() -> dict[str, tuple[str, str]]:
    """The method and hyper-parameter behind each such name."""
    return {
        setting_name(name, parameter): (name, parameter) for name, method in METHODS.items() for parameter in method.kinds()
    }


def method_named(name: str, parameters: dict[str, float] | None = None) -> Method:
    """The method of that name with those hyper-parameters.

    Raises:
        RequestError: If there is no such method, or it has no such hyper-parameter.
    """
    if name not in METHODS:
        raise RequestError(f"method '{name}' is not known: methods are {', '.join(METHODS)}")
    method, parameters = METHODS[name], parameters or {}
    legal = method.kinds()
    for key in parameters:
        if key not in legal:
            raise RequestError(f"method '{name}' has no '{key}': it has {', '.join(legal) or 'no numbers at all'}")
    return method(**parameters)
