"""Whole pipelines with tiny random weights, of the real classes: those of families without built-in models."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
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


UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


def build_sdxl() -> StableDiffusionXLPipeline:
    parts = copy.deepcopy(text_parts())
    torch.manual_seed(9)
    clip = CLIPTextModel(parts["text_encoder"].config).eval()
    config = parts["text_encoder_2"].config
    unet = UNet2DConditionModel(
        **UNET,
        transformer_layers_per_block=2,
        cross_attention_dim=clip.config.hidden_size + config.hidden_size,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + config.projection_dim,
    )
    return StableDiffusionXLPipeline(
        vae=copy.deepcopy(autoencoder()),
        text_encoder=clip,
        text_encoder_2=parts["text_encoder_2"],
        tokenizer=parts["tokenizer"],
        tokenizer_2=parts["tokenizer_2"],
        unet=_weighty(unet),
        scheduler=EulerDiscreteScheduler(timestep_spacing="trailing"),
    )


def build_sd15() -> StableDiffusionPipeline:
    parts = copy.deepcopy(text_parts())
    torch.manual_seed(9)
    clip = CLIPTextModel(parts["text_encoder"].config).eval()
    unet = UNet2DConditionModel(**UNET, cross_attention_dim=clip.config.hidden_size)
    return StableDiffusionPipeline(
        vae=copy.deepcopy(autoencoder()),
        text_encoder=clip,
        tokenizer=parts["tokenizer"],
        unet=_weighty(unet),
        scheduler=LCMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


PIPELINES: dict[str, Callable[[], Any]] = {"flux": build_flux, "sdxl": build_sdxl, "sd15": build_sd15}
"""Functions that build pipelines, by name."""
