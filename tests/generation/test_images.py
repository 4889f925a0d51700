"""Images from images, by the command line and the built-in model."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vsf_cli import VSF, guided
from vsf_cli.cli.app import app
from vsf_cli.errors import RequestError
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.tasks import pipeline_for
from vsf_cli.media.inputs import input_hashes

BIKE = ("image", "a red bike", "--neg", "wheels", "--seed", "1", "-q")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").resize((64, 32)).convert("RGB").save("photo.png")


def vsf(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, done.output
    return done


def test_an_image_has_the_shape_of_the_one_that_it_starts_from() -> None:
    vsf(*BIKE, "--image", "photo.png", "-o", "out.png")
    with Image.open("out.png") as made:
        assert made.size == (136, 64)
    described = json.loads(vsf("info", "out.png", "--json").stdout)["vsf"]
    assert described["request"]["image"] == ["photo.png"] and described["request"]["strength"] == 0.6
    assert described["image_sha256"] == input_hashes(["photo.png"], None)["image_sha256"]
    vsf(*BIKE, "--image", str(Path("photo.png").resolve()), "--size", "64x64", "-o", "square.png", "--sidecar")
    with Image.open("square.png") as made:
        assert made.size == (64, 64)
    assert str(Path.cwd()) not in Path("square.png.json").read_text()


def test_again_wants_the_same_image() -> None:
    vsf(*BIKE, "--image", "photo.png", "--strength", "0.5", "-o", "out.png")
    vsf("again", "out.png", "-o", "again.png", "-q")
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    Path("photo.png").rename("elsewhere.png")
    assert "out.png was made with the image 'photo.png', SHA-256" in vsf("again", "out.png", "-o", "x.png", code=6).output
    vsf("again", "out.png", "--image", "elsewhere.png", "-o", "third.png", "-q")
    assert Image.open("third.png").tobytes() == Image.open("out.png").tobytes()
    Image.new("RGB", (64, 32), "red").save("photo.png")
    assert "say where it is with --image" in vsf("again", "out.png", "-o", "x.png", code=6).output


def test_strengths_are_swept_and_stand_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSF_IMAGE", "registry/vsf:latest")
    vsf(*BIKE, "--image", "photo.png", "--strength", "0.3,0.9", "-o", "{strength}.png")
    assert Path("0.3.png").read_bytes() != Path("0.9.png").read_bytes()
    Path("table.csv").write_text("prompt,neg,image,strength\na red bike,wheels,photo.png,0.3\na red bike,wheels,,\n")
    vsf("batch", "table.csv", "-o", "run", "-q", "--seed", "1", "--batch-size", "2")
    rows = {path.name: Image.open(path) for path in Path("run").glob("*.png")}
    assert sorted(image.size for image in rows.values()) == [(96, 96), (136, 64)]
    assert Image.open("0.3.png").tobytes() in [image.tobytes() for image in rows.values()]
    before = vsf("batch", "table.csv", "-o", "run", "-q", "--seed", "1").stdout.split()
    assert {Path(path).name for path in before} == rows.keys(), "all of it is there"
    Image.new("RGB", (64, 32), "red").save("photo.png")
    after = vsf("batch", "table.csv", "-o", "run", "-q", "--seed", "1").stdout.split()
    assert len(set(after) - set(before)) == 1 and len(after) == 2, "the image is another one"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mask", "photo.png"), "--mask is for --image, and there is none"),
        (("--strength", "0.5"), "--strength is for --image, and there is none"),
        (("--image", "photo.png", "--strength", "0.1"), "strength 0.1 leaves none of 8 steps"),
        (("--image", "photo.png", "--strength", "0.2", "--start", "0.2", "--stop", "0.9"), "leave none of 1 step guided"),
        (("--image", "photo.png", "--strength", "1.5"), "strength is 1.5, but must be"),
        (("--image", "photo.png", "--image", "photo.png"), "takes one --image, but there are 2: leave the others out"),
        (("--image", "photo.png", "--mask", "photo.png"), "latent channels, but 16 or 33 are needed for --mask"),
    ],
)
def test_wrong_use_is_one_line_before_a_model_is_loaded(
    options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsf_cli.cli.plans.prepare", lambda *_: pytest.fail("the work began"))
    assert message in vsf(*BIKE, *options, "-o", "x.png", code=6).output and not Path("x.png").exists()


@pytest.mark.parametrize(("strength", "window"), [(0.5, VSF(stop=0.1)), (0.6, VSF(start=0.3, stop=0.5))])
def test_a_window_is_of_the_steps_that_run(strength: float, window: VSF) -> None:
    pipe = pipeline_for(load("builtin:tiny-sd3-turbo", "float32"), images=1, mask=False)
    image, steps = Image.open("photo.png").convert("RGB"), []
    options = {"image": image, "strength": strength, "num_inference_steps": 8, "guidance_scale": 0.0, "output_type": "np"}
    pipe.transformer.register_forward_hook(lambda *_: steps.append(0))
    stock = pipe("a red bike", width=64, height=32, **options).images
    with guided(pipe, "wheels", window):
        assert abs(pipe("a red bike", width=64, height=32, **options).images - stock).max() > 0
    ran = len(steps) // 2
    none = VSF(start=1 - 0.5 / ran)
    wanted = pytest.raises(RequestError, match=f"left none of the {ran} steps that ran guided: widen them")
    with wanted, guided(pipe, "wheels", none):
        pipe("a red bike", width=64, height=32, **options)
