"""Profiles a guided step with PyTorch's profiler: python benchmarks/profile_block.py [--layers N] [--size WxH] [--rounds N]

Writes the seconds of the slowest operations, without guidance and with VSF, and the difference, to
benchmarks/results/profile-PRESET.json and as Markdown to stdout. With several rounds, they are medians.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from vsf_cli.bench.methods import select_methods
from vsf_cli.bench.random_model import RandomModel, build, prepared
from vsf_cli.bench.report import conditions
from vsf_cli.bench.shapes import shape_of
from vsf_cli.config.values import parse_size
from vsf_cli.methods import VSF
from vsf_cli.settings.presets import load_preset

RESULTS = Path(__file__).parent / "results"


def seconds_by_operation(model: RandomModel, name: str, device: torch.device) -> dict[str, float]:
    """The seconds of each operation in one step, without the operations that it calls."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    (method,) = (method for method in select_methods("vsf-bias", VSF()) if method.name == name)
    with prepared(model, method) as step:
        step()
        with profile(activities=activities) as profiler:
            step()
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return {entry.key: getattr(entry, own) / 1e6 for entry in profiler.key_averages()}


def medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each operation's seconds."""
    names = {name: None for sample in samples for name in sample}
    return {name: median(sample.get(name, 0.0) for sample in samples) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="sd3.5-large-turbo")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--size", type=parse_size)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    preset, device = load_preset(options.preset), torch.device(options.device)
    size, frames = options.size or (preset.width, preset.height), options.frames or preset.num_frames
    shape = shape_of(preset.model, preset.family, size, frames, preset.max_sequence_length, options.layers)
    model = build(shape, getattr(torch, options.dtype), device, 8)
    rounds = [[seconds_by_operation(model, name, device) for name in ("none", "vsf-bias")] for _ in range(options.rounds)]
    none, vsf = (medians(samples) for samples in zip(*rounds, strict=True))
    whole = sum(none.values())
    of_run = {"shape": str(shape), "dtype": options.dtype, "rounds": options.rounds}
    report = {**conditions(device), **of_run, "none": none, "vsf": vsf}
    (RESULTS / f"profile-{options.preset}.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(f"{shape}; {options.dtype}, {device.type}. A step takes {whole:.3f} s, with VSF {sum(vsf.values()):.3f} s.\n")
    print("| operation | no guidance | VSF | added, of a step |\n|---|---|---|---|")
    added = {name: vsf.get(name, 0) - none.get(name, 0) for name in {*none, *vsf}}
    slowest = sorted(added, key=lambda name: -max(vsf.get(name, 0), none.get(name, 0)))[:15]
    for name in sorted(slowest, key=lambda name: -added[name]):
        print(f"| `{name}` | {none.get(name, 0):.4f} s | {vsf.get(name, 0):.4f} s | {added[name] / whole:+.2%} |")


if __name__ == "__main__":
    main()
