from pathlib import Path

import pytest

from vsf_cli.errors import MediaError, RequestError
from vsf_cli.generation.outputs import Outputs, slug

VALUES = {"slug": "a-bike", "seed": 7, "alpha": 3.0, "beta": 1.5, "method": "vsf", "preset": "tiny", "steps": 8}


def test_a_template_is_filled(tmp_path: Path) -> None:
    outputs = Outputs(str(tmp_path / "{method}" / "{slug}-{seed}-{alpha}-{beta}-{n}.png"))
    assert outputs.path(VALUES, 2) == tmp_path / "vsf" / "a-bike-7-3-1.5-2.png"


def test_a_folder_gets_names(tmp_path: Path) -> None:
    assert Outputs(f"{tmp_path}/new/").path(VALUES, 1) == tmp_path / "new" / "a-bike-7.png"
    assert Outputs(str(tmp_path), format="webp").path(VALUES, 1) == tmp_path / "a-bike-7.webp"


def test_several_images_do_not_share_a_file(tmp_path: Path) -> None:
    assert Outputs(str(tmp_path / "x.png"), varying=("seed",)).path(VALUES, 1) == tmp_path / "x-7.png"


@pytest.mark.parametrize(("name", "format"), [("x.png", "png"), ("x.JPG", "jpeg"), ("x.webp", "webp"), ("x", "png")])
def test_the_ending_decides_the_format(name: str, format: str) -> None:
    assert Outputs(name).file_format == format


def test_the_format_decides_the_ending(tmp_path: Path) -> None:
    assert Outputs(str(tmp_path / "x.png"), format="jpeg").path(VALUES, 1) == tmp_path / "x.jpg"


@pytest.mark.parametrize(
    "options",
    [
        {"template": "{nope}.png"},
        {"template": "{seed"},
        {"template": "{seed:04d}.png"},
        {"template": "x.png", "exists": "no"},
        {"template": "x", "format": "bmp"},
    ],
)
def test_what_is_not_legal_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(RequestError):
        Outputs(**options)


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(RequestError, match=r"ends on \.bmp"):
        Outputs("x.bmp").file_format


def test_what_happens_if_a_file_exists(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"")
    assert Outputs("x").free(path) == tmp_path / "x-2.png"
    (tmp_path / "x-2.png").write_bytes(b"")
    assert Outputs("x").free(path) == tmp_path / "x-3.png"
    assert Outputs("x", exists="overwrite").free(path) == path
    assert Outputs("x", exists="skip").free(path) is None
    with pytest.raises(MediaError, match="choose --exists"):
        Outputs("x", exists="error").free(path)


def test_what_will_exist_counts_as_what_does(tmp_path: Path) -> None:
    path, other = tmp_path / "x.png", tmp_path / "x-2.png"
    assert Outputs("x").free(path, taken=[path]) == other and Outputs("x").free(path, taken=[path, other]).name == "x-3.png"
    assert Outputs("x", exists="skip").free(path, taken=[path]) is None
    assert Outputs("x", exists="overwrite").free(path, taken=[path]) == path
    with pytest.raises(MediaError, match="is the file of several of this run: choose --exists"):
        Outputs("x", exists="error").free(path, taken=[path])


def test_the_ending_of_another_format_is_said() -> None:
    assert "'x.webp' is written" in Outputs("x.png", format="webp").notes[0]
    for template, format in (("x.jpg", "jpeg"), ("x", "webp"), ("x.5", "webp"), ("out/", "webp"), ("x.{ext}", "webp")):
        assert not Outputs(template, format=format).notes
    assert not Outputs("x.png").notes


def test_an_ending_is_added_and_a_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Outputs("~/x").path(VALUES, 1) == tmp_path / "x.png"
    assert Outputs("x.{ext}", format="jpeg").path(VALUES, 1) == Path("x.jpg")


def test_names_are_cut_and_hold_no_separator(tmp_path: Path) -> None:
    path = Outputs(str(tmp_path / "{slug}.png")).path({**VALUES, "slug": "é/" * 300}, 1)
    assert path.parent == tmp_path and len(path.name.encode()) < 255


@pytest.mark.parametrize(
    "template",
    ["{slug}", "a" * 220, "é" * 150 + "-{slug}", "{slug}-{model}", "b" * 190 + "-{slug}-{alpha}", "{seed}" + "c" * 300],
)
def test_long_names_keep_their_seeds_and_stay_different(tmp_path: Path, template: str) -> None:
    names = set()
    for seed in (7, 2**64 - 1):
        for slug_ in ("d" * 300 + "e", "d" * 300 + "f"):
            values = {**VALUES, "slug": slug_, "model": "m" * 300, "seed": seed}
            path = Outputs(str(tmp_path / f"{template}.png"), varying=("seed", "slug")).path(values, 1)
            assert path.parent == tmp_path and path.suffix == ".png" and len(path.name.encode()) <= 200
            assert str(seed) in path.name
            names.add(path.name)
    assert len(names) == 4


@pytest.mark.parametrize(
    ("prompt", "wanted"), [("A red bike!", "a-red-bike"), ("…", "picture"), ("a/b\\c", "a-b-c"), ("自転車", "自転車")]
)
def test_slugs(prompt: str, wanted: str) -> None:
    assert slug(prompt) == wanted


def test_long_slugs_are_cut() -> None:
    assert len(slug("é" * 100).encode()) <= 48
