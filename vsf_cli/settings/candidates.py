"""The requests between which a judge chooses."""

from collections.abc import Iterator
from dataclasses import replace

from vsf_cli.config.strengths import Strength
from vsf_cli.settings.request import UNCHOSEN, Request

__all__ = ["candidates_of", "seeds_of", "unguided"]


def candidates_of(request: Request, seed: int, keep: tuple[str, ...]) -> Iterator[Request]:
    """Yields the candidates of one of a request's seeds, in the order in which they are tried; `keep` is what has to stay."""
    plain = replace(request, **{**UNCHOSEN, "seed": seed, "keep": keep})
    for strength in request.tried_strengths:
        yield _at(plain, strength)
    if not request.strengths:
        yield plain


def seeds_of(request: Request) -> list[int]:
    """Returns the seeds that are tried."""
    return [(request.seed + number) % 2**64 for number in range(request.best_of)]


def unguided(request: Request, seed: int) -> Request:
    """Returns a request without guidance."""
    return replace(request, **{**UNCHOSEN, "seed": seed, "keep": (), "method": "none", "parameters": {}})


def _at(request: Request, strength: Strength) -> Request:
    if strength.alpha is None:
        return unguided(request, request.seed)
    return replace(request, parameters={**request.guidance.parameters, **strength.numbers})
