"""Models of judges: from a folder, the hub's cache or the hub, and without the messages of other libraries."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vsf_cli.loading.hub import as_model_error, stays_offline
from vsf_cli.loading.libraries import quiet_libraries
from vsf_cli.loading.sources import cached_file

__all__ = ["reading_model"]

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@contextmanager
def reading_model(model: str) -> Iterator[dict[str, Any]]:
    """Yields the arguments of transformers' `from_pretrained` that say whether the network is used.

    Arguments:
        model: A hub id, or a folder.

    Raises:
        ModelError: If the model cannot be read inside the `with`, or is not in the cache and the hub cannot be reached.
    """
    quiet_libraries(verbose=False)
    with as_model_error(model, False):
        is_folder = os.path.isdir(model)
        is_here = not is_folder and any(cached_file(model, name, None) for name in WEIGHTS)
        yield {"local_files_only": is_folder or stays_offline(model, is_here, False)}
