"""Compiled blocks: as exact as others, and compiled no more often than they need to be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.conftest import random_pipeline
from tests.models.test_wan import random_wan
from tests.models.test_wan import run as run_wan
from vsf_cli.errors import RequestError
from vsf_cli.generation.guided import guided
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.runtime import Runtime
from vsf_cli.methods import VSF
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


def test_another_strength_is_not_compiled_anew_and_another_length_once(making: tuple[Any, Any]) -> None:
    pipe, make = making
    methods = [VSF(3.0, 0.3), VSF(1.0, 0.3), VSF(1.0, -0.5), VSF(0.0, torch.inf)]
    negatives = ["a hat with glasses", "a hat", "a red hat with blue wheels"]
    cases = [("wheels", method) for method in methods] + [(negative, methods[0]) for negative in negatives]
    wanted = [make(*case) for case in cases]
    compile_blocks(pipe.transformer, CPU, "eager")
    before, counts = graphs(), []
    for case, output in zip(cases, wanted, strict=True):
        torch.testing.assert_close(make(*case), output, atol=1e-9, rtol=0)
        counts.append(graphs() - before)

    strengths, lengths = counts[:4], counts[4:]
    # Blocks are alike but for the last one of joint attention, which makes no text.
    first = 2 if pipe.transformer.config.get("joint_attention_dim") else 1
    assert strengths == [first] * 4
    # Once for each kind of block; to the compiler the first one, whose text is a view, is of another kind.
    assert first < lengths[0] <= 2 * first + 1
    assert lengths == [lengths[0]] * 3


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


def test_a_missing_compiler_is_said_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def missing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(RequestError, match="needs a C\\+\\+ compiler"):
        compile_blocks(random_pipeline("sd3").transformer, CPU)
