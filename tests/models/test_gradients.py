"""Gradients through guided models: exact, checkpointed ones too, or refused."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.models.families import NEGATIVES, TINY, Tiny, at_step
from tests.models.test_families import dense_output, exact, output
from vsf_cli.errors import PatchError
from vsf_cli.generation.guided import guided
from vsf_cli.methods import NAG, NASA, VSF, WEF, Angular, Method
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded

FAMILIES = [
    *("sd3.5-medium", "wan", "flux", "flux2", "chroma-masked", "z-image", "ernie-image"),
    *("qwen-image-masked", "krea2", "sana", "ltx2", "sdxl"),
]
REENTRANT = partial(checkpoint, use_reentrant=True)
Checkpoint = Callable[..., Any]


@pytest.fixture(autouse=True)
def exactly() -> Iterator[None]:
    with exact():
        yield


def trained(tiny: Tiny) -> Any:
    return tiny.model().requires_grad_(True)


def gradients(value: Tensor, model: Any, *inputs: Tensor) -> list[Tensor]:
    given = [*model.parameters(), *inputs]
    for one in given:
        one.grad = None
    value.square().sum().backward()
    return [torch.zeros_like(one) if one.grad is None else one.grad for one in given]


def assert_alike(found: list[Tensor], wanted: list[Tensor]) -> None:
    """Within 1e-9 of the largest gradient of each tensor."""
    assert any(one.abs().max() > 1e-3 for one in wanted if one.numel())
    for one, other in zip(found, wanted, strict=True):
        if other.numel():
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * max(1e-3, float(other.abs().max())))


def check(tiny: Tiny, method: Method, lengths: tuple[int, ...], kept: tuple[int, ...] = ()) -> None:
    """Gradients of all weights, and of the negative and the kept embeddings."""
    rows = [tiny.text(length).requires_grad_() for length in lengths]
    spared = [(tiny.text(length) + 1).requires_grad_() for length in kept]
    model, groups = trained(tiny), [Encoded.stack(group) for group in (rows, spared) if group]
    with guided_denoisers(tiny.family, [model], method, groups):
        found = gradients(output(model, tiny.call(len(rows))), model, *rows, *spared)
    dense = trained(tiny)
    value = dense_output(tiny, method, rows, len(rows), spared or None, model=dense)
    assert_alike(found, gradients(value, dense, *rows, *spared))


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_those_of_dense_attention(name: str) -> None:
    """A row has no negative prompt, another one nothing that is kept."""
    check(TINY[name], VSF(2.0, 0.3), (2, 0, NEGATIVES), (0, 2, 1))


OTHERS: list[Method] = [
    VSF(3.0, -0.5),
    VSF(2.0, 0.3, orthogonal=True),
    NAG(4.0, 1.1, 0.7),
    NASA(0.3),
    Angular(2.0, 0.3),
]


@pytest.mark.parametrize("name", ["sd3.5-medium", "wan"])
@pytest.mark.parametrize("method", OTHERS, ids=str)
def test_those_of_other_methods_are_exact_too(name: str, method: Method) -> None:
    check(TINY[name], method, (NEGATIVES,))
    check(TINY[name], method, (0, 1))


def test_those_of_a_flipped_embedding_are_minus_alpha_times_those_of_a_prompt() -> None:
    tiny, model = TINY["sd3"], trained(TINY["sd3"])
    negative, call = tiny.text(1, NEGATIVES).requires_grad_(), tiny.call()
    with guided(model, method=WEF(2.0), negative_prompt_embeds=negative):
        found = gradients(output(model, call), model, negative)
    flipped = (-2 * negative).detach().requires_grad_()
    longer = {**call, "encoder_hidden_states": torch.cat([call["encoder_hidden_states"], flipped], 1)}
    wanted = gradients(output(model, longer), model, flipped)
    assert_alike(found, [*wanted[:-1], -2 * wanted[-1]])


def run_steps(model: Any, tiny: Tiny, behind: bool, negative: Tensor) -> list[Tensor]:
    """Gradients of two steps, of which the first is guided, by a slope, and the second is not."""
    pipe, values = at_step(1), []
    encoded = [Encoded(negative, (NEGATIVES,))]
    with guided_denoisers(tiny.family, [model], VSF(3.0, 0.3, stop=0.5, slope=0.5), encoded, pipe):
        for step in (1, 2):
            pipe.scheduler.step_index = step
            values.append(output(model, tiny.call()))
        if not behind:
            return gradients(torch.cat(values), model, negative)
    # What is computed again is guided as it was, whatever guides the model now.
    with guided_denoisers(tiny.family, [model], NASA(), [Encoded(negative + 1, (NEGATIVES,))]):
        return gradients(torch.cat(values), model, negative)


@pytest.mark.parametrize(
    ("name", "function", "behind"),
    [
        ("sd3.5-medium", None, False),
        ("sd3.5-medium", REENTRANT, False),
        ("sd3.5-medium", REENTRANT, True),
        ("wan", None, True),
        ("krea2", None, True),
        ("sdxl", None, True),
    ],
)
def test_checkpointed_blocks_are_guided_alike_when_they_run_again(name: str, function: Checkpoint | None, behind: bool) -> None:
    tiny = TINY[name]
    model, negative = trained(tiny), tiny.text(1, NEGATIVES).requires_grad_()
    wanted = run_steps(model, tiny, False, negative)
    model.enable_gradient_checkpointing(function)
    own = model.transformer_blocks[0] if hasattr(model, "transformer_blocks") else model
    before = getattr(own, "_gradient_checkpointing_func", None)
    assert_alike(run_steps(model, tiny, behind, negative), wanted)
    assert getattr(own, "_gradient_checkpointing_func", None) is before


def test_checkpointing_may_begin_inside() -> None:
    tiny, model = TINY["wan"], trained(TINY["wan"])
    negative, call = tiny.text(1, NEGATIVES).requires_grad_(), tiny.call()
    with guided(model, negative_prompt_embeds=negative):
        wanted = gradients(output(model, call), model, negative)
        model.enable_gradient_checkpointing()
        assert_alike(gradients(output(model, call), model, negative), wanted)
    assert model.is_gradient_checkpointing


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("step", [0, 3])
def test_other_checkpoints_are_refused_before_the_work(whole: bool, reentrant: bool, step: int) -> None:
    """Behind the `with`, what they run again would not be guided; of an unguided step it would fail."""
    tiny, model = TINY["sd3"], trained(TINY["sd3"])
    call, states = tiny.call(), tiny.call()["hidden_states"].requires_grad_()
    if not whole:
        block = model.transformer_blocks[1]
        stock = block.forward
        block.forward = lambda hidden_states, **options: checkpoint(
            lambda states: stock(hidden_states=states, **options), hidden_states, use_reentrant=reentrant
        )

    def run(hidden_states: Tensor) -> Tensor:
        return output(model, {**call, "hidden_states": hidden_states})

    refused = pytest.raises(PatchError, match=r"call the model's own enable_gradient_checkpointing\(\) in its place")
    encoded = [Encoded(tiny.text(1, NEGATIVES), (NEGATIVES,))]
    with refused, guided_denoisers(tiny.family, [model], VSF(2.0, 0.3, stop=0.5), encoded, at_step(step)):
        checkpoint(run, states, use_reentrant=reentrant) if whole else run(states)
