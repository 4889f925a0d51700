"""Every family from the command line, with a whole pipeline of tiny random weights in a folder."""

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import remove_hook_from_module
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from tests.models.pipelines import PIPELINES
from vsf_cli import VSF, guided
from vsf_cli.cli.app import app
from vsf_cli.errors import RequestError
from vsf_cli.generation.limits import _count_blocks
from vsf_cli.loading.configurations import configured_pipe
from vsf_cli.loading.pipelines import load
from vsf_cli.maps import load as load_maps
from vsf_cli.methods import NAG, NASA
from vsf_cli.models import FAMILIES, family_of

SIZE = ("--size", "32x32", "--steps", "3", "--seed", "1", "--dtype", "float32", "-q")
PROMPT = "a red bike"


@pytest.fixture(scope="module", params=list(PIPELINES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / request.param
    PIPELINES[request.param]().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return load(str(folder), "float32")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def vsf(command: str, *arguments: str) -> Result:
    done = CliRunner().invoke(app, [command, *arguments])
    assert done.exit_code == 0, done.output
    return done


def pixels(path: str) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_the_configuration_says_what_the_pipeline_does(folder: Path, pipe: Any) -> None:
    family, configured = family_of(pipe), configured_pipe(str(folder), None)
    # ERNIE-Image's pipeline halves the sides once more than its autoencoder.
    halved = 2 if family.name == "ernie-image" else 1
    assert family.size_multiple(configured) * halved == family.size_multiple(pipe)
    config = family.denoisers_of(pipe)[0].config
    assert _count_blocks(config) in (None, len(family.blocks_of(family.denoisers_of(pipe)[0])))
    assert _count_blocks(getattr(configured, family.denoisers[0]).config) == _count_blocks(config)


def test_an_image_changes_with_a_negative_prompt_alone(folder: Path) -> None:
    model = ("-m", str(folder), *SIZE)
    vsf("image", PROMPT, *model, "-o", "none.png")
    vsf("image", PROMPT, *model, "--neg", "", "-o", "empty.png")
    vsf("image", PROMPT, *model, "--neg", "wheels", "-o", "vsf.png")
    vsf("image", PROMPT, *model, "--neg", "wheels", "--keep", "a hat", "-o", "kept.png")
    images = [pixels(f"{name}.png") for name in ("none", "vsf", "kept")]
    assert pixels("empty.png") == images[0] and len(set(images)) == 3

    info = json.loads(vsf("info", "vsf.png", "--json").stdout)["vsf"]
    assert info["request"]["negative"] == ["wheels"] and info["request"]["model"] == folder.name
    vsf("again", "vsf.png", "-m", str(folder), "-o", "again.png", "-q")
    assert Path("again.png").read_bytes() == Path("vsf.png").read_bytes()


def draw_image() -> None:
    """Writes an image, and a mask of its right half."""
    image = Image.radial_gradient("L").resize((96, 64))
    Image.merge("RGB", [image, image.rotate(90), image.rotate(180)]).save("photo.png")
    mask = Image.new("L", image.size)
    mask.paste(255, (48, 0, 96, 64))
    mask.save("mask.png")


@pytest.mark.parametrize("task", ["image", "mask"])
def test_an_image_is_redrawn_without_what_is_unwanted(folder: Path, task: str) -> None:
    draw_image()
    model = ("-m", str(folder), *SIZE[2:])
    given = ("--image", "photo.png", *(("--mask", "mask.png") if task == "mask" else ()))
    name = type(PIPELINES[folder.name]()).__name__
    (uses,) = (family.pipelines[name] for family in FAMILIES.values() if name in family.pipelines)
    if getattr(uses, task) is None:
        refused = CliRunner().invoke(app, ["image", PROMPT, *model, *given])
        assert refused.exit_code == 6 and f"takes no --{task}" in refused.output
        return
    vsf("image", PROMPT, *model, *given, "-o", "none.png")
    vsf("image", PROMPT, *model, *given, "--neg", "wheels", "-o", "vsf.png")
    assert pixels("none.png") != pixels("vsf.png")
    with Image.open("vsf.png") as made:
        assert made.width / made.height == 1.5


@pytest.mark.usefixtures("no_figures")
def test_a_batch_is_made_and_maps_beside_it(folder: Path) -> None:
    Path("table.csv").write_text("name,prompt,neg\n1,a red bike,wheels\n2,a hat,a person with glasses\n3,a hat,\n")
    model = ("-m", str(folder), *SIZE)
    vsf("batch", "table.csv", *model, "--batch-size", "3", "-o", "run")
    made = sorted(Path("run").glob("*.png"))
    assert len(made) == 3
    vsf("image", "a hat", *model, "-o", "alone.png")
    # Rounding may move a value across the middle between two colours.
    assert max(abs(a - b) for a, b in zip(pixels(str(made[-1])), pixels("alone.png"), strict=True)) <= 1

    # Its own --steps are those of which maps are kept.
    vsf("attn-map", PROMPT, "--neg", "wheels", "--keep", "a hat", *model, "--steps", "1..2", "-o", "maps")
    maps = load_maps("maps")
    assert maps.share.shape[-3:] == (1, 8, 8) and len(maps.steps) == 2 and 0 < maps.share.mean() < 1
    assert maps.words() == ["wheels"] and maps.words("kept") == ["a", "hat"] and maps.sigmas[0] > maps.sigmas[-1] > 0
    assert len(pixels("maps/steps/2.png")) == 32 * 32 * 3
    if folder.name != "sdxl":  # Its blocks have different numbers of heads.
        return
    missing = CliRunner().invoke(
        app, ["attn-map", PROMPT, "--neg", "wheels", *model, "--steps", "1", "--heads", "99", "-o", "no"]
    )
    assert missing.exit_code == 6 and "--heads has 99, but there are heads 1 to" in missing.output


@pytest.mark.usefixtures("no_figures")
def test_maps_do_not_change_the_image(folder: Path) -> None:
    model = (PROMPT, "--neg", "wheels", "-m", str(folder), *SIZE)
    vsf("image", *model, "-o", "plain.png")
    vsf("image", *model, "-o", "mapped.png", "--dump-attn")
    assert pixels("plain.png") == pixels("mapped.png")


def run(pipe: Any, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 2, "guidance_scale": 0.0, "output_type": "np", **options, **family_of(pipe).call(2)}
    return pipe(prompt=PROMPT, width=32, height=32, generator=generator, **options)[0]


def test_other_methods_and_an_infinite_bias(pipe: Any) -> None:
    stock = run(pipe)
    for method in (VSF(3.0, 0.3), NAG(), NASA()):
        with guided(pipe, "wheels", method) as applied:
            changed = run(pipe)
        assert applied.blocks and abs(changed - stock).max() > 1e-4
    with guided(pipe, "wheels", VSF(3.0, float("inf"))):
        assert abs(run(pipe) - stock).max() < 1e-5
    assert (run(pipe) == stock).all()


WORDS = {
    "silence": "ignores it, without a word",
    "warning": "ignores it, with a warning",
    "no argument": "has no such argument",
}


def test_the_pipelines_own_negative_prompt_does_what_the_docs_say(
    pipe: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    off: dict[str, Any] = {family_of(pipe).cfg_argument: float(family_of(pipe).embeds_scale)}
    stock, heard = run(pipe, **off), logging.getLogger("diffusers")
    heard.addHandler(caplog.handler)
    try:
        found = "silence" if (run(pipe, **off, negative_prompt="wheels") == stock).all() else "an effect"
    except TypeError:
        found = "no argument"
    finally:
        heard.removeHandler(caplog.handler)
    if "negative_prompt is passed" in caplog.text:
        found = "warning"
    preset = {"sd15": "sd-turbo", "sdxl": "sdxl-turbo", "flux": "flux.1-schnell"}.get(folder.name, folder.name)
    page = (Path(__file__).parents[2] / "docs/negative-prompts.md").read_text("utf-8").splitlines()
    (row,) = [line for line in page if f"--preset {preset}" in line or f"--preset {preset.replace('flux2', 'flux.2')}" in line]
    assert WORDS[found] in row
    (stated,) = [line for line in page if "own defaults" in line]
    scale = inspect.signature(type(pipe).__call__).parameters[family_of(pipe).cfg_argument].default
    assert scale <= family_of(pipe).max_scale or f"{scale} for " in stated


def test_a_lora_acts_on_what_is_guided(folder: Path, pipe: Any) -> None:
    denoiser = family_of(pipe).denoisers_of(pipe)[0]
    prefix = next(name for name, part in pipe.components.items() if part is denoiser)
    name, attention, _ = next(iter(family_of(pipe).attentions_of(denoiser)))
    name, layer = f"{name}.to_q", attention.to_q
    generator = torch.Generator().manual_seed(1)
    sizes = {"lora_A": (2, layer.in_features), "lora_B": (layer.out_features, 2)}
    matrices = {part: torch.randn(size, generator=generator) for part, size in sizes.items()}
    save_file({f"{prefix}.{name}.{part}.weight": matrix for part, matrix in matrices.items()}, "lora.safetensors")
    with guided(pipe, "wheels", VSF(3.0)):
        layer.weight.data += matrices["lora_B"] @ matrices["lora_A"]
        merged = run(pipe)
        layer.weight.data -= matrices["lora_B"] @ matrices["lora_A"]
    other = load(str(folder), "float32", loras=("lora.safetensors",))
    with guided(other, "wheels", VSF(3.0)):
        assert abs(run(other) - merged).max() < 1e-4
    with guided(pipe, "wheels", VSF(3.0)):
        assert abs(run(pipe) - merged).max() > 1e-3


@pytest.mark.parametrize("level", ["sequential", "model"])
def test_offloading_does_not_change_what_is_guided(pipe: Any, level: str) -> None:
    with guided(pipe, "wheels"):
        wanted = run(pipe)
    # The offloading of diffusers needs an accelerator; accelerate's own, on which it stands, runs anywhere.
    denoiser, cpu = family_of(pipe).denoisers_of(pipe)[0], torch.device("cpu")
    if level == "sequential":
        cpu_offload(denoiser, execution_device=cpu)
    else:
        cpu_offload_with_hook(denoiser, cpu)
    try:
        with guided(pipe, "wheels"):
            assert (run(pipe) == wanted).all()
    finally:
        remove_hook_from_module(denoiser, recurse=True)


def test_cfg_is_refused_in_the_familys_own_way(pipe: Any) -> None:
    family = family_of(pipe)
    if family.max_scale == float("inf"):
        with guided(pipe, "wheels"):
            assert run(pipe, guidance_scale=4.5).shape == (1, 32, 32, 3)
        return
    options: dict[str, Any] = {family.cfg_argument: 4.0}
    if "negative_prompt" in inspect.signature(type(pipe).__call__).parameters:
        options["negative_prompt"] = "a hat"
    else:
        pipe.register_to_config(is_distilled=False)
    with guided(pipe, "wheels"), pytest.raises(RequestError, match="is for models that run without CFG"):
        run(pipe, **options)
