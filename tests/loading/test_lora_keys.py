"""Names of LoRA files for models of several families, against diffusers' conversion of the whole file."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import lora_pipeline
from safetensors.torch import save_file
from torch import Tensor

from vsf_cli.loading.lora_keys import match_keys
from vsf_cli.loading.loras import Lora, load_lora

RANK = 2
FLUX = {"num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 32, "pooled_projection_dim": 32}
FLUX2 = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": [4, 4, 4, 4],
}
Z_IMAGE = {"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [8, 4, 4]}
WAN = {"num_layers": 2, "attention_head_dim": 12, "num_attention_heads": 2, "ffn_dim": 32, "text_dim": 16, "freq_dim": 16}
MODELS = {
    # At full width: diffusers splits Flux's fused layers at fixed rows.
    "Flux": ("FluxLoraLoaderMixin", "FluxTransformer2DModel", FLUX),
    "Flux2": ("Flux2LoraLoaderMixin", "Flux2Transformer2DModel", FLUX2),
    "QwenImage": ("QwenImageLoraLoaderMixin", "QwenImageTransformer2DModel", {"num_layers": 1, "joint_attention_dim": 16}),
    "ZImage": ("ZImageLoraLoaderMixin", "ZImageTransformer2DModel", Z_IMAGE),
    "Wan": ("WanLoraLoaderMixin", "WanTransformer3DModel", WAN),
}


def pipeline(family: str) -> Any:
    """A pipeline that has a transformer without numbers, and diffusers' loader of the family."""
    loader, transformer, config = MODELS[family]
    with torch.device("meta"):
        model = getattr(diffusers, transformer)(**config)
    return type("Pipeline", (getattr(lora_pipeline, loader),), {"transformer": model, "text_encoder": None})()


def file_of(pattern: str, layers: dict[str, tuple[int, int]], matrices: tuple[str, str], alpha: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer, (inner, outer) in layers.items():
        name = pattern.format(layer)
        tensors[f"{name}.{matrices[0]}.weight"] = torch.randn(RANK, inner, generator=generator)
        tensors[f"{name}.{matrices[1]}.weight"] = torch.randn(outer, RANK, generator=generator)
        if alpha:
            tensors[f"{name}.alpha"] = torch.tensor(0.5)
    return tensors


KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")
WIDE = 3072
DOUBLE = {
    "double_blocks.0.img_attn.qkv": (WIDE, 3 * WIDE),
    "double_blocks.0.img_attn.proj": (WIDE, WIDE),
    "double_blocks.0.txt_attn.qkv": (WIDE, 3 * WIDE),
    "double_blocks.0.txt_mlp.0": (WIDE, 4 * WIDE),
    "double_blocks.0.img_mod.lin": (WIDE, 6 * WIDE),
}
SINGLE = {"single_blocks.0.linear1": (WIDE, 7 * WIDE), "single_blocks.0.linear2": (5 * WIDE, WIDE)}
XLABS = {"double_blocks.0.processor.qkv_lora1": (WIDE, 3 * WIDE), "double_blocks.0.processor.proj_lora2": (WIDE, WIDE)}
PARALLEL = {"double_blocks.0.img_attn.qkv": (32, 96), "single_blocks.0.linear1": (32, 288), "txt_in": (32, 32)}
QWEN = {"transformer_blocks.0.attn.to_q": (WIDE, WIDE), "transformer_blocks.0.img_mlp.net.2": (4 * WIDE, WIDE)}
Z_LAYERS = {"layers.1.attention.to_q": (32, 32), "layers.1.attention.out": (32, 32), "layers.0.feed_forward.w1": (32, 85)}
FUSED = Z_LAYERS | {"layers.0.attention.qkv": (32, 96)}
ATTENTION = {f"{kind}.{name}": (24, 24) for kind in ("self_attn", "cross_attn") for name in "qkvo"}
WAN_BLOCK = ATTENTION | {"ffn.0": (24, 32), "ffn.2": (32, 24)}
WAN_LAYERS = {f"blocks.{block}.{layer}": size for block in (0, 1) for layer, size in WAN_BLOCK.items()}


def flat(layers: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {name.replace(".", "_"): size for name, size in layers.items()}


@pytest.mark.parametrize(
    ("family", "pattern", "layers", "matrices", "alpha"),
    [
        pytest.param("Flux", "lora_unet_{}", flat(DOUBLE | SINGLE), KOHYA, True, id="flux-kohya"),
        pytest.param("Flux", "diffusion_model.{}", DOUBLE | SINGLE, KOHYA, True, id="flux-comfyui"),
        pytest.param("Flux", "{}", XLABS, ("down", "up"), False, id="flux-xlabs"),
        pytest.param("Flux2", "diffusion_model.{}", PARALLEL, PEFT, False, id="flux2"),
        pytest.param("QwenImage", "lora_unet_{}", flat(QWEN), KOHYA, True, id="qwen-kohya"),
        pytest.param("QwenImage", "{}", QWEN, ("lora_A.default", "lora_B.default"), False, id="qwen-peft"),
        pytest.param("ZImage", "diffusion_model.{}", Z_LAYERS, KOHYA, True, id="z-image"),
        pytest.param("ZImage", "lora_unet_{}", flat(FUSED), KOHYA, True, id="z-image-kohya"),
        pytest.param("Wan", "lora_unet_{}", flat(WAN_LAYERS), KOHYA, True, id="wan-musubi"),
        pytest.param("Wan", "diffusion_model.{}", WAN_LAYERS | {"head.head": (24, 64)}, PEFT, False, id="wan"),
    ],
)
def test_each_layer_alone_is_what_diffusers_makes_of_the_file(
    family: str, pattern: str, layers: dict[str, tuple[int, int]], matrices: tuple[str, str], alpha: bool
) -> None:
    pipe, raw = pipeline(family), file_of(pattern, layers, matrices, alpha)
    wanted = pipe.lora_state_dict(dict(raw))
    state, unmatched = match_keys(raw, pipe)
    assert not unmatched and state.keys() == wanted.keys() and len(state) >= 2 * len(layers)
    for name in {key.rsplit(".lora_", 1)[0] for key in state}:
        inputs = torch.ones(state[f"{name}.lora_A.weight"].shape[1])
        found, expected = (one[f"{name}.lora_B.weight"] @ (one[f"{name}.lora_A.weight"] @ inputs) for one in (state, wanted))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pattern", ["base_model.model.{}", "{}", "diffusion_model.{}", "model.diffusion_model.{}"])
def test_fused_layers_are_split_whatever_the_prefix(pattern: str) -> None:
    pipe = pipeline("ZImage")
    state, unmatched = match_keys(file_of(pattern, FUSED, PEFT, True), pipe)
    wanted = pipe.lora_state_dict(file_of("lora_unet_{}", flat(FUSED), KOHYA, True))
    assert not unmatched and state.keys() == wanted.keys() and len(state) == 12
    assert all(torch.equal(state[key], wanted[key]) for key in state)


def test_what_does_not_match_is_reported_beside_what_does() -> None:
    pipe = pipeline("Flux")
    good = file_of("lora_unet_{}", flat(DOUBLE), KOHYA, True)
    bad = file_of("lora_unet_{}", {"double_blocks_7_img_attn_qkv": (WIDE, 3 * WIDE), "nonsense": (2, 2)}, KOHYA, True)
    bias = {"lora_unet_double_blocks_0_img_attn_qkv.diff_b": torch.ones(3 * WIDE)}
    state, unmatched = match_keys(good | bad | bias, pipe)
    assert state.keys() == match_keys(good, pipe)[0].keys() and set(unmatched) == bad.keys() | bias.keys()


UNET = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 24,
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
}
UNET_ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.1.attn2"
UNET_LAYERS = {f"{UNET_ATTENTION}.to_q": (64, 64), f"{UNET_ATTENTION}.to_k": (24, 64), f"{UNET_ATTENTION}.to_out.0": (64, 64)}


@pytest.mark.parametrize(
    ("pattern", "layers", "matrices"),
    [
        pytest.param("unet.{}", UNET_LAYERS, PEFT, id="diffusers"),
        pytest.param("lora_unet_{}", flat(UNET_LAYERS), KOHYA, id="kohya"),
        pytest.param(
            "lora_unet_{}",
            {key.replace("down_blocks_1_attentions_0", "input_blocks_4_1"): size for key, size in flat(UNET_LAYERS).items()},
            KOHYA,
            id="original",
        ),
    ],
)
def test_layers_of_a_unet_are_found_and_act(
    tmp_path: Path, pattern: str, layers: dict[str, tuple[int, int]], matrices: tuple[str, str]
) -> None:
    unet, raw = diffusers.UNet2DConditionModel(**UNET), file_of(pattern, layers, matrices, True)
    missing = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    pipe: Any = diffusers.StableDiffusionXLPipeline(**dict.fromkeys(missing), unet=unet)  # type: ignore[arg-type]
    state, unmatched = match_keys(raw | {"lora_unet_nonsense.lora_up.weight": torch.ones(2, 2)}, pipe)
    assert unmatched == ["lora_unet_nonsense.lora_up.weight"]
    assert state.keys() == {f"unet.{name}.{part}.weight" for name in UNET_LAYERS for part in PEFT}

    save_file(raw, tmp_path / "lora.safetensors")
    load_lora(pipe, Lora.parse(f"{tmp_path / 'lora.safetensors'}"), "first", offline=True)
    for name, layer in zip(UNET_LAYERS, layers, strict=True):
        down, up = (raw[f"{pattern.format(layer)}.{matrix}.weight"] for matrix in matrices)
        torch.testing.assert_close(unet.get_submodule(name).get_delta_weight("first"), 0.5 / RANK * up @ down)
