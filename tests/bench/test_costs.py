"""The costs of guidance, in counts that do not depend on the machine: FLOPs, calls of attention, and bytes of tensors."""

import math
from collections.abc import Iterator

import pytest
import torch

from vsf_cli.attention import lanes
from vsf_cli.bench.analytic import analytic_flops
from vsf_cli.bench.counting import Costs, KernelOnMeta, TensorTracker, count_costs
from vsf_cli.bench.masked import forget_mask
from vsf_cli.bench.methods import BenchMethod, bench_methods, select_methods
from vsf_cli.bench.random_model import RandomModel, build, prepared
from vsf_cli.bench.shapes import Shape, shape_of
from vsf_cli.methods import VSF, tokens
from vsf_cli.settings.presets import load_preset

NEGATIVES, LAYERS = 5, 3
JOINT = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": LAYERS,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 16,
    "pos_embed_max_size": 32,
    "qk_norm": "rms_norm",
}
CROSS = {
    "_class_name": "WanTransformer3DModel",
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 24,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": LAYERS,
    "rope_max_seq_len": 64,
}
SHAPES = {
    "joint": Shape("joint", "sd3", JOINT, (32, 32), 21, LAYERS),
    "dual": Shape("dual", "sd3", {**JOINT, "dual_attention_layers": (0, 1)}, (32, 32), 21, LAYERS),
    "cross": Shape("cross", "wan", CROSS, (2, 24, 24), 80, LAYERS),
}
MODELS = {name: build(shape, torch.float32, torch.device("cpu"), NEGATIVES) for name, shape in SHAPES.items()}
ALL = {method.name: method for method in select_methods("all", VSF(1.7, 0.2))}


@pytest.fixture(autouse=True)
def as_in_long_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, short sequences and the cross attention of VSF are one call over all keys, and few keys are padded."""
    monkeypatch.setattr(VSF, "_is_at_once", lambda *_: False)
    monkeypatch.setattr(lanes, "QUERIES", math.inf)
    monkeypatch.setattr(tokens, "SHORT", 0)


@pytest.fixture(params=list(SHAPES))
def model(request: pytest.FixtureRequest) -> Iterator[RandomModel]:
    yield MODELS[request.param]


def costs(model: RandomModel, method: BenchMethod) -> Costs:
    with prepared(model, method) as step:
        return count_costs(step)


@pytest.mark.parametrize("name", list(bench_methods()))
def test_counted_flops_are_those_of_the_arithmetic(model: RandomModel, name: str) -> None:
    assert costs(model, ALL[name]).flops == analytic_flops(model.shape, ALL[name], NEGATIVES)


def test_the_masked_form_gives_what_vsf_gives(model: RandomModel) -> None:
    outputs = []
    for name in ("vsf-bias", "vsf-masked", "none"):
        with prepared(model, ALL[name]) as step:
            outputs.append(step())
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=0)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3


def test_calls_of_attention_in_each_block(model: RandomModel) -> None:
    calls = {name: costs(model, method).attention_calls for name, method in ALL.items()}
    if model.shape.family == "wan":
        # Self-attention and the base cross attention; the image to the negative.
        assert calls["none"] == 2 * LAYERS and calls["vsf"] == 3 * LAYERS
    else:
        # The base call, a second one in dual blocks; the image to the negative, the negative's rows to the image and itself.
        dual = len(model.shape.built.get("dual_attention_layers", ()))
        assert calls["none"] == LAYERS + dual
        assert calls["vsf"] == calls["none"] + 3 * LAYERS - 2
        # What is kept: the image to it, and its rows to the image and itself.
        assert calls["vsf-keep"] == calls["vsf"] + 3 * LAYERS - 2
    assert calls["vsf"] == calls["vsf-bias"]


def test_no_tensor_has_the_tokens_twice(model: RandomModel) -> None:
    forget_mask()
    squares = {}
    for name in ("none", "vsf-bias", "vsf-masked"):
        with prepared(model, ALL[name]) as step, TensorTracker() as tracker:
            step()
        squares[name] = tracker.has_square(model.shape.images if model.shape.family == "sd3" else model.shape.positives)
    assert not squares["none"] and not squares["vsf-bias"] and squares["vsf-masked"]


def test_operations_of_each_block(model: RandomModel) -> None:
    calls = {}
    for name in ("none", "vsf-bias"):
        with prepared(model, ALL[name]) as step, TensorTracker() as tracker:
            step()
        calls[name] = tracker.calls
    more = calls["vsf-bias"] - calls["none"]
    # The negative's rows merge too, except in the last block of joint attention, which has no text output.
    merges = LAYERS if model.shape.family == "wan" else 2 * LAYERS - 1
    assert more["aten::lerp_"] + more["aten::lerp"] == merges
    # Text is projected with the negative behind it, in the same products.
    assert not any(more[f"aten::{name}"] for name in ("mm", "addmm", "linear", "native_layer_norm", "_fused_rms_norm"))
    # The negative joins the text once, and all outputs are written where they belong.
    assert more["aten::cat"] <= 1


def test_what_is_kept_takes_one_more_image_at_a_time(model: RandomModel) -> None:
    """The attention to it is one more output with the size of the image, which is added in place."""
    found = {}
    for name in ("vsf-bias", "vsf-keep"):
        with prepared(model, ALL[name]) as step, TensorTracker() as tracker:
            step()
        found[name] = tracker
    more = found["vsf-keep"].calls - found["vsf-bias"].calls
    assert more["aten::add_"] == LAYERS and not more["aten::add"]
    image = model.shape.images * model.shape.width * 4
    # A log-sum-exp for each head beside it.
    assert found["vsf-keep"].peak - found["vsf-bias"].peak < 1.2 * image


def test_bytes_are_those_that_are_alive_together() -> None:
    weights = torch.ones(1000)
    with TensorTracker() as tracker:
        first = weights + 1
        del first
        second = weights + 2
        view, third = second[10:], weights + 3
        view.add_(third[10:])
    assert tracker.peak == 8000 and tracker.bytes == 8000


@pytest.mark.parametrize(
    ("model_name", "family", "size", "frames", "tokens", "ratio"),
    [
        ("stabilityai/stable-diffusion-3.5-large-turbo", "sd3", (1024, 1024), None, 256, 1.0025),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan", (832, 480), 81, 512, 1.0002),
    ],
)
def test_full_width_costs_as_little_as_the_arithmetic_says(
    model_name: str, family: str, size: tuple[int, int], frames: int | None, tokens: int, ratio: float
) -> None:
    shape = shape_of(model_name, family, size, frames, tokens, layers=2)
    large = build(shape, torch.bfloat16, torch.device("meta"), 8)
    none, vsf, masked = (costs(large, ALL[name]) for name in ("none", "vsf-bias", "vsf-masked"))
    assert 1 < vsf.flops / none.flops < ratio
    # With the weights of all layers; the text with the negative behind it is a copy, 4 MB of Wan's 1.6 GB.
    layer = sum(weight.numel() for weight in large.transformer.parameters()) * 2 / 2
    weights = layer * shape.depth
    assert vsf.peak_bytes + weights < 1.002 * (none.peak_bytes + weights)
    assert masked.peak_bytes > 1.02 * vsf.peak_bytes


@pytest.mark.parametrize("name", ["joint", "cross"])
def test_in_short_sequences_it_is_one_call_and_a_few_operations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model, found = MODELS[name], {}
    for method in ("none", "vsf-bias"):
        with prepared(model, ALL[method]) as step:
            step()
            with TensorTracker() as tracker:
                step()
        found[method] = tracker
    more = found["vsf-bias"].calls - found["none"].calls
    assert found["vsf-bias"].attention_calls == found["none"].attention_calls
    # The flipped keys and values behind the others; in cross attention the values times their signs. Before: the text.
    assert more["aten::cat"] <= (2 * LAYERS if name == "joint" else 0) + 3
    assert more["aten::mul"] <= LAYERS + 1 and not more["aten::lerp"]


@pytest.mark.parametrize(
    ("preset", "layers", "most"),
    [("sd3.5-large-turbo", 3, 3), ("flux.1-schnell", 3, 3), ("wan2.1-1.3b-causvid", 3, 1), ("ltx2.3-distilled", 2, 4)],
)
def test_on_a_gpu_a_block_has_few_more_launches_and_no_more_copies(preset: str, layers: int, most: int) -> None:
    """Counted without one: tensors without values take the path of CUDA."""
    pytest.importorskip("triton")
    known = load_preset(preset)
    size, frames = (known.width or 1024, known.height or 1024), known.num_frames if known.video else None
    shape = shape_of(known.model, known.family, size, frames, known.max_sequence_length, layers)
    model, found = build(shape, torch.bfloat16, torch.device("meta"), 8), {}
    for name in ("none", "vsf-bias", "vsf-keep"):
        with prepared(model, ALL[name]) as step, TensorTracker() as tracker, KernelOnMeta():
            step()
        found[name] = tracker
    images = model.shape.images
    for name in ("vsf-bias", "vsf-keep"):
        # Beside those of each block: what the call makes once, such as the text with the negative prompt behind it.
        assert found[name].launches - found["none"].launches <= most * model.shape.layers + 16
        large = {
            kind: sum(count for shape, count in tracker.copied.items() if max(shape) >= images)
            for kind, tracker in found.items()
        }
        # The tokens of text are a few more: 8 for each prompt.
        assert large[name] <= large["none"] * (1 + 32 / images)
