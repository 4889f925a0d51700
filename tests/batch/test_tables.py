"""Tables of prompts as spreadsheets, other programs and people write them."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vsf_cli.batch.items import items_of
from vsf_cli.batch.records import decode_table
from vsf_cli.batch.summary import write_manifest
from vsf_cli.batch.table import Row, TableErrors, read_table, unused_columns
from vsf_cli.cli.app import app
from vsf_cli.errors import RequestError


def rows(text: str, name: str = "a.csv") -> list[Row]:
    return read_table(Path(name), text)


def errors(text: str, name: str = "a.csv") -> list[str]:
    with pytest.raises(TableErrors) as found:
        rows(text, name)
    return found.value.lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt,negative,alpha,,\r\na bike,wheels,2,,\r\n,,,,\r\n"),
        ("a.csv", "prompt,negative,alpha\na bike,wheels,2,,\n"),
        ("a.csv", "sep=;\nprompt;negative;alpha\na bike;wheels;2\n"),
        ("a.csv", "\ufeffSEP=\t\r\nprompt\tnegative\talpha\r\na bike\twheels\t2,0\r\n"),
        ("a.csv", "Prompt,negativePrompt,ALPHA\ra bike,wheels,2\r"),
        ("a.csv", "prompt,Negative Prompt,negative,alpha\na bike,wheels,wheels,2.0\n"),
        ("a.json", '[{"prompt": "a bike", "negativePrompt": "wheels",\n "alpha": 2}]'),
        ("a.json", '{\n"prompt": "a bike",\n"negative": ["wheels"],\n"alpha": 2\n}\n'),
        ("-", ' [ {"prompt": "a bike", "negative": "wheels", "alpha": "2"} ] '),
        ("a.csv", "prompt|negative|alpha\na bike|wheels|2\n"),
        ("a.txt", "prompt\tnegative\talpha\na bike\twheels\t2\n"),
    ],
)
def test_a_table_is_read_as_it_was_meant(name: str, text: str) -> None:
    (row,) = rows(text, name)
    assert (row.prompt, row.negative, row.settings) == ("a bike", ("wheels",), {"alpha": (2,)})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a bike, red; fast\n\n  a tree\n"),
        ("a.txt", "a bike, red; fast\r\na tree\r\n"),
        ("a.json", '["a bike, red; fast", {"prompt": "a tree"}]'),
    ],
)
def test_a_list_of_prompts_is_a_table(name: str, text: str) -> None:
    assert [row.prompt for row in rows(text, name)] == ["a bike, red; fast", "a tree"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_of_spreadsheets_are_read(encoding: str) -> None:
    assert decode_table("a.csv", "prompt\na café\n".encode(encoding)) == "prompt\na café\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04\x14", "workbook"),
        (b"\xd0\xcf\x11\xe0\xa1", "workbook"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"caf\xe9", "UTF-8"),
    ],
)
def test_what_is_no_text_is_named(data: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decode_table("a.xlsx", data)


@pytest.mark.parametrize(
    ("table", "settings", "noted"),
    [
        ("prompt;alpha\na;2,5\n", {"alpha": (2.5,)}, True),
        ("prompt\tbeta\na\t-0,25\n", {"beta": (-0.25,)}, True),
        ("prompt;steps\na;8,0\n", {"steps": (8,)}, True),
        ("prompt;alpha\na;2, 5\n", {"alpha": (2, 5)}, False),
        ("prompt;alpha\na;1,2,5\n", {"alpha": (1, 2, 5)}, False),
        ("prompt;steps\na;4,8\n", {"steps": (4, 8)}, False),
        ('prompt,alpha\na,"2,5"\n', {"alpha": (2, 5)}, False),
        ("prompt;alpha\na;2.5\n", {"alpha": (2.5,)}, False),
    ],
)
def test_a_decimal_comma_is_one_where_commas_do_not_separate_cells(table: str, settings: dict[str, Any], noted: bool) -> None:
    (row,) = rows(table)
    assert row.settings == settings and bool(row.notes) == noted


@pytest.mark.parametrize(("cell", "seeds"), [("3.0", (3,)), ("-1.0", ()), ("-1", ()), ("3.0,4", (3, 4)), ("7.00", (7,))])
def test_a_seed_may_have_the_point_of_a_spreadsheet(cell: str, seeds: tuple[int, ...]) -> None:
    assert rows(f'prompt,seed\na,"{cell}"\n')[0].seeds == seeds


@pytest.mark.parametrize("cell", ["1.23457E+12", "1E+15", "1,23457E+12"])
def test_a_seed_that_a_spreadsheet_shortened_is_refused(cell: str) -> None:
    assert "line 3, column Seed" in errors(f"prompt;Seed\na;1\nb;{cell}\n")[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a red car,wheels\na tree,leaves\n", "line 1: it names no column 'prompt', but 'a red car', 'wheels'"),
        ("a.tsv", "\nseed\talpha\n1\t2\n", "line 2: it names no column 'prompt', but 'seed', 'alpha'"),
        (
            "a.csv",
            "a red car on a road\n",
            "line 1: it names no column 'prompt', but 'a red car on a road': the header is missing",
        ),
        ("a.csv", "Ideas of May\n\nprompt,neg\na,b\n", "line 1: it names no column 'prompt', but 'Ideas of May'"),
        ("a.csv", "# of May\nprompt,neg\na,b\n", "line 1: it names no column 'prompt', but '# of May'"),
        ("a.csv", "prompt,neg\n\0\n", "line 2: it has a NUL byte, and is not a text in UTF-8: save it as UTF-8"),
        ("styles.csv", 'name,prompt\nmine,"{prompt}, best"\n', "line 2, column prompt: {prompt} stands for"),
        ("a.csv", "prompt,name\na,#REF!\n", "line 2, column name: '#REF!' is an error of the spreadsheet"),
        ("a.csv", "prompt,alpha\na,#N/A\n", "is an error of the spreadsheet"),
        ("a.csv", "prompt,\na,,x\n", "line 2: it has 3 cells"),
        ("a.json", '[{"prompt": "a"}\n', "the array is not closed"),
        ("a.json", '[{"prompt": "a"}] x', "something follows it"),
        ("a.json", '[\n{"prompt": "a"},\n{"prompt": }]', "line 3: not JSON"),
        ("a.json", '[{"prompt": "a"},\n\n3]', "line 3: it must be an object"),
        ("a.json", "[" * 100_000, "line 1: not JSON"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(name: str, text: str, message: str) -> None:
    (found,) = errors(text, name)
    assert message in found


def test_errors_are_in_the_order_of_the_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,steps,alpha\na,x,y\n,2,2\na,z,1\n", "utf-8")
    found = CliRunner().invoke(app, ["batch", str(path), "--dry-run"])
    assert found.exit_code == 6 and [line.partition("column ")[2].split(":")[0] for line in found.stderr.splitlines()] == [
        *("steps", "alpha", "prompt", "steps"),
    ]


def test_a_format_is_of_its_own_row_alone() -> None:
    formats = ["jpeg", "", "webp", "png", ""]
    table = "prompt,format\n" + "".join(f"a red car,{format}\n" for format in formats)
    items, _ = items_of("a.csv", rows(table), {})
    assert [item.format for item in items] == ["jpeg", "png", "webp", "png", "png"]
    assert [item.format for item in items_of("a.csv", rows(table), {"format": "webp"})[0]] == [
        "jpeg",
        *["webp"] * 2,
        "png",
        "webp",
    ]


@pytest.mark.parametrize("columns", ["Prompt,Seed,Alpha", "caption,SEED,scale", "prompt,seeds,name"])
def test_the_table_of_results_is_a_table_again(tmp_path: Path, columns: str) -> None:
    table = rows(f"{columns.replace('seeds', 'seed')}\na red car,7,2\na tree,8,3\n")
    items, _ = items_of("a.csv", table, {})
    text = write_manifest(tmp_path, items, table).read_text("utf-8")
    again = rows(text, "manifest.csv")
    assert [row.seeds for row in again] == [(7,), (8,)] and [row.prompt for row in again] == ["a red car", "a tree"]
    made, _ = items_of("manifest.csv", again, {})
    assert [item.id for item in made] == [item.id for item in items]
    assert len(set(next(csv.reader(io.StringIO(text))))) == len(next(csv.reader(io.StringIO(text))))


def test_an_id_is_a_name_where_nothing_else_is_one(tmp_path: Path) -> None:
    assert [row.name for row in rows("id,prompt\n7,a red car\n")] == ["7"]
    table = rows("id,name,prompt\n7,mine,a red car\n")
    assert table[0].name == "mine" and unused_columns(table) == ["id"]
    table = rows("name,prompt\nmine,a red car\n")
    text = write_manifest(tmp_path, items_of("a.csv", table, {})[0], table).read_text("utf-8")
    assert text.startswith("name,prompt,id,status,") and rows(text)[0].name == "mine"
    table = rows("id,prompt\n7,a red car\n")
    text = write_manifest(tmp_path, items_of("a.csv", table, {})[0], table).read_text("utf-8")
    assert text.startswith("id,prompt,vsf_id,status,") and rows(text)[0].name == "7"


@pytest.mark.parametrize(("column", "cell"), [("", ""), (",contrast", ",0.7")])
def test_a_table_of_results_makes_the_same_files_without_a_warning(column: str, cell: str, tmp_path: Path) -> None:
    table = rows(f"prompt,negative,keep{column}\na red car,wheels,\na clock,hands,legs{cell}\na tree,,\n")
    items, _ = items_of("a.csv", table, {})
    again = rows(write_manifest(tmp_path, items, table).read_text("utf-8"), "manifest.csv")
    made, notes = items_of("manifest.csv", again, {})
    assert [item.name for item in made] == [item.name for item in items] and not notes
    assert [row.settings.get("contrast") for row in again] == [None, (0.7,), None]
    found = CliRunner().invoke(app, ["batch", str(tmp_path / "manifest.csv"), "--dry-run", "-q"])
    assert found.exit_code == 0 and found.stderr == ""


def test_lists_of_texts_stay_lists_in_the_table_of_results(tmp_path: Path) -> None:
    table = rows('[{"prompt": "a red car", "negative": ["wheels", "door"]}]', "a.json")
    items, _ = items_of("a.json", table, {})
    made, _ = items_of("m.csv", rows(write_manifest(tmp_path, items, table).read_text("utf-8"), "m.csv"), {})
    assert [item.id for item in made] == [item.id for item in items]


def test_columns_that_are_no_options_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",prompt,Sampler\n0,a red car,Euler\n", "utf-8")
    found = CliRunner().invoke(app, ["batch", str(path), "--dry-run"])
    assert "no options, and are copied to manifest.csv: column 1, Sampler" in found.stderr
    assert "did you mean" not in found.stderr
    path.write_text("prompt,sead,author\na red car,7,me\n", "utf-8")
    found = CliRunner().invoke(app, ["batch", str(path), "--dry-run", "-q"])
    assert found.stderr == "warning: column 'sead' is no option: did you mean 'seed'?\n"


def test_a_table_that_is_not_there_says_what_one_is() -> None:
    found = CliRunner().invoke(app, ["batch", "nowhere.csv"])
    assert found.exit_code == 6 and "has a column 'prompt', as examples/prompts.csv of the source" in found.stderr
    assert found.stderr.startswith("error: nowhere.csv: there is no such file;")
