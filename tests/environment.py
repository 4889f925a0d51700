"""An environment of the tests' own: neither the settings, the caches nor the signals of whoever runs them reach a test.

`tests/conftest.py` calls `isolate` before anything reads a variable. Child processes inherit what it sets.
"""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from functools import cache

__all__ = ["isolate", "without_settings"]

PREFIXES = ("VSF_", "XDG_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "OPENAI_", "RAY_", "SLURM_", "MPL")
NAMES = {"NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "COLUMNS", "LINES", "MATPLOTLIBRC"}


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of an environment without the variables that decide what vsf and its libraries read, store or print."""
    return {name: value for name, value in environment.items() if not name.startswith(PREFIXES) and name not in NAMES}


@cache
def isolate() -> None:
    """Gives this process and its children an empty home, no settings, and the default SIGINT."""
    home = tempfile.mkdtemp(prefix="vsf-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    clean = without_settings(os.environ)
    os.environ.clear()
    os.environ.update(clean, **dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"), home))
    # A shell starts background jobs with SIGINT ignored, and children inherit that: no interrupt would reach them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
