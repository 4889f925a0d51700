"""Calls of methods on tensors, without a model."""

from functools import reduce

import torch
from torch import Tensor

from vsf_cli.methods import Context, KeyValue, Method, Span, TextGroup


def attended(method: Method, query: Tensor, context: Context) -> Tensor:
    """The outputs of a method for the rows of image and positive prompt."""
    if context.image is None:
        return method.attend(query, context)
    return method.attend(query, context, _empty(query, context))


def attended_groups(method: Method, query: Tensor, context: Context) -> Tensor:
    """The outputs of a method for the rows of the negative and the kept prompts."""
    out = _empty(query, context)
    method.attend_groups(query, context, out)
    return out


def _empty(query: Tensor, context: Context) -> Tensor:
    shape = *query.shape[:3], context.base.value.shape[-1]
    return torch.full(shape, torch.nan, dtype=query.dtype, device=query.device)


def joint_context(base: KeyValue, images: int, *groups: TextGroup) -> Context:
    """The context of joint attention whose base is [image, positive]."""
    grouped = reduce(KeyValue.join, groups)
    return Context(base, Span(0, images), Span(images, base.key.shape[2]), groups, grouped=grouped)


def cross_context(positive: KeyValue, *groups: TextGroup) -> Context:
    """The context of cross attention."""
    grouped, span = reduce(KeyValue.join, groups), Span(0, positive.key.shape[2])
    return Context(positive, None, span, groups, grouped=grouped, whole=positive.join(grouped))
