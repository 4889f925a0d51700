"""The page of a comparison: its table, and the pictures of each prompt side by side. It opens from disk."""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from vsf_cli.evaluation.runs import Run
from vsf_cli.media.formats import VIDEO_ENDINGS
from vsf_cli.media.html import render

__all__ = ["gallery"]


def gallery(run: Run, judge: str, rows: Sequence[Mapping[str, Any]], judged: Sequence[Any]) -> str:
    """The HTML of a run's folder. Pictures stay files beside it, and are read as they are scrolled to.

    Arguments:
        run: The run.
        judge: The judge's name.
        rows: The table, by `vsf_cli.evaluation.report.tabulate`.
        judged: The pictures with what the judge says of them.
    """
    arms = [row["arm"] for row in rows]
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for one in judged:
        record = one.picture.record
        line = lines.setdefault((record.id, one.picture.seed), {"record": record, "seed": one.picture.seed, "cells": {}})
        line["cells"][one.picture.arm] = {
            "source": quote(os.path.relpath(one.picture.path, run.folder).replace(os.sep, "/")),
            "clip": one.picture.path.suffix in VIDEO_ENDINGS,
            "positive": one.positive,
            "negative": one.negative,
            "quality": one.quality,
            "reason": one.reason,
        }
    ordered = sorted(lines.values(), key=lambda line: (line["record"].id, line["seed"]))
    categories = sorted({line["record"].category for line in ordered} - {""})
    told = {"judge": judge, "rows": rows, "arms": arms, "lines": ordered, "categories": categories}
    return render("comparison.html.j2", title=f"{run.prompts.name}, {run.preset}", **told)
