"""Counts the steps of a run."""

from typing import Any

from vsf_cli.errors import RequestError

__all__ = ["StepCounter"]


class StepCounter:
    """Counts steps by a scheduler's `step_index`, from the first one that runs: image to image skips some."""

    def __init__(self) -> None:
        self._timesteps: Any = None
        self._begin = 0

    def progress(self, scheduler: Any) -> float:
        """Returns the fraction of all steps before this one: 0 at the first, below 1 at the last.

        Raises:
            RequestError: If there is no scheduler, it does not count its steps, or the caller does not use it.
        """
        if not hasattr(scheduler, "step_index") or getattr(scheduler, "timesteps", None) is None:
            found = "there is no scheduler" if scheduler is None else f"{type(scheduler).__name__} does not count its steps"
            raise RequestError(
                f"start, stop and slope are of the steps of a run, but {found}: leave them out, or guide a pipeline whose"
                " scheduler has a step_index"
            )
        timesteps, index = scheduler.timesteps, scheduler.step_index
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


def _count(scheduler: Any) -> int:
    """Returns the number of a scheduler's steps. The timesteps of TrigFlow have the end of the last step, too."""
    trigonometric = getattr(getattr(scheduler, "config", None), "prediction_type", None) == "trigflow"
    return len(scheduler.timesteps) - trigonometric
