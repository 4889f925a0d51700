"""The requests between which a judge chooses."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

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
    """Returns the seeds that are tried: the request's, then others that depend on it.

    They are not the next ones, since images of several seeds in a row would share them.
    """
    others = (f"{request.seed} {number}".encode() for number in range(1, request.best_of))
    return [request.seed, *(int(sha256(text).hexdigest()[:8], 16) for text in others)]


def unguided(request: Request, seed: int) -> Request:
    """Returns a request without guidance."""
    return replace(request, **{**UNCHOSEN, "seed": seed, "keep": (), "method": "none", "parameters": {}})


def _at(request: Request, strength: Strength) -> Request:
    if strength.alpha is None:
        return unguided(request, request.seed)
    return replace(request, parameters={**request.guidance.parameters, **strength.numbers})
