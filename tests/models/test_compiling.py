"""Compiled blocks: as exact as others, and compiled no more often than they need to be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.conftest import random_pipeline
from tests.contexts import attended, joint_context
from tests.models.test_wan import random_wan
from tests.models.test_wan import run as run_wan
from vsf_cli.errors import RequestError
from vsf_cli.generation.guided import guided
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.runtime import Runtime
from vsf_cli.methods import VSF, Angular, KeyValue, Method, TextGroup
from vsf_cli.models.compile import compile_blocks, compiled_blocks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def afresh() -> None:
    torch._dynamo.reset()


@pytest.fixture(params=["sd3", "wan"])
def making(request: pytest.FixtureRequest, generate: Any) -> tuple[Any, Callable[..., torch.Tensor]]:
    pipe, run = (random_pipeline("sd3"), generate) if request.param == "sd3" else (random_wan(), run_wan)

    def make(negative: str, method: VSF) -> torch.Tensor:
        with guided(pipe, negative, method):
            return run(pipe)

    return pipe, make


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_steps_of_a_slope_or_a_window_share_what_is_compiled(making: tuple[Any, Any]) -> None:
    pipe, make = making
    method = VSF(3.0, 0.3, slope=0.5)
    wanted = make("wheels", method)
    compile_blocks(pipe.transformer, CPU, "eager")
    torch.testing.assert_close(make("wheels", method), wanted, atol=1e-9, rtol=0)
    before = graphs()
    make("wheels", VSF(1.0, 0.3, slope=0.5))
    assert graphs() == before


def test_a_loaded_model_is_compiled_when_it_is_asked_for() -> None:
    assert compiled_blocks(load("builtin:tiny-sd3-turbo", "float32")) == 0
    assert compiled_blocks(load("builtin:tiny-sd3-turbo", "float32", runtime=Runtime(compile=True))) == 6


@pytest.mark.parametrize("method", [VSF(2.0, 0.3, blend=0.5, orthogonal=True), Angular(2.0)], ids=str)
def test_a_method_is_one_graph_where_the_model_has_a_mask(method: Method) -> None:
    chance = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=chance) for _ in range(3))
    negative = TextGroup(key[:, :, :2].flip(3), value[:, :, :2].flip(3))
    context = replace(joint_context(KeyValue(key, value), 5, negative), mask=torch.rand(1, 1, 9, 9, generator=chance) > 0.2)

    def attend(query: torch.Tensor) -> torch.Tensor:
        return attended(method.on(CPU), query, context)

    found = torch.compile(attend, backend="eager", fullgraph=True)(query)
    torch.testing.assert_close(found, attend(query), atol=1e-12, rtol=0)


def test_a_missing_compiler_is_said_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(RequestError, match="needs a C\\+\\+ compiler"):
        compile_blocks(random_pipeline("sd3").transformer, CPU)
