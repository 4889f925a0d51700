"""Muon for many matrices at once: those of one shape are orthogonalised in one batch."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.loop import has_fast_bfloat16

__all__ = ["Muon", "optimizers_for", "orthogonalised"]

MUON_RATE, ADAM_RATE = 3e-3, 2e-3


def orthogonalised(matrices: Tensor) -> Tensor:
    r"""Brings the singular values of matrices with shape (count, rows, columns) near 1, by five Newton-Schulz iterations.

    .. math:: X \leftarrow a X + (b X X^T + c (X X^T)^2) X

    References:
        | Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024)
        | https://kellerjordan.github.io/posts/muon/
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16() if has_fast_bfloat16(matrices.device) else matrices
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, its updates scaled to the size of AdamW's.

    Arguments:
        params: Matrices.
        lr: The learning rate, as for AdamW.
        weight_decay: The decoupled weight decay.
        momentum: The decay of the gradients' moving average.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.01, momentum: float = 0.95) -> None:
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates all matrices that have gradients."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for same in shapes.values():
                self._update(same, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, parameters: list[Tensor], rate: float, decay: float, momentum: float) -> None:
        gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None]).float()
        # The state of all is kept with the first of them.
        state = self.state[parameters[0]]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradients)
        state["momentum"].lerp_(gradients, 1 - momentum)
        updates = orthogonalised(gradients.lerp(state["momentum"], momentum))
        torch._foreach_mul_(parameters, 1 - rate * decay)
        scale = 0.2 * math.sqrt(max(parameters[0].shape))
        torch._foreach_add_(parameters, list(updates.unbind(0)), alpha=-rate * scale)


def optimizers_for(transformer: nn.Module, others: Iterable[nn.Module], fused: bool = False) -> list[torch.optim.Optimizer]:
    """Muon for the matrices in the blocks of a transformer, AdamW for all else.

    Arguments:
        transformer: The transformer.
        others: Modules of which all parameters go to AdamW.
        fused: Whether AdamW uses its fused kernel, which is for GPUs.
    """
    matrices: list[nn.Parameter] = []
    rest = [parameter for module in others for parameter in module.parameters() if parameter.requires_grad]
    for name, parameter in transformer.named_parameters():
        in_block = "blocks." in name and ".norm" not in name and "table" not in name
        (matrices if in_block and parameter.ndim == 2 else rest).append(parameter)
    adamw = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
    return [Muon(matrices, MUON_RATE), adamw]
