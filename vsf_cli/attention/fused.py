"""Guidance by fused kernels, in one pass over the image's rows, where they run: on CUDA, with Triton and a C compiler.

`unusable` tries them once for each device. Where they do not run, callers take the calls of `exact` and `merging`.
Letters as in `vsf_cli.attention`.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vsf_cli.attention.exact import attention_with_lse
from vsf_cli.errors import is_out_of_memory

__all__ = ["MAX_KEYS", "FewKeys", "Strengths", "attend_few_keys", "attend_text", "guide_image", "takes", "unusable"]

LOG = logging.getLogger(__name__)

DEVICES = ("cuda", "meta")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_KEYS = 128
MAX_HEAD_DIM = 256

Strengths = tuple[Tensor, Tensor, Tensor]
"""Alpha, beta and the contrast c, each without axes."""


@dataclass(frozen=True)
class FewKeys:
    """The tokens of the negative prompts, and behind them those of the kept prompts.

    Arguments:
        key, value: Their keys and values, with shape (B, H, N + K, D).
        negatives: The number N of negative tokens, padding included.
        lengths: How many negative and how many kept tokens of each row are real, each with shape (B,); None means all.
        weights: The weight of each token, with shape (B, N + K), contiguous; None means 1.
    """

    key: Tensor
    value: Tensor
    negatives: int
    lengths: tuple[Tensor | None, Tensor | None] = (None, None)
    weights: Tensor | None = None


def takes(*states: Tensor, keys: int) -> bool:
    """Whether the kernels take queries, keys and values, the queries first, with so many keys; they have no derivative."""
    query = states[0]
    if query.device.type not in DEVICES or query.dtype not in DTYPES:
        return False
    if not 0 < keys <= MAX_KEYS or query.shape[-1] > MAX_HEAD_DIM:
        return False
    if torch.is_grad_enabled() and any(one.requires_grad for one in states):
        return False
    return _usable(query.device)


def guide_image(
    query: Tensor, base: Tensor, base_lse: Tensor, few: FewKeys, strengths: Strengths, out: Tensor, start: int, stop: int
) -> None:
    """Writes the outputs of rows into `out`, which may be `base`: those from `start` to `stop`, the image's, guided.

    Arguments:
        query, base, out: Queries, unguided outputs and outputs, with shape (B, H, rows, D).
        base_lse: The log-sum-exp of the unguided attention, with shape (B, H, rows).
        few: The negative and the kept prompts.
        strengths: Alpha, beta and the contrast.
    """
    from vsf_cli.attention.kernels import image_rows

    prompts = few.key, few.value, few.weights, *few.lengths
    image_rows.guide_image(query, base, base_lse, *prompts, *strengths, out, start, stop, few.negatives)


def attend_few_keys(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, few: FewKeys | None = None,
    strengths: Strengths | None = None,
) -> Tensor:  # fmt: skip
    """Returns attention to a few keys, guided if there are negative prompts, with shape (B, H, Q, D).

    Arguments:
        query: Queries, with shape (B, H, Q, D).
        key, value: The keys and values of the prompts, those of the positive one first, with shape (B, H, keys, D).
        bias: What is added to the logits of the positive prompt, with shape (B, P); None means 0.
        few: The negative and the kept prompts, whose keys are the last of `key`; None if there are none.
        strengths: Alpha, beta and the contrast; None if there are no negative prompts.
    """
    from vsf_cli.attention.kernels import few_keys

    if few is None or strengths is None:
        return few_keys.attend_few_keys(query, key, value, bias, *[None] * 6, key.shape[2], 0)
    positives = key.shape[2] - few.key.shape[2]
    prompts = few.weights, *few.lengths
    return few_keys.attend_few_keys(query, key, value, bias, *prompts, *strengths, positives, few.negatives)


def attend_text(query: Tensor, key: Tensor, value: Tensor, own: FewKeys, out: Tensor, backend: str | None = None) -> None:
    """Writes the attention of the prompts' own rows to the image and to their own prompt into `out`.

    Arguments:
        query, out: Queries and outputs of the negative and the kept prompts, with shape (B, H, N + K, D).
        key, value: The keys and values of the image, with shape (B, H, I, D).
        own: The keys and values of the prompts.
        backend: The attention backend of diffusers that the model uses; None means PyTorch's own.
    """
    from vsf_cli.attention.kernels import text_rows

    if query.dtype == torch.float32 and backend is None:
        image, lse = text_rows.attend_image_in_parts(query, key, value)
    else:
        # On an H200 flash took less time for these rows (docs/benchmark.md), but it does not take float32.
        image, lse = (one.unsqueeze(2) for one in attention_with_lse(query, key, value, backend))
    text_rows.join_text(query, own.key, own.value, *own.lengths, image, lse, out, own.negatives)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _usable(device: torch.device) -> bool:
    return unusable(device) is None


@lru_cache(maxsize=64)
def unusable(device: torch.device) -> str | None:
    """Returns why the kernels do not run on a device, in a few words; None if they do. They are tried once."""
    if device.type not in DEVICES:
        return "none, since they are for CUDA"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    if device.type == "meta":
        return None
    try:
        wrong = _try(device)
    except Exception as error:
        # A compiler fails with errors of many classes.
        if is_out_of_memory(error):
            raise
        wrong = str(error).strip().partition("\n")[0] or type(error).__name__
    if wrong is not None:
        LOG.info("fused kernels do not run on %s, and several calls take their place: %s", device, wrong)
    return wrong


@torch.no_grad()
def _try(device: torch.device) -> str | None:
    """Runs each kernel on small inputs, and compares it with plain products."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 24, 32, generator=generator).to(device)
    zero, one = torch.zeros((), device=device), torch.ones((), device=device)
    logits = (query.double() @ key.double().mT / 32**0.5).float()
    wanted = logits.softmax(-1) @ value
    image, text = slice(0, 16), slice(16, 24)
    # A negative prompt of strength -1 joins the prompt.
    base = logits[..., image].softmax(-1) @ value[:, :, image]
    few, strengths = FewKeys(key[:, :, text], value[:, :, text], 8), (-one, zero, zero)
    guided, own = torch.empty_like(wanted), torch.empty_like(wanted[:, :, text])
    guide_image(query, base, logits[..., image].logsumexp(-1), few, strengths, guided, 0, 24)
    attend_text(query[:, :, text], key[:, :, image], value[:, :, image], few, own)
    pairs = (guided, wanted), (own, wanted[:, :, text]), (attend_few_keys(query, key, value, None, few, strengths), wanted)
    return None if all(torch.allclose(*pair, atol=1e-3) for pair in pairs) else "they gave wrong results"
