"""Compares a judge with labels by people: how often they agree, and which threshold of its scores is best."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from vsf_cli.batch.records import decode_table, read_records
from vsf_cli.config.option import read_bool
from vsf_cli.errors import RequestError
from vsf_cli.evaluation.judging import judge_files
from vsf_cli.evaluation.statistics import best_threshold, rate_of, roc_area
from vsf_cli.judges.judgement import Judge, Judgement
from vsf_cli.judges.questions import Record

__all__ = ["ANSWERS", "Label", "calibrate", "judge_labels", "read_labels"]

REQUIRED, OPTIONAL = ("file", "prompt", "negative"), ("category", "question_1", "question_2")
ANSWERS = {"object": "positive", "absent": "negative"}
"""The columns of labels, which are the names of scores, too, with the fields of a `Judgement`."""
MAX_ERRORS = 5


@dataclass(frozen=True)
class Label:
    """A row of a table of labels.

    Arguments:
        path: The image or video.
        record: What the judge is asked.
        labels: What a person said, by the names in `ANSWERS`.
    """

    path: Path
    record: Record
    labels: Mapping[str, bool]


def read_labels(path: Path) -> list[Label]:
    """Returns the labels of a table.

    It has the columns file (relative to the table), prompt and negative, and object or absent with yes or no; it may have
    category, question_1 and question_2. Or it is a table of scenes, with the columns file, prompt, object (its name), part and
    label (present, absent or damaged).

    Raises:
        RequestError: If it cannot be read, lacks a column or a file, or has a label that is not legal.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    errors: list[str] = []
    rows = [(row.line, _plain(row.cells)) for row in read_records(path, decode_table(str(path), data), errors, bool)]
    columns = list(dict.fromkeys(name for _, cells in rows for name in cells))
    if not errors and not ({*REQUIRED} <= {*columns} and {*ANSWERS} & {*columns}):
        wanted = f"{', '.join(REQUIRED)}, and {' or '.join(ANSWERS)}"
        errors.append(f"its columns are {', '.join(columns) or 'none'}, but a table of labels has {wanted}")
    labels = list(_labels(path.parent, rows, errors)) if not errors else []
    if not errors and not labels:
        errors.append("it has no labels")
    if errors:
        rest = f"; and {len(errors) - MAX_ERRORS} more" if len(errors) > MAX_ERRORS else ""
        raise RequestError(f"labels {path}: {'; '.join(errors[:MAX_ERRORS])}{rest}")
    return labels


def _plain(cells: Mapping[str, Any]) -> dict[str, str]:
    """Returns the cells of a row as texts, those of a table of scenes by the names of other tables."""
    texts = {name: "" if value is None else str(value).strip() for name, value in cells.items()}
    if not {"object", "part", "label"} <= {*texts}:
        return texts
    label = {"absent": "yes", "present": "no", "damaged": "no"}.get(texts["label"], texts["label"])
    own = {"negative": texts["part"], "category": texts["object"], "absent": label}
    return {**{name: text for name, text in texts.items() if name != "object"}, **own}


def _labels(folder: Path, rows: Sequence[tuple[int, Mapping[str, str]]], errors: list[str]) -> Iterator[Label]:
    """Yields the legal rows of a table, and adds the errors of the others."""
    for line, cells in rows:
        try:
            yield _label(folder, line, cells)
        except ValueError as error:
            errors.append(f"line {line}: {error}")


def _label(folder: Path, line: int, cells: Mapping[str, str]) -> Label:
    for name in REQUIRED:
        if not cells.get(name):
            raise ValueError(f"'{name}' is empty")
    labels = {name: _yes(name, cells[name]) for name in ANSWERS if cells.get(name)}
    if not labels:
        raise ValueError(f"it has no label: write yes or no into {' or '.join(ANSWERS)}")
    path = folder / cells["file"]
    if not os.path.exists(path):
        raise ValueError(f"there is no file {path}")
    optional: dict[str, Any] = {name: cells.get(name, "") for name in OPTIONAL}
    return Label(path, Record(f"line-{line}", cells["prompt"], cells["negative"], **optional), labels)


def _yes(name: str, text: str) -> bool:
    try:
        return read_bool(text)
    except ValueError as error:
        raise ValueError(f"'{name}' is labelled '{text}', but must be yes or no") from error


def judge_labels(
    labels: Sequence[Label], judge: Judge, progress: Callable[[int, int], object] | None = None
) -> tuple[dict[int, Judgement], list[str]]:
    """Returns the judge's answers by the index of their label, and what failed.

    Raises:
        MediaError: If an image cannot be read.
        ModelError: If the model of the judge cannot be loaded.
        OutOfMemory: If memory does not suffice for a single image.
    """
    answers: dict[int, Judgement] = {}
    failed: list[str] = []
    files = [(one.path, one.record) for one in labels]
    for index, error in judge_files(judge, files, answers.__setitem__, progress):
        if error is not None:
            failed.append(f"{labels[index].path}: {error}")
    return answers, failed


def calibrate(labels: Sequence[Label], answers: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Returns a row for each question that has labels: how the answers agree with them.

    A row has `question`, `n`, `agreement`, `precision` and `recall` of yes with their intervals, `counts` by label and answer,
    and `balanced_accuracy`; and from scores `roc_area`, the `threshold` with the best balanced accuracy, and that as
    `best_balanced_accuracy`. What cannot be computed is None.
    """
    pairs = [(label.labels, answer) for label, answer in zip(labels, answers, strict=True)]
    by_name = {name: [(known[name], answer) for known, answer in pairs if name in known] for name in ANSWERS}
    return [_compared(name, own) for name, own in by_name.items() if own]


def _compared(name: str, pairs: Sequence[tuple[bool, Judgement]]) -> dict[str, Any]:
    words = {True: "yes", False: "no"}
    outcomes = [(label, bool(getattr(answer, ANSWERS[name]))) for label, answer in pairs]
    count = {(label, said): outcomes.count((label, said)) for label, said in product((True, False), repeat=2)}
    hits, misses, false, right = count.values()
    return {
        "question": name,
        "n": len(pairs),
        **rate_of("agreement", [label == said for label, said in outcomes]),
        "counts": {words[label]: {words[said]: count[label, said] for said in words} for label in words},
        **rate_of("precision", [label for label, said in outcomes if said]),
        **rate_of("recall", [said for label, said in outcomes if label]),
        "balanced_accuracy": round((hits / (hits + misses) + right / (right + false)) / 2, 4) if _both(outcomes) else None,
        **_from_scores([label for label, _ in pairs], [(answer.scores or {}).get(name) for _, answer in pairs]),
    }


def _both(outcomes: Sequence[tuple[bool, bool]]) -> bool:
    return len({label for label, _ in outcomes}) == 2


def _from_scores(labels: Sequence[bool], scores: Sequence[float | None]) -> dict[str, float | None]:
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or len({*labels}) < 2:
        return dict.fromkeys(("roc_area", "threshold", "best_balanced_accuracy"))
    threshold, accuracy = best_threshold(labels, known)
    return {"roc_area": roc_area(labels, known), "threshold": threshold, "best_balanced_accuracy": accuracy}
