"""Encodes each text once, however many images are made from it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from vsf_cli.models.patching import replaced_forward

__all__ = ["caching_encoders"]

MAX_TEXTS = 64
"""The size of each encoder's cache: 128 MB of the largest encoder's embeddings in half precision."""


@contextmanager
def caching_encoders(pipe: Any, most: int = MAX_TEXTS) -> Iterator[None]:
    """Lets a pipeline's text encoders return the same outputs for the last `most` texts, inside a `with` block."""
    with ExitStack() as stack:
        for name, module in pipe.components.items():
            if name.startswith("text_encoder") and module is not None:
                stack.enter_context(replaced_forward(module, _cached(module.forward, most)))
        yield


def _cached(forward: Callable[..., Any], most: int) -> Callable[..., Any]:
    import torch

    outputs: OrderedDict[Any, Any] = OrderedDict()

    def key_of(value: Any) -> Any:
        is_tensor = isinstance(value, torch.Tensor)
        return (str(value.device), value.shape, tuple(value.flatten().tolist())) if is_tensor else repr(value)

    def cached(*args: Any, **kwargs: Any) -> Any:
        key = tuple(map(key_of, args)), tuple((name, key_of(value)) for name, value in sorted(kwargs.items()))
        if key in outputs:
            outputs.move_to_end(key)
            return outputs[key]
        outputs[key] = output = forward(*args, **kwargs)
        if len(outputs) > most:
            outputs.popitem(last=False)
        return output

    return cached
