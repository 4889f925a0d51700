"""Keys and values of the tokens that one attention sees. The letters of shapes are those of `vsf_cli.attention`."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Context", "KeyValue", "Negative"]


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of some tokens, each with shape (B, H, tokens, D)."""

    key: "Tensor"
    value: "Tensor"

    def join(self, other: "KeyValue") -> "KeyValue":
        """These tokens, then the others."""
        import torch

        return KeyValue(
            torch.cat([self.key, other.key], dim=2),
            torch.cat([self.value, other.value], dim=2),
        )

    def split(self, place: int) -> "tuple[KeyValue, KeyValue]":
        """The tokens before a place, and those from it on, as views."""
        before = KeyValue(self.key[:, :, :place], self.value[:, :, :place])
        return before, KeyValue(self.key[:, :, place:], self.value[:, :, place:])


@dataclass(frozen=True)
class Negative(KeyValue):
    """Keys and values of the negative prompts, padded to N tokens.

    Arguments:
        lengths: How many tokens of each row are real, with shape (B,); None means all of them.
        weights: The weight of each token, with shape (B, N); None means 1 for all of them.
    """

    lengths: "Tensor | None" = None
    weights: "Tensor | None" = None

    @property
    def weighted_value(self) -> "Tensor":
        """The values, each times its token's weight."""
        return self.value if self.weights is None else self.value * self.weights[:, None, :, None].to(self.value)

    def flipped(self, alpha: "float | Tensor") -> "Negative":
        """The same tokens with their values times :math:`-\\alpha` and their weights."""
        return Negative(self.key, -alpha * self.weighted_value, self.lengths)

    @property
    def unweighted(self) -> "Negative":
        """The same tokens, each with a weight of 1."""
        return Negative(self.key, self.value, self.lengths)

    def seen_after(self, before: int, copies: int = 1) -> "Tensor | None":
        """Which keys are real where the negative prompts stand behind `before` others, with shape (B, 1, 1, keys)."""
        if self.lengths is None:
            return None
        import torch

        places = torch.arange(self.key.shape[2], device=self.key.device)
        real = places < self.lengths.view(-1, 1, 1, 1)  # [B, 1, 1, N]
        return torch.cat([real.new_ones(len(real), 1, 1, before), *[real] * copies], dim=-1)

    def attend(self, query: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Attention to the real tokens, by their weights, with shape (B, H, Q, D), and its log-sum-exp with shape (B, H, Q)."""
        from vsf_cli.attention import attention_with_lse, masked_attention_with_lse

        if self.lengths is None:
            return attention_with_lse(query, self.key, self.weighted_value)
        return masked_attention_with_lse(query, self.key, self.weighted_value, self.lengths)


@dataclass(frozen=True)
class Context:
    """What the queries of one attention can attend to.

    Arguments:
        stock: The tokens [image, positive], padding included: all that the model without guidance attends to.
        images: How many of them are image tokens; 0 in cross attention.
        negative: The negative prompts' tokens.
        progress: How much of the steps is done as this one begins: 0 at the first, below 1 at the last.
        block: The number of this attention among those of its transformer, from 1.
        backend: The attention backend of diffusers that the model was told to use; None means PyTorch's own choice.
    """

    stock: KeyValue
    images: int
    negative: Negative
    progress: "float | Tensor" = 0.0
    block: int = 1
    backend: str | None = None

    @cached_property
    def with_negative(self) -> KeyValue:
        """The tokens [image, negative], copied once for all rows that attend to them."""
        return self.image.join(self.negative)

    @property
    def image(self) -> KeyValue:
        """The image tokens; a view."""
        return KeyValue(self.stock.key[:, :, : self.images], self.stock.value[:, :, : self.images])

    @property
    def positive(self) -> KeyValue:
        """The positive prompt's tokens; a view."""
        return KeyValue(self.stock.key[:, :, self.images :], self.stock.value[:, :, self.images :])
