"""Intervals and tests of proportions, and what scores tell about labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, rankdata

__all__ = ["best_threshold", "mcnemar", "rate_of", "roc_area", "wilson_interval"]


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a proportion, rounded to 4 digits; (0, 1) if `count` is 0.

    Every trial counts as independent.
    """
    if count == 0:
        return 0.0, 1.0
    found = binomtest(hits, count).proportion_ci(0.95, "wilson")
    return round(float(found.low), 4), round(float(found.high), 4)


def rate_of(name: str, hits: Sequence[bool]) -> dict[str, Any]:
    """Returns a rate and its interval, by their names in a table; both are None if there are no cases."""
    rate, interval = (round(sum(hits) / len(hits), 4), wilson_interval(sum(hits), len(hits))) if hits else (None, None)
    return {name: rate, f"{name}_interval": interval}


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Returns the p-value of McNemar's exact test of two methods on the same prompts and seeds.

    It is the two-sided binomial test of the pairs in which the methods differ; 1 if there are none.
    """
    only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    differing = only_ours + only_theirs
    return float(binomtest(only_ours, differing).pvalue) if differing else 1.0


def roc_area(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Returns the area under the ROC curve: how often a yes has a higher score than a no; equal scores count a half.

    There must be labels of both kinds.
    """
    yes = np.asarray(labels)
    count = int(yes.sum())
    above = rankdata(scores)[yes].sum() - count * (count + 1) / 2
    return round(float(above / (count * (len(labels) - count))), 4)


def best_threshold(labels: Sequence[bool], scores: Sequence[float]) -> tuple[float, float]:
    """Returns the threshold with the best balanced accuracy, and that: a score above it means yes.

    Balanced accuracy is the mean of the rates at which a yes and a no are found, (1 + Youden's J) / 2. Thresholds stand in the
    middle between two scores; of equally good ones, that nearest to 0.5 is taken. If none is better than chance, it is the
    highest score, so that nothing is a yes. There must be labels of both kinds.
    """
    values, yes = np.asarray(scores, dtype=float), np.asarray(labels)
    levels = np.unique(values)
    cuts = np.append((levels[:-1] + levels[1:]) / 2, levels[-1])
    below_yes, below_no = (np.searchsorted(np.sort(values[of]), cuts, "right") / of.sum() for of in (yes, ~yes))
    accuracy = np.round((1 - below_yes + below_no) / 2, 9)
    best = min(range(len(cuts)), key=lambda index: (-accuracy[index], abs(cuts[index] - 0.5)))
    return round(float(cuts[best]), 7), round(float(accuracy[best]), 4)
