"""Encodes each text once, however many pictures are made of it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from vsf_cli.models.patching import replaced_forward

__all__ = ["caching_encoders"]

MOST = 64
"""How many texts each encoder's cache holds: 128 MB of the largest encoder's embeddings, in two bytes each."""


@contextmanager
def caching_encoders(pipe: Any, most: int = MOST) -> Iterator[None]:
    """Keeps what a pipeline's text encoders gave for the last texts, for the length of a `with` block.

    What is given back for a text is the same tensor as before, so that no bit changes.

    Arguments:
        pipe: A diffusers pipeline.
        most: How many texts are kept for each encoder.
    """
    with ExitStack() as stack:
        for name, module in pipe.components.items():
            if name.startswith("text_encoder") and module is not None:
                stack.enter_context(replaced_forward(module, _cached(module.forward, most)))
        yield


def _cached(forward: Callable[..., Any], most: int) -> Callable[..., Any]:
    """A `forward` that is called once for each text."""
    import torch

    kept: OrderedDict[Any, Any] = OrderedDict()

    def key(value: Any) -> Any:
        return (
            (str(value.device), value.shape, tuple(value.flatten().tolist()))
            if isinstance(value, torch.Tensor)
            else repr(value)
        )

    def cached(*args: Any, **kwargs: Any) -> Any:
        asked = tuple(map(key, args)), tuple((name, key(value)) for name, value in sorted(kwargs.items()))
        if asked in kept:
            kept.move_to_end(asked)
            return kept[asked]
        kept[asked] = output = forward(*args, **kwargs)
        if len(kept) > most:
            kept.popitem(last=False)
        return output

    return cached
