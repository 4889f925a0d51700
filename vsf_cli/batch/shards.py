"""Parts of a run that machines share, and how the tasks of a SLURM array are told theirs."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vsf_cli.batch.items import Item
from vsf_cli.batch.journal import MANIFEST
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.files import write_bytes

__all__ = ["Shard"]

ARRAY = f"{MANIFEST}-array.json"
"""The file of a run that remembers its array: part of it may be submitted again."""
ADVICE = "give the number of parts, as --shard auto/8 (of tasks 1 to 8, or 0 to 7), or --shard I/N"


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a run, chosen by the ids of the items; `number` counts from 1, and 1/1 is the whole run.

    `array` is the SLURM array whose tasks have the parts: its first index, and its step; None if no array told the part.
    """

    number: int = 1
    count: int = 1
    array: tuple[int, int] | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> "Shard":
        """Returns a shard from `I/N`; `auto` and `auto/N` read the variables of a SLURM array.

        A run's folder remembers its array, so that tasks of it that are submitted again have the parts that they had.

        Raises:
            ValueError: If it cannot be parsed.
            RequestError: If there is no such part, or the array does not tell it.
        """
        if text is None:
            return cls()
        number, slash, count = (part.strip() for part in text.partition("/"))
        if slash and not count.isdigit():
            raise ValueError(f"'{text}' is no shard: write 2/5 for the second of five, auto, or auto/5")
        if number == "auto":
            return cls._of_slurm(os.environ if environment is None else environment, int(count) if slash else None, folder)
        if not slash or not number.isdigit():
            raise ValueError(f"'{text}' is no shard: write 2/5 for the second of five, auto, or auto/5")
        return cls(int(number), int(count))

    @classmethod
    def _of_slurm(cls, variables: Mapping[str, str], count: int | None, folder: Path | None) -> "Shard":
        try:
            index = int(variables["SLURM_ARRAY_TASK_ID"])
            first, step, tasks = (int(variables.get(f"SLURM_ARRAY_TASK_{name}", "1")) for name in ("MIN", "STEP", "COUNT"))
            last = int(variables.get("SLURM_ARRAY_TASK_MAX", first + (tasks - 1) * step))
        except (KeyError, ValueError) as error:
            raise RequestError("--shard auto finds no SLURM array: set SLURM_ARRAY_TASK_ID, or give --shard I/N") from error
        known, journals = _remembered(folder), _counts_of_journals(folder)
        if known is not None and count in (None, known[0]) and tasks <= known[0]:
            count, first, step = known
        elif count is not None:
            # Tasks count from 1, unless one of them is 0.
            first, step = (0 if first == 0 else 1), 1
        elif known is None and _is_whole(first, last, step, tasks) and journals <= {tasks}:
            count = tasks
        else:
            raise RequestError(f"--shard auto cannot tell of how many parts tasks {first} to {last} are some: {ADVICE}")
        number, rest = divmod(index - first, max(step, 1))
        if rest or not 0 <= number < count:
            raise RequestError(f"--shard auto: task {index} is none of the {count} from {first} in steps of {step}: {ADVICE}")
        return cls(number + 1, count, (first, step))

    def __post_init__(self) -> None:
        number, count = self.number, self.count
        if not 1 <= number <= count:
            raise RequestError(f"--shard is {number}/{count}, but must be one of 1/{count} to {count}/{count}")

    def holds(self, item: Item) -> bool:
        """Returns whether an item belongs to it."""
        return int(item.id, 16) % self.count == self.number - 1

    @property
    def suffix(self) -> str:
        """The suffix of the names of its own files; "" if it is the whole run."""
        return "" if self.count == 1 else f"-{self.number}of{self.count}"

    def remember(self, folder: Path) -> None:
        """Writes the array of a shard that was told by one into the folder of its run; may raise a `MediaError`."""
        if self.array is not None:
            first, step = self.array
            write_bytes(folder / ARRAY, json.dumps({"count": self.count, "first": first, "step": step}).encode())


def _is_whole(first: int, last: int, step: int, tasks: int) -> bool:
    """Returns whether an array looks like a whole one: without gaps, and not of one task that others come before."""
    return tasks == (last - first) // max(step, 1) + 1 and (tasks > 1 or first in (0, 1))


def _counts_of_journals(folder: Path | None) -> set[int]:
    """Returns of how many parts the journals of a run are."""
    paths = folder.glob(f"{MANIFEST}-*of*.jsonl") if folder else ()
    return {int(match[1]) for path in paths if (match := re.search(r"of(\d+)$", path.stem))}


def _remembered(folder: Path | None) -> tuple[int, int, int] | None:
    """Returns the number of tasks, the first index and the step of the array that a run was shared by."""
    try:
        facts = json.loads((folder / ARRAY).read_text("utf-8")) if folder else None
        return None if facts is None else (int(facts["count"]), int(facts["first"]), max(1, int(facts["step"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{folder}/{ARRAY} cannot be read: remove it, and give --shard I/N") from error
