"""Pipelines that have a denoiser of a known family: what they share, and what is refused."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
    WanVideoToVideoPipeline,
)
from PIL import Image
from torch import Tensor

from tests.conftest import random_pipeline
from tests.models.test_wan import random_wan
from vsf_cli import VSF, guided
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import Method
from vsf_cli.models import family_of
from vsf_cli.models.sd3 import SD3
from vsf_cli.models.steps import StepCounter

OPTIONS: dict[str, Any] = {"guidance_scale": 0.0, "max_sequence_length": 12, "output_type": "latent", "num_inference_steps": 4}
PICTURE = Image.new("RGB", (16, 16), (200, 40, 10))


class Own(StableDiffusion3Pipeline):
    """A pipeline of one's own."""


def call(pipe: Any, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents: Tensor = pipe(**{"prompt": "a red bike", "generator": generator, **OPTIONS, **options})[0]
    return latents


def controlnet() -> Any:
    pipe = random_pipeline("sd3", torch.float32)
    torch.manual_seed(1)
    net = SD3ControlNetModel.from_transformer(
        pipe.transformer, num_layers=2, num_extra_conditioning_channels=0, load_weights_from_transformer=False
    )
    for block in net.controlnet_blocks:
        torch.nn.init.normal_(block.weight, std=0.1)
    return StableDiffusion3ControlNetPipeline(**pipe.components, controlnet=net.eval())


def inpainting() -> Any:
    """Inpainting takes latents with 16 channels alone."""
    pipe = random_pipeline("sd3", torch.float32)
    torch.manual_seed(1)
    vae = AutoencoderKL.from_config(pipe.vae.config, latent_channels=16).eval()
    channels = {"in_channels": 16, "out_channels": 16}
    transformer = SD3Transformer2DModel.from_config(pipe.transformer.config, **channels).eval()
    return StableDiffusion3InpaintPipeline(**{**pipe.components, "vae": vae, "transformer": transformer})


# Its own cleaning of prompts needs a package that diffusers does not.
EMBEDDED = {"prompt": None, "prompt_embeds": torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(1))}

PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "subclass": (lambda: Own.from_pipe(random_pipeline("sd3", torch.float32)), {"width": 16, "height": 16}),
    "img2img": (
        lambda: StableDiffusion3Img2ImgPipeline.from_pipe(random_pipeline("sd3", torch.float32)),
        {"image": PICTURE, "strength": 0.5},
    ),
    "inpaint": (
        inpainting,
        {"image": PICTURE, "mask_image": Image.new("L", (16, 16), 255), "width": 16, "height": 16, "strength": 0.75},
    ),
    "controlnet": (controlnet, {"control_image": PICTURE, "width": 16, "height": 16}),
    "pag off": (
        lambda: StableDiffusion3PAGPipeline.from_pipe(random_pipeline("sd3", torch.float32), pag_applied_layers=["blocks.1"]),
        {"width": 16, "height": 16, "pag_scale": 0.0},
    ),
    "video to video": (
        lambda: WanVideoToVideoPipeline.from_pipe(random_wan(torch.float32)),
        {"video": [PICTURE.resize((32, 32))] * 5, "width": 32, "height": 32, "strength": 0.5, **EMBEDDED},
    ),
}


@pytest.fixture(params=list(PIPELINES))
def other(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    build, options = PIPELINES[request.param]
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    return pipe, options


class Watching(VSF):
    """VSF that keeps how much of the steps is done in each guided call."""

    @property
    def follows_progress(self) -> bool:
        return True

    def acts_at(self, progress: float) -> bool:
        PROGRESS.append(progress)
        return super().acts_at(progress)


PROGRESS: list[float] = []


def test_it_is_guided_where_its_denoiser_is(other: tuple[Any, dict[str, Any]]) -> None:
    pipe, options = other
    stock = call(pipe, **options)
    with guided(pipe, "wheels", VSF(3.0, torch.inf)):
        torch.testing.assert_close(call(pipe, **options), stock, atol=1e-4, rtol=0)
    with guided(pipe, "wheels", VSF(3.0, 0.3)) as applied:
        found = call(pipe, **options)
    assert applied.blocks == 3 and (found - stock).abs().max() > 1e-3
    assert torch.equal(call(pipe, **options), stock)


def test_steps_are_counted_within_those_that_run(other: tuple[Any, dict[str, Any]]) -> None:
    pipe, options = other
    steps = round(4 * options.get("strength", 1.0))
    for _ in range(2):
        PROGRESS.clear()
        with guided(pipe, "wheels", Watching(3.0, 0.3)):
            call(pipe, **options)
        assert pytest.approx([step / steps for step in range(steps)]) == PROGRESS


def scheduled(index: int | None, begin: int | None, timesteps: Any) -> Any:
    return type("Scheduler", (), {"step_index": index, "begin_index": begin, "timesteps": timesteps})()


def test_a_scheduler_that_is_not_told_its_begin_is_followed() -> None:
    counter, timesteps = StepCounter(), [900, 600, 300, 0]
    assert counter.progress(scheduled(None, None, timesteps)) == 0.0
    # Its first step was the third of four: half of the two that run is done.
    assert counter.progress(scheduled(3, None, timesteps)) == 0.5
    assert counter.progress(scheduled(None, None, [900, 0])) == 0.0
    assert counter.progress(scheduled(2, 1, [900, 600, 0])) == 0.5


def test_a_loop_that_does_not_use_the_scheduler_is_refused() -> None:
    counter, scheduler = StepCounter(), scheduled(None, None, [900, 0])
    counter.progress(scheduler)
    with pytest.raises(RequestError, match="called twice before the scheduler made a step"):
        counter.progress(scheduler)
    with pytest.raises(RequestError, match="object does not count its steps"):
        counter.progress(object(), 900)


def test_perturbed_attention_sets_processors_and_is_refused() -> None:
    build, options = PIPELINES["pag off"]
    pipe = build()
    before = dict(pipe.transformer.attn_processors)
    with pytest.raises(PatchError, match="leave perturbed attention guidance out"), guided(pipe, "wheels"):
        call(pipe, **{**options, "pag_scale": 2.0})
    assert all(pipe.transformer.attn_processors[name] is processor for name, processor in before.items())


def test_another_pipeline_with_the_same_denoiser_is_refused() -> None:
    pipe = random_pipeline("sd3", torch.float32)
    other = StableDiffusion3Img2ImgPipeline.from_pipe(pipe)
    with (
        guided(pipe, "wheels"),
        pytest.raises(PatchError, match="a StableDiffusion3Img2ImgPipeline calls the model, but another pipeline was guided"),
    ):
        call(other, image=PICTURE)


def test_the_cfg_of_the_pipeline_that_calls_counts() -> None:
    pipe = random_pipeline("sd3", torch.float32)
    embeds = SD3.encode_negative(pipe, ["wheels"])[None]
    size = {"width": 16, "height": 16}
    with guided(pipe.transformer, negative_prompt_embeds=embeds), pytest.raises(RequestError, match="guidance_scale is 4"):
        call(pipe, guidance_scale=4.0, **size)
    # What it ran with before is of no matter to a loop of one's own.
    inputs = {
        "hidden_states": torch.zeros(1, 4, 8, 8),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.zeros(1, 20, 128),
        "pooled_projections": torch.zeros(1, 128),
    }
    with guided(pipe, negative_prompt_embeds=embeds), torch.no_grad():
        assert torch.isfinite(pipe.transformer(**inputs)[0]).all()


@pytest.mark.parametrize("method", [VSF(3.0, 0.3), VSF(3.0, 0.3, stop=0.5)], ids=str)
def test_embeddings_are_the_text_that_they_encode(method: Method) -> None:
    pipe = random_pipeline("sd3", torch.float32)
    size = {"width": 16, "height": 16}
    with guided(pipe, "wheels", method):
        wanted = call(pipe, **size)
    embeds = SD3.encode_negative(pipe, ["wheels"])[None]
    for model in (pipe, pipe.transformer):
        with guided(model, method=method, negative_prompt_embeds=embeds) as applied:
            assert torch.equal(call(pipe, **size), wanted)
        assert applied.tokens == (embeds.shape[1],)


def test_embeddings_may_be_one_for_each_prompt() -> None:
    pipe = random_pipeline("sd3", torch.float32)
    embeds = torch.cat([SD3.encode_negative(pipe, [text])[None] for text in ("wheels", "glasses")])
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    with guided(pipe, ["wheels", "glasses"]):
        wanted = pipe(["a bike", "a hat"], latents=latents, width=16, height=16, **OPTIONS)[0]
    with guided(pipe, negative_prompt_embeds=embeds):
        assert torch.equal(pipe(["a bike", "a hat"], latents=latents, width=16, height=16, **OPTIONS)[0], wanted)


def test_a_family_is_found_by_its_denoiser() -> None:
    pipe = random_pipeline("sd3")
    assert family_of(pipe) is family_of(pipe.transformer) is SD3
    with pytest.raises(PatchError, match="str is not supported: supported are pipelines with a SD3Trans") as error:
        family_of("a pipeline")
    known = str(error.value).partition("a SD3")[2].split(", ")
    assert len(known) == len(set(known)) > 9


def test_families_are_read_without_torch() -> None:
    import subprocess

    code = "import sys, vsf_cli.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
