"""Whole pipelines with tiny random weights, of the real classes: those of families without built-in models."""

import copy
import json
import string
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    LCMScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BatchFeature,
    CLIPTextModel,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral3Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
)

from tests.conftest import CAPTIONS, autoencoder, text_parts


def _weighty(model: Any) -> Any:
    """A model whose attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(1.5)
    return model.eval()


def build_flux_kontext() -> FluxKontextPipeline:
    return FluxKontextPipeline(**{name: part for name, part in build_flux().components.items() if part is not None})


def build_flux_fill() -> FluxFillPipeline:
    """Beside the latents, its transformer takes those of the image and of the mask."""
    parts = build_flux().components
    torch.manual_seed(9)
    # A token is 2 x 2 latents: those of the noise, those of the image, and 2 x 2 pixels of the mask for each.
    channels = 16 + 16 + 4 * 2**2
    sizes = {name: size for name, size in parts["transformer"].config.items() if not name.startswith("_")}
    transformer = FluxTransformer2DModel(**{**sizes, "in_channels": channels, "out_channels": 16})
    names = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return FluxFillPipeline(**{name: parts[name] for name in names}, transformer=_weighty(transformer))


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


def build_chroma() -> ChromaPipeline:
    parts = copy.deepcopy(text_parts())
    torch.manual_seed(9)
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts["text_encoder_3"].config.d_model,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=copy.deepcopy(autoencoder()),
        text_encoder=parts["text_encoder_3"],
        tokenizer=parts["tokenizer_3"],
        transformer=_weighty(transformer),
    )


CHAT = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
"""The form of Qwen3's own template."""


@cache
def chat_tokenizer() -> Qwen2TokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([*CAPTIONS * 5, "user", "assistant", "think"] * 5, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    fast = Qwen2TokenizerFast(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    fast.add_special_tokens({"additional_special_tokens": special[1:]})
    fast.chat_template, fast.model_max_length = CHAT, 512
    return fast


def flux2_autoencoder() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
    )
    vae.bn.running_mean.normal_(0, 0.2)
    vae.bn.running_var.uniform_(0.5, 2)
    return vae.eval()


def build_flux2() -> Flux2KleinPipeline:
    tokenizer = copy.deepcopy(chat_tokenizer())
    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    encoder = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=28, **sizes)).eval()
    vae = flux2_autoencoder()
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=_weighty(transformer),
        is_distilled=True,
    )


MISTRAL = """{{ bos_token }}{% for message in messages %}{% if message.role == "system" %}[SYSTEM_PROMPT]\
{{ message.content[0].text }}[/SYSTEM_PROMPT]{% else %}[INST]{{ message.content[0].text }}[/INST]{% endif %}{% endfor %}"""
"""The form of Mistral's own template."""


class Conversing:
    """What Flux.2 dev uses of a PixtralProcessor, which needs torchvision. It pads on the left."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(
        self, messages: list[Any], tokenize: bool, add_generation_prompt: bool, return_dict: bool = False, **options: Any
    ) -> Any:
        own = {"chat_template": MISTRAL, "add_generation_prompt": add_generation_prompt, "tokenize": False}
        texts = [self.tokenizer.apply_chat_template(one, **own) for one in messages]
        return self.tokenizer([text.removeprefix("<s>") for text in texts], **options) if tokenize else texts


def mistral_processor() -> Conversing:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ["[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    special = ["<s>", "</s>", "<pad>", *marks]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, padding_side="left", model_max_length=512)
    return Conversing(fast)


def build_flux2_dev() -> Flux2Pipeline:
    parts, processor = build_flux2().components, mistral_processor()
    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "head_dim": 8}
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": len(processor.tokenizer),
            "num_hidden_layers": 30,
            "num_key_value_heads": 1,
            **sizes,
        },
        vision_config={"model_type": "pixtral", "num_hidden_layers": 1, "image_size": 28, "patch_size": 14, **sizes},
        image_token_index=processor.tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    transformer = Flux2Transformer2DModel.from_config({**parts["transformer"].config, "guidance_embeds": True})
    return Flux2Pipeline(
        scheduler=parts["scheduler"],
        vae=parts["vae"],
        text_encoder=Mistral3ForConditionalGeneration(config).eval(),
        tokenizer=processor,
        transformer=_weighty(transformer),
    )


def build_z_image() -> ZImagePipeline:
    tokenizer = copy.deepcopy(chat_tokenizer())
    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    encoder = Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), num_hidden_layers=3, **sizes)).eval()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 32, 32],
    )
    torch.nn.init.normal_(transformer.cap_pad_token)
    torch.nn.init.normal_(transformer.x_pad_token)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=copy.deepcopy(autoencoder()),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=_weighty(transformer),
    )


def qwen_autoencoder() -> AutoencoderKLQwenImage:
    torch.manual_seed(8)
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1] * 4,
        latents_std=[1.3] * 4,
    ).eval()


def build_krea2() -> Krea2Pipeline:
    tokenizer = copy.deepcopy(chat_tokenizer())
    torch.manual_seed(9)
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "mrope_interleaved": True},
            "vocab_size": len(tokenizer),
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "deepstack_visual_indexes": [0],
        },
    )
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        timestep_embed_dim=32,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    return Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=qwen_autoencoder(),
        text_encoder=Qwen3VLModel(config).eval(),
        tokenizer=tokenizer,
        transformer=_weighty(transformer),
        text_encoder_select_layers=(1, 2, 3),
        is_distilled=True,
    )


class Reading(Qwen2VLProcessor):
    """Qwen2VLProcessor for images and text. Its own class reads videos too, for which it needs torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})

    def __call__(self, text: list[str], images: Any = None, padding: bool = True, return_tensors: str = "pt") -> Any:
        read = {} if images is None else self.image_processor(images=images, return_tensors=return_tensors)
        for grid in read.get("image_grid_thw", ()):
            pads = "<|placeholder|>" * (int(grid.prod()) // self.image_processor.merge_size**2)
            text = [one.replace("<|image_pad|>", pads, 1) for one in text]
        text = [one.replace("<|placeholder|>", "<|image_pad|>") for one in text]
        return BatchFeature({**self.tokenizer(text, padding=padding, return_tensors=return_tensors), **read})


def build_qwen_edit() -> QwenImageEditPipeline:
    parts = build_qwen_image().components
    return QwenImageEditPipeline(**parts, processor=Reading(parts["tokenizer"]))


def build_qwen_edit_plus() -> QwenImageEditPlusPipeline:
    return QwenImageEditPlusPipeline(**build_qwen_edit().components)


def build_qwen_image() -> QwenImagePipeline:
    tokenizer = copy.deepcopy(chat_tokenizer())
    torch.manual_seed(9)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    config = Qwen2_5_VLConfig(
        **ids,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "vocab_size": len(tokenizer),
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=qwen_autoencoder(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
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


@cache
def gemma_tokenizer() -> GemmaTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    # No token has parts of two words.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=list(string.printable), special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS * 5, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return GemmaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True, model_max_length=1024)


def build_ernie_image() -> ErnieImagePipeline:
    tokenizer = copy.deepcopy(gemma_tokenizer())
    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    config = Mistral3Config(
        text_config={**sizes, "model_type": "mistral", "num_key_value_heads": 1, "vocab_size": len(tokenizer)},
        vision_config={**sizes, "model_type": "pixtral", "image_size": 28, "patch_size": 14},
    )
    transformer = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(8, 4, 4),
    )
    for layer in (transformer.adaLN_modulation[-1], transformer.final_linear):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return ErnieImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux2_autoencoder(),
        text_encoder=Mistral3Model(config).eval(),
        tokenizer=tokenizer,
        transformer=_weighty(transformer),
    )


def build_sana() -> SanaSprintPipeline:
    tokenizer = copy.deepcopy(gemma_tokenizer())
    # The text encoder reads an instruction before the prompt.
    tokenizer.model_max_length = 8192
    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config = Gemma2Config(vocab_size=len(tokenizer), num_hidden_layers=2, **sizes)
    levels = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8), "attention_head_dim": 4}
    layers = {"encoder_layers_per_block": (1, 1, 1), "decoder_layers_per_block": (1, 1, 1)}
    scales = {"encoder_qkv_multiscales": ((), (), ()), "decoder_qkv_multiscales": ((), (), ())}
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        mlp_ratio=1.0,
        sample_size=32,
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
    )
    return SanaSprintPipeline(
        scheduler=SCMScheduler(),
        vae=AutoencoderDC(latent_channels=4, **levels, **layers, **scales, scaling_factor=0.5).eval(),
        text_encoder=Gemma2Model(config).eval(),
        tokenizer=tokenizer,
        transformer=_weighty(transformer),
    )


def ltx2_connectors(gemma: Gemma3Config, **widths: Any) -> LTX2TextConnectors:
    sizes = {"num_attention_heads": 2, "num_layers": 1, "num_learnable_registers": 128}
    return LTX2TextConnectors(
        caption_channels=gemma.text_config.hidden_size,
        text_proj_in_factor=gemma.text_config.num_hidden_layers + 1,
        **{f"{stream}_connector_{name}": size for stream in ("video", "audio") for name, size in sizes.items()},
        **widths,
    )


def build_ltx2() -> LTX2Pipeline:
    """LTX-2.3: a projection for each stream in the connectors, and gates in the denoiser."""
    tokenizer = copy.deepcopy(gemma_tokenizer())
    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**sizes, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(tokenizer)},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        **{f"{name}_token_index": number for number, name in enumerate(("image", "boi", "eoi"))},
    )
    connectors = ltx2_connectors(
        config,
        video_connector_attention_head_dim=12,
        audio_connector_attention_head_dim=8,
        per_modality_projections=True,
        video_hidden_dim=24,
        audio_hidden_dim=16,
        video_gated_attn=True,
        audio_gated_attn=True,
        rope_type="split",
    )
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        gated_attn=True,
        cross_attn_mod=True,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        audio_gated_attn=True,
        audio_cross_attn_mod=True,
        num_layers=2,
        vae_scale_factors=(2, 2, 2),
        rope_type="split",
        use_prompt_embeddings=False,
        perturbed_attn=True,
    )
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05),
        vae=ltx2_autoencoder(),
        audio_vae=AutoencoderKLLTX2Audio(
            base_channels=8, ch_mult=(1, 2, 4), num_res_blocks=1, latent_channels=2, resolution=32, mel_bins=16
        ).eval(),
        text_encoder=Gemma3ForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        connectors=_weighty(connectors),
        transformer=_weighty(transformer),
        vocoder=LTX2Vocoder(
            in_channels=32,
            hidden_channels=16,
            upsample_kernel_sizes=[6, 5, 8],
            upsample_factors=[6, 5, 8],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
        ).eval(),
    )


def ltx2_autoencoder() -> AutoencoderKLLTX2Video:
    """It makes 8 x 8 pixels of a token, and 4 frames."""
    torch.manual_seed(8)
    vae = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_residual=(True,),
        upsample_factor=(1,),
        patch_size=4,
        patch_size_t=1,
    )
    return vae.eval()


PIPELINES: dict[str, Callable[[], Any]] = {
    "flux": build_flux,
    "flux2": build_flux2,
    "chroma": build_chroma,
    "z-image": build_z_image,
    "qwen-image": build_qwen_image,
    "krea2": build_krea2,
    "ernie-image": build_ernie_image,
    "sana": build_sana,
    "sdxl": build_sdxl,
    "sd15": build_sd15,
}
"""Functions that build pipelines, by name."""

EDITORS: dict[str, Callable[[], Any]] = {
    "flux-kontext": build_flux_kontext,
    "flux-fill": build_flux_fill,
    "qwen-image-edit": build_qwen_edit,
    "qwen-image-edit-plus": build_qwen_edit_plus,
}
"""The same for pipelines that edit images."""
