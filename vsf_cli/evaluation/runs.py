"""A run of a prompt set: a folder with its images, its prompts and its settings. A run continues where it stopped."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from vsf_cli.batch.journal import MANIFEST
from vsf_cli.batch.table import Row
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.evaluation.prompts import PromptSet, load_prompts
from vsf_cli.evaluation.variants import Variant
from vsf_cli.judges.questions import Record
from vsf_cli.media.files import write_bytes

__all__ = ["Run", "Sample", "rows_of"]

RUN, PROMPTS, IMAGES = "run.json", "prompts.jsonl", "pictures"


@dataclass(frozen=True)
class Sample:
    """An image or video of a run; `variant` is a name, and `runs` how many images a judge looked at to choose it."""

    record: Record
    variant: str
    seed: int
    path: Path
    runs: int = 1


@dataclass(frozen=True)
class Run:
    """The folder of a run.

    Arguments:
        folder: Its path.
        prompts: The prompt set.
        variants: The variants that are compared, by name.
        preset: The name of the preset.
        seeds: The number of images of each prompt and variant.
        conditions: The other `settings`, the `judge` of the preset, and the `versions` of packages.
    """

    folder: Path
    prompts: PromptSet
    variants: Mapping[str, Variant]
    preset: str
    seeds: int
    conditions: Mapping[str, Any]

    def write(self) -> None:
        """Writes the settings of the run, or adds its variants to a run of the same prompts.

        Raises:
            RequestError: If the folder holds a run of other prompts, another preset or other seeds.
            MediaError: If it cannot be written.
        """
        path = self.folder / RUN
        variants = {name: asdict(variant) for name, variant in self.variants.items()}
        facts = {"set": self.prompts.name, "sha256": self.prompts.digest, "preset": self.preset, "seeds": self.seeds}
        facts["settings"] = dict(self.conditions["settings"])
        if path.is_file():
            known = _read_json(path)
            self._check_same(known, facts, variants)
            variants = {**known["arms"], **variants}
        write_bytes(self.folder / PROMPTS, self.prompts.to_jsonl().encode())
        noted = {"judge": self.judge, "versions": dict(self.conditions["versions"])}
        written = {**facts, **noted, "arms": variants}
        write_bytes(path, json.dumps(written, indent=2, ensure_ascii=False).encode())

    def _check_same(self, known: Mapping[str, Any], facts: Mapping[str, Any], variants: Mapping[str, Any]) -> None:
        """Checks that the run in the folder has the same prompts, preset, seeds and variants."""
        for name, value in facts.items():
            if known.get(name) != value:
                found = f"{self.folder} holds a run with {name} {known.get(name)}"
                raise RequestError(f"{found}, but {value} is asked for: choose another folder with -o")
        for name, variant in known["arms"].items():
            if name in variants and json.loads(json.dumps(variants[name]["settings"])) != variant["settings"]:
                raise RequestError(f"{self.folder} holds another '{name}': choose another folder with -o")

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Returns the run of a folder.

        Raises:
            RequestError: If the folder has no run.
        """
        if not (folder / RUN).is_file():
            raise RequestError(f"{folder} is not a run of 'vsf eval run': it has no {RUN}")
        facts = _read_json(folder / RUN)
        try:
            prompts = PromptSet(facts["set"], load_prompts(str(folder / PROMPTS)).records)
            arms = facts["arms"].items()
            variants = {name: Variant(**{**fields, "presets": tuple(fields["presets"])}) for name, fields in arms}
            run = cls(folder, prompts, variants, facts["preset"], facts["seeds"], facts)
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{folder / RUN} is not what 'vsf eval run' writes: {error!r}") from error
        if prompts.digest != facts["sha256"]:
            raise RequestError(f"{folder / PROMPTS} is another set than {RUN} names: make the run again with -o elsewhere")
        return run

    @property
    def image_folder(self) -> Path:
        """The folder of the images, a run of `vsf batch`."""
        return self.folder / IMAGES

    @property
    def judge(self) -> str:
        """The name of its preset's judge; `scenes` in runs of version 0.1.0, which did not note it."""
        return str(self.conditions.get("judge", "scenes"))

    def samples(self) -> list[Sample]:
        """Returns the images that were made, by the run's table, without those that failed.

        Raises:
            MediaError: If the table cannot be read.
            RequestError: If none was made.
        """
        path = self.image_folder / f"{MANIFEST}.csv"
        records = {record.id: record for record in self.prompts.records}
        try:
            with path.open(encoding="utf-8", newline="") as file:
                samples = [
                    Sample(
                        records[row["record"]],
                        row["arm"],
                        int(row["seed"]),
                        self.image_folder / row["file"],
                        int(row.get("runs") or 1),
                    )
                    for row in csv.DictReader(file)
                    if row["status"] == "done"
                ]
        except (OSError, KeyError, ValueError) as error:
            raise MediaError(f"{path} cannot be read ({error}): run 'vsf eval run' again, it goes on") from error
        if not samples:
            raise RequestError(f"{self.folder} has no images: run 'vsf eval run' again, it goes on")
        return samples


def rows_of(prompts: PromptSet, variants: Sequence[Variant], seeds: int) -> list[Row]:
    """Returns the rows of a run's table by variant, then seed, then prompt, so that rows of one batch are neighbours.

    The k-th image of the n-th prompt has the seed n + k times the number of prompts: all images of a variant have different
    noise, and the same image of two variants has the same.
    """
    rows = []
    for variant, turn, (number, record) in product(variants, range(seeds), enumerate(prompts.records)):
        cells = {"record": record.id, "arm": variant.name, "category": record.category}
        cells |= {"prompt": record.prompt, "negative": record.negative}
        seed, name = number + turn * len(prompts.records), f"{variant.name}/{record.id}-{turn}"
        own = variant.texts(record)
        texts = own.prompt, own.negative, own.keep
        rows.append(Row(number + 1, *texts, (seed,), variant.settings, name=name, cells=cells))
    return rows


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise RequestError(f"{path} is not what 'vsf eval run' writes")
    return facts
