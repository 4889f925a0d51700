"""What `--cache-text` saves and costs on Wan 2.1 1.3B: python benchmarks/text_cache.py [--layers N --frames N --rounds N]

Counts one step of the full size on paper, with the text known and without, and times a shrunk one on this machine in turns.
Writes benchmarks/results/text-cache.json, and a table as Markdown to stdout.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vsf_cli.bench.arms import arms_named
from vsf_cli.bench.counting import counted
from vsf_cli.bench.random_model import RandomModel, build, prepared
from vsf_cli.bench.report import conditions
from vsf_cli.bench.shapes import Shape, shape_of
from vsf_cli.bench.timing import Sample, clock, interleaved, ratios, spread
from vsf_cli.methods import VSF
from vsf_cli.models import FAMILIES
from vsf_cli.settings.presets import load_preset

RESULT = Path(__file__).parent / "results" / "text-cache.json"
PRESET = load_preset("wan2.1-1.3b-causvid")
NEGATIVES = 8


def shaped(layers: int | None, frames: int | None) -> Shape:
    size = (PRESET.width or 0, PRESET.height or 0)
    return shape_of(PRESET.model, "wan", size, frames or PRESET.num_frames, PRESET.max_sequence_length, layers)


def cached(model: RandomModel, known: bool) -> Any:
    """The `with` in which the text is computed once, or none."""
    pipe = SimpleNamespace(transformer=model.transformer, transformer_2=None)
    return FAMILIES["wan"].caching_text(pipe) if known else nullcontext()


def count(model: RandomModel, name: str) -> dict[str, float]:
    """GFLOPs of a step whose text is not known and of one whose is, and the megabytes that are kept for it."""
    (arm,) = (arm for arm in arms_named(name, VSF()) if arm.name == name)
    with prepared(model, arm) as step:
        plain = counted(step).flops
        with cached(model, True):
            step()
            known = counted(step).flops
    shape, tokens = model.shape, model.shape.positives + (NEGATIVES if name != "none" else 0)
    width = shape.config["num_attention_heads"] * shape.config["attention_head_dim"]
    kept = 2 * shape.layers * tokens * width * model.inputs["encoder_hidden_states"].element_size()
    return {"gflop": plain / 1e9, "gflop_known": known / 1e9, "kept_mb": kept / 1e6}


def time(model: RandomModel, name: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step whose text is not known and of one whose is, in turns."""
    (arm,) = (arm for arm in arms_named(name, VSF()) if arm.name == name)
    device = torch.device("cpu")

    def run(known: bool) -> Sample:
        with cached(model, known), prepared(model, arm) as step:
            if known:
                step()
            started = clock(device)
            step()
            return {"step": clock(device) - started}

    samples = interleaved({"plain": lambda: run(False), "known": lambda: run(True)}, rounds, lambda _, call: call())
    return {
        "seconds": spread([sample["step"] for sample in samples["plain"]]).to_json(),
        "ratio": ratios(samples["known"], samples["plain"], "step").to_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    full = build(shaped(None, None), torch.bfloat16, torch.device("meta"), NEGATIVES)
    shrunk = build(shaped(asked.layers, asked.frames), torch.float32, torch.device("cpu"), NEGATIVES)
    names = ("none", "vsf-bias")
    report = {
        **conditions(torch.device("cpu")),
        "counted": {"shape": str(full.shape), "dtype": "bfloat16", **{name: count(full, name) for name in names}},
        "timed": {"shape": str(shrunk.shape), "dtype": "float32", "rounds": asked.rounds}
        | {name: time(shrunk, name, asked.rounds) for name in names},
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print("| method | GFLOP a step | text known | kept | step of the shrunk model | text known |\n|---|---|---|---|---|---|")
    for name in names:
        counts, times = report["counted"][name], report["timed"][name]
        low, high = times["ratio"]["low"], times["ratio"]["high"]
        print(
            f"| {name} | {counts['gflop']:.0f} | {counts['gflop_known']:.0f} ({counts['gflop_known'] / counts['gflop']:.4f} x)"
            f" | {counts['kept_mb']:.1f} MB | {times['seconds']['median']:.2f} s"
            f" | {times['ratio']['median']:.3f} x ({low:.3f} to {high:.3f}) |"
        )


if __name__ == "__main__":
    main()
