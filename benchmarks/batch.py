"""Measures the overhead of `vsf batch` over the model's own time: python benchmarks/batch.py [--items N --size N --rounds N]

Makes the same images of the built-in model in three ways: by calls of the library, which write nothing; by a batch, one by one;
and by a batch, several in one pass. The three take turns, since the speed of a machine changes. A batch writes its images with
their metadata, and its journal. Writes benchmarks/results/batch.json, and a table as Markdown to stdout.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import tables
import torch

from vsf_cli.batch.items import Item, items_of
from vsf_cli.batch.runner import Batch
from vsf_cli.batch.table import read_table
from vsf_cli.batch.worker import Worker
from vsf_cli.bench.report import conditions
from vsf_cli.generation.generate import generate
from vsf_cli.generation.run import load_for
from vsf_cli.loading.libraries import quiet_libraries
from vsf_cli.loading.runtime import Runtime
from vsf_cli.settings.options import Given
from vsf_cli.toy.scenes import pairs

RESULT = Path(__file__).parent / "results" / "batch.json"
SEEDS = 4


def items(count: int) -> list[Item]:
    """The items of the dev split's prompts, each with a part as its negative, with several seeds."""
    lines = [json.dumps({"prompt": prompt, "negative": part}) for prompt, _, part in pairs("dev", -(-count // SEEDS))]
    rows = read_table(Path("prompts.jsonl"), "\n".join(lines))
    return items_of("prompts.jsonl", rows, {}, Given(seeds=tuple(range(1, SEEDS + 1))))[0][:count]


def by_calls(chosen: Sequence[Item], warm: int) -> float:
    """Seconds of calls of the library, without loading and the first `warm` items."""
    pipe = load_for(chosen[0].request, Runtime())
    for item in chosen[:warm]:
        generate(pipe, item.request)
    started = time.perf_counter()
    for item in chosen[warm:]:
        generate(pipe, item.request)
    return time.perf_counter() - started


def by_batch(chosen: Sequence[Item], warm: int, size: int) -> float:
    """Seconds of a batch, without loading and the first `warm` items."""
    with tempfile.TemporaryDirectory() as folder:
        batch = Batch(chosen, Worker(Path(folder), batch_size=size))
        outcomes = batch.run(chosen)
        failed = [outcome for outcome in islice(outcomes, warm) if outcome.error]
        started = time.perf_counter()
        failed += [outcome for outcome in outcomes if outcome.error]
        seconds = time.perf_counter() - started
    assert not failed, failed[0].error
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet_libraries(False)
    # The first pass of a batch is not timed: before it, the model is loaded.
    warm = options.size
    chosen = items(options.items + warm)
    runs: dict[str, Callable[[], float]] = {
        "calls": lambda: by_calls(chosen, warm),
        "batch": lambda: by_batch(chosen, warm, 1),
        f"batch of {options.size}": lambda: by_batch(chosen, warm, options.size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    report = {**conditions(torch.device("cpu")), **vars(options), "seconds": seconds}
    RESULT.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(tables.batch())


if __name__ == "__main__":
    main()
