"""Models of judges: from a folder, the hub's cache or the hub, and without the messages of other libraries."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vsf_cli.errors import ModelError
from vsf_cli.loading.hub import as_model_error, is_offline, not_cached, stays_offline
from vsf_cli.loading.libraries import quiet_libraries
from vsf_cli.loading.sources import cached_file

__all__ = ["check_model", "is_here", "reading_model"]

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_model(model: str, offline: bool) -> None:
    """Checks that a model is on this machine, or may be downloaded.

    Raises:
        ModelError: If it is neither.
    """
    if is_here(model):
        return
    _check_name(model)
    if is_offline(offline):
        raise not_cached(model, offline)


def _check_name(model: str) -> None:
    """Raises a `ModelError` if a model has no name of the hub."""
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(model)
    except ValueError as error:
        where = "is neither a folder on this machine nor a hub id such as owner/name"
        raise ModelError(f"model '{model}' {where}: give one of these by --judge-model") from error


def is_here(model: str) -> bool:
    """Returns whether a model is a folder, or in the hub's cache."""
    with suppress(ValueError):  # It is no name of the hub.
        return os.path.isdir(model) or any(cached_file(model, name, None) for name in WEIGHTS)
    return False


@contextmanager
def reading_model(model: str) -> Iterator[dict[str, Any]]:
    """Yields the arguments of transformers' `from_pretrained` that say whether the network is used.

    Arguments:
        model: A hub id, or a folder.

    Raises:
        ModelError: If the model cannot be read inside the `with`, or is not in the cache and the hub cannot be reached.
    """
    quiet_libraries(verbose=False)
    if not os.path.isdir(model):
        _check_name(model)
    with as_model_error(model, False):
        yield {"local_files_only": os.path.isdir(model) or stays_offline(model, is_here(model), False)}
