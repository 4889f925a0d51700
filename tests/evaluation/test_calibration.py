"""`vsf eval calibrate`: a judge against labels, with numbers that were computed by hand."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.clip_model import random_clip
from tests.judged import Together
from vsf_cli.cli.app import app
from vsf_cli.errors import VSFError
from vsf_cli.evaluation.calibration import read_labels
from vsf_cli.evaluation.statistics import wilson_interval
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.media.reading import read_frames
from vsf_cli.toy.networks import ConvolutionalJudge

CHECK = Path(__file__).parents[2] / "docs" / "labels" / "check"
ABSENT = (True, True, True, False, False)
SCORES = (0.9, 0.6, 0.3, 0.4, 0.1)


def vsf(*words: str) -> Any:
    return CliRunner().invoke(app, ["eval", "calibrate", *words])


class Scripted:
    """A judge whose score of absence is a hundredth of the first pixel, and who says absent above 0.65."""

    name, workers = "scripted", 2

    def __init__(self, fails: tuple[int, ...] = (), costly: bool = False, scores: bool = True) -> None:
        self.fails, self.costly, self.scores = fails, costly, scores
        self.settings: Mapping[str, Any] = MappingProxyType({"name": "scripted", "model": "m"})
        self.asked: list[tuple[int, Record]] = []

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        value = image.getpixel((0, 0))[0]  # type: ignore[index]
        self.asked.append((value, record))
        if value in self.fails:
            raise VSFError("busy")
        score = value / 100
        return Judgement(value != 40, score > 0.65, 0.5, scores={"absent": score} if self.scores else None)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five labels, whose images have the scores."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    rows = [("file", "prompt", "negative", "object", "absent", "note")]
    for number, (absent, score) in enumerate(zip(ABSENT, SCORES, strict=True)):
        Image.new("RGB", (8, 8), (round(100 * score), 0, 0)).save(tmp_path / "images" / f"{number}.png")
        rows.append((f"images/{number}.png", "a red car", "wheels", "yes" if number else "", "yes" if absent else "no", ""))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "labels.csv"


def given(monkeypatch: pytest.MonkeyPatch, judge: Scripted) -> Scripted:
    monkeypatch.setattr("vsf_cli.judges.judge_named", lambda *_: judge)
    return judge


def test_numbers_are_those_of_the_definitions(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = given(monkeypatch, Scripted())
    done = vsf(str(table), "--json", "-o", "deep/result.json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["labels"] == "labels.csv" and report["judge"] == "scripted m" and "torch" in report["versions"]
    object_row, absent_row = report["rows"]
    # Above 0.65 is one of three absent ones. Of six pairs of an absent and another one, five have their scores in order.
    assert absent_row == {
        "question": "absent",
        "n": 5,
        "agreement": 0.6,
        "agreement_interval": list(wilson_interval(3, 5)),
        "counts": {"yes": {"yes": 1, "no": 2}, "no": {"yes": 0, "no": 2}},
        "precision": 1.0,
        "precision_interval": list(wilson_interval(1, 1)),
        "recall": 0.3333,
        "recall_interval": list(wilson_interval(1, 3)),
        "balanced_accuracy": 0.6667,
        "roc_area": 0.8333,
        "threshold": 0.5,
        "best_balanced_accuracy": 0.8333,
    }
    # The first row has no label of the object, the judge no score, and all labels are yes: the judge misses one.
    assert object_row["n"] == 4 and object_row["counts"] == {"yes": {"yes": 3, "no": 1}, "no": {"yes": 0, "no": 0}}
    assert (object_row["agreement"], object_row["precision"], object_row["recall"]) == (0.75, 1.0, 0.75)
    assert object_row["threshold"] is object_row["roc_area"] is object_row["balanced_accuracy"] is None
    assert "no ROC of 'object'" in done.stderr and "no ROC of 'absent'" not in done.stderr
    assert json.loads(Path("deep/result.json").read_text("utf-8")) == report
    assert {record.question_2 for _, record in judge.asked} == {"Are the wheels missing?"} and len(judge.asked) == 5

    shown = vsf(str(table)).stdout
    assert "0.600 (0.23-0.88)" in shown and "0.833" in shown and "best threshold" in shown


def test_a_judge_without_scores_has_no_threshold(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, Scripted(scores=False))
    done = vsf(str(table), "--json")
    (_, row) = json.loads(done.stdout)["rows"]
    assert row["agreement"] == 0.6 and row["threshold"] is row["roc_area"] is row["best_balanced_accuracy"] is None
    assert "no ROC of 'absent': the judge gives no scores of it" in done.stderr


def test_answers_that_cost_are_kept(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = given(monkeypatch, Scripted(fails=(40, 10), costly=True))
    done = vsf(str(table))
    assert done.exit_code == 3 and "2 labels not compared: run the same command again" in done.stderr and not done.stdout
    assert "3.png: busy" in done.stderr and len(judge.asked) == 5
    judge.fails = ()
    assert vsf(str(table)).exit_code == 0
    assert sorted(value for value, _ in judge.asked[5:]) == [10, 40]


def test_labels_are_judged_several_at_a_time(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The red values 90, 60, 30, 40 and 10 as grey ones.
    judges = [Together(2, fails=(9,)), Together(2)]
    for judge, code in zip(judges, (3, 0), strict=True):
        monkeypatch.setattr("vsf_cli.judges.judge_named", lambda *_, judge=judge: judge)
        done = vsf(str(table))
        assert done.exit_code == code and ("1 label not compared" in done.stderr) == (code == 3), done.output
    assert judges[0].passes == [[27, 18], [9, 12], [9], [12], [3]] and judges[1].passes == [[9]]


def test_clip_has_a_curve_of_absence(table: Path) -> None:
    place = random_clip(table.parent / "clip")
    done = vsf(str(table), "--json", "--judge", "clip", "--judge-model", place, "--judge-batch-size", "2")
    assert done.exit_code == 0, done.output
    object_row, absent_row = json.loads(done.stdout)["rows"]
    assert 0 <= absent_row["roc_area"] <= 1 and absent_row["threshold"] is not None and object_row["roc_area"] is None
    assert len(Path("outputs/calibrate-clip.jsonl").read_text("utf-8").splitlines()) == 5


def test_a_table_of_scenes_is_read_as_it_is(tmp_path: Path) -> None:
    """The built-in judge's score is its probability, and a damaged part is not absent."""
    with (CHECK / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = read_labels(CHECK / "labels.csv")
    assert len(labels) == len(rows)
    for label, row in zip(labels, rows, strict=True):
        assert (label.record.prompt, label.record.category, label.record.negative) == (
            row["prompt"],
            row["object"],
            row["part"],
        )
        assert label.labels == {"absent": row["label"] == "absent"} and label.path == CHECK / row["file"]

    some, path = rows[:6], tmp_path / "some.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([str(CHECK / row["file"]), *[*row.values()][1:]] for row in some)])
    done = vsf(str(path), "--json", "--judge", "scenes")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["rows"]
    judge = ConvolutionalJudge.load()
    states = [judge.verdicts(read_frames(CHECK / row["file"]))[0].state(row["part"]) for row in some]
    agreeing = sum((row["label"] == "absent") == (state == "absent") for row, state in zip(some, states, strict=True))
    assert found["n"] == 6 and found["agreement"] == round(agreeing / 6, 4) and found["threshold"] is not None


HEAD = "file,prompt,negative,absent\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "file,prompt,absent\na.png,a car,yes\n",
            "its columns are file, prompt, absent, but a table of labels has",
        ),
        ("file,prompt,negative\na.png,a car,wheels\n", "its columns are file, prompt, negative, but a table of labels has"),
        (HEAD, "its columns are none"),
        (f"{HEAD}a.png,a car,wheels,perhaps\n", "line 2: 'absent' is labelled 'perhaps', but must be yes or no"),
        (f"{HEAD}a.png,a car,wheels,\n", "line 2: it has no label: write yes or no into object or absent"),
        (f"{HEAD}a.png,a car,,yes\n", "line 2: 'negative' is empty"),
        (f"{HEAD}a.png,a car,wheels,yes\nb.png,a car,wheels,yes\n", "line 3: there is no file b.png"),
        (f'{HEAD}a.png,"a car,wheels,yes\n', "look for a quote that is not closed"),
        ("file,prompt,object,part,label\na.png,a car,car,wheels,gone\n", "line 2: 'absent' is labelled 'gone'"),
        (HEAD + "c.png,a car,wheels,yes\n" * 7, "line 6: there is no file c.png; and 2 more"),
        ("PK\x03\x04", "is a workbook or an archive, but a table is text"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    if text is not None:
        Path("labels.csv").write_text(text, "utf-8")
    done = vsf("labels.csv")
    assert done.exit_code == 6 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_result_that_cannot_be_written_is_refused_first(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = given(monkeypatch, Scripted())
    done = vsf(str(table), "-o", f"{table}/result.json")
    assert done.exit_code == 1 and "cannot be written" in done.stderr and not judge.asked
    (table.parent / "images" / "3.png").write_bytes(b"no image")
    done = vsf(str(table))
    assert done.exit_code == 1 and "3.png cannot be read as an image" in done.stderr
