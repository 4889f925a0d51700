"""Chooses between images by a judge: the smallest strength, and the first seed, with which the judge is content.

A judge is content if it sees the object, not the negative prompt, and what has to stay. What the image without guidance does
not show either need not stay, where that image was tried, too. If the judge is content with no candidate, the one with the
greatest score is chosen: the sum of the probabilities that the object is there and that the negative prompt is not (0 or 1
where a judge has no probability), of the part of what has to stay that is there, and of the quality.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any

from vsf_cli.config.names import counted
from vsf_cli.errors import ModelError, PictureError, RequestError, VSFError
from vsf_cli.generation.asking import Answer, Verdicts, check_choice_of, judge_of, record_of
from vsf_cli.generation.choice import Attempt, Choice
from vsf_cli.generation.generate import Progress, Result, can_batch_strengths, generate, generate_batch, passes
from vsf_cli.judges.frames import judge_clips
from vsf_cli.judges.judgement import Describes, Judge, Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.settings.candidates import candidates_of, seeds_of, unguided
from vsf_cli.settings.request import Request

__all__ = ["choose", "choose_batch", "make"]


def make(
    pipe: Any,
    request: Request,
    device: str,
    progress: Progress | None = None,
    tried: Progress | None = None,
    keep_all: bool = False,
) -> Result:
    """Returns the image or video of a request, chosen by its judge if it chooses. The arguments are those of `choose`.

    `device` is that of the judge, if it is a model of its own.
    """
    from vsf_cli.models.encoder_cache import caching_encoders

    if not request.chooses:
        return generate(pipe, request, progress)
    with caching_encoders(pipe):
        return choose(pipe, request, judge_of(request, device), progress, tried, keep_all)


def choose(
    pipe: Any,
    request: Request,
    judge: Judge,
    progress: Progress | None = None,
    tried: Progress | None = None,
    keep_all: bool = False,
) -> Result:
    """Returns the chosen image or video of a request, with its `choice`.

    Arguments:
        pipe: A pipeline of `vsf_cli.loading.load`.
        request: A request that chooses: with `strengths`, or a `best_of` above 1, or which keeps "auto".
        judge: The judge.
        progress: Called after each step.
        tried: Called after each candidate with the number of those that were tried, and of all.
        keep_all: Whether the images of all candidates are kept in the choice.

    Raises:
        RequestError: If there is nothing to choose between. Other errors are those of `generate` and of the judge.
    """
    if not request.chooses:
        raise RequestError("there is nothing to choose between: give strengths, such as strengths='none,1,2,4', or best_of")
    check_choice_of(request, judge, offline=False)
    (result,) = choose_batch(pipe, [request], judge, progress, tried, keep_all=keep_all)
    return result


def choose_batch(
    pipe: Any,
    requests: Sequence[Request],
    judge: Judge,
    progress: Progress | None = None,
    tried: Progress | None = None,
    verdicts: Verdicts | None = None,
    keep_all: bool = False,
    size: int = 1,
) -> list[Result]:
    """Returns the chosen image or video of each request, with its `choice`.

    The first candidates of all requests are made together in one pass through the model where `can_batch_strengths` allows it,
    then the next candidates of those requests with whose image the judge is not content, and so on. Where there are fewer
    requests than `size`, candidates are made that may not be needed, up to `size` in one pass. The other arguments are those of
    `choose`.
    """
    known = verdicts or Verdicts()
    searches = [_Search(request, judge, known, keep_all, tried) for request in requests]
    if tried is not None:
        tried(0, searches[0].count)
    while waiting := [search for search in searches if search.wanted is not None]:
        for group in passes(waiting, _wanted, can_batch_strengths):
            rows = [(search, _wanted(search)) for search in group]
            rows += _ahead(group, size - len(group))
            for (search, request), result in zip(rows, _make(pipe, [one for _, one in rows], progress), strict=True):
                search.ready.append((request, result))
            _judge_ready(group, judge)
    return [search.chosen(pipe, progress) for search in searches]


def _ahead(searches: "Sequence[_Search]", count: int) -> "list[tuple[_Search, Request]]":
    """Returns up to `count` candidates that may be wanted next, which run in the pass of those that are wanted now."""
    if count <= 0:
        return []
    first = _wanted(searches[0])
    rounds = zip_longest(*([(search, one) for one in search.upcoming] for search in searches))
    rows = (row for turn in rounds for row in turn if row is not None and can_batch_strengths(first, row[1]))
    return list(islice(rows, count))


def _judge_ready(searches: "Sequence[_Search]", judge: Judge) -> None:
    """Judges the images that are made and wanted: those of several searches together, where the judge can."""
    while rows := _rows_to_judge(searches):
        asked = [(search, result) for search, result in rows if search.judgement is None]
        errors = []
        for (search, _), outcome in zip(
            asked, judge_clips(judge, [(one.frames, search.record) for search, one in asked]), strict=True
        ):
            if isinstance(outcome, VSFError):
                errors.append(outcome)
            else:
                search.store(outcome)
        if errors:
            raise _of_judge(errors[0], judge)
        for search, result in rows:
            search.take(result)


def _rows_to_judge(searches: "Sequence[_Search]") -> "list[tuple[_Search, Result]]":
    """Returns the image of each search that is wanted now; of those with the same question, only the first."""
    rows: list[tuple[_Search, Result]] = []
    for search in searches:
        result = search.wanted_image()
        if result is not None and all((search.wanted, search.record) != (one.wanted, one.record) for one, _ in rows):
            rows.append((search, result))
    return rows


def _of_judge(error: VSFError, judge: Judge) -> VSFError:
    """Returns the error of a judge: such as an endpoint that cannot be reached, which another time may be."""
    if type(error) is not VSFError:
        return error
    wrapped = ModelError(f"judge {judge.name}: {error}")
    wrapped.__cause__ = error
    return wrapped


class _Search:
    """The search for the image of one request.

    Attributes:
        wanted: The next request of which an image is wanted; None at the end.
        upcoming: The candidates after it that have the same seed.
        ready: Images that are made, with their requests.
        attempts: The candidates that were judged.
        count: The most candidates that there are.
    """

    def __init__(
        self, request: Request, judge: Judge, verdicts: Verdicts, keep_all: bool, tried: Progress | None = None
    ) -> None:
        self._request, self._judge, self._verdicts, self._keep_all = request, judge, verdicts, keep_all
        self._tried = tried
        self.count = request.best_of * max(1, len(request.tried_strengths))
        self.attempts: list[Attempt] = []
        self.wanted: Request | None = None
        self.upcoming: list[Request] = []
        self.ready: list[tuple[Request, Result | None]] = []
        self._record = record_of(request)
        self._best: tuple[float, int] = (-math.inf, 0)
        self._content, self._runs, self._seconds = False, 0, 0.0
        self._judgement: Judgement | None = None
        """What the judge said of the wanted image."""
        self._image: Result | None = None
        """The result of the best candidate, if it was made here."""
        self._walk = self._walked()
        self._go_on(None)

    def _walked(self) -> Generator[Request, "_Seen", None]:
        """Yields the requests whose images are to be judged, and takes what was seen."""
        for seed in seeds_of(self._request):
            looked = None
            self._record = record_of(self._request)
            if self._request.keeps_what_is_seen:
                looked = (yield unguided(self._request, seed)).with_things_kept()
                self._record = replace(self._record, keep=looked.things)
            keep = self._request.keep if looked is None else looked.things
            needed = self._record.keep
            self.upcoming = [*candidates_of(self._request, seed, keep)]
            while self.upcoming:
                candidate = self.upcoming.pop(0)
                seen = looked if looked and looked.request == candidate else (yield candidate)
                if candidate.method == "none" and self._request.strengths and seen.judgement:
                    # What the image does not show without guidance cannot stay.
                    needed = needed if seen.judgement.kept is None else seen.judgement.kept
                if self._add(seen, needed):
                    return

    def _add(self, seen: "_Seen", needed: Sequence[str]) -> bool:
        """Adds a candidate; returns whether the judge is content with it."""
        frames = seen.result.frames if self._keep_all and seen.result else ()
        attempt = Attempt(seen.request, seen.judgement, frames, tuple(needed))
        self._content = attempt.is_good
        score = math.inf if self._content else attempt.score
        if score > self._best[0]:
            self._best, self._image = (score, len(self.attempts)), seen.result
        self.attempts.append(attempt)
        return self._content

    def _go_on(self, seen: "_Seen | None") -> None:
        """Goes on to the next request whose answer is not known."""
        try:
            self.wanted = next(self._walk) if seen is None else self._walk.send(seen)
            self._runs += 1
            while (answer := self._known(self.wanted)) is not None:
                self.wanted = self._walk.send(_Seen(self.wanted, answer.judgement, answer.things or ()))
                self._runs += 1
        except StopIteration:
            self.wanted = None
            self.ready.clear()

    def _known(self, request: Request) -> "Answer | None":
        # All images are wanted where all are kept.
        return None if self._keep_all else self._answered(request)

    def _answered(self, request: Request) -> "Answer | None":
        """Returns the known answer about a request's image; None also if another search did not ask what else it shows."""
        answer = self._verdicts.known(request, self._record)
        return None if answer and answer.things is None and self._tells_things(request) else answer

    def _tells_things(self, request: Request) -> bool:
        return self._request.keeps_what_is_seen and request.method == "none" and not request.keep

    @property
    def record(self) -> Record:
        """What the judge is asked about the wanted image."""
        return self._record

    @property
    def judgement(self) -> Judgement | None:
        """What the judge said of the wanted image; None if it was not asked."""
        assert self.wanted is not None
        known = None if self._judgement else self._verdicts.known(self.wanted, self._record)
        return known.judgement if known else self._judgement

    def wanted_image(self) -> Result | None:
        """Returns the image that is made and wanted and has no whole answer yet; goes on from those that need none."""
        while (at := self._place) is not None:
            request, result = self.ready[at]
            if result is None:
                self._go_on_from(at, _Seen(request, None))
            elif (answer := self._answered(request)) is not None:
                self._go_on_from(at, _Seen(request, answer.judgement, answer.things or (), result))
            else:
                return result
        return None

    @property
    def _place(self) -> int | None:
        """Where the wanted image stands among those that are made."""
        return next((index for index, (one, _) in enumerate(self.ready) if one == self.wanted), None)

    def _go_on_from(self, at: int, seen: "_Seen") -> None:
        """Goes on from an image that is made."""
        del self.ready[at]
        self._judgement = None
        self._seconds += seen.result.seconds if seen.result else 0.0
        self._go_on(seen)
        if self._tried is not None:
            self._tried(len(self.attempts), self.count)

    def store(self, judgement: Judgement) -> None:
        """Stores what the judge says of the wanted image."""
        assert self.wanted is not None
        self._judgement = judgement
        self._verdicts.add(self.wanted, self._record, Answer(judgement))

    def take(self, result: Result) -> None:
        """Goes on from the wanted image, of which the judgement is known; asks what else it shows, where that is kept.

        Raises:
            VSFError: If the judge cannot say it.
        """
        request, judgement, at = self.wanted, self.judgement, self._place
        assert request is not None and judgement is not None and at is not None
        things: tuple[str, ...] = ()
        if self._tells_things(request):
            try:
                things = _things(self._judge, result, self._record)
            except VSFError as error:
                raise _of_judge(error, self._judge) from error
            self._verdicts.add(request, self._record, Answer(judgement, things))
        self._go_on_from(at, _Seen(request, judgement, things, result))

    def chosen(self, pipe: Any, progress: Progress | None) -> Result:
        """Returns the chosen image, which is made again if its answer was known."""
        _, index = self._best
        attempt = self.attempts[index]
        if attempt.judgement is None:
            raise PictureError(f"none of {counted(len(self.attempts), 'candidate')} is an image: try smaller strengths")
        result = self._image
        if result is None:
            (result,) = generate_batch(pipe, [attempt.request], progress)
            self._seconds += result.seconds
        choice = Choice(self._request, self._judge.settings, tuple(self.attempts), index, self._content, self._runs)
        notes = [*result.notes, *([] if self._content else [_discontent(choice)])]
        if self._request.keeps_what_is_seen and not attempt.needed:
            notes.append(f"judge {self._judge.name} sees nothing else without guidance, so that --keep auto keeps nothing")
        if self._record.keep and attempt.judgement.kept is None:
            notes.append(f"judge {self._judge.name} cannot tell whether what --keep names stays, and did not choose by it")
        return replace(result, seconds=self._seconds, choice=choice, notes=tuple(notes))


@dataclass(frozen=True)
class _Seen:
    """An image that was judged: its request, the answer, what else it shows, and the result, if it was made here."""

    request: Request
    judgement: Judgement | None
    things: tuple[str, ...] = ()
    result: Result | None = None

    def with_things_kept(self) -> "_Seen":
        """Returns it with an answer to the question what stayed, which is not asked before the things are known."""
        return replace(self, judgement=self.judgement and replace(self.judgement, kept=self.things))


def _discontent(choice: Choice) -> str:
    tries = counted(len(choice.attempts), "candidate")
    return f"judge {choice.judge['name']} is content with none of {tries}, and this is the best of them: {choice.summary}"


def _things(judge: Judge, result: Result, record: Record) -> tuple[str, ...]:
    """Returns what else an image shows, or the middle frame of a video."""
    assert isinstance(judge, Describes)
    return judge.things(result.frames[len(result.frames) // 2], record)


def _wanted(search: _Search) -> Request:
    assert search.wanted is not None
    return search.wanted


def _make(pipe: Any, requests: Sequence[Request], progress: Progress | None) -> list[Result | None]:
    """Returns the results of requests that run in one pass; None for one of which the model makes no image."""
    try:
        return [*generate_batch(pipe, requests, progress)]
    except PictureError:
        return [None] if len(requests) == 1 else [_make(pipe, [request], progress)[0] for request in requests]
