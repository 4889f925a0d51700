"""SANA-Sprint: an instruction before each prompt, and TrigFlow's steps."""

from functools import cache
from typing import Any

import pytest
import torch
from diffusers import SanaPipeline

from tests.models.pipelines import build_sana
from vsf_cli import VSF, guided
from vsf_cli.errors import RequestError
from vsf_cli.models.sana import SANA
from vsf_cli.models.steps import StepCounter


@cache
def pipe() -> Any:
    made = build_sana()
    made.set_progress_bar_config(disable=True)
    return made


# The second one is in the instruction, too.
@pytest.mark.parametrize("prompt", ["wheels", "A city street"])
def test_a_negative_prompt_is_encoded_as_a_prompt_is(prompt: str) -> None:
    alone, padded = SANA.encode_negative(pipe(), [prompt]), SANA.encode_padded(pipe(), [prompt], 300)
    # The pipeline keeps the token for the beginning, too.
    torch.testing.assert_close(padded[1:], alone, atol=1e-5, rtol=1e-5)
    tokens = SANA.tokens(pipe(), prompt, [prompt], True, 300)
    positions = {kind: [token.position for token in tokens if token.prompt == kind] for kind in ("positive", "negative")}
    assert positions["negative"] == list(range(len(alone)))
    assert positions["positive"] == list(range(1, 1 + len(alone)))
    assert [token.word for token in tokens if token.prompt == "positive"][-1] == prompt.lower().split()[-1]


def test_each_step_has_its_part_of_the_run() -> None:
    counter, scheduler = StepCounter(), pipe().scheduler
    for steps in (1, 2, 4):
        scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
        scheduler.set_begin_index(0)
        found = []
        for time in scheduler.timesteps[:-1]:
            found.append(counter.progress(scheduler))
            scheduler.step(torch.zeros(1), time, torch.zeros(1))
        assert found == [step / steps for step in range(steps)]


def test_a_window_has_the_second_of_two_steps() -> None:
    options = {"prompt": "a hat", "width": 32, "height": 32, "output_type": "latent", **SANA.call(2)}

    def run(**window: float) -> torch.Tensor:
        with guided(pipe(), "wheels", VSF(3.0, **window)):
            latents: torch.Tensor = pipe()(**options, generator=torch.Generator().manual_seed(1))[0]
            return latents

    assert not torch.equal(run(), run(start=0.5))
    with pytest.raises(RequestError, match="left none of the 2 steps"):
        run(start=0.6)


def test_the_model_before_distillation_is_refused_with_cfg() -> None:
    made = SanaPipeline(**pipe().components)
    options = {"prompt": "a hat", "width": 32, "height": 32, "use_resolution_binning": False, "num_inference_steps": 2}
    with guided(made, "wheels"), pytest.raises(RequestError, match=r"guidance_scale is 4\.5, but VSF is for models"):
        made(**options)
