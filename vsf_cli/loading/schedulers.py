"""Sets the scheduler of a pipeline and the shift of its sigmas."""

import inspect
from collections.abc import Mapping
from typing import Any

from vsf_cli.errors import RequestError

__all__ = ["check_scheduler", "set_scheduler"]

SCHEDULERS: dict[str, dict[str, Any]] = {
    "UniPCMultistepScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {},
    # Few steps begin at pure noise, which other spacings leave out.
    "EulerDiscreteScheduler": {"timestep_spacing": "trailing"},
    "DDIMScheduler": {"timestep_spacing": "trailing"},
    "LCMScheduler": {},
}
"""The schedulers that a preset can name, with what they are always given."""


def check_scheduler(name: str | None) -> None:
    """Raises a `RequestError` if a scheduler is not one of `SCHEDULERS`; None means the model's own."""
    if name is not None and name not in SCHEDULERS:
        raise RequestError(f"scheduler is '{name}', but must be one of {', '.join(SCHEDULERS)}")


def set_scheduler(pipe: Any, name: str | None, flow_shift: float | None) -> None:
    """Gives a pipeline a scheduler of a class of `SCHEDULERS`, or a shift, or both; None keeps the model's own.

    Raises:
        RequestError: If the scheduler has no shift, or would not use it.
    """
    import diffusers

    if name is None and flow_shift is None:
        return
    kind = getattr(diffusers, name) if name else type(pipe.scheduler)
    shift: dict[str, Any] = {} if flow_shift is None else {_shift_of(kind, pipe.scheduler.config, flow_shift): flow_shift}
    if shift and pipe.scheduler.config.get("use_dynamic_shifting"):
        # A shift by the size of the image would replace it.
        shift |= {"use_dynamic_shifting": False, "shift_terminal": None}
    own = SCHEDULERS[name] if name else {}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **own, **shift)


def _shift_of(kind: Any, config: Mapping[str, Any], flow_shift: float) -> str:
    """Returns the parameter of a scheduler's class for the shift of the sigmas.

    Raises:
        RequestError: If it has none, or would not use it.
    """
    parameters = inspect.signature(kind.__init__).parameters
    name = next((name for name in ("flow_shift", "shift") if name in parameters), None)
    # Solvers for other models, too, shift the sigmas of flow matching alone.
    if name is None or ("use_flow_sigmas" in parameters and not config.get("use_flow_sigmas")):
        raise RequestError(f"--shift is {flow_shift:g}, but a {kind.__name__} has no shift: leave it out")
    return name
