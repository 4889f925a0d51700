"""Whole models by dense attention in float64, without any of the package's code: the oracle of all families and methods.

The stock processors find a dense function in place of diffusers' own. It knows guided calls by the number of their keys, and
gives each row what the masks of the paper give it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from vsf_cli.methods import NAG, NASA, ONG, VSF, Angular, Method


@dataclass
class Dense:
    """Attention with shape (B, H, L, D).

    Arguments:
        order: How rows stand: "I P N K", "N K P I R", or in cross attention "P N K", where K is the kept prompts, and R an
            image that is edited.
        images: How many keys are those of both images; 0 in cross attention.
        positives: How many tokens the positive prompt has.
        lengths: How many tokens the negative prompt of each row has; the longest decides its padding.
        method: The method.
        kept: How many tokens the kept prompts of each row have; the longest decides their padding.
        kept_weights: The weight of each of these tokens; None means 1.
        calls: How many guided calls were made.
    """

    order: str
    images: int
    positives: int
    lengths: list[int]
    method: Method
    kept: list[int] | None = None
    kept_weights: list[Tensor] | None = None
    calls: int = 0
    references: int = 0

    def __post_init__(self) -> None:
        self.kept = self.kept or [0] * len(self.lengths)
        self.kept_weights = self.kept_weights or [torch.ones(count, dtype=torch.float64) for count in self.kept]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention with what is added to the logits, with shape (B, H or 1, Q or 1, K)."""
        assert self.kept is not None and self.kept_weights is not None
        text = self.positives + max(self.lengths) + max(self.kept)
        if self.images and key.shape[2] == text and len(query) == len(self.lengths):
            return self.text_alone(query, key, value)
        if key.shape[2] != self.images + text:
            return softmax(query, key, value, 0.0 if bias is None else bias)
        self.calls += 1
        bias = torch.zeros(1, 1, 1, 1) if bias is None else bias
        bias = bias.expand(len(query), -1, query.shape[2], key.shape[2])
        lengths = zip(self.lengths, self.kept, self.kept_weights, strict=True)
        rows = [self.sample(*(tensor[n] for tensor in (query, key, value, bias)), *row) for n, row in enumerate(lengths)]
        return torch.stack(rows)

    def text_alone(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Text without an image, each prompt by itself."""
        assert self.kept is not None
        output, start = torch.zeros_like(query), 0
        for part in self.order.replace("I", "").split():
            real = {"N": self.lengths, "K": self.kept, "P": [self.positives] * len(query)}[part]
            for row, count in enumerate(real):
                own = slice(start, start + count)
                output[row, :, own] = softmax(query[row, :, own], key[row, :, own], value[row, :, own])
            start += max(real)
        return output

    def sample(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, length: int, kept_length: int, weights: Tensor
    ) -> Tensor:
        """One sample with shape (H, L, D), and the bias of its rows."""
        assert self.kept is not None
        counts = {"I": self.images - self.references, "R": self.references}
        counts |= {"P": self.positives, "N": max(self.lengths), "K": max(self.kept)}
        places, start = {}, 0
        for part in self.order.split():
            places[part] = list(range(start, start + counts[part]))
            start += counts[part]
        image, positive, negative = places.get("I", []), places["P"], places["N"][:length]
        kept = places["K"][:kept_length]
        reference = places.get("R", [])
        images = [*image, *reference]
        base = [*images, *positive]
        spared = value[:, kept] * weights[:, None]
        if not image:
            return self.image_rows(query, key, value, bias, base, negative, kept, spared, [])
        output = torch.zeros_like(query)
        of_image = query[:, image], key, value, bias[:, image]
        output[:, image] = self.image_rows(*of_image, base, negative, kept, spared, images)
        for rows in (positive, reference):
            output[:, rows] = softmax(query[:, rows], key[:, base], value[:, base], bias[:, rows][..., base])
        for group, real in (("N", negative), ("K", kept)):
            own, rows = [*images, *real], places[group]
            output[:, rows] = softmax(query[:, rows], key[:, own], value[:, own], bias[:, rows][..., own])
        return output

    def image_rows(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        base: list[int],
        negative: list[int],
        kept: list[int],
        spared: Tensor,
        images: list[int],
    ) -> Tensor:
        method, plain = self.method, softmax(query, key[:, base], value[:, base], bias[..., base])
        if not negative:
            return plain
        if isinstance(method, VSF):
            every = [*base, *negative]
            beta = torch.tensor([0.0] * len(base) + [float(method.beta)] * len(negative), dtype=query.dtype)
            values = torch.cat([value[:, base], -method.alpha * value[:, negative]], 1)
            weights = (query @ key[:, every].mT / query.shape[-1] ** 0.5 + bias[..., every] - beta).softmax(-1)
            share = weights[..., len(base) :].sum(-1, keepdim=True)
            saved = softmax(query, key[:, kept], spared, bias[..., kept]) if kept else torch.zeros_like(plain)
            if method.orthogonal:
                away = softmax(query, key[:, negative], value[:, negative], bias[..., negative]) - method.contrast * saved
                return (1 - share) * plain - method.alpha * share * beside(away, plain)
            return weights @ values + method.alpha * method.contrast * share * saved
        own = [*images, *negative]
        away = softmax(query, key[:, own], value[:, own], bias[..., own])
        if isinstance(method, NASA):
            return plain - method.alpha * away
        if isinstance(method, ONG):
            if method.per_head:
                return plain - method.scale * beside(away, plain)
            return plain - method.scale * split(beside(joined(away), joined(plain)), len(plain))
        if isinstance(method, Angular):
            return split(rotated(joined(plain), joined(away), method.scale, method.tau), len(plain))
        assert isinstance(method, NAG)
        guided = plain + method.scale * (plain - away)
        ratio = guided.abs().sum((0, 2), keepdim=True) / plain.abs().sum((0, 2), keepdim=True)
        guided = torch.where(ratio > method.tau, guided * method.tau / ratio, guided)
        return method.alpha * guided + (1 - method.alpha) * plain


def joined(states: Tensor) -> Tensor:
    """The outputs of all heads, from shape (H, Q, D) to (Q, H D)."""
    return states.transpose(0, 1).flatten(1)


def split(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(1, (heads, -1)).transpose(0, 1)


def beside(vectors: Tensor, axes: Tensor) -> Tensor:
    """Vectors without their projections on the axes, with shape (..., D)."""
    units = torch.nn.functional.normalize(axes, dim=-1)
    return vectors - (vectors * units).sum(-1, keepdim=True) * units


def rotated(vectors: Tensor, away: Tensor, scale: float, tau: float) -> Tensor:
    """Vectors with shape (..., D), rotated by the formula of spherical interpolation."""
    length = vectors.norm(dim=-1, keepdim=True)
    one, other = vectors / length, away / away.norm(dim=-1, keepdim=True)
    theta = (one * other).sum(-1, keepdim=True).acos()
    turn = tau * math.pi * (scale * theta / (tau * math.pi)).tanh()
    turn = torch.where(theta + turn > math.pi, math.pi - theta, turn)
    return length * ((theta + turn).sin() * one - turn.sin() * other) / theta.sin()


def softmax(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return (query @ key.mT / math.sqrt(query.shape[-1]) + bias).softmax(-1) @ value


@contextmanager
def dense_attention(dense: Callable[..., Tensor]) -> Iterator[None]:
    """A `with` in which diffusers attends by a dense function of query, key, value, and what is added to the logits."""

    def dispatch(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        return sdpa(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), **options).transpose(1, 2)

    def sdpa(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        return dense(query, key, value, attn_mask)

    models = "diffusers.models.transformers"
    with (
        patch.object(F, "scaled_dot_product_attention", sdpa),
        patch(f"{models}.transformer_wan.dispatch_attention_fn", dispatch),
        patch(f"{models}.transformer_flux.dispatch_attention_fn", dispatch),
        patch(f"{models}.transformer_flux2.dispatch_attention_fn", dispatch),
        patch(f"{models}.transformer_qwenimage.dispatch_attention_fn", dispatch),
        patch(f"{models}.transformer_krea2.dispatch_attention_fn", dispatch),
        patch(f"{models}.transformer_z_image.dispatch_attention_fn", dispatch),
        patch(f"{models}.transformer_ernie_image.dispatch_attention_fn", dispatch),
        patch(f"{models}.transformer_ltx2.dispatch_attention_fn", dispatch),
    ):
        yield
