"""`vsf eval calibrate`: compares a judge with labels by people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.judge_options import JudgeOptions
from vsf_cli.cli.options import ConsoleOptions, Takes, command_option, with_options
from vsf_cli.config.names import counted
from vsf_cli.config.option import FILES
from vsf_cli.config.values import parse_path
from vsf_cli.errors import PartlyFailed
from vsf_cli.evaluation import calibration
from vsf_cli.evaluation.report import full_name, rate_text
from vsf_cli.judges.judgement import Judge, Judgement
from vsf_cli.judges.stored import CachedJudge
from vsf_cli.media.files import check_writable, encode_json, write_bytes
from vsf_cli.media.metadata import versions

__all__ = ["calibrate"]

HEADS = (
    *("question", "labels", "agreement", "yes, said yes", "yes, said no", "no, said yes", "no, said no"),
    *("precision", "recall", "balanced accuracy", "ROC area", "best threshold", "balanced accuracy there"),
)


@handle_errors
@with_options
def calibrate(
    labels: Annotated[Path, typer.Argument(help="A table: file, prompt, negative, and object or absent with yes or no.")],
    judge: JudgeOptions,
    messages: Annotated[ConsoleOptions, Takes(without=("verbose",))],
    output: Annotated[str | None, command_option("-o", "--output", help="A JSON file of the result.", panel=FILES)] = None,
) -> None:
    """Compare a judge with labels by people."""
    console, target = Console(messages.quiet), parse_path(output) if output else None
    if target is not None:
        check_writable(target)
    known, built = calibration.read_labels(labels), judge.with_default("scenes").judge()
    rows = calibration.calibrate(known, _answers(known, built, console))
    report = {"labels": labels.name, "judge": full_name(built.name, built.settings), "versions": versions(), "rows": rows}
    if messages.as_json:
        console.data(as_line(report))
    else:
        Console.data_table(HEADS, [_cells(row) for row in rows])
    for name in (row["question"] for row in rows if row["threshold"] is None):
        console.info(f"no ROC of '{name}': the judge gives no scores of it, or all its labels are the same")
    if target is not None:
        write_bytes(target, encode_json(report, indent=2))
        console.info(f"{target}")


def _answers(labels: Sequence[calibration.Label], judge: Judge, console: Console) -> list[Judgement]:
    """Returns the answer about each label; those that cost are stored, so that a second command asks only for what failed."""
    if judge.costly:
        judge = CachedJudge(judge, Path("outputs") / f"calibrate-{judge.name}.jsonl")
    with console.progress("judged") as (progress,):
        answers, failed = calibration.judge_labels(labels, judge, progress)
    for text in failed:
        console.warn(text)
    if failed:
        raise PartlyFailed(f"{counted(len(failed), 'label')} not compared: run the same command again")
    return [answers[index] for index in range(len(labels))]


def _cells(row: Mapping[str, Any]) -> list[str]:
    agreement, precision, recall = (rate_text(row, kind, "-") for kind in ("agreement", "precision", "recall"))
    counts = [str(count) for said in row["counts"].values() for count in said.values()]
    scores = ("balanced_accuracy", "roc_area", "threshold", "best_balanced_accuracy")
    numbers = ["-" if row[name] is None else f"{row[name]:.3f}" for name in scores]
    return [row["question"], str(row["n"]), agreement, *counts, precision, recall, *numbers]
