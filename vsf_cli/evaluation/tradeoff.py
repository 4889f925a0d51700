"""The paper's Figures 8 and 9: how much of the object, and of the quality, each method loses for the negative's absence."""

import io
import json
from collections.abc import Mapping, Sequence
from itertools import cycle
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
    """Returns the sweeps of several files, or the chosen ones, which must have the same prompts, preset and judge.

    Raises:
        RequestError: If they have not, or a chosen method has no sweep.
    """
    sweeps = [(storage, name, study) for storage in storages for name, study in studies_of(storage).items()]
    known = dict.fromkeys(name for _, name, _ in sweeps)
    if unknown := [name for name in chosen or () if name not in known]:
        raise RequestError(f"there is no sweep of {', '.join(unknown)}: there are {', '.join(known)}")
    studies: dict[str, Study] = {}
    for storage, name, study in sweeps:
        if chosen is not None and name not in chosen:
            continue
        if name in studies:
            raise RequestError(f"{storage} has a sweep of '{name}', as another file: draw them apart, or choose with --method")
        studies[name] = study
        _check_comparable(storage, name, studies)
    return {name: studies[name] for name in chosen or studies}


def _check_comparable(storage: Path, name: str, studies: Mapping[str, Study]) -> None:
    """Checks that a sweep has the prompts, preset and judge of the first one."""
    first = next(iter(studies))
    facts, expected = studies[name][0], studies[first][0]
    for fact, label in (("sha256", "prompts"), ("preset", "preset"), ("judge", "judge")):
        if facts[fact] != expected[fact]:
            found = f"{storage}: the sweep of '{name}' has the {label} {facts[fact]}"
            raise RequestError(f"{found}, that of '{first}' {expected[fact]}: draw them apart")


def front(points: np.ndarray) -> np.ndarray:
    """Returns which points are on the Pareto front, with shape (points,): no other is as good in both coordinates.

    Of equal points, the first is on the front.
    """
    better = (points[None] >= points[:, None]).all(-1)
    equal = (points[None] == points[:, None]).all(-1)
    earlier = np.tri(len(points), k=-1, dtype=bool)
    dominated: np.ndarray = (better & (~equal | earlier)).any(1)
    return ~dominated


def hypervolume(points: np.ndarray) -> float:
    """Returns the area that points dominate, from (0, 0): 1 if one of them is (1, 1)."""
    area, reached = 0.0, 0.0
    for x, y in sorted(map(tuple, points), reverse=True):
        if y > reached:
            area += x * (y - reached)
            reached = y
    return area


def tradeoff(trials: Sequence[Trial], other: str, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Returns the points of trials on the same images, their front, its hypervolume, and its bootstrap interval of 95 %.

    Arguments:
        trials: The trials.
        other: The rate beside that of absence: "positive" or "quality".
        resamples: Bootstrap samples of the prompts, for the percentiles of the hypervolume.
        seed: The seed of these samples.
    """
    outcomes = np.array([trial.outcomes for trial in trials], dtype=float)[:, :, [AXES["negative"], AXES[other]]]
    points = outcomes.mean(1)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(outcomes.shape[1], size=(resamples, outcomes.shape[1]))
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


def write_tradeoff(studies: Mapping[str, Study], folder: Path) -> dict[str, Any]:
    """Writes `positive-negative` and `quality-negative`, each as PNG, SVG and JSON, into a folder.

    Returns:
        The hypervolumes, by figure and method.

    Raises:
        MediaError: If a file cannot be written.
    """
    volumes: dict[str, Any] = {}
    for other in ("positive", "quality"):
        curves = {name: {**tradeoff(trials, other), "facts": dict(facts)} for name, (facts, trials) in studies.items()}
        stem = folder / f"{other}-negative"
        write_bytes(stem.with_suffix(".json"), json.dumps(curves, indent=1).encode())
        for format in ("png", "svg"):
            write_bytes(stem.with_suffix(f".{format}"), _draw(curves, other, format))
        volumes[other] = {
            name: {"trials": len(curve["points"])} | {key: curve[key] for key in ("hypervolume", "hypervolume_interval")}
            for name, curve in curves.items()
        }
    return volumes


def _draw(curves: Mapping[str, Mapping[str, Any]], other: str, format: str) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The same bytes for the same numbers: no date, and no random ids in the SVG.
    with rc_context({"svg.hashsalt": "vsf", "font.size": 10}):
        figure = Figure(figsize=(9, 4.4), dpi=110, layout="constrained")
        axes = figure.add_subplot()
        for curve, marker in zip(curves.values(), cycle("osD^vP*X<>"), strict=False):
            x = np.array([point["negative"] for point in curve["points"]])
            y = np.array([point[other] for point in curve["points"]])
            (line,) = axes.plot(x, y, marker, ms=4, alpha=0.35, mew=0)
            order = sorted(curve["front"], key=lambda number: x[number])
            # The label names fixed values in parentheses, which the search replaced.
            label = f"{curve['facts']['label'].split(' (')[0]}, area {curve['hypervolume']:.3f}"
            axes.plot(x[order], y[order], f"{marker}-", color=line.get_color(), ms=5, label=label)
        ylabel = {"positive": "positive: the object is there", "quality": "quality"}[other]
        axes.set(xlim=(0, 1), xlabel="negative: what was not wanted is missing", ylabel=ylabel)
        axes.set_ylim(top=1.02)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
        buffer = io.BytesIO()
        figure.savefig(buffer, format=format, metadata={"Date": None} if format == "svg" else {"Software": None})
    return buffer.getvalue()
