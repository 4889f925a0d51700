"""Engines: several processes and a Ray cluster make the same files as one process, and lose nothing when a worker dies."""

import importlib.util
import multiprocessing
import os
import platform
import queue
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import vsf_cli.batch.engines as engines
from tests.processes import IMPORTED, ROOT, run_python
from vsf_cli.batch.engines import KILLED, MAX_DEATHS, engine_named, local, on_ray
from vsf_cli.batch.items import Item, items_of
from vsf_cli.batch.ray_engine import LOST
from vsf_cli.batch.table import read_table
from vsf_cli.batch.worker import Outcome, RunHooks, Worker
from vsf_cli.errors import RequestError, VSFError

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason='the engine ray is tested where ray is: pip install "vsf-cli[ray]"')


def some_items(count: int) -> list[Item]:
    table = f"prompt,neg,seed\na red bike on a road,wheels,1..{count}\n"
    return items_of("a.csv", read_table(Path("a.csv"), table), {"steps": 2})[0]


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    assert all(outcome.error is None for outcome in Worker(folder).make(some_items(12)))
    return made(folder)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked from a process that has imported their libraries, where the system can."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        multiprocessing.set_forkserver_preload(list(IMPORTED))
        context = multiprocessing.get_context("forkserver")
        monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


def test_work_is_of_one_model_and_some_passes() -> None:
    table = "prompt,preset,seed\na red bike,tiny-sd3-turbo,1..9\na red car,tiny-sd3,1..2\n"
    items = items_of("a.csv", read_table(Path("a.csv"), table), {})[0]
    pieces = Worker(Path(), batch_size=2).pieces(items)
    assert sorted(item.id for piece in pieces for item in piece) == sorted(item.id for item in items)
    assert all(len({item.request.model for item in piece}) == 1 and len(piece) <= 8 for piece in pieces)


def test_a_worker_sees_its_gpu_before_torch_is_loaded() -> None:
    """What a new process imports to receive its work."""
    code = "import sys, vsf_cli.batch.engines; sys.exit('torch' in sys.modules)"
    assert run_python("-c", code).returncode == 0


@pytest.mark.usefixtures("forked")
def test_several_processes_of_which_one_is_killed_make_the_same_files(tmp_path: Path, alone: dict[str, bytes]) -> None:
    outcomes = []
    for outcome in local(Worker(tmp_path), some_items(12), 2, None, RunHooks()):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            multiprocessing.active_children()[0].kill()
    assert {outcome.item.id for outcome in outcomes} == {item.id for item in some_items(12)}
    assert made(tmp_path) == alone and not list(tmp_path.glob(".vsf*"))


def test_processes_that_die_again_and_again_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_make", _dies)
    with pytest.raises(VSFError, match=f"workers died {MAX_DEATHS} times"):
        list(local(Worker(tmp_path), some_items(12), 2, None, RunHooks()))


def _dies(items: list[Item]) -> None:
    os._exit(9)


def test_what_kills_its_worker_twice_fails_and_the_others_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_make", _dies_of_the_third)
    monkeypatch.setenv("HALF", str(tmp_path / "half"))
    items = some_items(6)
    outcomes = {outcome.item.id: outcome.error for outcome in local(Worker(tmp_path), items, 2, None, RunHooks())}
    assert [outcomes[item.id] for item in items] == [None, None, KILLED, None, None, None]
    assert not list(tmp_path.iterdir()), "what a dead worker left half done is taken away"


def _dies_of_the_third(items: list[Item]) -> list[Outcome]:
    if any(item.request.seed == 3 for item in items):
        if half := os.environ.get("HALF"):
            Path(half).with_name(f".vsf-{platform.node()}-{os.getpid()}.partial").touch()
        os._exit(9)
    return [Outcome(item, None, 0.0) for item in items]


@pytest.mark.parametrize(("gpus", "visible"), [(["0", "1"], "1"), (["5"], "5"), ([], "none")])
def test_processes_share_the_gpus_that_there_are(
    gpus: list[str], visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(engines, "_STATE", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none")
    numbers: queue.Queue[int] = queue.Queue()
    numbers.put(3)
    engines._start_process(Worker(tmp_path), numbers, gpus)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.usefixtures("forked")
def test_a_run_that_is_stopped_begins_nothing_more(tmp_path: Path) -> None:
    outcomes: list[Any] = []
    for outcome in local(Worker(tmp_path), some_items(12), 2, None, RunHooks(should_stop=lambda: bool(outcomes))):
        outcomes.append(outcome)
    assert len(outcomes) == len(made(tmp_path)) < 12


def test_an_unknown_engine_and_a_missing_one_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="must be one of local, ray"):
        engine_named("slurm")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(RequestError, match=r'pip install "vsf-cli\[ray\]"'):
        list(on_ray(Worker(tmp_path), some_items(1), 1, None, RunHooks()))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # By default the last to be run on a busy machine.
    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@needs_ray
@pytest.mark.filterwarnings("default")
def test_two_actors_make_the_same_files_and_one_that_is_killed_loses_nothing(
    ray: Any, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    """With two logical GPUs, each actor has one."""
    outcomes = []
    for outcome in on_ray(Worker(tmp_path), some_items(12), 2, None, RunHooks()):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            workers = [each for each in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(each.info["cmdline"] or ())]
            assert workers, "the actors run as processes of their own"
            workers[0].send_signal(signal.SIGKILL)
    assert {outcome.item.id for outcome in outcomes} == {item.id for item in some_items(12)}
    assert made(tmp_path) == alone


class _Deadly(Worker):
    """A worker whose third item ends the process, and which makes nothing of the others."""

    def make(self, items: Sequence[Item], **_: Any) -> Any:  # type: ignore[override]
        return _dies_of_the_third(list(items))


@needs_ray
@pytest.mark.filterwarnings("default")
def test_what_kills_its_actor_fails_alone(ray: Any, tmp_path: Path) -> None:
    items = some_items(6)
    outcomes = {outcome.item.id: outcome.error for outcome in on_ray(_Deadly(tmp_path), items, 2, None, RunHooks())}
    assert [outcomes[item.id] for item in items] == [None, None, LOST, None, None, None]


@needs_ray
@pytest.mark.filterwarnings("default")
def test_a_node_that_goes_loses_nothing(tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # By default the last to be run on a busy machine.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    node = cluster.add_node(num_cpus=2)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        outcomes = []
        for outcome in on_ray(Worker(tmp_path), some_items(12), 2, None, RunHooks()):
            outcomes.append(outcome)
            if len(outcomes) == 1:
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                there = [" ".join(child.cmdline()) for child in raylet.children(recursive=True)]
                assert any("MapWorker" in line for line in there), f"an actor runs on the node that goes: {there}"
                cluster.remove_node(node)
        assert {outcome.item.id for outcome in outcomes} == {item.id for item in some_items(12)}
        assert made(tmp_path) == alone
    finally:
        ray.shutdown()
        cluster.shutdown()
