"""The paper's Table 1 from a judge's answers: rates with their intervals, and tests against VSF."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from vsf_cli.errors import RequestError
from vsf_cli.evaluation.arms import BASELINE
from vsf_cli.evaluation.judging import Answers, place_of
from vsf_cli.evaluation.runs import Picture, Run
from vsf_cli.evaluation.statistics import mcnemar, wilson_interval
from vsf_cli.media.files import write_bytes

__all__ = ["Judged", "judged_pictures", "tabulate", "write_report"]


@dataclass(frozen=True)
class Judged:
    """A picture and what the judge says of it."""

    picture: Picture
    positive: bool
    negative: bool
    quality: float
    reason: str


def judged_pictures(run: Run, judge: str, chosen: Mapping[str, Any] = MappingProxyType({})) -> tuple[str, list[Judged], int]:
    """The judge in full, the pictures of a run that it has seen as they are now, and how many it has not.

    Arguments:
        run: The run.
        judge: The judge's name.
        chosen: Which of several judges of that name: its settings, by name; None means any.

    Raises:
        RequestError: If it has seen none, or there are several such judges.
        MediaError: If answers or a picture cannot be read.
    """
    places = {place_of(picture): picture for picture in run.pictures()}
    found: dict[str, list[Judged]] = {}
    for key, answers in Answers(run, judge).read().items():
        settings = json.loads(key)
        seen = [Judged(picture, **asdict(answers[place])) for place, picture in places.items() if place in answers]
        if seen and all(settings.get(name) == value for name, value in chosen.items() if value is not None):
            # Of judges that are told by the same words, the one that was asked last.
            found[_in_words(judge, settings)] = seen
    if not found:
        raise RequestError(f"{run.folder} has no answers of judge {judge}: run 'vsf eval judge {run.folder} --judge {judge}'")
    if len(found) > 1:
        raise RequestError(f"{run.folder} has answers of {', '.join(found)}: choose one by --judge-model or --base-url")
    ((told, seen),) = found.items()
    return told, seen, len(places) - len(seen)


def _in_words(name: str, settings: Mapping[str, Any]) -> str:
    """A judge by name, model and host: an address may hold more, which a report need not tell."""
    words = [name]
    if model := settings.get("model"):
        words.append(Path(model).name if Path(model).is_dir() else model)
    if address := settings.get("base_url"):
        words.append(f"at {urlsplit(address).hostname}")
    return " ".join(words)


def tabulate(run: Run, judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """A row for each arm: over all pictures, then for each category."""
    by_arm: dict[str, list[Judged]] = {name: [] for name in run.arms}
    for one in judged:
        by_arm[one.picture.arm].append(one)
    base = by_arm.get(BASELINE, [])
    return [
        {
            "arm": name,
            "label": run.arms[name].label,
            **_rates(found),
            **_against(found, base, name),
            "categories": _parts(found),
        }
        for name, found in by_arm.items()
        if found
    ]


def _rates(found: Sequence[Judged]) -> dict[str, Any]:
    count = len(found)
    both = [one.positive and one.negative for one in found]
    kinds = {"positive": [one.positive for one in found], "negative": [one.negative for one in found], "both": both}
    rates: dict[str, Any] = {"pictures": count}
    for name, hits in kinds.items():
        rates |= {name: round(sum(hits) / count, 4), f"{name}_interval": wilson_interval(sum(hits), count)}
    return {**rates, "quality": round(sum(one.quality for one in found) / count, 4)}


def _against(found: Sequence[Judged], base: Sequence[Judged], name: str) -> dict[str, float | None]:
    """McNemar's p-values against the baseline, over the pictures that both have."""
    kinds = ("positive", "negative", "both")
    if name == BASELINE or not base:
        return {f"{kind}_p": None for kind in kinds}
    ours = {(one.picture.record.id, one.picture.seed): one for one in base}
    pairs = [(ours[key], one) for one in found if (key := (one.picture.record.id, one.picture.seed)) in ours]

    def hit(one: Judged, kind: str) -> bool:
        return one.positive and one.negative if kind == "both" else bool(getattr(one, kind))

    return {f"{kind}_p": mcnemar([hit(a, kind) for a, _ in pairs], [hit(b, kind) for _, b in pairs]) for kind in kinds}


def _parts(found: Sequence[Judged]) -> dict[str, Any]:
    names = sorted({one.picture.record.category for one in found})
    return {name: _rates([one for one in found if one.picture.record.category == name]) for name in names if name}


def markdown(run: Run, judge: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown, with its conditions."""
    told = f"Judge {judge}. " + conditions(run)
    lines = [told, "", "| method | positive | negative | both | quality | p against VSF: positive, negative, both |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        shares = " | ".join(_share(row, kind) for kind in ("positive", "negative", "both"))
        tests = ", ".join(
            "-" if row[f"{kind}_p"] is None else f"{row[f'{kind}_p']:.2g}" for kind in ("positive", "negative", "both")
        )
        lines.append(f"| {row['label']} | {shares} | {row['quality']:.3f} | {tests} |")
    categories = sorted({name for row in rows for name in row["categories"]})
    if categories:
        lines += ["", "Positive / negative by category:", "", "| category | " + " | ".join(row["label"] for row in rows) + " |"]
        lines += ["|---" * (len(rows) + 1) + "|"]
        for name in categories:
            cells = [row["categories"].get(name) for row in rows]
            shown = [f"{cell['positive']:.2f} / {cell['negative']:.2f}" if cell else "-" for cell in cells]
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _share(row: Mapping[str, Any], kind: str) -> str:
    low, high = row[f"{kind}_interval"]
    return f"{row[kind]:.3f} [{low:.2f}, {high:.2f}]"


def conditions(run: Run) -> str:
    """What the numbers of a run hold for."""
    versions = ", ".join(f"{name} {number}" for name, number in run.conditions["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in run.conditions["settings"].items())
    count = len(run.prompts.records)
    seeds = f"{run.seeds} seed{'s' if run.seeds > 1 else ''} each, 0 to {count * run.seeds - 1}"
    return f"Preset {run.preset}, {count} prompts of {run.prompts.name}, {seeds}; {settings}; {versions}."


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each arm and category; the category of all is empty."""
    numbers = ("pictures", "positive", "negative", "both", "quality")
    tests = ("positive_p", "negative_p", "both_p")
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["arm", "category", *numbers, *tests])
    for row in rows:
        writer.writerow([row["arm"], "", *(row[name] for name in numbers), *(row[name] for name in tests)])
        for category, found in row["categories"].items():
            writer.writerow([row["arm"], category, *(found[name] for name in numbers), *[""] * len(tests)])
    return buffer.getvalue()


def write_report(
    run: Run, judge: str, chosen: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[dict[str, Any]], Path, int]:
    """Writes `report-JUDGE.md`, `.csv`, `.json` and `index.html` into the folder of a run.

    Returns:
        The table, the Markdown's path, and how many pictures are not judged.

    Raises:
        RequestError: If nothing is judged, or it is not clear by which judge.
        MediaError: If a file cannot be read or written.
    """
    from vsf_cli.evaluation.gallery import gallery

    told, judged, missing = judged_pictures(run, judge, chosen)
    rows = tabulate(run, judged)
    path = run.folder / f"report-{judge}.md"
    write_bytes(path, markdown(run, told, rows).encode())
    write_bytes(path.with_suffix(".csv"), as_csv(rows).encode())
    facts = {key: run.conditions[key] for key in ("set", "sha256", "preset", "seeds", "settings", "versions")}
    whole = {"judge": told, **facts, "not_judged": missing, "rows": rows}
    write_bytes(path.with_suffix(".json"), json.dumps(whole, indent=2, ensure_ascii=False).encode())
    write_bytes(run.folder / "index.html", gallery(run, told, rows, judged).encode())
    return rows, path, missing
