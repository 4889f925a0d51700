"""The command line, which imports the module of a command when the command is used."""

from typing import Annotated, Any

import typer

from vsf_cli import __version__
from vsf_cli.cli.help import SETTINGS_OF_HELP, LazyGroup
from vsf_cli.cli.usage import usage_errors

__all__ = ["COMMANDS", "app"]

COMMANDS = {
    "image": ("image", "Make images from a prompt, without what you don't want."),
    "video": ("video", "Make videos from a prompt, without what you don't want."),
    "batch": ("batch", "Make an image or video of each row of a table; a stopped run continues."),
    "again": ("again", "Remake a file from its metadata; options change it."),
    "attn-map": ("attn_map", "Show where the negative prompt acts."),
    "info": ("info", "Say how a file was made."),
    "presets": ("presets", "List presets, show their values, and choose one."),
    "doctor": ("doctor", "Report versions, device, memory, attention kernels, cache, and what a preset needs."),
    "bench": ("bench", "Time methods and count FLOPs and memory."),
    "eval": ("evaluate", "Compare methods on a prompt set: the paper's experiment."),
}
"""Each command's module in `vsf_cli.cli`, and its help."""


EPILOG = """\
Example: vsf image "a red bike on a road" --neg wheels
Without --preset, a small built-in model makes images of 96 px; 'vsf presets list' has the large ones.
Environment variables set options, too: VSF_ALPHA is --alpha; VSF_PRESET is --preset for images, VSF_VIDEO_PRESET for videos.
The guides are in docs/ of the source.
"""


class _Group(LazyGroup):
    commands_by_name = COMMANDS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with usage_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with usage_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Group,
    help="Say what you don't want, and few-step models obey: negative guidance by value sign flip (VSF).",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS_OF_HELP,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"vsf {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Say what you don't want, and few-step models obey: negative guidance by value sign flip (VSF)."""
