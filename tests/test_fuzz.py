"""A few cases of each generator of the fuzz; `python -m tests.fuzz` runs thousands."""

import pytest

from tests.fuzz import GENERATORS, problem_of


@pytest.mark.parametrize("name", GENERATORS)
def test_what_is_drawn_has_no_traceback_and_no_silence(name: str) -> None:
    problems = [problem_of(name, f"suite-{number}") for number in range(3 if name == "lora" else 8)]
    assert not [problem for problem in problems if problem]
