"""VSF by fused kernels, which Triton's interpreter runs without a GPU, against the calls that they replace, in float64."""

import json
import subprocess
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contexts import attended, attended_groups, cross_context, joint_context
from vsf_cli.attention import fused
from vsf_cli.methods import VSF, Context, KeyValue, Method, NoGuidance, TextGroup

triton = pytest.importorskip("triton")

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
METHOD = VSF(1.7, 0.3, contrast=0.6)


@pytest.fixture(autouse=True)
def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "DEVICES", (DEVICE.type,))
    assert fused.unusable(DEVICE) is None, "now, and not when the calls are counted"


def drawn(*shape: int) -> Tensor:
    """Random numbers with heads behind tokens in memory, as diffusers has them."""
    batch, heads, tokens, dim = shape
    return torch.randn(batch, tokens, heads, dim, dtype=torch.float64, device=DEVICE).transpose(1, 2)


def group(tokens: int, dim: int, lengths: tuple[int, ...] | None = None, weighted: bool = False) -> TextGroup:
    weights = torch.linspace(0.5, 2, tokens, device=DEVICE).repeat(2, 1) if weighted else None
    real = None if lengths is None else torch.tensor(lengths, device=DEVICE)
    return TextGroup(drawn(2, 2, tokens, dim), drawn(2, 2, tokens, dim), real, weights)


def in_float32(context: Context) -> Context:
    def states(one: KeyValue) -> Any:
        return replace(one, key=one.key.float(), value=one.value.float())

    groups = tuple(map(states, context.groups))
    whole = None if context.whole is None else states(context.whole)
    grouped = None if context.grouped is None else states(context.grouped)
    mask = None if context.mask is None else context.mask.float()
    return replace(context, base=states(context.base), groups=groups, grouped=grouped, whole=whole, mask=mask)


def run(method: Method, query: Tensor, text: Tensor | None, context: Context) -> list[Tensor]:
    found = [attended(method, query, context)]
    return found if text is None else [*found, attended_groups(method, text, context)]


def check(query: Tensor, text: Tensor | None, context: Context, *kernels: str, method: Method = METHOD) -> None:
    """Compares the kernels' outputs with those of the other paths in float64, and says which kernels have to run."""
    wanted, calls = run(method, query, text, context), []

    def counting(name: str) -> Any:
        kernel = getattr(fused, name)

        def call(*arguments: Any) -> Any:
            calls.append(name)
            return kernel(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("guide_image", "attend_text", "attend_few_keys"):
            patch.setattr(fused, name, counting(name))
        found = run(method, query.float(), None if text is None else text.float(), in_float32(context))
    assert calls == list(kernels)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("dim", "negatives", "kept"),
    [
        pytest.param(40, group(17, 40, (5, 17), weighted=True), group(5, 40, (5, 0)), id="every argument"),
        pytest.param(256, group(1, 256), None, id="the least keys, the largest heads"),
        pytest.param(32, group(128, 32), None, id="the most keys, the smallest heads"),
        pytest.param(96, group(3, 96), group(20, 96, weighted=True), id="kept prompts"),
    ],
)
def test_joint_attention(dim: int, negatives: TextGroup, kept: TextGroup | None) -> None:
    groups = (negatives,) if kept is None else (negatives, kept)
    tokens = sum(one.key.shape[2] for one in groups)
    context = joint_context(KeyValue(drawn(2, 2, 50, dim), drawn(2, 2, 50, dim)), 37, *groups)
    check(drawn(2, 2, 50, dim), drawn(2, 2, tokens, dim), context, "guide_image", "attend_text")


@pytest.mark.parametrize(("positives", "kernel"), [(20, "attend_few_keys"), (140, "guide_image")])
@pytest.mark.parametrize("kept", [(), (group(4, 64, (2, 4)),)], ids=["alone", "kept prompts"])
def test_cross_attention(positives: int, kernel: str, kept: tuple[TextGroup, ...]) -> None:
    text = KeyValue(drawn(2, 2, positives, 64), drawn(2, 2, positives, 64))
    check(drawn(2, 2, 70, 64), None, cross_context(text, group(9, 64, (0, 9), weighted=True), *kept), kernel)


@pytest.mark.parametrize("method", [METHOD, NoGuidance()], ids=str)
def test_folded_padding_is_a_bias_of_its_key(method: Method) -> None:
    context = cross_context(KeyValue(drawn(2, 2, 12, 64), drawn(2, 2, 12, 64)), group(5, 64))
    bias = torch.zeros(1, 1, 1, 12, dtype=torch.float64, device=DEVICE)
    bias[..., -1] = 5.0
    check(drawn(2, 2, 70, 64), None, replace(context, mask=bias), "attend_few_keys", method=method)


def test_a_mask_of_the_models_own_is_for_other_paths() -> None:
    seen = torch.rand(2, 1, 70, 12, device=DEVICE) > 0.3
    seen[..., 0] = True
    context = cross_context(KeyValue(drawn(2, 2, 12, 64), drawn(2, 2, 12, 64)), group(5, 64))
    query = drawn(2, 2, 70, 64).float()
    context = in_float32(replace(context, mask=torch.zeros(seen.shape, device=DEVICE).masked_fill(~seen, -torch.inf)))
    assert context.key_bias is None
    whole = attended(METHOD, query, context)
    assert torch.equal(whole, attended(METHOD, query, replace(context, grouped=None, whole=None)))


def test_what_they_do_not_take() -> None:
    query = torch.zeros(1, 1, 8, 64, device=DEVICE)
    assert fused.takes(query, keys=128)
    assert not fused.takes(query, keys=129) and not fused.takes(query, keys=0)
    assert not fused.takes(query.double(), keys=8) and not fused.takes(query.repeat(1, 1, 1, 5), keys=8)
    learned = query.clone().requires_grad_()
    assert not fused.takes(query, learned, keys=8), "they have no derivative"
    with torch.no_grad():
        assert fused.takes(query, learned, keys=8)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("Failed to find C compiler.\nPlease specify one"), "Failed to find C compiler."),
        (subprocess.CalledProcessError(1, "gcc"), "Command 'gcc' returned non-zero exit status 1."),
        (None, "they gave wrong results"),
    ],
)
def test_where_they_fail_others_run_and_it_is_said_why(
    failure: Exception | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*arguments: Any) -> Tensor:
        calls.append(1)
        if failure is not None:
            raise failure
        return torch.zeros_like(arguments[0])

    monkeypatch.setattr(fused, "attend_few_keys", broken)
    fused.unusable.cache_clear()
    query = torch.zeros(1, 1, 8, 64, device=DEVICE)
    for _ in range(2):
        assert not fused.takes(query, keys=8)
    assert fused.unusable(DEVICE) == reason and len(calls) == 1, "they are tried once"
    fused.unusable.cache_clear()


def test_they_are_tried_before_they_are_used() -> None:
    fused.unusable.cache_clear()
    assert fused.unusable(DEVICE) is None
    assert fused.unusable(torch.device("mps")) == "none, since they are for CUDA"


def test_memory_that_does_not_suffice_is_no_failure_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused, "attend_few_keys", full)
    fused.unusable.cache_clear()
    with pytest.raises(torch.OutOfMemoryError):
        fused.unusable(DEVICE)
    fused.unusable.cache_clear()


COMPILED = """
import json, torch
from torch._dynamo.backends.common import aot_autograd
from tests.attention.test_fused import METHOD, KeyValue, drawn, fused, group, in_float32, joint_context, run

class Traced(Exception): pass
kernels = []
def note(graph, inputs):
    kernels.append(sorted(str(node.target) for node in graph.graph.nodes if "triton_kernel" in str(node.target)))
    raise Traced
fused.DEVICES = ("cpu",)
fused._usable = lambda device: True
context = in_float32(joint_context(KeyValue(drawn(2, 2, 50, 64), drawn(2, 2, 50, 64)), 37, group(7, 64)))
def step(query, text):
    return run(METHOD.on(query.device), query, text, context)
compiled = torch.compile(step, backend=aot_autograd(fw_compiler=note), fullgraph=True)
try:
    with torch.no_grad(): compiled(drawn(2, 2, 50, 64).float(), drawn(2, 2, 7, 64).float())
except Exception as error: assert "Traced" in repr(error), error
print(json.dumps(kernels))
"""


def test_the_compiler_sees_the_kernels_in_one_graph() -> None:
    """In another process: Triton's interpreter, which is chosen when it is imported, has no kernels for the compiler."""
    from tests.processes import run_python

    kernels = json.loads(run_python("-c", COMPILED, TRITON_INTERPRET="0").stdout.splitlines()[-1])
    assert len(kernels) == 1 and len(kernels[0]) == 3, "one graph, with the image's rows, and the text's in two launches"
