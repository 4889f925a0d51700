"""The hub: whether it is asked, and its errors and those of reading files as one line that says what to do."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from vsf_cli.errors import ModelError, causes, is_out_of_memory

__all__ = ["as_model_error", "is_offline", "not_cached", "stays_offline"]

REACH_SECONDS = 4.0
"""How long the hub is waited for before it counts as out of reach; its client tries again and again, for minutes."""

UNREACHABLE = "is not in the cache, and the hub cannot be reached: check the network"

Errors = tuple[type[BaseException], ...]


def is_offline(offline: bool) -> bool:
    """Returns whether the network may not be used, by an option or by a variable of the hub's client."""
    from huggingface_hub import constants

    return offline or bool(constants.HF_HUB_OFFLINE)


def _forbidding(offline: bool) -> str:
    """Returns the name of what forbids the network."""
    variables = ("VSF_OFFLINE",) if offline else ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    given = (name for name in variables if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off"))
    return next(given, "--offline")


def not_cached(model: str, offline: bool) -> ModelError:
    """Returns the error of a model that is not on this machine and must not be downloaded."""
    return ModelError(f"model '{model}' {_forbidden(offline)}")


def _forbidden(offline: bool) -> str:
    name = _forbidding(offline)
    return f"is not in the cache, and {name} forbids to download it: run once without {name}"


def stays_offline(model: str, is_here: bool, offline: bool, noun: str = "model") -> bool:
    """Returns whether a model of the hub is loaded from the cache alone: if the network may not be used, or does not answer.

    `noun` says in errors what it is.

    Raises:
        ModelError: If the hub cannot be reached, and the model is not on this machine.
    """
    if is_offline(offline):
        return True
    if _is_reachable():
        return False
    if is_here:
        return True
    raise ModelError(f"{noun} '{model}' {UNREACHABLE}")


def _is_reachable() -> bool:
    """Returns whether the hub gives any answer within `REACH_SECONDS`."""
    from huggingface_hub import constants, get_session

    answers: list[object] = []

    def ask() -> None:
        with suppress(Exception):
            answers.append(get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS))

    # Beside this thread, since looking a name up takes no time-out.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(answers)


@contextmanager
def as_model_error(model: str, offline: bool, noun: str = "model") -> Iterator[None]:
    """Raises every error of reading files and of the hub as a `ModelError` about a model; those of memory stay as they are.

    `noun` says in errors what it is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, IndexError, SafetensorError, _transport_error()) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{noun} '{model}' {_explain(model, offline, error)}") from error


def _transport_error() -> type[Exception]:
    """Returns the base class of the network errors, such as time-outs, of the library that the hub's client uses."""
    from huggingface_hub import errors

    return next(kind for kind in errors.HfHubHTTPError.__mro__[1:] if kind.__name__ == "HTTPError")


def _explain(model: str, offline: bool, error: BaseException) -> str:
    """Returns the first message whose classes include the error or one of its causes."""
    chain = list(causes(error))
    for classes, message in _hub_messages(model, offline):
        if any(isinstance(cause, classes) for cause in chain):
            return message
    return _file_message(offline, chain)


def _hub_messages(model: str, offline: bool) -> list[tuple[Errors, str]]:
    """Returns classes of errors with their messages; subclasses come before their bases."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{model}"
    missing: Errors = (errors.LocalEntryNotFoundError,)
    offline_errors: Errors = (errors.OfflineModeIsEnabled, *(missing if is_offline(offline) else ()))
    network_errors: Errors = (*missing, ConnectionError, TimeoutError, _transport_error())
    return [
        ((errors.GatedRepoError,), f"is gated: accept its licence on {page}, then run 'hf auth login'"),
        ((errors.RevisionNotFoundError,), "has no such revision: leave the revision out, or look at its branches on the hub"),
        (offline_errors, _forbidden(offline)),
        ((errors.RepositoryNotFoundError,), "does not exist on the hub, or is private: check the name, or run 'hf auth login'"),
        ((errors.RemoteEntryNotFoundError,), f"has no such file: see {page}/tree/main for those that it has"),
        (network_errors, UNREACHABLE),
    ]


def _file_message(offline: bool, causes: Sequence[BaseException]) -> str:
    from safetensors import SafetensorError

    text = " ".join(str(causes[0]).split())
    if any(isinstance(cause, SafetensorError) for cause in causes):
        return f"has a file that is damaged or no safetensors: {text[:200]}"
    if is_offline(offline) and "no file named" in text:
        return f"is not whole in the cache, and {_forbidding(offline)} forbids to download the rest"
    if "no file named" in text or "safetensors files" in text or ".bin" in text:
        return "has no safetensors weights that can be read: pickled weights are not loaded"
    return f"cannot be loaded: {text[:300]}"
