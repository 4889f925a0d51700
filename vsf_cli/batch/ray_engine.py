"""Pieces of work on a Ray cluster, by Ray Data: actors load each model once, write the files, and send small rows back."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.maker import Held, Maker, Outcome
from vsf_cli.errors import RequestError, VSFError

__all__ = ["mapped"]


class _Worker:
    """An actor. Rows of Ray Data hold bytes, since its own types know nothing of requests."""

    def __init__(self, maker: bytes) -> None:
        self.maker: Maker = pickle.loads(maker)
        self.held = Held()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        outcomes: list[bytes] = []
        for piece in batch["work"]:
            outcomes += [pickle.dumps(outcome) for outcome in self.maker.make(pickle.loads(piece), held=self.held)]
        return {"outcome": outcomes}


def mapped(
    maker: Maker, work: Sequence[Sequence[Item]], workers: int, address: str | None, stopping: Callable[[], bool]
) -> Iterator[Outcome]:
    """What came of each item of some pieces of work, as it comes.

    What an actor was given when it died, or its node went, Ray gives to another.

    Raises:
        RequestError: If Ray is not installed, or the cluster cannot be reached.
        VSFError: If the cluster fails.
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
        data = ray.data.from_items([{"work": pickle.dumps(list(piece))} for piece in work], override_num_blocks=len(work))
        outcomes = data.map_batches(
            _Worker,
            fn_constructor_args=(pickle.dumps(maker),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=gpus,
        )  # Ray Data restarts its actors, and tries their tasks again, without end.
        for row in outcomes.iter_rows():
            yield pickle.loads(row["outcome"])
            if stopping():
                return
    except ray.exceptions.RayError as error:
        raise VSFError(f"the Ray cluster failed: {' '.join(str(error).split())[:300]}") from error
    finally:
        if begun:
            ray.shutdown()
