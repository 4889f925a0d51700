"""The architecture of a transformer: enough to build it with random weights, without a download.

The configurations of some public models ship with the package. Embedded models and folders have their own.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vsf_cli.config.names import counted
from vsf_cli.errors import RequestError
from vsf_cli.loading.sources import source_of

__all__ = ["IN_LATENTS", "Shape", "depth_of", "shape_of"]

IN_LATENTS = ("sd3", "wan")
"""The families whose transformers take latents; the sizes of the others are in tokens."""
BLOCKS = ("num_layers", "num_single_layers", "n_layers")
"""The keys of configurations with numbers of blocks; a U-Net has none."""
WIDTHS = ("dim", "hidden_size")
"""The keys with the width of a token, where it is not heads times head dimension."""
TEXT_WIDTHS = ("joint_attention_dim", "text_dim", "cap_feat_dim", "caption_channels", "text_in_dim", "cross_attention_dim")
"""The keys with the width of a token of text; the first one counts."""


@dataclass(frozen=True)
class Shape:
    """The architecture of a transformer, and the size of its inputs.

    Arguments:
        model: The name of the model.
        family: A key of `vsf_cli.models.FAMILIES`.
        config: The transformer's configuration, at full depth.
        latent: The sides of the latents: (rows, columns), or (frames, rows, columns) for a video. Those of families that know
            only tokens are sides in tokens.
        positives: The number of tokens of the positive prompt, padding included.
        layers: The number of blocks that are built.
    """

    model: str
    family: str
    config: Mapping[str, Any]
    latent: tuple[int, ...]
    positives: int
    layers: int

    @property
    def patch(self) -> tuple[int, ...]:
        """The sides of a patch, which is one token, in latents."""
        side = self.config["patch_size"] if self.family in IN_LATENTS else 1
        return (side,) * len(self.latent) if isinstance(side, int) else tuple(side)

    @property
    def images(self) -> int:
        """The number of tokens of the image or video."""
        return math.prod(side // part for side, part in zip(self.latent, self.patch, strict=True))

    @property
    def width(self) -> int:
        """The width of a token: heads times head dimension; in a U-Net the largest one."""
        config = self.config
        if "block_out_channels" in config:
            return int(max(config["block_out_channels"]))
        own = next((config[key] for key in WIDTHS if key in config), None)
        return int(own or config["num_attention_heads"] * config["attention_head_dim"])

    @property
    def depth(self) -> int:
        """The number of blocks of the real model."""
        return depth_of(self.config)

    @property
    def text_shape(self) -> tuple[int, ...]:
        """The shape of the embedding of a token of text."""
        if "num_text_layers" in self.config:
            return self.config["num_text_layers"], self.config["text_hidden_dim"]
        if "audio_cross_attention_dim" in self.config:
            return (sum(self.text_widths),)
        return (next(self.config[key] for key in TEXT_WIDTHS if key in self.config),)

    @property
    def text_widths(self) -> tuple[int, int]:
        """The widths of a token of text for the video and for its sound."""
        if self.config.get("use_prompt_embeddings", True):
            return (self.config["caption_channels"],) * 2
        return self.config["cross_attention_dim"], self.config["audio_cross_attention_dim"]

    @property
    def built(self) -> dict[str, Any]:
        """The configuration to build: the real one with `layers` blocks, and with position embeddings for the input alone."""
        config, left = dict(self.config), self.layers
        if not left:
            return config
        # Of each kind of blocks as many as in the real model, in proportion, and at least one.
        *smaller, largest = sorted((key for key in BLOCKS if key in config), key=config.__getitem__)
        for kind in smaller:
            config[kind] = max(1, round(self.layers * config[kind] / self.depth))
            left -= config[kind]
        config[largest] = left
        if "pos_embed_max_size" in config:
            config["pos_embed_max_size"] = max(self.latent) // config["patch_size"]
        if dual := self.config.get("dual_attention_layers"):
            config["dual_attention_layers"] = tuple(layer for layer in dual if layer < self.layers)
        return config

    def __str__(self) -> str:
        depth = counted(self.layers, "layer") if self.layers == self.depth else f"{self.layers} of {self.depth} layers"
        kind = depth if self.depth else "a U-Net"
        return f"{self.model}, {kind}, width {self.width}, {self.images} + {self.positives} tokens"


def depth_of(config: Mapping[str, Any]) -> int:
    """Returns the number of all blocks of a configuration."""
    return sum(config.get(key) or 0 for key in BLOCKS)


def shape_of(
    model: str, family: str, size: tuple[int, int], frames: int | None, max_sequence_length: int, layers: int | None = None
) -> Shape:
    """Returns the shape of a model's transformer.

    Arguments:
        model: `builtin:NAME`, a hub id, or a folder.
        family: A key of `vsf_cli.models.FAMILIES`.
        size: Width and height in pixels.
        frames: The number of frames of a video; None for an image.
        max_sequence_length: The number of tokens of T5.
        layers: The number of blocks to build; None builds all.

    Raises:
        ModelError: If a folder does not exist.
        RequestError: If the model's configuration is not known, or a number does not fit it.
    """
    known = _configuration(model, family)
    config = known["transformer"]
    kinds = [config[key] for key in BLOCKS if key in config]
    least, depth = len(kinds), sum(kinds)
    if layers is not None and not kinds:
        raise RequestError(f"--layers is {layers}, but {model} is a U-Net, whose blocks are all different: leave it out")
    if layers is not None and not least <= layers <= depth:
        raise RequestError(f"--layers is {layers}, but {model} has {depth}: give {least} to {depth}")
    latent = _latent_sides(model, family, known, size, frames)
    positives = known.get("positives", known.get("clip_tokens", 0) + max_sequence_length)
    return Shape(model, family, config, latent, positives, layers or depth)


def _latent_sides(
    model: str, family: str, known: Mapping[str, Any], size: tuple[int, int], frames: int | None
) -> tuple[int, ...]:
    config, scale = known["transformer"], known["vae_scale"]
    width, height = size
    patch = config["patch_size"] if family in IN_LATENTS else 1
    step = scale * (patch if isinstance(patch, int) else patch[-1])
    if width % step or height % step:
        raise RequestError(f"--size is {width}x{height}, but must be two multiples of {step}")
    latent = height // scale, width // scale
    if frames is not None:
        return (frames - 1) // known["vae_scale_temporal"] + 1, *latent
    if "pos_embed_max_size" in config and max(latent) // patch > config["pos_embed_max_size"]:
        raise RequestError(f"--size is {width}x{height}, but {model} knows {config['pos_embed_max_size'] * step} pixels a side")
    return latent


def _configuration(model: str, family: str) -> Mapping[str, Any]:
    """Returns what decides the shape: the transformer's configuration, the VAE's scales, and the numbers of tokens of text."""
    folder = source_of(model).folder
    if folder is not None and family in IN_LATENTS:
        return _read_folder(folder, model)
    shipped = resources.files("vsf_cli") / "bench" / "configs"
    path = shipped / f"{model.replace('/', '--')}.json"
    if not path.is_file():
        names = sorted(entry.name.removesuffix(".json").replace("--", "/") for entry in shipped.iterdir())
        other = "leave --random-weights and --count out" if folder is not None else "give a folder of sd3 or wan"
        raise RequestError(f"the configuration of '{model}' does not ship with vsf: {other}, or name one of {', '.join(names)}")
    configuration: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return configuration


def _read_folder(folder: Path, model: str) -> dict[str, Any]:
    def read(name: str) -> Any:
        try:
            return json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"{name} of '{model}' cannot be read: {error}") from error

    vae = read("vae/config.json")
    known = {"transformer": read("transformer/config.json"), "vae_scale_temporal": vae.get("scale_factor_temporal", 4)}
    known["vae_scale"] = vae.get("scale_factor_spatial") or 2 ** (len(vae["block_out_channels"]) - 1)
    if "joint_attention_dim" in known["transformer"]:
        known["clip_tokens"] = read("tokenizer/tokenizer_config.json")["model_max_length"]
    return known
