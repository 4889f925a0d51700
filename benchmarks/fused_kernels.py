"""Times prototypes of fused kernels for guidance on a GPU, and PyTorch's calls: python benchmarks/fused_kernels.py

merge: brings the negative prompt into the image's rows in place: O1 <- (1 - w) O1 + c w softmax(q k_N^T) v_N, with
       w = sigmoid(L2 - beta - L1).
few:   attention of many rows to a few keys with a bias for each key: cross attention whose padding is folded into one key.
rows:  attention of a few rows, those of the negative prompt, to many keys, split over programs, with its log-sum-exp.

Writes benchmarks/results/gpu-kernels.json. --check only compares the kernels with float64; with TRITON_INTERPRET=1 that runs
on a CPU. Letters as in `vsf_cli.attention`.
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
import triton.language as tl
from torch import Tensor

from vsf_cli.bench.report import conditions

RESULT = Path(__file__).parent / "results" / "gpu-kernels.json"
NEGATIVES = 8
ALPHA, BETA = 3.0, 0.3


@triton.jit
def _load(base, row, column, stride, mask):
    return tl.load(base + row[:, None] * stride + column[None], mask=mask[:, None], other=0.0)


@triton.jit
def _merge(
    query, output, lse, key, value,
    q_batch, q_head, q_row, o_batch, o_head, o_row, l_batch, l_head, k_batch, k_head, k_row, v_batch, v_head, v_row,
    heads, images, negatives, scale, beta, coefficient,
    D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    row, channel, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, KEYS)
    row_mask, key_mask = row < images, token < negatives
    q = _load(query + batch * q_batch + head * q_head, row, channel, q_row, row_mask)
    k = _load(key + batch * k_batch + head * k_head, token, channel, k_row, key_mask)
    v = _load(value + batch * v_batch + head * v_head, token, channel, v_row, key_mask)
    logits = tl.where(key_mask[None], tl.dot(q, tl.trans(k)).to(tl.float32) * scale, -float("inf"))
    maximum = tl.max(logits, 1)
    weights = tl.exp(logits - maximum[:, None])
    total = tl.sum(weights, 1)
    first = tl.load(lse + batch * l_batch + head * l_head + row, mask=row_mask, other=0.0)
    weight = 1 / (1 + tl.exp(first + beta - maximum - tl.log(total)))
    added = tl.dot(weights.to(v.dtype), v).to(tl.float32) * (coefficient * weight / total)[:, None]
    base = output + batch * o_batch + head * o_head
    before = _load(base, row, channel, o_row, row_mask).to(tl.float32)
    merged = ((1 - weight)[:, None] * before + added).to(v.dtype)
    tl.store(base + row[:, None] * o_row + channel[None], merged, mask=row_mask[:, None])


def merge(
    query: Tensor, output: Tensor, lse: Tensor, key: Tensor, value: Tensor,
    beta: float = BETA, coefficient: float = -ALPHA, rows: int = 128, warps: int = 4,
) -> Tensor:  # fmt: skip
    """Merges in place; shapes (B, H, I, D), `lse` (B, H, I), keys and values (B, H, N, D)."""
    batch, heads, images, size = query.shape
    negatives = key.shape[2]
    _merge[(triton.cdiv(images, rows), batch * heads)](
        query, output, lse, key, value,
        *query.stride()[:3], *output.stride()[:3], *lse.stride()[:2], *key.stride()[:3], *value.stride()[:3],
        heads, images, negatives, size**-0.5, beta, coefficient,
        D=size, ROWS=rows, KEYS=max(16, triton.next_power_of_2(negatives)), num_warps=warps,
    )  # fmt: skip
    return output


@triton.jit
def _few(
    query, key, value, bias, output,
    q_batch, q_head, q_row, o_batch, o_head, o_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    heads, images, count, scale, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    row, channel, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, KEYS)
    row_mask, key_mask = row < images, token < count
    q = _load(query + batch * q_batch + head * q_head, row, channel, q_row, row_mask)
    k = _load(key + batch * k_batch + head * k_head, token, channel, k_row, key_mask)
    v = _load(value + batch * v_batch + head * v_head, token, channel, v_row, key_mask)
    biases = tl.load(bias + token, mask=key_mask, other=-float("inf"))
    logits = tl.dot(q, tl.trans(k)).to(tl.float32) * scale + biases[None]
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    result = tl.dot(weights.to(v.dtype), v).to(tl.float32) / tl.sum(weights, 1)[:, None]
    base = output + batch * o_batch + head * o_head
    tl.store(base + row[:, None] * o_row + channel[None], result.to(v.dtype), mask=row_mask[:, None])


def few(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, rows: int = 128, warps: int = 4) -> Tensor:
    """Attention of (B, H, I, D) to a few keys, with `bias` (N,) added to their logits."""
    batch, heads, images, size = query.shape
    count, output = key.shape[2], _empty(query)
    _few[(triton.cdiv(images, rows), batch * heads)](
        query, key, value, bias, output,
        *query.stride()[:3], *output.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        heads, images, count, size**-0.5,
        D=size, ROWS=rows, KEYS=max(16, triton.next_power_of_2(count)), num_warps=warps,
    )  # fmt: skip
    return output


@triton.jit
def _rows(
    query, key, value, parts, part_lse,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    heads, count, keys, scale, part, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    row, channel = tl.arange(0, ROWS), tl.arange(0, D)
    q = _load(query + batch * q_batch + head * q_head, row, channel, q_row, row < count)
    maximum = tl.full([ROWS], -float("inf"), tl.float32)
    total, result = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, D], tl.float32)
    start = tl.program_id(1) * part
    end = tl.minimum(start + part, keys)
    for first in range(start, end, KEYS):
        token = first + tl.arange(0, KEYS)
        k = _load(key + batch * k_batch + head * k_head, token, channel, k_row, token < end)
        v = _load(value + batch * v_batch + head * v_head, token, channel, v_row, token < end)
        logits = tl.where((token < end)[None], tl.dot(q, tl.trans(k)).to(tl.float32) * scale, -float("inf"))
        larger = tl.maximum(maximum, tl.max(logits, 1))
        weights, shrink = tl.exp(logits - larger[:, None]), tl.exp(maximum - larger)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None] + tl.dot(weights.to(v.dtype), v).to(tl.float32)
        maximum = larger
    slot = (tl.program_id(0) * SPLITS + tl.program_id(1)) * ROWS + row
    tl.store(parts + slot[:, None] * D + channel[None], result / total[:, None])
    tl.store(part_lse + slot, maximum + tl.log(total))


@triton.jit
def _join(
    parts, part_lse, output, lse, heads, count, o_batch, o_head, o_row,
    D: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    batch, head = index // heads, index % heads
    row, channel = tl.arange(0, ROWS), tl.arange(0, D)
    maximum = tl.full([ROWS], -float("inf"), tl.float32)
    for split in range(SPLITS):
        maximum = tl.maximum(maximum, tl.load(part_lse + (index * SPLITS + split) * ROWS + row))
    total, result = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, D], tl.float32)
    for split in range(SPLITS):
        slot = (index * SPLITS + split) * ROWS + row
        weight = tl.exp(tl.load(part_lse + slot) - maximum)
        total += weight
        result += weight[:, None] * tl.load(parts + slot[:, None] * D + channel[None])
    base = output + batch * o_batch + head * o_head + row[:, None] * o_row + channel[None]
    tl.store(base, (result / total[:, None]).to(output.dtype.element_ty), mask=(row < count)[:, None])
    tl.store(lse + index * count + row, maximum + tl.log(total), mask=row < count)


def rows(query: Tensor, key: Tensor, value: Tensor, splits: int = 16, keys: int = 64) -> tuple[Tensor, Tensor]:
    """Attention of a few rows (B, H, N, D) to many keys; returns the output and its log-sum-exp (B, H, N)."""
    batch, heads, count, size = query.shape
    height = max(16, triton.next_power_of_2(count))
    part = triton.cdiv(triton.cdiv(key.shape[2], splits), keys) * keys
    splits = triton.cdiv(key.shape[2], part)
    parts = query.new_empty(batch * heads, splits, height, size, dtype=torch.float32)
    part_lse, lse = parts.new_empty(batch * heads, splits, height), parts.new_empty(batch, heads, count)
    output = _empty(query)
    _rows[(batch * heads, splits)](
        query, key, value, parts, part_lse, *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        heads, count, key.shape[2], size**-0.5, part, D=size, ROWS=height, KEYS=keys, SPLITS=splits,
    )  # fmt: skip
    _join[(batch * heads,)](
        parts, part_lse, output, lse, heads, count, *output.stride()[:3], D=size, ROWS=height, SPLITS=splits
    )
    return output, lse


def _empty(query: Tensor) -> Tensor:
    """Memory for an output with shape (B, H, L, D) in the layout (B, L, H, D), which diffusers uses."""
    return torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


@dataclass(frozen=True)
class Case:
    """The sizes of one attention: heads, tokens of the image, other keys, head dimension; `cross` has no image keys."""

    name: str
    heads: int
    images: int
    text: int
    head_dim: int
    cross: bool = False


CASES = (
    Case("sd3.5-large", 38, 4096, 333, 64),
    Case("wan 1.3b cross", 12, 32760, 512, 128, cross=True),
    Case("flux", 24, 4096, 512, 128),
)


def _normal(case: Case, tokens: int, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(1, tokens, case.heads, case.head_dim, device=device, dtype=dtype).transpose(1, 2)


def errors(device: str, dtype: torch.dtype, head_dim: int, images: int = 257) -> dict[str, float]:
    """The relative error of each kernel against float64."""
    torch.manual_seed(0)
    case = Case("check", 3, images, 33, head_dim)
    query, key, value = (_normal(case, tokens, device, dtype) for tokens in (images, images + 33, images + 33))
    n_query, n_key, n_value = (_normal(case, 5, device, dtype) for _ in range(3))
    scale = head_dim**-0.5
    logits, n_logits = (query.double() @ each.double().mT * scale for each in (key, n_key))
    both = torch.cat([logits, n_logits - BETA], -1).softmax(-1)
    merged = both @ torch.cat([value.double(), -ALPHA * n_value.double()], 2)
    first = (logits.softmax(-1) @ value.double()).to(dtype)
    bias = torch.zeros(5, device=device)
    bias[-1] = 2.0
    image_key, image_value = key[:, :, :images], value[:, :, :images]
    rows_logits = n_query.double() @ image_key.double().mT * scale
    own, lse = rows(n_query, image_key, image_value)
    pairs = {
        "merge": (merge(query, first, logits.logsumexp(-1).float(), n_key, n_value), merged),
        "few": (few(query, n_key, n_value, bias), (n_logits + bias.double()).softmax(-1) @ n_value.double()),
        "rows": (own, rows_logits.softmax(-1) @ image_value.double()),
        "rows, log-sum-exp": (lse, rows_logits.logsumexp(-1)),
    }
    return {name: float((output.double() - expected).norm() / expected.norm()) for name, (output, expected) in pairs.items()}


def calls(case: Case) -> Iterator[tuple[str, Callable[[], object]]]:
    """The calls that are timed, by name."""
    normal = partial(_normal, case, device="cuda", dtype=torch.bfloat16)
    images, keys = case.images, case.text if case.cross else case.images + case.text
    query, key, value = normal(images if case.cross else keys), normal(keys), normal(keys)
    n_query, n_key, n_value = (normal(NEGATIVES) for _ in range(3))
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    yield "unguided", partial(F.scaled_dot_product_attention, query, key, value)
    yield "unguided, by cuDNN, with its log-sum-exp", partial(cudnn, query, key, value, None, True)
    first, lse = cudnn(query, key, value, None, True)[:2]
    lse, rows_of_image = lse.reshape(query.shape[:3])[:, :, :images], query[:, :, :images]
    for height, warps in ((64, 4), (128, 4), (128, 8), (256, 8)):
        arguments = (rows_of_image, first[:, :, :images], lse, n_key, n_value)
        name = f"fused: attention to the negative prompt and merge, {height} rows a block, {warps} warps"
        yield name, partial(merge, *arguments, rows=height, warps=warps)
    if case.cross:
        for count in (16, 32, 64):
            bias = torch.zeros(count, device="cuda")
            name = f"fused: attention to {count} keys, 64 rows a block, 4 warps"
            yield name, partial(few, query, normal(count), normal(count), bias, 64)
        return
    image_key, image_value = key[:, :, :images], value[:, :, :images]
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    yield "rows of the negative prompt, by flash", partial(flash, n_query, image_key, image_value)
    for splits in (4, 8, 16, 32):
        yield f"fused: rows of the negative prompt, {splits} splits", partial(rows, n_query, image_key, image_value, splits)


def measure() -> list[dict[str, object]]:
    """The median microseconds of every call."""
    timed = partial(triton.testing.do_bench, warmup=20, rep=60, return_mode="median")
    return [
        {"shape": case.name, "call": name, "microseconds": round(1000 * timed(call), 1)}
        for case in CASES
        for name, call in calls(case)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Only compare the kernels with float64.")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    interpreted = bool(os.environ.get("TRITON_INTERPRET"))
    device, dtype = ("cpu", torch.float32) if interpreted else ("cuda", torch.bfloat16)
    relative_errors = {f"head dimension {size}": errors(device, dtype, size) for size in ((64,) if interpreted else (64, 128))}
    print(json.dumps(relative_errors))
    if options.check:
        return
    facts = {"dtype": "bfloat16", "batch": 1, "negative_tokens": NEGATIVES}
    timing = "median of do_bench, 60 ms after 20 ms of warm-up"
    environment = conditions(torch.device("cuda"))
    environment["versions"]["triton"] = triton.__version__
    report = {**environment, **facts, "timing": timing, "relative_error_against_float64": relative_errors}
    report |= {"shapes": {case.name: vars(case) for case in CASES}, "calls": measure()}
    options.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
