"""From a table to items: a picture or clip each, with an id that its own request decides. Made without torch."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vsf_cli.batch.table import Row, TableErrors, usual_name
from vsf_cli.config.option import options_of
from vsf_cli.config.ranges import MAX_VALUES, ValueList, combinations
from vsf_cli.errors import RequestError, VSFError
from vsf_cli.generation.capture import check_capture
from vsf_cli.generation.generate import check_size
from vsf_cli.generation.outputs import Outputs, slug
from vsf_cli.generation.plan import request_of
from vsf_cli.generation.run import DEFAULT_FPS, weights_of
from vsf_cli.loading.loras import hashes_of
from vsf_cli.loading.sources import grid_of, source_of, vocabulary_of
from vsf_cli.media.formats import CRF_FORMATS, FORMATS, IMAGE_FORMATS, VIDEO_FORMATS, check_crf, check_fps
from vsf_cli.methods import METHODS
from vsf_cli.prompts.vocabulary import check_vocabulary, hints
from vsf_cli.settings.presets import Settings, load_preset
from vsf_cli.settings.request import Request

__all__ = ["Item", "Shard", "identity", "items_of"]

MOST_ITEMS = 1_000_000
NOT_OF_THE_NOISE = ("parameters", *(one.field for one in options_of(Request) if not one.noise))
"""What the seed of a row without one does not depend on, so that a sweep compares pictures of the same noise."""
NOT_OF_THE_ID = tuple(one.field for one in options_of(Request) if not one.identity)
"""What decides nothing by itself: the values of a preset do, and the weights of a revision."""
NAME_BYTES = 200
ENDINGS = {ending for entry in FORMATS.values() for ending in entry.endings} - {""}
OWN_FILES = re.compile(r"(manifest\b.*|index\.html|sheet-\d+\.png|.*\.json)(/|$)", re.IGNORECASE)
"""The names of what a run keeps beside its pictures."""
MOST_NOTES = 10


@dataclass(frozen=True)
class Item:
    """A picture, or a clip, of a batch.

    Arguments:
        id: 16 hexadecimal digits of the hash of its request, its model's weights and its constant rate factor.
        request: What is asked.
        row: The number of its row in the table, from 0.
        name: Its file's name, relative to the folder of the run.
        model: What says which weights it is made with, as far as it is known before they are there.
        format: Its file's format, a key of `IMAGE_FORMATS` or `VIDEO_FORMATS`.
        crf: The constant rate factor of a clip's encoder; None means the format's own.
    """

    id: str
    request: Request
    row: int
    name: str
    model: Mapping[str, Any]
    format: str = "png"
    crf: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others of a run: its id, and its name, since rows that ask for the same may have several."""
        return self.id, self.name

    @cached_property
    def load_key(self) -> str:
        """Items that have it in common run on the same loaded model."""
        return repr(sorted(self.request.loading.items()))

    @cached_property
    def pass_key(self) -> str:
        """Items that have it in common, too, can be made in one pass through it, as `alike` has it."""
        asked = self.request
        names = [entry.name for entry in fields(asked) if entry.name not in ("prompt", "negative", "seed")]
        return repr([getattr(asked, name) for name in names])

    @property
    def middle(self) -> float:
        """When the middle frame of its clip is shown, in seconds from the begin; a little before, to be sure of it."""
        frames = (self.request.num_frames or 1) - self.request.drop_frames
        return (frames // 2 - 0.25) / (self.request.fps or DEFAULT_FPS) if frames > 1 else 0.0


@dataclass(frozen=True)
class Shard:
    """One part of a run, chosen by the items' ids: 1/1 is the whole.

    Arguments:
        number: Which part, from 1.
        count: How many parts there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] | None = None) -> "Shard":
        """A shard from `I/N`; `auto` reads the variables of a SLURM array.

        Raises:
            ValueError: If it cannot be parsed.
            RequestError: If there is no such part, or `auto` finds no array.
        """
        if text is None:
            return cls()
        if text == "auto":
            variables = os.environ if environment is None else environment
            try:
                first, step = (int(variables.get(f"SLURM_ARRAY_TASK_{name}", "1")) for name in ("MIN", "STEP"))
                place = (int(variables["SLURM_ARRAY_TASK_ID"]) - first) // max(step, 1)
                return cls(place + 1, int(variables["SLURM_ARRAY_TASK_COUNT"]))
            except (KeyError, ValueError) as error:
                raise RequestError("--shard auto finds no SLURM array: set SLURM_ARRAY_TASK_ID, or give --shard I/N") from error
        number, slash, count = text.partition("/")
        if not slash or not number.strip().isdigit() or not count.strip().isdigit():
            raise ValueError(f"'{text}' is no shard: write 2/5 for the second of five, or auto")
        return cls(int(number), int(count))

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise RequestError(
                f"--shard is {self.number}/{self.count}, but must be one of 1/{self.count} to {self.count}/{self.count}"
            )

    def holds(self, item: Item) -> bool:
        """Whether an item belongs to it."""
        return int(item.id, 16) % self.count == self.number - 1

    @property
    def suffix(self) -> str:
        """What the names of its own files have behind theirs."""
        return "" if self.count == 1 else f"-{self.number}of{self.count}"


def items_of(
    place: str,
    rows: Sequence[Row],
    options: Mapping[str, Any],
    negative: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    loras: Sequence[str] = (),
    watched: bool = False,
) -> tuple[list[Item], list[str]]:
    """The items of a table, rows x sweeps x seeds, and what a person should know of them.

    Arguments:
        place: Where the table was read.
        rows: Its rows.
        options: The settings of the command line, by name; those with several values are `ValueList`.
        negative: What is not wanted in rows that do not say it.
        seeds: The seeds of rows without; none draws one from what the row asks for.
        loras: The LoRA files of rows without.
        watched: Whether each is to have attention maps.

    Raises:
        TableErrors: If a row asks for something that is not legal; all such rows are said.
        RequestError: If there are too many items.
    """
    maker = _Maker(options, tuple(negative), seeds, tuple(loras), watched)
    errors: list[str] = []
    items: list[Item] = []
    for number, row in enumerate(rows):
        try:
            items += maker.items(number, row)
        except VSFError as error:
            errors.append(f"line {row.line}{_column_of(row, str(error))}: {error}")
        if len(items) > MOST_ITEMS:
            raise RequestError(f"{place} with its sweeps makes more than {MOST_ITEMS} pictures: make fewer at once")
    errors += clashes(items, rows)
    if errors:
        raise TableErrors(place, list(dict.fromkeys(errors)))
    if maker.crf_unused(items):
        raise RequestError(f"--crf is for {' and '.join(CRF_FORMATS)}, but {place} makes no such clip: leave it out")
    return items, [f"{note} ({count} pictures)" for note, count in maker.notes.most_common(MOST_NOTES)]


def _column_of(row: Row, message: str) -> str:
    """The column that an error speaks of, if its first word names one."""
    words = message.replace("--", "").split()
    wanted = usual_name(words[0]) if words else ""
    columns = (wanted, "size") if wanted in ("width", "height") else (wanted,)
    named = [name for name in row.cells if wanted and usual_name(name) in columns]
    return f", column {named[0]}" if named else ""


def clashes(items: Sequence[Item], rows: Sequence[Row]) -> list[str]:
    """Names that the rows of a table gave, and that another row, its folder, or a file of the run itself has, too."""
    taken = {item.name: item.row for item in items}
    found = []
    for item in items:
        row, name = rows[item.row], item.name
        if row.name is None:
            continue
        above = next((str(part) for part in Path(name).parents if str(part) in taken), None)
        if OWN_FILES.match(name):
            found.append(f"line {row.line}, column name: '{name[:80]}' is a file of the run itself: choose another name")
        elif taken[name] != item.row:
            found.append(f"line {rows[taken[name]].line}, column name: line {row.line} has the name '{row.name[:80]}' too")
        elif above:
            line = rows[taken[above]].line
            found.append(f"line {row.line}, column name: '{above[:80]}' is a file of line {line}, and can be no folder, too")
    return found


class _Maker:
    """Makes items, and keeps what rows have in common: settings by preset, weights by model, and what was asked how often."""

    def __init__(
        self,
        options: Mapping[str, Any],
        negative: tuple[str, ...],
        seeds: Sequence[int] | None,
        loras: tuple[str, ...],
        watched: bool,
    ) -> None:
        self.options, self.negative, self.seeds, self.loras, self.watched = options, negative, seeds, loras, watched
        self.settings: dict[tuple[Any, Any], Settings] = {}
        self.models: dict[tuple[str, str | None, tuple[str, ...]], dict[str, Any]] = {}
        self.vocabularies: dict[str, frozenset[str] | None] = {}
        self.grids: dict[tuple[str, str | None], Any] = {}
        self.asked: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def items(self, number: int, row: Row) -> list[Item]:
        """The items of a row."""
        values = {**self.options, **row.settings}
        sweeps = {name: tuple(value) for name, value in values.items() if isinstance(value, ValueList)}
        settings = self._settings_of(values)
        negative = self.negative if row.negative is None else row.negative
        loras = self.loras if row.loras is None else row.loras
        seeds = self.seeds if row.seeds is None else row.seeds

        made: list[Item] = []
        choices = combinations(sweeps)
        several = len(choices) * len(seeds or (0,)) > 1
        if len(choices) * len(seeds or (0,)) > MAX_VALUES:
            raise RequestError(f"it asks for more than {MAX_VALUES} pictures: make fewer at once")
        for choice in choices:
            own = settings.overlaid({name: value for name, value in {**values, **choice}.items() if name not in _NEAR})
            request, _ = request_of(row.prompt, negative, 0, own, loras, settings.preset.video)
            self._check_words(request)
            if self.watched:
                check_capture(request)
            self._check_size(request)
            format = Outputs("", format=own["format"], formats=_formats(request)).file_format
            # An option is for those of a mixed table that take it; a cell means its own row.
            crf = own["crf"] if format in CRF_FORMATS or "crf" in row.settings else None
            check_crf(crf, format)
            check_fps(request.fps, format)
            added = f"-crf{crf}" if "crf" in sweeps else ""
            for seed in seeds or self._seeds(request):
                made.append(self._item(number, row, replace(request, seed=seed), (format, crf), several, added))
        return made

    def crf_unused(self, items: Sequence[Item]) -> bool:
        """Whether the command line has a constant rate factor that no item takes."""
        return self.options.get("crf") is not None and all(item.format not in CRF_FORMATS for item in items)

    def _check_size(self, request: Request) -> None:
        """Refuses a size that the model cannot make, where its configuration is here."""
        key = request.model, request.revision
        if key not in self.grids:
            self.grids[key] = grid_of(*key)
        if self.grids[key] is not None:
            check_size(request, *self.grids[key])

    def _check_words(self, request: Request) -> None:
        """Refuses a prompt that a model of few words cannot understand, and notes what a person should know."""
        if request.model not in self.vocabularies:
            self.vocabularies[request.model] = vocabulary_of(request.model)
        vocabulary, texts = self.vocabularies[request.model], [one.text for one in request.negatives]
        if vocabulary is not None:
            self.notes.update(check_vocabulary(request.prompt, texts, vocabulary, request.num_frames is not None))
        self.notes.update(hints(texts, METHODS[request.method].guides_attention))
        if request.negative and request.method == "none":
            self.notes.update(["the negative prompt is not used where the method is none"])

    def _settings_of(self, values: Mapping[str, Any]) -> Settings:
        key = values.get("preset"), values.get("model")
        if key not in self.settings:
            near = {name: values.get(name) for name in _NEAR}
            video = bool(near["preset"]) and load_preset(str(near["preset"])).video
            self.settings[key] = Settings({**near, "format": values.get("format")}, video=video)
        return self.settings[key]

    def _seeds(self, request: Request) -> list[int]:
        """A seed that depends on what is asked, and on how often it was asked before."""
        plain = _canonical(request, self._identity(request))
        occurrence = self.asked[_digest({**plain, "seed": None})]
        self.asked[_digest({**plain, "seed": None})] += 1
        kept = {key: value for key, value in plain.items() if key not in NOT_OF_THE_NOISE}
        return [int(_digest({**kept, "occurrence": occurrence})[:8], 16)]

    def _item(
        self, number: int, row: Row, request: Request, encoded: tuple[str, int | None], several: bool, added: str
    ) -> Item:
        model = self._identity(request)
        id = identity(request, model, encoded[1])
        ending = _formats(request)[encoded[0]][0]
        path = Path(row.name or slug(request.prompt))
        stem = path.stem if path.suffix.lower() in ENDINGS else path.name
        added += f"-{id[:12]}" if several or not row.name else ""
        short = stem.encode()[: NAME_BYTES - len(added)].decode(errors="ignore")
        return Item(id, request, number, str(path.with_name(f"{short}{added}{ending}")), model, *encoded)

    def _identity(self, request: Request) -> dict[str, Any]:
        key = request.model, request.revision, request.loras
        if key not in self.models:
            # Of the hub's models the revision that was asked for: which commit it is, is not known before it is there.
            here = source_of(request.model).folder is not None
            asked = weights_of(request) if here else {"revision": request.revision or "main", **hashes_of(request.loras)}
            self.models[key] = asked
        return self.models[key]


_NEAR = ("preset", "model")


def _formats(request: Request) -> Mapping[str, tuple[str, ...]]:
    return IMAGE_FORMATS if request.num_frames is None else VIDEO_FORMATS


def _canonical(request: Request, model: Mapping[str, Any]) -> dict[str, Any]:
    plain = request.to_json()
    return {**{key: value for key, value in plain.items() if key not in NOT_OF_THE_ID}, "weights": dict(model)}


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()).hexdigest()


def identity(request: Request, model: Mapping[str, Any], crf: int | None = None) -> str:
    """The id of a request: the same on every machine, wherever its row stands and whatever its file is called."""
    encoder = {} if crf is None else {"crf": crf}
    return _digest({**_canonical(request, model), **encoder})[:16]
