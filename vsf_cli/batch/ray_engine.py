"""Makes items on a Ray cluster with Ray Data: actors load each model once, write the files and return small rows."""

import pickle
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.worker import Outcome, PipelineCache, RunHooks, Worker
from vsf_cli.errors import OutOfMemory, RequestError, VSFError

__all__ = ["on_ray"]

MAX_RETRIES = 1
"""How often a round tries a piece of work again after its actor died; a second round makes what is left item by item."""
LOST = "it killed its actor again and again, perhaps for want of memory: try --vae-tiling, or a smaller --size"


class _Actor:
    """An actor that makes pieces of work. Rows hold pickled bytes, since Ray Data has no type for requests."""

    def __init__(self, worker: bytes) -> None:
        self.worker: Worker = pickle.loads(worker)
        self.worker.quiet_libraries()
        self.cache = PipelineCache()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        outcomes: list[Any] = []
        try:
            for piece in batch["work"]:
                outcomes += self.worker.make(pickle.loads(piece), cache=self.cache)
        except VSFError as error:
            outcomes.append(error)  # It ends the run: it is returned, and raised in the process of the user.
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}


def _outcomes(ray: Any, worker: Worker, pieces: Sequence[Sequence[Item]], workers: int, gpus: int) -> Iterator[Outcome]:
    if not pieces:
        return
    data = ray.data.from_items([{"work": pickle.dumps(list(piece))} for piece in pieces], override_num_blocks=len(pieces))
    rows = data.map_batches(
        _Actor,
        fn_constructor_args=(pickle.dumps(worker),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
        # Ray Data restarts its actors without end, and would try their tasks again as often.
        ray_remote_args_fn=lambda: {"max_task_retries": MAX_RETRIES},
    )
    for row in rows.iter_rows():
        outcome = pickle.loads(row["outcome"])
        if isinstance(outcome, VSFError):
            raise outcome
        yield outcome


def on_ray(
    worker: Worker, items: Sequence[Item], workers: int, address: str | None, hooks: RunHooks
) -> Generator[Outcome, None, None]:
    """Makes items on the cluster of an address, whose nodes share the worker's folder; None starts one on this machine.

    If an actor dies, Ray gives its work to another one; an item that kills actor after actor has failed. Of the hooks, only
    `should_stop` is called.

    Raises:
        RequestError: If Ray is not installed, or the cluster cannot be reached.
        VSFError: If the cluster fails, or the folder cannot be written.
    """
    try:
        import ray
    except ImportError as error:
        raise RequestError('engine ray needs the package ray: pip install "vsf-cli[ray]"') from error
    with _connected(ray, address):
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        # A piece that fails for good is left out, and does not end the run.
        ray.data.DataContext.get_current().max_errored_blocks = -1
        left = {item.key: item for item in items}
        # Items that were lost with others of their piece are made once more, alone.
        for alone in (False, True):
            pieces = [[item] for item in left.values()] if alone else worker.pieces(items)
            for outcome in _outcomes(ray, worker, pieces, workers, gpus):
                left.pop(outcome.item.key, None)
                yield outcome
                if hooks.should_stop():
                    return
        yield from (Outcome(item, LOST, 0.0, OutOfMemory.exit_code) for item in left.values())


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connects to a cluster, or starts one, unless the caller has; disconnects if it connected."""
    connect = not ray.is_initialized()
    if connect:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RequestError(f"--ray-address {address}: no cluster can be reached there: {str(error)[:200]}") from error
    try:
        yield
    except ray.exceptions.RayError as error:
        raise VSFError(f"the Ray cluster failed: {' '.join(str(error).split())[:300]}") from error
    finally:
        if connect:
            ray.shutdown()
