import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tests.contexts import attended, cross_context, joint_context
from tests.processes import run_python
from vsf_cli.errors import RequestError
from vsf_cli.generation.plan import request_of
from vsf_cli.methods import METHODS, VARIANTS, VSF, KeyValue, TextGroup, method_named, setting_name
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.presets import Settings, load_preset


@pytest.mark.parametrize(
    "alpha, beta", [(float("nan"), 0.0), (-1.0, 0.0), (float("inf"), 0.0), (1.0, float("nan")), (1.0, float("-inf"))]
)
def test_numbers_that_are_not_legal_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(RequestError):
        VSF(alpha, beta)


def test_an_infinite_beta_is_legal() -> None:
    assert VSF(3.0, float("inf")).beta == float("inf")


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_is_frozen_and_says_its_numbers(name: str) -> None:
    method = method_named(name)
    assert method.name == name and str(method).startswith(method.label)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        method.alpha = 1.0  # type: ignore[attr-defined]


def test_what_is_on_as_usual_is_not_told() -> None:
    assert str(VSF(3.0, 0.3)) == "VSF alpha=3 beta=0.3"
    assert str(VSF(3.0, 0.3, special_tokens=False)) == "VSF alpha=3 beta=0.3 special_tokens=no"
    assert str(VSF(3.0, 0.3, stop=0.5)) == "VSF alpha=3 beta=0.3 stop=0.5"


def test_unknown_methods_and_numbers_are_refused_by_name() -> None:
    with pytest.raises(RequestError, match="'nope', but must be one of none, vsf"):
        method_named("nope")
    with pytest.raises(RequestError, match=r"has no 'gamma'\. Its numbers: alpha, beta"):
        method_named("vsf", {"gamma": 1.0})


def test_the_table_of_methods_is_read_without_torch() -> None:
    code = "import sys, vsf_cli.methods; sys.exit('torch' in sys.modules)"
    assert run_python("-c", code).returncode == 0


def test_a_context_splits_without_copies() -> None:
    import torch

    tokens = KeyValue(torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 4))
    context = joint_context(tokens, 5, TextGroup(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)))
    assert context.image_tokens.key.shape[2] == 5 and context.base.part(context.positive).key.shape[2] == 2
    assert context.image_tokens.key.data_ptr() == tokens.key.data_ptr()


def test_cross_attention_equals_the_equation_of_the_paper() -> None:
    import torch

    torch.manual_seed(0)
    query = torch.randn(2, 3, 11, 8, dtype=torch.float64)
    positive, negative = (KeyValue(*torch.randn(2, 2, 3, length, 8, dtype=torch.float64)) for length in (9, 4))
    found = attended(VSF(1.7, 0.2), query, cross_context(positive, TextGroup(negative.key, negative.value)))

    logits = query @ torch.cat([positive.key, negative.key], dim=2).transpose(-1, -2) / 8**0.5
    logits[..., 9:] -= 0.2
    wanted = logits.softmax(-1) @ torch.cat([positive.value, -1.7 * negative.value], dim=2)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_named_settings_stand_between_the_preset_and_what_is_asked(name: str) -> None:
    method, numbers = VARIANTS[name]
    preset = load_preset("tiny-sd3-turbo").method if method == "vsf" else {}

    def parameters(options: dict[str, float], environment: dict[str, str]) -> Mapping[str, Any]:
        settings = Settings({"preset": "tiny-sd3-turbo", "method": name, **options}, environment)
        request, _ = request_of(Texts("a bike", ("wheels",)), 0, settings, (), False)
        assert request.method == method
        return request.parameters

    defaults = {**METHODS[method]().parameters, **preset, **numbers}
    defaults.pop("name", None)
    assert parameters({}, {}) == defaults
    for field in numbers:
        key = setting_name(method, field)
        assert parameters({key: 0.75}, {}) == {**defaults, field: 0.75}
        assert parameters({}, {f"VSF_{key.upper()}": "0.75"})[field] == 0.75


def test_the_papers_two_settings_are_as_strong_as_in_its_codes_layout() -> None:
    """There the flip first cancels an unflipped copy of the negative prompt, which has no bias."""
    for name, alpha, beta in (("vsf-strong", 3.8, 0.2), ("vsf-quality", 3.3, 0.2)):
        ours = VSF(**VARIANTS[name][1])
        assert ours.alpha * math.exp(-ours.beta) == pytest.approx(alpha * math.exp(-beta) - 1, rel=1e-3)
