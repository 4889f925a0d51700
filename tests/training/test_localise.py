"""How well maps localise parts: the measure itself."""

import random

import numpy as np
import pytest

from training.localise import MAPS, area, localise, sample_questions
from vsf_cli.loading.pipelines import load
from vsf_cli.settings.presets import load_preset


def test_area_under_the_curve_and_its_chance() -> None:
    region = np.array([[True, False], [False, False]])
    assert area(np.array([[3.0, 1.0], [2.0, 0.0]]), region) == 1.0 and area(np.zeros((2, 2)), region) == 0.5
    assert area(np.array([[1.0, 0.0], [2.0, 3.0]]), region) == pytest.approx(1 / 3)
    questions = sample_questions("dev", 20, 12)
    assert all(question.part not in question.prompt and question.part in question.naming for question in questions)
    chance = random.Random(0)
    values = [area(np.array([[chance.random() for _ in range(12)] for _ in range(12)]), one.region) for one in questions]
    assert abs(np.mean(values) - 0.5) < 0.1


def test_two_scenes_are_localised_better_than_by_chance() -> None:
    preset = load_preset("tiny-sd3-turbo")
    pipe, questions = load(preset.model, preset.dtype), sample_questions("dev", 2, 12)
    results = list(localise(pipe, preset, questions))
    assert len(results) == 2 and all(tuple(maps) == MAPS for maps in results)
    for maps in results:
        assert {values.shape for values in maps.values()} == {(8, 6, 12, 12)}, "steps, blocks, rows, columns"
        assert maps["share"].min() >= 0 and maps["share"].max() <= 1
    assert not np.array_equal(results[0]["share"], results[1]["share"])
    means = [area(maps["share"].mean((0, 1)), one.region) for maps, one in zip(results, questions, strict=True)]
    assert np.mean(means) > 0.7, "200 scenes have 0.89, chance 0.5"
    again = next(localise(pipe, preset, questions))
    assert all(np.array_equal(again[name], results[0][name]) for name in ("share", "negative", "positive"))
