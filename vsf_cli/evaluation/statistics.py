"""Intervals and tests of proportions."""

from collections.abc import Sequence

from scipy.stats import binomtest

__all__ = ["mcnemar", "wilson_interval"]


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a proportion, rounded to 4 digits; (0, 1) if `count` is 0.

    Every trial counts as independent.
    """
    if count == 0:
        return 0.0, 1.0
    found = binomtest(hits, count).proportion_ci(0.95, "wilson")
    return round(float(found.low), 4), round(float(found.high), 4)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Returns the p-value of McNemar's exact test of two methods on the same prompts and seeds.

    It is the two-sided binomial test of the pairs in which the methods differ; 1 if there are none.
    """
    only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    differing = only_ours + only_theirs
    return float(binomtest(only_ours, differing).pvalue) if differing else 1.0
