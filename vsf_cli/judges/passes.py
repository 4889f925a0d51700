"""Passes through a judge's model about several images, of fewer where memory does not suffice."""

from collections.abc import Callable, Iterator, Sequence

from vsf_cli.config.names import counted
from vsf_cli.errors import JudgeOutOfMemory, ModelError, OutOfMemory, RequestError, VSFError, is_out_of_memory
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.several import Outcome, Pair
from vsf_cli.loading.runtime import free_memory

__all__ = ["Passes"]

Ask = Callable[[Sequence[Pair]], list[Judgement]]


class Passes:
    """Asks about images in passes.

    A pass that does not fit into memory is made again with half of its images, as are those that follow. One that fails
    otherwise is made again image by image, so that one image cannot fail the others.

    Arguments:
        size: The most images of one pass.

    Raises:
        RequestError: If that is none.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise RequestError(f"the judge's batch size is {size}, but must be at least 1")
        self.size = size

    def made(self, ask: Ask, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
        """Yields the outcomes of each pass when it is done, in the order of the images; an error is alone in its pass.

        Arguments:
            ask: Returns the answers of one pass.
            pairs: The images, each with what is asked about it.

        Raises:
            ModelError: If the model cannot answer about any image of a pass.
        """
        waiting = [*pairs]
        while part := waiting[: self.size]:
            found = _tried(ask, part)
            if isinstance(found, OutOfMemory) and len(part) > 1:
                self.size = len(part) // 2
                continue
            if isinstance(found, list) or len(part) == 1:
                yield _outcomes(found)
            else:
                alone = [_tried(ask, [pair]) for pair in part]
                if all(isinstance(one, ModelError) for one in alone):
                    raise found
                yield from map(_outcomes, alone)
            del waiting[: len(part)]


def _tried(ask: Ask, part: Sequence[Pair]) -> list[Judgement] | VSFError:
    """Returns the answers of one pass, or why there are none."""
    try:
        return ask(part)
    except Exception as error:
        if is_out_of_memory(error):
            images = counted(len(part), "image")
            failure: VSFError = JudgeOutOfMemory(
                f"out of memory for the judge with {images}: end other programs, or choose a smaller --judge-model"
            )
        elif isinstance(error, VSFError):
            failure = error
        else:
            raise
    # Outside of `except`, where the error and all that its traceback holds would still be alive.
    if isinstance(failure, OutOfMemory):
        free_memory()
    return failure


def _outcomes(found: list[Judgement] | VSFError) -> list[Outcome]:
    return [*found] if isinstance(found, list) else [found]
