"""Errors of loading from folders and from the hub as one line that says what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vsf_cli.errors import ModelError, causes, is_out_of_memory

__all__ = ["as_model_error"]

Errors = tuple[type[BaseException], ...]


@contextmanager
def as_model_error(model: str, offline: bool) -> Iterator[None]:
    """Raises every error of reading files and of the hub as a `ModelError` about a model."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, IndexError, SafetensorError, _transport_error()) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(_explain(model, offline, error)) from error


def _transport_error() -> type[Exception]:
    """Returns the base class of the network errors, such as time-outs, of the library that the hub's client uses."""
    from huggingface_hub import errors

    return next(kind for kind in errors.HfHubHTTPError.__mro__[1:] if kind.__name__ == "HTTPError")


def _explain(model: str, offline: bool, error: BaseException) -> str:
    """Returns the first message whose classes include the error or one of its causes."""
    chain = list(causes(error))
    for classes, message in _hub_messages(model, offline):
        if any(isinstance(cause, classes) for cause in chain):
            return f"model '{model}' {message}"
    return f"model '{model}' {_file_message(offline, chain)}"


def _hub_messages(model: str, offline: bool) -> list[tuple[Errors, str]]:
    """Returns classes of errors with their messages; subclasses come before their bases."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{model}"
    missing: Errors = (errors.LocalEntryNotFoundError,)
    offline_errors: Errors = (errors.OfflineModeIsEnabled, *(missing if offline else ()))
    network_errors: Errors = (*missing, ConnectionError, TimeoutError, _transport_error())
    return [
        ((errors.GatedRepoError,), f"is gated: accept its licence on {page}, then run 'hf auth login'"),
        ((errors.RevisionNotFoundError,), "has no such revision: leave the revision out, or look at its branches on the hub"),
        (offline_errors, "is not in the cache, and --offline forbids to download it: run once without --offline"),
        ((errors.RepositoryNotFoundError,), "does not exist on the hub, or is private: check the name, or run 'hf auth login'"),
        ((errors.RemoteEntryNotFoundError,), f"has no such file: see {page}/tree/main for those that it has"),
        (network_errors, "is not in the cache, and the hub cannot be reached: check the network"),
    ]


def _file_message(offline: bool, causes: Sequence[BaseException]) -> str:
    from safetensors import SafetensorError

    text = " ".join(str(causes[0]).split())
    if any(isinstance(cause, SafetensorError) for cause in causes):
        return f"has a file that is damaged or no safetensors: {text[:200]}"
    if offline and "no file named" in text:
        return "is not whole in the cache, and --offline forbids to download the rest"
    if "no file named" in text or "safetensors files" in text or ".bin" in text:
        return "has no safetensors weights that can be read: pickled weights are not loaded"
    return f"cannot be loaded: {text[:300]}"
