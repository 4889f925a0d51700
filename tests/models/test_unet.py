"""The U-Net: what presets of its few-step LoRAs need, timesteps of their own and schedulers, and the mask of its text."""

from typing import Any

import pytest
import torch

from tests.models.families import NEGATIVES, TEXT, TINY
from tests.models.pipelines import build_sdxl
from vsf_cli import VSF, guided
from vsf_cli.errors import RequestError
from vsf_cli.generation.generate import Request, generate
from vsf_cli.loading.schedulers import set_scheduler


def request(**options: Any) -> Request:
    options = {"width": 16, "height": 16, "num_inference_steps": 2, "negative": ("wheels",), **options}
    return Request(prompt="a red bike", model="mine", seed=1, **options)


def test_steps_begin_at_the_timesteps_of_a_preset() -> None:
    pipe = build_sdxl()
    pipe.set_progress_bar_config(disable=True)
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, args, kwargs: seen.append(int(args[1])), with_kwargs=True)
    set_scheduler(pipe, "LCMScheduler", None)
    assert generate(pipe, request(timesteps=(999, 249))).tokens and seen == [999, 249]
    set_scheduler(pipe, "DDIMScheduler", None)
    with pytest.raises(RequestError, match="timesteps, which a StableDiffusionXLPipeline with a DDIMScheduler does not take"):
        generate(pipe, request(timesteps=(999, 249)))
    assert generate(pipe, request()).tokens and seen[2:] == [999, 499]


def test_a_scheduler_that_does_not_count_is_followed_by_its_timesteps() -> None:
    """DDIM's, which presets of Hyper-SD have."""
    pipe = build_sdxl()
    pipe.set_progress_bar_config(disable=True)
    set_scheduler(pipe, "DDIMScheduler", None)
    lengths: list[int] = []
    pipe.unet.down_blocks[1].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    generate(pipe, request(num_inference_steps=4, parameters={"start": 0.25, "stop": 0.75}))
    assert [length > min(lengths) for length in lengths] == [False, True, True, False]


def test_a_mask_of_the_text_hides_what_it_hid() -> None:
    tiny = TINY["sdxl"]
    unet, call = tiny.model(), tiny.call()
    cut = {**call, "encoder_hidden_states": call["encoder_hidden_states"][:, :-3]}
    mask = (torch.arange(TEXT) < TEXT - 3)[None].double()
    with torch.no_grad(), guided(unet, method=VSF(3.0, 0.3), negative_prompt_embeds=tiny.text(1, NEGATIVES)):
        found = unet(**call, encoder_attention_mask=mask).sample
        torch.testing.assert_close(found, unet(**cut).sample, atol=1e-11, rtol=0)
