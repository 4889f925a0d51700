from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.models.attention_processor import Attention

from tests.conftest import random_pipeline
from tests.oracle import DenseProcessor
from vsf_cli import VSF, NoGuidance, guided
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.generation.generate import Request
from vsf_cli.methods import CFG
from vsf_cli.models.interpose import is_twin
from vsf_cli.models.sd3 import SD3
from vsf_cli.models.state import Encoded

Generate = Callable[..., torch.Tensor]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 6e-2}


def joint_attentions(pipe: StableDiffusion3Pipeline) -> list[Attention]:
    return [block.attn for block in pipe.transformer.transformer_blocks]


def all_processors(pipe: StableDiffusion3Pipeline) -> dict[str, Any]:
    return {name: module.processor for name, module in pipe.transformer.named_modules() if isinstance(module, Attention)}


@contextmanager
def dense(pipe: StableDiffusion3Pipeline, rows: list[str], alpha: float, beta: float) -> Iterator[None]:
    """The model with the paper's masked attention in every block, and the negative appended to its text."""
    family = SD3
    encoded = Encoded.stack(
        [family.encode_negative(pipe, [row]) if row else torch.zeros(0, 128, dtype=pipe.dtype) for row in rows]
    )

    def append(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        negative = encoded.embeddings.repeat_interleave(len(text) // len(rows), dim=0)
        return args, {**kwargs, "encoder_hidden_states": torch.cat([text, negative], dim=1)}

    old = {module: module.processor for module in joint_attentions(pipe)}
    hook = pipe.transformer.register_forward_pre_hook(append, with_kwargs=True)
    for module in old:
        module.set_processor(DenseProcessor(list(encoded.lengths), alpha, beta))
    yield
    hook.remove()
    for module, processor in old.items():
        module.set_processor(processor)


@pytest.mark.parametrize("alpha, beta", [(3.0, 0.3), (1.5, -0.5), (0.0, 0.0)])
def test_vsf_equals_the_masked_attention_of_the_paper(
    pipe: StableDiffusion3Pipeline, generate: Generate, alpha: float, beta: float
) -> None:
    with dense(pipe, ["wheels"], alpha, beta):
        wanted = generate(pipe)
    with guided(pipe, "wheels", VSF(alpha, beta)):
        found = generate(pipe)

    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
    assert (wanted - generate(pipe)).abs().max() > 1e-3, "the oracle must differ from no guidance"


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_every_precision_is_as_near_as_stated(generate: Generate, dtype: torch.dtype) -> None:
    exact, rounded = random_pipeline("sd3.5-medium"), random_pipeline("sd3.5-medium", dtype)
    prompts = {"prompt_embeds": torch.randn(1, 20, 128), "pooled_prompt_embeds": torch.randn(1, 128)}
    latents = torch.randn(1, 4, 8, 8)
    outputs = []
    for pipe in (exact, rounded):
        inputs = {name: tensor.to(pipe.dtype) for name, tensor in (prompts | {"latents": latents}).items()}
        context = dense if pipe is exact else guided
        options = (["wheels"], 3.0, 0.3) if pipe is exact else ("wheels", VSF(3.0, 0.3))
        with context(pipe, *options):  # type: ignore[operator]
            outputs.append(generate(pipe, None, **inputs))
    torch.testing.assert_close(outputs[1].double(), outputs[0], atol=TOLERANCES[dtype], rtol=0)


@pytest.mark.parametrize("images", [1, 2])
def test_batch_of_negatives_of_different_lengths(pipe: StableDiffusion3Pipeline, generate: Generate, images: int) -> None:
    prompts, negatives = ["a red bike", "a person", "a bike on a road"], ["wheels", "", "a hat with blue wheels"]
    with dense(pipe, negatives, 3.0, 0.3):
        wanted = generate(pipe, prompts, num_images_per_prompt=images)
    with guided(pipe, negatives, VSF(3.0, 0.3)):
        found = generate(pipe, prompts, num_images_per_prompt=images)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_rows_of_a_batch_do_not_depend_on_each_other(pipe: StableDiffusion3Pipeline, generate: Generate) -> None:
    latents = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with guided(pipe, ["wheels", "a blue person with a hat"]):
        both = generate(pipe, ["a red bike", "a person"], latents=latents)
    with guided(pipe, "wheels"):
        alone = generate(pipe, "a red bike", latents=latents[:1])
    torch.testing.assert_close(both[:1], alone, atol=1e-9, rtol=0)


def test_an_empty_row_is_unguided(pipe: StableDiffusion3Pipeline, generate: Generate) -> None:
    stock = generate(pipe, ["a red bike", "a person"])
    with guided(pipe, ["", "wheels"]):
        found = generate(pipe, ["a red bike", "a person"])
    torch.testing.assert_close(found[0], stock[0], atol=1e-9, rtol=0)
    assert (found[1] - stock[1]).abs().max() > 1e-3


def test_several_negatives_are_encoded_apart_and_joined(pipe: StableDiffusion3Pipeline) -> None:
    family = SD3
    both = family.encode_negative(pipe, ["wheels", "a hat"])
    apart = [family.encode_negative(pipe, [negative]) for negative in ("wheels", "a hat")]
    assert torch.equal(both, torch.cat(apart))
    with guided(pipe, [["wheels", "a hat"]]) as applied:
        assert applied.tokens == (len(both),)


def test_negative_is_encoded_alone_without_padding(pipe: StableDiffusion3Pipeline) -> None:
    # CLIP: beginning, word, end. T5: word, end.
    assert SD3.encode_negative(pipe, ["wheels"]).shape == (5, 128)


def test_a_negative_may_be_its_words_alone(pipe: StableDiffusion3Pipeline) -> None:
    family = SD3
    every = family.encode_negative(pipe, ["red wheels"])
    words = family.encode_negative(pipe, ["red wheels"], special_tokens=False)
    # CLIP: beginning, two words, end. T5: two words, end. The encoders have seen all of them.
    assert torch.equal(words, every[[1, 2, 4, 5]])
    with guided(pipe, "red wheels", VSF(special_tokens=False)) as applied:
        assert applied.tokens == (4,)
    with guided(pipe, "red wheels") as applied:
        assert applied.tokens == (7,)


def test_infinite_beta_is_no_guidance(pipe: StableDiffusion3Pipeline, generate: Generate) -> None:
    stock = generate(pipe)
    with guided(pipe, "wheels", VSF(3.0, float("inf"))):
        torch.testing.assert_close(generate(pipe), stock, atol=1e-9, rtol=0)


@pytest.mark.parametrize("negative, method", [("", VSF()), ("  ", VSF()), (["", ""], VSF()), ("wheels", NoGuidance())])
def test_without_a_negative_it_is_bit_equal_to_diffusers(
    pipe: StableDiffusion3Pipeline, generate: Generate, negative: str | list[str], method: Any
) -> None:
    stock = generate(pipe)
    with guided(pipe, negative, method) as applied:
        assert torch.equal(generate(pipe), stock)
    assert applied.blocks == 0


def test_alpha_of_zero_still_takes_attention(pipe: StableDiffusion3Pipeline, generate: Generate) -> None:
    stock = generate(pipe)
    with guided(pipe, "wheels", VSF(0.0, 0.0)):
        assert (generate(pipe) - stock).abs().max() > 1e-4


def test_the_same_objects_come_back(pipe: StableDiffusion3Pipeline) -> None:
    before = all_processors(pipe)
    with guided(pipe, "wheels") as applied:
        changed = [name for name, processor in all_processors(pipe).items() if processor is not before[name]]
        assert len(changed) == applied.blocks == len(joint_attentions(pipe))
    after = all_processors(pipe)
    assert all(after[name] is before[name] for name in before)
    assert not pipe.transformer._forward_pre_hooks


@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_same_objects_come_back_after_an_exception_in_any_block(
    pipe: StableDiffusion3Pipeline, generate: Generate, block: int
) -> None:
    before, stock = all_processors(pipe), generate(pipe)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    hook = pipe.transformer.transformer_blocks[block].ff.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"), guided(pipe, "wheels"):
        generate(pipe)
    hook.remove()

    after = all_processors(pipe)
    assert all(after[name] is before[name] for name in before)
    assert not pipe.transformer._forward_pre_hooks
    assert torch.equal(generate(pipe), stock)


def test_the_same_objects_come_back_when_patching_fails_halfway(pipe: StableDiffusion3Pipeline) -> None:
    before = all_processors(pipe)
    last = joint_attentions(pipe)[-1]
    last.set_processor = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="refused"), guided(pipe, "wheels"):
        pass
    del last.set_processor
    assert all(processor is before[name] for name, processor in all_processors(pipe).items())


def refuse(processor: Any) -> None:
    if is_twin(processor):
        raise RuntimeError("refused")


def test_guidance_scale_above_one_is_refused(pipe: StableDiffusion3Pipeline, generate: Generate) -> None:
    with pytest.raises(RequestError, match=r"guidance_scale is 4\.5"), guided(pipe, "wheels"):
        generate(pipe, guidance_scale=4.5)


def test_a_method_outside_of_attention_does_not_lose_the_negative_in_silence(pipe: StableDiffusion3Pipeline) -> None:
    with pytest.raises(RequestError, match="pass negative_prompt to the pipeline"), guided(pipe, "wheels", CFG()):
        pass


def test_guiding_twice_is_refused(pipe: StableDiffusion3Pipeline) -> None:
    with (
        guided(pipe, "wheels"),
        pytest.raises(PatchError, match="guided already"),
        guided(pipe, "a hat"),
    ):
        pass


def test_fused_projections_are_guided_alike(generate: Generate) -> None:
    # diffusers leaves the norms of queries and keys out where projections are fused.
    pipe = random_pipeline("sd3-without-qk-norm")
    with guided(pipe, "wheels"):
        wanted = generate(pipe)
    pipe.transformer.fuse_qkv_projections()
    with guided(pipe, "wheels"):
        assert type(joint_attentions(pipe)[0].processor).__name__ == "FusedJointAttnProcessor2_0"
        torch.testing.assert_close(generate(pipe), wanted, atol=1e-9, rtol=0)


def test_a_batch_that_does_not_fit_is_refused(pipe: StableDiffusion3Pipeline, generate: Generate) -> None:
    with pytest.raises(PatchError, match="2 negative or kept prompts for a batch of 3"), guided(pipe, ["wheels", "a hat"]):
        generate(pipe, ["a bike"] * 3)


def test_a_negative_that_is_too_long_is_refused_and_not_cut(pipe: StableDiffusion3Pipeline) -> None:
    with pytest.raises(RequestError, match="takes 20"), guided(pipe, "wheels " * 30):
        pass


def test_a_pipeline_of_another_family_is_refused() -> None:
    with pytest.raises(PatchError, match="str is not supported"), guided("a pipeline", "wheels"):
        pass


@pytest.mark.parametrize("level", ["sequential", "model"])
def test_offloading_stays_exact(generate: Generate, level: str) -> None:
    from accelerate import cpu_offload, cpu_offload_with_hook
    from accelerate.hooks import remove_hook_from_module

    pipe = random_pipeline("sd3.5-medium")
    with guided(pipe, "wheels"):
        wanted = generate(pipe)
    # The offloading of diffusers needs an accelerator; accelerate's own, on which it stands, runs anywhere.
    if level == "sequential":
        cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    else:
        cpu_offload_with_hook(pipe.transformer, torch.device("cpu"))
    with guided(pipe, "wheels"):
        torch.testing.assert_close(generate(pipe), wanted, atol=0, rtol=0)
    remove_hook_from_module(pipe.transformer, recurse=True)


def test_lora_changes_the_guided_picture(generate: Generate) -> None:
    from peft import LoraConfig

    pipe = random_pipeline("sd3")
    with guided(pipe, "wheels"):
        without = generate(pipe)
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["to_k", "add_v_proj"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    pipe.transformer.to(torch.float64)
    with dense(pipe, ["wheels"], 3.0, 0.3):
        wanted = generate(pipe)
    with guided(pipe, "wheels", VSF(3.0, 0.3)):
        found = generate(pipe)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
    assert (found - without).abs().max() > 1e-3


def latents_of(pipe: StableDiffusion3Pipeline, replaced: dict[int, torch.Tensor] | None = None) -> list[torch.Tensor]:
    """The latents after each of four steps, some of which are replaced."""
    found: list[torch.Tensor] = []

    def after(_: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["latents"] = (replaced or {}).get(step, tensors["latents"])
        found.append(tensors["latents"].clone())
        return tensors

    options: dict[str, Any] = {"guidance_scale": 0.0, "max_sequence_length": 12, "width": 16, "height": 16}
    generator = torch.Generator().manual_seed(0)
    pipe("a bike", num_inference_steps=4, generator=generator, callback_on_step_end=after, output_type="latent", **options)
    return found


def test_the_window_guides_its_steps_alone_and_leaves_the_others_to_the_bit(pipe: StableDiffusion3Pipeline) -> None:
    with guided(pipe, "wheels", VSF(3.0, 0.3)):
        whole = latents_of(pipe)
    with guided(pipe, "wheels", VSF(3.0, 0.3, stop=0.5)):
        first = latents_of(pipe)
    with guided(pipe, "wheels", VSF(3.0, 0.3, start=0.5)):
        last = latents_of(pipe)
    assert torch.equal(first[1], whole[1]) and torch.equal(first[3], latents_of(pipe, {1: whole[1]})[3])
    assert torch.equal(last[1], latents_of(pipe)[1]) and not torch.equal(last[2], latents_of(pipe)[2])
    with guided(pipe, "wheels", VSF(3.0, 0.3, stop=0.51)):
        assert torch.equal(latents_of(pipe)[2], whole[2]), "the third of four steps begins at 0.5"


@pytest.mark.parametrize("start, stop", [(0.5, 0.5), (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)])
def test_a_window_that_is_none_is_refused(start: float, stop: float) -> None:
    with pytest.raises(RequestError, match=r"start must be less than stop|but must be (0 to 1|more than 0, at most 1)"):
        VSF(start=start, stop=stop)


def test_a_negative_prompt_is_not_lost_between_two_steps() -> None:
    with pytest.raises(RequestError, match="leave none of 4 steps guided"):
        Request("a bike", "tests", 1, ("wheels",), num_inference_steps=4, parameters={"start": 0.8, "stop": 1.0})
