"""What the kernels share: tiles of states, and softmax over a few keys.

A tile has a power of two of rows, and of channels. What is beyond the states is 0.
"""

import triton
import triton.language as tl

__all__ = ["load_rows", "product", "sigmoid", "softmax", "store_rows"]

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether Triton's interpreter runs the kernels, on a CPU: it multiplies no bfloat16."""


@triton.jit
def load_rows(base, row, seen, stride, channel, D: tl.constexpr):
    """Returns rows of states whose channels stand side by side."""
    return tl.load(base + row[:, None] * stride + channel[None], mask=seen[:, None] & (channel < D)[None], other=0.0)


@triton.jit
def store_rows(base, row, seen, stride, channel, values, D: tl.constexpr):
    """Writes rows of states in their own dtype."""
    mask = seen[:, None] & (channel < D)[None]
    tl.store(base + row[:, None] * stride + channel[None], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def product(first, second):
    """Returns the product of two tiles in float32, of float32 as it is and not rounded to TF32."""
    if INTERPRETED:
        first, second = first.to(tl.float32), second.to(tl.float32)
    return tl.dot(first, second, input_precision="ieee").to(tl.float32)


@triton.jit
def sigmoid(number):
    """Returns the sigmoid, which is 0 and nothing that is almost 0 where an infinite bias leaves no weight."""
    return tl.where(number > -80, 1 / (1 + tl.exp(-tl.maximum(number, -80.0))), 0.0)


@triton.jit
def softmax(logits, seen):
    """Returns the softmax of each row over the keys that it sees, and its log-sum-exp: 0 and minus infinity without any."""
    logits = tl.where(seen, logits, -float("inf"))
    largest = tl.max(logits, 1)
    largest = tl.where(largest == -float("inf"), 0.0, largest)
    weights = tl.exp(logits - largest[:, None])
    total = tl.sum(weights, 1)
    some = total > 0
    total = tl.where(some, total, 1.0)
    return weights / total[:, None], tl.where(some, largest + tl.log(total), -float("inf"))
