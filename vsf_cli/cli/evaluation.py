"""`vsf eval`: its options. Thin, and without torch until a model is needed."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.cli.error_boundary import bounded

__all__ = ["app"]

app = typer.Typer(help="Compare methods on a prompt set: the paper's experiment.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
JudgeName = Annotated[str, typer.Option("--judge", help="scenes, mllm or clip.")]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="Of mllm, the endpoint's name; of clip, a hub id.")]
BaseUrl = Annotated[str | None, typer.Option("--base-url", help="Of mllm: an endpoint of OpenAI's protocol.")]


@app.command()
@bounded
def run(
    prompts: Annotated[str, typer.Argument(help="negation-200, scenes[-dev], clips[-dev], or a file of JSON lines.")],
    output: Annotated[str | None, typer.Option("-o", "--output", help="The folder of the run.")] = None,
    method: Annotated[str, typer.Option("--method", help="all, everything, or some: none,vsf,nag++")] = "none,vsf,nag,nasa",
    arms: Annotated[str | None, typer.Option("--methods-file", help="A TOML file of methods, instead of ours.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or the path of its file.")] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="A hub id, or a folder.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures of each prompt and method.")] = 2,
    limit: Annotated[int | None, typer.Option("--limit", help="The first prompts alone.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Denoising steps.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures in one pass through the model.")] = 8,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, ...")] = None,
    offload: Annotated[str | None, typer.Option("--offload", help="auto, none, model, group or sequential.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Make the pictures of a prompt set with each method: vsf eval run scenes --method all"""
    from vsf_cli.cli import evaluation_run as command
    from vsf_cli.cli.console import Talk

    asked: dict[str, Any] = {"method": method, "arms": arms, "preset": preset, "model": model, "seeds": seeds, "limit": limit}
    asked |= {"steps": steps, "batch_size": batch_size, "dtype": dtype, "device": device, "offload": offload}
    command.run(prompts, output, {**asked, "offline": offline or None, "as_json": as_json}, Talk(quiet, verbose))


@app.command()
@bounded
def judge(
    folder: Folder,
    judge: JudgeName = "scenes",
    model: JudgeModel = None,
    base_url: BaseUrl = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Of mllm: pictures asked about at a time.")] = None,
    retries: Annotated[int | None, typer.Option("--retries", min=0, help="Of mllm: after 429, 5xx and time-outs.")] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.1, help="Of mllm: seconds.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Ask a judge about the pictures of a run; what it said before is kept: vsf eval judge DIR"""
    from vsf_cli.cli import evaluation_run as command
    from vsf_cli.cli.console import Talk

    options = {"model": model, "base_url": base_url, "workers": workers, "retries": retries, "timeout": timeout}
    command.judge(folder, judge, options, Talk(quiet, verbose))


@app.command()
@bounded
def report(
    folder: Folder,
    judge: JudgeName = "scenes",
    model: JudgeModel = None,
    base_url: BaseUrl = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the tables of a run, and a page with its pictures side by side: vsf eval report DIR"""
    from vsf_cli.cli import evaluation_run as command
    from vsf_cli.cli.console import Talk

    command.report(folder, judge, {"model": model, "base_url": base_url}, Talk(quiet), as_json)


@app.command()
@bounded
def sweep(
    prompts: Annotated[str, typer.Argument(help="A prompt set, as of 'run'.")] = "scenes-dev",
    storage: Annotated[Path, typer.Option("--storage", help="The SQLite file of the trials, by Optuna.")] = Path(
        "outputs/sweep.db"
    ),
    method: Annotated[str, typer.Option("--method", help="Some of the methods, joined by commas.")] = "vsf,nag,nasa",
    arms: Annotated[str | None, typer.Option("--methods-file", help="A TOML file of methods, instead of ours.")] = None,
    space: Annotated[list[str] | None, typer.Option("--space", help="alpha=0..6: what is searched. Repeatable.")] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Of each method, those of earlier runs included.")] = 60,
    sampler: Annotated[str, typer.Option("--sampler", help="random (as in the paper), tpe or nsga2.")] = "random",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sampler.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", help="The first prompts alone.")] = 100,
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or the path of its file.")] = None,
    judge: JudgeName = "scenes",
    model: JudgeModel = None,
    base_url: BaseUrl = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pictures in one pass through the model.")] = 20,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, ...")] = None,
    offload: Annotated[str | None, typer.Option("--offload", help="auto, none, model, group or sequential.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search the settings of each method, with equal budgets; it goes on where it stopped: vsf eval sweep scenes-dev"""
    from vsf_cli.cli import evaluation_run as command
    from vsf_cli.cli.console import Talk
    from vsf_cli.evaluation.sweep import parse_space

    try:
        spans = parse_space(space or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--space") from error
    asked: dict[str, Any] = {"method": method, "arms": arms, "space": spans, "trials": trials, "sampler": sampler}
    asked |= {"seed": seed, "limit": limit, "preset": preset, "judge": judge, "batch_size": batch_size}
    asked |= {"device": device, "offload": offload}
    command.sweep(prompts, storage, asked, {"model": model, "base_url": base_url}, Talk(quiet, verbose))


@app.command()
@bounded
def tradeoff(
    storages: Annotated[list[Path], typer.Argument(help="SQLite files of 'vsf eval sweep'.")],
    output: Annotated[str | None, typer.Option("-o", "--output", help="The folder of the figures.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Some of the methods; all if not given.")] = None,
    first: Annotated[int | None, typer.Option("--first", min=1, help="The first trials of each alone: equal budgets.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw what each method gives up for absence, and the area below: vsf eval tradeoff outputs/sweep.db"""
    from vsf_cli.cli import evaluation_run as command
    from vsf_cli.cli.console import Talk

    command.tradeoff(storages, output, method, first, Talk(quiet), as_json)
