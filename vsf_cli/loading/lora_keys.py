"""Matches the tensors of LoRA files to the layers of a pipeline.

diffusers' converter, `pipe.lora_state_dict`, renames the layers of files for Flux, Qwen-Image, Z-Image, LTX, Wan, SDXL and
others, and it splits fused ones. It takes a whole file or raises, and it expects the usual prefixes. So this module adds:

- Each layer is converted alone: keys without a match are reported, and the other layers are loaded.
- Names get the prefix that the converter expects.
- A strength (`alpha`), a bias (`diff_b`), a whole difference (`diff`) and a DoRA's magnitude are read for each layer, whatever
  its name is.
- Layers of text encoders are found by their names in other code (`lora_te1_`, `lora_te2_`), in every family that can load them.
- Files of musubi-tuner for Wan are read by name: the converter takes only those with every layer of every block.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from torch import Tensor

from vsf_cli.errors import RequestError

__all__ = ["MAGNITUDE", "Tensors", "denoiser_name", "example_keys", "loadable_text_encoders", "match_keys"]

Tensors = dict[str, Tensor]

PREFIX = re.compile(r"^(base_model\.model\.|model\.)?(diffusion_model\.|transformer\.|unet\.|lora_unet_|lora_transformer_)?")
DOWN, UP, UP_BIAS, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector"
PARTS = {
    **{f"{name}.weight": DOWN for name in ("lora_A", "lora_down", "lora.down", "down")},
    **{f"{name}.weight": UP for name in ("lora_B", "lora_up", "lora.up", "up")},
    **dict.fromkeys(("lora_B.bias", "lora_up.bias", "diff_b"), UP_BIAS),
    **dict.fromkeys((MAGNITUDE, f"{MAGNITUDE}.weight", "dora_scale"), MAGNITUDE),
    "diff": "diff",
    "alpha": "alpha",
}
"""The part of a layer by the end of its name."""
KEY = re.compile(
    r"(?P<layer>.+)\.(?P<part>(lora[._](A|B|down|up)|down|up)(\.default)?\.weight|lora_(B|up)\.bias"
    r"|lora_magnitude_vector(\.default)?(\.weight)?|dora_scale|diff_b|diff|alpha)"
)
SPELLINGS = (
    ("diffusion_model.", ".", "lora_A", "lora_B"),
    ("diffusion_model.", ".", "lora_down", "lora_up"),
    ("lora_unet_", "_", "lora_down", "lora_up"),
)
"""A prefix, the separator in a layer's name, and the names of its matrices."""
COMPANIONS = ("blocks.0.self_attn.q", "blocks.0.cross_attn.k_img", "blocks.0.cross_attn.v_img")
"""The converter for Wan reads layers outside the blocks, and projections of images, only together with these layers."""
MUSUBI = re.compile(r"blocks_(\d+)_(self_attn|cross_attn|ffn)_(\w+)|(head|time_projection|\w+?_embedding|img_emb_proj)_(\w+)")
ADAPTED = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""The layers of CLIP that diffusers adapts."""
ENCODER_PARTS = {DOWN: "lora_linear_layer.down.weight", UP: "lora_linear_layer.up.weight"}
"""The parts that diffusers loads for a text encoder. Of names by peft it knows some layers alone."""
PUBLISHED = ("blocks.0.self_attn.q", "double_blocks.0.img_attn.proj")
"""Names of layers in other code, as examples for models whose converter knows them."""


def match_keys(raw: Tensors, pipe: Any) -> tuple[Tensors, list[str]]:
    """Returns the tensors of a file by diffusers' names, and the keys of the file that match nothing in the pipeline.

    A layer matches if the pipeline has it and the file has both of its matrices, its bias, or its whole difference.
    """
    names, encoders, denoiser = _layer_names(pipe), _encoder_layers(pipe), denoiser_name(pipe)
    layers, state, unmatched = _layers_of(raw, pipe)
    incomplete: list[str] = []
    for layer, keys in layers.items():
        parts = {part: raw[key] for part, key in keys.items()}
        name = names.get(layer) or (None if layer in encoders else _rename(layer, pipe, names))
        if name:
            tensors = _complete(parts, getattr(pipe, denoiser).get_submodule(name))
            state |= {f"{denoiser}.{name}.{part}": tensor for part, tensor in tensors.items()}
            incomplete += [key for part, key in keys.items() if not tensors or (part == MAGNITUDE and part not in tensors)]
            continue
        own = encoders.get(layer)
        tensors = _of_encoder(parts, *own) if own else _split(layer, _scaled(parts), keys, pipe, names)
        state |= tensors
        unmatched += [key for part, key in keys.items() if not tensors or part in (UP_BIAS, MAGNITUDE, "diff")]
    _check_magnitudes(state, denoiser)
    return state, unmatched + incomplete


def _layers_of(raw: Tensors, pipe: Any) -> tuple[dict[str, dict[str, str]], Tensors, list[str]]:
    """Returns the keys of each part of each layer, the tensors that have diffusers' names already, and all other keys."""
    layers: dict[str, dict[str, str]] = {}
    state: Tensors = {}
    unknown: list[str] = []
    for key, tensor in raw.items():
        match = KEY.fullmatch(PREFIX.sub("", key))
        if ".lora_linear_layer." in key and _is_of_text_encoder(key, pipe):
            state[key] = tensor
        elif match:
            layers.setdefault(match["layer"], {})[PARTS[match["part"].replace(".default", "")]] = key
        else:
            unknown.append(key)
    return layers, state, unknown


def _of_encoder(parts: Tensors, component: str, name: str) -> Tensors:
    """Returns the matrices of a text encoder's layer by the names that diffusers has for all of its layers."""
    scaled = _scaled(parts)
    return {f"{component}.{name}.{spelled}": scaled[part] for part, spelled in ENCODER_PARTS.items() if scaled}


def _check_magnitudes(state: Tensors, denoiser: str) -> None:
    """Raises a `RequestError` if some layers have a magnitude and others do not: peft would give those one of their own."""
    layers, scaled = (sum(key.startswith(denoiser) and key.endswith(part) for key in state) for part in (DOWN, MAGNITUDE))
    if scaled not in (0, layers):
        raise RequestError(
            f"a DoRA must have a magnitude for each layer, but only {scaled} of {layers} layers have one that can be loaded:"
            " choose another file"
        )


def _encoder_layers(pipe: Any) -> dict[str, tuple[str, str]]:
    """Returns the text encoder and the name of each of its layers that diffusers adapts, by its names in files."""
    found = {}
    for part in loadable_text_encoders(pipe):
        prefixes = [f"lora_te{part.removeprefix('text_encoder').removeprefix('_') or 1}_"]
        prefixes += ["lora_te_"] if part == "text_encoder" else []
        for name, module in getattr(pipe, part).named_modules():
            if "in_features" in vars(module) and name.endswith(ADAPTED):
                # In older versions of transformers all models have a "text_model".
                bare = name.removeprefix("text_model.")
                for one in (bare, f"text_model.{bare}"):
                    found[f"{part}.{one}"] = part, name
                    found |= {f"{prefix}{one.replace('.', '_')}": (part, name) for prefix in prefixes}
    return found


def denoiser_name(pipe: Any) -> str:
    """Returns the component of a pipeline that is the prefix of LoRA layers: "transformer" or "unet"."""
    return "unet" if getattr(pipe, "unet", None) is not None else "transformer"


def _layer_names(pipe: Any) -> dict[str, str]:
    """Returns diffusers' name of each layer, by the name itself and by the name with underscores for dots."""
    names = [
        name
        for name, module in getattr(pipe, denoiser_name(pipe)).named_modules()
        if {"in_features", "in_channels"} & vars(module).keys() and not re.search(r"\.(base_layer|lora_)", name)
    ]
    return {name.replace(".", "_"): name for name in names} | {name: name for name in names}


def _convert(state: Tensors, pipe: Any) -> Tensors:
    """Returns the output of diffusers' converter; nothing if it does not know the names."""
    denoiser = denoiser_name(pipe)
    options = {"unet_config": pipe.unet.config} if denoiser == "unet" else {}
    try:
        converted = pipe.lora_state_dict(state, **options)
    except Exception:  # Converters raise errors of any kind for names and shapes that they do not expect.
        return {}
    converted = converted[0] if isinstance(converted, tuple) else converted
    # Some names have no prefix, such as those of the layers outside Flux's blocks.
    parts = (f"{denoiser}.", "text_encoder")
    named = {key if key.startswith(parts) else f"{denoiser}.{key}": tensor for key, tensor in converted.items()}
    return convert_unet_state_dict_to_peft(named) if denoiser == "unet" else named


def _spelled(layers: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[Tensors]:
    """Yields the matrices of layers in each of `SPELLINGS`."""
    for prefix, separator, down, up in SPELLINGS:
        named = {f"{prefix}{layer.replace('.', separator)}": pair for layer, pair in layers.items()}
        downs = {f"{name}.{down}.weight": pair[0] for name, pair in named.items()}
        yield downs | {f"{name}.{up}.weight": pair[1] for name, pair in named.items()}


def _rename(layer: str, pipe: Any, names: Mapping[str, str]) -> str | None:
    """Returns diffusers' name of a layer by its name in other code; None if no layer of the model equals it."""
    if match := MUSUBI.fullmatch(layer):
        layer = f"blocks.{match[1]}.{match[2]}.{match[3]}" if match[1] else f"{match[4]}.{match[5]}".replace("emb_", "emb.")
    # Different rows show whether the converter splits or reorders them.
    pair = torch.ones(1, 1), torch.arange(1.0, 13.0)[:, None]
    empty = torch.zeros(1, 1), torch.zeros(12, 1)
    for companions in ((), COMPANIONS):
        for state in _spelled({**dict.fromkeys(companions, empty), layer: pair}):
            ups = {key: tensor for key, tensor in _convert(state, pipe).items() if key.endswith(UP) and tensor.any()}
            for key, tensor in ups.items():
                name = key.removeprefix(f"{denoiser_name(pipe)}.").removesuffix(f".{UP}")
                if len(ups) == 1 and name in names and torch.equal(tensor, pair[1]):
                    return name
    return None


def _split(layer: str, pair: Tensors, keys: Mapping[str, str], pipe: Any, names: Mapping[str, str]) -> Tensors:
    """Returns the matrices of a fused layer's parts, or of a text encoder's layer; nothing unless the pipeline has all layers.

    Arguments:
        layer: The layer's name in the file, without a prefix.
        pair: Its scaled matrices.
        keys: The file's key of each part.
        pipe: The pipeline.
        names: The names of its layers.
    """
    if not pair:
        return {}
    for state in ({keys[part]: pair[part] for part in (DOWN, UP)}, *_spelled({layer: (pair[DOWN], pair[UP])})):
        # Copies, since some converters scale in place.
        tensors = _convert({key: tensor.clone() for key, tensor in state.items()}, pipe)
        layers = {re.sub(r"^(transformer|unet)\.|\.lora_[AB]\.weight$", "", key) for key in tensors}
        whole = layers <= names.keys() and 2 * len(layers) == len(tensors)
        if tensors and (whole or all(_is_of_text_encoder(key, pipe) for key in tensors)):
            return tensors
    return {}


def _scaled(parts: Tensors) -> Tensors:
    """Returns the matrices and the bias of a layer, multiplied by its strength; nothing if a matrix is missing."""
    alpha = parts.get("alpha")
    kept = {part: parts[part] for part in (DOWN, UP, UP_BIAS) if part in parts}
    if not {DOWN, UP} <= kept.keys():
        return {}
    if alpha is None:
        return kept
    down, up = float(alpha) / kept[DOWN].shape[0], 1.0
    # Both are scaled, so that neither becomes too small for half precision.
    while 0 < down * 2 < up:
        down, up = down * 2, up / 2
    return {**kept, DOWN: kept[DOWN] * down, UP: kept[UP] * up}


def _complete(parts: Tensors, module: Any) -> Tensors:
    """Returns the matrices and the bias of a layer; a bias or a whole difference without matrices gets some."""
    alone = not {DOWN, UP} & parts.keys() and {UP_BIAS, "diff"} & parts.keys()
    if not alone or "in_features" not in vars(module):
        return _scaled(parts) and {**_scaled(parts), **_magnitude(parts, module)}
    bias = {UP_BIAS: parts[UP_BIAS]} if UP_BIAS in parts else {}
    if "diff" in parts:
        return bias | {DOWN: parts["diff"], UP: torch.eye(module.out_features)}
    return bias | {DOWN: torch.zeros(1, module.in_features), UP: torch.zeros(module.out_features, 1)}


def _magnitude(parts: Tensors, module: Any) -> Tensors:
    """Returns the magnitude of a layer if it has a value for each output, in the form that peft has for it; else nothing."""
    magnitude, own = parts.get(MAGNITUDE), vars(module)
    outputs = own.get("out_features") or own.get("out_channels")
    if magnitude is None or magnitude.numel() != outputs or (magnitude.ndim == 2 and magnitude.shape[0] != outputs):
        return {}
    return {MAGNITUDE: magnitude.flatten() if "out_features" in own else magnitude.view(1, -1, 1, 1)}


def loadable_text_encoders(pipe: Any) -> list[str]:
    """Returns the text encoders for which diffusers loads LoRA layers."""
    return [part for part in pipe._lora_loadable_modules if part.startswith("text_encoder") and getattr(pipe, part, None)]


def _is_of_text_encoder(key: str, pipe: Any) -> bool:
    part, _, layer = key.partition(".")
    layer, lora, _ = layer.partition(".lora")
    return bool(lora) and part in loadable_text_encoders(pipe) and layer in dict(getattr(pipe, part).named_modules())


def example_keys(pipe: Any) -> list[str]:
    """Returns examples of keys that match."""
    names = _layer_names(pipe)
    layer = min(name for name in names.values() if name.endswith(".to_q"))
    published = [f"diffusion_model.{name}.lora_down.weight" for name in PUBLISHED if _rename(name, pipe, names)]
    return [f"{denoiser_name(pipe)}.{layer}.{DOWN}", *published]
