"""`vsf batch`: tables, ids, resuming after any end, failures, shards."""

import csv
import json
import os
import random
import shutil
import signal
import time
import weakref
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import vsf_cli.batch.worker as worker
from tests.drawn import AnyPipe, drawn
from tests.processes import TIMEOUT, run_python, running_vsf, wait_until
from vsf_cli.batch.items import Item, items_of
from vsf_cli.batch.journal import Journal, read_journals
from vsf_cli.batch.shards import Shard
from vsf_cli.batch.table import TableErrors, read_table
from vsf_cli.cli.app import app
from vsf_cli.config.ranges import ValueList
from vsf_cli.errors import MediaError, OutOfMemory, PictureError, RequestError
from vsf_cli.generation.capture import PAGE
from vsf_cli.loading.runtime import Runtime
from vsf_cli.media.reading import read_metadata

TABLE = "prompt,neg,alpha,Category\na red bike on a road,wheels,,x\na tree on sand,leaves,2,y\na blue house on snow,roof,3,x\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(*arguments: str, table: str = TABLE, code: int = 0) -> Result:
    Path("prompts.csv").write_text(table, "utf-8")
    result = CliRunner().invoke(app, ["batch", "prompts.csv", "--steps", "2", *arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def planned(table: str, name: str = "a.csv", **options: Any) -> list[Item]:
    return items_of(name, read_table(Path(name), table), options)[0]


def manifest(folder: str = "outputs/prompts") -> list[dict[str, str]]:
    with (Path(folder) / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffprompt,negative,alpha,note\na bike,wheels,2,x\n"),
        ("a.csv", 'Prompt;NEG;scale;note\r\n"a bike";wheels;2;x\r\n'),
        ("a.tsv", "text\tnegative_prompt\tAlpha\tnote\na bike\twheels\t2\tx\n"),
        ("a.jsonl", '\n{"prompt": "a bike", "neg": ["wheels"], "alpha": 2, "note": "x"}\n'),
        ("a.toml", '[[rows]]\nprompt = "a bike"\nnegative = "wheels"\nalpha = 2.0\nnote = "x"\n'),
        ("stdin", '{"prompt": "a bike", "neg": "wheels", "alpha": "2", "note": "x"}'),
        ("-", '# mine\n\n[[rows]]\nprompt = "a bike"\nnegative = "wheels"\nalpha = 2.0\nnote = "x"\n'),
    ],
)
def test_every_kind_of_table(name: str, text: str) -> None:
    (row,) = read_table(Path(name), text)
    assert (row.prompt, row.negative, row.settings, row.cells["note"]) == ("a bike", ("wheels",), {"alpha": (2,)}, "x")


def test_maps_are_written_beside_each_picture() -> None:
    from vsf_cli.maps.data import load

    result = batch(
        "--dump-attn", "--batch-size", "4", table="prompt,neg,name\na red bike on a road,wheels,a\na tree,leaves,b\n"
    )
    assert result.stdout.splitlines() == ["outputs/prompts/a.png", "outputs/prompts/b.png"]
    for name, word in (("a", "wheels"), ("b", "leaves")):
        maps = load(f"outputs/prompts/{name}-attn")
        assert maps.words() == [word] and maps.settings["request"]["negative"] == [word]
        assert Path(f"outputs/prompts/{name}-attn/index.html").exists()


def test_rows_without_maps_are_said_before_anything_is_made(here: Path) -> None:
    table = "prompt,neg,method\na tree,leaves,\na red bike,,\na blue house,roof,wef\na tree (leaves:-1),,none\n"
    found = " ".join(batch("--dump-attn", table=table, code=6).stderr.split())
    assert "line 3: attention maps show where a negative prompt acts, and there is none" in found
    assert "line 4, column method: method wef acts outside of attention" in found and "line 5" not in found
    assert not (here / "outputs").exists()


def test_cells_with_newlines_quotes_and_commas_keep_their_lines() -> None:
    rows = read_table(Path("a.csv"), 'prompt,seed\n"a\nbike, ""new""","1,3"\n\na tree,\n')
    assert [(row.line, row.prompt, row.seeds) for row in rows] == [(2, 'a\nbike, "new"', (1, 3)), (5, "a tree", None)]


def test_a_table_of_tabs_may_have_one_column_and_commas() -> None:
    assert [row.prompt for row in read_table(Path("a.tsv"), "prompt\na bike, red\n")] == ["a bike, red"]


def test_errors_of_cells_and_of_plans_are_said_together() -> None:
    table = "prompt,alpha,size\n" + "a red bike,,100x96\n" + "a red bike,x,\n" * 60
    found = batch(table=table, code=6).stderr.replace("\n", " ")
    assert "has 61 errors" in found and "line 2, column size: width is 100, but must be a multiple of 8" in found
    assert found.count("'x' is no number") == 49 and "has 11 more" in found


def test_seeds_are_ranges_and_lists_and_none_where_there_are_none() -> None:
    def seeds(table: str, name: str = "a.csv") -> list[Any]:
        return [row.seeds for row in read_table(Path(name), table)]

    assert seeds('prompt,seed\na,1:5:2\na,1-5 (+2)\na,"7,1..2"\na,18446744073709551615\na,-1\na,random\na,\n') == [
        *[(1, 3, 5)] * 2,
        (7, 1, 2),
        (2**64 - 1,),
        *[()] * 2,
        None,
    ]
    assert seeds('{"prompt": "a", "seed": [1, "4..5"]}', "a.jsonl") == [(1, 4, 5)]
    with pytest.raises(TableErrors, match="is no seed"):
        seeds("prompt,seed\na,1:-5:-1\n")


@pytest.mark.parametrize("seed", ["random", "-1"])
def test_a_seed_that_is_none_does_not_keep_a_run_from_going_on(seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "generate_batch", drawn)
    first = batch("--seed", seed).stdout.split()
    again = batch("--seed", seed)
    assert len(first) == 3 and again.stdout.split() == first and "3 of 3 images done already" in again.stderr
    assert [item.request.seed for item in planned("prompt,seed\na red bike,-1\n", alpha=ValueList([1]))]


def test_everything_that_is_wrong_is_said_at_once_with_its_place() -> None:
    table = "prompt,alpha,steps,name,attention_mask\na,x,1.5,../up,maybe\n,1,2,,\na,1,2,,,more\na,1,2,/abs,\n"
    with pytest.raises(TableErrors) as found:
        read_table(Path("a.csv"), table)
    places = [line.split(":")[0] for line in found.value.lines]
    assert places[4:] == ["line 3, column prompt", "line 4", "line 5, column name"]
    assert sorted(places[:4]) == [f"line 2, column {name}" for name in ("alpha", "attention_mask", "name", "steps")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("prompt,negatve\na,b\n", "line 1: the column 'negatve' is no option. Did you mean 'negative'?"),
        ("\nprompt,negatve\na,b\n", "line 2: the column 'negatve'"),
        ('{"prompt": "a"}\n{"promt": "b"}\n', "line 2: the column 'promt'"),
        ("promt\na\n", "Did you mean 'prompt'?"),
        ("prompt,text\na,b\n", "says the same as 'prompt'"),
        ("prompt,prompt\na,b\n", "more than once"),
        ('prompt\n"a\n', "quote that is not closed"),
        ("", "no rows"),
        ("prompt\n", "no rows"),
        ("prompt\na\0b\n", "NUL"),
        ("prompt\n" + "a" * 100_001 + "\n", "100001 characters"),
        ("prompt,width\na,64\n", "both width and height"),
        ('prompt,width,height\na,"64,96",64\n', "column width: it has 2 numbers, but must have one"),
        ("prompt,name\na," + "b/" * 600 + "c\n", "name fewer folders"),
        ("prompt,name\na,.hidden\n", "begins with a dot"),
        ("prompt,name\na," + "é" * 101 + "\n", "longer than 200 bytes"),
    ],
)
def test_a_table_that_is_not_legal(table: str, message: str) -> None:
    with pytest.raises(TableErrors, match="nothing was made") as found:
        read_table(Path("a.jsonl" if table.startswith("{") else "a.csv"), table)
    assert message in " ".join(found.value.lines)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300), st.sampled_from(["a.csv", "a.jsonl", "a.toml", "a"]))
def test_any_text_is_a_table_or_one_error(text: str, name: str) -> None:
    try:
        rows = read_table(Path(name), text)
    except TableErrors as error:
        assert error.lines
    else:
        assert rows and all(row.prompt for row in rows)


@pytest.mark.parametrize(
    "line", ['{"prompt": "a \\ud800"}', '{"prompt": "a", "neg": ["\\ud800"]}', '{"prompt": "a", "\\ud800": 1}']
)
def test_half_a_character_is_refused(line: str) -> None:
    with pytest.raises(TableErrors, match="lone surrogate"):
        read_table(Path("a.jsonl"), line)


nasty = st.one_of(
    st.sampled_from(
        ["../up", "/etc/passwd", "..\\up", "a/../../b", "é" * 200, "😀" * 90, "a\nb", '"', ",", "con", ".", "", "-"]
    ),
    st.text(max_size=40),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(nasty, nasty, nasty), max_size=4), st.booleans())
def test_no_cell_leads_out_of_the_folder(cells: list[tuple[str, str, str]], quoted: bool) -> None:
    lines = ["prompt,name,alpha"]
    for row in cells:
        lines.append(
            ",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' if quoted else cell for cell in ("a red bike", *row[1:]))
        )
    try:
        items = planned("\n".join(lines) + "\n")
    except RequestError:
        return
    folder = Path("/a/run")
    for item in items:
        path = Path(os.path.normpath(folder / item.name))
        assert path != folder and path.is_relative_to(folder) and len(path.name.encode()) <= 255


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=200), st.lists(nasty, min_size=1, max_size=3).map("prompt,name,neg\na red bike,".__add__("{}").format)
    ),
    st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.toml"]),
    st.booleans(),
)
def test_any_table_ends_with_a_code_and_stays_in_its_folder(here: Path, text: str, name: str, dry: bool) -> None:
    """Through the command line, with pictures that no model makes."""
    before = {path for path in here.rglob("*") if "run" not in path.parts and "cache" not in path.parts}
    (here / name).write_text(text, "utf-8", errors="replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "load_for", lambda *_: AnyPipe())
        patch.setattr(worker, "generate_batch", drawn)
        options = ["--dry-run"] if dry else []
        result = CliRunner().invoke(app, ["batch", name, "-o", "run", "--steps", "2", *options])
    assert result.exit_code in (0, 3, 6) and isinstance(result.exception, (SystemExit, type(None))), result.output
    after = {path for path in here.rglob("*") if "run" not in path.parts and "cache" not in path.parts}
    assert after - before <= {here / name} and not (dry and (here / "run" / "manifest.jsonl").exists())
    shutil.rmtree(here / "run", ignore_errors=True)


def test_one_table_mixes_pictures_and_clips_and_loads_each_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, genuine = [], worker.load_for
    monkeypatch.setattr(worker, "load_for", lambda request, *rest: loaded.append(request.model) or genuine(request, *rest))
    presets = ["tiny-sd3-turbo", "tiny-wan-causvid"]
    rows = "".join(f"a red car on a road,{preset},{seed},32x32,5\n" for seed in (1, 2) for preset in presets)
    paths = batch(table=f"prompt,preset,seed,size,frames\n{rows}").stdout.split()
    assert sorted(Path(path).suffix for path in paths) == [".mp4", ".mp4", ".png", ".png"]
    assert sorted(loaded) == ["builtin:tiny-sd3-turbo", "builtin:tiny-wan"]
    assert all(read_metadata(Path(path)).description for path in paths)


def test_a_text_is_encoded_once_for_all_of_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    genuine = worker.load_for

    def watched(*arguments: Any) -> Any:
        pipe = genuine(*arguments)
        for name in ("text_encoder", "text_encoder_3"):
            getattr(pipe, name).register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
            encoder = getattr(pipe, name)
            forward = encoder.forward
            monkeypatch.setattr(
                encoder,
                "forward",
                lambda *a, forward=forward, name=name, **k: calls.update([f"{name} ran"]) or forward(*a, **k),
            )
        return pipe

    monkeypatch.setattr(worker, "load_for", watched)
    batch(table="prompt,neg,seed\na red car,wheels,1..4\n")
    for name in ("text_encoder", "text_encoder_3"):
        assert calls[name] == 8 and calls[f"{name} ran"] == 2, "the prompt and the negative, once each"


def test_what_planning_refuses_is_said_with_the_columns_own_name() -> None:
    rows = read_table(Path("a.csv"), "prompt,neg\na bike,wheels:-2\na car,wheels\n")
    with pytest.raises(TableErrors, match="line 2, column neg: "):
        items_of("a.csv", rows, {})


@pytest.mark.parametrize("preset", ["tiny-sd3-turbo", "tiny-wan-causvid"])
@pytest.mark.parametrize("name", ["manifest.csv", "Manifest-1of2.jsonl", "index.html", "sheet-1.png", "sheet-2", "x.png.json"])
def test_the_runs_own_files_are_no_names(preset: str, name: str) -> None:
    table = f"prompt,name,preset,format\na red car,{name},{preset},{'frames' if 'wan' in preset else ''}\n"
    try:
        (item,) = planned(table)
    except RequestError as error:
        assert "is a file of the run itself" in str(error)
    else:
        assert item.name not in ("manifest.csv", "index.html", "sheet-1.png") and not item.name.endswith(".json")


def test_a_file_of_one_row_is_no_folder_of_another() -> None:
    with pytest.raises(TableErrors, match=r"line 3, column name: 'a.png' is a file of line 2, and can be no folder, too"):
        planned("prompt,name\na red bike,a\na red car,a.png/b\n")
    with pytest.raises(TableErrors, match=r"line 3, column name: line 2 has the name 'a' too"):
        planned("prompt,name\na red bike,a\na red car,a.png\n")


def test_the_ending_of_a_name_is_that_of_the_format() -> None:
    table = "prompt,file_name,format\na red bike,one.png,\na red car,two.JPG,webp\na tree,three.5,jpeg\n"
    assert [item.name for item in planned(table)] == ["one.png", "two.webp", "three.5.jpg"]
    assert [item.format for item in planned(table)] == ["png", "webp", "jpeg"]


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
@pytest.mark.parametrize("folder", ["x" * 300, "x/" * 2500, "prompts.csv"])
def test_a_folder_that_cannot_be_is_one_line(folder: str, option: list[str]) -> None:
    assert "with -o" in batch("-o", folder, *option, code=1).stderr.replace("\n", " ")


def test_the_rate_of_clips_is_their_own_or_that_of_the_run() -> None:
    table = "prompt,preset,crf,frames\na red car,tiny-wan-causvid,20,5\na red car,tiny-wan-causvid,,5\na red car,,,\n"
    assert [item.crf for item in planned(table, crf=ValueList([30]))] == [20, 30, None]
    swept = planned("prompt,preset\na red car,tiny-wan-causvid\n", crf=ValueList([20, 30]))
    assert [item.crf for item in swept] == [20, 30] and len({item.name for item in swept}) == 2
    first, second = (planned(table, crf=ValueList([crf])) for crf in (30, 40))
    assert [(one.id == other.id, one.request == other.request) for one, other in zip(first, second, strict=True)] == [
        (True, True),
        (False, True),
        (True, True),
    ], "another encoder is another file: a run taken up again makes it"
    for cell in ("99", '"20,99"'):
        with pytest.raises(TableErrors, match="column crf: --crf is 99, but must be 1 to 51 for mp4"):
            planned(f"prompt,preset,crf\na red car,tiny-wan-causvid,{cell}\n")
    with pytest.raises(TableErrors, match="--crf is for mp4 and webm"):
        planned("prompt,crf\na red bike,20\n")
    assert "--crf is for mp4 and webm, but the format is png" in batch("--crf", "20", code=6).stderr


def test_loras_are_known_by_what_is_in_them(here: Path) -> None:
    def ids(*folders: str) -> list[str]:
        return [item.id for folder in folders for item in planned(f"prompt,lora,seed\na red bike,{folder}/a.safetensors,1\n")]

    for folder, content in [("one", b"1"), ("two", b"2"), ("three", b"1")]:
        (here / folder).mkdir()
        (here / folder / "a.safetensors").write_bytes(content)
    first, second, third = ids("one", "two", "three")
    assert first == third != second
    (here / "one" / "a.safetensors").write_bytes(b"22")
    assert ids("one") != [first]


def test_a_sweep_is_made_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counting(pipe: Any, requests: Any, *_: Any, **__: Any) -> Any:
        made.append(len(requests))
        return drawn(pipe, requests)

    monkeypatch.setattr(worker, "generate_batch", counting)
    batch("--batch-size", "3", "--beta", "0,1", table=TABLE.replace(",3,x", ",,x").replace("2,y", ",y"))
    assert made == [3, 3]


def test_ids_depend_on_what_is_asked_alone() -> None:
    first = {item.request.prompt: item.id for item in planned(TABLE)}
    header, *rows = TABLE.strip().split("\n")
    shuffled = "\n".join([f"extra,{header}", *(f"e,{row}" for row in reversed(rows))])
    assert {item.request.prompt: item.id for item in planned(shuffled)} == first
    assert {item.request.prompt: item.id for item in planned(TABLE, beta=ValueList([0.1]))} != first


def test_rows_that_are_the_same_give_different_pictures_and_sweeps_the_same_noise() -> None:
    twice = planned("prompt\na red bike\na red bike\n")
    assert twice[0].request.seed != twice[1].request.seed and twice[0].id != twice[1].id
    swept = planned("prompt,neg,alpha\na red bike,wheels,0..2/3\n")
    assert len({item.request.seed for item in swept}) == 1 and len({item.id for item in swept}) == 3


PLANNED = """
import sys
from pathlib import Path
from vsf_cli.batch.items import items_of
from vsf_cli.batch.table import read_table

def calls(count):
    lines = [f"a red bike on a road,wheels,{number},{number / count}" for number in range(count)]
    made = 0
    def counted(*_):
        nonlocal made
        made += 1
    sys.setprofile(counted)
    items, _ = items_of("many.csv", read_table(Path("many.csv"), "prompt,neg,seed,alpha\\n" + "\\n".join(lines)), {})
    sys.setprofile(None)
    assert len({item.id for item in items}) == count
    return made

calls(1)
print(calls(200) < 4.2 * calls(50), "torch" in sys.modules)
"""


def test_planning_takes_calls_in_proportion_to_the_rows_and_no_torch() -> None:
    found = run_python("-c", PLANNED)
    assert found.stdout.split() == ["True", "False"], found.stderr


def test_a_run_writes_each_picture_its_journal_and_a_table() -> None:
    result = batch()
    paths = result.stdout.split()
    assert len(paths) == 3
    for path, row in zip(paths, manifest(), strict=True):
        found = read_metadata(Path(path)).description
        assert found is not None and found["item"] == row["id"] and row["status"] == "done" and Path(path).name == row["file"]
        assert found["request"]["negative"] == [row["neg"]] and row["Category"] in "xy"
    assert [row["vsf_alpha"] for row in manifest()] == ["2.5", "2.0", "3.0"]
    again = batch()
    assert again.stdout.split() == paths and "3 of 3 images done already" in again.stderr
    lines = [json.loads(line) for line in batch("--json").stdout.splitlines()]
    assert [(line["path"], line["error"]) for line in lines] == [(path, None) for path in paths]


def test_the_picture_is_the_truth_and_the_journal_a_cache(here: Path) -> None:
    paths = [Path(path) for path in batch().stdout.split()]
    whole = [path.read_bytes() for path in paths]
    paths[1].write_bytes(whole[1][:-300])
    journal = here / "outputs" / "prompts" / "manifest.jsonl"
    journal.write_text(journal.read_text().split("\n")[0][:30])
    result = batch()
    assert result.stdout.split()[-1] == str(paths[1]) and "2 of 3 images done already" in result.stderr
    assert [path.read_bytes() for path in paths] == whole
    assert {line["status"] for line in read_journals(journal.parent).values()} == {"done"}


def test_a_picture_of_another_request_is_made_again() -> None:
    table = "prompt,name,alpha\na red bike,one,{}\n"
    batch(table=table.format(1))
    before = read_metadata(Path("outputs/prompts/one.png")).description
    assert batch(
        table=table.format(2),
    ).stdout.split() == ["outputs/prompts/one.png"]
    after = read_metadata(Path("outputs/prompts/one.png")).description
    assert before and after and (before["request"]["parameters"]["alpha"], after["request"]["parameters"]["alpha"]) == (1, 2)


def test_rows_that_ask_for_the_same_under_two_names_leave_two_files() -> None:
    table = "prompt,negative,seed,name\na red bike,wheels,1,one\na red bike,wheels,1,two\n"
    first, second = [Path(path) for path in batch("--steps", "2", table=table).stdout.split()]
    assert (first.name, second.name) == ("one.png", "two.png") and first.read_bytes() == second.read_bytes()
    assert [row["status"] for row in manifest()] == ["done", "done"] and len({row["id"] for row in manifest()}) == 1
    first.unlink()
    assert batch("--steps", "2", table=table).stdout.split() == [str(second), str(first)]


def test_batches_are_the_same_to_rounding(here: Path) -> None:
    from PIL import Image, ImageChops

    table = "prompt,neg\n" + "".join(
        f"a red {name},{part}\n" for name, part in [("bike", "wheels"), ("tree", ""), ("car", "door")]
    )
    single = batch("-o", "one", table=table).stdout.split()
    together = batch("-o", "three", "--batch-size", "3", table=table).stdout.split()
    for first, second in zip(single, together, strict=True):
        with Image.open(first) as one, Image.open(second) as other:
            largest = max(high for _, high in ImageChops.difference(one, other).getextrema())
        assert Path(first).name == Path(second).name and largest <= 2


def test_one_that_fails_does_not_stop_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = worker.generate_batch

    def failing(pipe: Any, requests: Any, *rest: Any, **options: Any) -> Any:
        if any("tree" in request.prompt for request in requests):
            raise PictureError("the picture is all black")
        return genuine(pipe, requests, *rest, **options)

    monkeypatch.setattr(worker, "generate_batch", failing)
    result = batch("--batch-size", "3", code=3)
    assert len(result.stdout.split()) == 2 and "the picture is all black" in result.stderr and "--retry-failed" in result.stderr
    assert [row["status"] for row in manifest()] == ["done", "failed", "done"]
    summary = next(line.split() for line in result.stderr.splitlines() if line.startswith("tiny-sd3-turbo"))
    assert summary[:4] == ["tiny-sd3-turbo", "vsf", "2", "1"] and summary[5] == "s"
    assert batch(code=3).stdout.split() == result.stdout.split(), "what failed is not tried again unless it is asked for"
    monkeypatch.setattr(worker, "generate_batch", genuine)
    assert len(batch("--retry-failed").stdout.split()) == 3 and [row["status"] for row in manifest()] == ["done"] * 3


def test_what_no_metadata_can_hold_is_refused_before_the_work() -> None:
    table = '{"prompt": "a red car", "negative": "wheels\\u0000", "preset": "tiny-wan-causvid", "frames": 5}'
    Path("rows.jsonl").write_text(f'{table}\n{{"prompt": "a tree on sand"}}\n')
    found = CliRunner().invoke(app, ["batch", "rows.jsonl", "--steps", "2"])
    assert found.exit_code == 6 and "line 1, column negative" in found.stderr and "NUL" in found.stderr, found.output
    assert not Path("outputs").exists()


def test_any_other_error_of_one_is_kept_with_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(pipe: Any, requests: Any, *rest: Any, **options: Any) -> Any:
        if "tree" in requests[0].prompt:
            raise IndexError("list index\nout of range")
        return drawn(pipe, requests)

    monkeypatch.setattr(worker, "generate_batch", failing)
    batch(code=3)
    assert [row["error"] for row in manifest()] == ["", "IndexError: list index out of range", ""]


def test_fail_fast_stops_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise PictureError("no")

    monkeypatch.setattr(worker, "generate_batch", failing)
    batch("--fail-fast", code=3)
    assert [row["status"] for row in manifest()].count("failed") == 1
    batch("--max-failures", "2", "-o", "two", code=3)
    assert [row["status"] for row in manifest("two")].count("failed") == 2


def test_memory_that_does_not_suffice_for_a_batch_may_suffice_for_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = worker.generate_batch

    tried = []

    def small(pipe: Any, requests: Any, *rest: Any, **options: Any) -> Any:
        tried.append(len(requests))
        if len(requests) > 2:
            raise OutOfMemory("out of memory")
        return genuine(pipe, requests, *rest, **options)

    monkeypatch.setattr(worker, "generate_batch", small)
    assert len(batch("--batch-size", "auto", table="prompt,seed\na red bike,1..6\n").stdout.split()) == 6
    lines = [json.loads(line) for line in Path("outputs/prompts/manifest.jsonl").read_text().splitlines()]
    assert tried == [6, 3, 2, 1, 3, 2, 1]
    assert [line["how"] for line in lines] == [f"in a batch of {size}" for size in (2, 2, 1, 2, 2, 1)]


def test_what_did_not_fit_is_let_go_before_the_next_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pipes: list[weakref.ref[AnyPipe]] = []

    def load(*_: Any) -> Any:
        assert all(pipe() is None for pipe in pipes), "the one before is still held"
        if len(pipes) == 1:
            pipes.append(weakref.ref(AnyPipe()))
            raise torch.OutOfMemoryError("while loading")
        pipe = AnyPipe("cuda")
        pipes.append(weakref.ref(pipe))
        return pipe

    def short(pipe: Any, requests: Any, *_: Any, **__: Any) -> Any:
        if len(pipes) < 3:
            raise OutOfMemory("out of memory")
        return drawn(pipe, requests)

    monkeypatch.setattr(worker, "load_for", load)
    monkeypatch.setattr(worker, "device_named", lambda _: torch.device("cuda"))
    monkeypatch.setattr(worker, "generate_batch", short)
    batch("--offload", "none", table="prompt\na red bike\na tree\n")
    lines = [json.loads(line) for line in Path("outputs/prompts/manifest.jsonl").read_text().splitlines()]
    assert [line["how"] for line in lines] == ["offload group"] * 2 and len(pipes) == 3


@pytest.mark.parametrize(
    ("asked", "used", "after"),
    [
        ("auto", "none", "model"),
        ("auto", "model", "group"),
        ("group", "group", "sequential"),
        ("auto", "sequential", None),
        ("auto", "cpu", None),
        ("model", None, "group"),
        ("auto", None, "model"),
    ],
)
def test_the_next_level_follows_the_one_in_use(
    asked: str, used: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "device_named", lambda _: torch.device("cuda"))
    found = worker.next_offload(Runtime(offload=asked), used)
    assert (found.offload if found else None) == after
    monkeypatch.undo()
    assert worker.next_offload(Runtime("cpu", "none"), None) is None


def test_then_the_next_level_of_offloading_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, loaded = worker.generate_batch, []

    def load(request: Any, runtime: Any) -> Any:
        from vsf_cli.loading.pipelines import load

        loaded.append(runtime.offload)
        return load(request.model, request.dtype)

    def short(pipe: Any, requests: Any, *rest: Any, **options: Any) -> Any:
        if len(loaded) < 3:
            raise OutOfMemory("out of memory")
        return genuine(pipe, requests, *rest, **options)

    levels = iter(["model", "group"])
    monkeypatch.setattr(worker, "load_for", load)
    monkeypatch.setattr(worker, "generate_batch", short)
    monkeypatch.setattr(worker, "next_offload", lambda runtime, _: worker.replace(runtime, offload=next(levels)))
    assert len(batch(table="prompt\na red bike\n").stdout.split()) == 1 and loaded == ["auto", "model", "group"]


def test_shards_are_disjoint_and_together_the_whole() -> None:
    items = planned("prompt,seed\na red bike,1..60\n")
    parts = [{item.id for item in items if Shard(number, 3).holds(item)} for number in (1, 2, 3)]
    assert set.union(*parts) == {item.id for item in items} and sum(map(len, parts)) == 60 and all(parts)

    table = "prompt,seed\na red bike,1..5\n"
    for number in (1, 2, 3):
        batch("-o", "shards", "--shard", f"{number}/3", table=table)
    batch("-o", "whole", table=table)
    names = {path.name for path in Path("whole").glob("*.png")}
    assert {path.name for path in Path("shards").glob("*.png")} == names and len(names) == 5
    assert all((Path("shards") / name).read_bytes() == (Path("whole") / name).read_bytes() for name in names)
    assert [row["status"] for row in manifest("shards")] == ["done"] * 5


def test_slurms_arrays_are_found() -> None:
    variables = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert Shard.parse("auto", variables) == Shard(3, 4)
    assert Shard.parse("auto", {**variables, "SLURM_ARRAY_TASK_STEP": "2"}) == Shard(2, 4)
    with pytest.raises(RequestError, match="finds no SLURM array"):
        Shard.parse("auto", {})
    with pytest.raises(RequestError, match="must be one of"):
        Shard.parse("4/3")
    with pytest.raises(ValueError, match="is no shard"):
        Shard.parse("one")


def test_a_second_run_of_the_same_shard_is_refused(here: Path) -> None:
    with Journal(here, "").locked():
        with pytest.raises(MediaError, match=f"process {os.getpid()} on .* since"), Journal(here, "").locked():
            pass
        with Journal(here, "-1of2").locked():
            pass
    with Journal(here, "").locked():
        pass


def test_a_dry_run_makes_nothing_and_estimates_from_what_was_made(here: Path) -> None:
    found = json.loads(batch("--dry-run", "--json").stdout)
    assert (found["rows"], found["items"], found["left"], found["estimated_seconds"]) == (3, 3, 3, None)
    assert not (here / "outputs").exists()
    batch()
    found = json.loads(batch("--dry-run", "--json", "-o", "other").stdout)
    assert found["left"] == 3 and found["estimated_seconds"] > 0


def running(*arguments: str) -> AbstractContextManager[Any]:
    return running_vsf("batch", "prompts.csv", "--steps", "2", *arguments)


@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_at_random_moments_ends_as_an_undisturbed_one(here: Path) -> None:
    """Each kill comes one to six pictures after the start, within the work on the next: KILLS=30 in the environment for 30."""
    table = "prompt,neg,seed\na red bike on a road,wheels,1..20\n"
    batch("-o", "whole", table=table)
    whole = {path.name: path.read_bytes() for path in (here / "whole").glob("*.png")}
    assert len(whole) == 20
    chance = random.Random(int(os.environ.get("KILLS_SEED", "0")))
    folder, kills = here / "killed", 0
    while kills < int(os.environ.get("KILLS", "3")):
        wanted = len(list(folder.glob("*.png"))) + chance.randint(1, 6)
        with running("-o", "killed") as process:
            wait_until(lambda wanted=wanted: process.poll() is not None or len(list(folder.glob("*.png"))) >= wanted)
            time.sleep(chance.uniform(0, 0.2))
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            check_as_undisturbed(folder, whole)
            shutil.rmtree(folder)
    batch("-o", "killed", table=table)
    check_as_undisturbed(folder, whole)


def check_as_undisturbed(folder: Path, whole: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == whole
    assert not list(folder.glob(".vsf-*")) and [row["status"] for row in manifest(str(folder))] == ["done"] * len(whole)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines() if line.endswith("}")]
    assert len({line["id"] for line in lines}) == len(lines), "no picture was made twice"


def test_ctrl_c_finishes_the_picture_at_hand(here: Path) -> None:
    Path("prompts.csv").write_text("prompt,seed\na red bike,1..500\n")
    folder = here / "outputs" / "prompts"
    with running() as process:
        wait_until(lambda: process.poll() is not None or len(list(folder.glob("*.png"))) >= 2)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130 and "Traceback" not in talk
    assert talk.rstrip().endswith("error: interrupted; finished files are kept; the same command goes on")
    made = list(folder.glob("*.png"))
    assert 2 <= len(made) < 500 and all(read_metadata(path).description for path in made) and not list(folder.glob(".vsf-*"))
    assert [row["status"] for row in manifest()].count("done") == len(made)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_twice_stops_at_once(here: Path, workers: int) -> None:
    Path("prompts.csv").write_text("prompt,seed\na red bike,1..500\n")
    folder = here / "outputs" / "prompts"
    with running("--workers", str(workers)) as process:
        wait_until(lambda: process.poll() is not None or len(list(folder.glob("*.png"))) >= 2)
        children = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        assert len(children) == (workers if workers > 1 else 0)
        process.send_signal(signal.SIGINT)
        assert any("Ctrl-C again" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130 and "Traceback" not in talk
    assert all(not child.is_running() or child.status() == psutil.STATUS_ZOMBIE for child in children)
    made = list(folder.glob("*.png"))
    assert 2 <= len(made) < 500 and not (folder / "manifest.csv").exists() and not (folder / "index.html").exists()
    assert all(read_metadata(path).description for path in made) and not list(folder.glob(".vsf-*"))
    found = json.loads(CliRunner().invoke(app, ["batch", "prompts.csv", "--steps", "2", "--dry-run", "--json"]).stdout)
    assert found["done"] == len(made)


def test_a_file_that_was_deleted_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "generate_batch", drawn)
    first, *_ = batch().stdout.split()
    Path(first).unlink()
    batch("--shard", f"{2 if Shard(1, 2).holds(planned(TABLE, steps=ValueList([2]))[0]) else 1}/2")
    assert [row["status"] for row in manifest()] == ["left", "done", "done"]


def test_files_beside_images_that_are_done_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: Any, folder: Path, *__: Any) -> None:
        (folder / PAGE).parent.mkdir()
        (folder / PAGE).touch()

    monkeypatch.setattr(worker, "load_for", lambda *_: AnyPipe())
    monkeypatch.setattr(worker, "generate_batch", drawn)
    monkeypatch.setattr(worker, "capture", lambda pipe, request, *_: SimpleNamespace(result=drawn(pipe, [request])[0]))
    monkeypatch.setattr(worker, "write_capture", write)
    paths = batch().stdout.split()
    assert batch("--sidecar").stdout.split() == paths
    sidecars = [json.loads(Path(f"{path}.json").read_text("utf-8")) for path in paths]
    assert [one["request"]["negative"] for one in sidecars] == [["wheels"], ["leaves"], ["roof"]]
    assert "0 of 3 images done" not in (found := batch("--dump-attn")).stderr and found.stdout.split() == paths
    assert all("3 of 3 images done already" in batch(*options).stderr for options in (("--dump-attn", "--sidecar"), ()))


def test_numbers_without_effect_are_in_no_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "load_for", lambda *_: AnyPipe())
    monkeypatch.setattr(worker, "generate_batch", drawn)
    found = batch("--offload", "group", table="prompt,neg\na red bike,wheels\na red car,\n")
    assert [row["beta"] for row in manifest()] == ["0.5", ""]
    assert found.stderr.count("--offload group has no effect: the model runs on the CPU") == 1


def test_words_are_replaced_in_every_row() -> None:
    table = "prompt,neg,name\na red bike on a road,wheels,bike\na red car on grass,wheels,car\n"
    batch("--sr", "Red=>blue,green", "--sr", "wheels=>wheels", "--seed", "1", "--sheet", table=table)
    rows = manifest()
    assert [row["Red=>"] for row in rows] == ["blue", "green"] * 2
    assert [row["file"] for row in rows] == [
        f"{name}-{color}-wheels.png" for name in ("bike", "car") for color in ("blue", "green")
    ]
    found = read_metadata(Path("outputs/prompts/bike-green-wheels.png")).description
    assert found is not None and found["request"]["prompt"] == "a green bike on a road"
    assert Path("outputs/prompts/sheet-1.png").is_file()


def test_words_are_replaced_in_the_negative_of_the_command_line() -> None:
    batch("-n", "wheels", "--sr", "wheels=>door,windows", "--dry-run", table="prompt,neg\na red car,\na bike,wheels\n")
    assert "'hat' of --sr is in none" in batch("--sr", "hat=>doors", "--dry-run", code=6).stderr


def test_rows_without_the_words_are_made_as_they_are() -> None:
    found = batch("--sr", "roof=>door,windows", "--dry-run")
    assert "3 rows, 4 images" in found.stdout.replace("4 rows", "3 rows")
    assert "'roof' of --sr is not in the texts of 2 rows" in found.stderr
    found = batch("--sr", "roof=>door", "--sr", "door=>windows", "--sr", "roof=>hat", "--dry-run", code=6)
    assert "'roof' of --sr is in none of its texts: neither in them nor in what an earlier" in found.stderr


def test_what_cannot_be_replaced_is_said() -> None:
    found = batch("--sr", "hat=>door", code=6).stderr
    assert "'hat' of --sr is in none of its texts" in found
    assert "is no replacement" in " ".join(batch("--sr", "roof", code=2).stderr.replace("│", "").split())


def test_more_sheets_than_there_may_be_are_refused_before_the_first_step() -> None:
    found = batch("--seed", "1..2000", "--sheet", code=6)
    assert "--sheet is for 5000 images at most, but there are 6000" in found.stderr and not Path("outputs").exists()
