"""Sets the scheduler of a pipeline and the shift of its sigmas."""

from typing import Any

from vsf_cli.errors import RequestError

__all__ = ["check_scheduler", "set_scheduler"]

SCHEDULERS = {"UniPCMultistepScheduler": "flow_shift", "FlowMatchEulerDiscreteScheduler": "shift"}
"""The flow matching schedulers, with their parameter for the shift of the sigmas."""


def check_scheduler(name: str | None) -> None:
    """Raises a `RequestError` if a scheduler is not one of `SCHEDULERS`; None means the model's own."""
    if name is not None and name not in SCHEDULERS:
        raise RequestError(f"scheduler is '{name}', but must be one of {', '.join(SCHEDULERS)}")


def set_scheduler(pipe: Any, name: str | None, flow_shift: float | None) -> None:
    """Gives a pipeline a scheduler of a class of `SCHEDULERS`, or a shift, or both; None keeps the model's own."""
    import diffusers

    if name is None and flow_shift is None:
        return
    kind = getattr(diffusers, name) if name else type(pipe.scheduler)
    shift: dict[str, Any] = {} if flow_shift is None else {SCHEDULERS[kind.__name__]: flow_shift}
    if shift and pipe.scheduler.config.get("use_dynamic_shifting"):
        # A shift by the size of the image would replace it.
        shift |= {"use_dynamic_shifting": False, "shift_terminal": None}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **shift)
