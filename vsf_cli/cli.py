"""The command line: thin, and without torch until a model is needed."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from vsf_cli import __version__
from vsf_cli.errors import RequestError, VSFError

Value = TypeVar("Value")

app = typer.Typer(
    help="Say what you don't want, and few-step models obey: negative guidance by value sign flip (VSF).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
presets = typer.Typer(help="List presets, show their values, and choose one.", no_args_is_help=True)
app.add_typer(presets, name="presets")

Negative = Annotated[
    list[str] | None,
    typer.Option("-n", "--neg", "--negative-prompt", "--negative", help="What you don't want. Repeatable."),
]
Alpha = Annotated[float | None, typer.Option("--alpha", "--scale", help="VSF's strength, 0 or more.")]
Beta = Annotated[float | None, typer.Option("--beta", "--offset", help="VSF's bias, in nats; inf turns it off.")]
SpecialTokens = Annotated[
    bool | None,
    typer.Option("--special-tokens/--no-special-tokens", help="Whether VSF uses the negative's begin and end tokens."),
]
Start = Annotated[float | None, typer.Option("--start", help="Guide from this fraction of the steps on.")]
Stop = Annotated[float | None, typer.Option("--stop", help="Guide until this fraction of the steps.")]
MethodName = Annotated[str | None, typer.Option("--method", help="vsf, cfg or none.")]
PresetName = Annotated[str | None, typer.Option("--preset", help="A preset's name, or the path of its file.")]
Model = Annotated[str | None, typer.Option("-m", "--model", help="A hub id or a folder.")]
Loras = Annotated[list[str] | None, typer.Option("--lora", help="PATH_OR_ID[:weight_name][:SCALE]. Repeatable.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option("--guidance", "--cfg-scale", help="CFG's scale; 0 is none.")]
Seed = Annotated[str | None, typer.Option("-s", "--seed", help="7, or 1,2,3, or 1..8; random if not given.")]
Seeds = Annotated[int | None, typer.Option("--seeds", "--count", help="How many pictures, each with its own seed.")]
Size = Annotated[str | None, typer.Option("--size", help="WxH in pixels.")]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", help="A file, a folder/, a template with {seed} {alpha} {slug} ..., or - for bytes."),
]
Exists = Annotated[str | None, typer.Option("--exists", help="suffix, skip, overwrite or error.")]
Format = Annotated[str | None, typer.Option("--format", help="png, jpeg or webp.")]
Device = Annotated[str | None, typer.Option("-d", "--device", help="auto, cpu, cuda, cuda:1, mps ...")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Offload = Annotated[str | None, typer.Option("--offload", help="auto, none, model, group or sequential.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but warnings and errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")]


def bounded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns an error that a person can mend into one line and its exit code; a bug keeps its traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from vsf_cli.terminal import Talk

        try:
            command(*args, **kwargs)
        except VSFError as error:
            Talk().error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            Talk().error("interrupted; what was finished is kept")
            raise typer.Exit(130) from error

    return run


def read_prompt(prompt: str) -> str:
    """The prompt itself, or that of `-` (stdin) or `@file`."""
    try:
        if prompt == "-":
            return sys.stdin.read().strip()
        return Path(prompt[1:]).read_text("utf-8").strip() if prompt.startswith("@") else prompt
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"prompt {prompt} cannot be read: {error}") from error


def parsed(option: str, parse: Callable[[], Value]) -> Value:
    """A value of the command line; one that cannot be parsed ends with exit code 2."""
    try:
        return parse()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@app.command()
@bounded
def image(
    prompt: Annotated[str, typer.Argument(help="What you want; - reads stdin, @file reads a file.")],
    neg: Negative = None,
    alpha: Alpha = None,
    beta: Beta = None,
    special_tokens: SpecialTokens = None,
    start: Start = None,
    stop: Stop = None,
    method: MethodName = None,
    preset: PresetName = None,
    model: Model = None,
    lora: Loras = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    seeds: Seeds = None,
    size: Size = None,
    width: Annotated[int | None, typer.Option("-W", "--width", help="Pixels; with --height.")] = None,
    height: Annotated[int | None, typer.Option("-H", "--height", help="Pixels; with --width.")] = None,
    output: Output = None,
    exists: Exists = None,
    format: Format = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = None,
    offline: Offline = False,
    metadata: Annotated[bool, typer.Option("--metadata/--no-metadata", help="Whether files say how they were made.")] = True,
    sidecar: Annotated[bool, typer.Option("--sidecar", help="Write a JSON file beside each picture.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    dump_attn: Annotated[bool, typer.Option("--dump-attn", help="Write attention maps beside each picture.")] = False,
) -> None:
    """Make pictures: vsf image "a red bike on a road" --neg "wheels" --alpha 3"""
    from vsf_cli import commands
    from vsf_cli.presets import SETTINGS, Settings
    from vsf_cli.run import plan
    from vsf_cli.terminal import Talk
    from vsf_cli.values import chosen_size, parse_seeds, parse_size

    size = chosen_size(size, width, height)
    options = {name: value for name, value in locals().items() if name in SETTINGS}
    numbers = parsed("--seed", lambda: parse_seeds(seed, seeds))
    parsed("--size", lambda: parse_size(size) if size else None)
    settings = Settings({**options, "offline": offline or None})
    made = plan(read_prompt(prompt), neg or [], numbers, settings, lora or [], metadata, sidecar, dump_attn)
    commands.run_images(made, Talk(quiet, verbose), as_json, dry_run, drawn=seed is None)


@app.command("attn-map")
@bounded
def attn_map(
    prompt: Annotated[str, typer.Argument(help="What you want; or a picture that vsf made, to be made again.")],
    neg: Negative = None,
    alpha: Alpha = None,
    beta: Beta = None,
    special_tokens: SpecialTokens = None,
    start: Start = None,
    stop: Stop = None,
    method: MethodName = None,
    preset: PresetName = None,
    model: Model = None,
    lora: Loras = None,
    num_inference_steps: Annotated[int | None, typer.Option("--num-inference-steps", help="Denoising steps.")] = None,
    guidance: Guidance = None,
    seed: Seed = None,
    size: Size = None,
    steps: Annotated[str | None, typer.Option("--steps", help="Steps to keep, from 1: 1,2,5..8; all if not given.")] = None,
    blocks: Annotated[str | None, typer.Option("--blocks", help="Blocks to keep, from 1.")] = None,
    heads: Annotated[
        str | None, typer.Option("--heads", help="Heads to keep each on its own; their mean if not given.")
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="Words to keep: wheels,red.")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="The folder to write.")] = None,
    exists: Exists = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = None,
    offline: Offline = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show where the negative prompt acts: vsf attn-map "a person on grass" --neg umbrella"""
    given = locals()
    from vsf_cli import commands
    from vsf_cli.maps import Selection
    from vsf_cli.terminal import Talk
    from vsf_cli.values import parse_seeds

    selection = parsed("--steps, --blocks, --heads", lambda: Selection.parse(steps, blocks, heads, tokens))
    numbers = parsed("--seed", lambda: parse_seeds(seed, None))
    made = commands.plan_maps(read_prompt(prompt), given, numbers)
    commands.run_maps(made, selection, output, Talk(quiet, verbose), as_json)


@app.command()
@bounded
def info(
    file: Annotated[Path, typer.Argument(help="A picture, or its sidecar.")],
    as_json: Json = False,
) -> None:
    """Say how a picture was made: vsf info outputs/a-red-bike-1.png"""
    from vsf_cli import commands

    commands.show_info(file, as_json)


@app.command()
@bounded
def doctor(
    preset: PresetName = None,
    as_json: Json = False,
) -> None:
    """Report versions, device, memory, attention paths and cache, and what a preset would need."""
    from vsf_cli import commands

    commands.show_doctor(preset, as_json)


@presets.command("list")
@bounded
def presets_list(as_json: Json = False) -> None:
    """List all presets; the one in use has a star."""
    from vsf_cli import commands

    commands.list_presets(as_json)


@presets.command("show")
@bounded
def presets_show(name: Annotated[str, typer.Argument(help="A name, or the path of a file.")], as_json: Json = False) -> None:
    """Show the values that a run with this preset would have, and where each comes from."""
    from vsf_cli import commands

    commands.show_preset(name, as_json)


@presets.command("where")
@bounded
def presets_where(key: Annotated[str, typer.Argument(help="A setting, such as steps or alpha.")]) -> None:
    """Say where the value of a setting comes from."""
    from vsf_cli import commands

    commands.where_setting(key)


@presets.command("use")
@bounded
def presets_use(name: Annotated[str, typer.Argument(help="A name, or the path of a file.")]) -> None:
    """Make a preset the default from now on."""
    from vsf_cli import commands

    commands.use_preset(name)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vsf {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Say what you don't want, and few-step models obey: negative guidance by value sign flip (VSF)."""
