"""Engines make the items of a batch: in this process, in several processes of this machine, or on a Ray cluster.

All engines have the same signature and the same core: a worker makes items and writes them to the shared folder; only small
outcomes come back. The caller of an engine keeps the journal.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.ray_engine import on_ray
from vsf_cli.batch.worker import Outcome, PipelineCache, RunHooks, Worker
from vsf_cli.config.names import check_choice
from vsf_cli.errors import OutOfMemory, VSFError
from vsf_cli.media.files import remove_partials

__all__ = ["ENGINES", "Engine", "engine_named", "local", "on_ray"]

Engine = Callable[[Worker, Sequence[Item], int, str | None, RunHooks], Generator[Outcome, None, None]]
"""Makes items with a number of workers at an address, and yields the outcome of each. No worker goes on after it is closed."""
MAX_DEATHS = 5
"""How often workers may die in a row, with nothing made in between, before the run gives up."""
KILLED = "it killed its worker twice, perhaps for want of memory: try fewer --workers, --vae-tiling, or a smaller --size"


def local(
    worker: Worker, items: Sequence[Item], workers: int, address: str | None, hooks: RunHooks
) -> Generator[Outcome, None, None]:
    """Makes items in this process, or with several workers in as many processes, each with its own GPU if there are enough.

    Free processes take their work from one queue. Items that were being made when a process died are made again one by one;
    an item that then kills a process again has failed.

    Raises:
        VSFError: If processes die `MAX_DEATHS` times in a row.
    """
    if workers == 1:
        yield from worker.make(items, hooks)
        return
    from concurrent.futures.process import BrokenProcessPool

    pending, suspects, deaths = deque(worker.pieces(items)), deque[list[Item]](), 0
    while (pending or suspects) and not hooks.should_stop():
        queue, alone = (suspects, True) if suspects else (pending, False)
        running: dict[Any, list[Item]] = {}
        try:
            for outcome in _run_pool(worker, queue, 1 if alone else workers, running, hooks):
                deaths = 0
                yield outcome
        except BrokenProcessPool as error:
            deaths += 1
            remove_partials(worker.folder)
            if deaths >= MAX_DEATHS:
                raise VSFError(f"workers died {deaths} times, perhaps for want of memory: try fewer with --workers") from error
            died = [item for piece in running.values() for item in piece]
            if alone:
                yield from (Outcome(item, KILLED, 0.0, OutOfMemory.exit_code) for item in died)
            else:
                suspects.extend([item] for item in died)


def _run_pool(
    worker: Worker, pending: deque[list[Item]], workers: int, running: dict[Any, list[Item]], hooks: RunHooks
) -> Iterator[Outcome]:
    """Gives the work of a queue to processes, and yields the outcomes; `running` holds the pieces that are being made."""
    from concurrent.futures import FIRST_COMPLETED, wait

    pool = _pool(worker, workers)
    try:
        while (pending or running) and (running or not hooks.should_stop()):
            while pending and len(running) < workers and not hooks.should_stop():
                with _uninterrupted():
                    running[pool.submit(_make, pending[0])] = pending[0]
                pending.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcomes = future.result()
                del running[future]
                yield from outcomes
    except (KeyboardInterrupt, GeneratorExit):
        # The user stops at once, or the generator was closed: do not wait for unfinished work.
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Starts processes inside a `with` that no Ctrl-C reaches, not even while they import; it reaches this one after it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pool(worker: Worker, workers: int) -> Any:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    return ProcessPoolExecutor(workers, context, _start_process, (worker, numbers, _gpus()))


def _gpus() -> list[str]:
    """Returns the usable GPUs, as `CUDA_VISIBLE_DEVICES` names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


_STATE: list[tuple[Worker, PipelineCache]] = []


def _start_process(worker: Worker, numbers: Any, gpus: Sequence[str]) -> None:
    """Gives a new process the worker and one of the GPUs before torch is loaded; processes share GPUs if there are too few."""
    # Ctrl-C is for the parent process, which lets this one finish its work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = numbers.get()
    numbers.put(number)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    _STATE.append((worker, PipelineCache()))


def _make(items: list[Item]) -> list[Outcome]:
    """Returns the outcomes of items that are made in this process, which reuses the loaded model."""
    worker, pipelines = _STATE[0]
    _quiet(worker)
    return list(worker.make(items, cache=pipelines))


@cache
def _quiet(worker: Worker) -> None:
    """Keeps the libraries of this process quiet, once they are needed."""
    worker.quiet_libraries()


ENGINES: dict[str, Engine] = {"local": local, "ray": on_ray}


def engine_named(name: str) -> Engine:
    """Returns an engine by its name.

    Raises:
        RequestError: If there is no such engine.
    """
    check_choice("--engine", name, ENGINES)
    return ENGINES[name]
