"""What `vsf eval run`, `judge` and `report` do and say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vsf_cli.batch.command import carry_out
from vsf_cli.batch.items import items_of
from vsf_cli.batch.runner import Batch
from vsf_cli.errors import PartlyFailed
from vsf_cli.evaluation.arms import choose_arms, load_arms
from vsf_cli.evaluation.judges import judge_named
from vsf_cli.evaluation.judging import judge_all
from vsf_cli.evaluation.prompts import load_prompts
from vsf_cli.evaluation.report import write_report
from vsf_cli.evaluation.runs import Run, rows_of
from vsf_cli.metadata import versions
from vsf_cli.planning import runtime_of
from vsf_cli.presets import SETTINGS, Settings, load_preset
from vsf_cli.terminal import Talk

__all__ = ["judge", "report", "run"]

MACHINE = ("device", "offload", "offline")
_OTHER = (*MACHINE, "method", "preset")


def run(name: str, output: str | None, asked: Mapping[str, Any], talk: Talk) -> None:
    """Makes the pictures of a prompt set with each method.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    prompts = load_prompts(name).first(asked["limit"])
    clips = prompts.name.startswith("clips")
    preset = load_preset(asked["preset"] or Settings({}, video=clips).preset.name)
    path = Path(asked["arms"]) if asked["arms"] else None
    arms = choose_arms(load_arms(path), asked["method"], preset.name)
    folder = Path(output).expanduser() if output else Path("outputs") / f"eval-{prompts.name}-{preset.name}"

    given = {key: value for key, value in asked.items() if key in SETTINGS and key not in _OTHER and value is not None}
    deciding = {**given, "preset": preset.name}
    rows = rows_of(prompts, arms, asked["seeds"])
    items, notes = items_of(prompts.name, rows, deciding)
    settings = Settings({key: asked[key] for key in (*MACHINE, "preset") if asked.get(key)}, video=preset.video)
    first = items[0].request
    facts = {"steps": first.num_inference_steps, "dtype": first.dtype, "batch size": asked["batch_size"]}
    conditions = {"settings": {**facts, **given}, "versions": versions()}
    made = Run(folder, prompts, {arm.name: arm for arm in arms}, preset.name, asked["seeds"], conditions)
    made.write()
    for note in notes:
        talk.detail(note)
    # The rows of all that the run has, so that its table keeps what was made before.
    known = rows_of(prompts, list(Run.read(folder).arms.values()), asked["seeds"])
    if len(known) > len(rows):
        rows, (items, _) = known, items_of(prompts.name, known, deciding)
    batch = Batch(items, made.place, runtime_of(settings), batch_size=asked["batch_size"], retry_failed=True)
    carry_out(batch, rows, None, talk, asked["as_json"])
    talk.say(f"go on with: vsf eval judge {folder}")


def judge(folder: Path, name: str, options: Mapping[str, Any], talk: Talk) -> None:
    """Has the pictures of a run judged.

    Raises:
        PartlyFailed: If the judge could not answer about some.
        VSFError: If something is not legal, or fails.
    """
    found, asked = Run.read(folder), judge_named(name, options)
    failed: list[str] = []
    done = 0
    with talk.progress("judged") as (moved,):
        for picture, error in judge_all(found, asked, moved):
            done += 1
            if error is not None:
                failed.append(f"{picture.path}: {error}")
                talk.warn(failed[-1])
    talk.say(f"{done - len(failed)} pictures judged by {name}, {len(found.pictures()) - done} were before")
    if failed:
        raise PartlyFailed(f"{len(failed)} pictures were not judged: run the same command again, it asks about those alone")
    talk.say(f"go on with: vsf eval report {folder} --judge {name}")


def report(folder: Path, judge: str, talk: Talk, as_json: bool) -> None:
    """Writes the tables of a run and shows the first.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    rows, path, missing = write_report(Run.read(folder), judge)
    if missing:
        talk.warn(f"{missing} pictures are not judged, and not in the table: run 'vsf eval judge {folder}' again")
    if as_json:
        talk.data(json.dumps(rows, ensure_ascii=False))
    else:
        _show(rows)
    talk.say(f"{path}, .csv, .json, and {folder / 'index.html'}")


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("method", "positive", "negative", "both", "quality", "p of both", box=None, pad_edge=False)
    for row in rows:
        shares = [f"{row[kind]:.3f} ({row[f'{kind}_interval'][0]:.2f}-{row[f'{kind}_interval'][1]:.2f})" for kind in _KINDS]
        chance = "" if row["both_p"] is None else f"{row['both_p']:.2g}"
        table.add_row(row["label"], *shares, f"{row['quality']:.3f}", chance)
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)


_KINDS = ("positive", "negative", "both")
