"""The inputs of one call of each family's transformer, with random embeddings and latents for one image or video."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vsf_cli.bench.shapes import IN_LATENTS, Shape
from vsf_cli.models import FAMILIES
from vsf_cli.models.unet import first_level

__all__ = ["PROMPT", "random_inputs", "random_text"]

PROMPT = 32
"""The number of tokens of a prompt whose text is padded."""

Normal = Callable[[tuple[int, ...]], Tensor]
"""Returns a random tensor of a shape."""


def random_text(shape: Shape, normal: Normal, tokens: int) -> Tensor:
    """Returns the embeddings of a prompt, with shape (1, tokens, ...)."""
    return normal((1, tokens, *shape.text_shape))


def random_inputs(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    """Returns the arguments of the transformer's `forward`, for one image or video; text that can be folded is padded."""
    text = random_text(shape, normal, shape.positives)
    if FAMILIES[shape.family].folds_padding:
        text[:, PROMPT:] = 0
    return {**_INPUTS[shape.family](shape, normal, device), **_common(shape, text, device)}


def _common(shape: Shape, text: Tensor, device: torch.device) -> dict[str, Any]:
    time = torch.tensor([500.0 if shape.family in IN_LATENTS else 0.5], device=device)
    if shape.family == "z-image":
        return {"t": time, "cap_feats": list(text)}
    if shape.family == "ernie-image":
        lengths = torch.tensor([shape.positives], device=device)
        return {"timestep": time, "text_bth": text, "text_lens": lengths}
    if shape.family == "ltx2":
        video, audio = text.split(shape.text_widths, dim=-1)
        return {"encoder_hidden_states": video, "audio_encoder_hidden_states": audio, "timestep": time, "sigma": time}
    guidance = {"guidance": torch.tensor([4.0], device=device)} if shape.config.get("guidance_embeds") else {}
    return {"encoder_hidden_states": text, "timestep": time, **guidance}


def _latents(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    return {"hidden_states": normal((1, shape.config["in_channels"], *shape.latent))}


def _sd3(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    return {**_latents(shape, normal, device), "pooled_projections": normal((1, shape.config["pooled_projection_dim"]))}


def _unet(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    config = shape.config
    times = 2 ** first_level(config["down_block_types"])
    sample = normal((1, config["in_channels"], *(times * side for side in shape.latent)))
    if config.get("addition_embed_type") != "text_time":
        return {"sample": sample}
    # The size of the image, its crop and its aim stand beside the pooled vector of the text.
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return {"sample": sample, "added_cond_kwargs": {"text_embeds": normal((1, pooled)), "time_ids": normal((1, 6))}}


def _ltx2(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    frames, rows, columns = shape.latent
    # A token of sound lasts 0.04 s, one of the video 8 frames at 24 a second.
    sounds = round(frames * 8 / 24 / 0.04)
    sound = normal((1, sounds, shape.config["audio_in_channels"]))
    sizes = {"num_frames": frames, "height": rows, "width": columns, "audio_num_frames": sounds}
    return {**_packed(shape, normal, device), "audio_hidden_states": sound, **sizes}


def _packed(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    return {"hidden_states": normal((1, shape.images, shape.config["in_channels"]))}


def _positions(shape: Shape, axes: int, device: torch.device) -> Tensor:
    """Returns the positions of the image's tokens: rows on the second axis, columns on the third."""
    rows, columns = shape.latent
    ids = torch.zeros(rows, columns, axes)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return ids.flatten(0, 1).to(device)


def _flux(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    pooled = {"pooled_projections": normal((1, shape.config["pooled_projection_dim"]))}
    return {**_chroma(shape, normal, device), **pooled}


def _chroma(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    texts = torch.zeros(shape.positives, 3, device=device)
    return {**_packed(shape, normal, device), "img_ids": _positions(shape, 3, device), "txt_ids": texts}


def _flux2(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    texts = torch.zeros(1, shape.positives, 4)
    texts[..., 3] = torch.arange(shape.positives)
    images = _positions(shape, 4, device)[None]
    return {**_packed(shape, normal, device), "img_ids": images, "txt_ids": texts.to(device)}


def _qwen_image(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    return {**_packed(shape, normal, device), "img_shapes": [[(1, *shape.latent)]]}


def _krea2(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    texts = torch.zeros(shape.positives, 3, device=device)
    return {**_packed(shape, normal, device), "position_ids": torch.cat([texts, _positions(shape, 3, device)])}


def _z_image(shape: Shape, normal: Normal, device: torch.device) -> dict[str, Any]:
    # A token is a square of 2 x 2 latents.
    return {"x": list(normal((1, shape.config["in_channels"], 1, *(2 * side for side in shape.latent))))}


_INPUTS: dict[str, Callable[[Shape, Normal, torch.device], dict[str, Any]]] = {
    "sd3": _sd3,
    "wan": _latents,
    "flux": _flux,
    "flux2": _flux2,
    "flux2-dev": _flux2,
    "chroma": _chroma,
    "ernie-image": _latents,
    "sana": _latents,
    "unet": _unet,
    "ltx2": _ltx2,
    "qwen-image": _qwen_image,
    "krea2": _krea2,
    "z-image": _z_image,
}
