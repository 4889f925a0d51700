"""Searches the settings of methods with equal budgets on one prompt set. Each trial is stored when it is finished."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from vsf_cli.config.ranges import parse_range
from vsf_cli.errors import RequestError
from vsf_cli.evaluation.prompts import PromptSet
from vsf_cli.evaluation.variants import Variant
from vsf_cli.generation.generate import Progress, generate_batch
from vsf_cli.generation.plan import request_of
from vsf_cli.judges.frames import judge_clips
from vsf_cli.judges.judgement import Judge
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import answer_of
from vsf_cli.methods import METHODS, resolved
from vsf_cli.settings.options import SETTINGS
from vsf_cli.settings.presets import Settings, load_preset
from vsf_cli.settings.request import Request

__all__ = ["SAMPLERS", "Study", "Sweep", "Trial", "parse_space", "space_of", "studies_of"]

SAMPLERS = {"random": "RandomSampler", "tpe": "TPESampler", "nsga2": "NSGAIISampler"}
"""The classes of Optuna's samplers by their names in options."""


@dataclass(frozen=True)
class Trial:
    """A trial of the searched settings.

    Arguments:
        settings: Their values.
        outcomes: For each image whether the object is shown, whether the negative is absent, and the quality.
    """

    settings: Mapping[str, float]
    outcomes: Sequence[tuple[bool, bool, float]]


Study = tuple[dict[str, Any], list[Trial]]
"""The facts of a sweep, and its finished trials."""


@dataclass(frozen=True)
class Sweep:
    """A search over the settings of one method.

    Arguments:
        prompts: The prompts of every trial; the n-th has the seed n.
        variant: The method, with its fixed settings.
        preset: The preset's name, or the path of its file.
        judge: Judges the images, which are not stored.
        space: The searched settings, with their bounds.
        storage: The SQLite file of the trials.
        batch_size: Images in one pass through the model.
    """

    prompts: PromptSet
    variant: Variant
    preset: str
    judge: Judge
    space: Mapping[str, tuple[float, float]]
    storage: Path
    batch_size: int = 8

    def request(self, record: Record, seed: int, chosen: Mapping[str, float]) -> Request:
        """Returns the request of an image in a trial.

        Raises:
            RequestError: If a setting is not legal.
        """
        given = {"preset": self.preset, **self.variant.settings}
        video = load_preset(given["preset"]).video
        settings = Settings({**given, **chosen, "best_of": 1}, video=video)
        return request_of(self.variant.texts(record), seed, settings, (), video)[0]

    def check(self) -> None:
        """Checks every combination of bounds before a model is loaded.

        Raises:
            RequestError: If one is not legal.
        """
        for corner in product(*self.space.values()):
            try:
                self.request(self.prompts.records[0], 0, dict(zip(self.space, corner, strict=True)))
            except RequestError as error:
                space = ", ".join(f"{name}={low:g}..{high:g}" for name, (low, high) in self.space.items())
                raise RequestError(f"method {self.variant.name} cannot be searched over {space}: {error}") from error

    def run(self, pipe: Any, count: int, sampler: str, seed: int, progress: Progress | None = None) -> Iterator[Trial]:
        """Tries settings until `count` trials are finished, including those of earlier runs.

        A trial that an earlier run did not finish is tried first, since some of the judge's answers may be stored. Only one
        process at a time may run the same sweep.

        Yields:
            Each trial, after it is stored.
        """
        study = _study(self, sampler, seed)
        _requeue_unfinished(study, self.space)
        for _ in range(len(_finished(study)), count):
            trial = study.ask()
            chosen = {name: trial.suggest_float(name, low, high) for name, (low, high) in self.space.items()}
            outcomes = self._outcomes(pipe, chosen, progress)
            trial.set_user_attr("outcomes", outcomes)
            columns = list(zip(*outcomes, strict=True))
            study.tell(trial, [sum(column) / len(column) for column in columns])
            yield Trial(chosen, outcomes)

    def _outcomes(self, pipe: Any, chosen: Mapping[str, float], progress: Progress | None) -> list[tuple[bool, bool, float]]:
        records, outcomes = self.prompts.records, []
        for start in range(0, len(records), self.batch_size):
            part = records[start : start + self.batch_size]
            requests = [self.request(record, start + number, chosen) for number, record in enumerate(part)]
            results = generate_batch(pipe, requests)
            clips = [(result.frames, record) for record, result in zip(part, results, strict=True)]
            for answer in map(answer_of, judge_clips(self.judge, clips)):
                outcomes.append((answer.positive, answer.negative, answer.quality))
            if progress is not None:
                progress(len(outcomes), len(records))
        return outcomes


def parse_space(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns the searched settings with their bounds, from texts such as "alpha=0..6".

    Raises:
        ValueError: If one cannot be parsed.
        RequestError: If there is no such setting, or its bounds do not rise.
    """
    space = {}
    for text in texts:
        name, equals, span = text.partition("=")
        low, dots, high = span.partition("..")
        if not equals or not dots or "," in span:
            raise ValueError(f"'{text}' is not a range of a setting: write alpha=0..6")
        name = name.strip().lstrip("-").replace("-", "_")
        if name not in SETTINGS or SETTINGS[name].type is not float:
            raise RequestError(f"--space {text}: '{name}' is not a setting with a number")
        (first, *_), (*_, last) = parse_range(low), parse_range(high)
        if not first < last:
            raise RequestError(f"--space {text}: its bounds must rise")
        space[name] = (first, last)
    return space


def space_of(variant: Variant, given: Mapping[str, tuple[float, float]]) -> Mapping[str, tuple[float, float]]:
    """Returns the searched settings of a variant: those given, else its own, else those of its method.

    Raises:
        RequestError: If there are none.
    """
    space = given or variant.search or METHODS[resolved(variant.settings["method"])[0]].search()
    if not space:
        raise RequestError(f"method {variant.name} has nothing to search: name it with --space NAME=LOW..HIGH")
    return space


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise RequestError('sweeps need the package optuna: pip install "vsf-cli[sweep]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(sweep: Sweep, sampler: str, seed: int) -> Any:
    """Returns the study of a sweep, a new one if its file has none.

    Raises:
        RequestError: If the file has a study of that name with other facts.
    """
    optuna = _optuna()
    sweep.storage.parent.mkdir(parents=True, exist_ok=True)
    facts, name, url = _facts(sweep), sweep.variant.name, _url(sweep.storage)
    study = optuna.create_study(study_name=name, storage=url, directions=["maximize"] * 3, load_if_exists=True)
    known = study.user_attrs.get("vsf")
    if known is not None and known != json.loads(json.dumps(facts)):
        raise RequestError(f"{sweep.storage} has another sweep of '{name}': choose another file with --storage")
    study.set_user_attr("vsf", facts)
    study.sampler = _sampler(study, sweep.space, sampler, seed)
    return study


def _sampler(study: Any, space: Mapping[str, tuple[float, float]], name: str, seed: int) -> Any:
    """Returns a sampler that goes on as if the sweep had not been stopped: it has proposed the known trials once more.

    That of NSGA-II cannot do that for another study: it goes on otherwise, and does not propose the same again.
    """
    optuna = _optuna()
    kind = getattr(optuna.samplers, SAMPLERS[name])
    if name == "nsga2":
        return kind(seed=seed + len(study.trials))
    sampler = kind(seed=seed)
    again = optuna.create_study(directions=study.directions, sampler=sampler)
    values = {tuple(trial.params.items()): trial.values for trial in _finished(study)}
    for known in study.trials:
        # A trial that was tried again had been proposed before.
        if known.params.keys() == space.keys() and "fixed_params" not in known.system_attrs:
            trial = again.ask()
            for setting, (low, high) in space.items():
                trial.suggest_float(setting, low, high)
            found = values.get(tuple(known.params.items()))
            again.tell(trial, found, state=None if found else optuna.trial.TrialState.FAIL)
    return sampler


def _facts(sweep: Sweep) -> dict[str, Any]:
    """Returns the facts that all runs of a sweep share."""
    return {
        "set": sweep.prompts.name,
        "sha256": sweep.prompts.digest,
        "preset": load_preset(sweep.preset).name,
        "arm": sweep.variant.name,
        "label": sweep.variant.label,
        "settings": dict(sweep.variant.settings),
        "space": {name: list(bounds) for name, bounds in sweep.space.items()},
        "judge": dict(sweep.judge.settings),
        "batch_size": sweep.batch_size,
        **{key: True for key in ("keeps", "names_kept") if getattr(sweep.variant, key)},
    }


def _requeue_unfinished(study: Any, space: Mapping[str, Any]) -> None:
    """Marks unfinished trials of an earlier run as failed, and queues their settings again."""
    for trial in study.trials:
        if trial.state.name == "RUNNING":
            study.tell(trial.number, state=type(trial.state).FAIL)
            if set(trial.params) == set(space):
                study.enqueue_trial(trial.params)


def _url(storage: Path) -> str:
    return f"sqlite:///{storage}"


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def studies_of(storage: Path) -> dict[str, Study]:
    """Returns the sweeps of a file by method, each with its facts and its finished trials.

    Raises:
        RequestError: If there is no such file, or it has no finished trials.
    """
    optuna = _optuna()
    if not storage.is_file():
        raise RequestError(f"{storage}: there is no such file; 'vsf eval sweep' makes it")
    try:
        names = optuna.get_all_study_names(_url(storage))
        studies = {name: optuna.load_study(study_name=name, storage=_url(storage)) for name in names}
    except Exception as error:
        raise RequestError(f"{storage} is not a file of sweeps: {' '.join(str(error).split())[:200]}") from error
    finished: dict[str, Study] = {}
    for name, study in studies.items():
        trials = [Trial(trial.params, trial.user_attrs["outcomes"]) for trial in _finished(study)]
        if trials and "vsf" in study.user_attrs:
            finished[name] = study.user_attrs["vsf"], trials
    if not finished:
        raise RequestError(f"{storage} has no finished trials: run 'vsf eval sweep' first")
    return finished
