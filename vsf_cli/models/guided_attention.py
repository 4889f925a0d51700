"""The attention function of a guided model: it splits the tokens of one call, and calls the method with them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor

from vsf_cli.attention.exact import attention
from vsf_cli.errors import PatchError
from vsf_cli.methods import AllTokens, Context, KeyValue, Method, TextGroup, WholeAttention
from vsf_cli.methods.tokens import Span, joined_span, key_mask
from vsf_cli.models.checkpointing import check_checkpoints
from vsf_cli.models.family import Order
from vsf_cli.models.interpose import Attend
from vsf_cli.models.state import GuidanceState

__all__ = ["AttentionKind", "RunningCall", "guided_attention", "isolated_attention"]

UNASKED: Any = object()
"""Stands for what a method has not been asked yet."""

NOT_RUNNING = (
    "an attention of the guided model was called, but not by the model's own call, or its hook was removed, so that the"
    " negative prompt would be lost: call the model itself, and leave its hooks alone inside the `with`"
)


class RunningCall:
    """The running call of a guided model: the state that its attentions share, or None if no call is running.

    Attributes:
        state: The state.
        thread: The thread in which the last call began.
    """

    state: GuidanceState | None = None
    thread: int | None = None

    @contextmanager
    def during(self, state: GuidanceState) -> Iterator[None]:
        """A `with` in which a state is that of the running call."""
        before, self.state = self.state, state
        try:
            yield
        finally:
            self.state = before


@dataclass(frozen=True)
class AttentionKind:
    """What an attention of a model is like, and how it is guided.

    Arguments:
        order: The order of tokens.
        guides: Whether the method acts; else only the negative prompt's own rows are computed.
        drops_text: Whether the outputs for the text are unused, so that those of the negative prompt are 0.
        has_grid: Whether the queries beside the text are the image's tokens.
        masks_negative: Whether the model masks the negative prompt at the end of the keys, and the image shall see it.
    """

    order: Order
    guides: bool = True
    drops_text: bool = False
    has_grid: bool = True
    masks_negative: bool = False

    def ask(
        self, state: GuidanceState, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> WholeAttention | None:
        """Asks the method for a function for the attention of tensors like these; None if it has none.

        Raises:
            PatchError: If the numbers of tokens contradict each other.
        """
        prepared = _prepare(query, key, value, scale)
        rows = _rows_of(state, self.order, query.shape[2], key.shape[2])
        make_context = partial(_context, state, rows, mask=None, backend=state.backend(None), has_grid=self.has_grid)
        spans, is_cross = (rows.queries, rows.groups), self.order is Order.CROSS
        tokens = AllTokens(KeyValue(*prepared[1:]), *spans, is_cross, state.progress, state.sized, make_context)
        whole = state.method.whole_attention(prepared[0], tokens)
        # What is alike is prepared alike.
        if whole is None or all(map(is_, prepared, (query, key, value))):
            return whole
        return lambda *states: whole(*_prepare(states[0], states[1], states[2], scale))

    def attend(
        self, state: GuidanceState, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, backend: Any
    ) -> Tensor:
        """Returns the attention of all rows, for which the method takes the tokens apart.

        Raises:
            PatchError: If the numbers of tokens contradict each other, or the mask has another number of keys.
        """
        rows = _rows_of(state, self.order, query.shape[2], key.shape[2])
        mask = _mask(_whole(mask, key.shape[2]), rows, self.masks_negative)
        context = _context(state, rows, KeyValue(key, value), mask, state.backend(backend), self.has_grid)
        attend_rows = state.method.attend if self.guides else state.method.attend_unguided
        if self.order is Order.CROSS:
            return attend_rows(query, context)  # The output of the large call takes the result.
        out = _empty_output(query, value)
        attend_rows(rows.queries.of(query), context, rows.queries.of(out))
        return _with_groups(out, state.method, context, rows, None if self.drops_text else query)


def guided_attention(running: RunningCall, kind: AttentionKind) -> Attend:
    """Returns an attention function for guided models."""
    # The hash of a member of an enumeration is slow.
    guides, of_kind = kind.guides, (id(kind.order), kind.has_grid)

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        attention_kwargs: dict[str, Any] | None = None,
        backend: Any = None,
        parallel_config: Any = None,
    ) -> Tensor | None:
        if (state := running.state) is None:
            raise PatchError(NOT_RUNNING)
        is_compiled = torch.compiler.is_compiling()
        if state.gradients and not is_compiled:
            check_checkpoints()
        if state.counts is None:
            return None
        if dropout_p or is_causal or attention_kwargs:
            raise PatchError("attention with dropout, a causal mask or options of a backend cannot be guided")
        if guides and attn_mask is None and not is_compiled:
            alike = *of_kind, scale, query.shape, key.shape, key.dtype, (device := key.device), _cast_dtype(device)
            if (whole := state.wholes.get(alike, UNASKED)) is UNASKED:
                whole = state.wholes[alike] = kind.ask(state, query, key, value, scale)
            if whole is not None:
                return whole(query, key, value)
        return kind.attend(state, *_prepare(query, key, value, scale), attn_mask, backend)

    return attend


def _with_groups(out: Tensor, method: Method, context: Context, rows: "_Rows", query: Tensor | None) -> Tensor:
    """Returns the outputs with those of the groups' own rows; these are 0 without queries, where nothing reads them."""
    if query is None:
        rows.grouped.of(out).zero_()
    else:
        method.attend_groups(rows.grouped.of(query), context, rows.grouped.of(out))
    return out


def isolated_attention(running: RunningCall) -> Attend:
    """Returns an attention function among the text alone, of which the positive prompt is last: no prompt sees another."""

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        state = running.state
        if state is None or state.counts is None:
            return None
        query, key, value = _prepare(query, key, value, options.get("scale"))
        _, positives, *groups = state.counts.shape[:-1]
        spans = _spans(0, (*groups, positives))
        mask, backend = _whole(attn_mask, key.shape[2]), state.backend(options.get("backend"))
        out = torch.empty_like(query)
        for span, lengths in zip(spans, (*state.lengths, None), strict=True):
            group = TextGroup(span.of(key), span.of(value), lengths)
            own = None if mask is None else span.rows_of(span.keys_of(mask))
            seen = key_mask(own, group.seen_after(0))
            span.of(out).copy_(attention(span.of(query), group.key, group.value, seen, backend))
        return out

    return attend


def _empty_output(query: Tensor, value: Tensor) -> Tensor:
    """Returns a tensor for an output, with heads after tokens in memory: the processor joins them without a copy."""
    return value.new_empty(value.shape[0], query.shape[2], value.shape[1], value.shape[3]).transpose(1, 2)


def _context(
    state: GuidanceState, rows: "_Rows", keys: KeyValue, mask: Tensor | None, backend: str | None, has_grid: bool
) -> Context:
    groups = []
    for span, lengths, weights in zip(rows.groups, state.lengths, state.weights, strict=True):
        states = keys.part(span)
        groups.append(TextGroup(states.key, states.value, lengths, weights, *_masks_of(mask, rows, span)))
    base_mask = state.bias if mask is None else rows.base.keys_of(rows.queries.rows_of(mask))
    base = keys.part(rows.base)
    shared = state.progress, backend, base_mask
    grouped = keys.part(rows.grouped)
    return Context(base, rows.image, rows.positive, tuple(groups), *shared, rows.reference, has_grid, grouped, keys)


def _cast_dtype(device: torch.device) -> torch.dtype | None:
    """Returns the dtype to which autocast casts; None if it is off."""
    name = device.type
    return torch.get_autocast_dtype(name) if name != "meta" and torch.is_autocast_enabled(name) else None


def _prepare(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns tensors of one dtype, with equal numbers of heads, and for PyTorch's default scale."""
    if (dtype := _cast_dtype(query.device)) is not None:
        # As the stock function does, which leaves float64 alone.
        query, key, value = (one if one.dtype == torch.float64 else one.to(dtype) for one in (query, key, value))
    if key.shape[1] != query.shape[1]:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    if scale is not None and scale != query.shape[-1] ** -0.5:
        query = query * (scale * query.shape[-1] ** 0.5)
    return query, key, value


@dataclass(frozen=True)
class _Rows:
    """The positions of tokens in one call.

    Arguments:
        queries: Image and positive prompt, or in cross attention the image, among the queries.
        base: Image and positive prompt, or in cross attention the positive prompt, among the keys.
        image: The image that is made, in the base; None in cross attention.
        reference: Images that are edited, in the base; None if there are none.
        positive: The positive prompt in the base.
        groups: The negative and the kept prompts among the keys, and in joint attention among the queries.
    """

    queries: Span
    base: Span
    image: Span | None
    positive: Span
    groups: tuple[Span, ...]
    reference: Span | None = None

    @property
    def images(self) -> Span:
        """All images in the base; none in cross attention."""
        return joined_span(self.image, self.reference)

    @property
    def grouped(self) -> Span:
        """All groups, which stand side by side."""
        return Span(self.groups[0].start, self.groups[-1].stop) if self.groups else Span(0, 0)

    @classmethod
    def of(cls, order: Order, queries: int, keys: int, references: int, positives: int, *groups: int) -> "_Rows":
        """Returns the positions by the numbers of queries, keys, and tokens of references, positive prompt and each group.

        Raises:
            PatchError: If the numbers contradict each other.
        """
        grouped = sum(groups)
        text = positives + grouped
        if not (keys == text if order is Order.CROSS else keys == queries and keys > text):
            raise PatchError(f"an attention has {keys} keys, but its text {text} tokens: their positions are unknown")
        if order is Order.CROSS:
            return cls(Span(0, queries), Span(0, positives), None, Span(0, positives), _spans(positives, groups))
        base, images = keys - grouped, keys - text
        if order is Order.TEXT_FIRST:
            rows, end = Span(grouped, keys), base - references
            reference = Span(end, base) if references else None
            return cls(rows, rows, Span(positives, end), Span(0, positives), _spans(0, groups), reference)
        rows = Span(0, base)
        return cls(rows, rows, Span(0, images), Span(images, base), _spans(base, groups))


def _rows_of(state: GuidanceState, order: Order, queries: int, keys: int) -> _Rows:
    """Returns the positions; they are made once for all attentions of one size."""
    assert state.counts is not None
    if torch.compiler.is_compiling():
        return _Rows.of(order, queries, keys, *state.counts.shape[:-1])
    name = id(order), queries, keys
    if (rows := state.sized.get(name)) is None:
        rows = state.sized[name] = _Rows.of(order, queries, keys, *state.counts.shape[:-1])
    return rows


def _spans(start: int, lengths: Sequence[int]) -> tuple[Span, ...]:
    spans = []
    for length in lengths:
        spans.append(Span(start, start + length))
        start += length
    return tuple(spans)


def _whole(mask: Tensor | None, keys: int) -> Tensor | None:
    """Returns the model's own mask with shape (B or 1, H or 1, Q or 1, K).

    Raises:
        PatchError: If the mask has another number of axes, or of keys: one of the caller's own, which knows no negative prompt.
    """
    if mask is None:
        return None
    if mask.ndim not in (2, 4) or mask.shape[-1] != keys:
        raise PatchError(
            f"attention has a mask of shape {tuple(mask.shape)} for {keys} keys, those of the negative prompt among them: leave"
            " out an attention mask of your own"
        )
    return mask if mask.ndim == 4 else mask[:, None, None]


def _mask(mask: Tensor | None, rows: _Rows, masks_negative: bool) -> Tensor | None:
    """Returns the model's own mask; a boolean one that masks the groups at the keys' end shows them."""
    if mask is None or not masks_negative:
        return mask
    base = rows.base.keys_of(mask)
    return torch.cat([base, base.new_ones(*base.shape[:-1], mask.shape[-1] - base.shape[-1])], dim=-1)


def _masks_of(mask: Tensor | None, rows: _Rows, group: Span) -> tuple[Tensor | None, Tensor | None]:
    """Returns a group's parts of a mask with shape (B or 1, H or 1, Q or 1, K): of the image's rows, and of its own rows."""
    if mask is None:
        return None, None
    of_base = rows.queries.rows_of(mask)
    if rows.image is None:
        return group.keys_of(of_base), None
    own = group.rows_of(mask)
    own = torch.cat([rows.images.keys_of(rows.base.keys_of(own)), group.keys_of(own)], dim=-1)
    return group.keys_of(rows.image.rows_of(of_base)), own
