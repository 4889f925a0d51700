"""Makes items: loads each model once, makes the pictures and writes them. Knows nothing of journals and processes."""

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.errors import EncodingError, MediaError, OutOfMemory, VSFError
from vsf_cli.generation.capture import capture, maps_folder, write_capture
from vsf_cli.generation.generate import Progress, Result, alike, generate_together, is_out_of_memory
from vsf_cli.generation.run import advising, describe_result, encode_result, load_for, weights_of
from vsf_cli.loading.offload import offload_of
from vsf_cli.loading.runtime import OFFLOADS, Runtime, device_named
from vsf_cli.maps.data import EVERYTHING
from vsf_cli.media.files import write_bytes
from vsf_cli.media.frames import write_frames

__all__ = ["Failure", "Held", "Maker", "Outcome", "next_offload"]

LONGEST_MESSAGE = 300


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


@dataclass(frozen=True)
class Failure:
    """Why something failed; not the error itself, whose traceback would hold the model and its tensors.

    Arguments:
        text: What a person reads.
        code: The exit code of the error.
        memory: Whether memory did not suffice.
    """

    text: str
    code: int
    memory: bool

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Why, by the error; one that is no `VSFError` is named by its type.

        Raises:
            MediaError: The error itself, if the folder cannot be written: then no other item can be either.
        """
        if isinstance(error, MediaError) and not isinstance(error, EncodingError):
            raise error
        memory = is_out_of_memory(error)
        if isinstance(error, VSFError):
            return cls(str(error), error.exit_code, memory)
        said = " ".join(str(error).split())[:LONGEST_MESSAGE]
        return cls(f"{type(error).__name__}: {said}", OutOfMemory.exit_code if memory else VSFError.exit_code, memory)


class Held:
    """The model that is loaded: one at a time, and the same again as long as nothing else is asked for."""

    def __init__(self) -> None:
        self._key: Any = None
        self._pipe: Any = None

    def get(self, item: Item, runtime: Runtime) -> Any:
        """The pipeline for an item."""
        key = item.load_key, runtime
        if key != self._key:
            self.let_go()
            self._pipe = load_for(item.request, runtime)
            self._key = key
        return self._pipe

    def let_go(self) -> None:
        """Frees what the model takes: two would not fit."""
        self._key = self._pipe = None
        free_memory()


@dataclass(frozen=True)
class Maker:
    """Where and how items are made; can be sent to another process.

    Arguments:
        folder: Where the files go.
        runtime: Where and how the models run.
        batch_size: How many pictures are made in one pass through the model.
        sidecar: Whether a JSON file is written beside each file.
        dump_attn: Whether a folder with attention maps is written beside each file; then pictures are made one by one.
    """

    folder: Path
    runtime: Runtime = field(default_factory=Runtime)
    batch_size: int = 1
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
        for same in self.groups(items):
            if stopping():
                return
            loading(same[0])
            yield from self._with_model(same, self.runtime, held, stopping, progress)

    def groups(self, items: Sequence[Item]) -> list[list[Item]]:
        """Items by model, each of which is loaded once; those that can be made in one pass are neighbours where it matters."""
        ordered = sorted(items, key=lambda item: (item.load_key, item.pass_key if self._most > 1 else ""))
        return [list(group) for _, group in groupby(ordered, key=lambda item: item.load_key)]

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
        # A worker imports this module before it chooses its GPU: torch is not to be loaded by then.
        from vsf_cli.models.encoder_cache import caching_encoders

        too_large: list[tuple[Item, Failure]] = []
        used = None
        try:
            pipe = held.get(items[0], runtime)
        except Exception as error:
            too_large = [(item, Failure.of(error)) for item in items]
        else:
            used = offload_of(pipe)
            with caching_encoders(pipe):
                for chunk in self.chunks(items):
                    if stopping():
                        return
                    yield from self._together(pipe, chunk, progress, too_large, how)
            del pipe
        if not too_large:
            return
        after = next_offload(runtime, used) if too_large[0][1].memory else None
        if after is None:
            yield from (_failed(item, failure, 0.0, how) for item, failure in too_large)
            return
        held.let_go()
        again = [item for item, _ in too_large]
        yield from self._with_model(again, after, held, stopping, progress, f"offload {after.offload}")

    @property
    def _most(self) -> int:
        return 1 if self.dump_attn else self.batch_size

    def chunks(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """What is made in one pass: neighbours that are alike, `batch_size` at most."""
        chunk: list[Item] = []
        for item in items:
            if chunk and (len(chunk) >= self._most or not alike(chunk[0].request, item.request)):
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
        too_large: list[tuple[Item, Failure]],
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
                results, failure = self._results(pipe, chunk, progress), None
        except Exception as error:
            results, failure = [], Failure.of(error)
        if failure is None:
            for item, result in zip(chunk, results, strict=True):
                yield self._made(pipe, item, result, f"{how}{smaller}".strip())
            return
        # Outside of `except`, where the error and all that its traceback holds would still be alive.
        if failure.memory:
            free_memory()
        if len(chunk) > 1:
            size = (len(chunk) + 1) // 2 if failure.memory else 1
            for start in range(0, len(chunk), size):
                part = chunk[start : start + size]
                yield from self._together(pipe, part, progress, too_large, how, f" in a batch of {len(part)}")
        elif failure.memory:
            too_large.append((chunk[0], failure))
        else:
            yield _failed(chunk[0], failure, time.monotonic() - started, f"{how}{smaller}".strip())

    def _results(self, pipe: Any, chunk: list[Item], progress: Progress | None) -> list[Result]:
        if not self.dump_attn:
            return generate_together(pipe, [item.request for item in chunk], progress)
        (item,) = chunk
        watched = capture(pipe, item.request, EVERYTHING, progress)
        write_capture(watched, maps_folder(self.folder / item.name), self._told(pipe, item, watched.result), True)
        return [watched.result]

    def _told(self, pipe: Any, item: Item, result: Result) -> dict[str, Any]:
        # Of the hub's models the commit that was loaded, which the plan could not know.
        weights = weights_of(item.request) if "revision" in item.model else item.model
        return describe_result(pipe, result, **weights, item=item.id)

    def _made(self, pipe: Any, item: Item, result: Result, how: str) -> Outcome:
        started = time.monotonic()
        try:
            self._write(self.folder / item.name, item, result, self._told(pipe, item, result))
        except Exception as error:
            return _failed(item, Failure.of(error), result.seconds + time.monotonic() - started, how)
        return Outcome(item, None, result.seconds + time.monotonic() - started, how=how, notes=result.notes)

    def _write(self, path: Path, item: Item, result: Result, told: dict[str, Any]) -> None:
        if item.format == "frames":
            write_frames(path, result.frames, told)
        else:
            write_bytes(path, encode_result(result, item.format, told, item.crf))
        if self.sidecar:
            write_bytes(path.with_name(path.name + ".json"), json.dumps(told, indent=2, ensure_ascii=False).encode())


def _failed(item: Item, failure: Failure, seconds: float, how: str) -> Outcome:
    return Outcome(item, failure.text, seconds, failure.code, how)


def free_memory() -> None:
    """Gives back what nobody holds any more: a pipeline with hooks is a circle, which only the collector opens."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def next_offload(runtime: Runtime, used: str | None) -> Runtime | None:
    """The next level of offloading.

    Arguments:
        runtime: Where and how the model was to run.
        used: The level that it ran with, by `vsf_cli.loading.offload.offload_of`; None if it could not be loaded.

    Returns:
        None behind the last, and on a CPU, where there is none.
    """
    levels = [level for level in OFFLOADS if level != "auto"]
    if used is None:
        asked = levels[0] if runtime.offload == "auto" else runtime.offload
        used = "cpu" if device_named(runtime.device).type == "cpu" else asked
    if used not in levels[:-1]:
        return None
    return replace(runtime, offload=levels[levels.index(used) + 1])
