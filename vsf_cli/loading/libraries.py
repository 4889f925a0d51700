"""Keeps other libraries quiet and offline while a command runs."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from vsf_cli.errors import OutOfMemory

__all__ = ["quiet_libraries", "quietly", "restore_libraries", "stay_offline"]

MIN_ADDRESS_SPACE = 10**9
"""Bytes that the libraries take at least. With less, OpenBLAS asks for memory for ever, or interrupts the process."""
_CHANGES = ExitStack()
"""Restores what this file changed in other libraries, when it is closed."""


def stay_offline() -> None:
    """Keeps the hub's client from the network, until `restore_libraries`."""
    from huggingface_hub import constants

    # Libraries that are imported later read the variable; the client itself has read it.
    os.environ["HF_HUB_OFFLINE"] = "1"
    _CHANGES.callback(setattr, constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    constants.HF_HUB_OFFLINE = True


def _check_address_space() -> None:
    with suppress(ImportError):  # Windows has no limits.
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
            few = f"this process may use {limit / 1e9:.1f} GB of addresses, but its libraries take"
            raise OutOfMemory(f"{few} {MIN_ADDRESS_SPACE / 1e9:g} GB or more: raise the limit, as by ulimit -v")


def quiet_libraries(verbose: bool) -> None:
    """Imports other libraries, and hides their messages, which are for developers, unless verbose, until `restore_libraries`.

    Raises:
        OutOfMemory: If the process may not use enough memory to import them.
    """
    _check_address_space()
    _quiet(_CHANGES, messages=not verbose)
    root, hub = logging.getLogger(), logging.getLogger("huggingface_hub")
    for logger in (root, hub):
        _CHANGES.callback(_restore, logger, list(logger.handlers), logger.level)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        return
    # It logs every attempt to reach a network that is not there. Our own error says the outcome.
    hub.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


@contextmanager
def quietly() -> Iterator[None]:
    """Hides the bars of other libraries inside a `with`, and their messages unless somebody has set up logging."""
    with ExitStack() as changes:
        _quiet(changes, messages=not logging.getLogger().handlers)
        yield


def _quiet(changes: ExitStack, messages: bool) -> None:
    """Hides bars and, if `messages`, messages, until `changes` is closed."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        log = library.utils.logging
        changes.callback(log.set_verbosity, log.get_verbosity())
        if log.is_progress_bar_enabled():
            changes.callback(log.enable_progress_bar)
            log.disable_progress_bar()
        if messages:
            log.set_verbosity_error()


def _restore(logger: logging.Logger, handlers: list[logging.Handler], level: int) -> None:
    logger.handlers[:] = handlers
    logger.setLevel(level)


def restore_libraries() -> None:
    """Restores what was changed in other libraries, for a second command in the same process."""
    _CHANGES.close()
