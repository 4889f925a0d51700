"""`vsf video`: makes videos from a prompt."""

from typing import Annotated

from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import NUMBER, Command, command_app
from vsf_cli.cli.image import Prompt, SeriesOptions, make
from vsf_cli.cli.options import ConsoleOptions, Takes, command_option, with_options
from vsf_cli.config.option import SIZE
from vsf_cli.errors import RequestError
from vsf_cli.settings.options import FileOptions, Given

__all__ = ["app"]

app = command_app()


@app.command(cls=Command, epilog='Example: vsf video "a red car drives on a road" --neg wheels --alpha 2.2')
@handle_errors
@with_options
def video(
    prompt: Prompt,
    given: Annotated[Given, Takes(preset="video_preset")],
    files: FileOptions,
    series: SeriesOptions,
    messages: ConsoleOptions,
    seconds: Annotated[
        float | None, command_option("--seconds", help="Length, more than 0, instead of --frames.", panel=SIZE, metavar=NUMBER)
    ] = None,
) -> None:
    """Make videos.

    --neg, --alpha and --preset are enough for most of them.
    """
    if "frames" in given.settings and seconds is not None:
        raise RequestError("--frames and --seconds say the same: give one of the two")
    make(prompt, given, files, series, messages, video=True, seconds=seconds)
