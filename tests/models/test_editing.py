"""Models that edit images, from the command line and in Python, by whole pipelines of tiny random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image
from typer.testing import CliRunner, Result

from tests.models.pipelines import EDITORS, PIPELINES
from tests.models.test_whole_pipelines import draw_image, pixels
from vsf_cli import VSF, guided
from vsf_cli.cli.app import app
from vsf_cli.errors import RequestError
from vsf_cli.generation import run
from vsf_cli.media.inputs import read_input, read_mask
from vsf_cli.methods import NAG, NASA
from vsf_cli.models import family_of

PROMPT = "a red bike"
OPTIONS = ("--steps", "2", "--seed", "1", "--dtype", "float32", "-q")


@pytest.fixture(scope="module", params=list(EDITORS))
def name(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def pipe(name: str) -> Any:
    made = EDITORS[name]()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def folder(name: str, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pipeline's folder. It is not read, since the processor of some models needs torchvision."""
    path = tmp_path / name
    pipe.save_config(path)
    monkeypatch.setattr(run, "load", lambda *args, **options: pipe)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with an image, which pipelines scale to about its own size in place of a million pixels."""
    monkeypatch.chdir(tmp_path)
    draw_image()
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [(96, 64)])
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (96, 64, None))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "calculate_dimensions", lambda area, ratio: (96, 64))


def vsf(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, done.output
    return done


def images_of(folder: Path) -> tuple[str, ...]:
    return ("--image", "photo.png", *(("--mask", "mask.png") if folder.name == "flux-fill" else ()))


def test_an_image_is_edited_without_what_is_unwanted(folder: Path) -> None:
    model, given = ("-m", str(folder), *OPTIONS), images_of(folder)
    for name, more in (("none", ()), ("empty", ("--neg", "")), ("vsf", ("--neg", "wheels")), ("nag", ("--method", "nag"))):
        negative = ("--neg", "wheels") if name == "nag" else ()
        vsf("image", PROMPT, *model, *given, *more, *negative, "-o", f"{name}.png")
    made = [pixels(f"{name}.png") for name in ("none", "vsf", "nag")]
    assert pixels("empty.png") == made[0] and len(set(made)) == 3
    vsf("again", "vsf.png", "-m", str(folder), "-o", "again.png", "-q")
    assert Path("again.png").read_bytes() == Path("vsf.png").read_bytes()
    Path("table.csv").write_text(f"prompt,neg,image,mask\na red bike,wheels,photo.png,{given[3] if given[3:] else ''}\n")
    vsf("batch", "table.csv", *model, "--batch-size", "2", "-o", "run")
    assert len(list(Path("run").glob("*.png"))) == 1


def test_wrong_use_is_one_line_before_a_model_is_loaded(folder: Path) -> None:
    model = ("image", PROMPT, "-m", str(folder), "--neg", "wheels", *OPTIONS)
    if folder.name == "flux-fill":
        for given, message in (((), "add --image and --mask"), (("--image", "photo.png"), "add --mask, white where")):
            assert message in vsf(*model, *given, code=6).output
        return
    if folder.name.startswith("qwen"):
        assert "makes no image without another one: add --image" in vsf(*model, code=6).output
    assert "leave --strength out" in vsf(*model, "--image", "photo.png", "--strength", "0.5", code=6).output
    assert "no such file" in vsf(*model, "--image", "nothing.png", code=6).output
    if folder.name != "qwen-image-edit-plus":
        assert "takes one --image, but there are 2" in vsf(*model, *["--image", "photo.png"] * 2, code=6).output


@pytest.mark.usefixtures("no_figures")
def test_maps_are_of_the_image_that_is_made(folder: Path) -> None:
    arguments = ("attn-map", PROMPT, "--neg", "wheels", "-m", str(folder), *OPTIONS[2:], *images_of(folder), "-o", "maps")
    from vsf_cli.maps import load as load_maps

    vsf(*arguments)
    assert load_maps("maps").share.mean() > 0 and load_maps("maps").words() == ["wheels"]


@pytest.mark.parametrize("name", ["qwen-image-edit", "qwen-image-edit-plus"])
def test_words_are_found_behind_images_of_any_size(name: str) -> None:
    pipe = EDITORS[name]()
    picture = "Picture 1: <|vision_start|><|image_pad|><|vision_end|>" if name.endswith("plus") else ""
    text = pipe.prompt_template_encode.format(picture + PROMPT)
    ids = pipe.processor(text=[text], images=[read_input("photo.png")]).input_ids[0]
    tokens = [one for one in family_of(pipe).tokens(pipe, PROMPT, [], True, 512) if one.word]
    assert {one.word for one in tokens} == {"a", "red", "bike"}
    assert [one.piece for one in tokens] == pipe.tokenizer.convert_ids_to_tokens([int(ids[one.position]) for one in tokens])


def test_every_method_guides_the_image_and_an_infinite_bias_none(pipe: Any, folder: Path) -> None:
    images: dict[str, Any] = {"image": read_input("photo.png")}
    if folder.name == "flux-fill":
        images["mask_image"] = read_mask("mask.png")

    def make(**options: Any) -> Any:
        generator = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": 2, "output_type": "np", **images, **options}
        return pipe(prompt=PROMPT, width=96, height=64, generator=generator, **options)[0]

    off = {} if folder.name == "flux-fill" else {"true_cfg_scale": 1.0}
    if folder.name == "flux-kontext":
        images["max_area"] = 96 * 64
    stock = make(**off)
    for method in (VSF(3.0, 0.3), NAG(), NASA()):
        with guided(pipe, "wheels", method) as applied:
            assert abs(make(**off) - stock).max() > 1e-4
        assert applied.blocks
    with guided(pipe, "wheels", VSF(3.0, float("inf"))):
        assert abs(make(**off) - stock).max() < 1e-5
    assert (make(**off) == stock).all()
    if off:
        scale = {family_of(pipe).cfg_argument: 4.0, "negative_prompt": "a hat"}
        with guided(pipe, "wheels"), pytest.raises(RequestError, match="is for models that run without CFG"):
            make(**scale)


@pytest.mark.parametrize("name", ["flux2", "qwen-image-edit-plus"])
def test_several_images_are_those_of_a_stock_call(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = {**PIPELINES, **EDITORS}[name]()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_config(tmp_path / name)
    monkeypatch.setattr(run, "load", lambda *args, **options: pipe)
    Image.linear_gradient("L").resize((64, 80)).convert("RGB").save("hat.png")
    both, model = ("--image", "photo.png", "--image", "hat.png"), ("-m", str(tmp_path / name), *OPTIONS)

    def stock(*names: str) -> Any:
        generator, images = torch.Generator().manual_seed(1), [read_input(name) for name in names]
        options = {"num_inference_steps": 2, family_of(pipe).cfg_argument: 1.0, "output_type": "np"}
        return pipe(prompt=PROMPT, image=images, width=96, height=64, generator=generator, **options)[0]

    wanted = stock("photo.png", "hat.png")
    with guided(pipe, "wheels", VSF(3.0, float("inf"))):
        assert abs(stock("photo.png", "hat.png") - wanted).max() < 1e-5
    assert abs(stock("photo.png") - wanted).max() > 1e-3
    vsf("image", PROMPT, *model, *both, "--size", "96x64", "-o", "none.png")
    assert pixels("none.png") == (wanted[0] * 255).round().astype("uint8").tobytes()

    vsf("image", PROMPT, *model, *both, "--neg", "wheels", "-o", "vsf.png")
    told = vsf("info", "vsf.png").stdout.splitlines()
    assert told[2].split(maxsplit=1) == ["image", "photo.png, hat.png"]
    described = json.loads(vsf("info", "vsf.png", "--json").stdout)["vsf"]
    assert described["request"]["image"] == ["photo.png", "hat.png"] and len(set(described["image_sha256"])) == 2
    vsf("again", "vsf.png", "-m", str(tmp_path / name), "-o", "again.png", "-q")
    assert Path("again.png").read_bytes() == Path("vsf.png").read_bytes() and pixels("vsf.png") != pixels("none.png")
    Path("table.jsonl").write_text('{"prompt": "a red bike", "neg": "wheels", "image": ["photo.png", "hat.png"]}')
    vsf("batch", "table.jsonl", *model, "-o", "run")
    assert pixels(str(next(Path("run").glob("*.png")))) == pixels("vsf.png")

    masked = vsf("image", PROMPT, *model, *both, "--mask", "mask.png", code=6).output
    assert "takes one --image with --mask, but there are 2" in masked
    Path("hat.png").rename("elsewhere.png")
    lost = vsf("again", "vsf.png", "-m", str(tmp_path / name), "-o", "x.png", code=6).output
    assert "made with the image 'hat.png'" in lost and "say where all 2 are with --image" in lost
