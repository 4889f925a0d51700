"""Requests of every kind, drawn by hypothesis, and their metadata."""

import math
import re
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from vsf_cli.generation.generate import Request
from vsf_cli.media.metadata import describe

IMAGE = Image.new("RGB", (16, 8), (200, 30, 30))

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(str.strip)
lines = st.lists(text, min_size=1, max_size=3).map("\n".join)
numbers = st.floats(0, 100)
METHOD_FIELDS = st.one_of(
    st.tuples(
        st.just("vsf"),
        st.fixed_dictionaries(
            {
                "alpha": numbers,
                "beta": st.one_of(st.floats(-5, 5), st.just(math.inf)),
                "tau": st.one_of(st.floats(0.1, 9), st.just(math.inf)),
            },
            optional={
                "attention_mask": st.just(True),
                "reference_layout": st.booleans(),
                "special_tokens": st.booleans(),
                "slope": st.floats(-1, 1),
                "blend": st.floats(0, 1),
                "orthogonal": st.booleans(),
                "guided_blocks": st.sampled_from(["all", "1..4,8", "2"]),
            },
        ),
    ),
    st.tuples(st.just("nag"), st.fixed_dictionaries({"scale": numbers, "tau": st.floats(0.1, 9), "padding": st.booleans()})),
    st.tuples(st.just("nasa"), st.fixed_dictionaries({"alpha": numbers})),
    st.tuples(st.just("ong"), st.fixed_dictionaries({"scale": numbers, "per_head": st.booleans()})),
    st.tuples(st.just("angular"), st.fixed_dictionaries({"scale": numbers, "tau": st.floats(0.1, 1)})),
    st.tuples(st.just("wef"), st.fixed_dictionaries({"alpha": numbers, "padding": st.booleans()})),
    st.tuples(st.just("cfg"), st.just({})),
    st.tuples(st.just("none"), st.just({})),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": lines,
    "model": st.sampled_from(["builtin:tiny-sd3-turbo", "stabilityai/stable-diffusion-3.5-large-turbo"]),
    "seed": st.integers(0, 2**64 - 1),
    # A plain colon may begin a weight, which not every method knows.
    "negative": st.lists(text.map(lambda words: re.sub(r"[:\\\\]", r"\\:", words)).filter(str.strip), max_size=3).map(tuple),
    "keep": st.lists(text.map(lambda words: re.sub(r"[:\\\\]", r"\\:", words)).filter(str.strip), max_size=2).map(tuple),
    "image": st.sampled_from([(), ("photo.png",), ("photo.png", "hat.png")]),
    "mask": st.one_of(st.none(), st.just("mask.png")),
    "strength": st.one_of(st.none(), st.floats(0.5, 1)),
    "num_inference_steps": st.integers(2, 100),
    "guidance_scale": st.floats(0, 1),
    "width": st.one_of(st.none(), st.integers(1, 256).map(lambda count: 16 * count)),
    "height": st.one_of(st.none(), st.integers(1, 256).map(lambda count: 16 * count)),
    "max_sequence_length": st.integers(1, 512),
    "num_frames": st.one_of(st.none(), st.integers(9, 81)),
    "drop_frames": st.integers(0, 8),
    "fps": st.one_of(st.none(), st.integers(1, 60)),
    "dtype": st.sampled_from(["float32", "bfloat16"]),
    "loras": st.lists(text, max_size=2).map(lambda names: tuple(name.replace("/", "-").replace("\\", "-") for name in names)),
    "revision": st.one_of(st.none(), text),
    "variant": st.one_of(st.none(), st.just("fp16")),
    "sigmas": st.lists(st.floats(0.01, 1), unique=True, max_size=4).map(lambda found: tuple(sorted(found, reverse=True))),
    "timesteps": st.lists(st.integers(1, 999), unique=True, max_size=4).map(lambda found: tuple(sorted(found, reverse=True))),
    "scheduler": st.one_of(st.none(), st.just("UniPCMultistepScheduler")),
    "flow_shift": st.one_of(st.none(), st.floats(0.1, 20)),
    "vae_dtype": st.one_of(st.none(), st.just("float32")),
    "upscale": st.integers(1, 8),
    "vae_tiling": st.booleans(),
    "fold_padding": st.booleans(),
    "preset": st.one_of(st.none(), text),
}


def drawn(method: tuple[str, dict[str, Any]], **fields: Any) -> Request:
    """A request whose fields go together: images drop no frames, sigmas are those of all steps, CFG alone has a scale
    above 1, and VSF alone a kept side.
    """
    fields["height"] = fields["height"] and fields["width"]
    fields["width"] = fields["width"] and fields["height"]
    fields["drop_frames"] = fields["drop_frames"] if fields["num_frames"] else 0
    fields["timesteps"] = () if fields["sigmas"] else fields["timesteps"]
    fields["num_inference_steps"] = len(fields["sigmas"] or fields["timesteps"]) or fields["num_inference_steps"]
    fields["guidance_scale"] += 2 if method[0] == "cfg" else 0
    keeps = method[0] == "vsf" and fields["negative"] and not method[1].get("reference_layout")
    fields["keep"] = fields["keep"] if keeps else ()
    if not fields["image"]:
        fields["mask"] = fields["strength"] = None
    if int(fields["num_inference_steps"] * (fields["strength"] or 1)) < 1:
        fields["strength"] = None
    return Request(method=method[0], parameters=method[1], **fields)


requests = st.builds(drawn, method=METHOD_FIELDS, **FIELDS)


def describe_request(request: Request) -> dict[str, Any]:
    return describe(request.to_json(), size=(16, 8), model_hash="0123456789abcdef", applied={"blocks": 6, "tokens": 5})
