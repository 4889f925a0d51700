"""Passes of a judge about several images: their sizes, too little memory, images that fail, and answers that are stored."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.judged import Together
from vsf_cli.errors import JudgeOutOfMemory, ModelError, OutOfMemory, RequestError, VSFError
from vsf_cli.generation.run import advising
from vsf_cli.judges import judge_named
from vsf_cli.judges.frames import judge_clips, judge_frames
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.passes import Passes
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import Pair, images_per_pass, judge_several
from vsf_cli.judges.stored import CachedJudge, stored_judgements
from vsf_cli.settings.request import Request

CAR = Record("car", "a red car on a road", "wheels")


def pictures(*values: int) -> list[Pair]:
    return [(Image.new("L", (4, 4), value), CAR) for value in values]


def values_of(outcomes: list[object]) -> list[object]:
    return [one.quality if isinstance(one, Judgement) else type(one) for one in outcomes]


def test_passes_are_full() -> None:
    judge = Together(3)
    parts = [values_of([*part]) for part in judge_several(judge, pictures(*range(8)))]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7]] and judge.passes == parts


def test_a_pass_beyond_the_memory_is_halved_and_so_are_those_that_follow() -> None:
    judge = Together(8, fits=3)
    parts = [values_of([*part]) for part in judge_several(judge, pictures(*range(9)))]
    assert parts == [[0, 1], [2, 3], [4, 5], [6, 7], [8]] and images_per_pass(judge) == 2
    assert [len(one) for one in judge.passes] == [8, 4, 2, 2, 2, 2, 1]


def test_only_one_image_that_does_not_fit_is_an_error() -> None:
    judge = Together(4, fits=0)
    (first,), *rest = judge_several(judge, pictures(1, 2))
    assert isinstance(first, OutOfMemory) and len(rest) == 1
    assert str(first) == "out of memory for the judge with 1 image: end other programs, or choose a smaller --judge-model"
    # What holds the tensors is gone.
    assert first.__traceback__ is first.__cause__ is first.__context__ is None
    with pytest.raises(OutOfMemory, match="with 1 image"):
        judge_frames(judge, [one for one, _ in pictures(1)], CAR)


def test_an_image_that_fails_does_not_fail_its_pass() -> None:
    judge = Together(4, fails=(2,))
    parts = [values_of([*part]) for part in judge_several(judge, pictures(*range(6)))]
    assert parts == [[0], [1], [VSFError], [3], [4, 5]] and images_per_pass(judge) == 4


def test_a_model_that_answers_about_no_image_is_not_asked_about_all() -> None:
    def refusing(part: Sequence[Pair]) -> list[Judgement]:
        asked.append(len(part))
        raise ModelError("it cannot be asked")

    asked: list[int] = []
    with pytest.raises(ModelError, match="cannot be asked"):
        list(Passes(2).made(refusing, pictures(*range(9))))
    assert asked == [2, 1, 1]


def test_a_pass_has_one_image_at_least() -> None:
    for size in (0, -1):
        with pytest.raises(RequestError, match=f"batch size is {size}, but must be at least 1"):
            judge_named("clip", {"batch_size": size})
        with pytest.raises(RequestError, match=f"batch size is {size}"):
            judge_named("vlm", {"batch_size": size})


def test_the_advice_of_a_judge_without_memory_is_its_own() -> None:
    with pytest.raises(JudgeOutOfMemory, match="smaller --judge-model"), advising(None, Request("a", "b", 1)):
        judge_frames(Together(1, fits=0), [one for one, _ in pictures(1)], CAR)


def test_threads_do_not_ask_twice(tmp_path: Path) -> None:
    """What another thread has answered meanwhile is not asked about."""
    judge = Together(1)
    kept = CachedJudge(judge, tmp_path / "answers.jsonl")
    one, other = judge_several(kept, pictures(1, 2)), judge_several(kept, pictures(1, 2, 3))
    assert [values_of(next(part)) for part in (one, other, one)] == [[1], [1, 2], [2]]
    assert values_of(next(other)) == [3] and judge.passes == [[1], [2], [3]]


def test_damaged_answers_are_asked_for_again(tmp_path: Path) -> None:
    path, judge = tmp_path / "answers.jsonl", Together(4)
    answer = {"positive": True, "negative": True, "quality": 1.0, "reason": ""}
    for line in ([], 1, "text", {"key": [1], **answer}, {"key": {}, **answer}, {"key": 1, **answer}, {"key": "a"}):
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    assert not CachedJudge(judge, path).known and not list(stored_judgements(path))


def test_what_is_a_bug_is_not_hidden() -> None:
    def broken(_: Sequence[Pair]) -> list[Judgement]:
        raise TypeError("no")

    with pytest.raises(TypeError):
        list(Passes(2).made(broken, pictures(1, 2)))


def test_memory_is_known_by_the_errors_of_torch() -> None:
    asked = []

    def ask(part: Sequence[Pair]) -> list[Judgement]:
        asked.append(len(part))
        if len(part) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [Judgement(True, True, 1.0)] * len(part)

    assert len([*Passes(2).made(ask, pictures(1, 2))]) == 2 and asked == [2, 1, 1]


def test_frames_of_several_clips_are_in_one_pass() -> None:
    judge = Together(8, fails=(13,))
    clips = [([one for one, _ in pictures(*frames)], CAR) for frames in (range(9), range(9, 18), range(18, 20))]
    first, second, third = judge_clips(judge, clips)
    assert isinstance(first, Judgement) and first.quality == 4 and isinstance(third, Judgement) and third.quality == 18.5
    assert isinstance(second, VSFError) and [len(one) for one in judge.passes] == [8, 8, *[1] * 8, 4]


def test_answers_of_a_pass_are_stored_when_it_is_done(tmp_path: Path) -> None:
    path, judge = tmp_path / "answers.jsonl", Together(2, ends=5)
    found = []
    with pytest.raises(KeyboardInterrupt):
        for part in judge_several(CachedJudge(judge, path), pictures(*range(7))):
            found += part
            assert len(path.read_text("utf-8").splitlines()) == len(found)
    assert len(found) == 4
    with path.open("a", encoding="utf-8") as file:
        file.write('{"key": "torn')
    again = Together(2)
    kept = CachedJudge(again, path)
    outcomes = [one for part in judge_several(kept, pictures(6, *range(7), 6)) for one in part]
    # Neither what is stored is asked about, nor the same twice; the passes are full.
    assert again.passes == [[6, 4], [5]] and values_of(outcomes) == [6, *range(7), 6]
    assert kept.judge(*pictures(3)[0]) == outcomes[4] and len(again.passes) == 2


def test_an_error_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    parts = [*judge_several(CachedJudge(Together(4, fails=(1,)), path), pictures(0, 1, 1, 2))]
    assert values_of([one for part in parts for one in part]) == [0, VSFError, VSFError, 2]
    assert [json.loads(line)["quality"] for line in path.read_text("utf-8").splitlines()] == [0, 2]
    judge = Together(4)
    again = judge_several(CachedJudge(judge, path), pictures(0, 1, 2))
    assert values_of([one for part in again for one in part]) == [0, 1, 2] and judge.passes == [[1]]


def test_a_model_that_cannot_be_loaded_is_no_error_of_an_image(tmp_path: Path) -> None:
    """It is loaded only where an answer is wanted."""
    judge = Together(4, loads=False)
    kept = CachedJudge(judge, tmp_path / "answers.jsonl")
    assert [*judge_clips(kept, [])] == []
    with pytest.raises(ModelError, match="is not here"):
        list(judge_several(kept, pictures(1, 2)))
    assert judge.loaded == 1 and not judge.passes


def test_other_judges_are_asked_one_by_one() -> None:
    class Alone:
        name, workers, costly = "alone", 1, True
        settings: dict[str, str] = {}  # noqa: RUF012

        def judge(self, image: Image.Image, record: Record) -> Judgement:
            if image.getpixel((0, 0)) == 1:
                raise RequestError("no scene")
            return Judgement(True, True, float(image.getpixel((0, 0))))  # type: ignore[arg-type]

        def check(self, record: Record, offline: bool) -> None:
            pass

    assert images_per_pass(Alone()) == 1
    assert [values_of([*part]) for part in judge_several(Alone(), pictures(0, 1, 2))] == [[0], [RequestError], [2]]
