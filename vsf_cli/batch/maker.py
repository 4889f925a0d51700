"""Makes items: loads each model once, makes the pictures and writes them. Knows nothing of journals and processes."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from vsf_cli.attn_map import folder_beside, watch, write
from vsf_cli.batch.items import Item
from vsf_cli.encoder_cache import caching_encoders
from vsf_cli.errors import OutOfMemory, VSFError
from vsf_cli.generate import Progress, Result, alike, generate_together
from vsf_cli.maps import EVERYTHING
from vsf_cli.media import write_bytes, write_frames
from vsf_cli.pipelines import OFFLOADS, Runtime
from vsf_cli.run import advising, describe_result, encode_result, load_for

__all__ = ["Held", "Maker", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What came of an item; small, so that it can be sent from one process to another.

    Arguments:
        item: The item.
        error: What failed; None if it was made.
        code: The exit code of the error.
        seconds: The time it took.
        how: What had to be done for it, such as another level of offloading.
        notes: What a person should know of the picture.
    """

    item: Item
    error: str | None
    seconds: float
    code: int = 0
    how: str = ""
    notes: tuple[str, ...] = ()


class Held:
    """The model that is loaded: one at a time, and the same again as long as nothing else is asked for."""

    def __init__(self) -> None:
        self._key: Any = None
        self._pipe: Any = None

    def get(self, item: Item, runtime: Runtime) -> Any:
        """The pipeline for an item."""
        key = item.load_key, runtime
        if key != self._key:
            # Let go first: two would not fit.
            self._key = self._pipe = None
            self._pipe = load_for(item.request, runtime)
            self._key = key
        return self._pipe


@dataclass(frozen=True)
class Maker:
    """Where and how items are made; can be sent to another process.

    Arguments:
        folder: Where the files go.
        runtime: Where and how the models run.
        batch_size: How many pictures are made in one pass through the model.
        crf: The constant rate factor of clips; None means the format's own.
        sidecar: Whether a JSON file is written beside each file.
        dump_attn: Whether a folder with attention maps is written beside each file; then pictures are made one by one.
    """

    folder: Path
    runtime: Runtime = field(default_factory=Runtime)
    batch_size: int = 1
    crf: int | None = None
    sidecar: bool = False
    dump_attn: bool = False

    def make(
        self,
        items: Sequence[Item],
        stopping: Callable[[], bool] = lambda: False,
        loading: Callable[[Item], Any] = lambda _: None,
        progress: Progress | None = None,
        held: Held | None = None,
    ) -> Iterator[Outcome]:
        """Makes items, and writes each before it is yielded.

        Arguments:
            items: The items.
            stopping: Asked before each pass through a model; once true, nothing more is begun.
            loading: Told the first item of each model before it is loaded.
            progress: Told of every step.
            held: What keeps the model loaded from call to call; None lets go of it.

        Raises:
            MediaError: If the folder cannot be written: then no other item can be either.
        """
        held = held or Held()
        ordered = sorted(items, key=lambda item: item.load_key)
        for _, group in groupby(ordered, key=lambda item: item.load_key):
            same = list(group)
            if stopping():
                return
            loading(same[0])
            yield from self._with_model(same, self.runtime, held, stopping, progress)

    def _with_model(
        self,
        items: list[Item],
        runtime: Runtime,
        held: Held,
        stopping: Callable[[], bool],
        progress: Progress | None,
        how: str = "",
    ) -> Iterator[Outcome]:
        """Makes items that share a model; those that do not fit into memory at the end with the next level of offloading."""
        try:
            pipe = held.get(items[0], runtime)
        except VSFError as error:
            yield from (_failed(item, error, 0.0, how) for item in items)
            return
        too_large: list[tuple[Item, VSFError]] = []
        with ExitStack() as stack:
            stack.enter_context(caching_encoders(pipe))
            for chunk in self.chunks(items):
                if stopping():
                    return
                yield from self._together(pipe, chunk, progress, too_large, how)
        del pipe
        if not too_large:
            return
        after = _next_offload(runtime)
        if after is None:
            yield from (_failed(item, error, 0.0, how) for item, error in too_large)
            return
        again = [item for item, _ in too_large]
        yield from self._with_model(again, after, held, stopping, progress, f"offload {after.offload}")

    def chunks(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """What is made in one pass: neighbours that are alike, `batch_size` at most."""
        most = 1 if self.dump_attn else self.batch_size
        chunk: list[Item] = []
        for item in items:
            if chunk and (len(chunk) >= most or not alike(chunk[0].request, item.request)):
                yield chunk
                chunk = []
            chunk.append(item)
        if chunk:
            yield chunk

    def _together(
        self,
        pipe: Any,
        chunk: list[Item],
        progress: Progress | None,
        too_large: list[tuple[Item, VSFError]],
        how: str,
        smaller: str = "",
    ) -> Iterator[Outcome]:
        """Makes items in one pass.

        Where memory does not suffice, in two; where something else fails, one after the other, so that one cannot take others
        with it.
        """
        started = time.monotonic()
        try:
            with advising(pipe):
                results = self._results(pipe, chunk, progress)
        except VSFError as error:
            if len(chunk) > 1:
                size = (len(chunk) + 1) // 2 if isinstance(error, OutOfMemory) else 1
                for start in range(0, len(chunk), size):
                    part = chunk[start : start + size]
                    yield from self._together(pipe, part, progress, too_large, how, f" in a batch of {len(part)}")
            elif isinstance(error, OutOfMemory):
                too_large.append((chunk[0], error))
            else:
                yield _failed(chunk[0], error, time.monotonic() - started, f"{how}{smaller}".strip())
            return
        for item, result in zip(chunk, results, strict=True):
            yield self._made(pipe, item, result, f"{how}{smaller}".strip())

    def _results(self, pipe: Any, chunk: list[Item], progress: Progress | None) -> list[Result]:
        if not self.dump_attn:
            return generate_together(pipe, [item.request for item in chunk], progress, cache_text=self.runtime.cache_text)
        (item,) = chunk
        watched = watch(pipe, item.request, EVERYTHING, progress, self.runtime.cache_text)
        told = describe_result(pipe, watched.result, **item.model, item=item.id)
        write(watched, folder_beside(self.folder / item.name), told, True)
        return [watched.result]

    def _made(self, pipe: Any, item: Item, result: Result, how: str) -> Outcome:
        started = time.monotonic()
        path = self.folder / item.name
        told = describe_result(pipe, result, **item.model, item=item.id)
        if path.suffix:
            write_bytes(path, encode_result(result, _format_of(path), told, self.crf))
        else:
            write_frames(path, result.frames, told)
        if self.sidecar:
            write_bytes(path.with_name(path.name + ".json"), json.dumps(told, indent=2, ensure_ascii=False).encode())
        return Outcome(item, None, result.seconds + time.monotonic() - started, how=how, notes=result.notes)


def _failed(item: Item, error: VSFError, seconds: float, how: str) -> Outcome:
    return Outcome(item, str(error), seconds, error.exit_code, how)


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
