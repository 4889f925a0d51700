"""What people do to a model inside the `with`, or hold of it: it acts, or it is refused, and nothing of guidance stays."""

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from peft import LoraConfig
from torch import Tensor

from tests.conftest import random_pipeline
from tests.models.families import NEGATIVES, TINY
from tests.models.test_families import output
from tests.models.test_pipelines import call as run
from vsf_cli import VSF, guided
from vsf_cli.errors import PatchError
from vsf_cli.methods import NAG, Method
from vsf_cli.models.interpose import is_twin

SIZE = {"width": 16, "height": 16}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def model() -> Any:
    return TINY["flux"].model()


NEGATIVE, CALL = TINY["flux"].text(1, NEGATIVES), TINY["flux"].call()


def guided_output(model: Any, method: Method | None = None) -> Tensor:
    with guided(model, method=method, negative_prompt_embeds=NEGATIVE):
        return output(model, CALL)


def test_processors_that_are_set_inside_stay(model: Any) -> None:
    own = FluxAttnProcessor()
    with pytest.raises(PatchError, match="processors were set inside"), guided(model, negative_prompt_embeds=NEGATIVE):
        model.set_attn_processor(own)
        output(model, CALL)
    assert all(processor is own for processor in model.attn_processors.values())
    with guided(model, negative_prompt_embeds=NEGATIVE):
        model.set_attn_processor(own)
    assert all(processor is own for processor in model.attn_processors.values())


@pytest.mark.parametrize("path", ["transformer_blocks", "single_transformer_blocks.1", "transformer_blocks.0.attn"])
def test_modules_that_are_replaced_inside_are_refused(model: Any, path: str) -> None:
    owner, _, name = path.rpartition(".")
    with pytest.raises(PatchError, match=rf"{path}.* was replaced inside"), guided(model, negative_prompt_embeds=NEGATIVE):
        setattr(model.get_submodule(owner), name, copy.deepcopy(model.get_submodule(path)))
        output(model, CALL)
    with pytest.raises(PatchError, match="was replaced inside"), guided(model, negative_prompt_embeds=NEGATIVE):
        del model.transformer_blocks[-1]
        output(model, CALL)


def test_a_block_that_is_moved_into_another_list_stays_guided(model: Any) -> None:
    with guided(model, negative_prompt_embeds=NEGATIVE):
        before = output(model, CALL)
        model.transformer_blocks = torch.nn.ModuleList(list(model.transformer_blocks))
        assert torch.equal(output(model, CALL), before)


def test_what_is_made_in_inference_mode_does_not_outlive_it(model: Any) -> None:
    text = CALL["encoder_hidden_states"].clone().requires_grad_()
    with guided(model, negative_prompt_embeds=NEGATIVE):
        with torch.inference_mode():
            output(model, CALL)
        with torch.enable_grad():
            model(**{**CALL, "encoder_hidden_states": text}, return_dict=False)[0].sum().backward()
    assert text.grad is not None and text.grad.abs().sum() > 0


def test_processors_that_were_kept_inside_are_stock_ones_afterwards(model: Any) -> None:
    stock = output(model, CALL)
    with guided(model, negative_prompt_embeds=NEGATIVE):
        kept = model.attn_processors
        assert all(map(is_twin, kept.values()))
    model.set_attn_processor(kept)
    assert not any(map(is_twin, kept.values())) and torch.equal(output(model, CALL), stock)
    assert not torch.equal(guided_output(model), stock)


def test_projections_are_fused_and_split_inside(model: Any) -> None:
    stock, wanted = output(model, CALL), guided_output(model)
    for change, fused in ((model.fuse_qkv_projections, True), (model.unfuse_qkv_projections, False)):
        with guided(model, negative_prompt_embeds=NEGATIVE):
            change()
            torch.testing.assert_close(output(model, CALL), wanted, atol=1e-11, rtol=0)
        assert model.transformer_blocks[0].attn.fused_projections is fused
        torch.testing.assert_close(output(model, CALL), stock, atol=1e-11, rtol=0)


def test_a_backend_that_is_set_inside_is_used_and_stays(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is set for all models of the process, too.
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    with guided(model, negative_prompt_embeds=NEGATIVE):
        wanted = output(model, CALL)
        model.set_attention_backend("_native_math")
        assert torch.equal(output(model, CALL), wanted)
    assert {processor._attention_backend for processor in model.attn_processors.values()} == {"_native_math"}


@pytest.mark.parametrize("name", ["flux", "qwen-image", "z-image"])
def test_pickled_copies_are_unguided(name: str) -> None:
    tiny = TINY[name]
    model, call = tiny.model(), tiny.call()
    stock = output(model, call)
    with guided(model, negative_prompt_embeds=tiny.text(1, NEGATIVES)):
        copies = pickle.loads(pickle.dumps(model)), copy.deepcopy(model)
    for other in copies:
        assert torch.equal(output(other, call), stock)
        assert not any(is_twin(getattr(module, "processor", None)) for module in other.modules())
        with guided(other, negative_prompt_embeds=tiny.text(1, NEGATIVES)):
            assert not torch.equal(output(other, call), stock)
    assert torch.equal(output(model, call), stock)


def test_a_copy_of_a_pipeline_is_unguided_inside_and_afterwards() -> None:
    pipe = random_pipeline("sd3", torch.float32)
    stock = run(pipe, **SIZE)
    with guided(pipe, "wheels"):
        other = copy.deepcopy(pipe)
        other.set_progress_bar_config(disable=True)
        assert torch.equal(run(other, **SIZE), stock) and not torch.equal(run(pipe, **SIZE), stock)
    assert torch.equal(run(other, **SIZE), stock)


def test_a_model_that_is_put_in_place_of_the_guided_one_is_refused() -> None:
    pipe = random_pipeline("sd3", torch.float32)
    with pytest.raises(PatchError, match="another model inside"), guided(pipe, "wheels"):
        pipe.transformer = copy.deepcopy(pipe.transformer)
        run(pipe, **SIZE)


def test_a_model_that_is_compiled_as_a_whole_is_guided_alike(model: Any) -> None:
    stock, wanted, compiled = output(model, CALL), guided_output(model), torch.compile(model, backend="eager")
    # What is tested is where hooks are, and not the compiler.
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(guided_output(compiled), wanted) and torch.equal(output(compiled, CALL), stock)
        with guided(model, negative_prompt_embeds=NEGATIVE):
            assert torch.equal(output(compiled, CALL), wanted)


@pytest.mark.parametrize("name", ["qwen-image", "z-image", "wan"])
def test_offloading_that_begins_inside_is_guided_alike_and_stays(name: str) -> None:
    tiny = TINY[name]
    model, call = tiny.model(), tiny.call()
    stock = output(model, call)
    with guided(model, negative_prompt_embeds=tiny.text(1, NEGATIVES)):
        wanted = output(model, call)
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert torch.equal(output(model, call), wanted)
    assert torch.equal(output(model, call), stock)
    remove_hook_from_module(model, recurse=True)
    assert torch.equal(output(model, call), stock)


def test_nothing_of_an_earlier_call_acts_in_a_later_one(model: Any) -> None:
    """Adapters, their scale, and the numbers of embeddings act at once."""
    embeds = NEGATIVE.clone()
    with guided(model, negative_prompt_embeds=embeds):
        wanted = output(model, CALL)
        torch.manual_seed(1)
        model.add_adapter(LoraConfig(r=2, target_modules=["to_k", "add_v_proj"], init_lora_weights=False), "x")
        model.to(torch.float64)
        adapted = output(model, CALL)
        model.set_adapters(["x"], [0.0])
        assert torch.equal(output(model, CALL), wanted) and not torch.equal(adapted, wanted)
        model.set_adapters(["x"], [1.0])
        assert torch.equal(output(model, CALL), adapted)
        assert torch.equal(output(model, {**CALL, "joint_attention_kwargs": {"scale": 0.0}}), wanted)
        model.delete_adapters("x")
        assert torch.equal(output(model, CALL), wanted)
        embeds.mul_(0.5)
        halved = output(model, CALL)
        with torch.enable_grad():
            assert model.requires_grad_(True) and output(model, CALL).requires_grad
    assert not torch.equal(halved, wanted)
    with guided(model, negative_prompt_embeds=NEGATIVE / 2):
        assert torch.equal(output(model, CALL), halved)


def test_a_call_beside_another_one_is_refused() -> None:
    tiny = TINY["wan"]
    model, call, found = tiny.model(), tiny.call(), list[Any]()

    def beside(*_: Any) -> None:
        def work() -> None:
            with pytest.raises(PatchError, match="in one thread while a call in another one runs"):
                output(model, call)
            found.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    with guided(model, negative_prompt_embeds=tiny.text(1, NEGATIVES)):
        wanted = output(model, call)
        handle = model.blocks[1].register_forward_pre_hook(beside)
        assert torch.equal(output(model, call), wanted) and found == [True]
        handle.remove()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_call_after_one_that_ended_with_an_error_is_guided(model: Any, error: type[BaseException]) -> None:
    wanted = guided_output(model, NAG())

    def fail(*_: Any) -> None:
        raise error

    with guided(model, method=NAG(), negative_prompt_embeds=NEGATIVE):
        handle = model.transformer_blocks[1].register_forward_pre_hook(fail)
        with pytest.raises(error):
            output(model, CALL)
        handle.remove()
        assert torch.equal(output(model, CALL), wanted)


def test_a_with_that_ends_late_guides_until_then(model: Any) -> None:
    def steps() -> Iterator[Tensor]:
        with guided(model, method=VSF(2.0), negative_prompt_embeds=NEGATIVE):
            while True:
                yield output(model, CALL)

    stock, running = output(model, CALL), steps()
    first = next(running)
    with pytest.raises(PatchError, match="guided already"), guided(model, negative_prompt_embeds=NEGATIVE):
        pass
    assert torch.equal(next(running), first)
    running.close()
    assert torch.equal(output(model, CALL), stock)


def test_code_that_was_changed_between_two_uses_is_the_code_that_runs(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    guided_output(model)
    calls = list[int]()
    stock = FluxAttnProcessor.__call__.__globals__["_get_qkv_projections"]
    monkeypatch.setitem(
        FluxAttnProcessor.__call__.__globals__, "_get_qkv_projections", lambda *all: calls.append(1) or stock(*all)
    )
    guided_output(model)
    assert len(calls) == TINY["flux"].attentions
