"""Keys and values of the tokens that one attention sees. The letters of shapes are those of `vsf_cli.attention`."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Context", "KeyValue", "Span", "TextGroup", "key_mask"]


@dataclass(frozen=True)
class Span:
    """Where some tokens stand among others. The compiler knows a `slice` by its numbers, and would recompile for others.

    Arguments:
        start: The first.
        stop: The one behind the last.
    """

    start: int
    stop: int

    def of(self, states: "Tensor") -> "Tensor":
        """These tokens of states with shape (B, H, L, D), as a view."""
        return states[:, :, self.start : self.stop]

    def keys_of(self, mask: "Tensor") -> "Tensor":
        """These keys of a mask with shape (B or 1, H or 1, Q or 1, K), as a view."""
        return mask[..., self.start : self.stop]

    def rows_of(self, mask: "Tensor") -> "Tensor":
        """These rows of a mask with shape (B or 1, H or 1, Q or 1, K), as a view."""
        return mask if mask.shape[2] == 1 else self.of(mask)


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

    def part(self, span: Span) -> "KeyValue":
        """Some of the tokens, as views."""
        return KeyValue(span.of(self.key), span.of(self.value))


@dataclass(frozen=True)
class TextGroup(KeyValue):
    """Tokens of text that neither the image nor other text sees unless a method says so, padded to N tokens.

    Arguments:
        role: What the group is for: "negative" or "kept".
        lengths: How many tokens of each row are real, with shape (B,); None means all of them.
        weights: The weight of each token, with shape (B, N); None means 1 for all of them.
        mask: The model's own mask of the image's rows and these keys, with shape (B or 1, H or 1, I or 1, N); None: no mask.
        own_mask: The model's own mask of these rows and the keys [image, group]; None means no mask.
    """

    role: str = "negative"
    lengths: "Tensor | None" = None
    weights: "Tensor | None" = None
    mask: "Tensor | None" = None
    own_mask: "Tensor | None" = None

    @property
    def weighted_value(self) -> "Tensor":
        """The values, each times its token's weight."""
        return self.value if self.weights is None else self.value * self.weights[:, None, :, None].to(self.value)

    def times(self, factor: "float | Tensor") -> "TextGroup":
        """The same tokens with their values times a factor and their weights."""
        return replace(self, value=factor * self.weighted_value, weights=None)

    def seen_after(self, before: int, copies: int = 1) -> "Tensor | None":
        """Which keys are real where the group stands behind `before` others, with shape (B, 1, 1, keys); None: all of them."""
        if self.lengths is None:
            return None
        import torch

        positions = torch.arange(self.key.shape[2], device=self.key.device)
        real = positions < self.lengths.view(-1, 1, 1, 1)  # [B, 1, 1, N]
        return torch.cat([real.new_ones(len(real), 1, 1, before), *[real] * copies], dim=-1)

    def attend(self, query: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Attention of the image's rows to the real tokens, by their weights, and its log-sum-exp.

        The output has shape (B, H, Q, D), the log-sum-exp (B, H, Q).
        """
        from vsf_cli.attention import attention_with_lse, masked_attention_with_lse

        if self.lengths is None and self.mask is None:
            return attention_with_lse(query, self.key, self.weighted_value)
        mask = key_mask(self.mask, self.seen_after(0))
        assert mask is not None
        return masked_attention_with_lse(query, self.key, self.weighted_value, mask)


@dataclass(frozen=True)
class Context:
    """What the queries of one attention can attend to.

    Arguments:
        base: The tokens of image and positive prompt in the model's own order, padding included: all that the model without
            guidance attends to. In cross attention they are the positive prompt's alone.
        image: Where the image's tokens stand among them; None in cross attention.
        positive: Where the positive prompt's tokens stand among them.
        groups: The isolated groups of text, none of which sees another: the negative prompts, then the kept ones if any.
        progress: How much of the steps is done as this one begins: 0 at the first, below 1 at the last.
        backend: The attention backend of diffusers that the model uses; None means PyTorch's own choice.
        mask: The model's own mask of the rows and keys of `base`, with shape (B or 1, H or 1, rows or 1, keys); None: no mask.
    """

    base: KeyValue
    image: Span | None
    positive: Span
    groups: tuple[TextGroup, ...]
    progress: "float | Tensor" = 0.0
    backend: str | None = None
    mask: "Tensor | None" = None

    @property
    def negative(self) -> TextGroup:
        """The negative prompts' tokens."""
        return self.groups[0]

    @property
    def kept(self) -> TextGroup | None:
        """The kept prompts' tokens; None if there are none."""
        return self.groups[1] if len(self.groups) > 1 else None

    def image_rows(self, states: "Tensor") -> "Tensor":
        """The image's rows of queries or outputs, as a view: in cross attention all of them."""
        return states if self.image is None else self.image.of(states)

    def positive_rows(self, states: "Tensor") -> "Tensor":
        """The positive prompt's rows of queries or outputs, as a view: in cross attention none."""
        return states[:, :, :0] if self.image is None else self.positive.of(states)

    @property
    def image_mask(self) -> "Tensor | None":
        """The model's own mask of the image's rows and the keys of `base`."""
        return self.mask if self.mask is None or self.image is None else self.image.rows_of(self.mask)

    @cached_property
    def with_negative(self) -> KeyValue:
        """The tokens [image, negative], copied once for all rows that attend to them."""
        return self.image_tokens.join(self.negative)

    @property
    def image_tokens(self) -> KeyValue:
        """The image's tokens, of which cross attention has none; a view."""
        return self.base.part(self.image or Span(0, 0))

    def attend_base(self, query: "Tensor") -> "Tensor":
        """The output of the unguided model for all rows of image and positive prompt, by the very call that it makes."""
        from vsf_cli.attention import attention

        return attention(query, self.base.key, self.base.value, self.mask, self.backend)


def key_mask(mask: "Tensor | None", seen: "Tensor | None") -> "Tensor | None":
    """A mask, and which keys are seen, as one mask: boolean, or what is added to the logits."""
    import torch

    if mask is None or seen is None:
        return seen if mask is None else mask
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)
