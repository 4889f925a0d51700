"""Counts the steps of a run."""

from typing import Any

from vsf_cli.errors import RequestError

__all__ = ["StepCounter"]


class StepCounter:
    """Counts steps by a scheduler's `step_index`, from the first one that runs: image to image skips some.

    A scheduler that has none, such as DDIM's, is followed by the timesteps at which the model is called.
    """

    def __init__(self) -> None:
        self._timesteps: Any = None
        self._begin = 0

    def progress(self, scheduler: Any, timestep: Any = None) -> float:
        """Returns the fraction of all steps before this one: 0 at the first, below 1 at the last.

        `timestep` is that of the model's call.

        Raises:
            RequestError: If there is no scheduler, it does not count its steps, or the caller does not use it.
        """
        timesteps: Any = getattr(scheduler, "timesteps", None)
        if not hasattr(scheduler, "step_index") and (index := _place_of(timestep, timesteps)) is not None:
            if self._timesteps is not timesteps:
                self._timesteps, self._begin = timesteps, index
            return (index - self._begin) / (len(timesteps) - self._begin)
        if not hasattr(scheduler, "step_index") or timesteps is None:
            found = "there is no scheduler" if scheduler is None else f"{type(scheduler).__name__} does not count its steps"
            raise RequestError(
                f"start, stop and slope are of the steps of a run, but {found}: leave them out, or guide a pipeline whose"
                " scheduler has a step_index"
            )
        index = scheduler.step_index
        if index is None:
            self._start(scheduler)
            return 0.0
        if self._timesteps is not timesteps:
            self._timesteps, self._begin = timesteps, scheduler.begin_index or 0
        elif self._begin < 0:
            self._begin = index - 1
        return (index - self._begin) / max(1, _count(scheduler) - self._begin)

    def _start(self, scheduler: Any) -> None:
        """Begins a run. A scheduler without a `begin_index` finds its first step only as it makes it."""
        if self._timesteps is scheduler.timesteps:
            raise RequestError(
                "start, stop and slope are of the steps of a run, but the model was called twice before the scheduler made a"
                " step: leave them out, or let the scheduler make the steps"
            )
        self._timesteps = scheduler.timesteps
        self._begin = -1 if scheduler.begin_index is None else scheduler.begin_index


def _place_of(timestep: Any, timesteps: Any) -> int | None:
    """Returns the index of a model's timestep, with shape (), (1,) or (B,), among those of a scheduler; None if it is none."""
    if timestep is None or timesteps is None:
        return None
    first = float(timestep.flatten()[0] if hasattr(timestep, "flatten") else timestep)
    places = [index for index, one in enumerate(timesteps.tolist()) if one == first]
    return places[0] if places else None


def _count(scheduler: Any) -> int:
    """Returns the number of a scheduler's steps. The timesteps of TrigFlow have the end of the last step, too."""
    trigonometric = getattr(getattr(scheduler, "config", None), "prediction_type", None) == "trigflow"
    return len(scheduler.timesteps) - trigonometric
