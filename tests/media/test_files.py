from pathlib import Path
from typing import Any

import pytest

from tests.media.drawn_requests import IMAGE
from vsf_cli.errors import MediaError
from vsf_cli.media import files
from vsf_cli.media.files import write_atomically
from vsf_cli.media.formats import write_image


def test_half_a_file_is_never_in_place(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(MediaError, match="No space left on device; choose another place"):
        write_image(tmp_path / "x.png", IMAGE, "png", None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="cannot be written"):
        write_image(tmp_path / "file" / "x.png", IMAGE, "png", None)
