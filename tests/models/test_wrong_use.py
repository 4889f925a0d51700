"""What a family cannot do is refused in one line, and what may look like it works."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModularPipeline
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from diffusers.models.transformers.transformer_flux2 import Flux2KVAttnProcessor, Flux2KVParallelSelfAttnProcessor
from torch import Tensor
from typer.testing import CliRunner

from tests.models.families import NEGATIVES, TEXT, TINY
from tests.models.pipelines import PIPELINES
from vsf_cli import VSF, guided
from vsf_cli.cli.app import app
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.models import family_of


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class KernelProcessor:
    """A processor that calls a kernel of its own, as those of quantised models do."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("flux2", Flux2KVAttnProcessor()),
        ("flux2", Flux2KVParallelSelfAttnProcessor()),
        ("flux", FluxIPAdapterAttnProcessor(32, 16)),
        ("sdxl", IPAdapterAttnProcessor2_0(32, 16)),
        ("qwen-image", KernelProcessor()),
        ("z-image", KernelProcessor()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_processor_whose_attention_is_not_known_is_named(name: str, processor: Any) -> None:
    """Those that cache keys, those of an IP-Adapter, and those of quantised models."""
    tiny = TINY[name]
    model, negative = tiny.model(), tiny.text(1, NEGATIVES)
    attention_name, attention, _ = list(tiny.family.attentions_of(model))[-1]
    stock = attention.processor
    attention.set_processor(processor)
    with pytest.raises(PatchError) as error, guided(model, negative_prompt_embeds=negative):
        pass
    assert attention_name in str(error.value) and type(processor).__name__ in str(error.value)
    attention.set_processor(stock)
    with guided(model, negative_prompt_embeds=negative):
        pass


def test_a_mask_of_the_callers_own_is_refused() -> None:
    """It has as many keys as the call without a negative prompt: which of them a key is, is not known."""
    tiny = TINY["flux"]
    model, call = tiny.model(), tiny.call()
    keys = TEXT + tiny.images
    mask, refused = torch.ones(1, 1, 1, keys, dtype=torch.bool), f"for {keys + NEGATIVES} keys, .* leave out an attention mask"
    with guided(model, negative_prompt_embeds=tiny.text(1, NEGATIVES)), pytest.raises(PatchError, match=refused):
        model(**call, joint_attention_kwargs={"attention_mask": mask})


class Modular(ModularPipeline):
    """A modular pipeline with a denoiser, whose call is a loop."""

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer

    def __call__(self, call: dict[str, Any]) -> Any:
        return self.transformer(**call)


def test_a_modular_pipeline_is_refused_and_its_calls_too() -> None:
    tiny = TINY["flux"]
    pipe, negative = Modular(tiny.model()), tiny.text(1, NEGATIVES)
    refused = "a Modular is a modular pipeline, .*: use a DiffusionPipeline"
    with pytest.raises(PatchError, match=refused), guided(pipe, negative_prompt_embeds=negative):
        pass
    with guided(pipe.transformer, negative_prompt_embeds=negative), pytest.raises(PatchError, match=refused):
        pipe(tiny.call())


# The fused processor of diffusers for Stable Diffusion 3 leaves norms out; Qwen-Image and Z-Image cannot be fused.
@pytest.mark.parametrize("name", ["flux", "flux2", "wan"])
def test_fused_projections_are_guided_alike(name: str) -> None:
    tiny = TINY[name]
    model, negative, call = tiny.model(), tiny.text(1, NEGATIVES), tiny.call()
    with guided(model, method=VSF(2.0), negative_prompt_embeds=negative):
        wanted = model(**call, return_dict=False)[0]
    model.fuse_qkv_projections()
    assert any("to_qkv" in key or "to_kv" in key or "fused" in key for key, _ in model.named_modules())
    with guided(model, method=VSF(2.0), negative_prompt_embeds=negative):
        torch.testing.assert_close(model(**call, return_dict=False)[0], wanted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", list(PIPELINES))
def test_a_negative_prompt_that_is_too_long_is_refused(name: str) -> None:
    pipe = PIPELINES[name]()
    main = family_of(pipe).main_tokenizer(pipe, 512)
    main.tokenizer.model_max_length = 20
    with pytest.raises(RequestError, match="shorten it, or give several"), guided(pipe, "wheels " * 30):
        pass


def test_a_preset_of_another_family_is_refused(tmp_path: Path) -> None:
    PIPELINES["flux"]().save_config(tmp_path / "flux")
    for command in (["image", "a bike"], ["attn-map", "a bike"]):
        arguments = [*command, "--neg", "wheels", "-m", str(tmp_path / "flux"), "--preset", "sdxl-turbo"]
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 6 and "but flux is a FluxPipeline: leave --preset out" in refused.output


def test_guided_without_with_is_said() -> None:
    with pytest.warns(RuntimeWarning, match=r"write `with guided\(\.\.\.\):`"):
        guided(object(), "wheels")
    with pytest.raises(PatchError, match="is not supported"), guided(object(), "wheels"):
        pass
