"""How a batch's items are shared out: in this process, to several processes of this machine, or to a Ray cluster.

Engines have one signature, and the same core behind it: a worker makes what it is given and writes it to the folder, which all
share; what comes back is small. Whoever calls an engine keeps the journal.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from vsf_cli.batch.items import Item
from vsf_cli.batch.maker import Held, Maker, Outcome
from vsf_cli.errors import RequestError, VSFError
from vsf_cli.generate import Progress

__all__ = ["ENGINES", "Engine", "Watching", "engine_named", "local", "on_ray", "work_of"]

CHUNKS_OF_A_TASK = 4
"""Passes through the model that a worker is given at a time: few enough that a worker which dies takes little with it."""
MOST_DEATHS = 3
"""How often workers may die before the run gives up."""


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
    """Makes items, in whatever order, and yields what came of each."""

    def __call__(
        self, maker: Maker, items: Sequence[Item], workers: int, address: str | None, watching: Watching
    ) -> Iterator[Outcome]: ...


def work_of(maker: Maker, items: Sequence[Item]) -> list[list[Item]]:
    """Items in pieces of work for one worker: of one model each, and some passes through it."""
    pieces = []
    for _, group in groupby(sorted(items, key=lambda item: item.load_key), key=lambda item: item.load_key):
        chunks = list(maker.chunks(list(group)))
        for start in range(0, len(chunks), CHUNKS_OF_A_TASK):
            pieces.append([item for chunk in chunks[start : start + CHUNKS_OF_A_TASK] for item in chunk])
    return pieces


def local(maker: Maker, items: Sequence[Item], workers: int, address: str | None, watching: Watching) -> Iterator[Outcome]:
    """In this process; with several workers in as many processes, each with a GPU of its own where there are any.

    Work goes from one queue to whoever is free. What a process that died was given is made by others.

    Raises:
        VSFError: If processes die again and again.
    """
    if workers == 1:
        yield from maker.make(items, watching.stopping, watching.loading, watching.progress)
        return
    from concurrent.futures import FIRST_COMPLETED, wait
    from concurrent.futures.process import BrokenProcessPool

    left, deaths = deque(work_of(maker, items)), 0
    while left and not watching.stopping():
        given: dict[Any, list[Item]] = {}
        try:
            with _pool(maker, workers) as pool:
                while (left or given) and (given or not watching.stopping()):
                    while left and len(given) < workers and not watching.stopping():
                        given[pool.submit(_make, left[0])] = left[0]
                        left.popleft()
                    for future in wait(given, return_when=FIRST_COMPLETED).done:
                        outcomes = future.result()
                        del given[future]
                        yield from outcomes
        except BrokenProcessPool as error:
            deaths += 1
            left.extendleft(given.values())
            if deaths >= MOST_DEATHS:
                raise VSFError(f"workers died {deaths} times, perhaps for want of memory: try fewer with --workers") from error


def _pool(maker: Maker, workers: int) -> Any:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    return ProcessPoolExecutor(workers, context, _begin, (maker, numbers))


_WORKER: list[tuple[Maker, Held]] = []


def _begin(maker: Maker, numbers: Any) -> None:
    """Gives a new process the maker, and one of the GPUs, before torch is loaded."""
    import signal

    # Ctrl-C is for the process that shares the work out: it lets this one finish what it has.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = numbers.get()
    numbers.put(number)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % len(visible)] if visible else str(number)
    _WORKER.append((maker, Held()))


def _make(items: list[Item]) -> list[Outcome]:
    """Makes items with the model that this process has loaded, or another one."""
    maker, held = _WORKER[0]
    return list(maker.make(items, held=held))


def on_ray(maker: Maker, items: Sequence[Item], workers: int, address: str | None, watching: Watching) -> Iterator[Outcome]:
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
