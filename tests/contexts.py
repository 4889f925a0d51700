"""Calls of methods on tensors, without a model."""

import torch
from torch import Tensor

from vsf_cli.methods import Context, KeyValue, Method, Span, TextGroup


def attended(method: Method, query: Tensor, context: Context) -> Tensor:
    """The outputs of a method for the rows of image and positive prompt."""
    out = torch.full((*query.shape[:3], context.base.value.shape[-1]), torch.nan, dtype=query.dtype, device=query.device)
    method.attend(query, context, out)
    return out


def joint_context(base: KeyValue, images: int, *groups: TextGroup) -> Context:
    """The context of joint attention whose base is [image, positive]."""
    return Context(base, Span(0, images), Span(images, base.key.shape[2]), groups)


def cross_context(positive: KeyValue, negative: TextGroup) -> Context:
    """The context of cross attention."""
    return Context(positive, None, Span(0, positive.key.shape[2]), (negative,))
