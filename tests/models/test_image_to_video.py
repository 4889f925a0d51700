"""Wan from an image to a video, by a whole pipeline of tiny random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from typer.testing import CliRunner, Result

from tests.models.test_wan import SIZES, random_wan
from tests.models.test_whole_pipelines import draw_image
from vsf_cli import guided
from vsf_cli.cli.app import app
from vsf_cli.errors import PatchError
from vsf_cli.media.reading import read_frames


def build(**changes: Any) -> WanImageToVideoPipeline:
    """Wan 2.2, whose transformer takes the image's latents and a mask beside its own."""
    parts = random_wan(torch.float32).components
    torch.manual_seed(12)
    transformer = WanTransformer3DModel(**{**SIZES, "in_channels": 4 + 4 + 4}, **changes)
    names = ("tokenizer", "text_encoder", "vae", "scheduler")
    pipe = WanImageToVideoPipeline(**{name: parts[name] for name in names}, transformer=transformer.eval(), boundary_ratio=0.9)
    pipe.register_modules(transformer_2=transformer.eval())
    return pipe


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_image()


def vsf(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, done.output
    return done


def test_a_video_begins_with_an_image(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "model")
    model = ("-m", "model", "--dtype", "float32", "--steps", "2", "--frames", "5", "--size", "96x64", "--seed", "1", "-q")
    for name, negative in (("none", ()), ("vsf", ("--neg", "wheels"))):
        vsf("video", "a red bike", *model, "--image", "photo.png", *negative, "-o", f"{name}.webp")
    frames = [read_frames(Path(f"{name}.webp")) for name in ("none", "vsf")]
    assert frames[0][-1].tobytes() != frames[1][-1].tobytes() and frames[0][0].size == (96, 64)
    vsf("again", "vsf.webp", "-m", "model", "-o", "again.webp", "-q")
    assert Path("again.webp").read_bytes() == Path("vsf.webp").read_bytes()
    assert "makes no image without another one: add --image" in vsf("video", "a red bike", *model, code=6).output
    assert "takes no --mask" in vsf("video", "a bike", *model, "--image", "photo.png", "--mask", "mask.png", code=6).output


def test_an_image_in_the_text_is_refused() -> None:
    """The processors of Wan 2.1 attend to an image beside the text, and find it by the text's length."""
    pipe = build(image_dim=16, added_kv_proj_dim=24)
    with pytest.raises(PatchError, match="calls attention more than once"), guided(pipe, "wheels"):
        pass
