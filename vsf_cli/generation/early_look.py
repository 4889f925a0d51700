"""An image that is looked at before it is finished, at the step behind which nothing is guided, and perhaps left unfinished."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vsf_cli.generation.generate import Progress, Result, generate
from vsf_cli.models.patching import followed
from vsf_cli.settings.request import Request

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["generate_unless", "guided_steps"]


def guided_steps(request: Request) -> int | None:
    """Returns how many steps are made until nothing is guided any more; None if the last step is guided, or nobody can look:
    at a part of an image that is redrawn, or where the size is the model's own."""
    steps, method = request.steps_run, request.guidance
    acting = [step for step in range(steps) if method.acts_at(step / steps)]
    if request.width is None or request.height is None or request.image or acting[-1] == steps - 1:
        return None
    return acting[-1] + 1


def generate_unless(
    pipe: Any,
    request: Request,
    step: int,
    refuses: "Callable[[Sequence[Image.Image]], bool]",
    progress: Progress | None = None,
) -> Result | None:
    """Returns the image or video of a request; None if its estimate after a step is refused, and then the rest is not made.

    The arguments and errors are those of `generate`; `refuses` takes the decoded estimate, a list of frames.
    """
    from vsf_cli.models import family_of
    from vsf_cli.models.estimates import estimate_of

    made = 0

    def after(output: Any, args: Sequence[Any]) -> Any:
        nonlocal made
        made += 1
        if made == step:
            _, estimate = estimate_of(pipe.scheduler, output, args)
            frames = family_of(pipe).decode(pipe, estimate, request.width, request.height)
            if refuses(frames[request.drop_frames :]):
                raise _Refused
        return output

    try:
        with followed(pipe.scheduler, "step", after):
            return generate(pipe, request, progress)
    except _Refused:
        pipe.maybe_free_model_hooks()
        return None


class _Refused(Exception):
    """The rest of an image is not wanted."""
