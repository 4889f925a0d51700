"""A CLIP model with random weights, for tests of the judge `clip`."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPVisionConfig

from vsf_cli.toy.image_recipe import build_clip_tokenizer

__all__ = ["random_clip"]


def random_clip(folder: Path) -> str:
    """A CLIP model with random weights, as it would be on the hub."""
    torch.manual_seed(3)
    tokenizer = build_clip_tokenizer(["a red car on a road with wheels", "a person with a hat"] * 50)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text = CLIPTextConfig(**sizes, **ids, vocab_size=len(tokenizer), max_position_embeddings=77)
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    with torch.no_grad():
        # Far larger than the default initialisation, so that pictures differ.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(20)
    model.save_pretrained(folder)
    shown = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(shown, tokenizer).save_pretrained(folder)
    return str(folder)
