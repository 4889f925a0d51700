"""Times runs in turn, so that what slows a machine slows all of them, and compares them round by round."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

__all__ = ["Progress", "Sample", "Spread", "clock", "interleave", "ratios", "spread"]

Sample = Mapping[str, float]
"""Seconds by stage."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of numbers."""

    median: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Returns the numbers by name."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Returns the median and the quartiles of at least one number."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def clock(device: torch.device) -> float:
    """Returns the time in seconds, after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def interleave(
    runs: Mapping[str, Callable[[], Sample]],
    rounds: int,
    warm_up: Callable[[str, Callable[[], Sample]], None],
    progress: Progress | None = None,
) -> dict[str, list[Sample]]:
    """Calls every run once in each round, after a round of warming up, and returns the samples of each run.

    The first run differs from round to round, so that no run always has the same neighbour. In the round of warming up,
    `warm_up` is given the name of each run and the run, which it calls.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    names, done = list(runs), 0
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if turn:
                samples[name].append(runs[name]())
            else:
                warm_up(name, runs[name])
            done += 1
            if progress is not None:
                progress(done, (rounds + 1) * len(names))
    return samples


def ratios(samples: Sequence[Sample], baseline: Sequence[Sample], stage: str) -> Spread:
    """Returns the seconds of a stage as multiples of the baseline's, round by round."""
    return spread([one[stage] / other[stage] for one, other in zip(samples, baseline, strict=True)])
