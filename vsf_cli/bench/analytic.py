r"""FLOPs of one step by formula: 2 for each multiplication of a matrix product, 4 D for each pair of query and key.

Letters as in `vsf_cli.attention`: I image tokens, P positive and N negative text tokens; w is the width of a token. Kept
prompts have N tokens, too.
"""

import math

from vsf_cli.bench.methods import BenchMethod
from vsf_cli.bench.shapes import IN_LATENTS, Shape
from vsf_cli.methods import Method

__all__ = ["analytic_flops"]

TIME_CHANNELS = 256
"""The sinusoids of Stable Diffusion 3's timestep."""


def analytic_flops(shape: Shape, method: BenchMethod, negatives: int) -> int | None:
    """Returns the FLOPs of one step; None for a family without a formula.

    `negatives` is the number of tokens of the negative prompt without padding.
    """
    if shape.family not in IN_LATENTS:
        return None
    implementation = method.implementation
    count = shape.positives if implementation.padding else negatives if implementation.guides_attention else 0
    step = _joint if shape.family == "sd3" else _cross
    passes = 2 if implementation.passes_negative_prompt else 1
    return passes * step(shape, implementation, count, count if method.keeps else 0)


def _joint(shape: Shape, method: Method, negatives: int, kept: int) -> int:
    config, w, images = shape.config, shape.width, shape.images
    text, patch = shape.positives + negatives + kept, math.prod(shape.patch)
    duals = sum(layer < shape.layers for layer in config.get("dual_attention_layers", ()))
    around = images * w * patch * (config["in_channels"] + config["out_channels"]) + text * config["joint_attention_dim"] * w
    around += w * (TIME_CHANNELS + config["pooled_projection_dim"] + 2 * w) + 2 * w * w
    # A block: queries, keys, values, output and the feed-forward of 4 w, in both streams, with the modulation of its norms.
    block = 12 * w * w * (images + text) + 12 * w * w
    # The last block has no text output: no output projection, no feed-forward, and two modulations instead of six.
    last = -9 * w * w * text - 4 * w * w
    dual = duals * (4 * w * w * images + 3 * w * w + 2 * w * images**2)
    tokens = images, shape.positives, negatives, kept
    pairs = sum(_joint_pairs(method, *tokens, last=layer == shape.layers - 1) for layer in range(shape.layers))
    return 2 * (around + shape.layers * block + last + dual) + 4 * w * pairs


def _joint_pairs(method: Method, images: int, positives: int, negatives: int, kept: int, last: bool) -> int:
    """Returns the pairs of query and key in one block: those without guidance, of the method, and of the added text's rows."""
    base = images + positives
    added = method.added_pairs(images, images, positives, negatives) if method.guides_attention else 0
    own = 0 if last else sum(tokens * (images + tokens) for tokens in (negatives, kept))
    return base * base + added + images * kept + own


def _cross(shape: Shape, method: Method, negatives: int, kept: int) -> int:
    config, w, images = shape.config, shape.width, shape.images
    text, patch = shape.positives + negatives + kept, math.prod(shape.patch)
    around = images * w * patch * (config["in_channels"] + config["out_channels"])
    around += w * (config["freq_dim"] + w + 6 * w) + text * w * (config["text_dim"] + w)
    # A block: self-attention, the queries and output of cross attention, its keys and values, and the feed-forward.
    block = 6 * w * w * images + 2 * w * w * text + 2 * w * config["ffn_dim"] * images
    pairs = images * (images + shape.positives + kept)
    if method.guides_attention:
        pairs += method.added_pairs(images, 0, shape.positives, negatives)
    return 2 * (around + shape.layers * block) + 4 * w * shape.layers * pairs
