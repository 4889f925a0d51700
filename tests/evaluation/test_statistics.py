import numpy as np
import pytest

from vsf_cli.evaluation.statistics import best_threshold, mcnemar, roc_area, wilson_interval


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


def test_scores_are_compared_pair_by_pair_and_cut_where_they_part_best() -> None:
    chance = np.random.default_rng(4)
    for _ in range(30):
        labels = [True, False, *(chance.random(10) < 0.5).tolist()]
        scores = (chance.integers(0, 8, 12) / 10).tolist()
        yes, no = ([score for score, label in zip(scores, labels, strict=True) if label is kind] for kind in (True, False))
        pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
        assert roc_area(labels, scores) == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)

        def balanced(cut: float, yes: list[float] = yes, no: list[float] = no) -> float:
            return (sum(a > cut for a in yes) / len(yes) + sum(b <= cut for b in no) / len(no)) / 2

        cut, accuracy = best_threshold(labels, scores)
        every = [balanced(tenth / 20) for tenth in range(1, 14)]
        assert accuracy == pytest.approx(balanced(cut), abs=1e-4) and accuracy >= max(every) - 1e-4


@pytest.mark.parametrize(
    ("labels", "scores", "cut", "accuracy"),
    [
        ((True, False), (0.8, 0.1), 0.45, 1.0),
        ((True, True, False, False), (0.9, 0.3, 0.6, 0.1), 0.75, 0.75),
        ((True, False, True, False), (0.2, 0.3, 0.95, 0.9), 0.925, 0.75),
        ((True, False), (0.3, 0.3), 0.3, 0.5),
        ((True, False), (0.1, 0.8), 0.8, 0.5),
    ],
)
def test_of_equally_good_thresholds_that_nearest_to_a_half_is_taken(
    labels: tuple[bool, ...], scores: tuple[float, ...], cut: float, accuracy: float
) -> None:
    assert best_threshold(labels, scores) == (cut, accuracy)
