"""Runs the items of a batch: each model is loaded once, each picture is written when it is made, and nothing is made twice."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from vsf_cli.batch.items import Item, Shard
from vsf_cli.batch.journal import Journal, read_journals
from vsf_cli.encoder_cache import caching_encoders
from vsf_cli.errors import MediaError, OutOfMemory, VSFError
from vsf_cli.generate import Progress, Result, alike, generate_together
from vsf_cli.media import read_metadata, write_bytes, write_frames
from vsf_cli.pipelines import OFFLOADS, Runtime
from vsf_cli.run import advising, describe_result, encode_result, load_for

__all__ = ["Batch", "Outcome", "State"]

State = Literal["done", "failed", "left"]


@dataclass(frozen=True)
class Outcome:
    """What came of an item.

    Arguments:
        item: The item.
        error: What failed; None if it was made.
        seconds: The time it took.
        result: The picture; None if it failed.
    """

    item: Item
    error: str | None
    seconds: float
    result: Result | None = None


@dataclass
class Batch:
    """The items of a run and their folder.

    Arguments:
        items: The items of the whole table.
        folder: Where the pictures go.
        runtime: Where and how the models run.
        shard: Which part of the items this process makes.
        batch_size: How many pictures are made in one pass through the model.
        retry_failed: Whether items that failed in an earlier run are tried again.
        crf: The constant rate factor of clips; None means the format's own.
    """

    items: Sequence[Item]
    folder: Path
    runtime: Runtime = field(default_factory=Runtime)
    shard: Shard = field(default_factory=Shard)
    batch_size: int = 1
    retry_failed: bool = False
    crf: int | None = None

    @property
    def journal(self) -> Journal:
        """The journal of this process's shard."""
        return Journal(self.folder, self.shard.suffix)

    def path(self, item: Item) -> Path:
        """The file of an item."""
        return self.folder / item.name

    def states(self) -> dict[str, State]:
        """The state of each item of the shard, by id: the picture decides, and the journal saves looking at it."""
        known = read_journals(self.folder) if self.folder.is_dir() else {}
        return {item.id: self._state(item, known.get(item.id, {})) for item in self.items if self.shard.holds(item)}

    def _state(self, item: Item, line: Mapping[str, Any]) -> State:
        path = self.path(item)
        if line.get("status") == "done" and path.is_file() and path.stat().st_size == line.get("bytes"):
            return "done"
        if path.exists() and _says(path) == item.id:
            return "done"
        return "failed" if line.get("status") == "failed" and not self.retry_failed else "left"

    def adopt(self, states: Mapping[str, str]) -> None:
        """Writes into the journal what is done by the pictures, but not by any journal. The lock must be held."""
        known = read_journals(self.folder)
        for item in self.items:
            if states.get(item.id) == "done" and known.get(item.id, {}).get("status") != "done":
                self._note(item, "found", None)

    def run(
        self,
        left: Sequence[Item],
        stopping: Callable[[], bool] = lambda: False,
        loading: Callable[[Item], Any] = lambda _: None,
        progress: Progress | None = None,
    ) -> Iterator[Outcome]:
        """Makes items, and writes each and its line in the journal before it is yielded. The lock must be held.

        Arguments:
            left: The items to make.
            stopping: Asked before each pass through a model; once true, nothing more is begun.
            loading: Told the first item of each model before it is loaded.
            progress: Told of every step.

        Raises:
            MediaError: If the folder cannot be written: then no other item can be either.
        """
        ordered = sorted(left, key=lambda item: item.load_key)
        for _, group in groupby(ordered, key=lambda item: item.load_key):
            items = list(group)
            if stopping():
                return
            loading(items[0])
            yield from self._with_model(items, self.runtime, stopping, progress)

    def _with_model(
        self, items: list[Item], runtime: Runtime, stopping: Callable[[], bool], progress: Progress | None, how: str = ""
    ) -> Iterator[Outcome]:
        """Makes items that share a model; those that do not fit into memory at the end with the next level of offloading."""
        try:
            pipe = load_for(items[0].request, runtime)
        except VSFError as error:
            yield from (self._failed(item, error, 0.0, how) for item in items)
            return
        too_large: list[tuple[Item, VSFError]] = []
        with ExitStack() as stack:
            stack.enter_context(caching_encoders(pipe))
            for chunk in self._chunks(items):
                if stopping():
                    return
                yield from self._together(pipe, chunk, progress, too_large, how)
        del pipe
        if not too_large:
            return
        after = _next_offload(runtime)
        if after is None:
            yield from (self._failed(item, error, 0.0, how) for item, error in too_large)
            return
        yield from self._with_model([item for item, _ in too_large], after, stopping, progress, f"offload {after.offload}")

    def _chunks(self, items: list[Item]) -> Iterator[list[Item]]:
        chunk: list[Item] = []
        for item in items:
            if chunk and (len(chunk) >= self.batch_size or not alike(chunk[0].request, item.request)):
                yield chunk
                chunk = []
            chunk.append(item)
        if chunk:
            yield chunk

    def _together(
        self, pipe: Any, chunk: list[Item], progress: Progress | None, too_large: list[tuple[Item, VSFError]], how: str
    ) -> Iterator[Outcome]:
        """Makes items in one pass; one after the other if that fails, so that one cannot take others with it."""
        started = time.monotonic()
        try:
            with advising(pipe):
                results = generate_together(
                    pipe, [item.request for item in chunk], progress, cache_text=self.runtime.cache_text
                )
        except VSFError as error:
            if len(chunk) > 1:
                for item in chunk:
                    yield from self._together(pipe, [item], progress, too_large, f"{how} alone".strip())
            elif isinstance(error, OutOfMemory):
                too_large.append((chunk[0], error))
            else:
                yield self._failed(chunk[0], error, time.monotonic() - started, how)
            return
        for item, result in zip(chunk, results, strict=True):
            yield self._made(pipe, item, result, how)

    def _made(self, pipe: Any, item: Item, result: Result, how: str) -> Outcome:
        started = time.monotonic()
        path = self.path(item)
        told = describe_result(pipe, result, **item.model, item=item.id)
        if path.suffix:
            write_bytes(path, encode_result(result, _format_of(path), told, self.crf))
        else:
            write_frames(path, result.frames, told)
        seconds = result.seconds + time.monotonic() - started
        self._note(item, how, seconds)
        return Outcome(item, None, seconds, result)

    def _note(self, item: Item, how: str, seconds: float | None) -> None:
        path = self.path(item)
        took = {} if seconds is None else {"seconds": round(seconds, 3)}
        size = {"bytes": path.stat().st_size} if path.is_file() else {}
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        self.journal.add({"id": item.id, "status": "done", "path": item.name, **took, "how": how, **size, "time": now})

    def _failed(self, item: Item, error: VSFError, seconds: float, how: str) -> Outcome:
        facts = {"error": str(error), "code": error.exit_code, "seconds": round(seconds, 3), "how": how}
        self.journal.add({"id": item.id, "status": "failed", "path": item.name, **facts})
        return Outcome(item, str(error), seconds)


def _says(path: Path) -> str | None:
    """The id that a file says it was made for; None if it is not whole."""
    try:
        found = read_metadata(path / "0000.png" if path.is_dir() else path).description
    except MediaError:
        return None
    return found.get("item") if found else None


def _format_of(path: Path) -> str:
    ending = path.suffix.lower().removeprefix(".")
    return "jpeg" if ending == "jpg" else ending


def _next_offload(runtime: Runtime) -> Runtime | None:
    """The next level of offloading; None on a CPU, where there is none, or behind the last."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if runtime.device == "cpu" or (runtime.device == "auto" and accelerator is None):
        return None
    levels = [level for level in OFFLOADS if level != "auto"]
    place = levels.index(runtime.offload) if runtime.offload in levels else 0
    return replace(runtime, offload=levels[place + 1]) if place + 1 < len(levels) else None
