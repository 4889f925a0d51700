"""A fuzz of what people write and what files hold: `python -m tests.fuzz --count 1000 --seed 1`, by hand.

It demands that each command ends with one of our exit codes and without a traceback, that an error is said on lines of their
own, that nothing is written beside what was asked for, and that nothing which was given is without effect in silence. A
generator of `GENERATORS` makes a case from its own random numbers, so that a case is made again by its name and seed:
`--only table --seed 1 --first 17 --count 1`.
"""

import argparse
import codecs
import contextlib
import csv
import io
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.environment import isolate

if __name__ == "__main__":
    isolate()

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner, Result

from vsf_cli.batch.table import key_of, read_table, unused_columns
from vsf_cli.cli.app import app
from vsf_cli.config.option import Option
from vsf_cli.errors import VSFError
from vsf_cli.generation.generate import Request
from vsf_cli.media.formats import encode_image, encode_video
from vsf_cli.media.images import EXIF_IFD, IMAGE_DESCRIPTION, USER_COMMENT
from vsf_cli.media.metadata import describe
from vsf_cli.prompts.prompt_weights import move_negatives, parse_weights
from vsf_cli.settings.options import OF_REQUEST, SETTINGS

__all__ = ["GENERATORS", "Case", "problem_of"]

CODES = {0, 1, 2, 3, 4, 5, 6}
TEXT = "aé自😀 \"'\\,;:\t\n\r[](){}<>|=+-_.0123456789%@#$\u200b\u2028\x1b\x00"
"""Letters of which some mean something to a format or a grammar."""


@dataclass(frozen=True)
class Case:
    """A command with its files written, and what it must say or do.

    Arguments:
        arguments: The command line.
        silence: Returns what was given and had no effect without a word, from the result; None if nothing.
    """

    arguments: Sequence[str]
    silence: Callable[[Result], str | None] = lambda _: None


def text_of(rng: Random, longest: int = 12) -> str:
    """Returns a text of odd letters, or of words."""
    words = ["a red car", "wheels", "Wheels", "on a road", "car", "über", "{prompt}", "-1", "1e5", "../x", "null", "nan", "a,b"]
    return rng.choice(words) if rng.random() < 0.5 else "".join(rng.choices(TEXT, k=rng.randrange(longest)))


# Tables

COLUMNS = {
    "prompt": ["a red car", "a tree on sand", "A Red Car", "a red (car:1)", "a bike --no wheels", "a bike ((wheels:-1))"],
    "negative": ["wheels", "", "wheels:2", "(wheels:2)(door:3)", "[wheels]"],
    "negativePrompt": ["wheels", ""],
    "alpha": ["2", "2,5", "1..3/3", "", "2.5", "2, 5"],
    "Seed": ["1", "3.0", "-1", "-1.0", "1..3", "", "3,0", "random"],
    "steps": ["2", "4.0", "8,0", "", "2,3"],
    "cfgScale": ["0", "", "0,5", "1.0"],
    "format": ["png", "jpeg", "webp", ""],
    "name": ["", "a/b", "", "é" * 90, "con", "a.png"],
    "width,height": ["32,32", ",", "64.0,32"],
    "method": ["vsf", "none", ""],
    "category": ["x", "", "y"],
    "": ["", "", "", "z"],
    "start": ["0", "0.1", "0,25", ""],
}
"""Columns with cells that are legal in most tables."""
BAD = [
    "x",
    "#N/A",
    "1e400",
    "-1",
    "inf",
    "1.23457E+12",
    "99999999999999999999",
    "../a",
    "",
    "33",
    "many",
    "0",
    ".",
    "\0",
    "nope",
]


def table(rng: Random, folder: Path) -> Case:
    drawn = rng.sample(list(COLUMNS)[1:], rng.randint(0, 5))
    if rng.random() < 0.95:
        drawn.insert(rng.randrange(len(drawn) + 1), "prompt")
    names = [name for column in drawn for name in column.split(",")]
    rows = [[cell for column in drawn for cell in _cells(rng, column)] for _ in range(3)]
    if names and rng.random() < 0.3:
        rng.choice(rows)[rng.randrange(len(names))] = rng.choice([*BAD, text_of(rng)])
    ending = rng.choice([*[".csv"] * 4, ".tsv", ".tsv", ".json", ".jsonl", ".toml", ".txt", ".xlsx", ""])
    path = folder / f"t{ending}"
    path.write_bytes(_encoded_table(rng, ending, names, rows))
    return Case(["batch", str(path), "--dry-run"], lambda result: _table_silence(path, result))


def _cells(rng: Random, column: str) -> list[str]:
    cell = rng.choice(COLUMNS[column])
    return cell.split(",") if "," in column else [cell]


def _encoded_table(rng: Random, ending: str, names: list[str], rows: list[list[str]]) -> bytes:
    records = [{name: cell for name, cell in zip(names, row, strict=True) if name} for row in rows]
    if ending == ".json":
        text = json.dumps(records, indent=rng.choice([None, 1]))
    elif ending == ".jsonl":
        text = "\n".join(map(json.dumps, records))
    elif ending == ".toml":
        text = "".join(
            "[[rows]]\n" + "".join(f"{key} = {json.dumps(cell)}\n" for key, cell in record.items()) for record in records
        )
    elif ending == ".txt" and rng.random() < 0.5:
        text = "\n".join(cell for row in rows for cell in row)
    else:
        delimiter = "\t" if ending == ".tsv" else rng.choice(",;\t")
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n", "\r"])).writerows([names, *rows])
        text = rng.choice(["", "", f"sep={delimiter}\n"]) + buffer.getvalue()
    if rng.random() < 0.1:
        text = text[: rng.randrange(len(text) + 1)] + rng.choice(TEXT) + text[rng.randrange(len(text) + 1) :]
    data = text.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]), "replace")
    return b"PK\x03\x04" + data if ending == ".xlsx" else data


def _table_silence(path: Path, result: Result) -> str | None:
    """Each cell is a value of its row, or one of a column that is named as unused."""
    if result.exit_code:
        return None if result.stderr.startswith("error: ") else "it failed without an error"
    from vsf_cli.batch.records import decode_table

    rows = read_table(path, decode_table(str(path), path.read_bytes()))
    unused = [name for name in unused_columns(rows) if name not in result.stderr]
    if unused:
        return f"columns {unused} are not said to be without effect"
    for row in rows:
        own = {"prompt": row.prompt, "negative": row.negative, "seed": row.seeds, "name": row.name, **row.settings}
        own |= {"width": row.settings.get("size"), "height": row.settings.get("size")}
        for name, cell in row.cells.items():
            if cell.strip() and key_of(name) and own.get(key_of(name)) is None:
                return f"line {row.line}: '{name}' is {cell!r}, and has no effect"
    return None


# Prompts

OF_OTHERS = [
    *(
        "[red]",
        "((red))",
        "<lora:x:0.8>",
        "{red|blue}",
        "[red:blue:0.5]",
        "__color__",
        "red++",
        "--ar 16:9",
        "red BREAK a",
    ),
    *("red::2", "embedding:x", "(red:1,5)", "(red)1.3", "{{red}}", "a AND red", "--no"),
]
OURS = ["(wheels:-1)", "((wheels:-1.5))", "--no wheels", "(wheels:-2)(door:-1)"]
PLAIN = ["red", "a (red) car", "16:9", "red, blue", "red - blue", "it's", r"\(red:2\)", "12:30"]


def prompt(rng: Random, folder: Path) -> Case:
    parts = [rng.choice([*PLAIN, *OURS, *OF_OTHERS, "(red:1.5)"]) for _ in range(rng.randint(1, 3))]
    words = rng.choice([" ", ", ", "\n"]).join(["a car", *parts])
    negative = rng.choice(["wheels", "wheels:2", "(wheels:2)(door:3)", *OF_OTHERS])

    def silence(result: Result) -> str | None:
        if result.exit_code:
            return None
        for part in parts:
            # What stands at the end of `--no` belongs to it.
            if part not in (*PLAIN, *OURS) and part in move_negatives(words)[0] and "reads as plain text" not in result.stderr:
                return f"{part!r} reaches the model in {words!r}"
        if negative in OF_OTHERS and "negative has" not in result.stderr:
            return f"{negative!r} reaches the model as a negative"
        made = json.loads(result.stdout.splitlines()[-1])
        moved = sum(part in OURS for part in parts)
        return None if len(made["negative"]) > (moved > 0) else f"a negative of {words!r} is lost"

    return Case(["image", words, "--neg", negative, "-m", "owner/name", "--dry-run", "--json"], silence)


def weights(rng: Random, folder: Path) -> Case:
    """Any text at all, in both prompts."""
    letters = "ab (:)[]{}<>|-+_.,\\1\n" if rng.random() < 0.7 else TEXT
    words, negative = ("".join(rng.choices(letters, k=rng.randrange(1, 20))) for _ in range(2))

    def silence(_: Result) -> str | None:
        try:
            found = parse_weights(negative)
        except VSFError:
            return None
        spans = all(0 <= start < end <= len(found.text) for start, end, _ in found.parts)
        letters_of = [re.sub(r"[^ab]", "", text) for text in (negative, found.text)]
        return None if spans and letters_of[0] == letters_of[1] else f"letters of {negative!r} are lost"

    # A text that begins with a dash is an option, and one with @ a file.
    return Case(["image", f"a {words}", "--neg", f"a {negative}", "-m", "owner/name", "--dry-run"], silence)


# Sidecars, and metadata of files

ODD_VALUES: list[Any] = [
    *(None, True, 0, -1, 2**70, 1.5, "", "x", "inf", "NaN", [], [["a"]], ["a"], [1], {}, {"a": 1}, "../x", "\ud800", "a" * 300),
]


@cache
def description(video: bool = False) -> dict[str, Any]:
    sizes = {"num_frames": 9, "fps": 8} if video else {}
    model = "builtin:tiny-wan" if video else "builtin:tiny-sd3-turbo"
    request = Request("a red car", model, 1, ("wheels",), num_inference_steps=2, width=32, height=32, **sizes)
    encoded = {"format": "mp4", "crf": 20} if video else {"format": "png"}
    return json.loads(json.dumps(describe(request.to_json(), size=(32, 32), device="cpu", model_hash="0" * 64, **encoded)))


def sidecar(rng: Random, folder: Path) -> Case:
    plain = json.loads(json.dumps(description(rng.random() < 0.3)))
    inside = rng.random() < 0.7
    target = plain["request"] if inside else plain
    if inside and rng.random() < 0.3:
        target = target["parameters"]
    key = rng.choice([*target, "unheard-of", "lora_hashes", "image_sha256", "compiled", "compared"])
    value = rng.choice(ODD_VALUES)
    target[key] = value
    path, command = folder / rng.choice(["x.json", "x.png.json", "x.JSON"]), rng.choice(["again", "again", "info"])
    data = json.dumps(plain).encode()
    path.write_bytes(data if rng.random() < 0.9 else _damaged(rng, data))

    def silence(result: Result) -> str | None:
        if result.exit_code or target is not plain["request"] or command == "info":
            return None
        made = json.loads(result.stdout.splitlines()[-1]).get(key)
        same = made == value or (value in ("", None) or key in ("loras", "model", "image", "mask"))
        return None if same else f"{key} is {value!r} in the file, but {made!r} is made"

    return Case([command, str(path), *(["--dry-run", "--json"] if command == "again" else [])], silence)


def _damaged(rng: Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.randrange(8)
    return data[:start] + rng.randbytes(rng.randrange(8)) + data[start + length :]


@cache
def _own_file(ending: str) -> bytes:
    image = Image.new("RGB", (32, 32), "red")
    if ending in ("mp4", "gif"):
        return encode_video([image] * 2, 8, ending, description(True))
    return encode_image(image, {"jpg": "jpeg"}.get(ending, ending), description())


def own_file(rng: Random, folder: Path) -> Case:
    """A file of ours, whole or damaged, maybe under another name."""
    ending = rng.choice(["png", "png", "jpg", "webp", "gif", "mp4"])
    whole = rng.random() < 0.3
    path = folder / f"x.{ending if rng.random() < 0.8 else rng.choice(['png', 'mp4', 'json', 'txt'])}"
    path.write_bytes(_own_file(ending) if whole else _damaged(rng, _own_file(ending)))
    said = whole and path.suffix == f".{ending}"
    return Case(
        ["info", str(path)], lambda result: "its metadata is not read" if said and "a red car" not in result.stdout else None
    )


def foreign_file(rng: Random, folder: Path) -> Case:
    """A file of another program: its prompt is found, or at least the program is named."""
    words = rng.choice(["a red car", "ein Gefährt", "自転車 on a road", "😀 car"])
    infotext = f"{words}\nNegative prompt: wheels\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 32x32"
    graph = {"1": {"inputs": {"text": words}}, "3": {"inputs": {"seed": 1, "positive": ["1", 0], "negative": ["1", 0]}}}
    path = folder / f"x.{rng.choice(['png', 'jpg', 'webp', 'avif'])}"
    image = Image.new("RGB", (32, 32))
    if path.suffix == ".png":
        tags = [
            ("parameters", infotext),
            ("prompt", json.dumps(graph)),
            ("invokeai_metadata", json.dumps({"positive_prompt": words})),
        ]
        key, value = rng.choice(tags)
        info = PngInfo()
        info.add_itxt(key, value) if rng.random() < 0.5 else info.add(b"tEXt", f"{key}\0{value}".encode())
        image.save(path, pnginfo=info)
    else:
        exif = Image.Exif()
        encoded = rng.choice(
            [
                *(b"UNICODE\0" + infotext.encode("utf-16-be"), b"UNICODE\0" + infotext.encode("utf-16-le"), infotext.encode()),
                *(b"ASCII\0\0\0" + codecs.BOM_UTF8 + infotext.encode(), bytes(8) + infotext.encode("utf-16")),
            ]
        )
        exif[IMAGE_DESCRIPTION] = rng.choice(["my car", f"Prompt: {json.dumps(graph)}"])
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = encoded
        image.save(path, exif=exif)
    command = rng.choice(["info", "info", "again"])

    def silence(result: Result) -> str | None:
        return (
            "the program is not named"
            if "was made by" not in result.stderr
            else (f"{words!r} is not found" if command == "info" and words not in result.stdout else None)
        )

    return Case([command, str(path)], silence)


def foreign_tags(rng: Random, folder: Path) -> Case:
    """Tags of other programs that are not as they should be."""
    keys = ["parameters", "prompt", "workflow", "invokeai_metadata", "sd-metadata", "Comment", "vsf", "Software", "Description"]
    odd = [text_of(rng, 40), json.dumps(rng.choice(ODD_VALUES)), json.dumps({rng.choice(keys): rng.choice(ODD_VALUES)})]
    odd += [json.dumps({"3": {"inputs": {"positive": rng.choice(ODD_VALUES), "seed": rng.choice(ODD_VALUES)}}}), "[" * 5000]
    info = PngInfo()
    for key in rng.sample(keys, rng.randint(1, 3)):
        info.add_itxt(key, rng.choice(odd).replace("\0", "").encode("utf-8", "replace").decode())
    path = folder / "x.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return Case([rng.choice(["info", "again"]), str(path)])


# Presets and LoRA files

PRESET_VALUES = [
    "8",
    "8.0",
    '"vsf"',
    '"8"',
    "true",
    "[1, 0.5]",
    "[]",
    '["a"]',
    "nan",
    "inf",
    "-1",
    "{}",
    "1979-05-27",
    "0",
    '""',
    "2000000",
]
PRESET_KEYS = {
    "num_inference_steps": "4",
    "guidance_scale": "0",
    "flow_shift": "8",
    "width": "96",
    "height": "96",
    "sigmas": "[1, 0.5]",
    "dtype": '"float32"',
    "scheduler": '"UniPCMultistepScheduler"',
    "license": '"x"',
    "vae_tiling": "true",
    "revision": '"a"',
    "max_sequence_length": "20",
    "pipeline": '""',
    "loras": "[]",
    "fps": "8",
    "num_frames": "9",
    "variant": '"fp16"',
    "method": '{name = "nag"}',
    "stepz": "3",
    "vae_dtype": '"float32"',
}
METHOD_KEYS = {"name": '"vsf"', "alpha": "3", "beta": "0.5", "stop": "1", "guided_blocks": '"1..3"', "scale": "3"}


def _toml(rng: Random, keys: Mapping[str, str], count: int) -> dict[str, str]:
    return {key: keys[key] if rng.random() < 0.7 else rng.choice(PRESET_VALUES) for key in rng.sample(list(keys), count)}


def preset(rng: Random, folder: Path) -> Case:
    lines = {"family": '"sd3"', "model": '"builtin:tiny-sd3-turbo"'}
    lines |= _toml(rng, PRESET_KEYS, rng.randint(0, 3))
    if rng.random() < 0.1:
        lines[rng.choice(["family", "model", "name"])] = rng.choice(PRESET_VALUES)
    method = _toml(rng, METHOD_KEYS, 2)
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    if "method" not in lines and rng.random() < 0.5:
        text += "[method]\n" + "".join(f"{key} = {value}\n" for key, value in method.items())
    path = folder / "mine.toml"
    path.write_bytes(text.encode() if rng.random() < 0.9 else _damaged(rng, text.encode()))
    show = ["presets", "show", str(path)]
    return Case(rng.choice([show, ["image", "a red car", "--neg", "wheels", "--preset", str(path), "--dry-run"]]))


def lora(rng: Random, folder: Path) -> Case:
    """A LoRA file with a header of any kind: it is loaded, or refused on one line. No command loads it without its model."""
    layer = rng.choice(
        ["transformer.transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_q", "lora_unet_x", "", "a.b"]
    )
    ends = ["lora_A.weight", "lora_B.weight", "lora_down.weight", "alpha", "diff", "diff_b", "dora_scale", "x"]
    header: dict[str, Any] = {}
    end = 0
    for part in rng.sample(ends, rng.randint(0, 3)):
        shape = rng.choice([[4, 32], [32, 4], [1], [], [0, 4], [32]])
        size = 4
        for side in shape:
            size *= side
        header[f"{layer}.{part}"] = {
            "dtype": rng.choice(["F32", "F32", "F32", "X9"]),
            "shape": shape,
            "data_offsets": [end, end + size],
        }
        end += size
    if rng.random() < 0.3:
        adapter = rng.choice(["{}", "[]", "3", "nonsense", '{"r": "x"}', '{"transformer.r": 4}', "[" * 2000])
        header["__metadata__"] = {"lora_adapter_metadata": adapter}
    raw = json.dumps(header).encode()
    data = len(raw).to_bytes(8, "little") + raw + bytes(end)
    path = folder / "few.safetensors"
    path.write_bytes(data if rng.random() < 0.8 else _damaged(rng, data))

    def silence(_: Result) -> str | None:
        from vsf_cli.loading.loras import Lora, load_lora

        pipe = _pipeline()
        try:
            load_lora(pipe, Lora.parse(str(path)), "x", True)
        except VSFError as error:
            return "its error has several lines" if "\n" in str(error) else None
        finally:
            pipe.unload_lora_weights()
        return None if any(not key.startswith("__") for key in header) else "nothing was loaded, and nothing said"

    return Case(["image", "a red car", "--lora", str(path), "--dry-run"], silence)


@cache
def _pipeline() -> Any:
    from tests.conftest import random_pipeline

    return random_pipeline("sd3")


# Options and the environment

TEXTS = ["", "x", "-1", "0", "1e400", "nan", "inf", "2,3", "1..3", "0.5", "8", "32x32", "true", "no", "../x", "é", "a" * 300]
NUMERALS = ["0.5", "1", "2", "8"]
OPTIONS = [one for one in OF_REQUEST.values() if one.names and one.key not in ("seed", "model", "image", "size", "lora")]
VARIABLES = [one for one in SETTINGS.values() if one.setting and one.key not in ("preset", "video_preset", "model")]
GOOD = {"size": "32x32", "method": "nag", "dtype": "float32", "guided_blocks": "1..3", "keep": "windows", "format": "webp"}


def _text_of_option(rng: Random, one: Option) -> str:
    legal = rng.choice(["true", "false", "on", "0"] if one.type is bool else [GOOD.get(one.key, rng.choice(NUMERALS))])
    return legal if rng.random() < 0.6 else rng.choice(TEXTS)


def _silent(given: Sequence[tuple[Option, str]], result: Result) -> str | None:
    """Each value is in the request, or what is written names its option or variable."""
    if result.exit_code:
        return None
    made = [json.loads(line) for line in result.stdout.splitlines()]
    for one, text in given:
        if one.flag in result.stderr or one.variable in result.stderr:
            continue
        values = [{**line, **line["parameters"]}.get(one.field, "nothing") for line in made]
        number = one.type in (int, float) and not re.search(r",|\.\.", text)
        if float(text) not in values if number else "nothing" in values:
            return f"{one.flag} is {text!r}, and has no effect: {values}"
    return None


def option(rng: Random, folder: Path) -> Case:
    """Options of an image, some of which cannot act together."""
    given = [(one, _text_of_option(rng, one)) for one in rng.sample(OPTIONS, 3)]
    words = [one.flag if one.type is bool else f"{one.flag}={text}" for one, text in given]
    valued = [(one, text) for one, text in given if one.type is not bool]
    negative = ["--neg", "wheels"] if rng.random() < 0.7 else []
    arguments = [rng.choice(["image", "image", "video"]), "a red car", *negative, *words, "--dry-run", "--json"]
    return Case(arguments, lambda result: _silent(valued, result))


def environment(rng: Random, folder: Path) -> Case:
    """Variables, some of which are no settings or not legal."""
    given = [(one, _text_of_option(rng, one)) for one in rng.sample(VARIABLES, 2)]
    unknown = f"VSF_{rng.choice(['ALPHAS', 'NEG', 'X', 'HOME'])}"
    os.environ |= {**{one.variable: text for one, text in given}, unknown: rng.choice(["1", "x"])}
    acting = [(one, text) for one, text in given if text and one in OPTIONS and not one.video and one.type is not bool]

    def silence(result: Result) -> str | None:
        return _silent(acting, result) if unknown in result.stderr else f"{unknown} has no effect, unsaid"

    return Case(["image", "a red car", "--neg", "wheels", "--dry-run", "--json"], silence)


GENERATORS: Mapping[str, Callable[[Random, Path], Case]] = {
    one.__name__: one
    for one in (table, prompt, weights, sidecar, own_file, foreign_file, foreign_tags, preset, lora, option, environment)
}
"""What is drawn, by name. A new one returns a `Case` for its random numbers, after it has written its files into the folder."""


def problem_of(name: str, seed: str) -> str | None:
    """Returns what is wrong with what a command makes of a case; None if nothing is."""
    with tempfile.TemporaryDirectory(prefix="vsf-fuzz-") as home, _inside(Path(home)) as folder:
        case = GENERATORS[name](random.Random(seed), folder)
        before = {path: path.stat().st_size for path in Path(home).rglob("*") if path.is_file()}
        result = CliRunner().invoke(app, list(case.arguments))
        after = {path: path.stat().st_size for path in Path(home).rglob("*") if path.is_file()}
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return f"a traceback: {result.exception!r} by {case.arguments}"
        if result.exit_code not in CODES:
            return f"the exit code {result.exit_code} by {case.arguments}"
        if result.exit_code and not re.search(r"^(error|Error): ", result.stderr, re.MULTILINE):
            return f"no error is said by {case.arguments}: {result.stderr}"
        if before != after:
            return f"files were written by {case.arguments}: {sorted(set(after) ^ set(before))}"
        try:
            silence = case.silence(result)
        except Exception as error:
            return f"{error!r} after {case.arguments}"
        return silence and f"{silence}, by {case.arguments}: {result.stderr[-600:]}"


@contextlib.contextmanager
def _inside(home: Path) -> Iterator[Path]:
    """Works in a folder of its own, with the settings and caches beside it."""
    (home / "work").mkdir()
    before, variables = Path.cwd(), dict(os.environ)
    os.environ |= {"XDG_CONFIG_HOME": str(home / "config"), "XDG_CACHE_HOME": str(home / "cache")}
    os.chdir(home / "work")
    try:
        yield Path()
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)


def main() -> None:
    """Runs the cases, and names each that is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=list(GENERATORS), action="append")
    options = parser.parse_args()
    names, wrong = options.only or list(GENERATORS), 0
    for number in range(options.first, options.first + options.count):
        name = names[number % len(names)]
        if problem := problem_of(name, f"{options.seed}-{number}"):
            wrong += 1
            print(f"{name} --seed {options.seed} --first {number}: {problem}", flush=True)
    print(f"{options.count} cases, {wrong} of them wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
