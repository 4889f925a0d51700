"""Asks a judge about files, such as all images of a run. Each answer is written at once, so that no image is judged twice."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vsf_cli.errors import MediaError, ModelError, OutOfMemory, VSFError
from vsf_cli.evaluation.runs import Run, Sample
from vsf_cli.judges.frames import Clip, frames_to_judge, judge_clips
from vsf_cli.judges.judgement import Judge, Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import images_per_pass
from vsf_cli.judges.stored import CachedJudge
from vsf_cli.media.json_lines import append_line, read_lines
from vsf_cli.media.reading import read_frames

__all__ = ["Answers", "answer_key", "judge_all", "judge_files"]

AnswerKey = tuple[str, str, int, str]
File = tuple[Path, Record]
"""An image or a video, and what is asked about it."""
Store = Callable[[int, Judgement], object]


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
        RequestError: If the judge cannot answer about one of them.
        ModelError: If the model of the judge cannot be loaded.
        OutOfMemory: If memory does not suffice for a single image.
    """
    answers = Answers(run, judge.name)
    known = answers.of(judge)
    pending = [(sample, key) for sample in run.samples() if (key := answer_key(sample)) not in known]
    for record in {sample.record.id: sample.record for sample, _ in pending}.values():
        judge.check(record, offline=False)
    framewise = CachedJudge(judge, run.folder / f"frames-{judge.name}.jsonl") if judge.costly else judge
    files = [(sample.path, sample.record) for sample, _ in pending]

    def store(index: int, answer: Judgement) -> None:
        answers.add(judge, pending[index][1], answer)

    for index, error in judge_files(judge, files, store, progress, framewise):
        yield pending[index][0], error


def judge_files(
    judge: Judge,
    files: Sequence[File],
    store: Store,
    progress: Callable[[int, int], object] | None = None,
    of_videos: Judge | None = None,
) -> Iterator[tuple[int, VSFError | None]]:
    """Judges images and videos, as many at a time as the judge answers about in one pass, in as many threads as it has.

    Arguments:
        judge: The judge.
        files: The images and videos, each with what is asked about it.
        store: Called with the index of a file and its answer as soon as there is one.
        progress: Called with the number of files that are done, and of all.
        of_videos: Judges the frames of videos; None means the judge itself.

    Yields:
        The index of each file that is done, with its error if it failed.

    Raises:
        MediaError: If a file cannot be read or written.
        ModelError: If the model of the judge cannot be loaded.
        OutOfMemory: If memory does not suffice for a single image.
    """
    size, done = images_per_pass(judge), 0
    groups = [range(len(files))[start : start + size] for start in range(0, len(files), size)]
    with ThreadPoolExecutor(judge.workers) as pool:
        waiting = [pool.submit(_judge_group, judge, of_videos or judge, files, group, store) for group in groups]
        try:
            for future in as_completed(waiting):
                for index, error in future.result().items():
                    if isinstance(error, (MediaError, ModelError, OutOfMemory)):
                        raise error
                    done += 1
                    if progress is not None:
                        progress(done, len(files))
                    yield index, error
        finally:
            pool.shutdown(cancel_futures=True)


def _judge_group(
    judge: Judge, of_videos: Judge, files: Sequence[File], group: Iterable[int], store: Store
) -> dict[int, VSFError | None]:
    """Judges some of the files, and returns the error of each by its index, None if there is none."""
    errors: dict[int, VSFError | None] = {}
    images: dict[int, Clip] = {}
    videos: dict[int, Clip] = {}
    for index in group:
        path, record = files[index]
        try:
            frames = frames_to_judge(read_frames(path))
        except VSFError as error:
            errors[index] = error
            continue
        (images if len(frames) == 1 else videos)[index] = frames, record
    for asked, clips in ((judge, images), (of_videos, videos)):
        for index, outcome in zip(clips, judge_clips(asked, [*clips.values()]), strict=True):
            errors[index] = outcome if isinstance(outcome, VSFError) else None
            if not isinstance(outcome, VSFError):
                store(index, outcome)
    return errors
