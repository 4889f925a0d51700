"""Which trial of a sweep is best at a quality, and how it is run again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vsf_cli.evaluation.statistics import rate_of
from vsf_cli.evaluation.sweep import Study, Trial
from vsf_cli.media.files import write_bytes

__all__ = ["CHOSEN", "best_trial", "write_choices"]

CHOSEN = "chosen.toml"
"""The file with the best trials, which `vsf eval run --methods-file` takes."""


def best_trial(trials: Sequence[Trial], quality: float) -> dict[str, Any] | None:
    """Returns the trial that met both conditions most often, of those with a mean quality of at least `quality`.

    Of equally good ones it is that with the best quality. Its rate is that of the images that chose it, and so too high; the
    interval, Wilson's of 95 %, does not know of the choice.

    Returns:
        Its settings, its rate of both conditions with the interval, and its other rates; None if no trial is good enough.
    """
    enough = [(rates, trial) for trial in trials if (rates := _rates(trial))["quality"] >= quality]
    if not enough:
        return None
    rates, trial = max(enough, key=lambda entry: (entry[0]["both"], entry[0]["quality"]))
    return {"settings": dict(trial.settings), **rates}


def _rates(trial: Trial) -> dict[str, Any]:
    means = (round(fmean(column), 4) for column in zip(*trial.outcomes, strict=True))
    both = [bool(positive and negative) for positive, negative, _ in trial.outcomes]
    return {**rate_of("both", both), **dict(zip(("positive", "negative", "quality"), means, strict=True))}


def write_choices(studies: Mapping[str, Study], folder: Path, quality: float) -> dict[str, Any]:
    """Writes each method's best trial into a folder: `both.json`, and `chosen.toml`, a file of methods for `vsf eval run`.

    Returns:
        The best trials by method, None for a method without one, each with the number of trials that it was chosen from.

    Raises:
        MediaError: If a file cannot be written.
    """
    choices: dict[str, dict[str, Any]] = {
        name: {"trials": len(trials), "quality_at_least": quality, "best": best_trial(trials, quality)}
        for name, (_, trials) in studies.items()
    }
    tables = {name: {**one, "facts": dict(studies[name][0])} for name, one in choices.items()}
    write_bytes(folder / "both.json", json.dumps(tables, indent=1).encode())
    texts = [_table(name, studies[name][0], one["best"]["settings"]) for name, one in choices.items() if one["best"]]
    head = f"# The best trial of each method at a quality of {quality:g} or more: to be run on other prompts than these.\n"
    write_bytes(folder / CHOSEN, "\n".join([head, *texts]).encode())
    return choices


def _table(name: str, facts: Mapping[str, Any], settings: Mapping[str, float]) -> str:
    """Returns a method as a table of TOML, whose texts, numbers and switches are written as those of JSON."""
    numbers = ", ".join(f"{value:.3g}" for value in settings.values())
    fixed = {key: facts[key] for key in ("keeps", "names_kept") if key in facts}
    values = {"label": f"{facts['label'].partition(' (')[0]} ({numbers})", **fixed, **facts["settings"], **settings}
    return "".join([f"[{json.dumps(name)}]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in values.items())])
