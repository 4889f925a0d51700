"""Matches the tensors of LoRA files to the layers of a pipeline.

diffusers' converter, `pipe.lora_state_dict`, knows how files for Flux, Qwen-Image, Z-Image, LTX, Wan and others name their
layers, and it splits fused ones. It takes a whole file or raises, and it expects the usual prefixes. So this is done here:

- Each layer is converted alone: keys without a match are reported, and the other layers are loaded.
- Names with another prefix or none are spelled as the converter expects them.
- A strength (`alpha`), a bias (`diff_b`) and a whole difference (`diff`) are read beside every naming of a layer.
- Files of musubi-tuner for Wan are read by name: the converter takes only those that hold every layer of every block.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Tensors", "example_keys", "loadable_text_encoders", "match_keys"]

Tensors = dict[str, Tensor]

PREFIX = re.compile(r"^(base_model\.model\.|model\.)?(diffusion_model\.|transformer\.|lora_unet_|lora_transformer_)?")
DOWN, UP, UP_BIAS = "lora_A.weight", "lora_B.weight", "lora_B.bias"
PARTS = {
    **{f"{name}.weight": DOWN for name in ("lora_A", "lora_down", "lora.down", "down")},
    **{f"{name}.weight": UP for name in ("lora_B", "lora_up", "lora.up", "up")},
    **dict.fromkeys(("lora_B.bias", "lora_up.bias", "diff_b"), UP_BIAS),
    "diff": "diff",
    "alpha": "alpha",
}
"""The part of a layer that a tensor is, by the end of its name."""
KEY = re.compile(
    r"(?P<layer>.+)\.(?P<part>(lora[._](A|B|down|up)|down|up)(\.default)?\.weight|lora_(B|up)\.bias|diff_b|diff|alpha)"
)
SPELLINGS = (
    ("diffusion_model.", ".", "lora_A", "lora_B"),
    ("diffusion_model.", ".", "lora_down", "lora_up"),
    ("lora_unet_", "_", "lora_down", "lora_up"),
)
"""A prefix, what stands between a layer's parents, and the names of its matrices."""
COMPANIONS = ("blocks.0.self_attn.q", "blocks.0.cross_attn.k_img", "blocks.0.cross_attn.v_img")
"""The converter for Wan reads layers outside the blocks, and projections of images, only beside these layers."""
MUSUBI = re.compile(r"blocks_(\d+)_(self_attn|cross_attn|ffn)_(\w+)|(head|time_projection|\w+?_embedding|img_emb_proj)_(\w+)")
PUBLISHED = ("blocks.0.self_attn.q", "double_blocks.0.img_attn.proj")
"""Names of layers in other code, shown as examples for the models of which the converter knows them."""


def match_keys(raw: Tensors, pipe: Any) -> tuple[Tensors, list[str]]:
    """Returns the tensors of a file by diffusers' names, and the keys of the file that match nothing in the pipeline.

    A layer matches if the pipeline has it and the file has both of its matrices, its bias, or its whole difference.
    """
    names = _layer_names(pipe.transformer)
    layers: dict[str, dict[str, str]] = {}
    state: Tensors = {}
    unknown: list[str] = []
    incomplete: list[str] = []
    for key, tensor in raw.items():
        found = KEY.fullmatch(PREFIX.sub("", key))
        if _is_of_text_encoder(key, pipe):
            state[key] = tensor
        elif found:
            layers.setdefault(found["layer"], {})[PARTS[found["part"].replace(".default", "")]] = key
        else:
            unknown.append(key)
    for layer, keys in layers.items():
        parts = {part: raw[key] for part, key in keys.items()}
        if name := names.get(layer) or _rename(layer, pipe, names):
            tensors = _complete(parts, pipe.transformer.get_submodule(name))
            state |= {f"transformer.{name}.{part}": tensor for part, tensor in tensors.items()}
            incomplete += [] if tensors else keys.values()
        else:
            tensors = _split(layer, _scaled(parts), keys, pipe, names)
            state |= tensors
            unknown += [key for part, key in keys.items() if not tensors or part in (UP_BIAS, "diff")]
    return state, unknown + incomplete


def _layer_names(transformer: Any) -> dict[str, str]:
    """Returns diffusers' name of each layer, by itself and by itself with underscores for dots."""
    names = [
        name
        for name, module in transformer.named_modules()
        if {"in_features", "in_channels"} & vars(module).keys() and not re.search(r"\.(base_layer|lora_)", name)
    ]
    return {name.replace(".", "_"): name for name in names} | {name: name for name in names}


def _convert(state: Tensors, pipe: Any) -> Tensors:
    """Returns what diffusers' converter makes of a file's tensors; nothing if it does not know them."""
    try:
        converted = pipe.lora_state_dict(state)
    except Exception:  # Converters raise errors of any kind at names and shapes that they do not expect.
        return {}
    converted = converted[0] if isinstance(converted, tuple) else converted
    # Some names come out without the prefix, such as those of the layers outside Flux's blocks.
    parts = ("transformer.", "text_encoder")
    return {key if key.startswith(parts) else f"transformer.{key}": tensor for key, tensor in converted.items()}


def _spelled(layers: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[Tensors]:
    """Yields the matrices of layers by names that converters expect, in each spelling."""
    for prefix, separator, down, up in SPELLINGS:
        named = {f"{prefix}{layer.replace('.', separator)}": pair for layer, pair in layers.items()}
        downs = {f"{name}.{down}.weight": pair[0] for name, pair in named.items()}
        yield downs | {f"{name}.{up}.weight": pair[1] for name, pair in named.items()}


def _rename(layer: str, pipe: Any, names: Mapping[str, str]) -> str | None:
    """Returns diffusers' name of a layer that other code names; None if no layer of the model is the same as it."""
    if found := MUSUBI.fullmatch(layer):
        layer = f"blocks.{found[1]}.{found[2]}.{found[3]}" if found[1] else f"{found[4]}.{found[5]}".replace("emb_", "emb.")
    # Rows that differ: what the converter splits or reorders comes out changed.
    pair = torch.ones(1, 1), torch.arange(1.0, 13.0)[:, None]
    empty = torch.zeros(1, 1), torch.zeros(12, 1)
    for companions in ((), COMPANIONS):
        for state in _spelled({**dict.fromkeys(companions, empty), layer: pair}):
            ups = {key: tensor for key, tensor in _convert(state, pipe).items() if key.endswith(UP) and tensor.any()}
            found_names = [key.removeprefix("transformer.").removesuffix(f".{UP}") for key in ups]
            if len(ups) == 1 and found_names[0] in names and torch.equal(next(iter(ups.values())), pair[1]):
                return found_names[0]
    return None


def _split(layer: str, pair: Tensors, keys: Mapping[str, str], pipe: Any, names: Mapping[str, str]) -> Tensors:
    """Returns the matrices of the layers that stand for a fused layer of a file, or that belong to a text encoder.

    Arguments:
        layer: The layer's name in the file, without a prefix.
        pair: Its matrices, with the strength multiplied in.
        keys: The file's key of each part.
        pipe: The pipeline.
        names: The names of its layers.

    Returns:
        The tensors by diffusers' names; nothing unless all of them are of layers that the pipeline has.
    """
    if not pair:
        return {}
    for state in ({keys[part]: pair[part] for part in (DOWN, UP)}, *_spelled({layer: (pair[DOWN], pair[UP])})):
        # Copies, since some converters scale in place.
        tensors = _convert({key: tensor.clone() for key, tensor in state.items()}, pipe)
        layers = {re.sub(r"^transformer\.|\.lora_[AB]\.weight$", "", key) for key in tensors}
        whole = layers <= names.keys() and 2 * len(layers) == len(tensors)
        if tensors and (whole or all(_is_of_text_encoder(key, pipe) for key in tensors)):
            return tensors
    return {}


def _scaled(parts: Tensors) -> Tensors:
    """Returns the matrices and the bias of a layer, its strength multiplied in; nothing if a matrix is missing."""
    alpha = parts.get("alpha")
    kept = {part: parts[part] for part in (DOWN, UP, UP_BIAS) if part in parts}
    if not {DOWN, UP} <= kept.keys():
        return {}
    if alpha is None:
        return kept
    down, up = float(alpha) / kept[DOWN].shape[0], 1.0
    # Shared between both, so that neither becomes too small for half precision.
    while 0 < down * 2 < up:
        down, up = down * 2, up / 2
    return {**kept, DOWN: kept[DOWN] * down, UP: kept[UP] * up}


def _complete(parts: Tensors, module: Any) -> Tensors:
    """Returns the matrices and the bias of a layer; a bias or a whole difference alone gets matrices of its own."""
    alone = not {DOWN, UP} & parts.keys() and {UP_BIAS, "diff"} & parts.keys()
    if not alone or "in_features" not in vars(module):
        return _scaled(parts)
    bias = {UP_BIAS: parts[UP_BIAS]} if UP_BIAS in parts else {}
    if "diff" in parts:
        return bias | {DOWN: parts["diff"], UP: torch.eye(module.out_features)}
    return bias | {DOWN: torch.zeros(1, module.in_features), UP: torch.zeros(module.out_features, 1)}


def loadable_text_encoders(pipe: Any) -> list[str]:
    """Returns the names of the text encoders for which diffusers loads LoRA layers."""
    return [part for part in pipe._lora_loadable_modules if part.startswith("text_encoder") and getattr(pipe, part, None)]


def _is_of_text_encoder(key: str, pipe: Any) -> bool:
    part, _, layer = key.partition(".")
    layer, found, _ = layer.partition(".lora")
    return bool(found) and part in loadable_text_encoders(pipe) and layer in dict(getattr(pipe, part).named_modules())


def example_keys(pipe: Any) -> list[str]:
    """Returns keys that would match, as examples."""
    names = _layer_names(pipe.transformer)
    layer = min(name for name in names.values() if name.endswith(".to_q"))
    published = [f"diffusion_model.{name}.lora_down.weight" for name in PUBLISHED if _rename(name, pipe, names)]
    return [f"transformer.{layer}.{DOWN}", *published]
