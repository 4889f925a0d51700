"""Keeps other libraries quiet and offline while a command runs."""

import logging
import os
import warnings

__all__ = ["quiet_libraries", "stay_offline"]


def stay_offline() -> None:
    """Keeps the hub's client from the network. It reads this once, when it is first imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def quiet_libraries(verbose: bool) -> None:
    """Hides the messages of other libraries, which are for developers, unless verbose."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        if not verbose:
            library.utils.logging.set_verbosity_error()
    if not verbose:
        # It logs every attempt to reach a network that is not there. Our own error says the outcome.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    else:
        warnings.filterwarnings("ignore")
