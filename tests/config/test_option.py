"""A new option is one field, and a new method one file and one line: everything else is derived from them."""

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vsf_cli
from vsf_cli.config.option import check_bounds, fits, option, options_of
from vsf_cli.errors import RequestError

ROOT = Path(vsf_cli.__file__).parents[1]

FIELD = """
    edge_sharpness: float = option(
        0.0, "--sharpness", "--crisp", help="Sharpness of edges.", min=0, max=1, sweep=True, columns=("sharp",)
    )
"""
METHOD = '''
"""A method that is there for a test."""

from dataclasses import dataclass
from typing import ClassVar

from vsf_cli.config.option import option
from vsf_cli.methods.nasa import NASA


@dataclass(frozen=True)
class Fade(NASA):
    """Like NASA, with another number."""

    name: ClassVar[str] = "fade"
    label: ClassVar[str] = "Fade"

    rate: float = option(0.5, help="How fast it fades.", min=0, sweep=True, search=(0.0, 2.0))
'''

CHECKS = """
import json
from pathlib import Path

from typer.testing import CliRunner

from vsf_cli.batch.facts import columns_of
from vsf_cli.batch.items import items_of
from vsf_cli.batch.table import read_table
from vsf_cli.bench.methods import bench_methods
from vsf_cli.cli.app import app
from vsf_cli.evaluation.variants import load_variants
from vsf_cli.evaluation.sweep import parse_space
from vsf_cli.methods import METHODS
from vsf_cli.settings.presets import Settings


def vsf(*words, code=0):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output + str(done.exception)
    return done


def requests(*words):
    return [json.loads(line) for line in vsf(*words, "--dry-run", "--json").stdout.splitlines()]


# A preset's key, a setting with its layers, and an option.
Path("mine.toml").write_text(
    'family = "sd3"\\nmodel = "builtin:tiny-sd3-turbo"\\nedge_sharpness = 0.75\\n[method]\\nname = "fade"\\nrate = 0.125\\n'
)
preset = Settings({"preset": "mine.toml"}, {})
assert (preset["sharpness"], preset["fade_rate"], preset.origin("fade_rate").origin) == (0.75, 0.125, "preset mine")
near = Settings({"preset": "mine.toml"}, {"VSF_SHARPNESS": "0.5", "VSF_FADE_RATE": "2"})
assert (near["sharpness"], near.origin("sharpness").origin, near["fade_rate"]) == (0.5, "environment", 2.0)
shown = vsf("image", "--help").stdout
assert all(word in shown for word in ("--sharpness, --crisp", "VSF_SHARPNESS", "--fade-rate", "[0 to 1;", "vsf, fade, "))

# An axis of a sweep, bounds, metadata, and the names of files.
bike = "image", "a red bike on a road", "--neg", "wheels", "--seed", "1"
asked = requests(*bike, "--crisp", "0.25,0.5", "--method", "fade", "--fade-rate", "1,3")
choices = [(one["edge_sharpness"], one["parameters"]["rate"]) for one in asked]
assert choices == [(0.25, 1), (0.5, 1), (0.25, 3), (0.5, 3)] or choices == [(0.25, 1), (0.25, 3), (0.5, 1), (0.5, 3)]
assert "sharpness is 2, but must be 0 to 1" in vsf(*bike, "--sharpness", "2", code=6).stderr
assert "--fade-rate is Fade's, but the method is vsf" in vsf(*bike, "--fade-rate", "2", code=6).stderr
vsf(*bike, "--method", "fade", "-o", "{sharpness}-{fade_rate}.png", "--dry-run")
vsf(*bike, "-o", "{sharpnes}.png", "--dry-run", code=6)

# `vsf again` and `vsf attn-map`.
Path("made.json").write_text(json.dumps({"schema": 1, "request": asked[0], "versions": {}}))
(again,) = requests("again", "made.json", "--sharpness", "1", "--fade-rate", "4")
assert (again["edge_sharpness"], again["parameters"]["rate"]) == (1, 4)
refused = vsf("attn-map", "made.json", "--sharpness", "1", "--fade-rate", "4", code=6)
assert "leave --sharpness, --fade-rate out" in refused.stderr

# The columns of a batch, ids and labels.
table = "prompt,neg,method,sharp,fade-rate\\na red bike,wheels,fade,0.25,1\\na red bike,wheels,fade,0.5,1\\n"
rows = read_table(Path("t.csv"), table)
items, _ = items_of("t.csv", rows, {})
assert [one.request.edge_sharpness for one in items] == [0.25, 0.5] and len({one.id for one in items}) == 2
facts, varying, _ = columns_of(items, rows)
assert facts[0]["sharpness"] == "0.25" and facts[0]["fade_rate"] == "1" and "sharpness" in varying

# Evaluation and benchmark.
fade = next(one for one in load_variants() if one.name == "fade")
assert (fade.settings, fade.label) == ({"method": "fade"}, "Fade")
assert METHODS["fade"].search() == {"fade_alpha": (0.0, 1.0), "fade_rate": (0.0, 2.0)}
assert parse_space(["fade_rate=0..1"]) == {"fade_rate": (0.0, 1.0)}
assert bench_methods()["fade"].label == "Fade" and list(bench_methods())[0] == "none"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package with one more field and one more method."""
    shutil.copytree(ROOT / "vsf_cli", tmp_path / "vsf_cli", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (tmp_path / "vsf_cli" / "toy" / "weights").symlink_to(ROOT / "vsf_cli" / "toy" / "weights")
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    request = tmp_path / "vsf_cli" / "settings" / "request.py"
    place = "    num_inference_steps: int = option("
    source = request.read_text("utf-8")
    assert source.count(place) == 1
    request.write_text(source.replace(place, FIELD.lstrip("\n") + place), "utf-8")
    (tmp_path / "vsf_cli" / "methods" / "fade.py").write_text(METHOD.lstrip(), "utf-8")
    table = tmp_path / "vsf_cli" / "methods" / "__init__.py"
    source = table.read_text("utf-8")
    place = "in (NoGuidance, VSF, "
    assert source.count(place) == 1
    line = "from vsf_cli.methods.cfg import CFG\n"
    imported = source.replace(line, f"{line}from vsf_cli.methods.fade import Fade\n")
    table.write_text(imported.replace(place, f"{place}Fade, "), "utf-8")
    return tmp_path


def test_a_new_field_and_a_new_method_are_known_everywhere(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith("VSF_")}
    environment = {**own, "PYTHONPATH": str(copy), "COLUMNS": "200"}
    command = [sys.executable, "-c", CHECKS]
    done = subprocess.run(
        command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Record:
    count: int = option(1, "-c", "--count", min=1)
    strength: float | None = option(None, "--my-strength", above=0)
    fraction: float = option(0.5, "--fraction", min=0, max=1)
    part: float | None = option(None, "--part", above=0, max=1)
    most: int = option(0, "--most", max=9)
    words: tuple[str, ...] = option((), "--word")
    plain: bool = False


def test_an_option_is_what_its_field_says() -> None:
    count, strength, fraction, *_, words = options_of(Record)
    assert (count.key, count.type, count.default, count.flag, count.variable) == ("count", int, 1, "--count", "VSF_COUNT")
    assert (strength.key, strength.type, strength.column_names) == ("my_strength", float, ("my_strength", "strength"))
    assert words.repeatable and words.type is str and not fraction.repeatable
    named = options_of(Record, "mine_", every=True)[-1]
    assert (named.key, named.names, named.type) == ("mine_plain", ("--mine-plain",), bool)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count is 0, but must be at least 1"),
        ({"strength": 0.0}, "my_strength is 0, but must be a finite number of more than 0"),
        ({"strength": math.inf}, "my_strength is inf"),
        ({"fraction": math.nan}, "fraction is nan, but must be 0 to 1"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"part": 1.5}, "part is 1.5, but must be more than 0, at most 1"),
        ({"part": 0.0}, "part is 0, but must be more than 0, at most 1"),
        ({"most": 10}, "most is 10, but must be at most 9"),
    ],
)
def test_a_number_beyond_its_bounds_is_refused(values: dict[str, Any], message: str) -> None:
    check_bounds(Record(strength=0.5), options_of(Record))
    with pytest.raises(RequestError, match=message):
        check_bounds(Record(**values), options_of(Record))


@pytest.mark.parametrize(
    ("annotation", "value", "legal"),
    [
        (float | None, 8, True),
        (float, 8, True),
        (float, True, False),
        (int | None, 8, True),
        (int, 8.5, False),
        (bool, True, True),
        (bool, 1, False),
        (str | None, "x", True),
        (str, 1, False),
        (tuple[str, ...], ["a"], True),
        (tuple[str, ...], [1], False),
        (tuple[str, ...], "a", False),
    ],
)
def test_a_value_of_a_file_fits_its_field(annotation: Any, value: Any, legal: bool) -> None:
    assert fits(annotation, value) is legal
