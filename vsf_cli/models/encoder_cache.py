"""Encodes each text once, however many images are made from it."""

import copy
import weakref
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
    """Lets a pipeline's text encoders encode the last `most` texts once, inside a `with` block.

    Other weights, adapters or precisions are encoded anew, and calls that may be differentiated always.
    """
    with ExitStack() as stack:
        for name, module in pipe.components.items():
            if name.startswith("text_encoder") and module is not None:
                stack.enter_context(replaced_forward(module, _cached(module, most)))
        yield


def _cached(module: Any, most: int) -> Callable[..., Any]:
    import torch

    forward, outputs = module.forward, OrderedDict[Any, Any]()

    def cached(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return forward(*args, **kwargs)
        key = tuple(map(_key_of, args)), tuple((name, _key_of(value)) for name, value in sorted(kwargs.items()))
        key = (*key, *_settings_of(module))
        if key not in outputs or not _are_same(outputs[key][0], module):
            output = forward(*args, **kwargs)
            # Behind the call, since offloading replaces weights in it.
            outputs[key] = _weights_of(module), output
        outputs.move_to_end(key)
        if len(outputs) > most:
            outputs.popitem(last=False)
        # A copy, since the caller may change it.
        return copy.deepcopy(outputs[key][1])

    return cached


def _key_of(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.device), value.dtype, value.shape, tuple(value.flatten().tolist())
    return tuple(map(_key_of, value)) if isinstance(value, (list, tuple)) else repr(value)


def _settings_of(module: Any) -> tuple[Any, ...]:
    """Returns what decides an output beside the weights: the precision, and which adapters act with which scales."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    device = module.device.type
    precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    adapters = [(one.active_adapters, getattr(one, "scaling", None), one.disable_adapters) for one in layers]
    return module.training, precision, repr(adapters)


def _weights_of(module: Any) -> list[tuple[Any, int]]:
    """Returns the weights and their versions; those that offloading keeps elsewhere are not among them."""
    return [(weakref.ref(one), one._version) for one in module.parameters() if one.device.type != "meta"]


def _are_same(weights: list[tuple[Any, int]], module: Any) -> bool:
    own = [one for one in module.parameters() if one.device.type != "meta"]
    return len(own) == len(weights) and all(
        reference() is one and version == one._version for (reference, version), one in zip(weights, own, strict=True)
    )
