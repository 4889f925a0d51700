"""Plots how training went: `python -m training.curves FOLDER curves.png` reads the tables that the stages wrote."""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure

from training.command import run

__all__ = ["main", "plot"]

STAGES = {
    "autoencoder": "reconstruction",
    "base": "flow matching",
    "student": "distillation",
    "distilled": "distillation",
    "lora": "distillation",
    "judge": "judge",
    "judge-2": "judge",
}


def _points(path: Path) -> tuple[list[int], list[float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    return [step for step, _ in rows], [loss for _, loss in rows]


def plot(folder: Path) -> Figure:
    """A figure with a panel for each stage that has a table in the folder: the training loss over the steps.

    Raises:
        FileNotFoundError: If the folder has no table.
    """
    tables = {stage: sorted(folder.rglob(f"{stage}.csv")) for stage in STAGES}
    tables = {stage: paths for stage, paths in tables.items() if paths}
    if not tables:
        raise FileNotFoundError(f"{folder} has no table of a stage, such as base.csv: give the folder of the training")
    figure = Figure(figsize=(3.2 * len(tables), 2.6), layout="constrained")
    for axes, (stage, paths) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        for path in paths:
            axes.plot(*_points(path), color="tab:blue", linewidth=1)
        axes.set(title=stage, xlabel="step", ylabel=f"{STAGES[stage]} loss", yscale="log")
        axes.grid(alpha=0.3, which="both")
    return figure


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training.curves", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    try:
        plot(options.folder).savefig(options.image, dpi=120)
    except OSError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    run(main)
