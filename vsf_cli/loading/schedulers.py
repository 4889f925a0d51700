"""Sets the scheduler of a pipeline and the shift of its sigmas."""

from typing import Any

from vsf_cli.errors import RequestError

__all__ = ["check_scheduler", "set_scheduler"]

SHIFTS = {"UniPCMultistepScheduler": "flow_shift", "FlowMatchEulerDiscreteScheduler": "shift"}
"""The flow matching schedulers, with their parameter for the shift of the sigmas."""
SCHEDULERS: dict[str, dict[str, Any]] = {
    **{name: {} for name in SHIFTS},
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
        RequestError: If the scheduler has no shift.
    """
    import diffusers

    if name is None and flow_shift is None:
        return
    kind = getattr(diffusers, name) if name else type(pipe.scheduler)
    if flow_shift is not None and kind.__name__ not in SHIFTS:
        raise RequestError(f"shift is {flow_shift:g}, but a {kind.__name__} has none: leave it out")
    shift: dict[str, Any] = {} if flow_shift is None else {SHIFTS[kind.__name__]: flow_shift}
    if shift and pipe.scheduler.config.get("use_dynamic_shifting"):
        # A shift by the size of the image would replace it.
        shift |= {"use_dynamic_shifting": False, "shift_terminal": None}
    own = SCHEDULERS[name] if name else {}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **own, **shift)
