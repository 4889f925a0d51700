"""Pieces of work on a Ray cluster, by Ray Data: actors load each model once, write the files, and send small rows back."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.maker import Held, Maker, Outcome
from vsf_cli.errors import RequestError, VSFError

__all__ = ["mapped"]

MOST_RETRIES = 1
"""How often a piece of work is tried again after its actor died, in a round: what is left is made alone in a second one."""
LOST = "it killed its actor again and again, perhaps for want of memory: try --offload, --vae-tiling, or a smaller size"


class _Worker:
    """An actor. Rows of Ray Data hold bytes, since its own types know nothing of requests."""

    def __init__(self, maker: bytes) -> None:
        self.maker: Maker = pickle.loads(maker)
        self.held = Held()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        outcomes: list[Any] = []
        try:
            for piece in batch["work"]:
                outcomes += self.maker.make(pickle.loads(piece), held=self.held)
        except VSFError as error:
            outcomes.append(error)  # It ends the run, and is raised where somebody reads it.
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}


def _rows(ray: Any, maker: Maker, pieces: Sequence[Sequence[Item]], workers: int, gpus: int) -> Iterator[dict[str, bytes]]:
    data = ray.data.from_items([{"work": pickle.dumps(list(piece))} for piece in pieces], override_num_blocks=len(pieces))
    outcomes = data.map_batches(
        _Worker,
        fn_constructor_args=(pickle.dumps(maker),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
        # Ray Data restarts its actors without end, and would try their tasks again as often.
        ray_remote_args_fn=lambda: {"max_task_retries": MOST_RETRIES},
    )
    yield from outcomes.iter_rows()


def mapped(
    maker: Maker, work: Sequence[Sequence[Item]], workers: int, address: str | None, stopping: Callable[[], bool]
) -> Iterator[Outcome]:
    """What came of each item of some pieces of work, as it comes.

    What an actor was given when it died, or its node went, Ray gives to another; what kills actor after actor has failed.

    Raises:
        RequestError: If Ray is not installed, or the cluster cannot be reached.
        VSFError: If the cluster fails, or the folder cannot be written.
    """
    try:
        import ray
    except ImportError as error:
        raise RequestError('engine ray needs the package ray: pip install "vsf-cli[ray]"') from error
    begun = not ray.is_initialized()
    if begun:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RequestError(f"--ray-address {address}: no cluster can be reached there: {str(error)[:200]}") from error
    try:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        # A piece that fails for good is left out, and does not end the run.
        ray.data.DataContext.get_current().max_errored_blocks = -1
        left = {item.key: item for piece in work for item in piece}
        # What was lost with others in its piece is made once more alone.
        for pieces in (work, None):
            each = [[item] for item in left.values()] if pieces is None else pieces
            for row in _rows(ray, maker, each, workers, gpus) if each else ():
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, VSFError):
                    raise outcome
                left.pop(outcome.item.key, None)
                yield outcome
                if stopping():
                    return
        yield from (Outcome(item, LOST, 0.0, VSFError.exit_code) for item in left.values())
    except ray.exceptions.RayError as error:
        raise VSFError(f"the Ray cluster failed: {' '.join(str(error).split())[:300]}") from error
    finally:
        if begun:
            ray.shutdown()
