"""Times variants of the small parts of VSF that did not help: python benchmarks/tried.py [--runs N]

Measures the CPU time of one thread, the minimum of several runs, at the width of SD3.5-Large and of Wan 2.1 1.3B. Writes
benchmarks/results/tried.json, and a table as Markdown to stdout.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tables
import torch
from torch import Tensor

from vsf_cli.attention.exact import attention_with_lse
from vsf_cli.attention.merging import lerp_states
from vsf_cli.bench.report import conditions

RESULT = Path(__file__).parent / "results" / "tried.json"
IMAGES, NEGATIVES = 4096, 8
WIDTHS = {"SD3.5-Large": (38, 64), "Wan 2.1 1.3B": (12, 128)}
DTYPES = (torch.float32, torch.bfloat16)


def in_new_tensors(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    weight = weight.unsqueeze(-1)
    return ((1 - weight) * first + weight * second).to(first.dtype)


def in_two_passes(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    weight = weight.to(first.dtype).unsqueeze(-1)
    return first.mul_(1 - weight).addcmul_(second, weight)


def written_out(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return logits.softmax(-1) @ value, logits.float().logsumexp(-1)


MERGES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "merge: `lerp_` in place": lerp_states,
    "merge: the formula, in new tensors": in_new_tensors,
    "merge: `mul_`, then `addcmul_`": in_two_passes,
}
ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "attention to 8 keys: flash": attention_with_lse,
    "attention to 8 keys: two products and a softmax": written_out,
}


def min_seconds(call: Callable[[], object], runs: int) -> float:
    seconds = []
    for _ in range(runs + 1):
        started = time.thread_time()
        call()
        seconds.append(time.thread_time() - started)
    return min(seconds[1:])


def measured(heads: int, head_dim: int, dtype: torch.dtype, runs: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)

    def normal(*sides: int) -> Tensor:
        return torch.randn(1, heads, *sides, generator=generator).to(dtype)

    first, second, query = (normal(IMAGES, head_dim) for _ in range(3))
    key, value = (normal(NEGATIVES, head_dim) for _ in range(2))
    weight = torch.rand(1, heads, IMAGES, generator=generator)
    seconds = {name: min_seconds(partial(merge, first, second, weight), runs) for name, merge in MERGES.items()}
    return seconds | {name: min_seconds(partial(attend, query, key, value), runs) for name, attend in ATTENTIONS.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    columns = {
        f"{name}, {str(dtype).removeprefix('torch.')}": measured(*shape, dtype, runs)
        for name, shape in WIDTHS.items()
        for dtype in DTYPES
    }
    report = {**conditions(torch.device("cpu")), "runs": runs, "seconds": columns}
    RESULT.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(tables.tried())


if __name__ == "__main__":
    main()
