"""How a batch's items are shared out: in this process, to several processes of this machine, or to a Ray cluster.

Engines have one signature, and the same core behind it: a worker makes what it is given and writes it to the folder, which all
share; what comes back is small. Whoever calls an engine keeps the journal.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vsf_cli.batch.items import Item
from vsf_cli.batch.maker import Held, Maker, Outcome
from vsf_cli.errors import RequestError, VSFError
from vsf_cli.generation.generate import Progress
from vsf_cli.media.files import remove_partials

__all__ = ["ENGINES", "Engine", "Watching", "engine_named", "local", "on_ray", "work_of"]

CHUNKS_OF_A_TASK = 4
"""Passes through the model that a worker is given at a time: few enough that a worker which dies takes little with it."""
MOST_DEATHS = 5
"""How often workers may die, and nothing be made between, before the run gives up."""
KILLED = "it killed its worker twice, perhaps for want of memory: try --offload, --vae-tiling, or a smaller size"


@dataclass(frozen=True)
class Watching:
    """What a run is told while it goes on.

    Arguments:
        stopping: Asked before something is begun; once true, nothing more is.
        loading: Told the first item of each model before it is loaded, in this process.
        progress: Told of every step, in this process.
    """

    stopping: Callable[[], bool] = lambda: False
    loading: Callable[[Item], Any] = field(default=lambda _: None)
    progress: Progress | None = None


class Engine(Protocol):
    """Makes items, in whatever order, and yields what came of each. Closed before its end, it leaves no worker at work."""

    def __call__(
        self, maker: Maker, items: Sequence[Item], workers: int, address: str | None, watching: Watching
    ) -> Generator[Outcome, None, None]: ...


def work_of(maker: Maker, items: Sequence[Item]) -> list[list[Item]]:
    """Items in pieces of work for one worker: of one model each, and some passes through it."""
    pieces = []
    for group in maker.groups(items):
        chunks = list(maker.chunks(group))
        for start in range(0, len(chunks), CHUNKS_OF_A_TASK):
            pieces.append([item for chunk in chunks[start : start + CHUNKS_OF_A_TASK] for item in chunk])
    return pieces


def local(
    maker: Maker, items: Sequence[Item], workers: int, address: str | None, watching: Watching
) -> Generator[Outcome, None, None]:
    """In this process; with several workers in as many processes, each with a GPU of its own where there are enough.

    Work goes from one queue to whoever is free. What was being made when a process died is made one by one: what then kills
    a process once more has failed.

    Raises:
        VSFError: If processes die again and again.
    """
    if workers == 1:
        yield from maker.make(items, watching.stopping, watching.loading, watching.progress)
        return
    from concurrent.futures.process import BrokenProcessPool

    left, suspects, deaths = deque(work_of(maker, items)), deque[list[Item]](), 0
    while (left or suspects) and not watching.stopping():
        queue, alone = (suspects, True) if suspects else (left, False)
        given: dict[Any, list[Item]] = {}
        try:
            for outcome in _shared(maker, queue, 1 if alone else workers, given, watching):
                deaths = 0
                yield outcome
        except BrokenProcessPool as error:
            deaths += 1
            remove_partials(maker.folder)
            if deaths >= MOST_DEATHS:
                raise VSFError(f"workers died {deaths} times, perhaps for want of memory: try fewer with --workers") from error
            died = [item for piece in given.values() for item in piece]
            if alone:
                yield from (Outcome(item, KILLED, 0.0, VSFError.exit_code) for item in died)
            else:
                suspects.extend([item] for item in died)


def _shared(
    maker: Maker, left: deque[list[Item]], workers: int, given: dict[Any, list[Item]], watching: Watching
) -> Iterator[Outcome]:
    """Shares a queue of work out to processes; `given` says which pieces they have.

    Raises:
        BrokenProcessPool: If a process dies.
    """
    from concurrent.futures import FIRST_COMPLETED, wait

    pool = _pool(maker, workers)
    try:
        while (left or given) and (given or not watching.stopping()):
            while left and len(given) < workers and not watching.stopping():
                given[pool.submit(_make, left[0])] = left[0]
                left.popleft()
            for future in wait(given, return_when=FIRST_COMPLETED).done:
                outcomes = future.result()
                del given[future]
                yield from outcomes
    except (KeyboardInterrupt, GeneratorExit):
        # A person stops at once, or nobody wants more: what is half made is not waited for.
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown()


def _pool(maker: Maker, workers: int) -> Any:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    return ProcessPoolExecutor(workers, context, _begin, (maker, numbers, _gpus()))


def _gpus() -> list[str]:
    """The GPUs that may be used, as `CUDA_VISIBLE_DEVICES` names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


_WORKER: list[tuple[Maker, Held]] = []


def _begin(maker: Maker, numbers: Any, gpus: Sequence[str]) -> None:
    """Gives a new process the maker, and one of the GPUs, before torch is loaded; more processes than GPUs share them."""
    import signal

    # Ctrl-C is for the process that shares the work out: it lets this one finish what it has.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = numbers.get()
    numbers.put(number)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    _WORKER.append((maker, Held()))


def _make(items: list[Item]) -> list[Outcome]:
    """Makes items with the model that this process has loaded, or another one."""
    maker, held = _WORKER[0]
    return list(maker.make(items, held=held))


def on_ray(
    maker: Maker, items: Sequence[Item], workers: int, address: str | None, watching: Watching
) -> Generator[Outcome, None, None]:
    """On a Ray cluster: Ray Data maps pieces of work over actors that load each model once.

    Arguments:
        maker: Where and how items are made. Its folder must be one that all nodes share.
        items: The items.
        workers: How many actors there are.
        address: The cluster's; None begins one on this machine.
        watching: Only `stopping` is asked, between pieces of work.

    Raises:
        RequestError: If Ray is not installed.
    """
    from vsf_cli.batch.ray_engine import mapped

    yield from mapped(maker, work_of(maker, items), workers, address, watching.stopping)


ENGINES: dict[str, Engine] = {"local": local, "ray": on_ray}


def engine_named(name: str) -> Engine:
    """An engine by its name.

    Raises:
        RequestError: If there is none.
    """
    if name not in ENGINES:
        raise RequestError(f"--engine is '{name}', but engines are {', '.join(ENGINES)}")
    return ENGINES[name]
