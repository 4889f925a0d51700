"""Builds the items of a table: an image or video each, with an id that depends only on its own request. Needs no torch."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from vsf_cli.batch.table import Row, TableErrors, key_of
from vsf_cli.config.names import counted
from vsf_cli.config.option import idle, options_of
from vsf_cli.config.ranges import MAX_VALUES, ValueList, combinations
from vsf_cli.errors import ModelError, RequestError, UnknownWords, VSFError
from vsf_cli.generation.capture import check_capture
from vsf_cli.generation.generate import DEFAULT_FPS, OWN_FIELDS
from vsf_cli.generation.limits import check_configured
from vsf_cli.generation.outputs import Outputs, slug
from vsf_cli.generation.plan import prompt_warnings, rate_note, request_of
from vsf_cli.generation.run import check_metadata_of, files_of, tried_of, weights_of
from vsf_cli.loading.configurations import configured_pipe
from vsf_cli.loading.sources import source_of, vocabulary_of
from vsf_cli.media.formats import CRF_FORMATS, FORMATS, IMAGE_FORMATS, VIDEO_FORMATS, check_crf, check_fps
from vsf_cli.methods import METHODS
from vsf_cli.models import FAMILIES
from vsf_cli.settings.effects import standing_without_effect, without_effect
from vsf_cli.settings.options import COLUMNS, NOTHING, FileOptions, Given
from vsf_cli.settings.presets import Settings, load_preset
from vsf_cli.settings.request import Request

__all__ = ["MAX_ITEMS", "Item", "identity", "items_of"]

_FILES = FileOptions()
MAX_ITEMS = 100_000
NOT_IN_SEED = ("parameters", *(one.field for one in options_of(Request) if not one.noise))
"""Fields that a derived seed does not depend on, so that a sweep compares images of the same noise."""
NOT_IN_ID = tuple(one.field for one in options_of(Request) if not one.identity)
"""Fields that are not in the id: a preset counts by its values, a revision by its weights."""
NAME_BYTES = 200
ENDINGS = {ending for entry in FORMATS.values() for ending in entry.endings} - {""}
OWN_FILES = re.compile(r"((manifest|verdicts)\b.*|index\.html|sheet-\d+\.png|.*\.json)(/|$)", re.IGNORECASE)
"""The names of a run's own files beside its images."""
MAX_NOTES = 10
MODEL_KEYS = ("preset", "model")
"""The options that choose a `Settings`; it can be overlaid with all others."""


@dataclass(frozen=True)
class Item:
    """An image or video of a batch.

    Arguments:
        id: 16 hexadecimal digits, by `identity`.
        request: The request.
        row: The index of its row in the table, from 0.
        name: The path of its file, relative to the folder of the run.
        model: Identifies the weights, as far as they are known before they are downloaded.
        format: The format of its file, a key of `FORMATS`.
        crf: The constant rate factor of a video; None means the format's default.
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
        """Its id and its name: rows with equal requests have equal ids, but may have different names."""
        return self.id, self.name

    @cached_property
    def load_key(self) -> str:
        """Items with equal keys run on the same loaded model."""
        return repr(sorted(self.request.loading.items()))

    @cached_property
    def pass_key(self) -> str:
        """Items with equal keys can be made in one pass through the model, as by `can_batch`."""
        request = self.request
        names = [entry.name for entry in fields(request) if entry.name not in OWN_FIELDS]
        return repr([getattr(request, name) for name in names])

    @property
    def middle(self) -> float:
        """The time of a video's middle frame, in seconds; a quarter of a frame early, so that rounding cannot miss it."""
        frames = (self.request.num_frames or 1) - self.request.drop_frames
        return (frames // 2 - 0.25) / (self.request.fps or DEFAULT_FPS) if frames > 1 else 0.0


def items_of(
    source: str,
    rows: Sequence[Row],
    options: Mapping[str, Any],
    given: Given = NOTHING,
    files: FileOptions = _FILES,
) -> tuple[list[Item], list[str]]:
    """Returns the items of a table, rows x sweeps x seeds, and warnings about them.

    Arguments:
        source: The name of the table, for errors.
        rows: Its rows.
        options: The settings of the command line, by name; those with several values are `ValueList`.
        given: The texts, seeds and LoRA files of rows without any; without seeds, one is derived from each request.
        files: What is written for each image.

    Raises:
        TableErrors: If rows have settings that are not legal; it lists all of them.
        ModelError: If there is no model or LoRA file as the command line, or each row, names it.
        RequestError: If there are too many items.
    """
    if (count := sum(_count(row, options, given) for row in rows)) > MAX_ITEMS:
        raise RequestError(
            f"{source} with its sweeps makes {count} images, but a run has {MAX_ITEMS} at most: make fewer at once"
        )
    builder = _ItemBuilder(options, given, files.dump_attn)
    notes = list(given.blank())
    if given.seeds == ():
        notes.append("--seed random has no effect: rows without a seed have one from their prompt")
    failures: list[tuple[Row, VSFError]] = []
    items: list[Item] = []
    for number, row in enumerate(rows):
        try:
            items += builder.items(number, row)
        except VSFError as error:
            if isinstance(error, ModelError) and row.loras is None and not row.settings.keys() & {*MODEL_KEYS}:
                raise  # It is the same for all rows.
            failures.append((row, error))
    _raise_failures(source, failures, _name_clashes(items, rows, files.keep_all))
    for reason in [*builder.effects.reasons(), *_unused(files, items)]:
        raise RequestError(f"{source}: {reason}")
    notes += builder.effects.overridden()
    notes += [f"{note} ({counted(count, 'image')})" for note, count in builder.notes.most_common(MAX_NOTES)]
    return items, notes


def _unused(files: FileOptions, items: Sequence[Item]) -> list[str]:
    """Returns messages for what is to be written for each image, but for none of these."""
    return [message for _, message in idle(files.given, *(item.request for item in items))] if items else []


def _raise_failures(source: str, failures: Sequence[tuple[Row, VSFError]], clashes: Sequence[str]) -> None:
    """Raises one error for all rows that failed and names that clash: a model's, if there is no other."""
    lines = [*_grouped(failures), *clashes]
    if len(lines) == 1 and failures and all(isinstance(error, ModelError) for _, error in failures):
        raise ModelError(f"{source}, {lines[0]}")
    if lines:
        advice = next((error.advice for _, error in failures if isinstance(error, UnknownWords)), "")
        raise TableErrors(source, list(dict.fromkeys(lines)), advice)


def _grouped(failures: Sequence[tuple[Row, VSFError]]) -> list[str]:
    """Returns a line for each error; one for all rows with the same error."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for row, error in failures:
        column, message = ("", error.text) if isinstance(error, UnknownWords) else (_column_of(row, str(error)), str(error))
        numbers.setdefault((column, message), []).append(row.line)
    lines = []
    for (column, message), (first, *others) in numbers.items():
        lines.append(f"line {first}{column}{f', and {len(others)} more lines' if others else ''}: {message}")
    return lines


def _count(row: Row, options: Mapping[str, Any], given: Given) -> int:
    """Returns how many items a row makes, without building them."""
    sweeps = (len(value) for value in {**options, **row.settings}.values() if isinstance(value, ValueList))
    seeds = given.seeds if row.seeds is None else row.seeds
    return math.prod(sweeps) * len(seeds or (0,))


def _column_of(row: Row, message: str) -> str:
    """Returns the column of an error as text, if the first word of its message is a column."""
    words = message.replace("--", "").split()
    option = key_of(words[0]) if words else ""
    options = (option, "size") if option in ("width", "height") else (option,)
    columns = [name for name in row.cells if option and key_of(name) in options]
    return f", column {columns[0]}" if columns else ""


def _name_clashes(items: Sequence[Item], rows: Sequence[Row], strips: bool) -> list[str]:
    """Returns errors of rows whose name is that of another row, of its folder, or of a file of the run itself.

    `strips` is whether a strip is written beside each file that a judge chooses.
    """
    taken = {item.name: item.row for item in items}
    beside = {str(tried_of(Path(item.name))): item.row for item in items if strips and item.request.chooses}
    errors = []
    for item in items:
        row, name = rows[item.row], item.name
        if row.name is None:
            continue
        above = next((str(part) for part in Path(name).parents if str(part) in taken), None)
        if OWN_FILES.match(name):
            errors.append(f"line {row.line}, column name: '{name[:80]}' is a file of the run itself: choose another name")
        elif name in beside:
            line = rows[beside[name]].line
            errors.append(f"line {row.line}, column name: '{name[:80]}' is the strip of line {line}: choose another name")
        elif taken[name] != item.row:
            errors.append(f"line {rows[taken[name]].line}, column name: line {row.line} has the name '{row.name[:80]}' too")
        elif above:
            line = rows[taken[above]].line
            errors.append(f"line {row.line}, column name: '{above[:80]}' is a file of line {line}, and can be no folder, too")
    return errors


class _Effects:
    """Which of the options that were given for a whole table have an effect on a row, and why the others have none."""

    def __init__(self, given: Given) -> None:
        texts = {"negative": given.negative, "keep": given.keep, "seed": given.seeds, "lora": given.loras}
        self._texts = [key for key, value in texts.items() if value is not None]
        self._keys = [*self._texts, *(key for key in given.settings if key in COLUMNS)]
        self._several = [*given.sweeps, *(["seed"] if len(given.seeds or ()) > 1 else [])]
        self._reasons: dict[str, str] = {}
        self._acting: set[str] = set()
        self._own: dict[str, set[int]] = {}

    def add(self, row: Row, idle: Mapping[str, str]) -> None:
        """Notes a row, and the options without an effect on it, each with the reason."""
        # Words of the command line may have been replaced for the row.
        cells = {key_of(name) for name, cell in row.cells.items() if cell.strip()}
        texts = {"negative": row.negative, "keep": row.keep, "seed": row.seeds, "lora": row.loras}
        own = {*row.settings, *(key for key, value in texts.items() if value is not None and key in cells)}
        for key in self._keys:
            if key in own:
                self._own.setdefault(key, set()).add(row.line)
                self._reasons.setdefault(key, f"{COLUMNS[key].flag} has no effect where each row has its own: leave it out")
            elif key in idle:
                self._reasons[key] = idle[key]
            else:
                self._acting.add(key)

    def overridden(self) -> list[str]:
        """Returns a message for each option with several values that does not count for some rows."""
        counts = {key: len(self._own[key]) for key in self._several if key in self._own}
        return [
            f"{COLUMNS[key].flag} does not count for {counted(n, 'row')} with a value of its own" for key, n in counts.items()
        ]

    def reasons(self) -> list[str]:
        """Returns a message for each option without an effect on any row."""
        return [reason for key, reason in self._reasons.items() if key not in self._acting]


class _ItemBuilder:
    """Builds items, and caches what rows share: settings by preset, weights by model, and how often a request occurred."""

    def __init__(self, options: Mapping[str, Any], given: Given, dump_attn: bool) -> None:
        self.options, self.given, self.dump_attn = options, given, dump_attn
        self.effects = _Effects(given)
        self.settings: dict[tuple[Any, Any], Settings] = {}
        self.models: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.vocabulary_of, self.pipe_of = cache(vocabulary_of), cache(configured_pipe)
        self.occurrences: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def items(self, number: int, row: Row) -> list[Item]:
        """Returns the items of a row.

        Raises:
            VSFError: If a setting is not legal.
        """
        self.notes.update(row.notes)
        values = {**self.options, **row.settings}
        sweeps = {name: tuple(value) for name, value in values.items() if isinstance(value, ValueList)}
        settings = self._settings_of(values)
        seeds = (self.given.seeds or None) if row.seeds is None else row.seeds
        count = _count(row, self.options, self.given)
        if count > MAX_VALUES:
            raise RequestError(f"it asks for {count} images, but a row makes {MAX_VALUES} at most: make fewer at once")
        choices = combinations(sweeps)
        items: list[Item] = []
        for choice in choices:
            own = settings.overlaid({key: value for key, value in {**values, **choice}.items() if key not in MODEL_KEYS})
            request = self._request(row, own, settings.preset.video)
            encoded = _encoding(row, own, request)
            idle = without_effect(own.given("option"), request, settings.preset)
            if encoded[0] not in CRF_FORMATS and own.origin("crf").origin == "option":
                idle["crf"] = f"--crf is for {' and '.join(CRF_FORMATS)}, but the format is {encoded[0]}: leave it out"
            self.effects.add(row, idle)
            self.notes.update([*idle.values(), *standing_without_effect(own, request), *rate_note(encoded[0], own)])
            added = f"-crf{encoded[1]}" if "crf" in sweeps else ""
            check_metadata_of(request, encoded[0])
            for seed in seeds or self._seeds(request):
                items.append(self._item(number, row, replace(request, seed=seed), encoded, count > 1, added))
        return items

    def _request(self, row: Row, settings: Settings, video: bool) -> Request:
        """Returns the request of a row without its seed, after checks that need no model."""
        loras = (self.given.loras or ()) if row.loras is None else row.loras
        request, notes = request_of(row.texts(self.given), 0, settings, loras, video)
        self.notes.update(notes)
        self.notes.update(prompt_warnings(request, self.vocabulary_of(request.model)))
        if request.negative and request.method == "none":
            self.notes.update(["the negative prompt is not used where the method is none"])
        if self.dump_attn:
            check_capture(request, family=FAMILIES[settings.preset.family])
        if (pipe := self.pipe_of(request.model, request.revision)) is not None:
            check_configured(request, FAMILIES[settings.preset.family], pipe)
        return request

    def _settings_of(self, values: Mapping[str, Any]) -> Settings:
        key = values.get("preset"), values.get("model")
        if key not in self.settings:
            options = {name: values.get(name) for name in MODEL_KEYS}
            video = bool(options["preset"]) and load_preset(str(options["preset"])).video
            settings = self.settings[key] = Settings(options, video=video)
            self.notes.update([settings.conflict] if settings.conflict else [])
        return self.settings[key]

    def _seeds(self, request: Request) -> list[int]:
        """Returns a seed that depends on the request, and on how often the same one occurred before."""
        plain = _canonical(request, self._identity(request))
        seedless = _digest({**plain, "seed": None})
        of_noise = {key: value for key, value in plain.items() if key not in NOT_IN_SEED}
        digest = _digest({**of_noise, "occurrence": self.occurrences[seedless]})
        self.occurrences[seedless] += 1
        return [int(digest[:8], 16)]

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
        key = request.model, request.revision, request.loras, request.image, request.mask
        if key not in self.models:
            # A model of the hub is identified by its revision: its commit is not known before it is downloaded.
            local = source_of(request.model).folder is not None
            hub = {"revision": request.revision or "main"}
            self.models[key] = weights_of(request) if local else {**hub, **files_of(request)}
        return self.models[key]


def _encoding(row: Row, settings: Settings, request: Request) -> tuple[str, int | None]:
    """Returns the file format of a request, and its constant rate factor."""
    format = Outputs("", format=settings["format"], formats=_formats(request)).file_format
    # An option applies to the items that can use it; a cell has to fit its own row.
    crf = settings["crf"] if format in CRF_FORMATS or "crf" in row.settings else None
    check_crf(crf, format)
    check_fps(request.fps, format)
    return format, crf


def _formats(request: Request) -> Mapping[str, tuple[str, ...]]:
    return IMAGE_FORMATS if request.num_frames is None else VIDEO_FORMATS


def _without_newer(request: Request) -> dict[str, Any]:
    """Returns a request's plain values; options that are newer than version 0.1 only where they are not the default."""
    plain = request.to_json()
    for values, options in ((plain, options_of(Request)), (plain["parameters"], METHODS[request.method].options())):
        for one in options:
            unset = one.default, list(one.default) if one.repeatable else None
            if one.newer and values.get(one.field) in unset:
                values.pop(one.field, None)
    return plain


def _canonical(request: Request, model: Mapping[str, Any]) -> dict[str, Any]:
    plain = _without_newer(request)
    return {**{key: value for key, value in plain.items() if key not in NOT_IN_ID}, "weights": dict(model)}


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()).hexdigest()


def identity(request: Request, model: Mapping[str, Any], crf: int | None = None) -> str:
    """Returns the id of a request: the same on every machine, in every row, and for every file name."""
    return _digest({**_canonical(request, model), **({} if crf is None else {"crf": crf})})[:16]
