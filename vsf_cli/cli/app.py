"""The command line: thin, and without torch until a model is needed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from vsf_cli import __version__
from vsf_cli.cli.bench import bench
from vsf_cli.cli.error_boundary import bounded
from vsf_cli.cli.evaluation import app as evaluation
from vsf_cli.cli.options import batching, clips, guidance, making, running, sharing, wholes
from vsf_cli.config.ranges import Numbers
from vsf_cli.errors import RequestError

Value = TypeVar("Value")
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]

app = typer.Typer(
    help="Say what you don't want, and few-step models obey: negative guidance by value sign flip (VSF).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
presets = typer.Typer(help="List presets, show their values, and choose one.", no_args_is_help=True)
app.add_typer(presets, name="presets")
app.add_typer(evaluation, name="eval")
app.command()(bench)


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


def replacements(texts: list[str] | None) -> list[Any]:
    """What `--sr` says."""
    from vsf_cli.prompts.replacements import Replacement

    return parsed("--sr", lambda: [Replacement.parse(text) for text in texts or []])


def sized(options: dict[str, Any]) -> dict[str, Any]:
    """The options with one text for the size, whichever way it was given."""
    from vsf_cli.config.values import chosen_size, parse_size

    size = chosen_size(options["size"], options["width"], options["height"])
    parsed("--size", lambda: parse_size(size) if size else None)
    return {**options, "size": size}


def made(prompt: str, options: dict[str, Any], video: bool = False) -> None:
    """Plans and makes pictures, or clips, from what the command line says."""
    from vsf_cli.cli import generating as commands
    from vsf_cli.cli.console import Talk
    from vsf_cli.config.ranges import swept
    from vsf_cli.config.values import parse_seeds
    from vsf_cli.generation.plan import plan
    from vsf_cli.settings.presets import SETTINGS, Settings

    options, sweeps = swept(sized(options))
    numbers = parsed("--seed", lambda: parse_seeds(options["seed"], options["seeds"]))
    given = {name: value for name, value in options.items() if name in SETTINGS}
    settings = Settings({**given, "offline": options["offline"] or None}, video=video)
    talk = Talk(options["quiet"], options["verbose"])
    if options["compare"] is not None:
        return compared(read_prompt(prompt), numbers, settings, {**options, **sweeps}, video, talk)
    besides: dict[str, Any] = {name: options.get(name) for name in ("metadata", "sidecar", "dump_attn", "seconds")}
    besides |= {"replacements": replacements(options["sr"]), "video": video}
    planned = plan(read_prompt(prompt), options["neg"] or [], numbers, settings, options["lora"] or [], sweeps, **besides)
    commands.run_images(planned, talk, options["as_json"], options["dry_run"], drawn=options["seed"] is None)


def compared(prompt: str, seeds: list[int], settings: Any, options: dict[str, Any], video: bool, talk: Any) -> None:
    """Makes one prompt by several methods, on one strip."""
    from vsf_cli.cli.compare import plan_comparison, run_comparison

    extra = [name for name in ("method", "sr", "sidecar", "dump_attn") if options[name]]
    extra += [name for name, value in options.items() if isinstance(value, Numbers) and len(value) > 1]
    if extra:
        raise RequestError(f"--compare makes one strip of one file: leave --{extra[0].replace('_', '-')} out, or its range")
    names = [name.strip() for name in options["compare"].split(",") if name.strip()]
    negative, loras = options["neg"] or [], options["lora"] or []
    besides = options.get("seconds"), options["metadata"]
    planned, requests = plan_comparison(names, prompt, negative, seeds, settings, loras, video, *besides)
    run_comparison(planned, requests, talk, options["as_json"], options["dry_run"])


@app.command()
@bounded
@sharing(guidance, making, running)
def image(
    prompt: Annotated[str, typer.Argument(help="What you want; - reads stdin, @file reads a file.")],
    format: Annotated[str | None, typer.Option("--format", help="png, jpeg or webp.")] = None,
    **options: Any,
) -> None:
    """Make pictures: vsf image "a red bike on a road" --neg "wheels" --alpha 3"""
    made(prompt, {**options, "format": format})


@app.command()
@bounded
@sharing(clips, guidance, making, running)
def video(
    prompt: Annotated[str, typer.Argument(help="What you want; - reads stdin, @file reads a file.")],
    seconds: Annotated[float | None, typer.Option("--seconds", help="How long, instead of --frames.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="mp4, webm, gif, webp or frames (a folder).")] = None,
    crf: Annotated[
        Numbers | None,
        typer.Option("--crf", parser=wholes, metavar="NUMBERS", help="Of mp4 and webm: less is better and larger."),
    ] = None,
    **options: Any,
) -> None:
    """Make clips: vsf video "a red car drives on a road" --neg wheels --alpha 2.2"""
    own = {"format": format, "crf": crf}
    if options["frames"] is not None and seconds is not None:
        raise RequestError("--frames and --seconds say the same: give one of the two")
    made(prompt, {**options, **own, "seconds": seconds}, video=True)


@app.command("attn-map")
@bounded
@sharing(guidance, running)
def attn_map(
    prompt: Annotated[str, typer.Argument(help="What you want; or a picture that vsf made, to be made again.")],
    num_inference_steps: Annotated[int | None, typer.Option("--num-inference-steps", help="Denoising steps.")] = None,
    steps: Annotated[str | None, typer.Option("--steps", help="Steps to keep, from 1: 1,2,5..8; all if not given.")] = None,
    blocks: Annotated[str | None, typer.Option("--blocks", help="Blocks to keep, from 1.")] = None,
    heads: Annotated[
        str | None, typer.Option("--heads", help="Heads to keep each on its own; their mean if not given.")
    ] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", help="Words to keep: wheels,red; also all, special.")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="The folder to write.")] = None,
    exists: Annotated[str | None, typer.Option("--exists", help="suffix, skip, overwrite or error.")] = None,
    **options: Any,
) -> None:
    """Show where the negative prompt acts: vsf attn-map "a person on grass" --neg umbrella"""
    from vsf_cli.cli import generating as commands
    from vsf_cli.cli.console import Talk
    from vsf_cli.config.values import parse_seeds
    from vsf_cli.maps.data import Selection

    selection = parsed("--steps, --blocks, --heads", lambda: Selection.parse(steps, blocks, heads, tokens))
    numbers = parsed("--seed", lambda: parse_seeds(options["seed"], None))
    given = {**options, "exists": exists, "num_inference_steps": num_inference_steps}
    planned = commands.plan_maps(read_prompt(prompt), given, numbers)
    commands.run_maps(planned, selection, output, Talk(options["quiet"], options["verbose"]), options["as_json"])


@app.command()
@bounded
@sharing(clips, guidance, running)
def again(
    file: Annotated[Path, typer.Argument(help="A picture or clip that vsf made, or its sidecar.")],
    steps: Annotated[int | None, typer.Option("--steps", help="Denoising steps.")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="A file, a folder/, or a template.")] = None,
    exists: Annotated[str | None, typer.Option("--exists", help="suffix, skip, overwrite or error.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="png, jpeg or webp; of clips mp4, webm, gif or webp.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    **options: Any,
) -> None:
    """Make a file of vsf again from the file alone; options override: vsf again outputs/a-red-bike-1.png"""
    from vsf_cli.cli import generating as commands
    from vsf_cli.cli.console import Talk
    from vsf_cli.config.ranges import swept
    from vsf_cli.config.values import parse_seeds

    seeds = parsed("--seed", lambda: parse_seeds(options["seed"], None)) if options["seed"] else [None]
    options, sweeps = swept(options)
    if sweeps or len(seeds) > 1 or options["preset"]:
        raise RequestError("vsf again makes one picture, of the file's own preset: give single numbers, and no --preset")
    own = {"steps": steps, "output": output, "exists": exists, "format": format, "dry_run": dry_run}
    commands.run_again(file, {**options, **own}, seeds[0], Talk(options["quiet"], options["verbose"]), options["as_json"])


@app.command()
@bounded
@sharing(clips, batching, guidance, running)
def batch(
    table: Annotated[str, typer.Argument(help="CSV, TSV, JSON lines or TOML with a column 'prompt'; - reads stdin.")],
    output: Annotated[str | None, typer.Option("-o", "--output", help="The folder; outputs/TABLE if not given.")] = None,
    **options: Any,
) -> None:
    """Make a picture of each row of a table, and go on where a run was stopped: vsf batch prompts.csv"""
    # Pydantic would read the metadata of every installed package in search of plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    from vsf_cli.batch.items import Shard
    from vsf_cli.cli import batch as command
    from vsf_cli.config.values import parse_batch_size, parse_given_seeds

    own: dict[str, Any] = {"seeds": parsed("--seed", lambda: parse_given_seeds(options["seed"])) if options["seed"] else None}
    own |= {"shard": parsed("--shard", lambda: Shard.parse(options["shard"]))}
    own |= {"batch_size": parsed("--batch-size", lambda: parse_batch_size(options["batch_size"]))}
    own |= {"replacements": replacements(options["sr"])}
    own |= {"most_failures": 1 if options["fail_fast"] else options["max_failures"]}
    command.run(table, output, {**options, **own})


@app.command()
@bounded
def info(
    file: Annotated[Path, typer.Argument(help="A picture, or its sidecar.")],
    as_json: Json = False,
) -> None:
    """Say how a picture was made: vsf info outputs/a-red-bike-1.png"""
    from vsf_cli.cli import inspect as looking

    looking.show_info(file, as_json)


@app.command()
@bounded
def doctor(
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or the path of its file.")] = None,
    as_json: Json = False,
) -> None:
    """Report versions, device, memory, attention paths and cache, and what a preset would need."""
    from vsf_cli.cli import inspect as looking

    looking.show_doctor(preset, as_json)


@presets.command("list")
@bounded
def presets_list(as_json: Json = False) -> None:
    """List all presets; the one in use has a star."""
    from vsf_cli.cli import inspect as looking

    looking.list_presets(as_json)


@presets.command("show")
@bounded
def presets_show(name: Annotated[str, typer.Argument(help="A name, or the path of a file.")], as_json: Json = False) -> None:
    """Show the values that a run with this preset would have, and where each comes from."""
    from vsf_cli.cli import inspect as looking

    looking.show_preset(name, as_json)


@presets.command("where")
@bounded
def presets_where(key: Annotated[str, typer.Argument(help="A setting, such as steps or alpha.")]) -> None:
    """Say where the value of a setting comes from."""
    from vsf_cli.cli import inspect as looking

    looking.where_setting(key)


@presets.command("use")
@bounded
def presets_use(name: Annotated[str, typer.Argument(help="A name, or the path of a file.")]) -> None:
    """Make a preset the default from now on."""
    from vsf_cli.cli import inspect as looking

    looking.use_preset(name)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vsf {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Say what you don't want, and few-step models obey: negative guidance by value sign flip (VSF)."""
