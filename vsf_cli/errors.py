"""Every error that a user can fix, with its exit code.

    VSFError 1
    ├── RequestError 6
    │   ├── PresetError 6
    │   └── UnknownWords 6
    ├── PatchError 6
    ├── ModelError 4
    ├── OutOfMemory 5
    │   └── JudgeOutOfMemory 5
    ├── PictureError 1
    ├── MediaError 1
    │   ├── EncodingError 1
    │   └── NoSuchFile 6, a RequestError too
    └── PartlyFailed 3

A message is one line: what, where, found, expected, and what to do next. Users of the library catch `VSFError`; any other
error is a bug.
"""

from collections.abc import Iterator

__all__ = [
    "EncodingError",
    "JudgeOutOfMemory",
    "MediaError",
    "ModelError",
    "NoSuchFile",
    "OutOfMemory",
    "PartlyFailed",
    "PatchError",
    "PictureError",
    "PresetError",
    "RequestError",
    "UnknownWords",
    "VSFError",
    "causes",
    "is_out_of_memory",
]


class VSFError(Exception):
    """Something failed that a user can fix."""

    exit_code = 1


class RequestError(VSFError):
    """A value, a prompt or a combination of options is not legal."""

    exit_code = 6


class UnknownWords(RequestError):
    """A model of few words does not know a word.

    Arguments:
        text: What is not known.
        advice: The words that are known; a batch tells them once.
    """

    def __init__(self, text: str, advice: str) -> None:
        super().__init__(f"{text} {advice[:1].upper()}{advice[1:]}")
        self.text, self.advice = text, advice


class PresetError(RequestError):
    """A preset does not exist, or has a key or value that is not legal."""


class PatchError(VSFError):
    """This model cannot be guided by this method, or is guided already."""

    exit_code = 6


class ModelError(VSFError):
    """The model is missing, gated, offline, or not what it should be."""

    exit_code = 4


class OutOfMemory(VSFError):
    """The device has too little memory."""

    exit_code = 5


class JudgeOutOfMemory(OutOfMemory):
    """The device has too little memory for a judge, so that what a pipeline could do with less is no advice."""


class PictureError(VSFError):
    """The model ran, but its image or video is of no use."""


class MediaError(VSFError):
    """A file cannot be written or read."""


class EncodingError(MediaError):
    """A format cannot hold this image, video or its metadata."""


class NoSuchFile(MediaError, RequestError):
    """There is no file of a name, or it is a folder."""

    exit_code = RequestError.exit_code


class PartlyFailed(VSFError):
    """Some items of a batch failed; the others are written."""

    exit_code = 3


NO_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "can't start new thread", "failed to map segment")
"""Parts of what PyTorch, Python and the system say where memory does not suffice."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, its cause, the cause of that, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error, or one of its causes, means that there was too little memory."""
    return any(
        # PyTorch's own class by its name, since its import takes seconds.
        isinstance(cause, (OutOfMemory, MemoryError))
        or type(cause).__name__ == "OutOfMemoryError"
        or any(text in str(cause).lower() for text in NO_MEMORY)
        for cause in causes(error)
    )
