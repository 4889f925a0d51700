"""The attention function of a guided model: it slices the rows of one call, and lets the method combine them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsf_cli.errors import PatchError
from vsf_cli.methods import Context, KeyValue, TextGroup
from vsf_cli.models.family import Order
from vsf_cli.models.interpose import Attend
from vsf_cli.models.state import GuidanceState

__all__ = ["guided_attention"]

NOWHERE = slice(0, 0)


def guided_attention(state: GuidanceState, order: Order, guides: bool = True, drops_text: bool = False) -> Attend:
    """An attention function for some attentions of a model.

    Arguments:
        state: What the attentions of the model share.
        order: How the rows stand.
        guides: Whether the method acts; without it the negative prompt's own rows alone are computed.
        drops_text: Whether the outputs for the text are not used, so that the negative prompt's need not be computed.
    """

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
        if not state.is_running:
            raise PatchError(
                "an attention of the guided model was called, but not by the model's own call, or its hook was removed, so that"
                " the negative prompt would be lost: call the model itself, and leave its hooks alone inside the `with`"
            )
        if state.positives is None:
            return None
        if dropout_p or is_causal or attention_kwargs:
            raise PatchError("attention with dropout, a causal mask or options of a backend cannot be guided")
        query, key, value = _prepare(query, key, value, scale)
        return _attend(query, key, value, attn_mask, state.backend(backend))

    def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, backend: str | None) -> Tensor:
        base, image, positive, negative = _slices(order, query.shape[2], key.shape[2], state.positives or 0, state.tokens)
        # Heads behind tokens in memory: the code behind the call joins them without a copy.
        out = value.new_empty(value.shape[0], query.shape[2], value.shape[1], value.shape[3]).transpose(1, 2)
        keys, is_cross = KeyValue(key, value), order is Order.CROSS
        rows = slice(0, query.shape[2]) if is_cross else base
        masks = _Masks.cut(_whole(mask), rows, base, image if not is_cross else None, negative)
        tokens = keys.rows(negative)
        group = TextGroup(tokens.key, tokens.value, "negative", state.lengths, state.weights, masks.negative, masks.own)
        context = Context(keys.rows(base), None if is_cross else image, positive, (group,), state.progress, backend, masks.base)
        method = state.method
        (method.attend if guides else method.attend_unguided)(query[:, :, rows], context, out[:, :, rows])
        if drops_text:
            out[:, :, negative] = 0
        elif not is_cross:
            out[:, :, negative] = method.attend_negative(query[:, :, negative], context)
        return out

    return attend


def _prepare(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors as PyTorch's own function takes them: of one dtype, with as many heads, and with its usual scale."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if key.shape[1] != query.shape[1]:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    if scale is not None and scale != query.shape[-1] ** -0.5:
        query = query * (scale * query.shape[-1] ** 0.5)
    return query, key, value


def _slices(order: Order, queries: int, keys: int, positives: int, negatives: int) -> tuple[slice, slice, slice, slice]:
    """Where the base tokens and the negative prompt stand among the keys, and image and positive prompt among the base."""
    text = positives + negatives
    if order is Order.CROSS:
        _check_rows(keys == text, keys, text)
        return slice(0, positives), NOWHERE, slice(0, positives), slice(positives, keys)
    _check_rows(keys == queries and keys > text, keys, text)
    images, base = keys - text, keys - negatives
    if order is Order.TEXT_FIRST:
        return slice(negatives, keys), slice(positives, base), slice(0, positives), slice(0, negatives)
    return slice(0, base), slice(0, images), slice(images, base), slice(base, keys)


def _check_rows(known: bool, keys: int, text: int) -> None:
    if not known:
        raise PatchError(f"an attention has {keys} keys, but with {text} tokens of text its rows cannot be told apart")


def _whole(mask: Tensor | None) -> Tensor | None:
    """The model's own mask with shape (B or 1, H or 1, Q or 1, K)."""
    if mask is None or mask.ndim == 4:
        return mask
    if mask.ndim == 2:
        return mask[:, None, None]
    raise PatchError(f"attention with a mask of shape {tuple(mask.shape)} cannot be guided")


@dataclass(frozen=True)
class _Masks:
    """The parts of the model's own mask; None means no mask.

    Arguments:
        base: Of the rows of image and positive prompt, and the keys of the base.
        negative: Of the image's rows, and the negative prompt's keys.
        own: Of the negative prompt's rows, and the keys of image and negative prompt.
    """

    base: Tensor | None = None
    negative: Tensor | None = None
    own: Tensor | None = None

    @classmethod
    def cut(cls, mask: Tensor | None, rows: slice, base: slice, image: slice | None, negative: slice) -> "_Masks":
        """The parts of a mask by the places of rows and keys; `image` is among the base, and None in cross attention."""
        if mask is None:
            return cls()
        of_rows = _rows(mask, rows)
        if image is None:
            return cls(of_rows[..., base], of_rows[..., negative])
        own = _rows(mask, negative)
        joined = torch.cat([own[..., base][..., image], own[..., negative]], dim=-1)
        return cls(of_rows[..., base], _rows(of_rows, image)[..., negative], joined)


def _rows(mask: Tensor, rows: slice) -> Tensor:
    return mask if mask.shape[2] == 1 else mask[:, :, rows]
