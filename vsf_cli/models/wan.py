"""Wan 2.1 and 2.2: cross attention of the clip's tokens to the text.

The negative prompt stands behind the positive prompt and its zero padding (paper, equation 6). Its keys and values do not
evolve: in every block they are projections of the same embeddings.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from PIL import Image
from torch import Tensor

from vsf_cli.config.values import SIDES_OF_CLIPS
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import KeyValue
from vsf_cli.models.family import Encoded, Guidance, appended
from vsf_cli.models.processor import GuidedProcessor, merge_heads, split_heads
from vsf_cli.models.prompt_tokens import token_ids, told, word_tokens
from vsf_cli.models.text_cache import remembering
from vsf_cli.prompts.tokens import Token

__all__ = ["Wan"]

TEXT_LENGTH = 512
"""What diffusers' image-to-video attention takes the length of the text for, whatever it is."""


class Wan:
    """The family of Wan 2.1 and 2.2, text to video and image to video."""

    pipelines: tuple[str, ...] = ("WanPipeline", "WanImageToVideoPipeline")

    video = True

    def cell(self, pipe: Any) -> int:
        """What one token covers."""
        side: int = pipe.vae_scale_factor_spatial * _transformers(pipe)[0].config.patch_size[1]
        return side

    def multiple(self, pipe: Any) -> int:
        """What the pipeline demands whatever its parts are, in whole tokens."""
        return math.lcm(self.cell(pipe), SIDES_OF_CLIPS)

    def frames_of_a_token(self, pipe: Any) -> int:
        """What the causal autoencoder joins."""
        count: int = pipe.vae_scale_factor_temporal
        return count

    def reader(self, pipe: Any, most: int) -> tuple[Any, int]:
        """The only tokenizer."""
        return pipe.tokenizer, most

    @torch.no_grad()
    def encode_negative(self, pipe: Any, prompts: Sequence[str], special_tokens: bool = True) -> Tensor:
        """Encodes prompts, each alone and without padding, and joins their tokens.

        Returns:
            The embeddings as the transformer takes them, with shape (tokens, width); `</s>` is kept, unless
            `special_tokens` is false.

        Raises:
            PatchError: If the pipeline was loaded without its text encoder.
            RequestError: If a prompt is longer than the encoder can take, or has nothing but special tokens.
        """
        return torch.cat([self._encode(pipe, prompt, special_tokens) for prompt in prompts])

    @torch.no_grad()
    def encode_padded(self, pipe: Any, prompts: Sequence[str], most: int) -> Tensor:
        """As a positive prompt, zeros included: with shape (`most`, width)."""
        text: Tensor = pipe.encode_prompt(", ".join(prompts), do_classifier_free_guidance=False, max_sequence_length=most)[0]
        return text[0]

    def _encode(self, pipe: Any, prompt: str, special_tokens: bool) -> Tensor:
        if pipe.text_encoder is None:
            raise PatchError("the pipeline has no text encoder, so a negative prompt cannot be encoded")
        ids = token_ids(pipe.tokenizer, _clean(prompt), pipe)
        tokens: Tensor = pipe.text_encoder(ids, torch.ones_like(ids)).last_hidden_state[0]
        kept = tokens if special_tokens else tokens[word_tokens(pipe.tokenizer, ids)]
        if not len(kept):
            raise RequestError(f"negative prompt '{prompt}' has no word that the text encoder knows: write another")
        return kept

    def tokens(
        self, pipe: Any, prompt: str, negative: Sequence[str], special_tokens: bool, most: int, padding: bool = False
    ) -> list[Token]:
        """The tokens of the positive prompt, which stand before padding, and of the negative prompts, which may have none."""
        positive = told(pipe.tokenizer, "t5", "positive", _clean(prompt), most)
        if padding:
            return positive + told(pipe.tokenizer, "t5", "negative", _clean(", ".join(negative)), most)
        kept: list[Token] = []
        before = 0
        for text in map(_clean, negative):
            tokens = [token for token in told(pipe.tokenizer, "t5", "negative", text) if special_tokens or not token.special]
            kept += [replace(token, position=len(kept) + n, start=before + token.start) for n, token in enumerate(tokens)]
            before += len(text) + 1
        return positive + kept

    @torch.no_grad()
    def decode(self, pipe: Any, latents: Tensor) -> list[Image.Image]:
        """The frames of one clip, from latents with shape (1, C, f, h, w), as the pipeline has them."""
        vae = pipe.vae
        mean, std = (
            torch.tensor(numbers).view(1, -1, 1, 1, 1).to(pipe._execution_device, vae.dtype)
            for numbers in (vae.config.latents_mean, vae.config.latents_std)
        )
        clip = vae.decode(latents.to(mean) * std + mean, return_dict=False)[0]
        frames: list[Image.Image] = pipe.video_processor.postprocess_video(clip, output_type="pil")[0]
        return frames

    def processors(self, pipe: Any, guidance: Guidance) -> Mapping[Any, Any]:
        """The new processor of each cross attention, in both transformers of Wan 2.2.

        Raises:
            PatchError: If an attention has a processor that is not diffusers' own for this family, or fused projections.
        """
        attentions = [_cross_attentions(transformer) for transformer in _transformers(pipe)]
        return {module: new for found in attentions for module, new in _CrossProcessor.of_all(found, guidance).items()}

    def caching_text(self, pipe: Any) -> AbstractContextManager[None]:
        """A `with` in which the text's embedding, and its keys and values in each block, are computed once for all steps."""
        return remembering({transformer: _of_text(transformer) for transformer in _transformers(pipe)}, 2)

    def appending(self, pipe: Any, guidance: Guidance, encoded: Encoded) -> AbstractContextManager[None]:
        """A `with` in which the negative prompt joins the text of every call of the transformers.

        Raises:
            PatchError: If its embedding is flipped, attention is diffusers' own, and the model sees a first frame too.
        """
        if guidance.method.flips_embedding and any(_sees_image(transformer) for transformer in _transformers(pipe)):
            raise PatchError(
                f"{guidance.method.label} is not for image to video: diffusers takes all but the last {TEXT_LENGTH} tokens for"
                " the image's, and those of the negative prompt with them; choose another method"
            )
        return appended(pipe, _transformers(pipe), (2, 1), guidance, encoded)


def _of_text(transformer: Any) -> list[Any]:
    """The modules whose output depends on the text alone, or on the first frame of image to video."""
    names = ("to_k", "to_v", "add_k_proj", "add_v_proj")
    projections = [getattr(attention, name) for _, attention in _cross_attentions(transformer) for name in names]
    return [transformer.condition_embedder.text_embedder, *(module for module in projections if module is not None)]


def _clean(prompt: str) -> str:
    """The prompt as the pipeline cleans it."""
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    cleaned: str = prompt_clean(prompt)
    return cleaned


def _transformers(pipe: Any) -> list[Any]:
    both = (pipe.transformer, getattr(pipe, "transformer_2", None))
    return [transformer for transformer in both if transformer is not None]


def _cross_attentions(transformer: Any) -> list[tuple[str, WanAttention]]:
    return [
        (name, module)
        for name, module in transformer.named_modules()
        if isinstance(module, WanAttention) and module.is_cross_attention
    ]


def _sees_image(transformer: Any) -> bool:
    return any(attention.add_k_proj is not None for _, attention in _cross_attentions(transformer))


class _CrossProcessor(GuidedProcessor):
    """The processor of a cross attention."""

    replaces = WanAttnProcessor

    def guided(self, attn: Any, hidden_states: Tensor, text: Tensor, positives: int) -> Tensor:
        """The new states of the clip."""
        start = self._first_of_text(text, positives) if attn.add_k_proj is not None else 0

        query = split_heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        positive, negative = _project(attn, text[:, start:]).split(positives)
        context = self.guidance.context(positive, 0, negative, self.block, self.backend)
        output = merge_heads(self.guidance.method.attend(query, None, context)[0])
        if start:
            output = output + _image_attention(attn, query, text[:, :start])
        projected: Tensor = attn.to_out[1](attn.to_out[0](output))
        return projected

    def _first_of_text(self, text: Tensor, positives: int) -> int:
        """Where the text begins: of image to video, the image's tokens stand before all of it."""
        negatives = self.guidance.tokens
        if positives - (self.guidance.method.copies - 1) * negatives != TEXT_LENGTH:
            raise PatchError(f"image to video needs text of {TEXT_LENGTH} tokens: pass max_sequence_length={TEXT_LENGTH}")
        return text.shape[1] - negatives - positives


def _project(attn: Any, text: Tensor) -> KeyValue:
    """Keys and values of the text tokens, each with shape (B, H, L, D); the norm is over all heads together."""
    return KeyValue(split_heads(attn, attn.norm_k(attn.to_k(text))), split_heads(attn, attn.to_v(text)))


def _image_attention(attn: Any, query: Tensor, image: Tensor) -> Tensor:
    """What image to video adds: attention to the first frame's own tokens, as diffusers has it."""
    key = split_heads(attn, attn.norm_added_k(attn.add_k_proj(image)))
    value = split_heads(attn, attn.add_v_proj(image))
    return merge_heads(F.scaled_dot_product_attention(query, key, value))
