import pytest

from vsf_cli.evaluation.statistics import mcnemar, wilson_interval


@pytest.mark.parametrize(
    ("hits", "count", "interval"), [(8, 10, (0.4902, 0.9433)), (0, 10, (0, 0.2775)), (10, 10, (0.7225, 1)), (0, 0, (0, 1))]
)
def test_intervals_are_those_of_the_books(hits: int, count: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(hits, count) == interval


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ() -> None:
    # 9 pairs differ, 8 of them one way: 2 (C(9, 0) + C(9, 1)) / 2^9.
    ours, theirs = [True] * 8 + [False] + [True] * 5, [False] * 8 + [True] + [True] * 5
    assert mcnemar(ours, theirs) == pytest.approx(2 * 10 / 512)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs) and mcnemar(ours, ours) == 1
