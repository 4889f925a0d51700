"""Every family by every method against dense attention, over whole denoisers. A new family is tested by being listed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.normalization import RMSNorm
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters
from torch.nn.utils.rnn import pad_sequence

from tests.models.dense import Dense, dense_attention
from tests.models.families import NEGATIVES, TEXT, TINY, Tiny, at_step, drawn, ltx2_streams
from vsf_cli.attention import lanes
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.generation.guided import guided
from vsf_cli.methods import NAG, NASA, ONG, VSF, WEF, Angular, Context, Method, WholeAttention, tokens, vsf
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded

METHODS: list[Method] = [VSF(3.0, 0.3), VSF(1.5, -0.5), VSF(0.0, 0.0), NAG(4.0, 1.1, 0.7), NASA(0.3)]
RIVALS: list[Method] = [VSF(2.0, 0.3, orthogonal=True), ONG(1.5), Angular(2.0, 0.3)]
"""They are compared in batches of every family, and one by one in a family of each kind."""


@pytest.fixture(params=list(TINY))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


@pytest.fixture
def negative(tiny: Tiny) -> Tensor:
    return tiny.text(1, NEGATIVES)


def output(model: Any, call: dict[str, Any]) -> Tensor:
    result: Any = model(**call, return_dict=False)
    if len(result) == 2:
        # The video, and its sound.
        return torch.cat([part.flatten(1) for part in result], 1)
    return torch.stack(result[0]) if isinstance(result[0], list) else result[0]


def dense_output(
    tiny: Tiny,
    method: Method,
    rows: list[Tensor],
    batch: int = 1,
    kept: list[Tensor] | None = None,
    kept_weights: list[Tensor] | None = None,
    references: int = 0,
    model: Any = None,
) -> Tensor:
    """The model with the negative and the kept prompts beside its text, and dense attention."""
    call, groups = tiny.call(batch), [rows] if kept is None else [rows, kept]
    model, counts = model or tiny.model(), [*(max(map(len, group)) for group in groups), TEXT]
    if tiny.join:
        tiny.join(model, call, groups)
    else:
        text = call["encoder_hidden_states"]
        padded = torch.cat([pad_sequence(group, batch_first=True) for group in groups], 1)
        parts = {"encoder_hidden_states": padded}
        if (sound := call.get("audio_encoder_hidden_states")) is not None:
            parts = ltx2_streams(padded, sound.shape[-1])
        for name, part in parts.items():
            call[name] = torch.cat([part, text] if tiny.order.startswith("N") else [call[name], part], 1)
    if tiny.text_ids:
        call["txt_ids"] = tiny.text_ids(*counts)
    if tiny.mask:
        seen = call[tiny.mask].new_ones(batch, sum(counts[:-1]))
        call[tiny.mask] = torch.cat([seen, call[tiny.mask]] if tiny.order.startswith("N") else [call[tiny.mask], seen], 1)
    if "position_ids" in call:
        call["position_ids"] = torch.cat([torch.zeros(sum(counts[:-1]), 3), call["position_ids"]])
    if tiny.counts_text:
        # Each text counts from 0.
        model.pos_embed.register_forward_hook(lambda _, __, out: (out[0], torch.cat([out[1][:count] for count in counts])))
    lengths = [[len(row) for row in group] for group in groups]
    order = f"{tiny.order} R" if references else tiny.order
    dense = Dense(order, tiny.images, tiny.positives, lengths[0], method, *lengths[1:], kept_weights=kept_weights)
    dense.references = references
    with dense_attention(dense):
        result = output(model, call)
    assert dense.calls == tiny.attentions
    return result


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_method_equals_dense_attention(tiny: Tiny, method: Method, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()
    wanted = dense_output(tiny, method, [negative[0]])
    for _ in every_way(method):
        with guided(model, method=method, negative_prompt_embeds=negative) as applied:
            found = output(model, call)
        assert (applied.blocks, applied.tokens) == (tiny.attentions, (NEGATIVES,))
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)
    assert (found - output(model, call)).abs().max() > 1e-4, "the oracle must differ from no guidance"


@pytest.mark.parametrize("tiny", ["sd3.5-medium", "wan", "flux", "chroma-masked"], indirect=True)
@pytest.mark.parametrize("method", RIVALS, ids=str)
def test_a_rival_equals_dense_attention(tiny: Tiny, method: Method, negative: Tensor) -> None:
    test_a_method_equals_dense_attention(tiny, method, negative)


def every_way(method: Method) -> Iterator[None]:
    """Runs what follows as on a CPU for few and for many queries, and in parts, as in long sequences and on other devices."""
    yield
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "QUERIES", 0)
        yield
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VSF, "_is_at_once", lambda *_: False)
        patch.setattr(tokens, "SHORT", 0)
        patch.setattr(vsf, "ROWS", 7)
        yield


@pytest.mark.parametrize("tiny", ["sd3.5-medium", "flux", "wan"], indirect=True)
def test_a_cpu_is_given_keys_in_full_lanes(tiny: Tiny, negative: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    stock, counts = torch.nn.functional.scaled_dot_product_attention, list[int]()

    def recorded(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        if attn_mask is not None:
            counts.append(key.shape[2])
        return stock(query, key, value, attn_mask=attn_mask, **options)

    model, call = tiny.model(), tiny.call()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    monkeypatch.setattr(lanes, "QUERIES", 0)
    with guided(model, negative_prompt_embeds=negative):
        output(model, call)
    assert len(counts) == tiny.attentions
    assert all(count % 16 == 0 for count in counts), counts


class Editing(DiffusionPipeline):
    """Edits an image, whose tokens stand behind the latents."""

    def __call__(self, model: Any, call: dict[str, Any], references: int) -> Tensor:
        latents = call["hidden_states"][:, :-references]
        assert len(latents)
        return output(model, call)


def editing(tiny: Tiny) -> Tiny:
    """A denoiser in whose calls two images, with 2 tokens and 1, stand behind the latents."""

    def inputs(batch: int) -> dict[str, Any]:
        call = tiny.inputs(batch)
        if "img_shapes" in call:
            return {**call, "img_shapes": [[(1, 3, 3), (1, 1, 2), (1, 1, 1)]] * batch}
        ids = call["img_ids"].clone()
        ids[..., -3:, 0] = torch.tensor([10.0, 10.0, 20.0])
        return {**call, "img_ids": ids}

    return replace(tiny, inputs=inputs)


@pytest.mark.parametrize("tiny", ["flux", "flux2", "qwen-image"], indirect=True)
@pytest.mark.parametrize("method", [METHODS[0], *RIVALS], ids=str)
def test_images_that_are_edited_are_seen_and_not_guided(tiny: Tiny, method: Method, negative: Tensor) -> None:
    tiny = editing(tiny)
    model, kept = tiny.model(), [tiny.text(2) + 1] if isinstance(method, VSF) else None
    groups = [Encoded(negative, (NEGATIVES,)), *([Encoded.stack(kept)] if kept else [])]
    with guided_denoisers(tiny.family, [model], method, groups):
        found = Editing()(model, tiny.call(), 3)
    torch.testing.assert_close(found, dense_output(tiny, method, [negative[0]], 1, kept, references=3), atol=1e-11, rtol=0)
    assert (found - dense_output(tiny, method, [negative[0]], 1, kept)).abs().max() > 1e-4


@pytest.mark.parametrize("method", [METHODS[0], *RIVALS], ids=str)
def test_a_batch_of_negatives_of_different_lengths(tiny: Tiny, method: Method) -> None:
    rows = [tiny.text(2), tiny.text(0), tiny.text(NEGATIVES)]
    model, wanted = tiny.model(), dense_output(tiny, method, rows, 3)
    # Without parts, methods other than VSF have one way.
    for _ in every_way(method) if isinstance(method, VSF) else (None,):
        with guided_denoisers(tiny.family, [model], method, [Encoded.stack(rows)]):
            found = output(model, tiny.call(3))
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_kept_prompts_of_different_lengths_are_spared(tiny: Tiny, weighted: bool) -> None:
    """Of four rows one has no kept prompt, another one no negative prompt."""
    rows = [tiny.text(length) for length in (2, NEGATIVES, 0, 1)]
    kept = [tiny.text(length) + 1 for length in (3, 0, 2, 1)]
    weights = [torch.rand(len(row), dtype=torch.float64) * 2 for row in kept] if weighted else None
    method, model = VSF(2.0, 0.3, contrast=0.7), tiny.model()
    with guided_denoisers(tiny.family, [model], method, [Encoded.stack(rows), Encoded.stack(kept, weights)]):
        found = output(model, tiny.call(4))
    torch.testing.assert_close(found, dense_output(tiny, method, rows, 4, kept, weights), atol=1e-11, rtol=0)


def test_a_slope_holds_for_what_is_kept_too(tiny: Tiny, negative: Tensor) -> None:
    kept = [tiny.text(2) + 1]
    groups, model = [Encoded(negative, (NEGATIVES,)), Encoded.stack(kept)], tiny.model()
    # It begins at 2 (1 + 0.5).
    with guided_denoisers(tiny.family, [model], VSF(2.0, 0.3, stop=0.5, slope=-0.5), groups, at_step(0)):
        found = output(model, tiny.call())
    torch.testing.assert_close(found, dense_output(tiny, VSF(3.0, 0.3), [negative[0]], 1, kept), atol=1e-11, rtol=0)


def joined(*texts: Tensor) -> Encoded:
    """One row of several texts with shape (tokens, width)."""
    return Encoded.stack([torch.cat(texts)], None, [torch.cat([torch.arange(len(text)) for text in texts])])


def test_what_is_kept_spares_what_it_has_in_common(tiny: Tiny, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()

    def run(method: VSF, *keep: Tensor, unwanted: tuple[Tensor, ...] = (negative[0],)) -> Tensor:
        groups = [joined(*unwanted), *([joined(*keep)] if keep else [])]
        with guided_denoisers(tiny.family, [model], method, groups):
            return output(model, call)

    first, second = tiny.text(2) + 1, tiny.text(3) - 1
    plain, both = run(VSF(2.0)), run(VSF(2.0), first, second)
    assert (both - plain).abs().max() > 1e-4
    torch.testing.assert_close(run(VSF(2.0), second, first), both, atol=1e-12, rtol=0)
    two = run(VSF(2.0), unwanted=(first, second))
    torch.testing.assert_close(run(VSF(2.0), unwanted=(second, first)), two, atol=1e-12, rtol=0)
    torch.testing.assert_close(run(VSF(2.0, contrast=0), first), plain, atol=1e-12, rtol=0)
    # (1 - w) O1 is left, as with a strength of 0.
    torch.testing.assert_close(run(VSF(2.0, contrast=1), negative[0]), run(VSF(0.0)), atol=1e-12, rtol=0)


def test_an_embedding_that_is_flipped_joins_the_text(tiny: Tiny, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()
    stock = output(model, call)
    if tiny.family.masks_negative:
        with pytest.raises(RequestError, match="no effect"), guided(model, method=WEF(), negative_prompt_embeds=negative):
            pass
        return
    with guided(model, method=WEF(1.0), negative_prompt_embeds=negative) as applied:
        found = output(model, call)
    assert applied.blocks == 0 and (found - stock).abs().max() > 1e-4
    with guided(model, method=WEF(2.0), negative_prompt_embeds=negative / 2):
        assert torch.equal(output(model, call), found)


@pytest.mark.parametrize("tiny", ["flux"], indirect=True)
def test_flux_as_the_papers_public_code_has_it(tiny: Tiny, negative: Tensor) -> None:
    """Its double blocks flip a copy of the negative prompt, which otherwise is positive text, as in all single blocks."""
    method = VSF(3.0, 0.3, reference_layout=True, guided_blocks="1..2")
    model, call = tiny.model(), tiny.call()
    with guided(model, method=method, negative_prompt_embeds=negative):
        found = output(model, call)

    text = torch.cat([negative, negative, call["encoder_hidden_states"]], 1)
    longer = {**call, "encoder_hidden_states": text, "txt_ids": torch.zeros(text.shape[1], 3)}
    flipped = Dense(tiny.order, tiny.images, TEXT + NEGATIVES, [NEGATIVES], VSF(3.0, 0.3))
    stock = Dense(tiny.order, tiny.images, TEXT + NEGATIVES, [NEGATIVES], VSF(3.0, torch.inf))
    model, calls = tiny.model(), iter([flipped, flipped, stock, stock])
    with dense_attention(lambda *states: next(calls)(*states)):
        torch.testing.assert_close(found, output(model, longer), atol=1e-11, rtol=0)


def test_without_contrast_nothing_is_kept(tiny: Tiny, negative: Tensor) -> None:
    model, call, keep = tiny.model(), tiny.call(), tiny.text(1, 2)
    outputs = []
    for contrast, texts in ((0.7, None), (0.0, keep)):
        with guided(model, method=VSF(2.0, contrast=contrast), negative_prompt_embeds=negative, keep_embeds=texts):
            outputs.append(output(model, call))
    assert torch.equal(*outputs)


def test_an_infinite_bias_is_the_stock_model(tiny: Tiny, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()
    stock = output(model, call)
    with guided(model, method=VSF(3.0, torch.inf), negative_prompt_embeds=negative):
        torch.testing.assert_close(output(model, call), stock, atol=1e-12, rtol=0)
    assert torch.equal(output(model, call), stock)


@pytest.mark.parametrize("tiny", ["sd3", "sd3.5-medium", "flux", "flux2", "qwen-image"], indirect=True)
def test_the_negatives_rows_are_those_of_a_prompt_alone(tiny: Tiny, negative: Tensor) -> None:
    model, call, texts = tiny.model(), tiny.call(), []
    handle = model.transformer_blocks[0].register_forward_hook(lambda module, args, out: texts.append(out[0]))
    alone = {**call, "encoder_hidden_states": negative}
    if tiny.text_ids:
        alone["txt_ids"] = tiny.text_ids(NEGATIVES)
    output(model, alone)
    with guided(model, negative_prompt_embeds=negative):
        output(model, call)
    handle.remove()
    own = texts[1][:, :NEGATIVES] if tiny.order.startswith("N") else texts[1][:, TEXT:]
    torch.testing.assert_close(own, texts[0], atol=1e-12, rtol=0)


def test_calls_of_several_sizes_inside_one_with() -> None:
    tiny = TINY["sd3"]
    model, negative, wide, wider = tiny.model(), tiny.text(1, NEGATIVES), tiny.call(), tiny.call()
    wide["hidden_states"] = torch.cat([wide["hidden_states"]] * 2, dim=-1)
    # As many tokens in all as the first: 2 more of the image, 2 less of the text.
    wider["hidden_states"] = drawn(1, 4, 4, 18)
    wider["encoder_hidden_states"] = wider["encoder_hidden_states"][:, :-2]
    calls = [tiny.call(), tiny.call(2), wide, wider, tiny.call()]
    with guided(model, negative_prompt_embeds=negative):
        together = [output(model, call) for call in calls]
    for call, found in zip(calls, together, strict=True):
        with guided(model, negative_prompt_embeds=negative):
            assert torch.equal(output(model, call), found)


@pytest.mark.parametrize("tiny", ["sd3", "wan"], indirect=True)
def test_calls_in_several_modes_inside_one_with(tiny: Tiny, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()
    text = call["encoder_hidden_states"].requires_grad_()
    modes = [torch.no_grad, torch.inference_mode, torch.enable_grad, torch.no_grad, torch.enable_grad]
    found, gradients = list[Tensor](), list[Tensor]()
    with guided(model, negative_prompt_embeds=negative):
        for mode in modes:
            with mode():
                found.append(model(**call, return_dict=False)[0])
            if found[-1].requires_grad:
                gradients += torch.autograd.grad(found[-1], text, torch.ones_like(found[-1]))
    for one in found[1:]:
        torch.testing.assert_close(one.detach().clone(), found[0], atol=1e-11, rtol=0)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("tiny", ["sd3", "wan"], indirect=True)
@pytest.mark.parametrize("batch", [1, 2])
def test_embeddings_that_are_changed_inside_the_with_are_followed(tiny: Tiny, negative: Tensor, batch: int) -> None:
    model, call, narrow = tiny.model(), tiny.call(batch), negative.float()
    with guided(model, negative_prompt_embeds=narrow):
        before = output(model, call)
        narrow *= -2
        after = output(model, call)
    with guided(model, negative_prompt_embeds=narrow):
        assert torch.equal(output(model, call), after)
    assert not torch.equal(before, after)


def test_a_missing_argument_is_named(tiny: Tiny, negative: Tensor) -> None:
    model = tiny.model()
    for name in ("encoder_hidden_states", "cap_feats"):
        call = tiny.call()
        if call.pop(name, None) is not None:
            with guided(model, negative_prompt_embeds=negative), pytest.raises((TypeError, PatchError), match=f"{name}|text"):
                output(model, call)


class Counting(VSF):
    """VSF that counts its calls, and how often it is asked for a function of them."""

    calls = asked = 0

    def attend(self, query: Tensor, context: Context, out: Tensor | None = None) -> Tensor:
        Counting.calls += 1
        return super().attend(query, context, out)

    def whole_attention(self, *arguments: Any) -> WholeAttention | None:
        attend = super().whole_attention(*arguments)
        Counting.asked += 1

        def counted(*states: Tensor) -> Tensor:
            Counting.calls += 1
            assert attend is not None
            return attend(*states)

        return attend and counted


def test_ours_runs_in_every_attention(tiny: Tiny, negative: Tensor) -> None:
    model, Counting.calls, Counting.asked = tiny.model(), 0, 0
    with guided(model, method=Counting(), negative_prompt_embeds=negative):
        output(model, tiny.call())
    assert Counting.calls == tiny.attentions
    # Video and sound of LTX-2, and the stages of a U-Net, have sizes of their own.
    assert Counting.asked <= 3


@pytest.mark.parametrize("tiny", ["sd3.5-medium", "wan"], indirect=True)
def test_a_method_is_asked_again_only_if_a_call_is_another(tiny: Tiny, negative: Tensor) -> None:
    model, Counting.asked = tiny.model(), 0
    with guided(model, method=Counting(), negative_prompt_embeds=negative):
        for batch, asked in ((1, 1), (1, 1), (2, 2), (2, 2), (1, 3)):
            output(model, tiny.call(batch))
            assert Counting.asked == asked, batch


@pytest.mark.parametrize("tiny", ["sd3.5-medium", "wan"], indirect=True)
def test_every_step_has_the_strength_of_its_own(tiny: Tiny, negative: Tensor) -> None:
    model, call, pipe = tiny.model(), tiny.call(), at_step(0, steps=3)
    with guided_denoisers(tiny.family, [model], VSF(2.0, 0.3, slope=1.0), [Encoded(negative, (NEGATIVES,))], pipe):
        for pipe.scheduler.step_index, alpha in enumerate((0, 4 / 3, 8 / 3)):
            wanted = dense_output(tiny, VSF(alpha, 0.3), [negative[0]])
            torch.testing.assert_close(output(model, call), wanted, atol=1e-11, rtol=0)


KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def test_ours_runs_in_every_compiled_block_and_strengths_share_graphs(tiny: Tiny, negative: Tensor) -> None:
    if not tiny.graphs:
        pytest.skip("another size of the family is compiled")
    kernels: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        kernels.append(sum(node.target in (KERNEL, KERNEL.default) for node in graph.graph.nodes))
        # It takes in-place operations apart, as compilers do; for one family alone, since it is slow.
        return aot_eager(graph, inputs) if tiny is TINY["sd3.5-medium"] else graph

    torch._dynamo.reset()
    counters.clear()
    model, call = tiny.model(), tiny.call()
    methods = [VSF(3.0, 0.3), VSF(1.0, 0.3, contrast=1), VSF(2.0, -1.0)]
    texts = {"negative_prompt_embeds": negative, "keep_embeds": tiny.text(1, 2) + 1}
    wanted: list[Tensor] = []
    for block in tiny.family.blocks_of(model):
        block.compile(backend=backend, fullgraph=True)
    if tiny is TINY["wan"]:
        output(model, call)
        assert counters["stats"]["unique_graphs"] == tiny.graphs, "without guidance"
        assert not any(kernels), "the stock model calls PyTorch's own function"
        kernels.clear()
    with torch.compiler.set_stance("force_eager"):
        for method in methods:
            with guided(model, method=method, **texts):
                wanted.append(output(model, call))
    # Without its graphs another length of the text is nothing that is known to vary.
    torch._dynamo.reset()
    counters.clear()
    for method, expected in zip(methods, wanted, strict=True):
        with guided(model, method=method, **texts):
            torch.testing.assert_close(output(model, call), expected, atol=1e-11, rtol=0)
    # With a mask all rows of the image attend at once.
    assert counters["stats"]["unique_graphs"] == tiny.graphs and all(
        count >= 2 or tiny.mask or tiny.has_mask for count in kernels
    )
    if tiny is not TINY["wan"]:
        return
    for length in (NEGATIVES + 2, NEGATIVES + 1, NEGATIVES + 5):
        texts["negative_prompt_embeds"] = tiny.text(1, length)
        with guided(model, method=methods[0], **texts):
            found = output(model, call)
            with torch.compiler.set_stance("force_eager"):
                torch.testing.assert_close(found, output(model, call), atol=1e-11, rtol=0)
    # Once for each kind of block; to the compiler the first one, whose text is a view, is of another kind.
    assert tiny.graphs < counters["stats"]["unique_graphs"] <= 2 * tiny.graphs + 1
    torch._dynamo.reset()


def test_a_step_outside_the_window_is_the_stock_model_to_the_bit(tiny: Tiny, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()
    stock = output(model, call)
    pipe, encoded = at_step(3), Encoded(negative, (NEGATIVES,))
    with guided_denoisers(tiny.family, [model], VSF(3.0, 0.3, stop=0.5), [encoded], pipe):
        assert torch.equal(output(model, call), stock)
        pipe.scheduler.step_index = 1
        assert not torch.equal(output(model, call), stock)


def processors(model: Any) -> dict[str, Any]:
    return {name: module.processor for name, module in model.named_modules() if hasattr(module, "processor")}


def test_the_same_processors_come_back_after_an_exception(tiny: Tiny, negative: Tensor) -> None:
    model = tiny.model()
    before = processors(model)
    with pytest.raises(ZeroDivisionError), guided(model, negative_prompt_embeds=negative):
        changed = [name for name, processor in processors(model).items() if processor is not before[name]]
        assert len(changed) == tiny.attentions + len(tiny.family.isolated_of(model))
        raise ZeroDivisionError
    assert all(processors(model)[name] is processor for name, processor in before.items())
    assert not [name for name in tiny.family.inside if name.rpartition(".")[2] in vars(model)]
    assert not model._forward_pre_hooks and not model._forward_hooks


def test_a_copy_made_inside_is_unguided(tiny: Tiny, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()
    stock = output(model, call)
    with guided(model, negative_prompt_embeds=negative):
        found, other = output(model, call), copy.deepcopy(model)
        assert torch.equal(output(other, call), stock)
        assert torch.equal(output(model, call), found)
    assert {type(processor) for processor in processors(other).values()} == {
        type(processor) for processor in processors(model).values()
    }


def test_what_is_changed_inside_is_refused(tiny: Tiny, negative: Tensor) -> None:
    model, call = tiny.model(), tiny.call()
    _, attention, _ = next(iter(tiny.family.attentions_of(model)))
    with guided(model, negative_prompt_embeds=negative):
        twin = attention.processor
        attention.set_processor(type(twin).__mro__[1]())
        with pytest.raises(PatchError, match="processors were set inside"):
            output(model, call)
        attention.set_processor(twin)
        model._forward_pre_hooks.clear()
        with pytest.raises(PatchError, match="its hook was removed"):
            output(model, call)


def test_a_denoiser_alone_needs_embeddings_and_has_no_window(tiny: Tiny, negative: Tensor) -> None:
    model = tiny.model()
    with pytest.raises(PatchError, match="alone encodes no text"), guided(model, "wheels"):
        pass
    with (
        pytest.raises(RequestError, match="start, stop and slope are of the steps of a run, but there is no scheduler"),
        guided(model, method=VSF(stop=0.5), negative_prompt_embeds=negative),
    ):
        output(model, tiny.call())
    with pytest.raises(RequestError, match="give one of"), guided(model, "wheels", negative_prompt_embeds=negative):
        pass
    with pytest.raises(RequestError, match="none of them 0"), guided(model, negative_prompt_embeds=negative[:, :0]):
        pass
    with (
        pytest.raises(PatchError, match="have width 8, but the text's 16"),
        guided(model, negative_prompt_embeds=negative[..., :8]),
    ):
        output(model, tiny.call())


def test_arguments_are_known_by_their_names(tiny: Tiny, negative: Tensor) -> None:
    """Positional arguments, in the order of the stock `forward`, are the same call."""
    import inspect

    model, call = tiny.model(), tiny.call()
    parameters = inspect.signature(type(model).forward).parameters
    names = list(parameters)[1:]
    last = max(names.index(name) for name in call)
    with guided(model, negative_prompt_embeds=negative):
        wanted = output(model, call)
        positional = [call.get(name, parameters[name].default) for name in names[: last + 1]]
        if "return_dict" in names[: last + 1]:
            return
        assert torch.equal(output(partial(model, *positional), {}), wanted)


def exact_norm(norm: RMSNorm, states: Tensor) -> Tensor:
    assert norm.bias is None
    return torch.nn.functional.rms_norm(states, norm.dim, norm.weight, norm.eps)


@contextmanager
def exact() -> Iterator[None]:
    """Without the float32 of norms and of Z-Image's rotation, whose rounding hides what is compared."""
    with patch.object(Tensor, "float", Tensor.double), patch.object(RMSNorm, "forward", exact_norm):
        yield


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad(), exact():
        yield
