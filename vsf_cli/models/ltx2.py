"""LTX-2 and 2.3: a video and its sound, whose tokens attend to embeddings of the text of their own.

The two embeddings of a token are joined along their width, so that a text is one tensor; in the denoiser's arguments they stand
apart. Both come from connectors, which fill the padding with learned registers. The negative prompt goes through them as a
prompt alone does, and only its own tokens follow the positive prompt, never the registers.
"""

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.config.values import SIDES_OF_CLIPS
from vsf_cli.errors import PatchError
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, call_parameters
from vsf_cli.models.prompt_tokens import token_ids, word_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["LTX2"]

STREAMS = "", "audio_"
"""What the names of the arguments of each stream begin with."""
MULTIPLE = 32
"""Its pipelines take only sides that are multiples of it, whatever the autoencoder is."""


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [PromptTokenizer("gemma", pipe.tokenizer, start=0, max_length=max_length)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the prompt's own tokens, which stand before the registers."""
    if pipe.text_encoder is None:
        raise PatchError("the pipeline has no text encoder, so a negative prompt cannot be encoded")
    if pipe.connectors.video_connector.learnable_registers is None:
        raise PatchError("the pipeline's connectors have no learned registers, without which no LTX-2 was made")
    length = call_parameters(pipe)["max_sequence_length"].default
    ids = token_ids(pipe.tokenizer, prompt, pipe, length)
    return [TextPart(_encode_padded(pipe, [prompt], length)[: ids.shape[-1]], word_tokens(pipe.tokenizer, ids))]


def _encode_padded(pipe: Any, prompts: Sequence[str], max_length: int) -> "Tensor":
    """Returns the embeddings of both streams side by side, with the registers."""
    import torch

    options = {"do_classifier_free_guidance": False, "max_sequence_length": max_length}
    with torch.no_grad():
        states, mask, *_ = pipe.encode_prompt(", ".join(prompts), **options)
        video, audio, _ = pipe.connectors(states, mask, padding_side=pipe.tokenizer.padding_side)
    return torch.cat([video[0], audio[0]], dim=-1)


def _text(arguments: Arguments) -> "Tensor":
    video, audio = (arguments[f"{stream}encoder_hidden_states"] for stream in STREAMS)
    return video.new_empty(*video.shape[:2], video.shape[-1] + audio.shape[-1])


def _extend(arguments: Arguments, negative: "Tensor", positions: "Tensor") -> dict[str, Any]:
    """Returns the arguments with each stream's part of the negative prompt after its positive prompt.

    A mask that hides nothing is left out: attention without one is faster.
    """
    import torch

    extended, begin = dict(arguments), 0
    for stream in STREAMS:
        text, mask = (arguments.get(f"{stream}encoder_{name}") for name in ("hidden_states", "attention_mask"))
        assert text is not None
        own = negative[..., begin : begin + text.shape[-1]]
        begin += text.shape[-1]
        extended[f"{stream}encoder_hidden_states"] = torch.cat([text, own], dim=1)
        if mask is not None:
            extended[f"{stream}encoder_attention_mask"] = _extend_mask(mask, negative.shape[1])
    return extended


def _extend_mask(mask: "Tensor", count: int) -> "Tensor | None":
    """Returns a mask that shows further keys: of two axes with 1 for what is seen, of three with 0, which is added."""
    import torch

    shown = 1 if mask.ndim == 2 else 0
    return None if (mask == shown).all() else torch.nn.functional.pad(mask, (0, count), value=shown)


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """The frames of one video, from packed latents with shape (1, tokens, C), as the pipeline makes them."""
    import torch

    vae, rows, columns = pipe.vae, *(side // _pixels_per_token(pipe) for side in (height, width))
    sizes = pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size
    unpacked = pipe._unpack_latents(latents, latents.shape[1] // (rows * columns), rows, columns, *sizes)
    scaled = pipe._denormalize_latents(unpacked, vae.latents_mean.cpu(), vae.latents_std.cpu(), vae.config.scaling_factor)
    scaled = scaled.to(pipe._execution_device, vae.dtype)
    # The noise level at which the pipeline decodes.
    level = scaled.new_zeros(1) if vae.config.timestep_conditioning else None
    with torch.no_grad():
        frames = vae.decode(scaled, level, return_dict=False)[0]
    return pipe.video_processor.postprocess_video(frames, output_type="pil")[0]


def _pixels_per_token(pipe: Any) -> int:
    return int(pipe.vae_spatial_compression_ratio * pipe.transformer_spatial_patch_size)


def _size_multiple(pipe: Any) -> int:
    return math.lcm(_pixels_per_token(pipe), SIDES_OF_CLIPS, MULTIPLE)


def _grid(arguments: Arguments, denoiser: Any) -> tuple[int, int, int]:
    side = denoiser.config.patch_size
    frames = arguments["num_frames"] // denoiser.config.patch_size_t
    return frames, arguments["height"] // side, arguments["width"] // side


LTX2 = Family(
    name="ltx2",
    models=("LTX2VideoTransformer3DModel",),
    pipelines=MappingProxyType({"LTX2Pipeline": Uses("LTX2ImageToVideoPipeline")}),
    attentions=MappingProxyType(
        {"transformer_blocks.*.attn2": Order.CROSS, "transformer_blocks.*.audio_attn2": Order.CROSS},
    ),
    off_grid=("transformer_blocks.*.audio_attn2",),
    tokenizers=_tokenizers,
    encode=_encode,
    encode_padded=_encode_padded,
    decode=_decode,
    sound=lambda pipe, output: (output.audio, pipe.vocoder.config.output_sampling_rate),
    pixels_per_token=_pixels_per_token,
    size_multiple=_size_multiple,
    frames_per_token=lambda pipe: pipe.vae_temporal_compression_ratio * pipe.transformer_temporal_patch_size,
    frames_multiple=8,
    extend=_extend,
    text=_text,
    clean=str.strip,
    grid=_grid,
    # The scales of the sound are those of the video, which is what None means.
    call=lambda steps: (
        {"stg_scale": 0.0, "modality_scale": 1.0}
        | dict.fromkeys(("audio_guidance_scale", "audio_stg_scale", "audio_modality_scale"))
    ),
    limits=MappingProxyType(
        {
            "guidance_scale": 1.0,
            "audio_guidance_scale": 1.0,
            "stg_scale": 0.0,
            "audio_stg_scale": 0.0,
            "modality_scale": 1.0,
            "audio_modality_scale": 1.0,
        }
    ),
    max_length=1024,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family ltx2; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 1.5, "beta": 0.0},
            "width": 768,
            "height": 512,
            "num_frames": 121,
            "fps": 24,
            "max_sequence_length": 1024,
        }
    ),
    video=True,
)
