"""A batch: its items, what is done of them, and its journal. Nothing is made twice."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vsf_cli.batch.engines import Engine, Watching, local
from vsf_cli.batch.items import Item, Shard
from vsf_cli.batch.journal import Journal, read_journals
from vsf_cli.batch.maker import Maker, Outcome
from vsf_cli.errors import MediaError
from vsf_cli.media.reading import check_whole, read_metadata

__all__ = ["Batch", "State"]

State = Literal["done", "failed", "left"]


@dataclass
class Batch:
    """The items of a run and their folder.

    Arguments:
        items: The items of the whole table.
        maker: Where and how they are made.
        shard: Which part of the items this run makes.
        retry_failed: Whether items that failed in an earlier run are tried again.
        engine: Who makes them.
        workers: How many workers the engine has.
        address: That of a cluster, if the engine has one.
    """

    items: Sequence[Item]
    maker: Maker
    shard: Shard = field(default_factory=Shard)
    retry_failed: bool = False
    engine: Engine = local
    workers: int = 1
    address: str | None = None

    @property
    def folder(self) -> Path:
        """Where the pictures go."""
        return self.maker.folder

    @property
    def journal(self) -> Journal:
        """The journal of this process's shard."""
        return Journal(self.folder, self.shard.suffix)

    def path(self, item: Item) -> Path:
        """The file of an item."""
        return self.folder / item.name

    def states(self) -> dict[tuple[str, str], State]:
        """The state of each item of the shard, by key: the picture decides, and the journal saves looking at it."""
        known = read_journals(self.folder) if self.folder.is_dir() else {}
        return {item.key: self._state(item, known.get(item.key, {})) for item in self.items if self.shard.holds(item)}

    def _state(self, item: Item, line: Mapping[str, Any]) -> State:
        path = self.path(item)
        if line.get("status") == "done" and path.is_file() and path.stat().st_size == line.get("bytes"):
            return "done"
        if path.exists() and _says(path, item) == item.id:
            return "done"
        return "failed" if line.get("status") == "failed" and not self.retry_failed else "left"

    def adopt(self, states: Mapping[tuple[str, str], str]) -> None:
        """Writes into the journal what is done by the pictures, but not by any journal. The lock must be held."""
        known = read_journals(self.folder)
        for item in self.items:
            if states.get(item.key) == "done" and known.get(item.key, {}).get("status") != "done":
                self._note(item, "found", None)

    def run(self, left: Sequence[Item], watching: Watching | None = None) -> Generator[Outcome, None, None]:
        """Makes items, and writes a line in the journal for each before it is yielded. The lock must be held.

        Arguments:
            left: The items to make.
            watching: What is told while it goes on.

        Raises:
            MediaError: If the folder cannot be written: then no other item can be either.
        """
        with closing(self.engine(self.maker, left, self.workers, self.address, watching or Watching())) as outcomes:
            for outcome in outcomes:
                if outcome.error is None:
                    self._note(outcome.item, outcome.how, outcome.seconds)
                else:
                    self._note_failure(outcome)
                yield outcome

    def _note(self, item: Item, how: str, seconds: float | None) -> None:
        path = self.path(item)
        took = {} if seconds is None else {"seconds": round(seconds, 3)}
        size = {"bytes": path.stat().st_size} if path.is_file() else {}
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        self.journal.add({"id": item.id, "status": "done", "path": item.name, **took, "how": how, **size, "time": now})

    def _note_failure(self, outcome: Outcome) -> None:
        item = outcome.item
        facts = {"error": outcome.error, "code": outcome.code, "seconds": round(outcome.seconds, 3), "how": outcome.how}
        self.journal.add({"id": item.id, "status": "failed", "path": item.name, **facts})


def _says(path: Path, item: Item) -> str | None:
    """The id that a file says it was made for; None if it is not whole."""
    asked = item.request
    try:
        check_whole(path, (asked.num_frames or 1) - asked.drop_frames)
        found = read_metadata(path / "0000.png" if path.is_dir() else path).description
    except MediaError:
        return None
    return found.get("item") if found else None
