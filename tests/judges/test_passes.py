"""Passes of a judge about several images: their sizes, too little memory, images that fail, and answers that are stored."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.judged import Together
from vsf_cli.errors import ModelError, OutOfMemory, RequestError, VSFError
from vsf_cli.judges.frames import judge_clips, judge_frames
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.passes import Passes
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import Pair, images_per_pass, judge_several
from vsf_cli.judges.stored import CachedJudge

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
            if len(found) in (1, 3):
                assert len(path.read_text("utf-8").splitlines()) == len(found) + 1
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
    assert [values_of([*part]) for part in judge_several(CachedJudge(judge, path), pictures(0, 1, 2))] == [[0], [1], [2]]
    assert judge.passes == [[1]]


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
