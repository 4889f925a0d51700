"""Plots how training went: `python -m training.curves FOLDER curves.png` reads the tables that the stages wrote."""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["main", "plot"]

STAGES = {
    "autoencoder": "reconstruction",
    "base": "flow matching",
    "student": "distillation",
    "lora": "distillation",
    "judge": "judge",
}


def _points(path: Path) -> tuple[list[int], list[float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    return [step for step, _ in rows], [loss for _, loss in rows]


def plot(folder: Path) -> Figure:
    """A panel for each stage whose table is in the folder: the training loss over the steps.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = {stage: sorted(folder.rglob(f"{stage}.csv")) for stage in STAGES}
    found = {stage: paths for stage, paths in found.items() if paths}
    if not found:
        raise FileNotFoundError(f"{folder} has no table of a stage, such as base.csv: give the folder of the training")
    figure = Figure(figsize=(3.2 * len(found), 2.6), layout="constrained")
    for place, (stage, paths) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for path in paths:
            place.plot(*_points(path), color="tab:blue", linewidth=1)
        place.set(title=stage, xlabel="step", ylabel=f"{STAGES[stage]} loss", yscale="log")
        place.grid(alpha=0.3, which="both")
    return figure


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training.curves", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    try:
        plot(options.folder).savefig(options.picture, dpi=120)
    except OSError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
