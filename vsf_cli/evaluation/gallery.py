"""The page of a comparison: its table, and the images of each prompt side by side. It opens from disk."""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from vsf_cli.evaluation.runs import Run
from vsf_cli.media.formats import VIDEO_ENDINGS
from vsf_cli.media.html import render

__all__ = ["gallery"]


def gallery(run: Run, judge: str, rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], judged: Sequence[Any]) -> str:
    """Returns the HTML of a run, whose images are loaded when they are scrolled to.

    `judge` is the judge's full name, and `kinds` has the rates of the table with their names.
    """
    variants = [row["arm"] for row in rows]
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for one in judged:
        record = one.sample.record
        line = lines.setdefault((record.id, one.sample.seed), {"record": record, "seed": one.sample.seed, "cells": {}})
        line["cells"][one.sample.variant] = {
            "source": quote(os.path.relpath(one.sample.path, run.folder).replace(os.sep, "/")),
            "clip": one.sample.path.suffix in VIDEO_ENDINGS,
            "positive": one.positive,
            "negative": one.negative,
            "quality": one.quality,
            "reason": one.reason,
            "lost": None if one.rest is None else [thing for thing in one.rest if thing not in one.stayed],
        }
    ordered = sorted(lines.values(), key=lambda line: (line["record"].id, line["seed"]))
    categories = sorted({line["record"].category for line in ordered} - {""})
    data = {"judge": judge, "rows": rows, "kinds": kinds, "arms": variants, "lines": ordered, "categories": categories}
    return render("comparison.html.j2", title=f"{run.prompts.name}, {run.preset}", **data)
