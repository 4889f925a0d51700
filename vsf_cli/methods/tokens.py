"""Keys and values of the tokens that one attention sees. The letters of shapes are those of `vsf_cli.attention`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.attention.fused import FewKeys

__all__ = ["AllTokens", "Context", "KeyValue", "Span", "TextGroup", "WholeAttention", "joined_span", "key_mask"]


SHORT = 512
"""The most tokens for which one call with a mask, or over joined keys, is less work on a CPU than several that are merged."""


@dataclass(frozen=True)
class Span:
    """The positions of some tokens, as for a `slice`, which the compiler would recompile for other numbers."""

    start: int
    stop: int

    def of(self, states: "Tensor") -> "Tensor":
        """Returns these tokens of states with shape (B, H, L, D), as a view."""
        return states[:, :, self.start : self.stop]

    def keys_of(self, mask: "Tensor") -> "Tensor":
        """Returns these keys of a mask with shape (B or 1, H or 1, Q or 1, K), as a view."""
        return mask[..., self.start : self.stop]

    def rows_of(self, mask: "Tensor") -> "Tensor":
        """Returns these rows of a mask with shape (B or 1, H or 1, Q or 1, K), as a view."""
        return mask if mask.shape[2] == 1 else self.of(mask)


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of some tokens, each with shape (B, H, tokens, D)."""

    key: "Tensor"
    value: "Tensor"

    def join(self, other: "KeyValue") -> "KeyValue":
        """Returns these tokens, then the others."""
        import torch

        return KeyValue(torch.cat([self.key, other.key], dim=2), torch.cat([self.value, other.value], dim=2))

    def part(self, span: Span) -> "KeyValue":
        """Returns some of the tokens, as views."""
        return KeyValue(span.of(self.key), span.of(self.value))


WholeAttention = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""Takes the queries of all rows, with shape (B, H, rows, D), and all keys and values, with shape (B, H, keys, D).

It returns the attention of all rows, with the shape of the queries.
"""


@dataclass(frozen=True)
class TextGroup(KeyValue):
    """Tokens of text, padded to N tokens, to which only a method lets the image or other text attend.

    Arguments:
        lengths: How many tokens of each row are real, with shape (B,); None means all of them.
        weights: The weight of each token, with shape (B, N); None means 1 for all of them.
        mask: The model's own mask of the image's rows and these keys, with shape (B or 1, H or 1, I or 1, N); None: no mask.
        own_mask: The model's own mask of these rows and the keys [image, group]; None means no mask.
    """

    lengths: "Tensor | None" = None
    weights: "Tensor | None" = None
    mask: "Tensor | None" = None
    own_mask: "Tensor | None" = None

    @property
    def weighted_value(self) -> "Tensor":
        """The values, each times its token's weight."""
        return self.value if self.weights is None else self.value * self.weights[:, None, :, None].to(self.value)

    def times(self, factor: "float | Tensor") -> "TextGroup":
        """Returns the tokens with their values times a factor and their weights."""
        return replace(self, value=factor * self.weighted_value, weights=None)

    def seen_after(self, before: int, copies: int = 1) -> "Tensor | None":
        """Returns which keys are real if the group follows `before` others, with shape (B, 1, 1, keys); None means all."""
        if self.lengths is None:
            return None
        import torch

        positions = torch.arange(self.key.shape[2], device=self.key.device)
        real = positions < self.lengths.view(-1, 1, 1, 1)  # [B, 1, 1, N]
        return torch.cat([real.new_ones(len(real), 1, 1, before), *[real] * copies], dim=-1)

    def add_to(self, output: "Tensor", lse: "Tensor", query: "Tensor") -> "Tensor":
        """Returns attention to these tokens, of one weight, and to others, whose output and log-sum-exp are given.

        The memory of the output is overwritten.
        """
        from vsf_cli.attention.merging import merge_attention_states

        own, own_lse = replace(self, weights=None, mask=None).attend(query)
        return merge_attention_states(output, own, lse, own_lse)

    def attend(self, query: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Returns the weighted attention of the image's rows, with shape (B, H, Q, D), and its log-sum-exp, (B, H, Q)."""
        from vsf_cli.attention.exact import attention_with_lse, masked_attention_with_lse

        if self.lengths is None and self.mask is None:
            return attention_with_lse(query, self.key, self.weighted_value)
        mask = key_mask(self.mask, self.seen_after(0))
        assert mask is not None
        return masked_attention_with_lse(query, self.key, self.weighted_value, mask)


@dataclass(frozen=True)
class Context:
    """The keys and values of one attention.

    Arguments:
        base: The tokens to which the unguided model attends, in its own order, padding included: those of image and positive
            prompt, or in cross attention those of the positive prompt.
        image: The positions in `base` of the tokens of the image that is made; None in cross attention.
        positive: The positions of the positive prompt's tokens in `base`.
        groups: The isolated groups of text, none of which sees another: the negative prompts, then the kept ones if any.
        progress: The fraction of all steps before this one: 0 at the first, below 1 at the last.
        backend: The attention backend of diffusers that the model uses; None means PyTorch's own choice.
        mask: The model's own mask of the rows and keys of `base`, with shape (B or 1, H or 1, rows or 1, keys); None: no mask.
        reference: The positions in `base` of the tokens of images that are edited, behind those of `image`; not guided.
        has_grid: Whether the image's rows are those of an image, which has a grid: a sound has none.
        grouped, whole: The tokens of all groups, and of groups and base, as views; None if they are in different places.
    """

    base: KeyValue
    image: Span | None
    positive: Span
    groups: tuple[TextGroup, ...]
    progress: "float | Tensor" = 0.0
    backend: str | None = None
    mask: "Tensor | None" = None
    reference: Span | None = None
    has_grid: bool = True
    grouped: KeyValue | None = None
    whole: KeyValue | None = None
    _joined: KeyValue | None = field(default=None, init=False, repr=False, compare=False)
    _of_images: "tuple[Tensor, Tensor] | None" = field(default=None, init=False, repr=False, compare=False)

    @property
    def negative(self) -> TextGroup:
        """The negative prompts' tokens."""
        return self.groups[0]

    @property
    def kept(self) -> TextGroup | None:
        """The kept prompts' tokens; None if there are none."""
        return self.groups[1] if len(self.groups) > 1 else None

    def image_rows(self, states: "Tensor") -> "Tensor":
        """Returns the image's rows of queries or outputs, as a view: in cross attention all of them."""
        return states if self.image is None else self.image.of(states)

    @property
    def unguided(self) -> tuple[Span, ...]:
        """The positions of rows that keep their output: those of the positive prompt, and of images that are edited."""
        spans = () if self.image is None else (self.positive, self.reference)
        return tuple(span for span in spans if span is not None)

    @property
    def images(self) -> Span:
        """The positions of all images' tokens in `base`, which the groups of text see; none in cross attention."""
        return joined_span(self.image, self.reference)

    @property
    def image_mask(self) -> "Tensor | None":
        """The model's own mask of the image's rows and the keys of `base`."""
        return self.mask if self.mask is None or self.image is None else self.image.rows_of(self.mask)

    @property
    def with_negative(self) -> KeyValue:
        """The tokens [images, negative], copied once for all rows that attend to them."""
        # A cached property has a lock in Python 3.11, which the compiler cannot take.
        if self._joined is None:
            object.__setattr__(self, "_joined", self.image_tokens.join(self.negative))
        assert self._joined is not None
        return self._joined

    @property
    def image_tokens(self) -> KeyValue:
        """All images' tokens, of which cross attention has none; a view."""
        return self.base.part(self.images)

    @property
    def key_bias(self) -> "Tensor | None":
        """The model's own mask if it is a number for each key that is added to the logits, with shape (B, keys)."""
        import torch

        mask = self.mask
        if mask is None or mask.dtype == torch.bool or mask.shape[1:3] != (1, 1):
            return None
        return mask[:, 0, 0].expand(self.base.key.shape[0], -1)

    def few_keys(self, query: "Tensor", keys: KeyValue | None) -> "FewKeys | None":
        """Returns all groups' tokens if a fused kernel takes `keys`; None also if the model has a mask of the groups."""
        from vsf_cli.attention.fused import FewKeys, takes

        if keys is None or self.grouped is None or any(one.mask is not None or one.own_mask is not None for one in self.groups):
            return None
        if not takes(query, keys.key, keys.value, keys=keys.key.shape[2]):
            return None
        lengths = self.negative.lengths, None if self.kept is None else self.kept.lengths
        return FewKeys(self.grouped.key, self.grouped.value, self.negative.key.shape[2], lengths, self._weights)

    @property
    def _weights(self) -> "Tensor | None":
        """The weights of all groups' tokens, with shape (B, tokens); None means 1."""
        import torch

        if all(group.weights is None for group in self.groups):
            return None
        batch = self.base.key.shape[0]
        ones = self.base.key.new_ones
        return torch.cat([ones(batch, one.key.shape[2]) if one.weights is None else one.weights for one in self.groups], dim=1)

    def write(self, guided: "Tensor", base: "Tensor", out: "Tensor | None") -> "Tensor":
        """Returns outputs with the image's rows guided and the others as in `base`, written into `out` if it is given."""
        if out is None:
            return guided
        self.copy_unguided(base, out)
        self.image_rows(out).copy_(guided)
        return out

    def copy_unguided(self, base: "Tensor", out: "Tensor") -> None:
        """Copies the outputs of the rows that are not guided into `out`."""
        for span in self.unguided:
            span.of(out).copy_(span.of(base))

    def write_unguided(self, query: "Tensor", out: "Tensor") -> None:
        """Writes the outputs of the rows that are not guided into `out`."""
        from vsf_cli.attention.exact import attention

        for span in self.unguided:
            mask = None if self.mask is None else span.rows_of(self.mask)
            span.of(out).copy_(attention(span.of(query), self.base.key, self.base.value, mask, self.backend))

    @property
    def is_short(self) -> bool:
        """Whether the sequence is so short that calls take longer than their work: on a CPU."""
        tokens = self.base.key.shape[2] + sum(group.key.shape[2] for group in self.groups)
        return tokens <= SHORT and self.base.key.device.type == "cpu"

    def has_parts(self, query: "Tensor") -> bool:
        """Whether joint attention to images and to each prompt can be computed apart, and then merged.

        Where some rows have no negative prompt, the unguided output is computed as a whole: these rows keep it to the bit.
        """
        from vsf_cli.attention.exact import has_lse

        alike = self.image is not None and self.mask is None and self.negative.lengths is None and not self.is_short
        return alike and has_lse(query, self.base.key, self.backend)

    def take_images(self, query: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Returns the attention of the image's rows to all images, and its log-sum-exp, of memory that may be overwritten."""
        from vsf_cli.attention.exact import attention_with_lse

        known, keys = self._of_images, self.image_tokens
        object.__setattr__(self, "_of_images", None)
        return attention_with_lse(query, keys.key, keys.value, self.backend) if known is None else known

    def attend_base_in_parts(self, query: "Tensor") -> "Tensor":
        """Returns the unguided output of the image's rows, and leaves that of the images alone to `take_images`."""
        from vsf_cli.attention.exact import attention_with_lse
        from vsf_cli.attention.merging import merge_attention_states

        output, lse = self.take_images(query)
        object.__setattr__(self, "_of_images", (output, lse))
        text = self.base.part(self.positive)
        other, other_lse = attention_with_lse(query, text.key, text.value, self.backend)
        # The sum of both shares is 1: the text's output takes the result.
        return merge_attention_states(other, output, other_lse, lse)

    def attend_with_images(self, query: "Tensor", group: TextGroup, mask: "Tensor | None") -> "Tensor":
        """Returns attention to the images and a group, in one call; `mask` is the model's own, of these rows and keys."""
        from vsf_cli.attention.exact import attention

        keys = self.with_negative if group is self.negative else self.image_tokens.join(group)
        seen = group.seen_after(self.image_tokens.key.shape[2])
        return attention(query, keys.key, keys.value, key_mask(mask, seen), self.backend)

    def attend_base(self, query: "Tensor") -> "Tensor":
        """Returns the unguided output for the rows of image and positive prompt, by the call that the model itself makes."""
        from vsf_cli.attention import fused
        from vsf_cli.attention.exact import attention

        key, value, bias = self.base.key, self.base.value, self.key_bias
        if bias is not None and fused.takes(query, key, value, keys=key.shape[2]):
            return fused.attend_few_keys(query, key, value, bias)
        return attention(query, self.base.key, self.base.value, self.mask, self.backend)

    def with_negative_mask(self, mask: "Tensor") -> "Tensor":
        """Returns a mask of the image's rows with the negative prompt's keys as its last."""
        import torch

        own = self.negative.mask
        if own is None:
            # 0 is added to a logit, or True lets it be seen.
            own = mask.new_full((*mask.shape[:-1], self.negative.key.shape[2]), mask.dtype == torch.bool)
        return torch.cat([mask, own], dim=-1)


@dataclass
class AllTokens:
    """All tokens of an attention in which the model has no mask.

    A context of them takes as long to make as a quarter of the attention to 200 tokens.

    Arguments:
        keys: The keys and values.
        base: The positions of image and positive prompt among the queries, in cross attention of the image.
        groups: The positions of each group among the keys.
        are_crossed: Whether it is cross attention.
        progress: The fraction of all steps before this one.
        sized: What a method makes once for all calls with these sizes of prompts.
        make_context: Returns a new context of such keys and values.
    """

    keys: KeyValue
    base: Span
    groups: tuple[Span, ...]
    are_crossed: bool
    progress: "float | Tensor"
    sized: dict[Any, Any]
    make_context: Callable[[KeyValue], Context]

    @property
    def are_few(self) -> bool:
        """Whether there are at most `SHORT` tokens."""
        return self.keys.key.shape[2] <= SHORT


def joined_span(image: Span | None, reference: Span | None) -> Span:
    """Returns the positions of an image and of a reference behind it; none without an image."""
    first = image or Span(0, 0)
    return Span(first.start, (reference or first).stop)


def key_mask(mask: "Tensor | None", seen: "Tensor | None") -> "Tensor | None":
    """Joins a mask, which is boolean or is added to the logits, and which keys are real, into one mask."""
    import torch

    if mask is None or seen is None:
        return seen if mask is None else mask
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)
