"""Measures what guidance adds to a step of Wan 2.1 1.3B: python benchmarks/cross_attention.py [--frames N --rounds N]

A method changes only the cross attention of a block, an eighth of its time. Timed alone, within the step, its differences stand
out from the noise of a shared machine; those of whole steps do not. Writes benchmarks/results/cross-attention.json, and a table
as Markdown to stdout.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tables
import torch

from vsf_cli.bench.methods import BenchMethod, select_methods
from vsf_cli.bench.random_model import RandomModel, build, prepared
from vsf_cli.bench.report import conditions
from vsf_cli.bench.shapes import shape_of
from vsf_cli.bench.timing import Sample, clock, interleave, spread
from vsf_cli.methods import VSF
from vsf_cli.settings.presets import load_preset

RESULT = Path(__file__).parent / "results" / "cross-attention.json"
PRESET = load_preset("wan2.1-1.3b-causvid")
METHODS = "vsf,vsf-bias,vsf-masked,nag,nasa"


def timed(model: RandomModel, method: BenchMethod, attentions: list[Any]) -> Sample:
    """Seconds of a step, and of its cross attentions within it."""
    device, started, seconds = torch.device("cpu"), [0.0], [0.0]

    def begin(*_: Any) -> None:
        started[0] = clock(device)

    def end(*_: Any) -> None:
        seconds[0] += clock(device) - started[0]

    with ExitStack() as stack, prepared(model, method) as step:
        for attention in attentions:
            stack.callback(attention.register_forward_pre_hook(begin).remove)
            stack.callback(attention.register_forward_hook(end).remove)
        step_started = clock(device)
        step()
        return {"step": clock(device) - step_started, "attention": seconds[0]}


def fraction_added(ours: Sample, none: Sample) -> float:
    """The seconds that a method adds to its cross attentions, as a fraction of the step without guidance."""
    return (ours["attention"] - none["attention"]) / none["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    size = (PRESET.width or 0, PRESET.height or 0)
    shape = shape_of(PRESET.model, "wan", size, options.frames, PRESET.max_sequence_length, 1)
    model = build(shape, torch.float32, torch.device("cpu"), 8)
    methods = select_methods(METHODS, VSF())
    attentions = [block.attn2 for block in model.transformer.blocks]

    def run(method: BenchMethod) -> Callable[[], Sample]:
        return lambda: timed(model, method, attentions)

    samples = interleave({method.name: run(method) for method in methods}, options.rounds, lambda _, call: call())
    none = samples["none"]
    costs = {
        method.name: {
            "label": method.label,
            "seconds": spread([each["attention"] for each in samples[method.name]]).to_json(),
            "added": spread([fraction_added(*both) for both in zip(samples[method.name], none, strict=True)]).to_json(),
        }
        for method in methods
    }
    report = {
        **conditions(torch.device("cpu")),
        "shape": str(shape),
        "dtype": "float32",
        "rounds": options.rounds,
        "step": spread([each["step"] for each in none]).to_json(),
        "methods": costs,
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(tables.cross_attention())


if __name__ == "__main__":
    main()
