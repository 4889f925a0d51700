import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from tests.processes import TIMEOUT
from vsf_cli.errors import MediaError
from vsf_cli.media.formats import encode_video
from vsf_cli.media.reading import read_middle
from vsf_cli.media.sound import Sound
from vsf_cli.media.videos import read_video

ENCODE = """
import signal
from PIL import Image
from vsf_cli.media.formats import encode_video
signal.signal(signal.SIGINT, signal.default_int_handler)
encode_video([Image.effect_noise((640, 480), 60).convert("RGB")] * 3, 8, "mp4", None)
"""


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a shell script")
def test_ctrl_c_while_ffmpeg_is_fed_ends_it(tmp_path: Path) -> None:
    """The frames are larger than a pipe, so that the interrupt comes while one is written."""
    ffmpeg, folder = tmp_path / "ffmpeg", tmp_path / "tmp"
    ffmpeg.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/id; head -c 1 > /dev/null; kill -INT $PPID; exec tail -f /dev/null\n")
    ffmpeg.chmod(0o755)
    folder.mkdir()
    environment = {**os.environ, "IMAGEIO_FFMPEG_EXE": str(ffmpeg), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", ENCODE], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGINT and "KeyboardInterrupt" in done.stderr
    assert not list(folder.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_odd_sides_become_even(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"x.{format}"
    path.write_bytes(encode_video([Image.new("RGB", (33, 21), "red")] * 3, 8, format, None))
    assert [frame.size for frame in read_video(path)] == [(34, 22)] * 3


def test_a_time_after_the_end_has_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(encode_video([Image.new("RGB", (32, 32))] * 3, 8, "mp4", None))
    with pytest.raises(MediaError, match=r"has no frame at 99\.00 s"):
        read_middle(path, 99)


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_sound_is_written_beside_the_frames(tmp_path: Path, format: str) -> None:
    path, times = tmp_path / f"a.{format}", np.arange(48000) / 24000
    sound = Sound(np.stack([np.sin(2 * np.pi * 440 * times), np.zeros_like(times)]), 24000).after(0.5).until(1.0)
    path.write_bytes(encode_video([Image.new("RGB", (32, 32))] * 8, 8, format, None, sound=sound))
    assert len(read_video(path)) == 8
    done = subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "s16le", "-ar", "24000", "-"],
        capture_output=True,
        check=True,
        timeout=TIMEOUT,
    )
    left, right = np.frombuffer(done.stdout, "<i2").reshape(-1, 2).T
    assert len(left) == pytest.approx(24000, abs=2000)
    loudest = np.abs(np.fft.rfft(left[:24000])).argmax() * 24000 / len(left[:24000])
    assert loudest == pytest.approx(440, abs=2) and abs(left.astype(int)).max() > 20000 and abs(right.astype(int)).max() < 500
