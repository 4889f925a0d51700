"""How well maps find parts: the measure itself."""

import random

import numpy as np
import pytest

from vsf_cli.tiny.localise import area, questions


def test_area_under_the_curve_and_its_chance() -> None:
    region = np.array([[True, False], [False, False]])
    assert area(np.array([[3.0, 1.0], [2.0, 0.0]]), region) == 1.0 and area(np.zeros((2, 2)), region) == 0.5
    assert area(np.array([[1.0, 0.0], [2.0, 3.0]]), region) == pytest.approx(1 / 3)
    asked = questions("dev", 20, 12)
    assert all(question.part not in question.prompt and question.part in question.naming for question in asked)
    chance = random.Random(0)
    values = [area(np.array([[chance.random() for _ in range(12)] for _ in range(12)]), one.region) for one in asked]
    assert abs(np.mean(values) - 0.5) < 0.1
