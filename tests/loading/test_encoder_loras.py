"""LoRA layers of text encoders, by every name under which they are published, in every family that can load them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import random_pipeline
from tests.models.pipelines import PIPELINES
from vsf_cli.loading.lora_keys import match_keys
from vsf_cli.loading.loras import Lora, load_lora

LAYERS = "encoder.layers.0.mlp.fc1", "encoder.layers.1.self_attn.q_proj"
KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")
BUILD: dict[str, Callable[[], Any]] = {
    "sd3": lambda: random_pipeline("sd3", torch.float32),
    "flux": PIPELINES["flux"],
    "sdxl": PIPELINES["sdxl"],
    "sd15": PIPELINES["sd15"],
}


def encoder_layer(pipe: Any, part: str, name: str) -> Any:
    encoder = getattr(pipe, part)
    return encoder.get_submodule(f"text_model.{name}" if hasattr(encoder, "text_model") else name)


@pytest.mark.parametrize(
    ("family", "part", "pattern", "kinds"),
    [
        ("sd3", "text_encoder", "lora_te1_text_model_{}", KOHYA),
        ("sd3", "text_encoder_2", "lora_te2_text_model_{}", KOHYA),
        ("sdxl", "text_encoder", "lora_te1_text_model_{}", KOHYA),
        ("sdxl", "text_encoder_2", "text_encoder_2.text_model.{}", PEFT),
        ("flux", "text_encoder", "lora_te1_text_model_{}", KOHYA),
        ("sd15", "text_encoder", "lora_te_text_model_{}", KOHYA),
    ],
)
def test_they_act_with_their_strength(tmp_path: Path, family: str, part: str, pattern: str, kinds: tuple[str, str]) -> None:
    pipe, raw = BUILD[family](), {}
    for name in LAYERS:
        layer, key = encoder_layer(pipe, part, name), pattern.format(name.replace(".", "_") if "lora_te" in pattern else name)
        raw |= {f"{key}.{kinds[0]}.weight": torch.randn(2, layer.in_features), f"{key}.alpha": torch.tensor(1.0)}
        raw[f"{key}.{kinds[1]}.weight"] = torch.randn(layer.out_features, 2)
    save_file(raw, tmp_path / "x.safetensors")
    load_lora(pipe, Lora(str(tmp_path / "x.safetensors")), "x", True)
    pipe.set_adapters(["x"], [0.5])
    ups = [tensor for key, tensor in raw.items() if kinds[1] in key]
    downs = [tensor for key, tensor in raw.items() if kinds[0] in key]
    for name, down, up in zip(LAYERS, downs, ups, strict=True):
        layer, inputs = encoder_layer(pipe, part, name), torch.randn(3, down.shape[1])
        with torch.no_grad():
            added = layer(inputs) - layer.base_layer(inputs)
        torch.testing.assert_close(added, 0.5 * 0.5 * inputs @ down.T @ up.T, atol=1e-5, rtol=1e-4)


def test_what_no_loader_takes_is_reported() -> None:
    """The T5 of Stable Diffusion 3, a magnitude of CLIP, and a layer that CLIP does not have."""
    pipe = BUILD["sd3"]()
    known, t5, none = (
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "lora_te1_x",
    )
    raw = {f"{name}.{kind}.weight": torch.ones(2, 2) for name in (known, t5, none) for kind in KOHYA}
    raw[f"{known}.dora_scale"] = torch.ones(2, 1)
    state, unmatched = match_keys(raw, pipe)
    assert len(state) == 2 and len(unmatched) == 5
    assert all(key.startswith((t5, none)) or key.endswith("dora_scale") for key in unmatched)
