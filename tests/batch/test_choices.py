"""Batches whose images a judge chooses: killed and started again, in passes of several, and their tables."""

import csv
import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import vsf_cli.batch.verdicts as verdicts
import vsf_cli.batch.worker as worker
import vsf_cli.generation.choosing as choosing
import vsf_cli.generation.plan as plan
from tests.drawn import AnyPipe
from tests.judged import Maker, Seer, from_two_on
from tests.processes import running_vsf, wait_until
from vsf_cli.batch.items import items_of
from vsf_cli.batch.table import read_table
from vsf_cli.batch.worker import Worker
from vsf_cli.cli.app import app
from vsf_cli.errors import OutOfMemory
from vsf_cli.evaluation.report import Judged, tabulate
from vsf_cli.evaluation.runs import Run
from vsf_cli.generation.run import tried_of
from vsf_cli.media.json_lines import append_line
from vsf_cli.media.reading import read_metadata

TABLE = 'prompt,neg,alpha,seed\na red bike on a road,wheels,auto:none,1..3\na red bike on a road,wheels,"auto:1,2,4",4..6\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(*options: str, table: str = TABLE, code: int = 0) -> Result:
    Path("t.csv").write_text(table, "utf-8")
    result = CliRunner().invoke(app, ["batch", "t.csv", "--steps", "2", "--size", "32", *options])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Maker:
    maker = Maker()
    monkeypatch.setattr(choosing, "generate_batch", maker)
    monkeypatch.setattr(worker, "generate_batch", maker)
    monkeypatch.setattr(worker, "load_for", lambda *_: AnyPipe())
    return maker


def judged_by(monkeypatch: pytest.MonkeyPatch, judge: Any) -> None:
    monkeypatch.setattr(worker, "judge_of", lambda *_: judge)


def manifest(folder: str = "outputs/t") -> list[dict[str, str]]:
    with Path(folder, "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Dying(Seer):
    """A judge whose process ends at its n-th answer, before it gives it."""

    left = 0

    def judge(self, *question: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise SystemExit(9)
        return super().judge(*question)


def test_no_image_is_judged_twice_whenever_a_run_ends(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    table = 'prompt,neg,alpha,seed\na red bike on a road,wheels,"auto:1,2,4",1..4\n'
    judged_by(monkeypatch, Seer(from_two_on))
    batch("-o", "whole", "--batch-size", "2", table=table)
    judge = Dying(from_two_on)
    judged_by(monkeypatch, judge)
    for ending in (1, 2, 3, 1, 4):
        judge.left = ending
        batch("-o", "killed", "--batch-size", "2", table=table, code=9)
        with Path("killed/verdicts.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"key": "half')
    judge.left = 0
    batch("-o", "killed", "--batch-size", "2", table=table)
    assert max(Counter(judge.asked).values()) == 1 and len(judge.asked) == 8
    whole, killed = ({path.name: path.read_bytes() for path in Path(name).glob("*.png")} for name in ("whole", "killed"))
    assert len(whole) == 4 and whole == killed


def test_answers_are_read_once(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, read = verdicts.stored_judgements, []
    monkeypatch.setattr(verdicts, "stored_judgements", lambda path: read.append(path) or genuine(path))
    judged_by(monkeypatch, Seer(from_two_on))
    batch()
    assert len(read) == 1 and lines(Path("outputs/t/verdicts.jsonl")) == 9
    used, path = Worker(Path("outputs/t")), Path("outputs/t/verdicts.jsonl")
    assert used._answers is used._answers and "_answers" not in vars(pickle.loads(pickle.dumps(used)))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"all of {path} is read"))
    for end, count in (("{", 11), ("", 12)):
        with path.open("a", encoding="utf-8") as file:
            file.write(end)
        append_line(path, {})
        assert lines(path) == count and path.read_text("utf-8").endswith("\n{}\n")


def test_a_killed_batch_ends_as_an_undisturbed_one(here: Path) -> None:
    """By a real judge and real processes, each of which is killed while it searches."""
    table = 'prompt,neg,alpha,seed\na red bike on a road,wheels,"auto:1,2,4",1..3\n'
    batch("-o", "whole", table=table)
    whole = {path.name: path.read_bytes() for path in Path("whole").glob("*.png")}
    verdicts = here / "killed" / "verdicts.jsonl"
    for count in (1, 4):
        with running_vsf("batch", "t.csv", "--steps", "2", "--size", "32", "-o", "killed") as process:
            wait_until(lambda count=count: process.poll() is not None or lines(verdicts) >= count)
    batch("-o", "killed", table=table)
    assert whole == {path.name: path.read_bytes() for path in Path("killed").glob("*.png")} and len(whole) == 3
    keys = [json.loads(line)["key"] for line in verdicts.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len(Path("whole/verdicts.jsonl").read_text().splitlines())
    done = Counter(json.loads(line)["id"] for line in Path("killed/manifest.jsonl").read_text().splitlines())
    assert set(done.values()) == {1} and len(done) == 3


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_the_table_of_what_came_out_needs_no_judge(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, Seer(lambda alpha, seed: (True, alpha >= 2 or seed == 1, 0.9)))
    result = batch("--keep-all")
    assert "content with none of 1 candidate" in result.stderr and len(list(Path("outputs/t").glob("*-tried.png"))) == 6
    rows = manifest()
    assert [(row["method"], row["vsf_alpha"], row["vsf_seed"]) for row in rows] == [
        *[("none", "", str(seed)) for seed in (1, 2, 3)],
        *[("vsf", "2.0", str(seed)) for seed in (4, 5, 6)],
    ]
    facts = read_metadata(Path("outputs/t") / rows[3]["file"]).description
    assert facts is not None and facts["choice"]["content"] and facts["request"]["parameters"]["alpha"] == 2
    assert "strengths" not in facts["request"] and facts["item"] == rows[3]["id"]
    before = Path("outputs/t/index.html").read_text()
    assert "auto:1,2,4" in before and batch().stdout == result.stdout


def test_a_pass_shrinks_until_it_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """First what may not be needed is left out; a model that fits is not loaded again."""
    passes, pipes = [], []

    def short(_: Any, requests: Any, *__: Any) -> Any:
        passes.append(len(requests))
        if len(requests) > 2:
            raise OutOfMemory("out of memory")
        return Maker()(None, requests)

    monkeypatch.setattr(choosing, "generate_batch", short)
    monkeypatch.setattr(worker, "load_for", lambda *_: pipes.append(1) or AnyPipe("cuda"))
    judged_by(monkeypatch, Seer(from_two_on))
    table = 'prompt,neg,alpha,seed\na red bike,wheels,"auto:1,1.5,2",1..4\n'
    batch("--batch-size", "8", table=table)
    assert passes == [8, 4, 2, 2, 2, 2, 2, 2] and len(pipes) == 1
    passes.clear()
    batch("--batch-size", "8", "-o", "one", table=table.replace("1..4", "1"))
    assert passes == [3, 1, 1, 1] and len(pipes) == 2


@pytest.mark.parametrize(
    ("columns", "cells", "options"),
    [
        ("alpha", '"auto:none,1,2"', ()),
        ("alpha,contrast,method,beta", '"auto:none,1,2",0.5,vsf,1', ("--keep", "flag")),
        ("group", "x", ("--alpha", "auto:none,1,2")),
        ("keep", "auto", ("--alpha", "auto:none,1,2@0.9")),
        ("group", "x", ("--keep", "auto", "--best-of", "2")),
        ("best_of,Judge,judge_model,seed", "3,mllm,m,4", ()),
    ],
)
def test_the_table_makes_the_chosen_images_again_without_a_judge(
    columns: str, cells: str, options: tuple[str, ...], made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Seer(lambda alpha, seed: (True, alpha >= 2 or "boat" in made.passes[-1][-1].prompt, 0.9), shown=("bells", "legs"))
    judged_by(monkeypatch, judge)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    batch(*options, table=f"prompt,neg,{columns}\na red bike on a road,wheels,{cells}\na green boat on a road,sail,{cells}\n")
    # A journal that was lost is made anew from the files.
    Path("outputs/t/manifest.jsonl").unlink()
    batch(*options, table=Path("t.csv").read_text("utf-8"))
    text = Path("outputs/t/manifest.csv").read_text("utf-8")
    items, notes = items_of("manifest.csv", read_table(Path("manifest.csv"), text), {"size": "32"})
    files = (read_metadata(Path("outputs/t") / row["file"]).description or {} for row in manifest())
    assert [item.request.to_json() for item in items] == [file["request"] for file in files] and len(items) == 2
    assert all("where the method is none" in note for note in notes) and not any(item.request.chooses for item in items)


def test_strict_counts_the_images_of_earlier_runs(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, Seer(from_two_on))
    assert "content with 3 of 6 images" in batch("--strict", code=3).stderr.replace("\n", " ")
    assert "content with 3 of 6 images" in batch("--strict", code=3).stderr.replace("\n", " ") and len(made.passes) == 9
    shutil.rmtree("outputs")


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("prompt,neg\na red bike,wheels\n", ("--strict",), "--strict is for a choice between images"),
        ("prompt,neg\na red bike,wheels\n", ("--keep-all",), "--keep-all is for a choice between images"),
        ("prompt,neg\na red bike,wheels\n", ("--judge", "scenes"), "--judge is for a choice between images"),
        (
            "prompt,neg,alpha\na red bike,sun,auto\n",
            (),
            "judge scenes knows wheels, basket, flag of a bike, but not sun: choose --judge mllm or vlm",
        ),
        ("prompt,neg,alpha\na red bike,wheels,auto:x\n", (), "column alpha: 'x' is no strength"),
        ("prompt,neg,alpha,method\na red bike,wheels,auto,nag\n", (), "is VSF's"),
        ("prompt,neg,alpha,judge\na red bike,wheels,auto,nobody\n", (), "--judge is 'nobody'"),
    ],
)
def test_a_choice_that_cannot_be_made_is_said_before_the_work(table: str, options: tuple[str, ...], message: str) -> None:
    found = " ".join(batch(*options, table=table, code=6).stderr.split())
    assert message in found and not Path("outputs").exists()


@pytest.mark.parametrize(
    "command", [("batch", "t.csv"), ("eval", "run", "scenes", "--methods-file", "m.toml", "--method", "all")]
)
def test_a_judge_that_cannot_be_downloaded_is_said_before_the_work(
    command: tuple[str, ...], made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSF_JUDGE", "clip")
    Path("t.csv").write_text(TABLE, "utf-8")
    Path("m.toml").write_text('[vsf]\nmethod = "vsf"\nalpha = "auto:1,2,4"\n')
    result = CliRunner().invoke(app, [*command, "--offline"])
    assert result.exit_code == 4 and "--offline forbids to download it" in " ".join(result.stderr.split()), result.output
    assert not made.passes and not Path("outputs").exists()


def test_the_judge_runs_on_the_device_of_the_command_line(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    monkeypatch.setattr(plan, "judge_of", lambda _, device: devices.append(device) or Seer(from_two_on))
    batch("--device", "cpu", "--dry-run")
    assert {*devices} == {"cpu"}


def test_the_strip_of_a_file_has_no_other_files_name(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, Seer(from_two_on))
    strip = tried_of(Path("bike.png")).name
    table = f"prompt,neg,name\na red bike on a road,wheels,bike.png\na green tree on a road,leaves,{strip}\n"
    found = " ".join(batch("--alpha", "auto", "--keep-all", table=table, code=6).stderr.split())
    assert f"line 3, column name: '{strip}' is the strip of line 2" in found and not made.passes
    batch("--alpha", "auto", table=table)


def test_a_report_has_the_mean_number_of_runs(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, Seer(lambda alpha, seed: (True, alpha >= 1 + seed, 0.9)))
    Path("m.toml").write_text('[none]\nmethod = "none"\n[vsf]\nmethod = "vsf"\nalpha = "auto:1,2,4"\n')
    options = ["--methods-file", "m.toml", "--method", "all", "--seeds", "1", "--limit", "3", "-o", "run", "--batch-size", "2"]
    result = CliRunner().invoke(app, ["eval", "run", "scenes", *options])
    assert result.exit_code == 0, result.output
    run = Run.read(Path("run"))
    samples = run.samples()
    assert [(one.variant, one.seed, one.runs) for one in samples] == [
        *[("none", seed, 1) for seed in range(3)],
        *[("vsf", seed, seed + 1) for seed in range(3)],
    ]
    rows = tabulate(run, [Judged(sample, True, True, 0.9, "") for sample in samples])
    assert [row["runs"] for row in rows] == [1, 2]
