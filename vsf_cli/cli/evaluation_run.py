"""What `vsf eval run`, `judge` and `report` do and say."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vsf_cli.batch.items import items_of
from vsf_cli.batch.maker import Maker
from vsf_cli.batch.runner import Batch
from vsf_cli.cli.batch import carry_out
from vsf_cli.cli.console import Talk
from vsf_cli.cli.generating import quiet_libraries
from vsf_cli.config.values import parse_path
from vsf_cli.errors import PartlyFailed, RequestError
from vsf_cli.evaluation.arms import Arm, choose_arms, load_arms
from vsf_cli.evaluation.judges import judge_named
from vsf_cli.evaluation.judging import Kept, judge_all
from vsf_cli.evaluation.prompts import PromptSet, load_prompts
from vsf_cli.evaluation.report import write_report
from vsf_cli.evaluation.runs import Run, rows_of
from vsf_cli.evaluation.sweep import SAMPLERS, Study, Sweep, space_of, studies_of
from vsf_cli.evaluation.tradeoff import write_tradeoff
from vsf_cli.generation.plan import runtime_of
from vsf_cli.generation.run import load_for
from vsf_cli.loading.runtime import Runtime
from vsf_cli.media.metadata import versions
from vsf_cli.settings.presets import SETTINGS, Preset, Settings, load_preset

__all__ = ["judge", "report", "run", "sweep", "tradeoff"]

MACHINE = ("device", "offload", "offline")
_OTHER = (*MACHINE, "method", "preset")


def run(name: str, output: str | None, asked: Mapping[str, Any], talk: Talk) -> None:
    """Makes the pictures of a prompt set with each method.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    prompts = load_prompts(name).first(asked["limit"])
    preset, place, arms = _chosen(prompts, asked)
    folder = parse_path(output) if output else Path("outputs") / f"eval-{prompts.name}-{preset.name}"

    given = {key: value for key, value in asked.items() if key in SETTINGS and key not in _OTHER and value is not None}
    deciding = {**given, "preset": place}
    rows = rows_of(prompts, arms, asked["seeds"])
    items, notes = items_of(prompts.name, rows, deciding)
    settings = _machine(asked, place, preset)
    first = items[0].request
    facts = {"steps": first.num_inference_steps, "dtype": first.dtype, "batch size": asked["batch_size"]}
    conditions = {"settings": {**facts, **given}, "versions": versions()}
    made = Run(folder, prompts, {arm.name: arm for arm in arms}, preset.name, asked["seeds"], conditions)
    made.write()
    for note in notes:
        talk.detail(note)
    # The rows of all that the run has, so that its table keeps what was made before.
    known = rows_of(prompts, list(Run.read(folder).arms.values()), asked["seeds"])
    if len(known) > len(rows):
        rows, (items, _) = known, items_of(prompts.name, known, deciding)
    batch = Batch(items, Maker(made.place, runtime_of(settings), asked["batch_size"]), retry_failed=True)
    carry_out(batch, rows, None, talk, asked["as_json"])
    talk.say(f"go on with: vsf eval judge {folder}")


def _chosen(prompts: PromptSet, asked: Mapping[str, Any]) -> tuple[Preset, str, list[Arm]]:
    """The preset that was asked for, or the default one for pictures or clips, what it was asked for by, and the methods."""
    place = asked["preset"] or Settings({}, video=prompts.name.startswith("clips")).preset_place
    preset = load_preset(place)
    path = Path(asked["arms"]) if asked["arms"] else None
    return preset, place, choose_arms(load_arms(path), asked["method"], preset)


def _machine(asked: Mapping[str, Any], place: str, preset: Preset) -> Settings:
    """The settings of where and how the model runs."""
    return Settings({**{key: asked[key] for key in MACHINE if asked.get(key)}, "preset": place}, video=preset.video)


def judge(folder: Path, name: str, options: Mapping[str, Any], talk: Talk) -> None:
    """Has the pictures of a run judged.

    Raises:
        PartlyFailed: If the judge could not answer about some.
        VSFError: If something is not legal, or fails.
    """
    found, asked = Run.read(folder), judge_named(name, options)
    failed: list[str] = []
    done = 0
    with talk.progress("judged") as (moved,):
        for picture, error in judge_all(found, asked, moved):
            done += 1
            if error is not None:
                failed.append(f"{picture.path}: {error}")
                talk.warn(failed[-1])
    talk.say(f"{done - len(failed)} pictures judged by {name}, {len(found.pictures()) - done} were before")
    if failed:
        raise PartlyFailed(f"{len(failed)} pictures were not judged: run the same command again, it asks about those alone")
    model = f" --judge-model {options['model']}" if options["model"] else ""
    talk.say(f"go on with: vsf eval report {folder} --judge {name}{model}")


def report(folder: Path, judge: str, chosen: Mapping[str, Any], talk: Talk, as_json: bool) -> None:
    """Writes the tables of a run and shows the first.

    Arguments:
        folder: The folder of the run.
        judge: The judge's name.
        chosen: Which of several judges of that name: its settings, by name.
        talk: Speaks to the person.
        as_json: Whether data are JSON.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    rows, path, missing = write_report(Run.read(folder), judge, chosen)
    if missing:
        talk.warn(f"{missing} pictures are not judged, and not in the table: run 'vsf eval judge {folder}' again")
    if as_json:
        talk.data(json.dumps(rows, ensure_ascii=False))
    else:
        _show(rows)
    talk.say(f"{path}, .csv, .json, and {folder / 'index.html'}")


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table("method", "positive", "negative", "both", "quality", "p of both", box=None, pad_edge=False)
    for row in rows:
        shares = [f"{row[kind]:.3f} ({row[f'{kind}_interval'][0]:.2f}-{row[f'{kind}_interval'][1]:.2f})" for kind in _KINDS]
        chance = "" if row["both_p"] is None else f"{row['both_p']:.2g}"
        table.add_row(row["label"], *shares, f"{row['quality']:.3f}", chance)
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)


_KINDS = ("positive", "negative", "both")


def sweep(name: str, storage: Path, asked: Mapping[str, Any], judge_options: Mapping[str, Any], talk: Talk) -> None:
    """Searches the settings of each method, with as many trials each.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    if asked["sampler"] not in SAMPLERS:
        raise RequestError(f"--sampler is '{asked['sampler']}', but samplers are {', '.join(SAMPLERS)}")
    prompts = load_prompts(name).first(asked["limit"])
    preset, place, arms = _chosen(prompts, asked)
    asked_judge = judge_named(asked["judge"], judge_options)
    if asked_judge.costly:
        asked_judge = Kept(asked_judge, storage.with_suffix(f".{asked['judge']}.jsonl"))
    searches = [
        Sweep(prompts, arm, place, asked_judge, space_of(arm, asked["space"]), storage, asked["batch_size"]) for arm in arms
    ]
    for search in searches:
        search.check()
    runtime = runtime_of(_machine(asked, place, preset))
    _search(searches, runtime, asked, talk)
    talk.say(f"go on with: vsf eval tradeoff {storage}")


def _search(searches: Sequence[Sweep], runtime: Runtime, asked: Mapping[str, Any], talk: Talk) -> None:
    pipe, loaded = None, None
    quiet_libraries(talk.verbose)
    with talk.progress("trials", "pictures") as (whole, pictures):
        for place, search in enumerate(searches):
            request = search.request(search.prompts.records[0], 0, {})
            if loaded != request.loading:
                pipe, loaded = load_for(request, runtime), request.loading
            done = 0
            for trial in search.run(pipe, asked["trials"], asked["sampler"], asked["seed"], pictures or _nobody):
                done += 1
                found = ", ".join(f"{key} {value:.3g}" for key, value in trial.settings.items())
                positive, negative, quality = (sum(column) / len(column) for column in zip(*trial.outcomes, strict=True))
                talk.say(f"{search.arm.name}: {found}: positive {positive:.3f}, negative {negative:.3f}, quality {quality:.3f}")
                if whole is not None:
                    whole(place * asked["trials"] + done, len(searches) * asked["trials"])
            talk.say(f"{search.arm.name}: {asked['trials']} trials in {search.storage}, {done} of them now")


def _nobody(done: int, total: int) -> None:
    return


def _comparable(storages: Sequence[Path], chosen: Sequence[str] | None) -> dict[str, Study]:
    """The sweeps of several files, or those that are chosen, if they are of the same prompts, preset and judge."""
    found = [(storage, name, study) for storage in storages for name, study in studies_of(storage).items()]
    there = dict.fromkeys(name for _, name, _ in found)
    if unknown := [name for name in chosen or () if name not in there]:
        raise RequestError(f"there is no sweep of {', '.join(unknown)}: there are {', '.join(there)}")
    studies: dict[str, Study] = {}
    for storage, name, study in found:
        if chosen is not None and name not in chosen:
            continue
        if name in studies:
            raise RequestError(f"{storage} has a sweep of '{name}', as another file: draw them apart, or choose with --method")
        first, (facts, _) = next(iter(studies), name), study
        for fact, what in (("sha256", "prompts"), ("preset", "preset"), ("judge", "judge")):
            known = studies.get(first, study)[0][fact]
            if facts[fact] != known:
                raise RequestError(
                    f"{storage}: the sweep of '{name}' has the {what} {facts[fact]}, that of '{first}' {known}: draw them apart"
                )
        studies[name] = study
    return {name: studies[name] for name in chosen or studies}


def tradeoff(
    storages: Sequence[Path], output: str | None, chosen: str | None, first: int | None, talk: Talk, as_json: bool
) -> None:
    """Draws the fronts of sweeps, and says the area below each.

    Arguments:
        storages: The files of the sweeps.
        output: The folder of the figures; None names it by the first file.
        chosen: The methods, joined by commas; None takes all that are there.
        first: How many trials of each are taken, from the first on; None takes all.
        talk: Speaks to the person.
        as_json: Whether data are JSON.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    folder = parse_path(output) if output else storages[0].with_suffix("")
    studies = _comparable(storages, [name.strip() for name in chosen.split(",")] if chosen else None)
    found = write_tradeoff({name: (facts, trials[:first]) for name, (facts, trials) in studies.items()}, folder)
    if as_json:
        talk.data(json.dumps(found))
    else:
        for figure, arms in found.items():
            for name, numbers in arms.items():
                low, high = numbers["hypervolume_interval"]
                area = f"area {numbers['hypervolume']:.3f} [{low:.3f}, {high:.3f}]"
                talk.data(f"{figure} against negative: {name}, {numbers['trials']} trials, {area}")
    counts = {numbers["trials"] for numbers in found["positive"].values()}
    if len(counts) > 1:
        talk.warn(f"the budgets are not equal, {min(counts)} to {max(counts)} trials: run 'vsf eval sweep' on until they are")
    talk.say(f"figures in {folder}")
