"""Checks and times the fused kernels at full size on a GPU, beside PyTorch's calls: python benchmarks/fused_kernels.py

Writes benchmarks/results/gpu-kernels.json: the relative error of each kernel against float64, and the median microseconds of
each call. --check only compares, with small inputs; with TRITON_INTERPRET=1 that runs on a CPU.
Letters as in `vsf_cli.attention`.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from vsf_cli.attention import fused
from vsf_cli.attention.exact import attention_with_lse
from vsf_cli.attention.fused import FewKeys
from vsf_cli.attention.kernels.text_rows import attend_image_in_parts
from vsf_cli.bench.report import conditions

RESULT = Path(__file__).parent / "results" / "gpu-kernels.json"
ALPHA, BETA, CONTRAST = 3.0, 0.3, 0.7


@dataclass(frozen=True)
class Case:
    """The sizes of one attention: heads, tokens of the image and of the prompt, head dimension, negative and kept tokens."""

    name: str
    heads: int
    images: int
    positives: int
    head_dim: int
    negatives: int = 8
    kept: int = 0
    cross: bool = False


CASES = (
    Case("sd3.5-large", 38, 4096, 333, 64),
    Case("sd3.5-large, kept prompts", 38, 4096, 333, 64, kept=8),
    Case("flux", 24, 4096, 512, 128),
    Case("wan 1.3b cross", 12, 32760, 512, 128, cross=True),
    Case("wan 1.3b cross, folded", 12, 32760, 33, 128, cross=True),
    Case("sdxl cross", 20, 1024, 77, 64, cross=True),
)
SMALL = (Case("joint", 2, 70, 20, 64, 5, kept=3), Case("cross", 2, 70, 20, 40, 5, kept=3, cross=True))


class Inputs:
    """Random states of one case, with heads behind tokens in memory; float64 gives what is wanted."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.case, base, few = case, case.positives + case.images * (not case.cross), case.negatives + case.kept

        def drawn(tokens: int) -> Tensor:
            return torch.randn(1, tokens, case.heads, case.head_dim, device=device, dtype=dtype).transpose(1, 2)

        rows = case.images if case.cross else base
        self.query, self.text, self.key, self.value = map(drawn, (rows, few, base + few, base + few))
        self.base = self.key[:, :, :base], self.value[:, :, :base]
        self.few = FewKeys(self.key[:, :, base:], self.value[:, :, base:], case.negatives)
        self.strengths = tuple(torch.tensor(one, device=device) for one in (ALPHA, BETA, CONTRAST))
        self.image = [one[:, :, : case.images] for one in self.base]

    def guided(self, query: Tensor) -> Tensor:
        """What rows of the image get, by products in float64."""
        case, count = self.case, self.case.negatives
        key, value, scale = self.key.double(), self.value.double(), self.case.head_dim**-0.5
        base = key.shape[2] - count - case.kept
        logits = query.double() @ key.mT * scale
        logits[..., base:] -= BETA
        weights = logits[..., : base + count].softmax(-1)
        output = weights[..., :base] @ value[:, :, :base] - ALPHA * weights[..., base:] @ value[:, :, base : base + count]
        share = weights[..., base:].sum(-1, keepdim=True)
        kept = logits[..., base + count :].softmax(-1) @ value[:, :, base + count :]
        return output + ALPHA * CONTRAST * share * kept if case.kept else output

    def own(self) -> Tensor:
        """What the rows of the negative and the kept prompts get."""
        parts, start = [], self.key.shape[2] - self.text.shape[2]
        for begin, end in ((0, self.case.negatives), (self.case.negatives, self.text.shape[2])):
            states = [
                torch.cat([one[:, :, : self.case.images], one[:, :, start + begin : start + end]], 2).double()
                for one in (self.key, self.value)
            ]
            logits = self.text[:, :, begin:end].double() @ states[0].mT * self.case.head_dim**-0.5
            parts.append(logits.softmax(-1) @ states[1])
        return torch.cat(parts, 2)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def errors(inputs: Inputs) -> dict[str, float]:
    """The relative error of each kernel of a case; the guided rows are compared where they begin and where they end."""
    case, found = inputs.case, {}
    rows = [slice(0, 64), slice(case.images - 64, case.images)]

    def compare(name: str, output: Tensor) -> None:
        found[name] = max(error(output[:, :, part], inputs.guided(inputs.query[:, :, part])) for part in rows)

    base, lse = attention_with_lse(inputs.query, *inputs.base)
    out = torch.empty_like(base)
    fused.guide_image(inputs.query, base, lse, inputs.few, inputs.strengths, out, 0, case.images)
    compare("guide_image", out)
    if case.cross and inputs.key.shape[2] <= fused.MAX_KEYS:
        keys = inputs.key, inputs.value, None, inputs.few, inputs.strengths
        compare("attend_few_keys", fused.attend_few_keys(inputs.query, *keys))
    if not case.cross:
        own = torch.empty_like(inputs.text)
        fused.attend_text(inputs.text, *inputs.image, inputs.few, own)
        found["attend_text"] = error(own, inputs.own())
    return found


def calls(inputs: Inputs) -> Iterator[tuple[str, Callable[[], object]]]:
    """The calls that are timed, by name."""
    case = inputs.case
    yield "unguided", partial(F.scaled_dot_product_attention, inputs.query, *inputs.base)
    yield "unguided, with its log-sum-exp", partial(attention_with_lse, inputs.query, *inputs.base)
    base, lse = attention_with_lse(inputs.query, *inputs.base)
    guide = fused.guide_image, inputs.query, base, lse, inputs.few, inputs.strengths
    yield "fused: the image's rows", partial(*guide, torch.empty_like(base), 0, case.images)
    if case.cross:
        if inputs.key.shape[2] <= fused.MAX_KEYS:
            keys = inputs.key, inputs.value, None, inputs.few, inputs.strengths
            yield "fused: all keys at once", partial(fused.attend_few_keys, inputs.query, *keys)
        return
    own = torch.empty_like(inputs.text)
    yield "fused: the text's rows", partial(fused.attend_text, inputs.text, *inputs.image, inputs.few, own)
    yield "the text's rows to the image, split over programs", partial(attend_image_in_parts, inputs.text, *inputs.image)
    yield "the text's rows to the image, by PyTorch", partial(attention_with_lse, inputs.text, *inputs.image)


def measure(inputs: Inputs) -> list[dict[str, object]]:
    """The median microseconds of every call of a case."""
    timed = partial(triton.testing.do_bench, warmup=20, rep=60, return_mode="median")
    return [
        {"shape": inputs.case.name, "call": name, "microseconds": round(1000 * timed(call), 1)} for name, call in calls(inputs)
    ]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Only compare the kernels with float64, with small inputs.")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    device, dtype = ("cpu", torch.float32) if os.environ.get("TRITON_INTERPRET") else ("cuda", torch.bfloat16)
    found, times = {}, []
    for case in SMALL if options.check else CASES:
        inputs = Inputs(case, device, dtype)
        found[case.name] = errors(inputs)
        times += [] if options.check else measure(inputs)
    print(json.dumps(found))
    if options.check:
        return
    environment = conditions(torch.device("cuda"))
    environment["versions"]["triton"] = triton.__version__
    facts = {"dtype": "bfloat16", "batch": 1, "timing": "median of do_bench, 60 ms after 20 ms of warm-up"}
    report = {**environment, **facts, "relative_errors_against_float64": found}
    report |= {"shapes": {case.name: vars(case) for case in CASES}, "calls": times}
    options.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
