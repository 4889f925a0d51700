"""Reports a judge's answers as the paper's Table 1: rates with their intervals, and tests against VSF."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from vsf_cli.config.names import counted
from vsf_cli.errors import RequestError
from vsf_cli.evaluation.judging import Answers, answer_key
from vsf_cli.evaluation.runs import Run, Sample
from vsf_cli.evaluation.statistics import mcnemar, rate_of
from vsf_cli.evaluation.variants import BASELINE
from vsf_cli.judges.judgement import EVEN
from vsf_cli.media.files import write_bytes

__all__ = [
    "CONDITIONS",
    "NAMES",
    "Judged",
    "full_name",
    "judged_samples",
    "rate_text",
    "shown_kinds",
    "tabulate",
    "with_rest",
    "write_report",
]

CONDITIONS = ("positive", "negative", "both")
NAMES = {"positive": "object right", "negative": "part absent", "both": "both", "rest": "rest kept", "all": "all three"}
"""The conditions, and the two more rates, as readers see them."""
UNGUIDED = "none"
"""The variant whose images show what there was to keep."""


@dataclass(frozen=True)
class Judged:
    """An image or video with the judge's answer.

    Arguments:
        sample: The image or video.
        positive, negative, quality, reason, kept, scores: As in `vsf_cli.evaluation.judging.Judgement`.
        rest: Which of the things that must stay the unguided image of the same seed shows; None if that is not known.
    """

    sample: Sample
    positive: bool
    negative: bool
    quality: float
    reason: str
    kept: tuple[str, ...] | None = None
    scores: Mapping[str, float] | None = None
    rest: tuple[str, ...] | None = None

    @property
    def pair(self) -> tuple[str, int]:
        """The record and the seed, which are the same for images of other variants with the same noise."""
        return self.sample.record.id, self.sample.seed

    @property
    def stayed(self) -> tuple[str, ...]:
        """The things of the rest that the image shows."""
        return tuple(thing for thing in self.rest or () if thing in (self.kept or ()))

    def meets(self, condition: str) -> bool:
        """Returns whether the answer meets one of `CONDITIONS`, or "all": both, and all of the rest stayed."""
        if condition in ("both", "all"):
            return self.positive and self.negative and (condition == "both" or self.stayed == self.rest)
        return bool(getattr(self, condition))


def with_rest(judged: Sequence[Judged]) -> list[Judged]:
    """Returns the answers with the rest, by the unguided images of the run."""
    unguided = {one.pair: one.kept for one in judged if one.sample.variant == UNGUIDED}
    return [replace(one, rest=None if one.kept is None else unguided.get(one.pair)) for one in judged]


def judged_samples(run: Run, judge: str, chosen: Mapping[str, Any] = MappingProxyType({})) -> tuple[str, list[Judged], int]:
    """Returns the judge's full name, the judged images of a run, and the number of images that are not judged.

    An image that changed since it was judged counts as not judged. `chosen` has the settings of one of several judges of that
    name; a value of None matches any.

    Raises:
        RequestError: If no image is judged, or several judges match.
        MediaError: If answers or an image cannot be read.
    """
    samples = {answer_key(sample): sample for sample in run.samples()}
    by_judge: dict[str, list[Judged]] = {}
    others: list[str] = []
    for settings_key, answers in Answers(run, judge).read().items():
        settings = json.loads(settings_key)
        judged = [Judged(sample, **asdict(answers[key])) for key, sample in samples.items() if key in answers]
        if judged and all(settings.get(name) == value for name, value in chosen.items() if value is not None):
            # If judges have the same full name, the one that was used last counts.
            by_judge[full_name(judge, settings)] = judged
        elif judged:
            others.append(full_name(judge, settings))
    if not by_judge:
        raise _no_answers(run, judge, chosen, others)
    if len(by_judge) > 1:
        choices = "--judge-model, --base-url or --judge-threshold"
        raise RequestError(f"{run.folder} has answers of {', '.join(by_judge)}: choose one by {choices}")
    ((name, judged),) = by_judge.items()
    return name, with_rest(judged), len(samples) - len(judged)


def _no_answers(run: Run, judge: str, chosen: Mapping[str, Any], others: Sequence[str]) -> RequestError:
    """Returns the error that a run has no answers of a chosen judge; `others` are those of that name that it has."""
    if not others:
        return RequestError(f"{run.folder} has no answers of judge {judge}: run 'vsf eval judge {run.folder} --judge {judge}'")
    wanted = " and ".join(str(value) for value in chosen.values() if value is not None)
    there = f"{run.folder} has no answers of {wanted}, but of {', '.join(dict.fromkeys(others))}"
    return RequestError(f"{there}: choose one of these by --judge-model, --base-url or --judge-threshold")


def full_name(name: str, settings: Mapping[str, Any]) -> str:
    """Returns a judge's name, model, threshold and host; the rest of its address may be private."""
    words = [name]
    if model := settings.get("model"):
        words.append(Path(model).name if os.path.isdir(model) else model)
    if (threshold := settings.get("threshold", EVEN)) != EVEN:
        words.append(f"with threshold {threshold:g}")
    if address := settings.get("base_url"):
        words.append(f"at {urlsplit(address).hostname}")
    return " ".join(words)


def tabulate(run: Run, judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Returns a row for each variant, with rates over all images and by category."""
    by_variant: dict[str, list[Judged]] = {name: [] for name in run.variants}
    for one in judged:
        by_variant[one.sample.variant].append(one)
    base = by_variant.get(BASELINE, [])
    return [
        {
            "arm": name,
            "label": run.variants[name].label,
            **_rates(answers),
            **_rest(answers),
            **_p_values(answers, base, name),
            "runs": round(sum(one.sample.runs for one in answers) / len(answers), 3),
            "categories": _rates_by_category(answers),
        }
        for name, answers in by_variant.items()
        if answers
    ]


def _rates(answers: Sequence[Judged]) -> dict[str, Any]:
    """Returns the rates of all conditions with their intervals, and the mean quality."""
    rates: dict[str, Any] = {"pictures": len(answers)}
    for condition in CONDITIONS:
        rates |= rate_of(condition, [one.meets(condition) for one in answers])
    return {**rates, "quality": round(sum(one.quality for one in answers) / len(answers), 4)}


def _rest(answers: Sequence[Judged]) -> dict[str, Any]:
    """Returns how much of the rest stayed, which is called specificity, and the rate of images that meet all three conditions.

    The numbers are None if the judge was not asked about the rest, or the run has no unguided images.
    """
    asked = [one for one in answers if one.rest is not None]
    stayed = [thing in one.stayed for one in asked for thing in one.rest or ()]
    return {
        **rate_of("rest", stayed),
        "things": len(stayed),
        **rate_of("all", [one.meets("all") for one in asked] if stayed else []),
    }


def _p_values(answers: Sequence[Judged], base: Sequence[Judged], name: str) -> dict[str, float | None]:
    """Returns McNemar's p-values against the baseline, over the images that both have."""
    ours = {one.pair: one for one in base}
    pairs = [(ours[one.pair], one) for one in answers if one.pair in ours]
    values: dict[str, float | None] = {}
    for kind in (*CONDITIONS, "all"):
        known = [(a, b) for a, b in pairs if kind != "all" or (a.rest is not None and b.rest is not None)]
        same = name == BASELINE or not known
        values[f"{kind}_p"] = None if same else mcnemar([a.meets(kind) for a, _ in known], [b.meets(kind) for _, b in known])
    return values


def _rates_by_category(answers: Sequence[Judged]) -> dict[str, Any]:
    names = sorted({one.sample.record.category for one in answers})
    return {name: _rates([one for one in answers if one.sample.record.category == name]) for name in names if name}


def shown_kinds(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the rates of a table, each with its name for readers; the rest only if there are numbers of it."""
    asked = any(row["rest"] is not None for row in rows)
    return {kind: name for kind, name in NAMES.items() if asked or kind in CONDITIONS}


def _markdown(run: Run, judge: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"Judge {judge}. {_describe_conditions(run)}", ""]
    kinds = shown_kinds(rows)
    names = " | ".join(kinds.values())
    tested = ", ".join(name for kind, name in kinds.items() if kind != "rest")
    costs = any(row["runs"] > 1 for row in rows)
    lines += [f"| method | {names} | quality | p against VSF: {tested} |{' runs |' * costs}"]
    lines += ["|---" * (len(kinds) + 3 + costs) + "|"]
    for row in rows:
        rates = " | ".join(_rate(row, kind) for kind in kinds)
        tests = ", ".join("-" if row[f"{kind}_p"] is None else f"{row[f'{kind}_p']:.2g}" for kind in kinds if kind != "rest")
        runs = f" {row['runs']:.2f} |" if costs else ""
        lines.append(f"| {row['label']} | {rates} | {row['quality']:.3f} | {tests} |{runs}")
    return "\n".join([*lines, *_category_lines(rows)]) + "\n"


def _category_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    categories = sorted({name for row in rows for name in row["categories"]})
    if not categories:
        return []
    lines = [
        "",
        "Object right / part absent by category:",
        "",
        "| category | " + " | ".join(row["label"] for row in rows) + " |",
    ]
    lines += ["|---" * (len(rows) + 1) + "|"]
    for name in categories:
        cells = [row["categories"].get(name) for row in rows]
        rates = [f"{cell['positive']:.2f} / {cell['negative']:.2f}" if cell else "-" for cell in cells]
        lines.append(f"| {name} | {' | '.join(rates)} |")
    return lines


def rate_text(row: Mapping[str, Any], kind: str, unknown: str = "") -> str:
    """Returns a rate of a row with its interval for a terminal."""
    return unknown if row[kind] is None else "{:.3f} ({:.2f}-{:.2f})".format(row[kind], *row[f"{kind}_interval"])


def _rate(row: Mapping[str, Any], kind: str) -> str:
    if row[kind] is None:
        return "-"
    low, high = row[f"{kind}_interval"]
    return f"{row[kind]:.3f} [{low:.2f}, {high:.2f}]"


def _describe_conditions(run: Run) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in run.conditions["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in run.conditions["settings"].items())
    count = len(run.prompts.records)
    seeds = f"{counted(run.seeds, 'seed')} each, 0 to {count * run.seeds - 1}"
    return f"Preset {run.preset}, {counted(count, 'prompt')} of {run.prompts.name}, {seeds}; {settings}; {versions}."


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table as CSV, a line for each variant and category; the category of the whole set is empty."""
    numbers = "pictures", *CONDITIONS, "quality"
    tests = *(f"{condition}_p" for condition in CONDITIONS), "rest", "things", "all", "all_p"
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["arm", "category", *numbers, *tests])
    for row in rows:
        writer.writerow([row["arm"], "", *(row[name] for name in numbers), *(row[name] for name in tests)])
        for category, rates in row["categories"].items():
            writer.writerow([row["arm"], category, *(rates[name] for name in numbers), *[""] * len(tests)])
    return buffer.getvalue()


def write_report(
    run: Run, judge: str, chosen: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[dict[str, Any]], Path, int]:
    """Writes `report-JUDGE.md`, `.csv`, `.json` and `index.html` into the folder of a run.

    Returns:
        The table, the path of the Markdown file, and the number of images that are not judged.

    Raises:
        RequestError: If no image is judged, or several judges match.
        MediaError: If a file cannot be read or written.
    """
    from vsf_cli.evaluation.gallery import gallery

    judge_name, judged, missing = judged_samples(run, judge, chosen)
    rows = tabulate(run, judged)
    path = run.folder / f"report-{judge}.md"
    write_bytes(path, _markdown(run, judge_name, rows).encode())
    write_bytes(path.with_suffix(".csv"), _csv(rows).encode())
    facts = {key: run.conditions[key] for key in ("set", "sha256", "preset", "seeds", "settings", "versions")}
    report = {"judge": judge_name, **facts, "not_judged": missing, "rows": rows}
    write_bytes(path.with_suffix(".json"), json.dumps(report, indent=2, ensure_ascii=False).encode())
    write_bytes(run.folder / "index.html", gallery(run, judge_name, rows, shown_kinds(rows), judged).encode())
    return rows, path, missing
