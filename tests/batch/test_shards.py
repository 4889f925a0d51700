"""Parts of a run by SLURM's arrays, also where a part of an array is submitted again."""

from pathlib import Path
from typing import Any

import pytest

from vsf_cli.batch.shards import ADVICE, ARRAY, Shard
from vsf_cli.errors import MediaError, RequestError


def array(task: int, tasks: list[int], text: str = "auto", folder: Path | None = None, step: int = 1) -> Shard:
    """The shard of a task of an array with some tasks, as SLURM says it: a list of tasks has a step of 1."""
    values: dict[str, Any] = {"ID": task, "MIN": tasks[0], "MAX": tasks[-1], "COUNT": len(tasks), "STEP": step}
    return Shard.parse(text, {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}, folder)


@pytest.mark.parametrize("first", [0, 1, 10])
def test_a_whole_array_is_a_whole_run(first: int) -> None:
    tasks = list(range(first, first + 8))
    assert [array(task, tasks) for task in tasks] == [Shard(number, 8) for number in range(1, 9)]


@pytest.mark.parametrize("first", [0, 1, 4])
def test_tasks_that_are_submitted_again_have_their_parts(first: int, tmp_path: Path) -> None:
    tasks = list(range(first, first + 8))
    array(first + 2, tasks, folder=tmp_path).remember(tmp_path)
    for again in ([first, first + 4, first + 6], [first + 3], [first + 5, first + 6]):
        for task in again:
            assert array(task, again, folder=tmp_path) == Shard(task - first + 1, 8)
            assert array(task, again, "auto/8", tmp_path) == Shard(task - first + 1, 8)


def test_an_array_in_steps_is_remembered_with_them(tmp_path: Path) -> None:
    shards = [array(task, [0, 2, 4, 6], folder=tmp_path, step=2) for task in (0, 2, 4, 6)]
    assert shards == [Shard(number, 4) for number in (1, 2, 3, 4)]
    shards[0].remember(tmp_path)
    assert array(4, [4], folder=tmp_path) == Shard(3, 4)
    with pytest.raises(RequestError, match="task 3 is none of the 4 from 0 in steps of 2"):
        array(3, [3], folder=tmp_path)


@pytest.mark.parametrize("tasks", [[1, 5, 7], [3], [0, 2], [2, 4, 8]])
def test_a_part_of_an_unknown_array_is_refused(tasks: list[int], tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path / "new"):
        with pytest.raises(RequestError, match="cannot tell of how many parts") as refusal:
            array(tasks[0], tasks, folder=folder)
        assert ADVICE in str(refusal.value)


def test_the_number_of_parts_can_be_given() -> None:
    assert [array(task, [1, 5, 7], "auto/8") for task in (1, 5, 7)] == [Shard(1, 8), Shard(5, 8), Shard(7, 8)]
    assert [array(task, [0, 5], "auto/8") for task in (0, 5)] == [Shard(1, 8), Shard(6, 8)]
    assert array(3, [3], "auto/8") == Shard(3, 8)
    with pytest.raises(RequestError, match="task 9 is none of the 8"):
        array(9, [9], "auto/8")
    for text in ("auto/", "auto/x", "auto/-1", "slurm"):
        with pytest.raises(ValueError, match="is no shard"):
            array(1, [1], text)


def test_another_array_does_not_take_the_parts_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "manifest-2of8.jsonl").touch()
    with pytest.raises(RequestError, match="cannot tell"):
        array(1, [0, 1, 2], folder=tmp_path)
    assert array(1, list(range(8)), folder=tmp_path) == Shard(2, 8)
    array(0, list(range(4)), folder=None).remember(tmp_path)
    with pytest.raises(RequestError, match="cannot tell"):
        array(0, list(range(8)), folder=tmp_path)
    assert array(0, list(range(8)), "auto/8", tmp_path) == Shard(1, 8)
    (tmp_path / ARRAY).write_text("{}")
    with pytest.raises(MediaError, match="cannot be read: remove it"):
        array(0, [0], folder=tmp_path)


def test_a_shard_without_an_array_leaves_no_file(tmp_path: Path) -> None:
    Shard.parse("2/8").remember(tmp_path)
    assert not list(tmp_path.iterdir())
