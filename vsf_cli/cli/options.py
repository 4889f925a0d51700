"""The options that commands share, in groups: a group is the signature of a function that is never called."""

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from vsf_cli.config.ranges import ValueList as Numbers
from vsf_cli.config.ranges import parse_range
from vsf_cli.errors import RequestError

__all__ = ["batching", "clips", "floats", "guidance", "making", "running", "sharing", "wholes"]

Command = Callable[..., None]


def sharing(*groups: Command) -> Callable[[Command], Command]:
    """Gives a command, which takes `**options`, the options of groups behind its own."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command).parameters.values()
        parameters = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
        parameters += [parameter for group in groups for parameter in inspect.signature(group).parameters.values()]
        # Typer reads both.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def floats(text: str) -> Numbers:
    """Numbers of the command line, by `parse_range`; what cannot be parsed ends with exit code 2."""
    return _numbers(text, float)


def wholes(text: str) -> Numbers:
    """Whole numbers, likewise."""
    return _numbers(text, int)


def _numbers(text: str, kind: type) -> Numbers:
    try:
        return parse_range(text, kind)
    except (ValueError, RequestError) as error:
        raise typer.BadParameter(str(error)) from error


def guidance(
    neg: Annotated[
        list[str] | None,
        typer.Option(
            "-n",
            "--neg",
            "--negative-prompt",
            "--negative",
            help="What you don't want, such as wheels, or wheels:2. Repeatable.",
        ),
    ] = None,
    alpha: Annotated[
        Numbers | None, typer.Option("--alpha", "--scale", parser=floats, metavar="NUMBERS", help="VSF's strength, 0 or more.")
    ] = None,
    beta: Annotated[
        Numbers | None,
        typer.Option("--beta", "--offset", parser=floats, metavar="NUMBERS", help="VSF's bias, in nats; inf turns it off."),
    ] = None,
    special_tokens: Annotated[
        bool | None,
        typer.Option("--special-tokens/--no-special-tokens", help="Whether VSF uses the negative's begin and end tokens."),
    ] = None,
    start: Annotated[
        Numbers | None,
        typer.Option("--start", parser=floats, metavar="NUMBERS", help="Guide from this fraction of the steps on."),
    ] = None,
    stop: Annotated[
        Numbers | None, typer.Option("--stop", parser=floats, metavar="NUMBERS", help="Guide until this fraction of the steps.")
    ] = None,
    slope: Annotated[
        Numbers | None,
        typer.Option(
            "--slope", parser=floats, metavar="NUMBERS", help="-1 to 1: VSF's strength falls or rises over the steps."
        ),
    ] = None,
    tau: Annotated[
        Numbers | None, typer.Option("--tau", parser=floats, metavar="NUMBERS", help="Hold VSF to a ratio of norms, as NAG.")
    ] = None,
    blend: Annotated[
        Numbers | None, typer.Option("--blend", parser=floats, metavar="NUMBERS", help="How much of VSF is taken, 0 to 1.")
    ] = None,
    guided_blocks: Annotated[
        str | None, typer.Option("--guided-blocks", help="Which blocks VSF guides, from 1: 1..4,8.")
    ] = None,
    mask: Annotated[bool | None, typer.Option("--mask/--no-mask", help="VSF's ablation: all rows see the flip.")] = None,
    duplication: Annotated[
        bool | None, typer.Option("--duplication/--no-duplication", help="VSF's ablation: no unflipped copy.")
    ] = None,
    reference_layout: Annotated[
        bool | None, typer.Option("--reference-layout/--paper-layout", help="VSF as in the paper's public code.")
    ] = None,
    nag_scale: Annotated[
        Numbers | None, typer.Option("--nag-scale", parser=floats, metavar="NUMBERS", help="NAG's phi, 0 or more.")
    ] = None,
    nag_tau: Annotated[
        Numbers | None, typer.Option("--nag-tau", parser=floats, metavar="NUMBERS", help="NAG's greatest ratio of norms.")
    ] = None,
    nag_alpha: Annotated[
        Numbers | None, typer.Option("--nag-alpha", parser=floats, metavar="NUMBERS", help="NAG's blend, 0 to 1.")
    ] = None,
    nag_padding: Annotated[
        bool | None, typer.Option("--nag-padding/--no-nag-padding", help="Whether NAG pads the negative.")
    ] = None,
    nasa_alpha: Annotated[
        Numbers | None, typer.Option("--nasa-alpha", parser=floats, metavar="NUMBERS", help="NASA's strength, 0 or more.")
    ] = None,
    nasa_padding: Annotated[
        bool | None, typer.Option("--nasa-padding/--no-nasa-padding", help="Whether NASA pads the negative.")
    ] = None,
    wef_alpha: Annotated[
        Numbers | None, typer.Option("--wef-alpha", parser=floats, metavar="NUMBERS", help="WEF's strength, 0 or more.")
    ] = None,
    wef_padding: Annotated[
        bool | None, typer.Option("--wef-padding/--no-wef-padding", help="Whether WEF pads the negative.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="vsf, nag, nag++, nasa, wef, cfg or none.")] = None,
    guidance: Annotated[
        Numbers | None,
        typer.Option("--guidance", "--cfg-scale", parser=floats, metavar="NUMBERS", help="CFG's scale; 0 is none."),
    ] = None,
) -> None:
    """What is not wanted, and how it is kept away."""


def making(
    steps: Annotated[Numbers | None, typer.Option("--steps", parser=wholes, metavar="NUMBERS", help="Denoising steps.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", "--count", help="How many pictures, each with its own seed.")] = None,
    sr: Annotated[
        list[str] | None, typer.Option("--sr", help="wheels=>doors,windows: one with each of these words. Repeatable.")
    ] = None,
    width: Annotated[int | None, typer.Option("-W", "--width", help="Pixels; with --height.")] = None,
    height: Annotated[int | None, typer.Option("-H", "--height", help="Pixels; with --width.")] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="A file, a folder/, a template with {seed} {alpha} {slug} ..., or - for bytes."),
    ] = None,
    exists: Annotated[str | None, typer.Option("--exists", help="suffix, skip, overwrite or error.")] = None,
    metadata: Annotated[bool, typer.Option("--metadata/--no-metadata", help="Whether files say how they were made.")] = True,
    sidecar: Annotated[bool, typer.Option("--sidecar", help="Write a JSON file beside each file.")] = False,
    dump_attn: Annotated[bool, typer.Option("--dump-attn", help="Write attention maps beside each.")] = False,
    compare: Annotated[
        str | None, typer.Option("--compare", help="Methods on one labelled strip, same seed: none,nag,vsf.")
    ] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the model: slow at first, then faster.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """How many, and where they go."""


def running(
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or the path of its file.")] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="A hub id or a folder.")] = None,
    lora: Annotated[list[str] | None, typer.Option("--lora", help="PATH_OR_ID[:weight_name][:SCALE]. Repeatable.")] = None,
    seed: Annotated[str | None, typer.Option("-s", "--seed", help="7, or 1,2,3, or 1..8; random if not given.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="WxH in pixels.")] = None,
    device: Annotated[str | None, typer.Option("-d", "--device", help="auto, cpu, cuda, cuda:1, mps ...")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = None,
    offload: Annotated[str | None, typer.Option("--offload", help="auto, none, model, group or sequential.")] = None,
    vae_tiling: Annotated[
        bool | None, typer.Option("--vae-tiling/--no-vae-tiling", help="Decode tile by tile: less memory.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
) -> None:
    """With which model, on which machine, and what is said."""


def clips(
    frames: Annotated[
        Numbers | None,
        typer.Option(
            "--frames", parser=wholes, metavar="NUMBERS", help="Of clips: how many; rounded to 1 more than a multiple of 4."
        ),
    ] = None,
    fps: Annotated[
        Numbers | None,
        typer.Option("--fps", parser=wholes, metavar="NUMBERS", help="Of clips: frames in a second, as the file is played."),
    ] = None,
    drop_frames: Annotated[
        Numbers | None,
        typer.Option("--drop-frames", parser=wholes, metavar="NUMBERS", help="Of clips: leave out the first frames."),
    ] = None,
    shift: Annotated[
        Numbers | None,
        typer.Option(
            "--shift", parser=floats, metavar="NUMBERS", help="Of clips: how far the sigmas are shifted towards noise."
        ),
    ] = None,
) -> None:
    """How long clips are, and how they move."""


def batching(
    steps: Annotated[Numbers | None, typer.Option("--steps", parser=wholes, metavar="NUMBERS", help="Denoising steps.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="png, jpeg or webp; of clips mp4, webm, gif or webp.")] = None,
    crf: Annotated[
        Numbers | None,
        typer.Option("--crf", parser=wholes, metavar="NUMBERS", help="Of mp4 and webm: less is better and larger."),
    ] = None,
    sr: Annotated[
        list[str] | None, typer.Option("--sr", help="wheels=>doors,windows: one with each of these words. Repeatable.")
    ] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="Write labelled contact sheets, too.")] = False,
    sidecar: Annotated[bool, typer.Option("--sidecar", help="Write a JSON file beside each file.")] = False,
    dump_attn: Annotated[bool, typer.Option("--dump-attn", help="Write attention maps beside each.")] = False,
    batch_size: Annotated[str, typer.Option("--batch-size", help="Pictures in one pass through the model, or auto.")] = "1",
    engine: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes, or actors; one GPU each.")] = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="Of a Ray cluster; begins one if not given.")] = None,
    shard: Annotated[str | None, typer.Option("--shard", help="I/N: this part of the work; auto reads SLURM's array.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed in an earlier run.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    max_failures: Annotated[int | None, typer.Option("--max-failures", min=1, help="Stop after that many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """Of a table of pictures and clips: what its rows take, how they are made, and by whom."""
