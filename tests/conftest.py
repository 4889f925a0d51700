"""Small pipelines with random weights, made of the real classes, and the oracle that guidance is held against."""

import copy
import gc
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.environment import isolate

# Before the libraries are imported: they read their variables then.
isolate()

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported: workers that each start a thread for every core wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import huggingface_hub.constants  # noqa: F401 - Now, since it keeps the home in which it is imported.
import hypothesis
import numpy as np
import pytest
import torch

if TYPE_CHECKING:  # Tests that need no pipeline start without them.
    from diffusers import AutoencoderKL, StableDiffusion3Pipeline

if not torch.cuda.is_available():
    # Before Triton is imported: its interpreter runs kernels on a CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")

CAPTIONS = ["a red bike with blue wheels on a road", "a person with an umbrella and glasses", "wheels", "a hat"]

CONFIGURATIONS = {
    "sd3": {"dual_attention_layers": ()},
    "sd3.5-medium": {"dual_attention_layers": (0, 1)},
    "sd3-without-qk-norm": {"dual_attention_layers": (), "qk_norm": None},
}


# The same examples in every run; no time limit on one, since machines and their load differ.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from the libraries' objects, which stay: to visit them takes a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_sessionfinish() -> None:
    """Lets libraries find their objects, which they count when Python ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings and a cache for each test alone, the same random numbers in every run, and the variables restored after it."""
    before = dict(os.environ)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    os.environ.clear()
    os.environ.update(before)


@cache
def text_parts() -> dict[str, Any]:
    from vsf_cli.toy.image_recipe import build_clip, build_clip_tokenizer, build_t5, build_t5_tokenizer

    torch.manual_seed(7)
    tokenizer, tokenizer_3 = build_clip_tokenizer(CAPTIONS * 50), build_t5_tokenizer(CAPTIONS)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    encoders = [build_clip(len(tokenizer), **ids).eval() for _ in range(2)]
    for encoder in encoders:
        torch.nn.init.normal_(encoder.text_projection.weight)
    return {
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "tokenizer_3": tokenizer_3,
        "text_encoder": encoders[0],
        "text_encoder_2": encoders[1],
        "text_encoder_3": build_t5(len(tokenizer_3)).eval(),
    }


@cache
def autoencoder() -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    torch.manual_seed(8)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1,
        scaling_factor=1.3,
    ).eval()


def random_pipeline(configuration: str, dtype: torch.dtype = torch.float64, **options: Any) -> "StableDiffusion3Pipeline":
    """A pipeline of a configuration, whose transformer may have other `options`."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    from vsf_cli.toy.image_recipe import build_scheduler

    torch.manual_seed(9)
    transformer = SD3Transformer2DModel(
        **{
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": 128,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 128,
            "pos_embed_max_size": 16,
            "qk_norm": "rms_norm",
            **CONFIGURATIONS[configuration],
            **options,
        }
    )
    # Larger than the default initialisation, so that attention is far from uniform.
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(1.5)
    pipe = StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=build_scheduler(),
        vae=copy.deepcopy(autoencoder()),
        **copy.deepcopy(text_parts()),
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.to(dtype=dtype)
    return pipe


@pytest.fixture(params=list(CONFIGURATIONS))
def pipe(request: pytest.FixtureRequest) -> "StableDiffusion3Pipeline":
    return random_pipeline(request.param)


@pytest.fixture
def generate() -> Callable[..., torch.Tensor]:
    """Runs two steps of a pipeline and gives the latents."""

    def run(pipe: "StableDiffusion3Pipeline", prompt: str | list[str] = "a red bike", **options: Any) -> torch.Tensor:
        options = {"guidance_scale": 0.0, "num_inference_steps": 2, "max_sequence_length": 12} | options
        generator = torch.Generator().manual_seed(3)
        return pipe(prompt, generator=generator, height=16, width=16, output_type="latent", **options).images

    return run


CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("the page is tested in a browser: install Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("headless", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-component-update")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures of maps: they are drawn in the same way for every family, and `tests/maps` looks at them."""
    monkeypatch.setattr("vsf_cli.generation.capture._draws", lambda capture, maps: {})
