"""A run of a prompt set: a folder with its pictures, its prompts, and what it was asked for. It goes on where it stopped."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vsf_cli.batch.journal import MANIFEST
from vsf_cli.batch.table import Row
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.evaluation.arms import Arm
from vsf_cli.evaluation.prompts import PromptSet, Record, load_prompts
from vsf_cli.media.files import write_bytes

__all__ = ["Picture", "Run", "rows_of"]

RUN, PROMPTS, PICTURES = "run.json", "prompts.jsonl", "pictures"


@dataclass(frozen=True)
class Picture:
    """A picture, or clip, of a run.

    Arguments:
        record: The prompt.
        arm: The name of the arm.
        seed: Its seed.
        path: Its file.
    """

    record: Record
    arm: str
    seed: int
    path: Path


@dataclass(frozen=True)
class Run:
    """The folder of a run.

    Arguments:
        folder: The folder.
        prompts: The prompt set.
        arms: What is compared, by name.
        preset: The preset's name.
        seeds: How many pictures there are of each prompt and arm.
        conditions: What else was asked: settings, versions.
    """

    folder: Path
    prompts: PromptSet
    arms: Mapping[str, Arm]
    preset: str
    seeds: int
    conditions: Mapping[str, Any]

    def write(self) -> None:
        """Writes what was asked for, or adds the arms to a run of the same prompts.

        Raises:
            RequestError: If the folder holds a run of other prompts, another preset or other seeds.
            MediaError: If it cannot be written.
        """
        path = self.folder / RUN
        arms = {name: asdict(arm) for name, arm in self.arms.items()}
        facts = {"set": self.prompts.name, "sha256": self.prompts.digest, "preset": self.preset, "seeds": self.seeds}
        facts["settings"] = dict(self.conditions["settings"])
        if path.is_file():
            known = _read_json(path)
            for name, value in facts.items():
                if known.get(name) != value:
                    raise RequestError(
                        f"{self.folder} holds a run with {name} {known.get(name)}, but {value} is asked for:"
                        " choose another folder with -o"
                    )
            for name, arm in known["arms"].items():
                if name in arms and json.loads(json.dumps(arms[name]["settings"])) != arm["settings"]:
                    raise RequestError(f"{self.folder} holds another '{name}': choose another folder with -o")
            arms = {**known["arms"], **arms}
        write_bytes(self.folder / PROMPTS, self.prompts.to_jsonl().encode())
        written = {**facts, "versions": dict(self.conditions["versions"]), "arms": arms}
        write_bytes(path, json.dumps(written, indent=2, ensure_ascii=False).encode())

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """The run of a folder.

        Raises:
            RequestError: If it is none.
        """
        if not (folder / RUN).is_file():
            raise RequestError(f"{folder} is no run of 'vsf eval run': it has no {RUN}")
        found = _read_json(folder / RUN)
        try:
            prompts = PromptSet(found["set"], load_prompts(str(folder / PROMPTS)).records)
            arms = {name: Arm(**{**arm, "presets": tuple(arm["presets"])}) for name, arm in found["arms"].items()}
            run = cls(folder, prompts, arms, found["preset"], found["seeds"], found)
        except (KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{folder / RUN} is not what 'vsf eval run' writes: {error!r}") from error
        if prompts.digest != found["sha256"]:
            raise RequestError(f"{folder / PROMPTS} is another set than {RUN} names: make the run again with -o elsewhere")
        return run

    @property
    def place(self) -> Path:
        """The folder of the pictures, which `vsf batch` could go on with."""
        return self.folder / PICTURES

    def pictures(self) -> list[Picture]:
        """The pictures that were made, by the run's table; those that failed are left out.

        Raises:
            MediaError: If the table cannot be read.
        """
        path = self.place / f"{MANIFEST}.csv"
        records = {record.id: record for record in self.prompts.records}
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
            return [Picture(records[row["record"]], row["arm"], int(row["seed"]), self.place / row["file"]) for row in rows]
        except (OSError, KeyError, ValueError) as error:
            raise MediaError(f"{path} cannot be read ({error}): run 'vsf eval run' again, it goes on") from error


def rows_of(prompts: PromptSet, arms: Sequence[Arm], seeds: int) -> list[Row]:
    """The rows of a run's table: each arm, then each seed, then each prompt, so that what is alike stands together.

    The k-th picture of the n-th prompt has the seed n + k times the number of prompts: no two pictures of an arm have the same
    noise, and the same picture of two arms has.
    """
    count = len(prompts.records)
    return [
        Row(
            line=number + 1,
            prompt=record.prompt,
            negative=(record.negative,),
            seeds=(number + turn * count,),
            settings=arm.settings,
            name=f"{arm.name}/{record.id}-{turn}",
            cells={"record": record.id, "arm": arm.name, "category": record.category, "prompt": record.prompt}
            | {"negative": record.negative},
        )
        for arm in arms
        for turn in range(seeds)
        for number, record in enumerate(prompts.records)
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RequestError(f"{path} is not what 'vsf eval run' writes")
    return found
