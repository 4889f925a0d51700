"""From a table to items: a picture or clip each, with an id that its own request decides. Made without torch."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vsf_cli.attn_map import check_watchable
from vsf_cli.batch.table import Row, TableErrors, usual_name
from vsf_cli.clip_files import CLIP_FORMATS
from vsf_cli.errors import RequestError, VSFError
from vsf_cli.generate import Request
from vsf_cli.media import FORMATS
from vsf_cli.methods import METHODS
from vsf_cli.outputs import Outputs, slug
from vsf_cli.pipelines import identify, source_of, vocabulary_of
from vsf_cli.planning import request_of
from vsf_cli.presets import Settings, load_preset
from vsf_cli.ranges import MOST_NUMBERS, Numbers, combinations
from vsf_cli.words import check_vocabulary, hints

__all__ = ["Item", "Shard", "identity", "items_of"]

MOST_ITEMS = 1_000_000
NOT_OF_THE_NOISE = ("method", "parameters", "guidance_scale", "seed")
"""What the seed of a row without one does not depend on, so that a sweep compares pictures of the same noise."""
NAME_BYTES = 200
MOST_NOTES = 10


@dataclass(frozen=True)
class Item:
    """A picture, or a clip, of a batch.

    Arguments:
        id: 16 hexadecimal digits of the hash of its request and its model's weights.
        request: What is asked.
        row: The number of its row in the table, from 0.
        name: Its file's name, relative to the folder of the run.
        model: What says which weights it is made with, by `vsf_cli.pipelines.identify`.
    """

    id: str
    request: Request
    row: int
    name: str
    model: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others of a run: its id, and its name, since rows that ask for the same may have several."""
        return self.id, self.name

    @cached_property
    def load_key(self) -> str:
        """Items that have it in common run on the same loaded model."""
        return repr(sorted(self.request.loading.items()))


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
                first = int(variables.get("SLURM_ARRAY_TASK_MIN", "1"))
                return cls(int(variables["SLURM_ARRAY_TASK_ID"]) - first + 1, int(variables["SLURM_ARRAY_TASK_COUNT"]))
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
        options: The settings of the command line, by name; those with several values are `Numbers`.
        negative: What is not wanted in rows that do not say it.
        seeds: The seeds of rows without; None draws one from what the row asks for.
        loras: The LoRA files of rows without.
        watched: Whether each is to have attention maps.

    Raises:
        TableErrors: If a row asks for something that is not legal; all such rows are said.
        RequestError: If there are too many items.
    """
    maker = _Maker(options, tuple(negative), seeds, tuple(loras), watched)
    errors: list[str] = []
    items: list[Item] = []
    lines: dict[str, int] = {}
    for number, row in enumerate(rows):
        try:
            made = maker.items(number, row)
        except VSFError as error:
            errors.append(f"line {row.line}{_column_of(row, str(error))}: {error}")
            continue
        for item in made:
            if item.name in lines and row.name:
                errors.append(f"line {row.line}, column name: line {lines[item.name]} has the name '{row.name}' too")
            lines[item.name] = row.line
        items += made
        if len(items) > MOST_ITEMS:
            raise RequestError(f"{place} with its sweeps makes more than {MOST_ITEMS} pictures: make fewer at once")
    if errors:
        raise TableErrors(place, list(dict.fromkeys(errors)))
    return items, [f"{note} ({count} pictures)" for note, count in maker.notes.most_common(MOST_NOTES)]


def _column_of(row: Row, message: str) -> str:
    """The column that an error speaks of, if its first word names one."""
    words = message.replace("--", "").split()
    wanted = usual_name(words[0]) if words else ""
    named = [name for name in row.cells if wanted and usual_name(name) == wanted]
    return f", column {named[0]}" if named else ""


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
        self.models: dict[tuple[str, str | None], dict[str, str]] = {}
        self.vocabularies: dict[str, frozenset[str] | None] = {}
        self.asked: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def items(self, number: int, row: Row) -> list[Item]:
        """The items of a row."""
        values = {**self.options, **row.settings}
        sweeps = {name: tuple(value) for name, value in values.items() if isinstance(value, Numbers)}
        settings = self._settings_of(values)
        negative = self.negative if row.negative is None else row.negative
        loras = self.loras if row.loras is None else row.loras
        seeds = self.seeds if row.seeds is None else row.seeds

        made: list[Item] = []
        choices = combinations(sweeps)
        several = len(choices) * len(seeds or (0,)) > 1
        if len(choices) * len(seeds or (0,)) > MOST_NUMBERS:
            raise RequestError(f"it asks for more than {MOST_NUMBERS} pictures: make fewer at once")
        for choice in choices:
            own = settings.overlaid({name: value for name, value in {**values, **choice}.items() if name not in _NEAR})
            request, _ = request_of(row.prompt, negative, 0, own, loras, settings.preset.video)
            self._check_words(request)
            if self.watched:
                check_watchable(request)
            outputs = Outputs("", format=own["format"], formats=CLIP_FORMATS if settings.preset.video else FORMATS)
            for seed in self._seeds(request) if seeds is None else seeds:
                made.append(self._item(number, row, replace(request, seed=seed), outputs, several))
        return made

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

    def _item(self, number: int, row: Row, request: Request, outputs: Outputs, several: bool) -> Item:
        model = self._identity(request)
        id = identity(request, model)
        ending = outputs.formats[outputs.file_format][0]
        stem = row.name.removesuffix(ending) if row.name else slug(request.prompt)
        added = f"-{id[:12]}" if several or not row.name else ""
        path = Path(stem)
        short = path.name.encode()[: NAME_BYTES - len(added)].decode(errors="ignore")
        return Item(id, request, number, str(path.with_name(f"{short}{added}{ending}")), model)

    def _identity(self, request: Request) -> dict[str, str]:
        key = request.model, request.revision
        if key not in self.models:
            source = source_of(request.model)
            # Of the hub's models the revision that was asked for: which commit it is, is not known before it is there.
            self.models[key] = identify(source, None) if source.folder else {"revision": request.revision or "main"}
        return self.models[key]


_NEAR = ("preset", "model")


def _canonical(request: Request, model: Mapping[str, str]) -> dict[str, Any]:
    plain = request.to_json()
    # The name of a preset decides nothing: its values do.
    return {**{key: value for key, value in plain.items() if key not in ("preset", "revision")}, "weights": dict(model)}


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()).hexdigest()


def identity(request: Request, model: Mapping[str, str]) -> str:
    """The id of a request: the same on every machine, wherever its row stands and whatever its file is called."""
    return _digest(_canonical(request, model))[:16]
