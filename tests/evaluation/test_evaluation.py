"""`vsf eval`: from a prompt set to a table, with every judge, and what happens when something is wrong."""

import base64
import io
import json
import operator
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import Mock, patch

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor
from typer.testing import CliRunner

from tests.clip_model import random_clip
from tests.drawn import AnyPipe, drawn
from tests.judged import Together
from vsf_cli.batch import worker
from vsf_cli.cli.app import app
from vsf_cli.errors import MediaError, ModelError, OutOfMemory, RequestError, VSFError
from vsf_cli.evaluation import judging
from vsf_cli.evaluation.choice import best_trial, write_choices
from vsf_cli.evaluation.judging import judge_all
from vsf_cli.evaluation.prompts import BUILT_IN, load_prompts
from vsf_cli.evaluation.report import Judged, tabulate, with_rest
from vsf_cli.evaluation.runs import Run, Sample, rows_of
from vsf_cli.evaluation.statistics import mcnemar, wilson_interval
from vsf_cli.evaluation.sweep import SAMPLERS, Sweep, Trial, studies_of
from vsf_cli.evaluation.tradeoff import front, hypervolume, tradeoff
from vsf_cli.evaluation.variants import choose_variants, load_variants
from vsf_cli.generation.plan import request_of
from vsf_cli.generation.run import load_for
from vsf_cli.judges import judge_named
from vsf_cli.judges.frames import judge_frames
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.mllm import INSTRUCTIONS, MllmJudge
from vsf_cli.judges.questions import Record
from vsf_cli.judges.scenes import ScenesJudge
from vsf_cli.judges.several import judge_several
from vsf_cli.judges.stored import CachedJudge
from vsf_cli.loading.runtime import Runtime
from vsf_cli.methods import resolved
from vsf_cli.models import FAMILIES
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.presets import Settings, load_preset, preset_names
from vsf_cli.toy.judge import STATES, Verdict
from vsf_cli.toy.scenes import OBJECTS, PARTS

CAR = Record("car", "a red car on a road", "wheels", "Is a car shown?", "Are the wheels missing?", "car")
SPACE = {"nasa_alpha": (0.0, 1.0)}


def vsf(*words: str) -> Any:
    return CliRunner().invoke(app, ["eval", *words])


def test_the_built_in_judge_takes_names_in_any_case_and_refuses_others() -> None:
    judge, image = ScenesJudge(), Image.new("RGB", (96, 96))
    states = {part: tuple(float(state == "present") for state in STATES) for part in PARTS}
    judge.__dict__["_judge"] = SimpleNamespace(verdicts=lambda _: [Verdict("car", states, 0.5)])
    capitals = replace(CAR, category="Car", negative="WHEELS", keep=("Windows", "lights"))
    plain = replace(CAR, keep=("windows", "lights"))
    found, wanted = judge.judge(image, capitals), judge.judge(image, plain)
    assert tuple(part.lower() for part in found.kept or ()) == wanted.kept and replace(found, kept=()) == replace(
        wanted, kept=()
    )
    for record in (replace(CAR, keep=("doors",)), replace(CAR, category="lorry"), replace(CAR, negative="roof")):
        with pytest.raises(RequestError, match="choose --judge mllm"):
            judge.judge(image, record)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "run"
    done = vsf(
        "run", "scenes-dev", "--limit", "4", "--method", "none,vsf", "--steps", "2", "--batch-size", "4", "-o", str(folder)
    )
    assert done.exit_code == 0, done.output
    assert vsf("judge", str(folder)).exit_code == 0
    return folder


# Prompt sets


@pytest.mark.parametrize("name", BUILT_IN)
def test_sets_are_whole(name: str) -> None:
    records, count = load_prompts(name).records, 600 if name == "scenes-600" else 200
    assert len(records) == count
    assert len({record.id for record in records}) == len({(record.prompt, record.negative) for record in records}) == count
    for record in records:
        # In the little language of the clips boats sail, with a sail or without.
        same = operator.eq if name.startswith("clips") else alike_in_sound
        shared = [(a, b) for a in words(record.prompt) for b in words(record.negative) if same(a, b)]
        assert not shared, f"{record.prompt} names {record.negative}"
        assert record.negative in record.question_2 and record.question_1.endswith("?")
        singular = record.question_2.startswith("Is ")
        assert record.question_2 == f"{'Is' if singular else 'Are'} the {record.negative} missing?"
        assert singular or record.negative.endswith(PLURALS)


PLURALS = ("s", "antennae", "teeth")
"""How what is many ends."""


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]{3,}", text.lower().replace("'s", ""))


def stem(word: str) -> str:
    return re.sub(r"(?<=...)(ies|es|s|ing|ed|er)$", "", word)


def alike_in_sound(one: str, other: str) -> bool:
    """Whether a word is another, a part of it, or begins as it does: apples and apple, football and ball."""
    one, other = stem(one), stem(other)
    return one in other or other in one or one[:4] == other[:4]


def test_what_names_a_part_is_known() -> None:
    for one, other in (("apples", "apple"), ("football", "ball"), ("surfer", "surfboard"), ("rocking", "rockers")):
        assert alike_in_sound(one, other) and alike_in_sound(other, one)
    assert not alike_in_sound("piano", "keys") and not alike_in_sound("saxophone", "mouthpiece")


def test_negation_200_spreads_its_categories() -> None:
    records = load_prompts("negation-200").records
    counts = [sum(record.category == name for record in records) for name in {record.category for record in records}]
    assert len(counts) >= 12 and max(counts) <= 20


def test_scenes_of_dev_and_test_share_no_prompt() -> None:
    for name in ("scenes", "clips"):
        test, dev = (load_prompts(each).records for each in (name, f"{name}-dev"))
        assert not {record.prompt for record in test} & {record.prompt for record in dev}
        assert all(record.negative in OBJECTS[record.category] for record in (*test, *dev))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", "prompt": "a car", "question_1": "?", "question_2": "?"}', "line 1: 'negative' is missing"),
        ("{not json", "line 1: "),
        ("[1]", "line 1: it must be an object"),
        ('{"id": "../a", "prompt": "a", "negative": "b", "question_1": "?", "question_2": "?"}', "names files"),
        (
            '{"id": "a", "prompt": 3, "negative": "b", "question_1": "?", "question_2": "?"}',
            "'prompt' is missing, or not a text",
        ),
        ("", "it has no prompts"),
    ],
)
def test_a_bad_prompt_set_is_one_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(line, "utf-8")
    done = vsf("run", str(path), "-o", str(tmp_path / "run"))
    assert done.exit_code == 6 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


# What is compared


def test_all_takes_the_variants_of_the_preset() -> None:
    variants = load_variants()
    ours = {variant.name for variant in choose_variants(variants, "all", load_preset("tiny-sd3-turbo"))}
    assert {"none", "vsf", "nag", "nag++", "nasa", "wef", "cfg", "cfg-forced", "vsf-reference"} <= ours
    assert not ours & {"vsf-whole", "nag-flux"}
    everything = {variant.name for variant in choose_variants(variants, "everything", load_preset("tiny-sd3-turbo"))}
    possible = {
        variant.name
        for variant in variants
        if (not variant.presets or "tiny-sd3-turbo" in variant.presets) and variant.family != "wan"
    }
    assert ours | {"vsf-whole", "nag-flux", "vsf-no-mask"} <= everything == possible
    assert "cfg-clips" not in possible and "cfg-clips" in {
        variant.name for variant in choose_variants(variants, "everything", load_preset("tiny-wan-causvid"))
    }
    large = {variant.name for variant in choose_variants(variants, "all", load_preset("sd3.5-large-turbo"))}
    assert {"cfg-large", "cfg-forced"} <= large and not large & {"cfg", "cfg-clips", "nag-clips"}
    with pytest.raises(RequestError, match=r"'nagg' is not known\. Did you mean 'nag'"):
        choose_variants(variants, "nagg", load_preset("tiny-sd3-turbo"))
    with pytest.raises(RequestError, match=r"'cfg-large' is not for preset tiny-sd3-turbo"):
        choose_variants(variants, "cfg-large", load_preset("tiny-sd3-turbo"))


@pytest.mark.parametrize("name", [name for name in preset_names() if load_preset(name).guidance_scale <= 1])
def test_everything_is_legal_and_runs_on_its_family(name: str) -> None:
    preset = load_preset(name)
    for variant in choose_variants(load_variants(), "everything", preset):
        settings = Settings({"preset": name, **variant.settings}, video=preset.video)
        if not FAMILIES[preset.family].pipelines[preset.main_pipeline].text:
            with pytest.raises(RequestError, match="makes no image without another one: add --image"):
                request_of(Texts("a car", ("wheels",)), 0, settings, (), preset.video)
            continue
        request, _ = request_of(Texts("a car", ("wheels",)), 0, settings, (), preset.video)
        assert request.method == resolved(variant.settings["method"])[0] and settings.preset.video == preset.video
        assert not preset.video or request.method != "vsf" or request.parameters["attention_mask"]


def test_an_arm_of_a_family_is_for_its_presets_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('family = "sd3"\nmodel = "owner/name"\n', "utf-8")
    everything = {variant.name for variant in choose_variants(load_variants(), "everything", load_preset(str(path)))}
    assert "vsf-no-mask" in everything and not everything & {"nag-clips", "cfg", "cfg-large"}
    path.write_text('[mine]\nmethod = "vsf"\nfamily = "pixart"', "utf-8")
    with pytest.raises(RequestError, match=r"mine\.family is 'pixart', but families are sd3, flux"):
        load_variants(path)


def test_a_preset_is_taken_from_its_file(tmp_path: Path) -> None:
    """In every step, and its place is told to nobody."""
    text = (Path(__file__).parents[2] / "presets" / "tiny-sd3-turbo.toml").read_text("utf-8")
    path, folder = tmp_path / "mine.toml", tmp_path / "run"
    text = text.replace("num_inference_steps = 8", "num_inference_steps = 2")
    path.write_text(text.replace('judge = "scenes"', 'judge = "scenes-2"'), "utf-8")
    options = ("--limit", "1", "--method", "vsf", "--preset", str(path))
    done = vsf("run", "scenes-dev", *options, "--seeds", "1", "-o", str(folder))
    assert done.exit_code == 0, done.output
    kept = (folder / "run.json").read_text("utf-8")
    assert json.loads(kept)["preset"] == "mine" and json.loads(kept)["settings"]["steps"] == 2 and str(tmp_path) not in kept
    assert vsf("judge", str(folder)).exit_code == 0 and vsf("report", str(folder)).exit_code == 0
    assert {path.name for path in folder.glob("judgements-*")} == {"judgements-scenes-2.jsonl"}, "its judge, too"

    storage = tmp_path / "sweep.db"
    done = vsf("sweep", "scenes-dev", *options, "--trials", "1", "--storage", str(storage))
    assert done.exit_code == 0, done.output
    facts, _ = studies_of(storage)["vsf"]
    assert facts["preset"] == "mine" and facts["judge"]["name"] == "scenes-2"


def test_variants_share_their_noise_and_prompts_do_not() -> None:
    prompts, variants = (
        load_prompts("scenes-dev").first(5),
        choose_variants(load_variants(), "none,vsf", load_preset("tiny-sd3-turbo")),
    )
    rows = rows_of(prompts, variants, 2)
    seeds = {variant: [row.seeds for row in rows if row.cells["arm"] == variant] for variant in ("none", "vsf")}
    assert seeds["none"] == seeds["vsf"] and len(set(seeds["vsf"])) == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vsf]\nalpah = 3", "vsf.alpah is not a setting. Did you mean 'alpha'"),
        ("vsf = 3", "must be a table"),
        ("[vsf]\nsearch = { alpha = 3 }", "vsf.search is {'alpha': 3}, but must be a table"),
        ("[vsf", "cannot be read as TOML"),
        (
            '[own]\nmethod = "vsf"\nalpha = "auto:"',
            "error: method own: alpha: '' is no strength: write auto, or auto:none,1,2,4@0.9",
        ),
        ('[own]\nmethod = "vsf"\nalpha = -1', "error: method own: alpha"),
    ],
)
def test_a_bad_methods_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(text, "utf-8")
    done = vsf("run", "scenes-dev", "--methods-file", str(path), "--method", "all", "-o", str(tmp_path / "run"))
    assert done.exit_code == 6 and said in done.stderr


# Runs


def test_a_run_is_judged_and_tabulated(made: Path) -> None:
    done = vsf("report", str(made), "--json")
    assert done.exit_code == 0, done.output
    rows = {row["arm"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"none", "vsf"} and all(row["pictures"] == 8 for row in rows.values())
    answers = [json.loads(line) for line in (made / "judgements-scenes.jsonl").read_text("utf-8").splitlines()]
    for name, row in rows.items():
        own = [answer for answer in answers if answer["arm"] == name]
        assert row["negative"] == sum(answer["negative"] for answer in own) / 8
        assert row["both"] == sum(answer["negative"] and answer["positive"] for answer in own) / 8
        assert sum(part["pictures"] for part in row["categories"].values()) == 8
    for ending in ("md", "csv", "json"):
        assert str(made.parent) not in (made / f"report-scenes.{ending}").read_text("utf-8")
    page = (made / "index.html").read_text("utf-8")
    assert page.count("<figure ") == 16 and 'src="pictures/vsf/scenes-dev-000-0.png"' in page


def test_the_summary_counts_each_method_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "generate_batch", drawn)
    monkeypatch.setattr(worker, "load_for", lambda *_: AnyPipe())
    options = ("--limit", "1", "--seeds", "1", "--method", "none,vsf,vsf-keep", "-o", str(tmp_path / "run"))
    lines = vsf("run", "scenes-dev", *options).stderr.splitlines()
    assert [line.split()[1:3] for line in lines if line.startswith("tiny-sd3-turbo ")] == [
        ["none", "1"],
        ["vsf", "1"],
        ["vsf-keep", "1"],
    ]


def test_a_run_without_images_is_neither_judged_nor_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "load_for", Mock(side_effect=ModelError("it is not here")))
    assert vsf("run", "scenes-dev", "--limit", "1", "--seeds", "1", "-o", str(tmp_path / "run")).exit_code == 4
    for command in ("judge", "report"):
        done = vsf(command, str(tmp_path / "run"))
        assert done.exit_code == 6 and "has no images: run 'vsf eval run' again, it goes on" in done.stderr


def test_judging_again_asks_nothing(made: Path) -> None:
    before = (made / "judgements-scenes.jsonl").read_bytes()
    done = vsf("judge", str(made))
    assert done.exit_code == 0 and "0 images judged by the judge 'scenes', 16 were before" in done.stderr
    assert (made / "judgements-scenes.jsonl").read_bytes() == before


def test_a_torn_answer_is_asked_for_again(made: Path) -> None:
    path = made / "judgements-scenes.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    done = vsf("judge", str(made))
    assert "1 image judged by the judge 'scenes', 15 were before" in done.stderr
    last = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.endswith("}")][-1]
    assert last == json.loads(whole.decode().splitlines()[-1])


def test_a_run_goes_on_and_takes_more_methods(made: Path) -> None:
    """Made pictures are kept: only those of the new method are made."""
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.png")}
    options = ("--limit", "4", "--steps", "2", "--batch-size", "4", "-o", str(made))
    done = vsf("run", "scenes-dev", "--method", "nasa", *options)
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(made.rglob("*.png"))) == len(before) + 8
    assert set(json.loads((made / "run.json").read_text("utf-8"))["arms"]) == {"none", "vsf", "nasa"}
    warned = vsf("report", str(made))
    assert warned.exit_code == 0 and "8 images not judged" in warned.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("scenes", "--limit", "4", "--steps", "2", "--batch-size", "4"),
        ("scenes-dev", "--limit", "3", "--steps", "2", "--batch-size", "4"),
        ("scenes-dev", "--limit", "4", "--steps", "3", "--batch-size", "4"),
        ("scenes-dev", "--limit", "4", "--steps", "2", "--batch-size", "4", "--seeds", "1"),
    ],
)
def test_the_folder_of_another_run_is_refused(made: Path, words: tuple[str, ...]) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    done = vsf("run", *words, "--method", "none,vsf", "-o", str(made))
    assert done.exit_code == 6 and "holds a run with" in done.stderr
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_a_run_with_failures_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise VSFError("no memory left")

    monkeypatch.setattr("vsf_cli.batch.worker.generate_batch", failing)
    done = vsf(
        "run", "scenes-dev", "--limit", "1", "--seeds", "1", "--method", "vsf", "--steps", "2", "-o", str(tmp_path / "run")
    )
    assert done.exit_code == 3 and "the same command tries them again" in done.stderr
    assert "--retry-failed" not in done.stderr


def test_what_is_no_run_is_refused(tmp_path: Path, made: Path) -> None:
    for command in ("judge", "report"):
        done = vsf(command, str(tmp_path))
        assert done.exit_code == 6 and "is not a run of 'vsf eval run'" in done.stderr
    assert vsf("judge", str(made), "--judge", "scens").exit_code == 6
    assert "has no answers of judge clip" in vsf("report", str(made), "--judge", "clip").stderr


# ValueList


class Scripted:
    """A judge whose answer depends on the value of the first pixel."""

    name, workers, costly = "scripted", 1, False
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, answer: Callable[[int], Judgement]) -> None:
        self.answer = answer

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        return self.answer(image.getpixel((0, 0)))  # type: ignore[arg-type]


def test_the_majority_of_frames_decides() -> None:
    scripted = Scripted(lambda value: Judgement(value > 1, value > 2, value / 4))
    frames = [Image.new("L", (4, 4), value) for value in (0, 2, 3, 3)]
    found = judge_frames(scripted, frames, CAR)
    assert (found.positive, found.negative, found.quality) == (True, False, 0.5)
    assert judge_frames(scripted, frames[:1], CAR).reason == ""


def test_what_stayed_is_that_of_most_frames() -> None:
    scripted = Scripted(lambda value: Judgement(True, True, 1.0, kept=("lights", "windows")[:value]))
    frames = [Image.new("L", (4, 4), value) for value in (0, 1, 1, 2)]
    assert judge_frames(scripted, frames, replace(CAR, keep=("lights", "windows"))).kept == ("lights",)


def test_scores_of_a_video_are_the_means_of_its_frames() -> None:
    scores = ({"absent": 0.2}, {"absent": 0.6}, None)
    scripted = Scripted(lambda value: Judgement(True, True, 1.0, scores=scores[value]))
    frames = [Image.new("L", (4, 4), value) for value in (0, 1, 1, 2)]
    assert judge_frames(scripted, frames[:3], CAR).scores == pytest.approx({"absent": 1.4 / 3})
    assert judge_frames(scripted, frames, CAR).scores is None


def answer(variant: str, seed: int, kept: tuple[str, ...] | None, both: bool = True) -> Judged:
    return Judged(Sample(CAR, variant, seed, Path("a.png")), True, both, 1.0, "", kept)


def test_the_rest_is_what_the_unguided_image_shows(made: Path) -> None:
    run = Run.read(made)
    judged = [
        *(answer("none", seed, kept, False) for seed, kept in enumerate([("lights", "windows"), ("lights",), (), None])),
        *(answer("vsf", seed, kept) for seed, kept in enumerate([("lights",), ("lights", "windows"), (), ("lights",)])),
    ]
    none, vsf_row = tabulate(run, with_rest(judged))
    assert (none["rest"], none["things"], none["all"]) == (1.0, 3, 0.0)
    # Two of three things stayed; of three images whose rest is known, two have all of it.
    assert (vsf_row["rest"], vsf_row["things"], vsf_row["all"]) == (0.6667, 3, 0.6667)
    assert none["all_p"] == mcnemar([True, True, False], [False] * 3) and vsf_row["all_p"] is None
    (alone,) = tabulate(run, with_rest(judged[4:]))
    assert (alone["rest"], alone["things"], alone["all"]) == (None, 0, None)


def test_a_run_reports_what_stayed(made: Path) -> None:
    rows = {row["arm"]: row for row in json.loads(vsf("report", str(made), "--json").stdout)}
    assert rows["none"]["rest"] == 1.0 and 0 < rows["none"]["things"] == rows["vsf"]["things"]
    assert rows["none"]["all"] == rows["none"]["both"] and rows["vsf"]["all"] <= rows["vsf"]["both"]
    assert "| method | object right | part absent | both | rest kept | all three |" in (made / "report-scenes.md").read_text(
        "utf-8"
    )
    header, first = (made / "report-scenes.csv").read_text("utf-8").splitlines()[:2]
    assert header.endswith("both_p,rest,things,all,all_p") and first.split(",")[-4] == "1.0"


def test_a_record_says_what_must_stay(tmp_path: Path) -> None:
    record = load_prompts("scenes-dev").records[0]
    assert record.negative not in record.keep and {*record.keep, record.negative} == set(OBJECTS[record.category])
    plain = load_prompts("negation-200")
    assert '"keep"' not in plain.to_jsonl() and not plain.records[0].keep
    path = tmp_path / "mine.jsonl"
    path.write_text(plain.first(1).to_jsonl().replace("}", ', "keep": ["bells"]}'), "utf-8")
    assert load_prompts(str(path)).records[0].keep == ("bells",)
    path.write_text(plain.first(1).to_jsonl().replace("}", ', "keep": "bells"}'), "utf-8")
    with pytest.raises(RequestError, match="'keep' is 'bells', but must be a list of texts"):
        load_prompts(str(path))


def test_a_variant_is_told_what_must_stay_or_names_it() -> None:
    prompts = load_prompts("scenes-dev").first(1)
    variants = choose_variants(load_variants(), "vsf,vsf-keep,vsf-named", load_preset("tiny-sd3-turbo"))
    plain, keeps, named = rows_of(prompts, variants, 1)
    (record,) = prompts.records
    assert (plain.prompt, plain.keep) == (record.prompt, ()) and (keeps.prompt, keeps.keep) == (record.prompt, record.keep)
    assert named.prompt == f"{record.prompt} with {' and '.join(record.keep)}" and named.keep == ()
    assert plain.seeds == keeps.seeds == named.seeds


def test_a_sweep_gives_a_variant_what_a_run_gives_it(tmp_path: Path) -> None:
    (variant,) = choose_variants(load_variants(), "vsf-keep", load_preset("tiny-sd3-turbo"))
    prompts = load_prompts("scenes-dev").first(1)
    sweep = Sweep(prompts, variant, "tiny-sd3-turbo", judge_named("scenes", {}), {"alpha": (0.0, 6.0)}, tmp_path / "a.db")
    (record,), (row,) = prompts.records, rows_of(prompts, [variant], 1)
    request = sweep.request(record, 0, {"alpha": 2.0})
    assert request.keep == row.keep == record.keep and request.prompt == row.prompt


# Judges


class Endpoint:
    """An endpoint of OpenAI's protocol that does what it is told, request by request, and remembers what it was asked."""

    def __init__(self) -> None:
        self.plan: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.together: threading.Barrier | None = None
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                return

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append({"path": self.path, "key": self.headers["Authorization"], "body": body})
                told = endpoint.plan.pop(0) if endpoint.plan else {"answer_1": True, "answer_2": False, "quality": 0.5}
                if told == "hang":
                    endpoint.over.wait(20)
                    return
                if endpoint.together is not None:
                    endpoint.together.wait(20)
                self.send_response(told if isinstance(told, int) else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                if isinstance(told, bytes):
                    self.wfile.write(told)
                    return
                said = (
                    told
                    if isinstance(told, str)
                    else json.dumps({"reasoning": "seen", "answer_3": [], **told} if isinstance(told, dict) else {})
                )
                message = {"role": "assistant", "content": said}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
                self.wfile.write(json.dumps(reply if not isinstance(told, int) else {"error": {"message": "no"}}).encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    running = Endpoint()
    yield running
    running.close()


def test_mllm_asks_what_the_paper_asks(endpoint: Endpoint) -> None:
    endpoint.plan = [{"answer_1": True, "answer_2": True, "quality": 0.75}]
    image = Image.new("RGB", (5, 4), (200, 10, 20))
    found = MllmJudge("seer", endpoint.url).judge(image, CAR)
    assert found == Judgement(True, True, 0.75, "seen")
    (asked,) = endpoint.asked
    system, user = asked["body"]["messages"]
    assert system["content"] == INSTRUCTIONS and asked["key"] == "Bearer secret-key" and asked["body"]["model"] == "seer"
    assert CAR.question_1 in user["content"][0]["text"] and CAR.question_2 in user["content"][0]["text"]
    sent = Image.open(io.BytesIO(base64.b64decode(user["content"][1]["image_url"]["url"].split(",")[1])))
    assert sent.tobytes() == image.tobytes()
    assert set(asked["body"]["response_format"]["json_schema"]["schema"]["required"]) == {
        "reasoning",
        "answer_1",
        "answer_2",
        "quality",
    }


def test_mllm_is_asked_what_stayed_where_something_must(endpoint: Endpoint) -> None:
    record = replace(CAR, keep=("lights", "Windows"))
    endpoint.plan = [{"answer_1": True, "answer_2": True, "quality": 1, "answer_3": "lights"}] + [
        {"answer_1": True, "answer_2": True, "quality": 1, "answer_3": shown} for shown in (["windows", "doors"], [])
    ]
    judge = MllmJudge("seer", endpoint.url)
    assert judge.judge(Image.new("RGB", (5, 4)), record).kept == ("Windows",), "a text is no list, so it is asked again"
    assert judge.judge(Image.new("RGB", (5, 4)), record).kept == ()
    asked = endpoint.asked[0]["body"]
    assert "Question 3: which of these can be seen" in asked["messages"][1]["content"][0]["text"]
    schema = asked["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer_3"]["items"]["enum"] == ["lights", "Windows"] and "answer_3" in schema["required"]


NO_REPLIES = [
    b"<html>busy</html>",
    b'{"choices": [{"mess',
    b"",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b"{}",
    b'{"choices": []}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": {"content": null}}]}',
    b'{"choices": [{"message": {"content": [1]}}]}',
]
"""Bodies of status 200 that are no reply."""


@pytest.mark.parametrize(
    "fault", [429, 500, 503, "hang", "no JSON at all", {"answer_1": "perhaps"}, {"quality": 7}, *NO_REPLIES]
)
def test_mllm_asks_again_after_a_fault(endpoint: Endpoint, fault: Any) -> None:
    endpoint.plan = [fault]
    found = MllmJudge("seer", endpoint.url, timeout=0.3).judge(Image.new("RGB", (4, 4)), CAR)
    assert found == Judgement(True, False, 0.5, "seen") and len(endpoint.asked) == 2


def test_mllm_gives_up_with_one_line(endpoint: Endpoint) -> None:
    endpoint.plan = ["nonsense"] * 3
    with pytest.raises(VSFError, match="gave 3 answers that are not what was asked for, such as 'nonsense'"):
        MllmJudge("seer", endpoint.url).judge(Image.new("RGB", (4, 4)), CAR)
    endpoint.plan = [b"<html>\nbusy</html>"] * 3
    with pytest.raises(VSFError, match=r"gave 3 answers .* such as '<html>\\nbusy</html>'"):
        MllmJudge("seer", endpoint.url).judge(Image.new("RGB", (4, 4)), CAR)
    endpoint.plan = [401]
    with pytest.raises(VSFError, match=r"127\.0\.0\.1 was asked about car seer, and failed: Error code: 401"):
        MllmJudge("seer", endpoint.url).judge(Image.new("RGB", (4, 4)), CAR)


def test_mllm_gives_up_when_its_retries_are_spent(endpoint: Endpoint) -> None:
    endpoint.plan = [503, 429, 500, 500]
    with pytest.raises(VSFError, match=r"127\.0\.0\.1 was asked about car seer, and failed: Error code: 500") as raised:
        MllmJudge("seer", endpoint.url, retries=2).judge(Image.new("RGB", (4, 4)), CAR)
    assert len(endpoint.asked) == 3 and "\n" not in str(raised.value)


def test_mllm_asks_about_four_pictures_at_a_time(endpoint: Endpoint, made: Path, tmp_path: Path) -> None:
    """The endpoint answers nobody before four have asked."""
    run = Path(shutil.copytree(made, tmp_path / "run"))
    endpoint.together = threading.Barrier(4)
    options = ("--judge", "mllm", "--judge-model", "four", "--base-url", endpoint.url)
    done = vsf("judge", str(run), *options, "--workers", "4", "--retries", "0")
    pictures = len(list(run.rglob("*.png")))
    assert done.exit_code == 0, done.output
    assert pictures % 4 == 0 and len(endpoint.asked) == pictures
    kept = [json.loads(line) for line in (run / "judgements-mllm.jsonl").read_text("utf-8").splitlines()]
    assert len({(answer["record"], answer["arm"], answer["seed"]) for answer in kept}) == len(kept) == pictures


def test_a_run_is_judged_by_an_endpoint_and_nothing_is_paid_for_twice(endpoint: Endpoint, made: Path) -> None:
    command = ("judge", str(made), "--judge", "mllm", "--judge-model", "seer", "--base-url", endpoint.url, "--workers", "1")
    endpoint.plan = [{"answer_1": True, "answer_2": True, "quality": 1}, *["nonsense"] * 3]
    done = vsf(*command)
    pictures = len(list(made.rglob("*.png")))
    assert done.exit_code == 3 and "1 image not judged" in done.stderr
    assert len(endpoint.asked) == pictures + 2

    done = vsf(*command)
    assert done.exit_code == 0 and len(endpoint.asked) == pictures + 3
    assert vsf(*command).exit_code == 0 and len(endpoint.asked) == pictures + 3

    told = vsf("report", str(made), "--judge", "mllm", "--json")
    rows = json.loads(told.stdout)
    assert sum(row["negative"] * row["pictures"] for row in rows) == pytest.approx(1, abs=1e-3)
    kept = b"".join(path.read_bytes() for path in made.iterdir() if path.is_file())
    assert b"secret-key" not in kept


def test_answers_of_two_models_stay_apart(endpoint: Endpoint, made: Path, tmp_path: Path) -> None:
    """And those of the first are paid for still when the second has answered."""
    run = Path(shutil.copytree(made, tmp_path / "run", ignore=shutil.ignore_patterns("judgements-mllm*")))
    pictures = len(list(run.rglob("*.png")))
    options = ("--judge", "mllm", "--base-url", endpoint.url)
    first, second = ("--judge-model", "first"), ("--judge-model", "second")
    endpoint.plan = [{"answer_1": True, "answer_2": True, "quality": 1}] * pictures
    for model in (first, second, first):
        assert vsf("judge", str(run), *options, *model).exit_code == 0
    assert len(endpoint.asked) == 2 * pictures

    done = vsf("report", str(run), "--judge", "mllm")
    assert done.exit_code == 6 and len(done.stderr.strip().splitlines()) == 1
    assert "answers of mllm first at 127.0.0.1, mllm second at 127.0.0.1: choose one by --judge-model" in done.stderr
    for model, negative in ((first, 1), (second, 0)):
        told = vsf("report", str(run), "--judge", "mllm", *model, "--json")
        assert {row["negative"] for row in json.loads(told.stdout)} == {negative}
        for name in ("report-mllm.md", "report-mllm.json", "index.html"):
            text = (run / name).read_text("utf-8")
            assert f"mllm {model[1]} at 127.0.0.1" in text and endpoint.url not in text
    none = "has no answers of third, but of mllm first at 127.0.0.1, mllm second at 127.0.0.1: choose one of these"
    assert none in vsf("report", str(run), "--judge", "mllm", "--judge-model", "third").stderr


def test_answers_about_another_picture_are_not_reported(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    assert vsf("judge", str(run)).exit_code == 0
    picture = run / "pictures" / "vsf" / "scenes-dev-000-0.png"
    before = picture.read_bytes()
    Image.new("RGB", (96, 96)).save(picture)
    done = vsf("report", str(run), "--json")
    assert "1 image not judged" in done.stderr
    assert {row["arm"]: row["pictures"] for row in json.loads(done.stdout)}["vsf"] == 7
    picture.write_bytes(before)
    assert "not judged" not in vsf("report", str(run), "--json").stderr


def test_an_answer_about_a_frame_is_paid_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        name, workers, costly, settings = "failing", 1, True, MappingProxyType({"name": "failing"})
        asked: ClassVar[list[int]] = []

        def check(self, record: Record, offline: bool) -> None: ...

        def judge(self, image: Image.Image, record: Record) -> Judgement:
            self.asked.append(image.getpixel((0, 0)))  # type: ignore[arg-type]
            if len(self.asked) == 4:
                raise VSFError("busy")
            return Judgement(True, image.getpixel((0, 0)) > 4, 0.5)  # type: ignore[operator]

    clip = tmp_path / "clip.gif"
    clip.write_bytes(b"clip")
    monkeypatch.setattr(Run, "samples", lambda self: [Sample(CAR, "vsf", 0, clip)])
    monkeypatch.setattr(judging, "read_frames", lambda path: [Image.new("L", (4, 4), value) for value in range(9)])
    run = Run(tmp_path, load_prompts("scenes-dev").first(1), {}, "tiny-wan-causvid", 1, {})
    ((_, error),) = judge_all(run, Failing())
    assert str(error) == "busy" and Failing.asked == [0, 1, 2, 3]
    ((_, error),) = judge_all(run, Failing())
    assert error is None and Failing.asked == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8]
    assert list(judge_all(run, Failing())) == []


@pytest.fixture
def frames_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, dict[Path, list[int]]]:
    """A run of files whose frames have the values that the test says; what has none cannot be read."""
    files: dict[Path, list[int]] = {}

    def read(path: Path) -> list[Image.Image]:
        if not files[path]:
            raise MediaError(f"{path.name} cannot be read")
        return [Image.new("L", (4, 4), value) for value in files[path]]

    monkeypatch.setattr(judging, "read_frames", read)
    monkeypatch.setattr(Run, "samples", lambda self: [Sample(CAR, path.stem, 0, path) for path in files])
    monkeypatch.setattr(judging, "answer_key", lambda sample: (CAR.id, sample.variant, 0, sample.variant))
    return Run(tmp_path, load_prompts("scenes-dev").first(1), {}, "tiny-wan-causvid", 1, {}), files


def stored(run: Run, name: str = "judgements-together.jsonl") -> list[float]:
    path = run.folder / name
    return [json.loads(line)["quality"] for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_images_of_a_run_are_judged_several_at_a_time(frames_of: tuple[Run, dict[Path, list[int]]]) -> None:
    run, files = frames_of
    files.update({Path(f"{value}.png"): [value] for value in range(7)})
    judge, moved = Together(3, fails=(4,)), []
    found = [(sample.variant, error) for sample, error in judge_all(run, judge, lambda *at: moved.append(at))]
    assert [name for name, _ in found] == [*map(str, range(7))] and moved == [(done, 7) for done in range(1, 8)]
    assert [(name, str(error)) for name, error in found if error] == [("4", "busy")] and stored(run) == [0, 1, 2, 3, 5, 6]
    again = Together(3)
    assert [sample.variant for sample, _ in judge_all(run, again)] == ["4"] and again.passes == [[4]]


def test_frames_of_several_videos_are_judged_together(frames_of: tuple[Run, dict[Path, list[int]]]) -> None:
    run, files = frames_of
    files.update({Path("a.mp4"): [0, 1, 2], Path("b.mp4"): [2, 3, 4], Path("c.mp4"): [*range(40, 121)], Path("d.png"): [9]})
    judge = Together(4)
    assert all(error is None for _, error in judge_all(run, judge))
    # The frame 2 is in two videos, and of 81 frames nine are judged.
    assert judge.passes == [[9], [0, 1, 2, 3], [4, 40, 50, 60], [70, 80, 90, 100], [110, 120]]
    assert sorted(stored(run)) == [1, 3, 9, 80] and len(stored(run, "frames-together.jsonl")) == 14


@pytest.mark.parametrize(
    ("options", "frames", "error"),
    [({}, [], MediaError), ({"fits": 0}, [1], OutOfMemory), ({"loads": False}, [1], ModelError)],
)
def test_what_ends_a_run_keeps_the_answers_of_its_pass(
    frames_of: tuple[Run, dict[Path, list[int]]], options: dict[str, Any], frames: list[int], error: type[VSFError]
) -> None:
    run, files = frames_of
    files.update({Path("0.png"): [0], Path("1.png"): frames, Path("2.png"): [2]})
    with pytest.raises(error):
        list(judge_all(run, Together(3, **options)))
    assert stored(run) == ([] if options else [0, 2])


def test_clip_says_which_caption_is_nearer(tmp_path: Path) -> None:
    """As the cosines of its own embeddings have it."""
    place = random_clip(tmp_path / "clip")
    model, processor = CLIPModel.from_pretrained(place), CLIPProcessor.from_pretrained(place)
    answers = []
    for seed in range(8):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3)).astype("uint8")
        image, record = Image.fromarray(pixels), replace(CAR, negative=("wheels", "hat")[seed % 2])
        found = judge_named("clip", {"model": place}).judge(image, record)
        texts = [record.prompt, f"{record.prompt} with {record.negative}"]
        with torch.no_grad():
            output = model(**processor(text=texts, images=image, return_tensors="pt", padding=True))
        alone, together = torch.cosine_similarity(output.image_embeds, output.text_embeds).tolist()
        assert found.positive == (alone > 0.2) and found.negative == (alone > together)
        assert found.quality == pytest.approx(min(1, max(0, alone)), abs=1e-5)
        assert found.reason == f"likeness to the prompt {alone:.3f}, with the negative {together:.3f}"
        absent, _ = output.logits_per_image[0].softmax(-1).tolist()
        assert found.scores == pytest.approx({"absent": absent}, abs=1e-4)
        answers.append((found.positive, found.negative))
    assert {positive for positive, _ in answers} == {negative for _, negative in answers} == {False, True}


def test_clip_answers_about_several_images_as_about_each(tmp_path: Path) -> None:
    place = random_clip(tmp_path / "clip")
    judge, alone = judge_named("clip", {"model": place, "batch_size": 3}), judge_named("clip", {"model": place})
    assert judge.settings == alone.settings
    chance, negatives = np.random.default_rng(4), ("wheels", "hat", "a person with a hat on a road", "road", "car")
    images = [
        Image.fromarray(chance.integers(0, 256, (side, 40, 3)).astype("uint8")).convert(mode)
        for side, mode in ((40, "RGB"), (60, "L"), (33, "RGB"), (90, "RGBA"), (40, "RGB"))
    ]
    pairs = [(image, replace(CAR, negative=negative)) for image, negative in zip(images, negatives, strict=True)]
    parts = [*judge_several(judge, pairs)]
    assert [len(part) for part in parts] == [3, 2]
    for (image, record), found in zip(pairs, [one for part in parts for one in part], strict=True):
        wanted = alone.judge(image, record)
        assert isinstance(found, Judgement) and found.scores == pytest.approx(wanted.scores, abs=1e-4)
        assert found == replace(wanted, scores=found.scores, quality=found.quality)
        assert found.quality == pytest.approx(wanted.quality, abs=1e-5)


def test_a_run_is_judged_by_clip_and_a_missing_model_is_one_line(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    place = random_clip(tmp_path / "clip")
    done = vsf("judge", str(run), "--judge", "clip", "--judge-model", str(tmp_path / "nothing"))
    assert done.exit_code == 4 and len(done.stderr.strip().splitlines()) == 1
    done = vsf("judge", str(run), "--judge", "clip", "--judge-model", place, "--judge-batch-size", "5")
    assert done.exit_code == 0 and f"{len(Run.read(run).samples())} images judged" in done.stderr
    assert vsf("report", str(run), "--judge", "clip").exit_code == 0
    told = (run / "report-clip.md").read_text("utf-8")
    assert told.startswith("Judge clip clip. ") and str(tmp_path) not in told


def test_mllm_without_a_key_says_so(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = vsf("judge", str(made), "--judge", "mllm")
    assert done.exit_code == 6 and "OPENAI_API_KEY" in done.stderr


def test_the_judge_of_scenes_refuses_what_it_does_not_know(made: Path) -> None:
    from vsf_cli.judges.scenes import ScenesJudge

    with pytest.raises(RequestError, match="choose --judge mllm"):
        ScenesJudge().judge(Image.new("RGB", (96, 96)), replace(CAR, negative="engine"))
    done = vsf("judge", str(made), "--judge", "scenes", "--workers", "2")
    assert done.exit_code == 6 and "--workers is for the judge mllm: add --judge mllm" in done.stderr
    done = vsf("report", str(made), "--judge-model", "x")
    assert done.exit_code == 6 and "--judge-model is for the judges mllm, vlm and clip" in done.stderr


# Sweeps


def test_fronts_are_those_of_the_definition() -> None:
    chance = np.random.default_rng(1)
    for _ in range(50):
        points = chance.integers(0, 6, (12, 2)) / 5
        kept = front(points)
        for number, point in enumerate(points):
            better = [(other >= point).all() and (other > point).any() for other in points]
            twin = any((other == point).all() for other in points[:number])
            assert kept[number] == (not any(better) and not twin)
        # The area by counting the cells of a grid: coordinates are multiples of 1/5.
        cells = [(x, y) for x in range(5) for y in range(5)]
        covered = sum(any(p[0] * 5 > x + 0.5 and p[1] * 5 > y + 0.5 for p in points) for x, y in cells)
        assert hypervolume(points) == pytest.approx(covered / 25)


def test_the_interval_of_an_area_holds_it() -> None:
    chance = np.random.default_rng(2)
    trials = [
        Trial({"alpha": a}, [(chance.random() > a, chance.random() < a, 0.5) for _ in range(80)]) for a in (0.2, 0.5, 0.8)
    ]
    found = tradeoff(trials, "positive", 300)
    low, high = found["hypervolume_interval"]
    assert low < found["hypervolume"] < high and found == tradeoff(trials, "positive", 300)


def test_the_best_trial_is_the_one_with_most_of_both_at_a_quality() -> None:
    def trial(alpha: float, both: int, quality: float) -> Trial:
        return Trial({"alpha": alpha}, [(number % 2 == 0 or number < both, number < both, quality) for number in range(10)])

    trials = [trial(0.1, 5, 0.9), trial(0.2, 9, 0.84), trial(0.3, 7, 0.85), trial(0.4, 7, 0.95)]
    found = best_trial(trials, 0.85)
    assert found == {
        "settings": {"alpha": 0.4},
        "both": 0.7,
        "both_interval": wilson_interval(7, 10),
        "positive": 0.8,
        "negative": 0.7,
        "quality": 0.95,
    }
    assert best_trial(trials, 0.8)["settings"] == {"alpha": 0.2}  # type: ignore[index]
    assert best_trial(trials, 0.96) is None


def test_the_best_trials_are_a_file_of_methods(tmp_path: Path) -> None:
    facts = {"label": "VSF, all kept (3)", "settings": {"method": "vsf", "stop": 1.0, "orthogonal": True}, "keeps": True}
    trials = [Trial({"alpha": 0.1 + 0.2}, [(True, True, 0.9)])]
    poor = {"label": "NAG", "settings": {"method": "nag"}}, [Trial({"nag_scale": 1.0}, [(True, True, 0.2)])]
    choices = write_choices({"vsf-keep": (facts, trials), "nag": poor}, tmp_path, 0.85)
    assert choices["nag"]["best"] is None and choices["vsf-keep"]["best"]["both"] == 1
    (variant,) = load_variants(tmp_path / "chosen.toml")
    assert variant.name == "vsf-keep" and variant.keeps and variant.label == "VSF, all kept (0.3)"
    assert variant.settings == {"method": "vsf", "stop": 1.0, "orthogonal": True, "alpha": 0.1 + 0.2}


def test_a_sweep_goes_on_and_its_figures_are_the_same(tmp_path: Path) -> None:
    storage, figures = tmp_path / "sweep.db", tmp_path / "figures"
    options = ("--limit", "2", "--method", "vsf,nasa", "--storage", str(storage))
    assert vsf("sweep", "scenes-dev", *options, "--trials", "1").exit_code == 0
    done = vsf("sweep", "scenes-dev", *options, "--trials", "2")
    assert done.exit_code == 0 and "nasa: 2 trials" in done.stderr and "1 of them now" in done.stderr
    studies = studies_of(storage)
    assert {name: len(trials) for name, (_, trials) in studies.items()} == {"vsf": 2, "nasa": 2}
    assert len({trial.settings["alpha"] for trial in studies["vsf"][1]}) == 2
    for _, trials in studies.values():
        assert all(len(trial.outcomes) == 2 for trial in trials)

    one = vsf(
        *("tradeoff", str(storage), "-o", str(tmp_path / "one"), "--method", "vsf", "--first", "1", "--quality", "1", "--json")
    )
    told = json.loads(one.stdout)
    assert {name: variants["vsf"]["trials"] for name, variants in told.items()} == {"positive": 1, "quality": 1, "both": 1}
    assert told["both"]["vsf"]["best"] is None
    assert "there is no sweep of nag" in vsf("tradeoff", str(storage), "--method", "nag").stderr
    drawn_once = vsf("tradeoff", str(storage), "-o", str(figures), "--quality", "0")
    assert drawn_once.exit_code == 0 and "best both at quality 0: nasa, 2 trials, " in drawn_once.stdout
    assert [one.name for one in load_variants(figures / "chosen.toml")] == ["vsf", "nasa"]
    assert f"--preset tiny-sd3-turbo --methods-file {figures / 'chosen.toml'}" in " ".join(drawn_once.stderr.split())
    first = {path.name: path.read_bytes() for path in figures.iterdir()}
    drawn_files = {f"{a}-negative.{b}" for a in ("positive", "quality") for b in ("png", "svg", "json")}
    assert set(first) == {*drawn_files, "both.json", "chosen.toml"}
    assert vsf("tradeoff", str(storage), "-o", str(figures), "--quality", "0").exit_code == 0
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == first

    other = vsf("sweep", "scenes-dev", "--limit", "3", "--method", "vsf", "--storage", str(storage), "--trials", "3")
    assert other.exit_code == 6 and "has another sweep of 'vsf'" in other.stderr


def test_only_sweeps_of_the_same_prompts_preset_and_judge_are_drawn_together(tmp_path: Path) -> None:
    def kept(file: str, name: str, **changes: Any) -> str:
        facts = {"sha256": "a1", "preset": "tiny", "judge": {"name": "scenes"}, "label": name, **changes}
        study = optuna.create_study(study_name=name, storage=f"sqlite:///{tmp_path / file}", directions=["maximize"] * 3)
        study.set_user_attr("vsf", facts)
        trial = study.ask()
        trial.suggest_float("alpha", 0, 1)
        trial.set_user_attr("outcomes", [(True, False, 0.5)] * 2)
        study.tell(trial, [1, 0, 0.5])
        return str(tmp_path / file)

    first = kept("a.db", "vsf")
    kept("a.db", "nag")
    for number, (name, changes, said) in enumerate(
        (
            ("nasa", {"sha256": "b2"}, "has the prompts b2, that of 'vsf' a1"),
            ("nasa", {"preset": "large"}, "has the preset large, that of 'vsf' tiny"),
            ("nasa", {"judge": {"name": "clip"}}, "has the judge {'name': 'clip'}, that of 'vsf' {'name': 'scenes'}"),
            ("vsf", {}, "has a sweep of 'vsf', as another file"),
        )
    ):
        done = vsf("tradeoff", first, kept(f"{number}.db", name, **changes), "-o", str(tmp_path / "figures"))
        assert done.exit_code == 6 and said in done.stderr and not (tmp_path / "figures").exists()
    done = vsf("tradeoff", first, str(tmp_path / "0.db"), "--method", "nag,vsf", "-o", str(tmp_path / "figures"), "--json")
    assert done.exit_code == 0 and list(json.loads(done.stdout)["positive"]) == ["nag", "vsf"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--space", "alpha"), 2, "'alpha' is not a range of a setting"),
        (("--space", "alpha=0,1..3"), 2, "'alpha=0,1..3' is not a range of a setting"),
        (("--space", "alpha=-1..3"), 6, "method vsf cannot be searched over alpha=-1..3: alpha is -1"),
        (("--space", "blend=0..9"), 6, "method vsf cannot be searched over blend=0..9: blend is 9"),
        (("--method", "nag", "--space", "nag_alpha=0..9"), 6, "nag_alpha=0..9: nag_alpha is 9, but must be 0 to 1"),
        (("--method", "nag", "--space", "alpha=0..9"), 6, "--alpha is VSF's, but the method is nag: pass --nag-alpha"),
        (("--space", "alhpa=0..3"), 6, "is not a setting with a number"),
        (("--space", "alpha=3..0"), 6, "its bounds must rise"),
        (("--sampler", "grid"), 6, "must be one of random, tpe, nsga2"),
        (("--method", "none"), 6, "method none has nothing to search"),
    ],
)
def test_a_bad_sweep_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    """And it is said before a model is loaded."""
    monkeypatch.setattr("vsf_cli.cli.evaluate.load_for", None)
    method = () if "--method" in words else ("--method", "vsf")
    done = vsf("sweep", "scenes-dev", "--limit", "2", "--storage", str(tmp_path / "a.db"), *method, *words)
    assert done.exit_code == code and said in " ".join(done.stderr.replace("│", "").split())
    assert not (tmp_path / "a.db").exists()


def test_only_the_space_is_blamed_on_the_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("something else")

    monkeypatch.setattr("vsf_cli.cli.evaluate.load_for", broken)
    done = vsf("sweep", "scenes-dev", "--limit", "2", "--storage", str(tmp_path / "a.db"), "--method", "vsf", "--trials", "1")
    assert isinstance(done.exception, ValueError) and "--space" not in done.output


def test_images_of_a_sweep_are_judged_several_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(_: Any, requests: list[Any]) -> list[Any]:
        return [SimpleNamespace(frames=[Image.new("L", (4, 4), one.seed)]) for one in requests]

    monkeypatch.setattr("vsf_cli.evaluation.sweep.generate_batch", made)
    (variant,) = choose_variants(load_variants(), "nasa", load_preset("tiny-sd3-turbo"))
    judge, moved = Together(3), []
    kept = CachedJudge(judge, tmp_path / "answers.jsonl")
    prompts = load_prompts("scenes-dev").first(7)
    search = Sweep(prompts, variant, "tiny-sd3-turbo", kept, SPACE, tmp_path / "a.db", batch_size=5)
    outcomes = search._outcomes(None, {"nasa_alpha": 0.5}, lambda *at: moved.append(at))
    assert [quality for _, _, quality in outcomes] == [*range(7)] and moved == [(5, 7), (7, 7)]
    assert judge.passes == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "nsga2"])
def test_a_stopped_sweep_tries_what_an_undisturbed_one_tries(sampler: str, tmp_path: Path) -> None:
    space = {"alpha": (0.0, 6.0), "beta": (0.0, 2.0)}

    def search(file: str) -> Sweep:
        prompts, (variant,) = load_prompts("scenes-dev"), choose_variants(load_variants(), "vsf", load_preset("tiny-sd3-turbo"))
        return Sweep(prompts, variant, "tiny-sd3-turbo", ScenesJudge(), space, tmp_path / file)

    def tried(file: str, *counts: int) -> list[Mapping[str, float]]:
        with patch.object(
            Sweep, "_outcomes", lambda self, pipe, chosen, progress: [(True, chosen["alpha"] > 3, chosen["beta"])]
        ):
            return [trial.settings for count in counts for trial in search(file).run(None, count, sampler, 5)]

    whole = tried("whole.db", 14)
    assert len({tuple(one.values()) for one in whole}) == 14
    assert tried("stopped.db", 3, 4, 14) == whole

    def stops(self: Sweep, pipe: Any, chosen: Mapping[str, float], progress: Any) -> Any:
        raise KeyboardInterrupt

    first = tried("broken.db", 2)
    with patch.object(Sweep, "_outcomes", stops), pytest.raises(KeyboardInterrupt):
        list(search("broken.db").run(None, 14, sampler, 5))
    broken = [*first, *tried("broken.db", 6, 14)]
    assert broken[:10] == whole[:10] and (sampler != "random" or broken == whole)


def test_what_a_sweep_was_stopped_in_is_tried_again(tmp_path: Path) -> None:
    """With the same settings, so that the answers about its first pictures are not paid for twice."""

    class Stopping:
        name, workers, costly, settings = "stopping", 1, True, MappingProxyType({"name": "stopping"})
        seen: ClassVar[list[bytes]] = []

        def judge(self, image: Image.Image, record: Record) -> Judgement:
            if len(self.seen) == 3:
                self.seen.append(b"")
                raise KeyboardInterrupt
            self.seen.append(image.tobytes())
            return Judgement(True, False, 0.5)

    prompts, (variant,) = (
        load_prompts("scenes-dev").first(2),
        choose_variants(load_variants(), "nasa", load_preset("tiny-sd3-turbo")),
    )
    kept = CachedJudge(Stopping(), tmp_path / "answers.jsonl")
    search = Sweep(
        prompts, replace(variant, settings={**variant.settings, "steps": 2}), "tiny-sd3-turbo", kept, SPACE, tmp_path / "a.db"
    )
    pipe = load_for(search.request(prompts.records[0], 0, {}), Runtime("cpu"))
    with pytest.raises(KeyboardInterrupt):
        list(search.run(pipe, 2, "random", 0, lambda *_: None))
    with (tmp_path / "answers.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')

    (left,) = search.run(pipe, 2, "random", 0, lambda *_: None)
    assert len(Stopping.seen) == len(set(Stopping.seen)) == 5
    study = optuna.load_study(study_name="nasa", storage=f"sqlite:///{tmp_path / 'a.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].params == study.trials[2].params == left.settings
    again = CachedJudge(Stopping(), tmp_path / "answers.jsonl")
    assert len(again.known) == 4


def test_what_is_no_storage_is_refused(tmp_path: Path) -> None:
    assert "there is no such file" in vsf("tradeoff", str(tmp_path / "a.db")).stderr
    (tmp_path / "b.db").write_text("nonsense" * 300, "utf-8")
    done = vsf("tradeoff", str(tmp_path / "b.db"))
    assert done.exit_code == 6 and "is not a file of sweeps" in done.stderr


def test_a_kept_judge_asks_once(tmp_path: Path) -> None:
    class Counting:
        name, workers, costly, settings = "counting", 1, True, MappingProxyType({"name": "counting"})
        asked = 0

        def judge(self, image: Image.Image, record: Record) -> Judgement:
            self.asked += 1
            return Judgement(True, False, 0.5, "so")

    inner, path, image = Counting(), tmp_path / "answers.jsonl", Image.new("RGB", (4, 4))
    assert (
        CachedJudge(inner, path).judge(image, CAR)
        == CachedJudge(inner, path).judge(image, CAR)
        == Judgement(True, False, 0.5, "so")
    )
    assert inner.asked == 1
    CachedJudge(inner, path).judge(image, replace(CAR, question_2="Is the roof missing?"))
    assert inner.asked == 2
