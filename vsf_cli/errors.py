"""Every error that a person can mend, and the exit code of each.

    VSFError            1    something failed while it ran
    ├── RequestError    6    what was asked is not legal: a value, a prompt, a combination of options
    │   └── PresetError 6    a preset does not exist or says something that is not legal
    ├── PatchError      6    this model cannot be guided by this method
    ├── ModelError      4    the model is missing, gated, offline, or not what it should be
    ├── OutOfMemory     5    the device's memory does not suffice
    ├── PictureError    1    the model ran and made nothing that is worth keeping
    ├── MediaError      1    a file cannot be written or read
    │   └── EncodingError 1  a format cannot hold this picture or what is said of it
    └── PartlyFailed    3    some of the pictures of a batch failed

A message is one line: what, where, found, expected, and what to do next. Whoever uses the library catches `VSFError`;
anything else that escapes is a bug.
"""

__all__ = [
    "EncodingError",
    "MediaError",
    "ModelError",
    "OutOfMemory",
    "PartlyFailed",
    "PatchError",
    "PictureError",
    "PresetError",
    "RequestError",
    "VSFError",
]


class VSFError(Exception):
    """Something failed that a person can mend."""

    exit_code = 1


class RequestError(VSFError):
    """What was asked is parsed, but not legal."""

    exit_code = 6


class PresetError(RequestError):
    """A preset does not exist, or says something that is not legal."""


class PatchError(VSFError):
    """This model cannot be guided by this method, or is guided already."""

    exit_code = 6


class ModelError(VSFError):
    """The model is missing, gated, offline, or not what it should be."""

    exit_code = 4


class OutOfMemory(VSFError):
    """The device's memory does not suffice."""

    exit_code = 5


class PictureError(VSFError):
    """The model ran and made nothing that is worth keeping."""


class MediaError(VSFError):
    """A file cannot be written or read."""


class EncodingError(MediaError):
    """A format cannot hold this picture, or what is said of it: another picture it can."""


class PartlyFailed(VSFError):
    """Some of the pictures of a batch failed; the others are there."""

    exit_code = 3
