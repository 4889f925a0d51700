"""A batch: its items, their states, and its journal."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from vsf_cli.batch.chosen import chosen_facts
from vsf_cli.batch.engines import Engine, local
from vsf_cli.batch.items import Item
from vsf_cli.batch.journal import Journal, read_journals
from vsf_cli.batch.shards import Shard
from vsf_cli.batch.worker import Outcome, RunHooks, Worker
from vsf_cli.config.names import counted
from vsf_cli.errors import MediaError, ModelError, OutOfMemory
from vsf_cli.generation.capture import PAGE, maps_folder
from vsf_cli.generation.run import sidecar_of, write_sidecar
from vsf_cli.media.reading import check_whole, read_metadata

__all__ = ["OF_MACHINE", "Batch", "State"]

State = Literal["done", "failed", "left"]
NOTHING: Mapping[str, Any] = MappingProxyType({})
OF_MACHINE = (ModelError.exit_code, OutOfMemory.exit_code)
"""The codes of failures for want of a network, a model or memory, which another time or machine may have."""


@dataclass
class Batch:
    """The items of a whole table, and how the part in `shard` is made.

    `retry_failed` is whether items that failed in an earlier run are tried again; `workers` and `address` are for the engine.
    `method_of` returns the method by which an item is counted in the summary.
    """

    items: Sequence[Item]
    worker: Worker
    shard: Shard = field(default_factory=Shard)
    retry_failed: bool = False
    engine: Engine = local
    workers: int = 1
    address: str | None = None
    method_of: Callable[[Item], str] = field(default=lambda item: item.request.method)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.worker.folder

    @property
    def noun(self) -> str:
        """What it makes: "image", "video", or "file" for both."""
        videos = {item.request.num_frames is not None for item in self.items}
        return "file" if len(videos) > 1 else "video" if True in videos else "image"

    @property
    def no_items(self) -> str:
        """What is said if the shard has none of the items."""
        return f"shard {self.shard.number}/{self.shard.count} has none of {counted(len(self.items), self.noun)}"

    @property
    def journal(self) -> Journal:
        """The journal of this process's shard."""
        return Journal(self.folder, self.shard.suffix)

    def path(self, item: Item) -> Path:
        return self.folder / item.name

    def states(self) -> dict[tuple[str, str], State]:
        """Returns the state of each item of the shard, by key: its file decides, and the journal saves reading the file."""
        known = read_journals(self.folder) if self.folder.is_dir() else {}
        return {item.key: self._state(item, known.get(item.key, {})) for item in self.items if self.shard.holds(item)}

    def _state(self, item: Item, line: Mapping[str, Any]) -> State:
        path = self.path(item)
        # Maps are recorded while an image is made, so that one without them has to be made again.
        if not self.worker.dump_attn or (maps_folder(path) / PAGE).exists():
            if line.get("status") == "done" and path.is_file() and path.stat().st_size == line.get("bytes"):
                return "done"
            if path.exists() and _stored_id(path, item) == item.id:
                return "done"
        failed = line.get("status") == "failed" and line.get("code") not in OF_MACHINE
        return "failed" if failed and not self.retry_failed else "left"

    def adopt(self, states: Mapping[tuple[str, str], str]) -> None:
        """Adds items to the journal whose files are complete, but which no journal has as done, and writes missing sidecars.

        The lock must be held.
        """
        known = read_journals(self.folder)
        for item in (item for item in self.items if states.get(item.key) == "done"):
            if known.get(item.key, {}).get("status") != "done":
                chosen = chosen_facts(_metadata(self.path(item)) or {}) if item.request.chooses else NOTHING
                self._note(item, "found", None, chosen)
            if self.worker.sidecar and not sidecar_of(self.path(item)).exists():
                write_sidecar(self.path(item), _metadata(self.path(item)) or {})

    def run(self, left: Sequence[Item], hooks: RunHooks | None = None) -> Generator[Outcome, None, None]:
        """Makes items, and writes a line in the journal for each before its outcome is yielded. The lock must be held.

        Raises:
            MediaError: If the folder cannot be written: then no other item can be either.
        """
        with closing(self.engine(self.worker, left, self.workers, self.address, hooks or RunHooks())) as outcomes:
            for outcome in outcomes:
                if outcome.error is None:
                    self._note(outcome.item, outcome.fallback, outcome.seconds, outcome.chosen)
                else:
                    self._note_failure(outcome)
                yield outcome

    def _note(self, item: Item, fallback: str, seconds: float | None, chosen: Mapping[str, Any] = NOTHING) -> None:
        path = self.path(item)
        took = {} if seconds is None else {"seconds": round(seconds, 3)}
        size = {"bytes": path.stat().st_size} if path.is_file() else {}
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        facts = {**took, "how": fallback, **size, "time": now, **({"chosen": dict(chosen)} if chosen else {})}
        self.journal.add({"id": item.id, "status": "done", "path": item.name, **facts})

    def _note_failure(self, outcome: Outcome) -> None:
        item = outcome.item
        facts = {"error": outcome.error, "code": outcome.code, "seconds": round(outcome.seconds, 3), "how": outcome.fallback}
        self.journal.add({"id": item.id, "status": "failed", "path": item.name, **facts})


def _stored_id(path: Path, item: Item) -> str | None:
    """Returns the id in the metadata of an item's file; None if the file is not complete."""
    request = item.request
    try:
        check_whole(path, (request.num_frames or 1) - request.drop_frames)
        metadata = _metadata(path)
    except MediaError:
        return None
    return metadata.get("item") if metadata else None


def _metadata(path: Path) -> dict[str, Any] | None:
    return read_metadata(path / "0000.png" if path.is_dir() else path).description
