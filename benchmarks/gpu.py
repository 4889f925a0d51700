"""Measures the cost of guidance at full size on a GPU: python benchmarks/gpu.py sd3.5-large-turbo [--compile]

Builds the real architecture of a preset with random weights. Methods take turns; each is timed over several steps in a row, so
that launches overlap as in a real run, by CUDA events. Writes benchmarks/results/gpu-NAME.json; `benchmarks/tables.py` puts
results into docs/benchmark.md. On a CPU (--device cpu --layers 1 --size 128x128 --steps 1 --rounds 1) it only tests the script.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsf_cli.bench.memory import peak_memory
from vsf_cli.bench.methods import UNGUIDED, BenchMethod, select_methods
from vsf_cli.bench.random_model import RandomModel, build, prepared
from vsf_cli.bench.report import conditions
from vsf_cli.bench.shapes import Shape, shape_of
from vsf_cli.bench.timing import Sample, clock, interleave, ratios, spread
from vsf_cli.models import FAMILIES
from vsf_cli.models.compile import compile_blocks
from vsf_cli.settings.presets import Preset, load_preset

RESULTS = Path(__file__).parent / "results"
NEGATIVES = 8


def timed(model: RandomModel, method: BenchMethod, device: torch.device, steps: int) -> Sample:
    """Seconds a step, over several steps in a row."""
    with prepared(model, method) as step:
        if device.type != "cuda":
            started = clock(device)
            for _ in range(steps):
                step()
            return {"step": (clock(device) - started) / steps}
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step()
        end.record()
        torch.cuda.synchronize(device)
        return {"step": start.elapsed_time(end) / 1000 / steps}


def output_of(model: RandomModel, method: BenchMethod) -> Tensor:
    """The output of one step, in float32."""
    with prepared(model, method) as step:
        return step().float()


def differences(model: RandomModel, methods: Sequence[BenchMethod]) -> dict[str, float]:
    """The relative difference of VSF with bias to its masked form, which is rounding, and to no guidance, which is not."""
    compared = ("vsf-bias", "vsf-masked", UNGUIDED)
    outputs = {method.name: output_of(model, method) for method in methods if method.name in compared}
    if "vsf-bias" not in outputs:
        return {}
    ours = outputs.pop("vsf-bias")
    return {f"vsf-bias against {name}": float((ours - each).norm() / each.norm()) for name, each in outputs.items()}


def row(method: BenchMethod, samples: Mapping[str, Sequence[Sample]], memory: Mapping[str, int | None]) -> dict[str, Any]:
    """One method as plain values: seconds a step, and the ratio to no guidance round by round."""
    own, base = memory[method.name], memory[UNGUIDED]
    return {
        "name": method.name,
        "label": method.label,
        "seconds": spread([sample["step"] for sample in samples[method.name]]).to_json(),
        "times": ratios(samples[method.name], samples[UNGUIDED], "step").to_json(),
        "peak_bytes": own,
        "peak_times": own / base if own and base else None,
    }


def measure(
    model: RandomModel, methods: Sequence[BenchMethod], device: torch.device, steps: int, rounds: int
) -> dict[str, Any]:
    """All methods as plain values."""
    memory: dict[str, int | None] = {}

    def warm_up(name: str, run: Callable[[], Sample]) -> None:
        # The first run compiles. Its memory is not that of a step.
        run()
        memory[name] = peak_memory(device, run)

    runs = {method.name: partial(timed, model, method, device, steps) for method in methods}
    samples = interleave(runs, rounds, warm_up)
    return {"methods": [row(method, samples, memory) for method in methods], "differences": differences(model, methods)}


def shape_for(preset: Preset, size: str | None, frames: int | None, layers: int | None) -> Shape:
    """The architecture of a preset at a size; by default its own."""
    width, height = map(int, size.split("x")) if size else (preset.width or 1024, preset.height or 1024)
    frames = (frames or preset.num_frames) if preset.video else None
    return shape_of(preset.model, preset.family, (width, height), frames, preset.max_sequence_length, layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--size", help="WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    preset, device = load_preset(options.preset), torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = shape_for(preset, options.size, options.frames, options.layers)
    started = time.monotonic()
    model = build(shape, dtype, device, NEGATIVES)
    print(f"{shape}, built in {time.monotonic() - started:.1f} s", flush=True)
    if options.compile:
        compile_blocks(model.transformer, device)
    settings = {"weights": "random", "dtype": str(dtype).removeprefix("torch."), "negative tokens": NEGATIVES}
    settings |= {"rounds": options.rounds, "steps in a row": options.steps, "compiled": options.compile or None}
    methods = select_methods(options.methods, preset.guidance(), FAMILIES[preset.family].folds_padding)
    measured = measure(model, methods, device, options.steps, options.rounds)
    report = {**conditions(device), "shape": str(shape), "settings": settings, **measured}
    path = options.output or RESULTS / f"gpu-{options.preset}{'-compiled' * options.compile}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(path)


if __name__ == "__main__":
    main()
