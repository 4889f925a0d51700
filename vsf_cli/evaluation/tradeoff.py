"""The paper's Figures 8 and 9: what each method gives up of the object, and of the quality, for the negative's absence."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vsf_cli.errors import RequestError
from vsf_cli.evaluation.sweep import Study, Trial, studies_of
from vsf_cli.media.files import write_bytes

__all__ = ["comparable", "front", "hypervolume", "tradeoff", "write_tradeoff"]

AXES = {"positive": 0, "negative": 1, "quality": 2}
RESAMPLES = 1000


def comparable(storages: Sequence[Path], chosen: Sequence[str] | None) -> dict[str, Study]:
    """The sweeps of several files, or those that are chosen, if they are of the same prompts, preset and judge.

    Raises:
        RequestError: If they are not, or a method that is chosen is not there.
    """
    found = [(storage, name, study) for storage in storages for name, study in studies_of(storage).items()]
    there = dict.fromkeys(name for _, name, _ in found)
    if unknown := [name for name in chosen or () if name not in there]:
        raise RequestError(f"there is no sweep of {', '.join(unknown)}: there are {', '.join(there)}")
    studies: dict[str, Study] = {}
    for storage, name, study in found:
        if chosen is not None and name not in chosen:
            continue
        if name in studies:
            raise RequestError(f"{storage} has a sweep of '{name}', as another file: draw them apart, or choose with --method")
        first, (facts, _) = next(iter(studies), name), study
        for fact, what in (("sha256", "prompts"), ("preset", "preset"), ("judge", "judge")):
            known = studies.get(first, study)[0][fact]
            if facts[fact] != known:
                raise RequestError(
                    f"{storage}: the sweep of '{name}' has the {what} {facts[fact]}, that of '{first}' {known}: draw them apart"
                )
        studies[name] = study
    return {name: studies[name] for name in chosen or studies}


def front(points: np.ndarray) -> np.ndarray:
    """Which points no other equals or exceeds in both coordinates, with shape (points,); of equal points the first."""
    better = (points[None] >= points[:, None]).all(-1)
    equal = (points[None] == points[:, None]).all(-1)
    earlier = np.tri(len(points), k=-1, dtype=bool)
    dominated: np.ndarray = (better & (~equal | earlier)).any(1)
    return ~dominated


def hypervolume(points: np.ndarray) -> float:
    """The area of what points dominate, from (0, 0): 1 if one of them reaches (1, 1)."""
    area, reached = 0.0, 0.0
    for x, y in sorted(map(tuple, points), reverse=True):
        if y > reached:
            area += x * (y - reached)
            reached = y
    return area


def tradeoff(trials: Sequence[Trial], other: str, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """The front of a method's trials over the rate of absence and another rate, with its hypervolume.

    Arguments:
        trials: The trials, all on the same pictures.
        other: "positive" or "quality".
        resamples: How often the prompts are drawn anew, with repetition, for the interval of the hypervolume.
        seed: Of the drawing.

    Returns:
        All points, the front's numbers, the hypervolume, and its bootstrap interval of 95 % (percentiles).
    """
    outcomes = np.array([trial.outcomes for trial in trials], dtype=float)[:, :, [AXES["negative"], AXES[other]]]
    points = outcomes.mean(1)
    chance = np.random.default_rng(seed)
    drawn = chance.integers(outcomes.shape[1], size=(resamples, outcomes.shape[1]))
    areas = [hypervolume(outcomes[:, choice].mean(1)) for choice in drawn]
    low, high = np.percentile(areas, [2.5, 97.5])
    return {
        "points": [
            {**trial.settings, "negative": round(float(x), 4), other: round(float(y), 4)}
            for trial, (x, y) in zip(trials, points, strict=True)
        ],
        "front": np.flatnonzero(front(points)).tolist(),
        "hypervolume": round(hypervolume(points), 4),
        "hypervolume_interval": [round(float(low), 4), round(float(high), 4)],
    }


def write_tradeoff(studies: Mapping[str, tuple[Mapping[str, Any], Sequence[Trial]]], folder: Path) -> dict[str, Any]:
    """Writes `positive-negative` and `quality-negative`, each as PNG, SVG and JSON, into a folder.

    Returns:
        The hypervolumes, by figure and method.

    Raises:
        MediaError: If a file cannot be written.
    """
    found: dict[str, Any] = {}
    for other in ("positive", "quality"):
        arms = {name: {**tradeoff(trials, other), "facts": dict(facts)} for name, (facts, trials) in studies.items()}
        stem = folder / f"{other}-negative"
        write_bytes(stem.with_suffix(".json"), json.dumps(arms, indent=1).encode())
        for format in ("png", "svg"):
            write_bytes(stem.with_suffix(f".{format}"), _drawn(arms, other, format))
        names = ("hypervolume", "hypervolume_interval")
        found[other] = {name: {"trials": len(arm["points"]), **{key: arm[key] for key in names}} for name, arm in arms.items()}
    return found


def _drawn(arms: Mapping[str, Mapping[str, Any]], other: str, format: str) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The same bytes for the same numbers: no date, and no random ids in the SVG.
    with rc_context({"svg.hashsalt": "vsf", "font.size": 10}):
        figure = Figure(figsize=(9, 4.4), dpi=110, layout="constrained")
        axes = figure.add_subplot()
        for arm, marker in zip(arms.values(), "osD^vP*X<>", strict=False):
            x = np.array([point["negative"] for point in arm["points"]])
            y = np.array([point[other] for point in arm["points"]])
            volume = f"{arm['hypervolume']:.3f}"
            (line,) = axes.plot(x, y, marker, ms=4, alpha=0.35, mew=0)
            order = sorted(arm["front"], key=lambda number: x[number])
            # Its own numbers, in parentheses, are not those of the search.
            label = f"{arm['facts']['label'].split(' (')[0]}, area {volume}"
            axes.plot(x[order], y[order], f"{marker}-", color=line.get_color(), ms=5, label=label)
        axes.set_xlabel("negative: what was not wanted is missing")
        axes.set_ylabel({"positive": "positive: the object is there", "quality": "quality"}[other])
        axes.set_xlim(0, 1)
        axes.set_ylim(top=1.02)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
        buffer = io.BytesIO()
        figure.savefig(buffer, format=format, metadata={"Date": None} if format == "svg" else {"Software": None})
    return buffer.getvalue()
