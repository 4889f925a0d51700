"""The denoiser of each family at a tiny size."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    ChromaTransformer2DModel,
    ErnieImageTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
    LTX2VideoTransformer3DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsf_cli.models import FAMILIES, Family

TEXT, WIDTH = 7, 16
NEGATIVES = 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def at_step(index: int, steps: int = 4) -> Any:
    """A pipeline whose scheduler is at one of its steps."""
    return SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.arange(steps), step_index=index, begin_index=0))


def text_mask(batch: int) -> Tensor:
    """Which tokens of the text are seen: all but three of padding at its end."""
    return (torch.arange(TEXT) < TEXT - 3).expand(batch, -1)


SD3_SIZES: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": WIDTH,
    "caption_projection_dim": 32,
    "pooled_projection_dim": WIDTH,
    "pos_embed_max_size": 16,
    "qk_norm": "rms_norm",
}


def sd3_inputs(batch: int) -> dict[str, Any]:
    return {"hidden_states": drawn(batch, 4, 8, 8), "pooled_projections": drawn(batch, WIDTH)}


def build_flux() -> Any:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )


def build_flux2() -> Any:
    return Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )


def flux2_inputs(batch: int) -> dict[str, Any]:
    ids = torch.zeros(9, 4)
    ids[:, 1], ids[:, 2] = torch.arange(9) // 3, torch.arange(9) % 3
    text = text_positions(TEXT).expand(batch, -1, -1)
    return {"hidden_states": drawn(batch, 9, 4), "img_ids": ids.expand(batch, -1, -1), "txt_ids": text}


def text_positions(*counts: int) -> Tensor:
    """The positions of Flux.2 for texts that are joined, each of which counts from 0."""
    ids = torch.zeros(sum(counts), 4)
    ids[:, 3] = torch.cat([torch.arange(count) for count in counts])
    return ids


def flux_inputs(batch: int) -> dict[str, Any]:
    ids = torch.zeros(9, 3)
    ids[:, 1], ids[:, 2] = torch.arange(9) // 3, torch.arange(9) % 3
    pooled = {"pooled_projections": drawn(batch, WIDTH)}
    return {"hidden_states": drawn(batch, 9, 4), **pooled, "img_ids": ids, "txt_ids": torch.zeros(TEXT, 3)}


def zero_positions(*counts: int) -> Tensor:
    """The positions of Flux.1 for texts with some numbers of tokens."""
    return torch.zeros(sum(counts), 3)


def build_chroma() -> Any:
    return ChromaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
    )


def chroma_inputs(batch: int, masked: bool = False) -> dict[str, Any]:
    inputs = {name: value for name, value in flux_inputs(batch).items() if name != "pooled_projections"}
    if not masked:
        return inputs
    return {**inputs, "attention_mask": torch.cat([text_mask(batch).double(), torch.ones(batch, 9).double()], 1)}


def build_qwen() -> Any:
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )


def qwen_inputs(batch: int) -> dict[str, Any]:
    return {"hidden_states": drawn(batch, 12, 16), "img_shapes": [[(1, 4, 3)]] * batch}


def build_krea2() -> Any:
    return Krea2Transformer2DModel(
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        timestep_embed_dim=32,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )


def krea2_inputs(batch: int) -> dict[str, Any]:
    ids = torch.zeros(TEXT + 12, 3)
    ids[TEXT:, 1], ids[TEXT:, 2] = torch.arange(12) // 4, torch.arange(12) % 4
    return {"hidden_states": drawn(batch, 12, 4), "position_ids": ids}


def build_sana() -> Any:
    return SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        mlp_ratio=1.0,
        sample_size=32,
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
    )


def sana_inputs(batch: int) -> dict[str, Any]:
    guidance = torch.full((batch,), 0.45, dtype=torch.float64)
    return {"hidden_states": drawn(batch, 4, 4, 3), "guidance": guidance, "encoder_attention_mask": text_mask(batch).long()}


def build_unet() -> Any:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )


def unet_inputs(batch: int) -> dict[str, Any]:
    conditions = {"text_embeds": drawn(batch, WIDTH), "time_ids": torch.ones(batch, 6, dtype=torch.float64)}
    return {"sample": drawn(batch, 4, 8, 8), "added_cond_kwargs": conditions}


def build_wan() -> Any:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
    )


LTX2_SIZES: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "audio_in_channels": 6,
    "audio_out_channels": 6,
    "num_attention_heads": 2,
    "audio_num_attention_heads": 2,
    "num_layers": 2,
}
LTX2_AUDIO = 4
"""The width of a text for the sound in LTX-2.3."""


def build_ltx2() -> Any:
    return LTX2VideoTransformer3DModel(
        **LTX2_SIZES,
        attention_head_dim=12,
        cross_attention_dim=24,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        caption_channels=WIDTH // 2,
    )


def build_ltx2_3() -> Any:
    return LTX2VideoTransformer3DModel(
        **LTX2_SIZES,
        attention_head_dim=(WIDTH - LTX2_AUDIO) // 2,
        cross_attention_dim=WIDTH - LTX2_AUDIO,
        audio_attention_head_dim=LTX2_AUDIO // 2,
        audio_cross_attention_dim=LTX2_AUDIO,
        gated_attn=True,
        cross_attn_mod=True,
        audio_gated_attn=True,
        audio_cross_attn_mod=True,
        perturbed_attn=True,
        use_prompt_embeddings=False,
        rope_type="split",
    )


def ltx2_inputs(batch: int) -> dict[str, Any]:
    sizes = {"num_frames": 2, "height": 3, "width": 2, "audio_num_frames": 5}
    return {"hidden_states": drawn(batch, 12, 4), "audio_hidden_states": drawn(batch, 5, 6), **sizes}


def ltx2_call(call: dict[str, Any], audio: int = WIDTH // 2) -> dict[str, Any]:
    """The call of LTX-2, whose streams have parts of the text's width."""
    return {**call, "sigma": call["timestep"], **ltx2_streams(call["encoder_hidden_states"], audio)}


def ltx2_streams(text: Tensor, audio: int) -> dict[str, Tensor]:
    """The embeddings of each stream, of which those of the sound have the width `audio`."""
    return {"encoder_hidden_states": text[..., :-audio], "audio_encoder_hidden_states": text[..., -audio:]}


def build_z_image() -> Any:
    model = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    torch.nn.init.normal_(model.cap_pad_token)
    torch.nn.init.normal_(model.x_pad_token)
    # Its own table is of float32.
    model.rope_embedder.freqs_cis = [rotations(torch.arange(256), size) for size in (8, 4, 4)]
    return model


def rotations(places: Tensor, size: int) -> Tensor:
    """The rotary factors of Z-Image at some positions, with shape (positions, size / 2)."""
    angles = torch.outer(places.double(), 256.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size))
    return torch.polar(torch.ones_like(angles), angles)


def z_image_call(call: dict[str, Any]) -> dict[str, Any]:
    """The call of Z-Image, whose images and texts are lists."""
    texts = list(call["encoder_hidden_states"])
    return {"x": list(drawn(len(texts), 4, 1, 8, 6)), "t": call["timestep"], "cap_feats": texts}


def join_z_image(model: Any, call: dict[str, Any], groups: list[list[Tensor]]) -> None:
    """Lets Z-Image's layers find texts behind their sequence, as each text is when it is a prompt alone."""
    refined: list[Tensor] = []
    handle = model.context_refiner[-1].register_forward_hook(lambda layer, args, out: refined.append(out[0]))
    padded = -(-len(call["cap_feats"][0]) // 32) * 32
    states, rotary = [], []
    for group in groups:
        for row in group:
            model(call["x"][:1], call["t"][:1], [row if len(row) else call["cap_feats"][0]])
            # Its distance from the image, which stands behind the text with its padding.
            places = 1 + torch.arange(len(row)) + padded - -(-len(row) // 32) * 32
            rotary.append(torch.cat([rotations(places, 8), torch.ones(len(row), 4)], 1))
            states.append(refined.pop()[: len(row)])
    handle.remove()
    ends = range(0, len(states), len(groups[0]))
    states, rotary = (
        torch.cat([pad_sequence(part[n : n + len(groups[0])], batch_first=True) for n in ends], 1) for part in (states, rotary)
    )

    def join(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, mask, frequencies, *others = args
        tokens = torch.cat([tokens, states], 1) if layer is model.layers[0] else tokens
        return tokens, mask, torch.cat([frequencies, rotary], 1), *others

    for layer in model.layers:
        layer.register_forward_pre_hook(join)


def build_ernie_image() -> Any:
    model = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=4,
        out_channels=4,
        text_in_dim=WIDTH,
        rope_axes_dim=(8, 4, 4),
    )
    for layer in (model.adaLN_modulation[-1], model.final_linear):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return model


def ernie_image_call(call: dict[str, Any]) -> dict[str, Any]:
    """The call of ERNIE-Image, whose text has three tokens of padding."""
    text = call.pop("encoder_hidden_states")
    return {**call, "text_bth": text, "text_lens": text_mask(len(text)).sum(1)}


def join_ernie_image(model: Any, call: dict[str, Any], groups: list[list[Tensor]]) -> None:
    """Gives ERNIE-Image texts behind its own, each as far from the image as it is when it is a prompt alone."""
    places = []
    for group in groups:
        call["text_bth"] = torch.cat([call["text_bth"], pad_sequence(group, batch_first=True)], 1)
        own = [call["text_lens"][0] - len(row) + torch.arange(len(row)) for row in group]
        places.append(pad_sequence(own, batch_first=True))
    joined = torch.cat(places, 1)

    def place(embedder: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        ids = args[0].clone()
        ids[:, -joined.shape[1] :, 0] = joined
        return (ids,)

    def show(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        mask = args[3].clone()
        mask[..., -joined.shape[1] :] = True
        return *args[:3], mask

    model.pos_embed.register_forward_pre_hook(place)
    for layer in model.layers:
        layer.register_forward_pre_hook(show)


@dataclass(frozen=True)
class Tiny:
    """A denoiser of a family, and the order of its rows as the oracle reads it."""

    family: Family
    build: Callable[[], Any]
    inputs: Callable[[int], dict[str, Any]]
    order: str
    images: int
    """How many keys of a guided attention are the image's."""
    attentions: int
    """How many attentions see the text."""
    text_ids: Callable[..., Tensor] | None = None
    """Returns the positions of texts with some numbers of tokens, as the call's `txt_ids`."""
    text_shape: tuple[int, ...] = (WIDTH,)
    """The shape of the embedding of a token."""
    counts_text: bool = False
    """Whether the model itself counts the rotary positions of the text."""
    convert: Callable[[dict[str, Any]], dict[str, Any]] = dict
    """Returns the call with the arguments that the model has in place of the usual ones."""
    join: Callable[[Any, dict[str, Any], list[list[Tensor]]], None] | None = None
    """Lets the model find the rows of groups of texts, where they cannot be in the call's usual arguments."""
    graphs: int = 1
    """How many graphs the compiler makes of the blocks without guidance; 0 where another size of the family is compiled."""
    positives: int = TEXT
    """How many tokens the positive prompt has in the attention."""
    mask: str = ""
    """The argument with a mask of the text, if the call has one: it is 1 for what is seen."""
    has_mask: bool = False
    """Whether the model has a mask of its own."""

    def model(self) -> Any:
        torch.manual_seed(3)
        model = self.build().eval().double().requires_grad_(False)
        for name, parameter in model.named_parameters():
            # Larger than usual, so that attention is far from uniform.
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(1.5)
        return model

    def call(self, batch: int = 1) -> dict[str, Any]:
        time = torch.full((batch,), 500.0 if self.family.name in ("sd3", "wan", "unet", "ltx2") else 0.5, dtype=torch.float64)
        return self.convert({**self.inputs(batch), "encoder_hidden_states": self.text(batch, TEXT), "timestep": time})

    def text(self, *shape: int) -> Tensor:
        """Drawn embeddings of text."""
        return drawn(*shape, *self.text_shape)


TINY = {
    "sd3": Tiny(FAMILIES["sd3"], lambda: SD3Transformer2DModel(**SD3_SIZES), sd3_inputs, "I P N K", 16, 3, graphs=0),
    "sd3.5-medium": Tiny(
        FAMILIES["sd3"],
        lambda: SD3Transformer2DModel(**SD3_SIZES, dual_attention_layers=(0, 1)),
        sd3_inputs,
        "I P N K",
        16,
        3,
        graphs=2,
    ),
    "wan": Tiny(FAMILIES["wan"], build_wan, lambda batch: {"hidden_states": drawn(batch, 4, 3, 4, 4)}, "P N K", 0, 3),
    "flux": Tiny(FAMILIES["flux"], build_flux, flux_inputs, "N K P I", 9, 4, zero_positions, graphs=3),
    "flux2": Tiny(FAMILIES["flux2"], build_flux2, flux2_inputs, "N K P I", 9, 4, text_positions, graphs=2),
    "chroma": Tiny(FAMILIES["chroma"], build_chroma, chroma_inputs, "N K P I", 9, 4, zero_positions, graphs=2),
    "chroma-masked": Tiny(
        FAMILIES["chroma"],
        build_chroma,
        partial(chroma_inputs, masked=True),
        "N K P I",
        9,
        4,
        zero_positions,
        mask="attention_mask",
        graphs=0,
    ),
    "z-image": Tiny(
        FAMILIES["z-image"],
        build_z_image,
        lambda batch: {},
        "I P N K",
        32,
        2,
        convert=z_image_call,
        join=join_z_image,
        positives=32,
    ),
    "ernie-image": Tiny(
        FAMILIES["ernie-image"],
        build_ernie_image,
        lambda batch: {"hidden_states": drawn(batch, 4, 4, 3)},
        "I P N K",
        12,
        2,
        convert=ernie_image_call,
        join=join_ernie_image,
        has_mask=True,
    ),
    "qwen-image": Tiny(FAMILIES["qwen-image"], build_qwen, qwen_inputs, "N K P I", 12, 2, counts_text=True),
    "qwen-image-masked": Tiny(
        FAMILIES["qwen-image"],
        build_qwen,
        lambda batch: {**qwen_inputs(batch), "encoder_hidden_states_mask": text_mask(batch)},
        "N K P I",
        12,
        2,
        counts_text=True,
        mask="encoder_hidden_states_mask",
    ),
    "krea2": Tiny(FAMILIES["krea2"], build_krea2, krea2_inputs, "N K P I", 12, 2, text_shape=(3, WIDTH)),
    "sana": Tiny(FAMILIES["sana"], build_sana, sana_inputs, "P N K", 0, 2, mask="encoder_attention_mask", graphs=2),
    "ltx2": Tiny(FAMILIES["ltx2"], build_ltx2, ltx2_inputs, "P N K", 0, 4, convert=ltx2_call, graphs=0),
    "ltx2.3": Tiny(FAMILIES["ltx2"], build_ltx2_3, ltx2_inputs, "P N K", 0, 4, convert=partial(ltx2_call, audio=LTX2_AUDIO)),
    "sdxl": Tiny(FAMILIES["unet"], build_unet, unet_inputs, "P N K", 0, 8, graphs=4),
}
