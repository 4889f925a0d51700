"""`vsf eval`: methods compared on a prompt set."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console as RichConsole
from rich.table import Table

from vsf_cli.batch.items import items_of
from vsf_cli.batch.runner import Batch
from vsf_cli.batch.worker import Worker
from vsf_cli.cli.console import Console
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.libraries import quiet_libraries
from vsf_cli.cli.options import ConsoleOptions, Takes, parsed, with_options
from vsf_cli.cli.running import carry_out
from vsf_cli.config.option import FILES, GUIDANCE, JUDGE, WHAT, WORK, run_option
from vsf_cli.config.values import parse_path
from vsf_cli.errors import PartlyFailed, RequestError
from vsf_cli.evaluation.judging import CachedJudge, Judge, judge_all
from vsf_cli.evaluation.prompts import PromptSet, load_prompts
from vsf_cli.evaluation.report import write_report
from vsf_cli.evaluation.runs import Run, rows_of
from vsf_cli.evaluation.sweep import SAMPLERS, Sweep, Trial, parse_space, space_of
from vsf_cli.evaluation.tradeoff import comparable, write_tradeoff
from vsf_cli.evaluation.variants import Variant, choose_variants, load_variants
from vsf_cli.generation.plan import runtime_of
from vsf_cli.generation.run import load_for
from vsf_cli.loading.runtime import Runtime
from vsf_cli.media.metadata import versions
from vsf_cli.settings.options import Given
from vsf_cli.settings.presets import Preset, Settings, load_preset

__all__ = ["app"]

app = command_app(no_args_is_help=True)
MACHINE = ("device", "offload", "offline")
_OTHER = (*MACHINE, "preset")
Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]


@dataclass(frozen=True)
class MethodOptions:
    """Which methods are compared, on how many prompts.

    Arguments:
        methods_file: A TOML file of methods; None takes those that ship with the package.
        limit: How many prompts, from the first on; None takes all.
    """

    methods_file: str | None = run_option(
        None, "--methods-file", help="A TOML file of methods, instead of ours.", panel=GUIDANCE
    )
    limit: int | None = run_option(None, "--limit", help="The first prompts alone.", panel=WHAT)


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges.

    Arguments:
        name: The judge's name.
        model: The name of the endpoint's model, or a hub id.
        base_url: The endpoint.
        workers, retries, timeout: How the endpoint is asked; None means as usual.
    """

    name: str = run_option("scenes", "--judge", help="scenes, mllm or clip.", panel=JUDGE)
    model: str | None = run_option(None, "--judge-model", help="Of mllm, the endpoint's name; of clip, a hub id.", panel=JUDGE)
    base_url: str | None = run_option(None, "--base-url", help="Of mllm: an endpoint of OpenAI's protocol.", panel=JUDGE)
    workers: int | None = run_option(None, "--workers", help="Of mllm: images asked about at a time.", panel=JUDGE, min=1)
    retries: int | None = run_option(None, "--retries", help="Of mllm: after 429, 5xx and time-outs.", panel=JUDGE, min=0)
    timeout: float | None = run_option(None, "--timeout", help="Of mllm: seconds.", panel=JUDGE, min=0.1)

    def judge(self) -> Judge:
        """The judge.

        Raises:
            RequestError: If there is none of that name, or an option is not its own.
        """
        # It needs torch, which `--help` must not wait for.
        from vsf_cli.evaluation.judges import judge_named

        return judge_named(self.name, {name: value for name, value in asdict(self).items() if name != "name"})


OF_RUN = Takes(only=("preset", "model", "steps", "dtype", *MACHINE), sweeps=False)
OF_SWEEP = Takes(only=("preset", "device", "offload"), sweeps=False)
WHICH_JUDGE = Takes(only=("judge", "judge_model", "base_url"))


def _option(*names: str, help: str, panel: str, **details: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **details)


@app.command(cls=Command, epilog="Example: vsf eval run scenes --method all")
@handle_errors
@with_options
def run(
    prompts: Annotated[str, typer.Argument(help="negation-200, scenes[-dev], clips[-dev], or a file of JSON lines.")],
    given: Annotated[Given, OF_RUN],
    methods: MethodOptions,
    messages: ConsoleOptions,
    method: Annotated[
        str, _option("--method", help="all, everything, or some: none,vsf,nag++.", panel=GUIDANCE)
    ] = "none,vsf,nag,nasa",
    seeds: Annotated[int, _option("--seeds", min=1, help="Images of each prompt and method.", panel=WHAT)] = 2,
    batch_size: Annotated[int, _option("--batch-size", min=1, help="Images in one pass through the model.", panel=WORK)] = 8,
    output: Annotated[str | None, _option("-o", "--output", help="The folder of the run.", panel=FILES)] = None,
) -> None:
    """Make the images of a prompt set with each method."""
    console = Console(messages.quiet, messages.verbose)
    chosen = _chosen(load_prompts(prompts).first(methods.limit), given, method, methods.methods_file)
    folder = parse_path(output) if output else Path("outputs") / f"eval-{chosen.prompts.name}-{chosen.preset.name}"
    _make(chosen, folder, given, seeds, batch_size, console, messages.as_json)
    console.info(f"go on with: vsf eval judge {folder}")


@dataclass(frozen=True)
class _Chosen:
    """What is compared: the prompts, the preset and what it was asked for by, and the methods."""

    prompts: PromptSet
    preset: Preset
    place: str
    variants: list[Variant]


def _chosen(prompts: PromptSet, given: Given, method: str, methods_file: str | None) -> _Chosen:
    """What was asked for; the preset is the default one for images or videos if none is given."""
    place = str(given.settings.get("preset") or Settings({}, video=prompts.name.startswith("clips")).preset_place)
    preset = load_preset(place)
    return _Chosen(
        prompts, preset, place, choose_variants(load_variants(Path(methods_file) if methods_file else None), method, preset)
    )


def _machine(given: Given, chosen: _Chosen) -> Settings:
    """The settings of where and how the model runs."""
    own = {key: value for key, value in given.settings.items() if key in MACHINE}
    return Settings({**own, "preset": chosen.place}, video=chosen.preset.video)


def _make(chosen: _Chosen, folder: Path, given: Given, seeds: int, batch_size: int, console: Console, as_json: bool) -> None:
    """Makes the images of each method; those of earlier runs stay."""
    prompts = chosen.prompts
    own = {key: value for key, value in given.settings.items() if key not in _OTHER}
    deciding = {**own, "preset": chosen.place}
    rows = rows_of(prompts, chosen.variants, seeds)
    items, notes = items_of(prompts.name, rows, deciding)
    first = items[0].request
    facts = {"steps": first.num_inference_steps, "dtype": first.dtype, "batch size": batch_size}
    conditions = {"settings": {**facts, **own}, "versions": versions()}
    made = Run(folder, prompts, {variant.name: variant for variant in chosen.variants}, chosen.preset.name, seeds, conditions)
    made.write()
    for note in notes:
        console.detail(note)
    # The rows of all that the run has, so that its table keeps what was made before.
    known = rows_of(prompts, list(Run.read(folder).variants.values()), seeds)
    if len(known) > len(rows):
        rows, (items, _) = known, items_of(prompts.name, known, deciding)
    batch = Batch(items, Worker(made.image_folder, runtime_of(_machine(given, chosen)), batch_size), retry_failed=True)
    carry_out(batch, rows, None, console, as_json)


@app.command(cls=Command, epilog="Example: vsf eval judge outputs/eval-scenes-tiny-sd3-turbo")
@handle_errors
@with_options
def judge(folder: Folder, judge: JudgeOptions, messages: Annotated[ConsoleOptions, Takes(without=("json",))]) -> None:
    """Ask a judge about the images of a run; what it said before is kept."""
    console = Console(messages.quiet, messages.verbose)
    run, asked = Run.read(folder), judge.judge()
    failed: list[str] = []
    done = 0
    with console.progress("judged") as (moved,):
        for sample, error in judge_all(run, asked, moved):
            done += 1
            if error is not None:
                failed.append(f"{sample.path}: {error}")
                console.warn(failed[-1])
    console.info(f"{done - len(failed)} pictures judged by {judge.name}, {len(run.samples()) - done} were before")
    if failed:
        raise PartlyFailed(f"{len(failed)} pictures were not judged: run the same command again, it asks about those alone")
    model = f" --judge-model {judge.model}" if judge.model else ""
    console.info(f"go on with: vsf eval report {folder} --judge {judge.name}{model}")


@app.command(cls=Command, epilog="Example: vsf eval report outputs/eval-scenes-tiny-sd3-turbo")
@handle_errors
@with_options
def report(
    folder: Folder,
    judge: Annotated[JudgeOptions, WHICH_JUDGE],
    messages: Annotated[ConsoleOptions, Takes(without=("verbose",))],
) -> None:
    """Write the tables of a run, and a page with its images side by side."""
    console = Console(messages.quiet)
    rows, path, missing = write_report(Run.read(folder), judge.name, {"model": judge.model, "base_url": judge.base_url})
    if missing:
        console.warn(f"{missing} pictures are not judged, and not in the table: run 'vsf eval judge {folder}' again")
    if messages.as_json:
        console.data(json.dumps(rows, ensure_ascii=False))
    else:
        _show(rows)
    console.info(f"{path}, .csv, .json, and {folder / 'index.html'}")


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("method", "positive", "negative", "both", "quality", "p of both", box=None, pad_edge=False)
    for row in rows:
        shares = [f"{row[kind]:.3f} ({row[f'{kind}_interval'][0]:.2f}-{row[f'{kind}_interval'][1]:.2f})" for kind in _KINDS]
        chance = "" if row["both_p"] is None else f"{row['both_p']:.2g}"
        table.add_row(row["label"], *shares, f"{row['quality']:.3f}", chance)
    terminal = RichConsole(highlight=False)
    terminal.width = max(terminal.width, 120)
    terminal.print(table)


_KINDS = ("positive", "negative", "both")


@dataclass(frozen=True)
class SearchOptions:
    """How settings are searched.

    Arguments:
        method: Names of methods, joined by commas.
        space: What is searched, such as "alpha=0..6".
        trials: Trials of each method, those of earlier runs included.
        sampler: One of `SAMPLERS`.
        seed: The sampler's seed.
        batch_size: Images in one pass through the model.
    """

    method: str = run_option("vsf,nag,nasa", "--method", help="Some of the methods, joined by commas.", panel=GUIDANCE)
    space: tuple[str, ...] = run_option((), "--space", help="alpha=0..6: what is searched.", panel=GUIDANCE)
    trials: int = run_option(60, "--trials", help="Trials of each method, earlier runs included.", panel=WORK, min=1)
    sampler: str = run_option("random", "--sampler", help="random (as in the paper), tpe or nsga2.", panel=WORK)
    seed: int = run_option(0, "--seed", help="Seed of the sampler.", panel=WORK, min=0)
    batch_size: int = run_option(20, "--batch-size", help="Images in one pass through the model.", panel=WORK, min=1)


@app.command(cls=Command, epilog="Example: vsf eval sweep scenes-dev --method vsf --trials 60")
@handle_errors
@with_options
def sweep(
    given: Annotated[Given, OF_SWEEP],
    methods: Annotated[MethodOptions, Takes(without=("limit",))],
    search: SearchOptions,
    judge: Annotated[JudgeOptions, WHICH_JUDGE],
    messages: Annotated[ConsoleOptions, Takes(without=("json",))],
    prompts: Annotated[str, typer.Argument(help="A prompt set, as of 'run'.")] = "scenes-dev",
    storage: Annotated[Path, _option("--storage", help="The SQLite file of the trials, by Optuna.", panel=FILES)] = Path(
        "outputs/sweep.db"
    ),
    limit: Annotated[int | None, _option("--limit", help="The first prompts alone.", panel=WHAT)] = 100,
) -> None:
    """Search the settings of each method, with equal budgets; it goes on where it stopped."""
    if search.sampler not in SAMPLERS:
        raise RequestError(f"--sampler is '{search.sampler}', but samplers are {', '.join(SAMPLERS)}")
    console, spans = Console(messages.quiet, messages.verbose), parsed("--space", lambda: parse_space(search.space))
    chosen = _chosen(load_prompts(prompts).first(limit), given, search.method, methods.methods_file)
    asked = judge.judge()
    if asked.costly:
        asked = CachedJudge(asked, storage.with_suffix(f".{judge.name}.jsonl"))
    sweeps = [
        Sweep(chosen.prompts, variant, chosen.place, asked, space_of(variant, spans), storage, search.batch_size)
        for variant in chosen.variants
    ]
    for one in sweeps:
        one.check()
    _search(sweeps, runtime_of(_machine(given, chosen)), search, console)
    console.info(f"go on with: vsf eval tradeoff {storage}")


def _search(sweeps: Sequence[Sweep], runtime: Runtime, search: SearchOptions, console: Console) -> None:
    pipe, loaded = None, None
    quiet_libraries(console.verbose)
    with console.progress("trials", "pictures") as (whole, pictures):
        for place, sweep in enumerate(sweeps):
            request = sweep.request(sweep.prompts.records[0], 0, {})
            if loaded != request.loading:
                pipe, loaded = load_for(request, runtime), request.loading
            done = 0
            for trial in sweep.run(pipe, search.trials, search.sampler, search.seed, pictures or _nobody):
                done += 1
                _say_trial(sweep, trial, console)
                if whole is not None:
                    whole(place * search.trials + done, len(sweeps) * search.trials)
            console.info(f"{sweep.variant.name}: {search.trials} trials in {sweep.storage}, {done} of them now")


def _say_trial(sweep: Sweep, trial: Trial, console: Console) -> None:
    found = ", ".join(f"{key} {value:.3g}" for key, value in trial.settings.items())
    positive, negative, quality = (sum(column) / len(column) for column in zip(*trial.outcomes, strict=True))
    console.info(f"{sweep.variant.name}: {found}: positive {positive:.3f}, negative {negative:.3f}, quality {quality:.3f}")


def _nobody(done: int, total: int) -> None:
    return


@app.command(cls=Command, epilog="Example: vsf eval tradeoff outputs/sweep.db")
@handle_errors
@with_options
def tradeoff(
    storages: Annotated[list[Path], typer.Argument(help="SQLite files of 'vsf eval sweep'.")],
    messages: Annotated[ConsoleOptions, Takes(without=("verbose",))],
    method: Annotated[str | None, _option("--method", help="Some of the methods; all if not given.", panel=GUIDANCE)] = None,
    first: Annotated[
        int | None, _option("--first", min=1, help="The first trials of each alone: equal budgets.", panel=WHAT)
    ] = None,
    output: Annotated[str | None, _option("-o", "--output", help="The folder of the figures.", panel=FILES)] = None,
) -> None:
    """Draw what each method gives up for absence, and the area below."""
    console = Console(messages.quiet)
    folder = parse_path(output) if output else storages[0].with_suffix("")
    studies = comparable(storages, [name.strip() for name in method.split(",")] if method else None)
    found = write_tradeoff({name: (facts, trials[:first]) for name, (facts, trials) in studies.items()}, folder)
    if messages.as_json:
        console.data(json.dumps(found))
    else:
        _show_areas(found, console)
    counts = {numbers["trials"] for numbers in found["positive"].values()}
    if len(counts) > 1:
        console.warn(
            f"the budgets are not equal, {min(counts)} to {max(counts)} trials: run 'vsf eval sweep' on until they are"
        )
    console.info(f"figures in {folder}")


def _show_areas(found: dict[str, Any], console: Console) -> None:
    for figure, curves in found.items():
        for name, numbers in curves.items():
            low, high = numbers["hypervolume_interval"]
            area = f"area {numbers['hypervolume']:.3f} [{low:.3f}, {high:.3f}]"
            console.data(f"{figure} against negative: {name}, {numbers['trials']} trials, {area}")
