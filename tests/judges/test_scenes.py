"""The judges of the built-in models' scenes."""

import inspect
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from vsf_cli.cli.judge_options import JudgeOptions
from vsf_cli.config.names import BUILT_IN_JUDGES, of_other_kind
from vsf_cli.config.option import by_key, options_of
from vsf_cli.errors import RequestError
from vsf_cli.generation.plan import request_of
from vsf_cli.judges import JUDGES, judge_named
from vsf_cli.judges.judgement import Describes
from vsf_cli.judges.questions import Record
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.options import OF_REQUEST
from vsf_cli.settings.presets import Settings, load_preset, preset_names
from vsf_cli.toy.judge import CELLS, CLASSES, STATES
from vsf_cli.toy.networks import NETWORKS
from vsf_cli.toy.scenes import PARTS

CAR = Record("car", "a red car on a road", "wheels", "Is a car shown?", "Are the wheels missing?", "car")


def test_judges_without_options_are_the_built_in_ones() -> None:
    without = [name for name, judge in JUDGES.items() if not inspect.signature(judge).parameters]
    assert tuple(without) == BUILT_IN_JUDGES == tuple(NETWORKS)
    with pytest.raises(RequestError, match="judge scenes-2 takes no model"):
        judge_named("scenes-2", {"model": "x"})
    with pytest.raises(RequestError, match="judge scenes-2 knows wheels, windows, lights of a car, but not engine"):
        judge_named("scenes-2", {}).check(replace(CAR, negative="engine"), offline=True)


def test_the_judge_of_videos_knows_the_objects_of_videos_alone() -> None:
    judge = judge_named("scenes-video", {})
    judge.check(CAR, offline=True)
    house = replace(CAR, prompt="a red house on a road", negative="roof", category="house")
    with pytest.raises(
        RequestError, match=r"knows a car, bike, boat, .*, but 'house' names none of them: choose --judge scenes, mllm"
    ):
        judge.check(house, offline=True)
    judge_named("scenes", {}).check(house, offline=True)


@pytest.mark.parametrize(("name", "video"), [("scenes", True), ("scenes-2", True), ("scenes-video", False)])
def test_a_judge_of_the_other_kind_is_warned_of(name: str, video: bool) -> None:
    note = of_other_kind(name, video)
    assert note.startswith(f"judge {name} learned from ") and not of_other_kind(name, not video)
    settings = Settings({"alpha": "auto", "judge": name}, video=video)
    assert note in request_of(Texts("a red car on a road", ("wheels",)), 0, settings, (), video)[1]
    assert not of_other_kind("vlm", video)


def test_what_stays_must_be_a_part_of_the_object() -> None:
    with pytest.raises(RequestError, match="car: judge scenes knows wheels, windows, lights of a car, but not flag, spokes: "):
        judge_named("scenes", {}).check(replace(CAR, keep=("flag", "lights", "spokes")), offline=True)


def test_videos_of_built_in_models_are_judged_by_the_judge_of_videos() -> None:
    chosen = {name: preset for name in preset_names() if (preset := load_preset(name)).model.startswith("builtin:")}
    assert len(chosen) >= 4
    assert {name: preset.judge for name, preset in chosen.items()} == {
        name: "scenes-video" if preset.video else "scenes" for name, preset in chosen.items()
    }


def test_the_help_names_every_judge() -> None:
    for option in (OF_REQUEST["judge"], by_key(*options_of(JudgeOptions))["judge"]):
        assert {*JUDGES} <= {*re.findall(r"[\w-]+", option.help)}


@pytest.mark.parametrize("name", BUILT_IN_JUDGES)
def test_a_built_in_judge_answers_and_describes(name: str) -> None:
    judge, image = judge_named(name, {}), Image.new("RGB", (96, 96))
    found = judge.judge(image, CAR)
    assert not found.positive and found.scores is not None and 0 <= found.scores["absent"] <= 1
    assert isinstance(judge, Describes) and {*judge.things(image, CAR)} <= {"windows", "lights"}
    assert judge.settings["name"] == name and judge.settings["weights"] != judge_named(
        next(other for other in BUILT_IN_JUDGES if other != name), {}
    ).settings.get("weights")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_networks_answer_about_objects_parts_quality_and_places(network: type) -> None:
    objects, parts, quality, places = network()(torch.zeros(2, 3, 96, 96))
    assert objects.shape == (2, len(CLASSES)) and parts.shape == (2, len(PARTS), len(STATES)) and quality.shape == (2,)
    assert places.shape == (2, 1 + 2 * len(PARTS), CELLS, CELLS)
