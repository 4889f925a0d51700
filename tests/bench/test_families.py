"""The cost of guidance in families whose configurations ship, and on whole pipelines of tiny random weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.models.pipelines import PIPELINES
from vsf_cli.bench.inputs import _INPUTS
from vsf_cli.bench.measure import count
from vsf_cli.bench.methods import select_methods
from vsf_cli.bench.random_model import build, prepared
from vsf_cli.bench.shapes import IN_LATENTS, Shape, shape_of
from vsf_cli.cli.app import app
from vsf_cli.errors import RequestError
from vsf_cli.methods import VSF
from vsf_cli.models import FAMILIES
from vsf_cli.settings.presets import load_preset

PRESETS = [
    *("flux.1-krea-dev", "flux.2-klein-4b", "chroma1-flash", "z-image-turbo", "qwen-image-lightning"),
    *("krea2-turbo", "ernie-image-turbo", "sana-sprint", "ltx2.3-distilled"),
]
SMALL = {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64],
    "attention_head_dim": 4,
    "transformer_layers_per_block": 1,
    "layers_per_block": 1,
}
"""A smaller U-Net."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_few_tokens_cost_little_and_cfg_twice(name: str) -> None:
    preset = load_preset(name)
    frames = 9 if preset.video else None
    check_costs(shape_of(preset.model, preset.family, (1024, 1024), frames, preset.max_sequence_length, 2))


def check_costs(shape: Shape) -> None:
    rows = {row.method.name: row for row in count(shape, select_methods("none,vsf,nag,cfg", VSF()), torch.bfloat16, 8)}
    none = rows["none"].costs.flops
    assert 1 < rows["vsf"].costs.flops / none < 1.01 and rows["cfg"].costs.flops == 2 * none
    assert rows["vsf"].costs.flops < rows["nag"].costs.flops < 2 * none and rows["vsf"].analytic is None


def test_a_u_net_is_counted_whole() -> None:
    preset = load_preset("sdxl-turbo")
    shape = shape_of(preset.model, preset.family, (512, 512), None, preset.max_sequence_length)
    assert str(shape) == f"{preset.model}, a U-Net, width 1280, 1024 + 77 tokens"
    check_costs(replace(shape, config={**shape.config, **SMALL}))
    with pytest.raises(RequestError, match="is a U-Net, whose blocks are all different"):
        shape_of(preset.model, preset.family, (512, 512), None, preset.max_sequence_length, 1)


def test_every_family_has_inputs(tmp_path: Path) -> None:
    assert set(_INPUTS) == set(FAMILIES)
    for family in FAMILIES:
        if family not in IN_LATENTS:
            with pytest.raises(RequestError, match="does not ship with vsf: leave --random-weights and --count out"):
                shape_of(str(tmp_path), family, (64, 64), None, 64)


def test_layers_are_of_all_kinds() -> None:
    preset = load_preset("flux.1-schnell")
    shapes = [shape_of(preset.model, "flux", (256, 256), None, 256, layers) for layers in (2, 6, None)]
    built = [(shape.built["num_layers"], shape.built["num_single_layers"]) for shape in shapes]
    assert built == [(1, 1), (2, 4), (19, 38)] and [shape.depth for shape in shapes] == [57] * 3


@pytest.mark.parametrize("name", ["z-image-turbo"])
def test_a_random_model_runs_and_is_guided(name: str) -> None:
    preset = load_preset(name)
    shape = shape_of(preset.model, preset.family, (64, 64), None, 64, 1)
    small = {"dim": 64, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16, "axes_dims": [16, 8, 8], "n_refiner_layers": 1}
    shape = replace(shape, config={**shape.config, **small})
    model = build(shape, torch.float32, torch.device("cpu"), 8)
    outputs = []
    for method in select_methods("none,vsf,nag", VSF()):
        with prepared(model, method) as step:
            outputs.append(step())
    assert all(output.isfinite().all() for output in outputs)
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize("name", ["flux", "z-image", "sdxl"])
def test_a_whole_pipeline_is_timed(name: str, tmp_path: Path) -> None:
    PIPELINES[name]().save_pretrained(tmp_path / name)
    size = ("--size", "32x32", "--steps", "1", "--dtype", "float32", "--rounds", "1", "--method", "none,vsf", "--json", "-q")
    done = CliRunner().invoke(app, ["bench", "-m", str(tmp_path / name), *size])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["methods"][1]["seconds"]["total"]["median"] > 0 and report["methods"][1]["flops_times"] > 1
