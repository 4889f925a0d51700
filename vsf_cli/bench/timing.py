"""Times runs side by side: in turn, so that whatever slows a machine slows all of them, and compared pair by pair."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

__all__ = ["Progress", "Sample", "Spread", "clock", "interleaved", "ratios", "spread"]

Sample = Mapping[str, float]
"""Seconds by stage."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Spread:
    """Numbers by their median and quartiles."""

    median: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles of at least one number."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def interleaved(
    runs: Mapping[str, Callable[[], Sample]],
    rounds: int,
    warm_up: Callable[[str, Callable[[], Sample]], None],
    progress: Progress | None = None,
) -> dict[str, list[Sample]]:
    """Calls every run once for each round, after a round that is not timed.

    The first of each round is another one, so that none has always the same neighbour.

    Arguments:
        runs: What is timed; each gives its own seconds, by stage.
        rounds: How often.
        warm_up: Is given each run with its name before the first round, and calls it.
        progress: Is told the runs done and all runs.
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
    """How many times the baseline's seconds of a stage, round by round."""
    return spread([one[stage] / other[stage] for one, other in zip(samples, baseline, strict=True)])
