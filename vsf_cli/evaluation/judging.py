"""Asks a judge about every image of a run. Each answer is written at once, so that no image is judged twice."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from typing import Any, TypeVar

from vsf_cli.errors import MediaError, ModelError, VSFError
from vsf_cli.evaluation.runs import Run, Sample
from vsf_cli.judges.judgement import CachedJudge, Judge, Judgement, judge_frames
from vsf_cli.media.json_lines import append_line, read_lines
from vsf_cli.media.reading import read_frames

__all__ = ["Answers", "answer_key", "in_threads", "judge_all"]

Item = TypeVar("Item")
AnswerKey = tuple[str, str, int, str]


def answer_key(sample: Sample) -> AnswerKey:
    """Returns the key of an answer: record, variant, seed, and the SHA-256 of the file, since it may be made again.

    Raises:
        MediaError: If the file cannot be read.
    """
    try:
        digest = hashlib.sha256(sample.path.read_bytes()).hexdigest()
    except OSError as error:
        message = f"{sample.path} cannot be read: {error.strerror}; run 'vsf eval run' again, it makes it anew"
        raise MediaError(message) from error
    return sample.record.id, sample.variant, sample.seed, digest


class Answers:
    """The file of the answers of all judges of one name: a line each, of which the last may be incomplete.

    Every method raises `MediaError` if the file cannot be read or written.
    """

    def __init__(self, run: Run, judge: str) -> None:
        self.path = run.folder / f"judgements-{judge}.jsonl"
        self.lock = threading.Lock()

    def read(self) -> dict[str, dict[AnswerKey, Judgement]]:
        """Returns the last answer about each image, by the judge's settings as JSON; the judge that was used last is last."""
        answers: dict[str, dict[AnswerKey, Judgement]] = {}
        for line in read_lines(self.path):
            try:
                judgement = Judgement.read(line)
                key = line["record"], line["arm"], line["seed"], line["sha256"]
                settings = _settings_key(line["judge"])
                answers[settings] = answers.pop(settings, {})
                answers[settings][key] = judgement
            except (KeyError, TypeError, ValueError):
                continue
        return answers

    def of(self, judge: Judge) -> dict[AnswerKey, Judgement]:
        """Returns the answers of a judge with these settings."""
        return self.read().get(_settings_key(judge.settings), {})

    def add(self, judge: Judge, key: AnswerKey, judgement: Judgement) -> None:
        """Adds an answer to the file."""
        line = dict(zip(("record", "arm", "seed", "sha256"), key, strict=True))
        with self.lock:
            append_line(self.path, {**line, **asdict(judgement), "judge": dict(judge.settings)})


def _settings_key(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), sort_keys=True)


def judge_all(
    run: Run, judge: Judge, progress: Callable[[int, int], object] | None = None
) -> Iterator[tuple[Sample, VSFError | None]]:
    """Judges all images of a run that have no answer yet, and stores each answer.

    Yields:
        Each image that was judged, with its error if it failed.

    Raises:
        MediaError: If answers or images cannot be read, or an answer cannot be written.
        ModelError: If the model of the judge cannot be loaded.
    """
    answers = Answers(run, judge.name)
    known = answers.of(judge)
    pending = [(sample, key) for sample in run.samples() if (key := answer_key(sample)) not in known]
    framewise = CachedJudge(judge, run.folder / f"frames-{judge.name}.jsonl") if judge.costly else judge

    def judge_sample(sample: Sample, key: AnswerKey) -> None:
        frames = read_frames(sample.path)
        answers.add(judge, key, judge_frames(judge if len(frames) == 1 else framewise, frames, sample.record))

    for (sample, _), error in in_threads(judge.workers, lambda one: judge_sample(*one), pending, progress):
        yield sample, error


def in_threads(
    workers: int,
    work: Callable[[Item], object],
    items: Sequence[Item],
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[tuple[Item, VSFError | None]]:
    """Does the work of a judge for each item in several threads.

    Yields:
        Each item that is done, with its error if it failed.

    Raises:
        MediaError: If a file cannot be read or written.
        ModelError: If the model of the judge cannot be loaded.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(work, item): item for item in items}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                error = future.exception()
                if error is not None and (not isinstance(error, VSFError) or isinstance(error, (MediaError, ModelError))):
                    raise error
                if progress is not None:
                    progress(done, len(items))
                yield waiting[future], error
        finally:
            pool.shutdown(cancel_futures=True)
