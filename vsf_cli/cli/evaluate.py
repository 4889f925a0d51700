"""`vsf eval`: compares methods on a prompt set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.batch.items import items_of
from vsf_cli.batch.runner import Batch
from vsf_cli.batch.worker import Worker
from vsf_cli.cli.calibrate import calibrate
from vsf_cli.cli.console import Console, as_line, move_all
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import NUMBER, Command, command_app
from vsf_cli.cli.judge_options import JUDGE_OF_SWEEP, WHICH_JUDGE, JudgeOptions
from vsf_cli.cli.options import ConsoleOptions, Takes, command_option, parsed, with_options
from vsf_cli.cli.plans import say_offload
from vsf_cli.cli.running import carry_out
from vsf_cli.config.names import VIDEO_JUDGE, check_choice, counted, of_other_kind
from vsf_cli.config.option import FILES, GUIDANCE, WHAT, WORK, run_option
from vsf_cli.config.ranges import MAX_VALUES
from vsf_cli.config.values import parse_path
from vsf_cli.errors import PartlyFailed
from vsf_cli.evaluation.choice import CHOSEN, write_choices
from vsf_cli.evaluation.judging import judge_all
from vsf_cli.evaluation.prompts import BUILT_IN, PromptSet, load_prompts
from vsf_cli.evaluation.report import NAMES, rate_text, shown_kinds, write_report
from vsf_cli.evaluation.runs import Run, rows_of
from vsf_cli.evaluation.sweep import SAMPLERS, Study, Sweep, Trial, parse_space, space_of
from vsf_cli.evaluation.tradeoff import comparable, write_tradeoff
from vsf_cli.evaluation.variants import Variant, check_variants, choose_variants, load_variants
from vsf_cli.generation.plan import runtime_of
from vsf_cli.generation.run import load_for
from vsf_cli.judges.stored import CachedJudge
from vsf_cli.loading.libraries import quiet_libraries
from vsf_cli.loading.runtime import Runtime
from vsf_cli.media.metadata import versions
from vsf_cli.settings.options import Given
from vsf_cli.settings.presets import Preset, Settings, load_preset

__all__ = ["app"]

app = command_app(no_args_is_help=True)
app.command(cls=Command, epilog="Example: vsf eval calibrate labels.csv --judge vlm")(calibrate)
MACHINE = ("device", "offload", "offline")
Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]


@dataclass(frozen=True)
class MethodOptions:
    """The options of which methods are compared, on which prompts."""

    methods_file: str | None = run_option(
        None, "--methods-file", help="A TOML file of methods, instead of the default.", panel=GUIDANCE
    )
    limit: int | None = run_option(None, "--limit", help="Only the first prompts.", panel=WHAT)


OF_RUN = Takes(only=("preset", "model", "steps", "dtype", *MACHINE), sweeps=False)
OF_SWEEP = Takes(only=("preset", "device", "offload"), sweeps=False)


@app.command(cls=Command, epilog="Example: vsf eval run scenes --method all")
@handle_errors
@with_options
def run(
    prompts: Annotated[str, typer.Argument(help=f"Prompt set: {', '.join(BUILT_IN)} (clips are videos), or a file.")],
    given: Annotated[Given, OF_RUN],
    methods: MethodOptions,
    messages: ConsoleOptions,
    method: Annotated[
        str, command_option("--method", help="all, everything (ablations too), or some: none,vsf,nag++.", panel=GUIDANCE)
    ] = "none,vsf,nag,nasa",
    seeds: Annotated[
        int,
        command_option(
            "--seeds", min=1, max=MAX_VALUES, help="How many images of each prompt and method.", panel=WHAT, metavar=NUMBER
        ),
    ] = 2,
    batch_size: Annotated[
        int, command_option("--batch-size", min=1, help="Images in one pass through the model.", panel=WORK, metavar=NUMBER)
    ] = 8,
    output: Annotated[str | None, command_option("-o", "--output", help="The folder of the run.", panel=FILES)] = None,
) -> None:
    """Make the images of a prompt set with each method."""
    console = Console(messages.quiet, messages.verbose)
    chosen = _choose(load_prompts(prompts).first(methods.limit), given, method, methods.methods_file)
    folder = parse_path(output) if output else Path("outputs") / f"eval-{chosen.prompts.name}-{chosen.preset.name}"
    _make(chosen, folder, given, seeds, batch_size, console, messages.as_json)
    console.info(f"go on with: vsf eval judge {folder}")


@dataclass(frozen=True)
class _Comparison:
    """The prompts, the preset with its name or path, and the methods."""

    prompts: PromptSet
    preset: Preset
    preset_source: str
    variants: list[Variant]


def _choose(prompts: PromptSet, given: Given, method: str, methods_file: str | None) -> _Comparison:
    source = str(given.settings.get("preset") or Settings({}, video=prompts.name.startswith("clips")).preset_source)
    preset = load_preset(source)
    variants = load_variants(Path(methods_file) if methods_file else None)
    return _Comparison(prompts, preset, source, choose_variants(variants, method, preset))


def _runtime(given: Given, chosen: _Comparison) -> Runtime:
    own = {key: value for key, value in given.settings.items() if key in MACHINE}
    return runtime_of(Settings({**own, "preset": chosen.preset_source}, video=chosen.preset.video))


def _make(
    chosen: _Comparison, folder: Path, given: Given, seeds: int, batch_size: int, console: Console, as_json: bool
) -> None:
    """Makes the images of each method; those of earlier runs are kept."""
    prompts = chosen.prompts
    own = {key: value for key, value in given.settings.items() if key not in (*MACHINE, "preset")}
    settings = {**given.settings, "preset": chosen.preset_source}
    check_variants(chosen.variants, prompts.records[0], settings, chosen.preset.video)
    rows = rows_of(prompts, chosen.variants, seeds)
    items, notes = items_of(prompts.name, rows, settings, Given(own))
    first = items[0].request
    facts = {"steps": first.num_inference_steps, "dtype": first.dtype, "batch size": batch_size}
    conditions = {"settings": {**facts, **own}, "judge": chosen.preset.judge, "versions": versions()}
    run = Run(folder, prompts, {variant.name: variant for variant in chosen.variants}, chosen.preset.name, seeds, conditions)
    run.write()
    for note in notes:
        console.detail(note)
    # All rows of the run, so that its table keeps what was made before.
    known = rows_of(prompts, list(Run.read(folder).variants.values()), seeds)
    if len(known) > len(rows):
        rows, (items, _) = known, items_of(prompts.name, known, settings)
    worker = Worker(run.image_folder, _runtime(given, chosen), batch_size)
    # Several variants may have one method.
    batch = Batch(items, worker, retry_failed=True, method_of=lambda item: rows[item.row].cells["arm"])
    carry_out(batch, rows, None, console, as_json)


def _opened(folder: Path, judge: JudgeOptions, console: Console) -> tuple[Run, JudgeOptions]:
    """Returns a run and its judge: that of the preset, if none is given."""
    run = Run.read(folder)
    judge = judge.with_default(run.judge)
    if note := of_other_kind(str(judge.name), run.judge == VIDEO_JUDGE):
        console.warn(note)
    return run, judge


@app.command(cls=Command, epilog="Example: vsf eval judge outputs/eval-scenes-tiny-sd3-turbo")
@handle_errors
@with_options
def judge(folder: Folder, judge: JudgeOptions, messages: Annotated[ConsoleOptions, Takes(without=("json",))]) -> None:
    """Ask a judge about the images of a run; earlier answers are kept."""
    console = Console(messages.quiet, messages.verbose)
    run, judge = _opened(folder, judge, console)
    built = judge.judge()
    failed: list[str] = []
    done = 0
    with console.progress("judged") as (progress,):
        for sample, error in judge_all(run, built, progress):
            done += 1
            if error is not None:
                failed.append(f"{sample.path}: {error}")
                console.warn(failed[-1])
    console.info(
        f"{counted(done - len(failed), 'image')} judged by the judge {judge.name!r}, {len(run.samples()) - done} were before"
    )
    if failed:
        raise PartlyFailed(f"{counted(len(failed), 'image')} not judged: run the same command again, it asks about those alone")
    console.info(f"go on with: vsf eval report {folder} {judge.words}")


@app.command(cls=Command, epilog="Example: vsf eval report outputs/eval-scenes-tiny-sd3-turbo")
@handle_errors
@with_options
def report(
    folder: Folder,
    judge: Annotated[JudgeOptions, WHICH_JUDGE],
    messages: Annotated[ConsoleOptions, Takes(without=("verbose",))],
) -> None:
    """Write a run's tables and a page of its images."""
    console = Console(messages.quiet)
    run, judge = _opened(folder, judge, console)
    rows, path, missing = write_report(run, str(judge.name), judge.chosen)
    if missing:
        again = f"vsf eval judge {folder} {judge.words}"
        console.warn(f"{counted(missing, 'image')} not judged, and not in the table: run '{again}' again")
    if messages.as_json:
        console.data(as_line(rows))
    else:
        _show(rows)
    console.info(f"{path}, .csv, .json, and {folder / 'index.html'}")


def _show(rows: list[dict[str, Any]]) -> None:
    kinds = shown_kinds(rows)
    costs = any(row["runs"] > 1 for row in rows)
    heads = ["method", *kinds.values(), "quality", "p of both", *(["runs"] if costs else [])]
    Console.data_table(heads, [[*_cells(row, [*kinds]), *([f"{row['runs']:.2f}"] if costs else [])] for row in rows])


def _cells(row: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    rates = (rate_text(row, kind) for kind in kinds)
    return [row["label"], *rates, f"{row['quality']:.3f}", "" if row["both_p"] is None else f"{row['both_p']:.2g}"]


@dataclass(frozen=True)
class SearchOptions:
    """The options of a sweep."""

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
    judge: Annotated[JudgeOptions, JUDGE_OF_SWEEP],
    messages: Annotated[ConsoleOptions, Takes(without=("json",))],
    prompts: Annotated[str, typer.Argument(help="A prompt set, as for 'run'.")] = "scenes-dev",
    storage: Annotated[Path, command_option("--storage", help="The SQLite file of the trials, by Optuna.", panel=FILES)] = Path(
        "outputs/sweep.db"
    ),
    limit: Annotated[int | None, command_option("--limit", help="Only the first prompts.", panel=WHAT, metavar=NUMBER)] = 100,
) -> None:
    """Search each method's settings; a stopped search continues."""
    check_choice("--sampler", search.sampler, SAMPLERS)
    console, space = Console(messages.quiet, messages.verbose), parsed("--space", lambda: parse_space(search.space))
    chosen = _choose(load_prompts(prompts).first(limit), given, search.method, methods.methods_file)
    judge = judge.with_default(chosen.preset.judge)
    built = judge.judge(given.settings.get("device"))
    if built.costly:
        built = CachedJudge(built, storage.with_suffix(f".{judge.name}.jsonl"))
    sweeps = [
        Sweep(chosen.prompts, variant, chosen.preset_source, built, space_of(variant, space), storage, search.batch_size)
        for variant in chosen.variants
    ]
    for one in sweeps:
        one.check()
    _search(sweeps, _runtime(given, chosen), search, console)
    console.info(f"go on with: vsf eval tradeoff {storage}")


def _search(sweeps: Sequence[Sweep], runtime: Runtime, search: SearchOptions, console: Console) -> None:
    pipe, loaded = None, None
    quiet_libraries(console.verbose)
    say_offload(runtime, console)
    with console.progress("trials", "images") as (whole, images):
        for index, sweep in enumerate(sweeps):
            request = sweep.request(sweep.prompts.records[0], 0, {})
            if loaded != request.loading:
                pipe, loaded = load_for(request, runtime), request.loading
            done = 0
            for trial in sweep.run(pipe, search.trials, search.sampler, search.seed, images):
                done += 1
                _say_trial(sweep, trial, console)
                move_all([whole], index * search.trials + done, len(sweeps) * search.trials)
            console.info(f"{sweep.variant.name}: {counted(search.trials, 'trial')} in {sweep.storage}, {done} of them now")


def _say_trial(sweep: Sweep, trial: Trial, console: Console) -> None:
    settings = ", ".join(f"{key} {value:.3g}" for key, value in trial.settings.items())
    names = NAMES["positive"], NAMES["negative"], "quality"
    means = (sum(column) / len(column) for column in zip(*trial.outcomes, strict=True))
    found = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True))
    console.info(f"{sweep.variant.name}: {settings}: {found}")


@app.command(cls=Command, epilog="Example: vsf eval tradeoff outputs/sweep.db")
@handle_errors
@with_options
def tradeoff(
    storages: Annotated[list[Path], typer.Argument(help="SQLite files of 'vsf eval sweep'.")],
    messages: Annotated[ConsoleOptions, Takes(without=("verbose",))],
    method: Annotated[
        str | None, command_option("--method", help="Some of the methods; all if not given.", panel=GUIDANCE)
    ] = None,
    first: Annotated[
        int | None,
        command_option("--first", min=1, help="Only the first trials of each, for equal budgets.", panel=WHAT, metavar=NUMBER),
    ] = None,
    quality: Annotated[
        float,
        command_option(
            "--quality", min=0, max=1, help="The mean quality that the best trial has at least.", panel=WHAT, metavar=NUMBER
        ),
    ] = 0.85,
    output: Annotated[str | None, command_option("-o", "--output", help="The folder of the figures.", panel=FILES)] = None,
) -> None:
    """Plot what each method loses in removing, and choose each one's best trial.

    The rate of the best of many trials is too high, since the same prompts chose it: run it on others.
    """
    console = Console(messages.quiet)
    folder = parse_path(output) if output else storages[0].with_suffix("")
    known = comparable(storages, [name.strip() for name in method.split(",")] if method else None)
    studies = {name: (facts, trials[:first]) for name, (facts, trials) in known.items()}
    areas, choices = write_tradeoff(studies, folder), write_choices(studies, folder, quality)
    if messages.as_json:
        console.data(as_line({**areas, "both": choices}))
    else:
        _show_areas(areas, console)
        _show_choices(choices, console)
    _say_what_is_left(studies, folder, console)


def _say_what_is_left(studies: Mapping[str, Study], folder: Path, console: Console) -> None:
    counts = {len(trials) for _, trials in studies.values()}
    if len(counts) > 1:
        console.warn(
            f"the budgets are not equal, {min(counts)} to {max(counts)} trials: run 'vsf eval sweep' on until they are"
        )
    console.info(f"figures in {folder}")
    again = f"vsf eval run PROMPTS --preset {next(iter(studies.values()))[0]['preset']} --methods-file {folder / CHOSEN}"
    console.info(f"the best trials on prompts that did not choose them: {again} --method all")


def _show_choices(choices: Mapping[str, Any], console: Console) -> None:
    for name, chosen in choices.items():
        trials, found = counted(chosen["trials"], "trial"), "none"
        if best := chosen["best"]:
            settings = ", ".join(f"{key} {value:.3g}" for key, value in best["settings"].items())
            found = f"{rate_text(best, 'both')}, quality {best['quality']:.3f}, {settings}"
        console.data_text(f"best {NAMES['both']} at quality {chosen['quality_at_least']:g}: {name}, {trials}, {found}")


def _show_areas(areas: dict[str, Any], console: Console) -> None:
    for figure, curves in areas.items():
        for name, numbers in curves.items():
            low, high = numbers["hypervolume_interval"]
            area = f"area {numbers['hypervolume']:.3f} [{low:.3f}, {high:.3f}]"
            rates = f"{NAMES.get(figure, figure)} against {NAMES['negative']}"
            console.data_text(f"{rates}: {name}, {counted(numbers['trials'], 'trial')}, {area}")
