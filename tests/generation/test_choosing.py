"""Strengths and seeds that a judge chooses: order, costs, ties, what stays, what is known, and metadata."""

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

import vsf_cli.generation.choosing as choosing
from tests.judged import Maker, Seer, SeerOfSeveral, from_two_on
from vsf_cli.config.strengths import Strength, given_strengths, is_auto, parse_strengths
from vsf_cli.errors import ModelError, PictureError, RequestError, VSFError
from vsf_cli.generation.asking import Answer, Verdicts
from vsf_cli.generation.choice import tried_strip
from vsf_cli.generation.choosing import choose, choose_batch
from vsf_cli.generation.generate import generate
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.settings.candidates import seeds_of
from vsf_cli.settings.request import Request


def request(strengths: str = "1,2,4", **options: Any) -> Request:
    own = {"prompt": "a red bike", "model": "x", "seed": 7, "negative": ("wheels",), "judge": "scenes", **options}
    return Request(**own, strengths=strengths)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    return installed(monkeypatch, Maker())


def installed(monkeypatch: pytest.MonkeyPatch, made_by: Maker) -> Maker:
    monkeypatch.setattr(choosing, "generate_batch", made_by)
    return made_by


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("1,1.5", [(1.0, None), (1.5, None)]),
        ("none, 2@0.9", [(None, None), (2.0, 0.9)]),
        ("1..2/3@1", [(1.0, 1.0), (1.5, 1.0), (2.0, 1.0)]),
        ("4,2@0.9,none,2", [(None, None), (2.0, 0.9), (2.0, None), (4.0, None)]),
    ],
)
def test_strengths_are_numbers_ranges_and_none(text: str, strengths: list[Any]) -> None:
    assert parse_strengths(text) == tuple(Strength(*one) for one in strengths)
    assert parse_strengths(",".join(map(str, parse_strengths(text)))) == parse_strengths(text)
    assert given_strengths(f"auto: {text}") == text and is_auto(f"auto: {text}")


@pytest.mark.parametrize("text", ["", "1,,2", "one", "none@1", "2@", "1,1", "2@x", "2@0..1/3"])
def test_what_is_no_strength_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no strength|names a strength twice"):
        parse_strengths(text)
    assert given_strengths("auto") == "" and not is_auto("automatic") and not is_auto(3.0)


def test_the_smallest_strength_that_does_it_is_chosen(maker: Maker) -> None:
    seen: list[tuple[int, int]] = []
    result = choose(None, request(), Seer(from_two_on), tried=lambda done, count: seen.append((done, count)))
    assert result.request.parameters["alpha"] == 2 and seen == [(0, 3), (1, 3), (2, 3)]
    assert result.choice and (result.choice.content, result.choice.runs, result.seconds) == (True, 2, 1.0)
    assert result.request == replace(
        request(), strengths="", judge=None, parameters=replace(request().guidance, alpha=2.0).parameters
    )
    assert not result.notes


def test_the_best_is_chosen_where_none_does_it(maker: Maker) -> None:
    quality = {1.0: 0.5, 2.0: 0.8, 4.0: 0.8}
    result = choose(None, request(), Seer(lambda alpha, _: (True, False, quality[alpha])))
    assert result.request.parameters["alpha"] == 2 and result.choice and not result.choice.content
    (note,) = result.notes
    assert "content with none of 3 candidates" in note and "at 2" in note
    lost = choose(None, request(), Seer(lambda alpha, _: (alpha < 4, alpha > 1, 0.1)))
    assert lost.request.parameters["alpha"] == 2
    assert choose(None, request(), Seer(lambda alpha, _: (False, alpha == 4, 0.5))).request.parameters["alpha"] == 4


def test_a_probability_of_absence_is_more_than_a_no(maker: Maker) -> None:
    """As the judge `clip` gives it, of absence alone."""

    class Unsure(Seer):
        def judge(self, *question: Any) -> Judgement:
            answer = super().judge(*question)
            return replace(answer, scores={"absent": {"at 1": 0.1, "at 2": 0.4, "at 4": 0.3}[answer.reason]})

    (note,) = (result := choose(None, request(), Unsure(lambda *_: (True, False, 0.9)))).notes
    assert result.request.parameters["alpha"] == 2 and "at 2" in note
    assert choose(None, request(), Seer(lambda *_: (True, False, 0.9))).request.parameters["alpha"] == 1


def test_seeds_are_tried_one_after_the_other(maker: Maker) -> None:
    first, second, *_ = seeds_of(request(best_of=3))
    # Seeds in a row share none of those that follow.
    assert first == 7 and len({seed for number in range(9) for seed in seeds_of(request(seed=number, best_of=9))}) == 81
    result = choose(None, request(strengths="", best_of=3), Seer(lambda _, seed: (True, seed == second % 256, 0.9)))
    assert result.request.seed == second and [one.seed for (one,) in maker.passes] == [7, second]
    both = choose(None, request("1,2", best_of=2), Seer(lambda alpha, seed: (True, (alpha, seed) == (1, second % 256), 0.9)))
    assert (both.request.seed, both.request.parameters["alpha"]) == (second, 1)
    assert [attempt.request.seed for attempt in both.choice.attempts] == [7, 7, second]  # type: ignore[union-attr]


def test_no_guidance_is_a_strength_and_says_what_can_stay(maker: Maker) -> None:
    judge = Seer(from_two_on, shown=("bell",))
    result = choose(None, request("none,1,2@0.9", keep=("bell, flag",)), judge)
    assert result.request.parameters["contrast"] == 0.9 and result.choice and result.choice.content
    assert [kept for _, _, kept in judge.asked] == [("bell", "flag")] * 3
    bare = choose(None, request("none,1,2", keep=("bell",)), Seer(from_two_on))
    assert bare.request.parameters["alpha"] == 2 and bare.choice and bare.choice.content
    # Where nobody knows what was there, all of it has to stay.
    strict = choose(None, request("1,2", keep=("bell, flag",)), Seer(from_two_on, shown=("bell",)))
    assert strict.choice and not strict.choice.content
    absent = choose(None, request("none,1"), Seer(lambda *_: (True, True, 1.0)))
    assert absent.request.method == "none" and absent.choice and absent.choice.content


def test_what_the_judge_sees_is_kept(maker: Maker) -> None:
    judge = Seer(from_two_on, shown=("bell", "flag"))
    result = choose(None, request("2,6", keep=("auto",)), judge)
    assert result.request.keep == ("bell", "flag") and result.request.parameters["alpha"] == 2
    assert result.choice and (result.choice.runs, len(result.choice.attempts)) == (2, 1)
    assert [kept for _, _, kept in judge.asked] == [(), ("bell", "flag")]
    maker.passes.clear()
    again = choose(None, request("none,2", keep=("auto",)), Seer(from_two_on, shown=("bell",)))
    assert [one.method for (one,) in maker.passes] == ["none", "vsf"] and again.request.keep == ("bell",)
    alone = choose(None, request("", keep=("auto",)), Seer(from_two_on, shown=()))
    assert (alone.request.keep, alone.request.guidance.parameters["alpha"]) == ((), 3)


def test_requests_of_one_round_are_one_pass(maker: Maker) -> None:
    asked = [request(seed=seed) for seed in (1, 2, 3)]
    results = choose_batch(None, asked, Seer(lambda alpha, seed: (True, alpha >= min(seed, 2), 0.9)))
    assert [[one.seed for one in group] for group in maker.passes] == [[1, 2, 3], [2, 3]]
    assert [result.request.parameters["alpha"] for result in results] == [1, 2, 2]
    assert [result.request.seed for result in results] == [1, 2, 3]


def test_a_pass_that_is_not_full_makes_what_may_be_wanted_next(maker: Maker) -> None:
    judge = Seer(from_two_on)
    (result,) = choose_batch(None, [request("none,1,2,4")], judge, size=3)
    assert [[one.guidance.parameters.get("alpha") for one in group] for group in maker.passes] == [[None, 1, 2]]
    assert result.request.parameters["alpha"] == 2 and [alpha for alpha, _, _ in judge.asked] == [0, 1, 2]
    maker.passes.clear()
    choose_batch(None, [request(seed=1), request(seed=2)], Seer(lambda alpha, seed: (True, seed == alpha, 0.9)), size=3)
    made = [[(one.seed, one.parameters["alpha"]) for one in group] for group in maker.passes]
    assert made == [[(1, 1), (2, 1), (1, 2)], [(2, 2), (2, 4)]]


@pytest.mark.parametrize("keep", [(), ("auto",)])
def test_images_of_one_round_are_judged_in_one_pass(keep: tuple[str, ...], maker: Maker) -> None:
    """And only those that are wanted: each search takes its own, and stops where the judge is content."""
    asked, needed = [request("1,2,4", seed=seed, keep=keep) for seed in (1, 2, 3)], {1: 1, 2: 4, 3: 2}
    judge = SeerOfSeveral(lambda alpha, seed: (True, alpha >= needed[seed], 0.9), shown=("bell",))
    results = choose_batch(None, asked, judge, size=9)
    assert [result.request.parameters["alpha"] for result in results] == [1, 4, 2]
    looks = [[(0, 1), (0, 2), (0, 3)]] if keep else []
    assert judge.passes == [*looks, [(1, 1), (1, 2), (1, 3)], [(2, 2), (2, 3)], [(4, 2)]]
    alone = choose_batch(None, asked, Seer(judge._answer, shown=("bell",)), size=9)
    assert [one.choice for one in results] == [one.choice for one in alone] and len(maker.passes) == (4 if keep else 2)


def test_the_same_question_of_two_searches_is_asked_once(maker: Maker) -> None:
    judge = SeerOfSeveral(from_two_on)
    first, second = choose_batch(None, [request("1,2"), request("1,2,4")], judge, verdicts=Known())
    assert judge.passes == [[(1, 7)], [(2, 7)]] and first.request == second.request


def test_answers_beside_one_that_fails_are_stored(maker: Maker) -> None:
    def busy(_: float, seed: int) -> tuple[bool, bool, float]:
        if seed == 2:
            raise VSFError("busy")
        return True, True, 0.9

    verdicts = Known()
    with pytest.raises(ModelError, match="judge seer: busy"):
        choose_batch(None, [request(seed=seed) for seed in (1, 2, 3)], Seer(busy), verdicts=verdicts)
    assert len(verdicts.answers) == 2


def test_answers_of_a_pass_are_stored_before_anything_else_is_asked(maker: Maker) -> None:
    """What else images show is asked one by one, which takes long and may be stopped."""

    class Stopped(SeerOfSeveral):
        def things(self, image: Image.Image, record: Record) -> tuple[str, ...]:
            raise KeyboardInterrupt

    verdicts, requests = Known(), [request("none,1", seed=seed, keep=("auto",)) for seed in (1, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        choose_batch(None, requests, Stopped(from_two_on), verdicts=verdicts)
    assert len(verdicts.answers) == 3
    judge = SeerOfSeveral(from_two_on, shown=("bell",))
    choose_batch(None, requests, judge, verdicts=verdicts)
    assert [answer.things for answer in verdicts.answers.values()] == [*[("bell",)] * 3, *[None] * 3]
    assert [alpha for alpha, *_ in judge.asked] == [1, 1, 1], "the images without guidance were judged before"


def test_a_candidate_that_is_no_image_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made_by = installed(monkeypatch, Maker(lambda one: one.parameters["alpha"] == 4 and one.seed == 1))
    asked = [request(seed=seed) for seed in (1, 2)]
    first, second = choose_batch(None, asked, Seer(lambda alpha, _: (True, alpha == 4, 0.9)))
    assert first.choice and (first.request.parameters["alpha"], first.choice.content) == (1, False)
    assert [attempt.judgement is None for attempt in first.choice.attempts] == [False, False, True]
    assert second.request.parameters["alpha"] == 4 and first.choice.to_json()["tried"][2]["answer"] is None
    installed(monkeypatch, Maker(lambda _: True))
    with pytest.raises(PictureError, match="none of 3 candidates is an image"):
        choose(None, request(), Seer(from_two_on))
    assert made_by.passes


def test_what_else_an_image_shows_is_asked_though_its_verdict_is_known(maker: Maker) -> None:
    verdicts, judge = Known(), Seer(from_two_on, shown=("bell",))
    choose_batch(None, [request("none,1")], judge, verdicts=verdicts)
    (result,) = choose_batch(None, [request("none,2", keep=("auto",))], judge, verdicts=verdicts)
    assert result.request.keep == ("bell",)


def test_a_judge_that_cannot_be_asked_is_a_model_that_is_not_there(maker: Maker) -> None:
    def gone(*_: Any) -> Any:
        raise VSFError("asked about x failed: no route")

    with pytest.raises(ModelError, match="judge seer: asked about x failed"):
        choose(None, request(), Seer(gone))
    result = choose(None, request("2", keep=("bell",)), Blind(from_two_on))
    assert result.choice and result.choice.content and "cannot tell whether what --keep names stays" in result.notes[0]


class Blind(Seer):
    """A judge that does not see what stays."""

    def judge(self, *question: Any) -> Judgement:
        return replace(super().judge(*question), kept=None)


class Known(Verdicts):
    """Answers in memory."""

    def __init__(self) -> None:
        self.answers: dict[Any, Answer] = {}

    def known(self, request: Request, record: Record) -> Answer | None:
        return self.answers.get(repr((request, record)))

    def add(self, request: Request, record: Record, answer: Answer) -> None:
        self.answers[repr((request, record))] = answer


@pytest.mark.parametrize("keep", [(), ("auto",)])
def test_what_is_known_is_neither_made_nor_judged_again(keep: tuple[str, ...], maker: Maker) -> None:
    asked, verdicts = request(keep=keep), Known()
    (first,) = choose_batch(None, [asked], Seer(from_two_on, shown=("bell",)), verdicts=verdicts)
    maker.passes.clear()
    judge = Seer(from_two_on, shown=("bell",))
    (again,) = choose_batch(None, [asked], judge, verdicts=verdicts)
    assert judge.asked == [] and maker.passes == [[first.request]] and again.request == first.request
    assert again.choice == first.choice and again.seconds == 0.5
    (whole,) = choose_batch(None, [asked], judge, verdicts=verdicts, keep_all=True)
    # Whose images are wanted are made again, and not judged again.
    assert not judge.asked and whole.choice and all(attempt.frames for attempt in whole.choice.attempts)


def test_the_choice_is_plain_values_and_a_strip(maker: Maker) -> None:
    result = choose(None, request(best_of=2), Seer(from_two_on), keep_all=True)
    assert result.choice is not None
    plain = result.choice.to_json()
    assert (plain["strengths"], plain["best_of"], plain["chosen"], plain["judge"]) == ("1,2,4", 2, 2, {"name": "seer"})
    assert [(one["alpha"], one["answer"]["negative"]) for one in plain["tried"]] == [(1.0, False), (2.0, True)]
    assert tried_strip(result.choice).width > 2 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": "1,x"}, "is no strength"),
        ({"strengths": "-1"}, "alpha is -1"),
        ({"method": "nag"}, "is for VSF"),
        ({"negative": ()}, "is for VSF and a negative prompt"),
        ({"strengths": "2@0.5"}, "has contrasts, which need what --keep names"),
        ({"judge": None}, "nobody chooses"),
        ({"best_of": 0}, "best_of is 0"),
        ({"keep": ("auto", "flag")}, "stands alone"),
        ({"keep": ("flag, AUTO",)}, "stands alone"),
        ({"strengths": "", "judge": "scenes"}, "--judge is for a choice between images"),
        ({"judge_threshold": 1.5}, "judge_threshold is 1.5"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        request(**{"strengths": "1,2", **options})


def test_what_is_lost_is_said(maker: Maker) -> None:
    judge = Seer(lambda alpha, seed: (True, alpha >= 2, 0.9), shown=("bells",))
    result = choose(None, request(strengths="none,1,2,6", keep=("bells", "legs")), judge)
    assert result.choice is not None and result.choice.content, "legs are not shown without guidance either"
    without = choose(None, request(strengths="2,6", keep=("bells", "legs")), judge)
    assert without.choice is not None and without.choice.summary == "alpha 2: at 2, legs lost"
    assert without.choice.to_json()["tried"][1]["lost"] == ["bells", "legs"] and "legs lost" in without.notes[-1]


def test_a_judge_that_sees_nothing_to_keep_is_told_of(maker: Maker) -> None:
    (note,) = choose(None, request(strengths="2", keep=("auto",)), Seer(from_two_on)).notes
    assert note == "judge seer sees nothing else without guidance, so that --keep auto keeps nothing"


def test_nothing_to_choose_between_is_said() -> None:
    plain = replace(request(), strengths="", judge=None)
    with pytest.raises(RequestError, match="nothing to choose between"):
        choose(None, plain, Seer(from_two_on))
    with pytest.raises(RequestError, match=r"is for vsf_cli\.choose"):
        generate(None, request())
    assert "judge" not in plain.to_json() and Request.from_json(request(best_of=3).to_json()) == request(best_of=3)
