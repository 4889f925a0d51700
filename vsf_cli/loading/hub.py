"""Errors of loading from folders and from the hub, each turned into one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from vsf_cli.errors import ModelError

__all__ = ["translated"]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def translated(model: str, offline: bool) -> Iterator[None]:
    """Turns every error of loading into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, IndexError, SafetensorError, _transport_error()) as error:
        raise ModelError(_explain(model, offline, error)) from error


def _transport_error() -> type[Exception]:
    """The errors of the hub client's transport, whichever library that is: timeouts, refused connections."""
    from huggingface_hub import errors

    return next(kind for kind in errors.HfHubHTTPError.__mro__[1:] if kind.__name__ == "HTTPError")


def _explain(model: str, offline: bool, error: BaseException) -> str:
    from huggingface_hub import errors
    from safetensors import SafetensorError

    causes = list(_causes(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(errors.GatedRepoError):
        return f"model '{model}' is gated: accept its licence on https://huggingface.co/{model}, then run 'hf auth login'"
    if has(errors.RevisionNotFoundError):
        return f"model '{model}' has no such revision: leave the revision out, or look at its branches on the hub"
    if has(errors.OfflineModeIsEnabled) or (offline and has(errors.LocalEntryNotFoundError)):
        return f"model '{model}' is not in the cache, and --offline forbids to download it: run once without --offline"
    if has(errors.RepositoryNotFoundError):
        return f"model '{model}' does not exist on the hub, or is private: check the name, or run 'hf auth login'"
    if has(errors.RemoteEntryNotFoundError):
        return f"model '{model}' has no such file: see https://huggingface.co/{model}/tree/main for those that it has"
    if has(errors.LocalEntryNotFoundError, ConnectionError, TimeoutError, _transport_error()):
        return f"model '{model}' is not in the cache, and the hub cannot be reached: check the network"
    text = " ".join(str(error).split())
    if has(SafetensorError):
        return f"model '{model}' has a file that is damaged or no safetensors: {text[:200]}"
    if offline and "no file named" in text:
        return f"model '{model}' is not whole in the cache, and --offline forbids to download the rest"
    if "no file named" in text or "safetensors files" in text or ".bin" in text:
        return f"model '{model}' has no safetensors weights that can be read: pickled weights are not loaded"
    return f"model '{model}' cannot be loaded: {text[:300]}"
