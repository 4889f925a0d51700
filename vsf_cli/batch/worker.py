"""Makes items: loads each model once, generates the images and writes them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from vsf_cli.batch.chosen import chosen_facts
from vsf_cli.batch.items import Item
from vsf_cli.batch.verdicts import VERDICTS, AnswerFile, StoredVerdicts
from vsf_cli.errors import EncodingError, MediaError, OutOfMemory, VSFError, is_out_of_memory
from vsf_cli.generation.asking import judge_of
from vsf_cli.generation.capture import capture, maps_folder, write_capture
from vsf_cli.generation.choosing import choose_batch
from vsf_cli.generation.generate import Progress, Result, generate_batch, passes
from vsf_cli.generation.run import advising, describe_result, load_for, note_lost_sound, weights_of, write_result
from vsf_cli.loading.loras import hashes_of
from vsf_cli.loading.offload import offload_of
from vsf_cli.loading.runtime import OFFLOADS, Runtime, device_named, free_memory
from vsf_cli.maps.data import EVERYTHING
from vsf_cli.settings.options import FileOptions

__all__ = ["Failure", "Outcome", "PipelineCache", "RunHooks", "Worker", "next_offload"]

CHUNKS_OF_A_PIECE = 4
"""Passes through the model in one piece of work: few, so that little is lost when a worker dies."""
MAX_MESSAGE_LENGTH = 300


@dataclass(frozen=True)
class RunHooks:
    """Functions that a run calls.

    Arguments:
        should_stop: Called before each pass through a model; once it returns True, no other pass starts.
        on_load: Called with the first item of each model before the model is loaded, in this process.
        progress: Called after every step, in this process.
        tried: Called after every candidate of a choice, in this process.
    """

    should_stop: Callable[[], bool] = lambda: False
    on_load: Callable[[Item], Any] = field(default=lambda _: None)
    progress: Progress | None = None
    tried: Progress | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of an item; small, so that it can be sent from one process to another.

    Arguments:
        item: The item.
        error: What failed; None if it was made.
        code: The exit code of the error.
        seconds: The time it took.
        fallback: What had to change to make it, such as another level of offloading; "" if nothing.
        notes: Warnings about the image.
        of_model: Whether its model could not be loaded, so that all items of the model failed.
        chosen: What a judge chose, and whether it is content; empty if nobody chose.
    """

    item: Item
    error: str | None
    seconds: float
    code: int = 0
    fallback: str = ""
    notes: tuple[str, ...] = ()
    of_model: bool = False
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """The message and the exit code of an error, whose traceback would hold the model and its tensors.

    `memory` is whether memory did not suffice.
    """

    text: str
    code: int
    memory: bool

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Returns the failure of an error; an error that is not a `VSFError` is named by its type.

        Raises:
            MediaError: The error itself, if the folder cannot be written: then no other item can be either.
        """
        if isinstance(error, MediaError) and not isinstance(error, EncodingError):
            raise error
        memory = is_out_of_memory(error)
        if isinstance(error, VSFError):
            return cls(str(error), error.exit_code, memory)
        message = " ".join(str(error).split())[:MAX_MESSAGE_LENGTH]
        return cls(f"{type(error).__name__}: {message}", OutOfMemory.exit_code if memory else VSFError.exit_code, memory)


class PipelineCache:
    """The loaded pipeline: one at a time, kept for as long as items ask for the same one."""

    def __init__(self) -> None:
        self._key: Any = None
        self._pipe: Any = None

    def get(self, item: Item, runtime: Runtime) -> Any:
        """Returns the pipeline for an item, loaded if it is not the one in the cache."""
        key = item.load_key, runtime
        if key != self._key:
            self.clear()
            self._pipe = load_for(item.request, runtime)
            self._key = key
        return self._pipe

    def clear(self) -> None:
        """Frees the memory of the model: two would not fit."""
        self._key = self._pipe = None
        free_memory()


@dataclass(frozen=True)
class Worker:
    """Where and how items are made; can be sent to another process.

    Arguments:
        folder: Where the files go.
        runtime: Where and how the models run.
        batch_size: Images in one pass through the model.
        sidecar: Whether a JSON file is written beside each file.
        dump_attn: Whether a folder with attention maps is written beside each file; then images are made one by one.
        keep_all: Whether a strip of all images that a judge chose from is written beside each file.
        verbose: Whether the messages of other libraries are written, too, where a process of its own makes items.
    """

    folder: Path
    runtime: Runtime = field(default_factory=Runtime)
    batch_size: int = 1
    sidecar: bool = False
    dump_attn: bool = False
    keep_all: bool = False
    verbose: bool = False

    @cached_property
    def _answers(self) -> AnswerFile:
        return AnswerFile(self.folder / VERDICTS)

    def __getstate__(self) -> dict[str, Any]:
        # Without the answers, of which each process reads those that there are when it begins.
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def make(
        self, items: Sequence[Item], hooks: RunHooks | None = None, cache: PipelineCache | None = None
    ) -> Iterator[Outcome]:
        """Makes items, and writes each before its outcome is yielded. A cache keeps the model loaded from call to call.

        Raises:
            MediaError: If the folder cannot be written: then no other item can be either.
        """
        hooks, cache = hooks or RunHooks(), cache or PipelineCache()
        for group in self.groups(items):
            if hooks.should_stop():
                return
            hooks.on_load(group[0])
            yield from self._make_group(group, self.runtime, cache, hooks)

    def quiet_libraries(self) -> None:
        """Keeps other libraries quiet, and offline if need be, in a process that makes nothing but items."""
        from vsf_cli.loading.libraries import quiet_libraries, stay_offline

        # Bars of several processes would overwrite each other.
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        if self.runtime.offline:
            stay_offline()
        quiet_libraries(self.verbose)

    def groups(self, items: Sequence[Item]) -> list[list[Item]]:
        """Returns the items by model; in each group, those that can be made in one pass are neighbours."""
        ordered = sorted(items, key=lambda item: (item.load_key, item.pass_key if self._pass_size > 1 else ""))
        return [list(group) for _, group in groupby(ordered, key=lambda item: item.load_key)]

    def pieces(self, items: Sequence[Item]) -> list[list[Item]]:
        """Returns the items in pieces of work for one process, each of one model and a few passes through it."""
        pieces = []
        for group in self.groups(items):
            chunks = list(self.chunks(group))
            for start in range(0, len(chunks), CHUNKS_OF_A_PIECE):
                pieces.append([item for chunk in chunks[start : start + CHUNKS_OF_A_PIECE] for item in chunk])
        return pieces

    def _make_group(
        self, items: list[Item], runtime: Runtime, cache: PipelineCache, hooks: RunHooks, fallback: str = ""
    ) -> Iterator[Outcome]:
        """Makes items of one model; those that do not fit into memory are made last, with the next level of offloading."""
        # A worker imports this module before it chooses its GPU: torch is not to be loaded by then.
        from vsf_cli.models.encoder_cache import caching_encoders

        too_large: list[tuple[Item, Failure]] = []
        used = None
        try:
            pipe = cache.get(items[0], runtime)
        except Exception as error:
            too_large = [(item, Failure.of(error)) for item in items]
        else:
            used = offload_of(pipe)
            with caching_encoders(pipe):
                for chunk in self.chunks(items):
                    if hooks.should_stop():
                        return
                    size = self._pass_size if _makes_ahead(pipe, chunk[0]) else 1
                    yield from self._make_chunk(pipe, chunk, size, hooks, too_large, fallback)
            del pipe
        if not too_large:
            return
        lighter = next_offload(runtime, used) if too_large[0][1].memory else None
        if lighter is None:
            failed = (_failed(item, failure, 0.0, fallback) for item, failure in too_large)
            yield from (replace(outcome, of_model=used is None) for outcome in failed)
            return
        cache.clear()
        remaining = [item for item, _ in too_large]
        yield from self._make_group(remaining, lighter, cache, hooks, f"offload {lighter.offload}")

    @property
    def _pass_size(self) -> int:
        return 1 if self.dump_attn else self.batch_size

    def chunks(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Returns neighbours that can be made in one pass, at most `batch_size` at a time."""
        return passes(items, lambda item: item.request, most=self._pass_size)

    def _make_chunk(
        self,
        pipe: Any,
        chunk: list[Item],
        size: int,
        hooks: RunHooks,
        too_large: list[tuple[Item, Failure]],
        fallback: str,
    ) -> Iterator[Outcome]:
        """Makes items in one pass, filled up to `size` images; adds what does not fit into memory alone to `too_large`.

        A chunk that does not fit into memory is made without images that may not be needed, and then in two; one that fails
        otherwise is made item by item, so that one item cannot fail the others.
        """
        started = time.monotonic()
        try:
            with advising(pipe, chunk[0].request):
                results, failure = self._results(pipe, chunk, size, hooks), None
        except Exception as error:
            results, failure = [], Failure.of(error)
        # Outside of `except`, where the error and all that its traceback holds would still be alive.
        if failure is None:
            for item, result in zip(chunk, results, strict=True):
                yield self._written(pipe, item, result, fallback.strip())
            return
        if failure.memory:
            free_memory()
        if len(chunk) > 1 or (failure.memory and size > 1):
            most = (len(chunk) if size > len(chunk) else (len(chunk) + 1) // 2) if failure.memory else 1
            base = fallback.partition(" in a batch of ")[0]
            for part in (chunk[start : start + most] for start in range(0, len(chunk), most)):
                how = f"{base} in a batch of {len(part)}"
                yield from self._make_chunk(pipe, part, min(size, len(part)), hooks, too_large, how)
        elif failure.memory:
            too_large.append((chunk[0], failure))
        else:
            yield _failed(chunk[0], failure, time.monotonic() - started, fallback.strip())

    def _results(self, pipe: Any, chunk: list[Item], size: int, hooks: RunHooks) -> list[Result]:
        results = self._chosen(pipe, chunk, size, hooks)
        if not self.dump_attn:
            return results or generate_batch(pipe, [item.request for item in chunk], hooks.progress)
        (item,), chosen = chunk, results[0] if results else None
        captured = capture(pipe, item.request, EVERYTHING, hooks.progress, chosen)
        write_capture(captured, maps_folder(self.folder / item.name), self._metadata(pipe, item, captured.result))
        return [captured.result]

    def _chosen(self, pipe: Any, chunk: list[Item], size: int, hooks: RunHooks) -> list[Result]:
        """Returns the results of items that choose between images; none if they do not."""
        requests = [item.request for item in chunk]
        if not requests[0].chooses:
            return []
        judge = judge_of(requests[0], self.runtime.device)
        # Items of one chunk run on one model.
        verdicts = StoredVerdicts(self._answers, {**chunk[0].model, "judge": dict(judge.settings)})
        calls = hooks.progress, hooks.tried
        return choose_batch(pipe, requests, judge, *calls, verdicts=verdicts, keep_all=self.keep_all, size=size)

    def _metadata(self, pipe: Any, item: Item, result: Result) -> dict[str, Any]:
        # The commit of a model or a LoRA of the hub is known only after it is loaded.
        of_hub = "revision" in item.model
        weights = weights_of(item.request, True) if of_hub else {**item.model, **hashes_of(item.request.loras, True)}
        return describe_result(pipe, result, item.format, item.crf, **weights, item=item.id)

    def _written(self, pipe: Any, item: Item, result: Result, fallback: str) -> Outcome:
        """Writes the files of an item, and returns its outcome."""
        started, result = time.monotonic(), note_lost_sound(result, item.format)
        try:
            metadata, files = self._metadata(pipe, item, result), FileOptions(sidecar=self.sidecar, keep_all=self.keep_all)
            path, format = self.folder / item.name, item.format
            write_result(path, result=result, description=metadata, files=files, format=format, crf=item.crf)
        except Exception as error:
            return _failed(item, Failure.of(error), result.seconds + time.monotonic() - started, fallback)
        seconds = result.seconds + time.monotonic() - started
        return Outcome(item, None, seconds, fallback=fallback, notes=result.notes, chosen=chosen_facts(metadata))


def _makes_ahead(pipe: Any, item: Item) -> bool:
    """Whether a pass has images, too, that may not be needed; on a CPU these take as long in it as alone."""
    return item.request.chooses and pipe._execution_device.type != "cpu"


def _failed(item: Item, failure: Failure, seconds: float, fallback: str) -> Outcome:
    return Outcome(item, failure.text, seconds, failure.code, fallback)


def next_offload(runtime: Runtime, used: str | None) -> Runtime | None:
    """Returns the runtime with the next level of offloading; None after the last, and on a CPU, which has no levels.

    `used` is the level that the model ran with, by `offload_of`; None if it could not be loaded.
    """
    levels = [level for level in OFFLOADS if level != "auto"]
    if used is None:
        requested = levels[0] if runtime.offload == "auto" else runtime.offload
        used = "cpu" if device_named(runtime.device).type == "cpu" else requested
    if used not in levels[:-1]:
        return None
    return replace(runtime, offload=levels[levels.index(used) + 1])
