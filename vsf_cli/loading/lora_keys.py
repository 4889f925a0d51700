"""The names of the tensors of LoRA files, and the layers that they are for."""

import re
from typing import Any

import torch
from torch import Tensor

__all__ = ["Tensors", "encoders", "expected", "fitted", "original_name"]

Tensors = dict[str, Tensor]

PREFIX = re.compile(r"^(base_model\.model\.|model\.)?(diffusion_model\.|transformer\.|lora_unet_)?")
DOWN, UP, UP_BIAS = "lora_A.weight", "lora_B.weight", "lora_B.bias"
PARTS = {
    **{f"{name}.weight": DOWN for name in ("lora_A", "lora_down", "lora.down")},
    **{f"{name}.weight": UP for name in ("lora_B", "lora_up", "lora.up")},
    **dict.fromkeys(("lora_B.bias", "lora_up.bias", "diff_b"), UP_BIAS),
    "diff": "diff",
    "alpha": "alpha",
}
"""What a tensor is, by the end of its name."""
KEY = re.compile(r"(?P<layer>.+)\.(?P<part>lora[._](A|B|down|up)(\.default)?\.weight|lora_(B|up)\.bias|diff_b|diff|alpha)")
ORIGINAL_NAMES = (
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])$", r".\1"),
    (r"\.to_out\.0$", ".o"),
    (r"\.add_([kv])_proj$", r".\1_img"),
    (r"\.ffn\.net\.0\.proj$", ".ffn.0"),
    (r"\.ffn\.net\.2$", ".ffn.2"),
    (r"^proj_out$", "head.head"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^condition_embedder\.(text|time)_embedder\.linear_1$", r"\1_embedding.0"),
    (r"^condition_embedder\.(text|time)_embedder\.linear_2$", r"\1_embedding.2"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj$", "img_emb.proj.1"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2$", "img_emb.proj.3"),
)
"""From diffusers' names of the layers of Wan to those of its own code, under which most LoRA files are published."""


def fitted(raw: Tensors, pipe: Any) -> tuple[Tensors, list[str]]:
    """The tensors of a file under the names that diffusers has for the layers of a pipeline.

    Files are published with several prefixes and none, under the names of Wan's own code and of diffusers, with their strength
    as numbers beside the matrices, and with biases.

    Returns:
        The tensors, and the names of those in the file that are of no use: no layer has the name, or a matrix is missing.
    """
    aliases = _aliases(pipe.transformer)
    layers: dict[str, dict[str, str]] = {}
    state, unmatched = {}, []
    for key, tensor in raw.items():
        found = KEY.fullmatch(PREFIX.sub("", key))
        own = aliases.get(found["layer"]) if found else None
        if found and own:
            layers.setdefault(own, {})[PARTS[found["part"].replace(".default", "")]] = key
        elif _of_encoder(key, pipe):
            state[key] = tensor
        else:
            unmatched.append(key)
    for own, keys in layers.items():
        tensors = _layer({part: raw[key] for part, key in keys.items()}, pipe.transformer.get_submodule(own))
        state |= {f"transformer.{own}.{part}": tensor for part, tensor in tensors.items()}
        unmatched += [] if tensors else keys.values()
    return state, unmatched


def _layer(parts: Tensors, module: Any) -> Tensors:
    """The matrices and the bias of one layer, its strength multiplied in; nothing if they are not whole."""
    alpha, whole = parts.pop("alpha", None), parts.pop("diff", None)
    alone = not {DOWN, UP} & parts.keys() and (UP_BIAS in parts or whole is not None)
    if alone and "in_features" in vars(module):
        return parts | _matrices(whole, module)
    if not {DOWN, UP} <= parts.keys():
        return {}
    if alpha is None:
        return parts
    down, up = float(alpha) / parts[DOWN].shape[0], 1.0
    # Shared between both, so that neither becomes too small for half precision.
    while 0 < down * 2 < up:
        down, up = down * 2, up / 2
    return {**parts, DOWN: parts[DOWN] * down, UP: parts[UP] * up}


def _matrices(whole: Tensor | None, module: Any) -> Tensors:
    """A difference of a whole layer as two matrices; matrices that do nothing if there is none, beside a bias."""
    if whole is None:
        return {DOWN: torch.zeros(1, module.in_features), UP: torch.zeros(module.out_features, 1)}
    return {DOWN: whole, UP: torch.eye(module.out_features)}


def _aliases(transformer: Any) -> dict[str, str]:
    """Each layer's name by the names that files have for it: diffusers', that of Wan's own code, and with underscores."""
    own = [
        name
        for name, module in transformer.named_modules()
        if {"in_features", "in_channels"} & vars(module).keys() and not re.search(r"\.(base_layer|lora_)", name)
    ]
    found = {original_name(name): name for name in own} | {name: name for name in own}
    return {alias.replace(".", "_"): name for alias, name in found.items()} | found


def original_name(name: str) -> str:
    """The name that Wan's own code has for a layer, by that of diffusers; other models' stay as they are."""
    for pattern, other in ORIGINAL_NAMES:
        name = re.sub(pattern, other, name)
    return name


def encoders(pipe: Any) -> list[str]:
    """The text encoders of which diffusers loads LoRA layers."""
    return [part for part in pipe._lora_loadable_modules if part.startswith("text_encoder") and getattr(pipe, part, None)]


def _of_encoder(key: str, pipe: Any) -> bool:
    part, _, layer = key.partition(".")
    layer, found, _ = layer.partition(".lora")
    return bool(found) and part in encoders(pipe) and layer in dict(getattr(pipe, part).named_modules())


def expected(transformer: Any) -> list[str]:
    """Names of tensors that would fit, as examples."""
    layer = min(name for name in _aliases(transformer).values() if name.endswith(".to_q"))
    names = [f"transformer.{layer}.{DOWN}"]
    return names if original_name(layer) == layer else [*names, f"diffusion_model.{original_name(layer)}.lora_down.weight"]
