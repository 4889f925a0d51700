"""Wan: cross attention against the paper's equation 6 written out, over the whole transformer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from tests.conftest import CAPTIONS
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.generation.guided import guided
from vsf_cli.loading.pipelines import load
from vsf_cli.methods import VSF, WEF, Method
from vsf_cli.models import family_of
from vsf_cli.toy.image_recipe import build_t5_tokenizer

SIZES: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}


def random_wan(dtype: torch.dtype = torch.float64, two: bool = False, **changes: Any) -> WanPipeline:
    torch.manual_seed(11)
    tokenizer = build_t5_tokenizer(CAPTIONS)
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0)
    )
    transformers = [WanTransformer3DModel(**SIZES, **changes).eval() for _ in range(2 if two else 1)]
    with torch.no_grad():
        for transformer in transformers:
            for name, parameter in transformer.named_parameters():
                if parameter.ndim == 2 and "norm" not in name:
                    parameter.mul_(1.5)
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[1.5] * 4
    )
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=transformers[0],
        transformer_2=transformers[1] if two else None,
        boundary_ratio=0.5 if two else None,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.to(dtype=dtype)
    return pipe


def run(pipe: WanPipeline, prompt: str | list[str] = "a red bike", **options: Any) -> Tensor:
    options = {"guidance_scale": 0.0, "num_inference_steps": 2, "max_sequence_length": 12, "num_frames": 9} | options
    generator = torch.Generator().manual_seed(3)
    latents: Tensor = pipe(prompt, generator=generator, height=32, width=32, output_type="latent", **options).frames
    return latents


class DenseProcessor:
    """softmax([Q K+, Q K- - beta] / sqrt(d)) [V+ ; -alpha V-], without any of the package's code."""

    def __init__(self, lengths: list[int], alpha: float, beta: float) -> None:
        self.lengths, self.alpha, self.beta = lengths, alpha, beta

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], attn.heads, -1).transpose(1, 2)

        longest = max(self.lengths)
        text = encoder_hidden_states
        query = heads(attn.norm_q(attn.to_q(hidden_states)))
        key, value = heads(attn.norm_k(attn.to_k(text))), heads(attn.to_v(text))
        start = key.shape[2] - longest
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        logits[..., start:] -= self.beta
        times = len(logits) // len(self.lengths)
        for row, length in enumerate(length for length in self.lengths for _ in range(times)):
            logits[row, :, :, start + length :] = -torch.inf
        value = torch.cat([value[:, :, :start], -self.alpha * value[:, :, start:]], dim=2)
        output = logits.softmax(-1) @ value
        return attn.to_out[0](output.transpose(1, 2).flatten(2))


def cross_attentions(pipe: WanPipeline) -> list[Any]:
    return [
        block.attn2 for transformer in (pipe.transformer, pipe.transformer_2) if transformer for block in transformer.blocks
    ]


def dense(pipe: WanPipeline, negatives: list[list[str]], method: VSF, prompt: str | list[str], **options: Any) -> Tensor:
    family = family_of(pipe)
    rows = [family.encode_negative(pipe, row, method.special_tokens) if row else None for row in negatives]
    some = next(row for row in rows if row is not None)
    rows = [some[:0] if row is None else row for row in rows]
    lengths = [len(row) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def append(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        repeated = padded.repeat_interleave(len(text) // len(padded), 0).to(text)
        return args, {**kwargs, "encoder_hidden_states": torch.cat([text, repeated], 1)}

    stock = [attention.processor for attention in cross_attentions(pipe)]
    handles = [
        transformer.register_forward_pre_hook(append, with_kwargs=True)
        for transformer in (pipe.transformer, pipe.transformer_2)
        if transformer
    ]
    for attention in cross_attentions(pipe):
        attention.set_processor(DenseProcessor(lengths, method.alpha, method.beta))
    try:
        return run(pipe, prompt, **options)
    finally:
        for attention, processor in zip(cross_attentions(pipe), stock, strict=True):
            attention.set_processor(processor)
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("two", [False, True], ids=["wan2.1", "wan2.2"])
@pytest.mark.parametrize(
    "method", [VSF(1.7, 0.2), VSF(3.0, -1.0, special_tokens=False), VSF(0.0, 0.5)], ids=["paper", "words", "no-values"]
)
def test_vsf_equals_equation_6(two: bool, method: VSF) -> None:
    pipe = random_wan(two=two)
    with guided(pipe, ["wheels"], method) as applied:
        output = run(pipe)
    assert applied.blocks == len(cross_attentions(pipe)) == (6 if two else 3)
    assert (output - dense(pipe, [["wheels"]], method, "a red bike")).abs().max() < 1e-9
    assert (output - run(pipe)).abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_every_precision_is_as_near_as_stated(dtype: torch.dtype, error: float) -> None:
    exact = dense(random_wan(), [["wheels"]], VSF(1.7, 0.2), "a red bike")
    pipe = random_wan(dtype)
    with guided(pipe, "wheels", VSF(1.7, 0.2)):
        assert (run(pipe).double() - exact).abs().max() < error


@pytest.mark.parametrize("videos", [1, 2])
def test_a_batch_of_negatives_of_different_lengths(videos: int) -> None:
    pipe, method = random_wan(), VSF(2.0, 0.3)
    prompts, negatives = ["a red bike", "a person"], [["wheels", "a hat"], ["a hat"]]
    with guided(pipe, negatives, method):
        output = run(pipe, prompts, num_videos_per_prompt=videos)
    assert (output - dense(pipe, negatives, method, prompts, num_videos_per_prompt=videos)).abs().max() < 1e-9


def test_a_batch_of_two_equals_two_of_one() -> None:
    pipe, method = random_wan(), VSF(2.0, 0.3)
    noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    with guided(pipe, ["wheels", ["a hat", "glasses"]], method):
        both = run(pipe, ["a red bike", "a person"], latents=noise)
    for row, (prompt, negative) in enumerate((("a red bike", ["wheels"]), ("a person", ["a hat", "glasses"]))):
        with guided(pipe, [negative], method):
            assert (run(pipe, prompt, latents=noise[[row]]) - both[[row]]).abs().max() < 1e-9


def test_an_empty_row_is_unguided() -> None:
    pipe = random_wan()
    noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with guided(pipe, ["", "wheels"], VSF(2.0, 0.3)):
        both = run(pipe, ["a red bike", "a person"], latents=noise)
    assert (both[[0]] - run(pipe, "a red bike", latents=noise[[0]])).abs().max() < 1e-9


def test_without_a_negative_it_is_bit_equal_to_diffusers_and_infinity_is_off() -> None:
    pipe = random_wan()
    stock = run(pipe)
    with guided(pipe, "", VSF(3.0, 0.0)):
        assert torch.equal(run(pipe), stock)
    with guided(pipe, "wheels", VSF(3.0, torch.inf)):
        assert (run(pipe) - stock).abs().max() < 1e-9


def processors(pipe: WanPipeline) -> dict[str, Any]:
    return {name: module.processor for name, module in pipe.transformer.named_modules() if hasattr(module, "processor")}


def test_the_same_objects_come_back_after_an_exception_in_any_block() -> None:
    pipe = random_wan()
    before = processors(pipe)
    for number in range(3):

        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        handle = pipe.transformer.blocks[number].register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError), guided(pipe, "wheels"):
            run(pipe)
        handle.remove()
        assert all(processors(pipe)[name] is processor for name, processor in before.items())
        assert not pipe.transformer._forward_pre_hooks


def test_the_positive_keeps_its_padding_and_the_negative_has_none() -> None:
    pipe = random_wan()
    lengths = []
    handle = pipe.transformer.condition_embedder.text_embedder.register_forward_pre_hook(
        lambda module, args: lengths.append(args[0].shape[1])
    )
    with guided(pipe, "wheels") as applied:
        run(pipe, num_inference_steps=1)
    handle.remove()
    assert applied.tokens == (2,), "the word and </s>"
    assert lengths == [12 + 2]


def test_what_cannot_be_guided_is_refused() -> None:
    pipe = random_wan()
    with guided(pipe, "wheels"):
        with pytest.raises(RequestError, match="guidance_scale is 5"):
            run(pipe, guidance_scale=5.0)
        with pytest.raises(PatchError, match="guided already"), guided(pipe, "a hat"):
            pass


def test_fused_projections_are_guided_alike() -> None:
    pipe = random_wan()
    with guided(pipe, "wheels"):
        wanted = run(pipe)
    for block in pipe.transformer.blocks:
        block.attn2.fuse_projections()
    with guided(pipe, "wheels"):
        torch.testing.assert_close(run(pipe), wanted, atol=1e-9, rtol=0)


def appending(pipe: WanPipeline, embedding: Tensor, copies: int = 1) -> Any:
    """A hook by which embeddings join the text of every call."""

    def append(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": torch.cat([text, *[embedding[None].to(text)] * copies], 1)}

    return pipe.transformer.register_forward_pre_hook(append, with_kwargs=True)


@pytest.mark.parametrize("method", [VSF(1.7, 0.2), WEF()], ids=str)
def test_image_to_video_with_tokens_of_its_own_is_refused(method: Method) -> None:
    """diffusers takes what is longer than 512 for tokens of the image: the negative must not become a picture in silence."""
    pipe = random_wan(added_kv_proj_dim=24, image_dim=8)
    before = processors(pipe)
    with (
        pytest.raises(PatchError, match=r"blocks\.0\.attn2 has a WanAttnProcessor, which calls attention more than once"),
        guided(pipe, "wheels", method, max_sequence_length=12),
    ):
        pass
    assert processors(pipe) == before and not pipe.transformer._forward_pre_hooks


def test_the_layout_of_the_public_code_has_another_copy_among_the_positive() -> None:
    pipe = random_wan()
    with guided(pipe, "wheels", VSF(3.5, 0.1, reference_layout=True)) as applied:
        output = run(pipe)
    negative = family_of(pipe).encode_negative(pipe, ["wheels"])
    assert applied.tokens == (len(negative),)
    appending(pipe, negative, 2)
    for attention in cross_attentions(pipe):
        attention.set_processor(DenseProcessor([len(negative)], 3.5, 0.1))
    assert (output - run(pipe)).abs().max() < 1e-9


def test_whole_embedding_flip_is_plain_attention_to_flipped_tokens() -> None:
    pipe = random_wan()
    before = processors(pipe)
    with guided(pipe, "wheels", WEF(1.5), max_sequence_length=12) as applied:
        assert processors(pipe) == before and applied.blocks == 0
        output = run(pipe)
    flipped = -1.5 * family_of(pipe).encode_padded(pipe, ["wheels"], 12)
    assert applied.tokens == (len(flipped),) == (12,)
    appending(pipe, flipped)
    for attention in cross_attentions(pipe):
        attention.set_processor(DenseProcessor([len(flipped)], -1.0, 0.0))
    assert (output - run(pipe)).abs().max() < 1e-9


def test_wan_2_2_takes_a_lora_for_each_of_its_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    random_wan(torch.float32, two=True).save_pretrained(folder)
    for number, name in enumerate(("high", "low")):
        torch.manual_seed(number)
        place = "diffusion_model.blocks.0.cross_attn.q"
        shapes = {f"{place}.lora_down.weight": (2, 24), f"{place}.lora_up.weight": (24, 2)}
        save_file({key: torch.randn(shape) for key, shape in shapes.items()}, tmp_path / f"{name}.safetensors")
    both = (f"high-noise={tmp_path / 'high.safetensors'}:0.5", f"low-noise={tmp_path / 'low.safetensors'}:0.25")
    pipe = load(str(folder), "float32", loras=both)
    layers = [transformer.blocks[0].attn2.to_q for transformer in (pipe.transformer, pipe.transformer_2)]
    assert [dict(layer.scaling) for layer in layers] == [{"vsf_0": 0.5}, {"vsf_1": 0.25}]
    stock = load(str(folder), "float32")
    with guided(pipe, "wheels", VSF(1.7, 0.2)):
        output = run(pipe)
    assert torch.isfinite(output).all() and (output - run(stock)).abs().max() > 1e-4

    random_wan(torch.float32).save_pretrained(tmp_path / "one")
    with pytest.raises(RequestError, match="is for models with two transformers"):
        load(str(tmp_path / "one"), "float32", loras=both[:1])
