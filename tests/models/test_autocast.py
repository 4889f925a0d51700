"""Autocast, under which the tensors of one attention have several dtypes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.families import NEGATIVES, TINY
from tests.models.test_families import output
from vsf_cli.generation.guided import guided
from vsf_cli.methods import NAG, NASA, VSF, Angular
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded


def cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: cast(one, dtype) for name, one in value.items()}
    return [cast(one, dtype) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("sd3.5-medium", dtype) for dtype in (torch.float32, torch.float64)),
        *((name, torch.float32) for name in ("wan", "flux", "z-image", "chroma-masked", "sana", "ltx2")),
    ],
)
@torch.no_grad()
def test_a_guided_model_runs_where_the_stock_one_does(name: str, dtype: torch.dtype) -> None:
    """Weights of float32 with norms of queries and keys, and of float64, which autocast leaves alone."""
    tiny = TINY[name]
    model, call = tiny.model().to(dtype), cast(tiny.call(2), dtype)
    rows = [Encoded.stack([tiny.text(length).to(dtype) for length in (2, NEGATIVES)])]
    with torch.autocast("cpu", torch.bfloat16):
        stock = output(model, call)
    for method in (VSF(2.0, 0.3), NAG(), NASA(), Angular()):
        with guided_denoisers(tiny.family, [model], method, rows):
            wanted = output(model, call)
            with torch.autocast("cpu", torch.bfloat16):
                found = output(model, call)
        assert found.dtype == stock.dtype
        assert (found.double() - wanted.double()).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("name", ["sd3.5-medium", "wan", "flux", "z-image", "qwen-image"])
@pytest.mark.parametrize("order", [(False, True), (True, False)], ids=str)
@torch.no_grad()
def test_a_call_with_autocast_is_not_that_of_a_call_without(name: str, order: tuple[bool, bool]) -> None:
    tiny = TINY[name]
    model, call = tiny.model().to(torch.float32), cast(tiny.call(), torch.float32)
    encoded = [Encoded(cast(tiny.text(1, NEGATIVES), torch.float32), (NEGATIVES,))]

    def run(enabled: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            return output(model, call)

    # bfloat16 has no such number.
    method, wanted = VSF(2.3, 0.3), list[Tensor]()
    for enabled in order:
        with guided_denoisers(tiny.family, [model], method, encoded):
            wanted.append(run(enabled))
    with guided_denoisers(tiny.family, [model], method, encoded):
        assert all(torch.equal(run(enabled), one) for enabled, one in zip(order, wanted, strict=True))


def test_a_guided_model_is_trained_under_autocast() -> None:
    tiny = TINY["sd3.5-medium"]
    model, call = tiny.model().float().requires_grad_(True), cast(tiny.call(), torch.float32)
    negative, found = tiny.text(1, NEGATIVES).float(), list[list[Tensor]]()
    model.enable_gradient_checkpointing()
    for enabled in (False, True):
        with guided(model, method=VSF(2.0, 0.3), negative_prompt_embeds=negative):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                value = output(model, call)
            value.float().square().sum().backward()
        found.append([one.grad.clone() for one in model.parameters() if one.grad is not None and one.grad.norm() > 1e-3])
        model.zero_grad()
    for one, other in zip(*found, strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
