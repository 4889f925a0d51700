"""Whole pipelines with tiny random weights, of the real classes: those of families without built-in models."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel

from tests.conftest import autoencoder, text_parts


def _weighty(model: Any) -> Any:
    """A model whose attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(1.5)
    return model.eval()


def build_flux() -> FluxPipeline:
    parts = copy.deepcopy(text_parts())
    torch.manual_seed(9)
    clip = CLIPTextModel(parts["text_encoder"].config).eval()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts["text_encoder_3"].config.d_model,
        pooled_projection_dim=clip.config.hidden_size,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=copy.deepcopy(autoencoder()),
        text_encoder=clip,
        tokenizer=parts["tokenizer"],
        text_encoder_2=parts["text_encoder_3"],
        tokenizer_2=parts["tokenizer_3"],
        transformer=_weighty(transformer),
    )


PIPELINES: dict[str, Callable[[], Any]] = {"flux": build_flux}
"""A function that builds the pipeline of each family, by its name."""
