"""The estimate of the final latents that each step of a scheduler makes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["estimate_of"]


def estimate_of(scheduler: Any, output: Any, args: Sequence[Any]) -> "tuple[float, Tensor]":
    r"""Returns the noise level of a step, and its estimate :math:`x_0 = x_t - \sigma v` of the final latents.

    Arguments:
        scheduler: The scheduler that has just made the step, and knows what the model predicts.
        output: What its `step` returned.
        args: The positional arguments of that call.
    """
    model_output, timestep, sample = args[:3]
    sigma = _noise_level(scheduler, timestep)
    # Schedulers that do not return the estimate are those of flow matching.
    own = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    estimate = sample.float() - sigma * model_output.float() if own is None else own
    return sigma, estimate.float()


def _noise_level(scheduler: Any, timestep: Any) -> float:
    """Returns the noise level of the step that a scheduler has just made: 1 is pure noise."""
    flows = hasattr(scheduler, "sigmas") and not hasattr(scheduler, "alphas_cumprod")
    if flows or scheduler.config.get("use_flow_sigmas"):
        return float(scheduler.sigmas[scheduler.step_index - 1])
    if scheduler.config.get("prediction_type") == "trigflow":
        return float(scheduler.timesteps[scheduler.step_index - 1].sin())
    return float((1 - scheduler.alphas_cumprod[int(timestep)]).sqrt())
