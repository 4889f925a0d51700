"""Stable Diffusion 3 and 3.5: joint attention of image and text.

The negative prompt joins the text stream behind the positive prompt, and evolves through every block as N(0) of the
paper (section 3.2). Blocks with a second attention (SD3.5-Medium) keep it as it is: it sees the image alone.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from PIL import Image
from torch import Tensor

from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import KeyValue
from vsf_cli.models.family import Encoded, Guidance, appended
from vsf_cli.models.processor import GuidedProcessor, merge_heads, split_heads
from vsf_cli.models.prompt_tokens import token_ids, told, word_tokens
from vsf_cli.prompts.tokens import Token

__all__ = ["StableDiffusion3", "project_image", "project_text"]


class StableDiffusion3:
    """The family of Stable Diffusion 3 and 3.5."""

    pipelines: tuple[str, ...] = (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
    )

    video = False

    def cell(self, pipe: Any) -> int:
        """What one token covers."""
        side: int = pipe.vae_scale_factor * pipe.patch_size
        return side

    def multiple(self, pipe: Any) -> int:
        """A token."""
        return self.cell(pipe)

    def frames_of_a_token(self, pipe: Any) -> int:
        """Pictures have no frames."""
        return 1

    def reader(self, pipe: Any, most: int) -> tuple[Any, int]:
        """The T5's tokenizer if there is one, else CLIP's."""
        return (pipe.tokenizer_3, most) if pipe.tokenizer_3 else (pipe.tokenizer, pipe.tokenizer_max_length)

    @torch.no_grad()
    def encode_negative(self, pipe: Any, prompts: Sequence[str], special_tokens: bool = True) -> Tensor:
        """Encodes prompts, each alone and without padding, and joins their tokens (section 3.4).

        T5 runs without an attention mask in this family, so that this is not the same as cutting
        the padding off a padded encoding.

        Arguments:
            pipe: The pipeline.
            prompts: The prompts; none of them empty.
            special_tokens: Whether the tokens for beginning and end stay, once the encoders have seen them.

        Returns:
            The embeddings as the transformer takes them, with shape (tokens, width).

        Raises:
            PatchError: If the pipeline was loaded without its text encoders.
            RequestError: If a prompt is longer than the encoders can take, or has nothing but special tokens.
        """
        return torch.cat([self._encode(pipe, prompt, special_tokens) for prompt in prompts])

    @torch.no_grad()
    def encode_padded(self, pipe: Any, prompts: Sequence[str], most: int) -> Tensor:
        """As a positive prompt, padding included: with shape (CLIP's tokens + `most`, width)."""
        text: Tensor = pipe.encode_prompt(
            ", ".join(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=most
        )[0]
        return text[0]

    def _encode(self, pipe: Any, prompt: str, special_tokens: bool) -> Tensor:
        if pipe.text_encoder is None or pipe.text_encoder_2 is None:
            raise PatchError("the pipeline has no CLIP text encoders, so a negative prompt cannot be encoded")

        width = pipe.transformer.config.joint_attention_dim
        ids = [token_ids(tokenizer, prompt, pipe) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
        clip = [
            encoder(row, output_hidden_states=True).hidden_states[-2][0]
            for encoder, row in zip((pipe.text_encoder, pipe.text_encoder_2), ids, strict=True)
        ]
        joined = torch.cat(clip, dim=-1)
        parts, words = [F.pad(joined, (0, width - joined.shape[-1]))], [word_tokens(pipe.tokenizer, ids[0])]
        if pipe.text_encoder_3 is not None:
            t5_ids = token_ids(pipe.tokenizer_3, prompt, pipe)
            parts.append(pipe.text_encoder_3(t5_ids)[0][0].to(joined))
            words.append(word_tokens(pipe.tokenizer_3, t5_ids))
        if not special_tokens:
            parts = [part[kept] for part, kept in zip(parts, words, strict=True)]
        if not sum(map(len, parts)):
            raise RequestError(f"negative prompt '{prompt}' has no word that the text encoders know: write another")
        return torch.cat(parts)

    def tokens(
        self, pipe: Any, prompt: str, negative: Sequence[str], special_tokens: bool, most: int, padding: bool = False
    ) -> list[Token]:
        """The tokens of the positive prompt, which stand before padding, and of the negative prompts, which may have none."""
        encoders = {"clip": pipe.tokenizer} | ({"t5": pipe.tokenizer_3} if pipe.text_encoder_3 is not None else {})
        first = {"clip": (0, pipe.tokenizer_max_length), "t5": (pipe.tokenizer_max_length, most)}

        def padded(kind: str, text: str) -> list[Token]:
            return [
                replace(token, position=first[name][0] + token.position)
                for name, tokenizer in encoders.items()
                for token in told(tokenizer, name, kind, text, first[name][1])
            ]

        positive = padded("positive", prompt)
        if padding:
            return positive + padded("negative", ", ".join(negative))
        kept: list[Token] = []
        before = 0
        for text in negative:
            for name, tokenizer in encoders.items():
                tokens = [token for token in told(tokenizer, name, "negative", text) if special_tokens or not token.special]
                kept += [replace(token, position=len(kept) + n, start=before + token.start) for n, token in enumerate(tokens)]
            before += len(text) + 1
        return positive + kept

    @torch.no_grad()
    def decode(self, pipe: Any, latents: Tensor) -> list[Image.Image]:
        """Pictures from latents with shape (B, C, h, w), as the pipeline has them."""
        vae = pipe.vae
        scaled = latents.to(pipe._execution_device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        images: list[Image.Image] = pipe.image_processor.postprocess(vae.decode(scaled).sample, output_type="pil")
        return images

    def processors(self, pipe: Any, guidance: Guidance) -> Mapping[Any, Any]:
        """The new processor of each joint attention.

        Raises:
            PatchError: If an attention has a processor that is not diffusers' own for this family.
        """
        return _JointProcessor.of_all(_joint_attentions(pipe), guidance)

    def caching_text(self, pipe: Any) -> AbstractContextManager[None]:
        """Joint attention changes the text from block to block and from step to step: there is nothing to cache.

        Raises:
            RequestError: Always.
        """
        raise RequestError("text is cached in models with cross attention, such as Wan: leave cache_text out for this model")

    def appending(self, pipe: Any, guidance: Guidance, encoded: Encoded) -> AbstractContextManager[None]:
        """A `with` in which the negative prompt joins the text of every call of the transformer."""
        return appended(pipe, [pipe.transformer], (1, 3), guidance, encoded)


def _joint_attentions(pipe: Any) -> list[tuple[str, Attention]]:
    return [
        (name, module)
        for name, module in pipe.transformer.named_modules()
        if isinstance(module, Attention) and module.added_kv_proj_dim is not None
    ]


class _JointProcessor(GuidedProcessor):
    """The processor of a joint attention."""

    replaces = JointAttnProcessor2_0

    def guided(self, attn: Any, hidden_states: Tensor, text: Tensor, positives: int) -> tuple[Tensor, Tensor]:
        """The new states of the image, and those of the text."""
        method, images = self.guidance.method, hidden_states.shape[1]
        image_query, image = project_image(attn, hidden_states)
        text_query, tokens = project_text(attn, text)
        positive, negative = tokens.split(positives)
        context = self.guidance.context(image.join(positive), images, negative, self.block, self.backend)
        image_output, positive_output = method.attend(image_query, text_query[:, :, :positives], context)
        hidden_states = attn.to_out[1](attn.to_out[0](merge_heads(image_output)))
        assert positive_output is not None, "joint attention has rows of text"

        # The last block drops its text: the negative prompt's rows would be computed for nothing.
        if attn.context_pre_only:
            return hidden_states, merge_heads(positive_output)
        negative_output = method.attend_negative(text_query[:, :, positives:], context)
        return hidden_states, attn.to_add_out(merge_heads(torch.cat([positive_output, negative_output], dim=2)))


def project_image(attn: Any, states: Tensor) -> tuple[Tensor, KeyValue]:
    """Queries, keys and values of the image tokens, each with shape (B, H, I, D), from states with shape (B, I, H D)."""
    query, key, value = (split_heads(attn, project(states)) for project in (attn.to_q, attn.to_k, attn.to_v))
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    return query, KeyValue(key, value)


def project_text(attn: Any, states: Tensor) -> tuple[Tensor, KeyValue]:
    """The same of the text tokens."""
    projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    query, key, value = (split_heads(attn, project(states)) for project in projections)
    if attn.norm_added_q is not None:
        query = attn.norm_added_q(query)
    if attn.norm_added_k is not None:
        key = attn.norm_added_k(key)
    return query, KeyValue(key, value)
