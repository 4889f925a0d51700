"""The names of the layers of Wan's transformer in Wan's own code. Most LoRA files for Wan are published under them."""

import re

__all__ = ["original_name"]

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
"""Patterns of diffusers' names, each with its replacement."""


def original_name(name: str) -> str:
    """The name in Wan's own code of a layer that diffusers calls `name`."""
    for pattern, other in ORIGINAL_NAMES:
        name = re.sub(pattern, other, name)
    return name
