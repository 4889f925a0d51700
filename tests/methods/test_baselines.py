"""NASA, NAG, ONG and angular guidance against their equations in float64, over whole transformers of both families."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import random_pipeline
from tests.contexts import attended, cross_context, joint_context
from tests.models.dense import beside, rotated
from tests.models.test_wan import cross_attentions, random_wan
from tests.models.test_wan import run as run_wan
from vsf_cli.errors import RequestError
from vsf_cli.generation.guided import guided
from vsf_cli.methods import CFG, NAG, NASA, ONG, VSF, WEF, Angular, Context, KeyValue, Method, NoGuidance, TextGroup
from vsf_cli.models import family_of

Combine = Callable[[Tensor, Tensor], Tensor]


def nasa(alpha: float) -> Combine:
    return lambda positive, negative: positive - alpha * negative


def nag(phi: float, tau: float, alpha: float) -> Combine:
    """Equations 4 and 5, on merged heads with shape (B, L, H D)."""

    def combine(positive: Tensor, negative: Tensor) -> Tensor:
        away = positive + phi * (positive - negative)
        ratio = away.norm(p=1, dim=-1, keepdim=True) / positive.norm(p=1, dim=-1, keepdim=True)
        held = torch.where(ratio > tau, away * tau / ratio, away)
        return alpha * held + (1 - alpha) * positive

    return combine


METHODS: list[tuple[Method, Combine]] = [
    (NASA(0.3), nasa(0.3)),
    (NASA(0.3, padding=False), nasa(0.3)),
    (NAG(11.0, 5.0, 0.5), nag(11.0, 5.0, 0.5)),
    (NAG(4.0, 1.1, 0.7, padding=False), nag(4.0, 1.1, 0.7)),
    (ONG(1.5), lambda positive, negative: positive - 1.5 * beside(negative, positive)),
    (Angular(2.0, 0.3, padding=False), lambda positive, negative: rotated(positive, negative, 2.0, 0.3)),
    # An infinite tau leaves no norm: half of Z+ + 2 (Z+ - Z-), and half of Z+.
    (NAG(2.0, torch.inf, 0.5), lambda positive, negative: 2 * positive - negative),
]


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return ((query @ key.transpose(-1, -2)) / query.shape[-1] ** 0.5).softmax(-1) @ value


class DenseJoint:
    """SD3's joint attention with the negative's n tokens at the end of the text, without any of the package's code."""

    def __init__(self, n: int, combine: Combine) -> None:
        self.n, self.combine = n, combine

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        def heads(states: Tensor, norm: Any = None) -> Tensor:
            split = states.view(*states.shape[:2], attn.heads, -1).transpose(1, 2)
            return split if norm is None else norm(split)

        def merged(states: Tensor) -> Tensor:
            return states.transpose(1, 2).flatten(2)

        text = encoder_hidden_states
        qi, ki, vi = (
            heads(attn.to_q(hidden_states), attn.norm_q),
            heads(attn.to_k(hidden_states), attn.norm_k),
            heads(attn.to_v(hidden_states)),
        )
        qt, kt, vt = (
            heads(attn.add_q_proj(text), attn.norm_added_q),
            heads(attn.add_k_proj(text), attn.norm_added_k),
            heads(attn.add_v_proj(text)),
        )
        cut = text.shape[1] - self.n
        with_positive = torch.cat([ki, kt[:, :, :cut]], 2), torch.cat([vi, vt[:, :, :cut]], 2)
        with_negative = torch.cat([ki, kt[:, :, cut:]], 2), torch.cat([vi, vt[:, :, cut:]], 2)
        image = self.combine(merged(softmax_attention(qi, *with_positive)), merged(softmax_attention(qi, *with_negative)))
        rows = [softmax_attention(qt[:, :, :cut], *with_positive), softmax_attention(qt[:, :, cut:], *with_negative)]
        output = merged(torch.cat(rows, 2))
        return attn.to_out[0](image), output if attn.context_pre_only else attn.to_add_out(output)


class DenseCross:
    """Wan's cross attention, the same."""

    def __init__(self, n: int, combine: Combine) -> None:
        self.n, self.combine = n, combine

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        parts = (
            attn.norm_q(attn.to_q(hidden_states)),
            attn.norm_k(attn.to_k(encoder_hidden_states)),
            attn.to_v(encoder_hidden_states),
        )
        query, key, value = (part.view(*part.shape[:2], attn.heads, -1).transpose(1, 2) for part in parts)
        cut = key.shape[2] - self.n
        outputs = [
            softmax_attention(query, key[:, :, part], value[:, :, part]).transpose(1, 2).flatten(2)
            for part in (slice(0, cut), slice(cut, None))
        ]
        return attn.to_out[0](self.combine(*outputs))


def encoded(pipe: Any, method: Method, most: int) -> Tensor:
    family = family_of(pipe)
    found: Tensor = family.encode_padded(pipe, ["wheels"], most) if method.padding else family.encode_negative(pipe, ["wheels"])
    return found


def run_joint(pipe: Any, prompt: Any = "a red bike", **options: Any) -> Tensor:
    options = {"guidance_scale": 0.0, "num_inference_steps": 2, "max_sequence_length": 12} | options
    generator = torch.Generator().manual_seed(3)
    latents: Tensor = pipe(prompt, generator=generator, height=16, width=16, output_type="latent", **options).images
    return latents


def joint_attentions(pipe: Any) -> list[Any]:
    return [block.attn for block in pipe.transformer.transformer_blocks]


FAMILIES: dict[str, tuple[Any, Any, Any, Any]] = {
    "sd3": (lambda: random_pipeline("sd3"), run_joint, DenseJoint, joint_attentions),
    "sd3.5-medium": (lambda: random_pipeline("sd3.5-medium"), run_joint, DenseJoint, joint_attentions),
    "wan": (random_wan, run_wan, DenseCross, cross_attentions),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "combine"), METHODS, ids=lambda value: str(value) if isinstance(value, Method) else "")
def test_a_method_equals_its_equation(family: str, method: Method, combine: Combine) -> None:
    build, run, dense, attentions = FAMILIES[family]
    pipe = build()
    with guided(pipe, "wheels", method, max_sequence_length=12) as applied:
        output = run(pipe)
    negative = encoded(pipe, method, 12)
    assert applied.tokens == (len(negative),) and (len(negative) >= 12) == method.padding

    def append(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": torch.cat([text, negative[None].to(text)], 1)}

    stock = [attention.processor for attention in attentions(pipe)]
    handle = pipe.transformer.register_forward_pre_hook(append, with_kwargs=True)
    for attention in attentions(pipe):
        attention.set_processor(dense(len(negative), combine))
    wanted = run(pipe)
    handle.remove()
    for attention, processor in zip(attentions(pipe), stock, strict=True):
        attention.set_processor(processor)
    assert (output - wanted).abs().max() < 1e-9
    assert (output - run(pipe)).abs().max() > 1e-4


NEUTRAL: list[Method] = [
    NASA(0.0),
    NAG(0.0, alpha=1.0),
    NAG(0.0, alpha=0.5),
    NAG(4.0, alpha=0.0),
    ONG(0.0),
    Angular(0.0),
]
"""Settings with which a method is no guidance; a blend of a half adds two halves of a number, which is exact."""


@pytest.mark.parametrize("images", [5, 0], ids=["joint", "cross"])
@pytest.mark.parametrize("method", NEUTRAL, ids=str)
def test_at_its_neutral_setting_a_method_is_no_guidance_to_the_bit(method: Method, images: int) -> None:
    def drawn(tokens: int) -> Tensor:
        return torch.randn(2, 3, tokens, 8, generator=chance)

    chance = torch.Generator().manual_seed(5)
    base, negative = KeyValue(drawn(images + 4), drawn(images + 4)), TextGroup(drawn(2), drawn(2))
    rows = drawn(9 if images else 5)
    context = joint_context(base, images, negative) if images else cross_context(base, negative)
    assert torch.equal(attended(method, rows, context), attended(NoGuidance(), rows, context))


def pair(images: int, negative: Callable[[Tensor], Tensor]) -> tuple[Tensor, Context]:
    """Queries, and a context whose negative prompt has the keys of the positive one, and values that are made of its values."""
    chance = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(2, 3, images + 4, 8, dtype=torch.float64, generator=chance) for _ in range(3))
    group = TextGroup(key[:, :, images:], negative(value[:, :, images:]))
    base = KeyValue(key, value)
    return query, joint_context(base, images, group) if images else cross_context(base, group)


@pytest.mark.parametrize("images", [5, 0], ids=["joint", "cross"])
@pytest.mark.parametrize("method", [ONG(2.0), ONG(2.0, per_head=True), Angular(2.0)], ids=str)
def test_what_both_prompts_have_in_common_stays(images: int, method: Method) -> None:
    query, context = pair(images, lambda value: value)
    plain = attended(NoGuidance(), query, context)
    torch.testing.assert_close(attended(method, query, context), plain, atol=1e-11, rtol=0)
    query, context = pair(images, lambda value: value.flip(-1))
    assert (attended(method, query, context) - plain).abs().max() > 0.1


@pytest.mark.parametrize("factor", [3.0, -2.0, 0.0])
def test_parallel_outputs_are_not_guided(factor: float) -> None:
    """Nothing is orthogonal to the unguided output, and no plane is there to rotate in; gradients are numbers, too."""
    query, context = pair(0, lambda value: factor * value)
    plain = attended(NoGuidance(), query, context)
    query.requires_grad_()
    for method in (ONG(2.0), ONG(2.0, per_head=True), Angular(2.0)):
        found = attended(method, query, context)
        if factor or not isinstance(method, Angular):
            torch.testing.assert_close(found, plain, atol=1e-11, rtol=0)
        (gradient,) = torch.autograd.grad(found.sum(), query)
        assert found.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("images", [5, 0], ids=["joint", "cross"])
def test_what_is_subtracted_is_orthogonal(images: int) -> None:
    query, context = pair(images, lambda value: value.flip(-1))
    rows, plain = context.image_rows, attended(NoGuidance(), query, context)
    image = rows(plain)

    def cosine(change: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Of what the image's rows change with their unguided output."""
        along = (rows(change) * image).sum(axes)
        return along / (rows(change).square().sum(axes) * image.square().sum(axes)).sqrt()

    for per_head, axes in ((False, (1, 3)), (True, (3,))):
        change = attended(ONG(2.0, per_head=per_head), query, context) - plain
        assert cosine(change, axes).abs().max() < 1e-12
    # What is left of the unguided output is that of alpha 0.
    change = attended(VSF(2.0, 0.3, orthogonal=True), query, context) - attended(VSF(0.0, 0.3), query, context)
    assert cosine(change, (3,)).abs().max() < 1e-12 and rows(change).abs().max() > 0.1


def test_a_rotation_keeps_the_norm_and_goes_away() -> None:
    query, context = pair(0, lambda value: value.flip(-1) + value)
    plain, angles = attended(NoGuidance(), query, context), []
    away = Angular().attend_image_to_negative(query, context)
    for scale in (0.0, 0.5, 3.0):
        found = attended(Angular(scale, 1.0), query, context)
        torch.testing.assert_close(found.square().sum((1, 3)), plain.square().sum((1, 3)))
        angles.append(torch.cosine_similarity(*(one.transpose(1, 2).flatten(2) for one in (found, away)), dim=-1).acos())
    for scale, angle in zip((0.5, 3.0), angles[1:], strict=True):
        wanted = angles[0] + math.pi * torch.tanh(scale * angles[0] / math.pi)
        # Never beyond the opposite; the arc cosine is good to half of the digits there.
        torch.testing.assert_close(angle, wanted.clamp_max(math.pi), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["sd3", "wan"])
@pytest.mark.parametrize("method", [*NEUTRAL, NAG(0.0)], ids=str)
def test_at_its_neutral_setting_a_whole_model_is_unguided_to_rounding(family: str, method: Method) -> None:
    """The text is projected with the negative beside it, which may round otherwise."""
    build, run, *_ = FAMILIES[family]
    pipe = build()
    with guided(pipe, "wheels", method, max_sequence_length=12):
        assert (run(pipe) - run_plain(build, run)).abs().max() < 1e-12


def run_plain(build: Any, run: Any) -> Tensor:
    latents: Tensor = run(build())
    return latents


@pytest.mark.parametrize("family", ["sd3", "wan"])
@pytest.mark.parametrize("method", [NASA(0.3), NASA(0.3, padding=False), NAG(), NAG(padding=False)], ids=str)
def test_rows_of_a_batch_do_not_depend_on_each_other(family: str, method: Method) -> None:
    build, run, *_ = FAMILIES[family]
    pipe = build()
    shape = (3, 4, 8, 8) if family == "sd3" else (3, 4, 3, 4, 4)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).float()
    prompts, negatives = ["a red bike", "a person", "a hat"], [["wheels", "a hat"], [], ["glasses"]]
    with guided(pipe, negatives, method, max_sequence_length=12):
        together = run(pipe, prompts, latents=noise)
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        with guided(pipe, [negative], method, max_sequence_length=12):
            assert (run(pipe, prompt, latents=noise[[row]]) - together[[row]]).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NASA(-0.1), "alpha is -0.1"),
        (lambda: NAG(float("inf")), "scale is inf"),
        (lambda: NAG(tau=0.0), "tau is 0"),
        (lambda: NAG(tau=float("nan")), "tau is nan"),
        (lambda: NAG(alpha=1.5), "nag_alpha is 1.5, but must be 0 to 1"),
        (lambda: ONG(-1.0), "ong_scale is -1"),
        (lambda: Angular(tau=0.0), "angular_tau is 0, but must be more than 0, at most 1"),
    ],
)
def test_numbers_that_are_not_legal_are_refused(build: Callable[[], Method], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build()


class DenseAblation:
    """SD3's joint attention over [I, P, (Na,) N0, N1] with a dense mask for each ablation of section 4.8."""

    def __init__(self, n: int, method: VSF) -> None:
        self.n, self.method = n, method

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        method, n, images = self.method, self.n, hidden_states.shape[1]

        def heads(image: Tensor, text: Tensor, norms: tuple[Any, Any] = (None, None)) -> Tensor:
            split = [part.view(*part.shape[:2], attn.heads, -1).transpose(1, 2) for part in (image, text)]
            return torch.cat([part if norm is None else norm(part) for part, norm in zip(split, norms, strict=True)], 2)

        text = encoder_hidden_states
        query = heads(attn.to_q(hidden_states), attn.add_q_proj(text), (attn.norm_q, attn.norm_added_q))
        key = heads(attn.to_k(hidden_states), attn.add_k_proj(text), (attn.norm_k, attn.norm_added_k))
        value = heads(attn.to_v(hidden_states), attn.add_v_proj(text))
        rows = query.shape[2]
        key, flipped = torch.cat([key, key[:, :, -n:]], 2), -method.alpha * value[:, :, -n:]
        value = torch.cat([value, flipped], 2)
        bias = torch.zeros(rows, rows + n, dtype=query.dtype)
        n0, n1 = slice(rows - n, rows), slice(rows, rows + n)
        if not method.duplication:
            bias[:, n0] = -torch.inf
        if method.attention_mask:
            # With the public code's layout the extra copy is among the positive tokens: nothing else differs.
            bias[: rows - n, n0] = -torch.inf
            bias[:images, n1] = -method.beta
            bias[images:, n1] = -torch.inf
            bias[rows - n :, images : rows - n] = -torch.inf
        output = ((query @ key.transpose(-1, -2)) / query.shape[-1] ** 0.5 + bias).softmax(-1) @ value
        output = output.transpose(1, 2).flatten(2)
        image, rest = output[:, :images], output[:, images:]
        return attn.to_out[0](image), rest if attn.context_pre_only else attn.to_add_out(rest)


ABLATIONS = [
    VSF(2.0, 0.4),
    VSF(2.0, 0.0),
    VSF(2.0, attention_mask=False),
    VSF(0.6, attention_mask=False, duplication=False),
    VSF(3.5, 0.1, reference_layout=True),
]


@pytest.mark.parametrize("configuration", ["sd3", "sd3.5-medium"])
@pytest.mark.parametrize("method", ABLATIONS, ids=str)
def test_the_ablations_equal_their_masks(configuration: str, method: VSF) -> None:
    pipe = random_pipeline(configuration)
    with guided(pipe, "wheels", method):
        output = run_joint(pipe)
    negative = family_of(pipe).encode_negative(pipe, ["wheels"])

    def append(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        copies = [negative[None].to(kwargs["encoder_hidden_states"])] * (2 if method.reference_layout else 1)
        return args, {**kwargs, "encoder_hidden_states": torch.cat([kwargs["encoder_hidden_states"], *copies], 1)}

    pipe.transformer.register_forward_pre_hook(append, with_kwargs=True)
    for attention in joint_attentions(pipe):
        attention.set_processor(DenseAblation(len(negative), method))
    assert (output - run_joint(pipe)).abs().max() < 1e-9


@pytest.mark.parametrize("method", [VSF(2.0, attention_mask=False), VSF(0.6, attention_mask=False, duplication=False)], ids=str)
def test_ablations_in_a_batch_of_different_lengths(method: VSF) -> None:
    pipe = random_pipeline("sd3")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    with guided(pipe, ["wheels", ["a hat", "glasses"]], method):
        both = run_joint(pipe, ["a red bike", "a person"], latents=noise)
    for row, (prompt, negative) in enumerate((("a red bike", ["wheels"]), ("a person", ["a hat", "glasses"]))):
        with guided(pipe, [negative], method):
            assert (run_joint(pipe, prompt, latents=noise[[row]]) - both[[row]]).abs().max() < 1e-9


def literal_cfg(pipe: Any, scale: float, latents: Tensor, inputs: tuple[dict[str, Tensor], dict[str, Tensor]]) -> Tensor:
    """Two steps of f(p-) + scale (f(p+) - f(p-)), each from a call of its own."""
    pipe.scheduler.set_timesteps(2)
    for timestep in pipe.scheduler.timesteps:
        positive, negative = (
            pipe.transformer(hidden_states=latents.double(), timestep=timestep.expand(1), **given, return_dict=False)[0]
            for given in inputs
        )
        latents = pipe.scheduler.step(negative + scale * (positive - negative), timestep, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def test_cfg_is_two_calls_of_the_stock_joint_transformer() -> None:
    pipe = random_pipeline("sd3")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with guided(pipe, "", CFG()):
        output = run_joint(pipe, negative_prompt="wheels", guidance_scale=3.0, latents=noise)
    texts = [
        pipe.encode_prompt(text, None, None, do_classifier_free_guidance=False, max_sequence_length=12)
        for text in ("a red bike", "wheels")
    ]
    inputs = [{"encoder_hidden_states": text[0], "pooled_projections": text[2]} for text in texts]
    assert (output - literal_cfg(pipe, 3.0, noise, (inputs[0], inputs[1]))).abs().max() < 1e-9
    assert (output - run_joint(pipe, latents=noise)).abs().max() > 1e-3


@torch.no_grad()
def test_cfg_is_two_calls_of_the_stock_cross_transformer() -> None:
    pipe = random_wan()
    noise = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    with guided(pipe, "", CFG()):
        output = run_wan(pipe, negative_prompt="wheels", guidance_scale=3.0, latents=noise)
    texts = [family_of(pipe).encode_padded(pipe, [text], 12)[None] for text in ("a red bike", "wheels")]
    inputs = [{"encoder_hidden_states": text} for text in texts]
    assert (output - literal_cfg(pipe, 3.0, noise, (inputs[0], inputs[1]))).abs().max() < 1e-9
    assert (output - run_wan(pipe, latents=noise)).abs().max() > 1e-3


def test_wef_flips_the_whole_embedding_and_patches_nothing() -> None:
    pipe = random_pipeline("sd3")
    before = dict(pipe.transformer.attn_processors)
    with guided(pipe, "wheels", WEF(1.5), max_sequence_length=12) as applied:
        assert pipe.transformer.attn_processors == before and applied.blocks == 0
        output = run_joint(pipe)
    flipped = -1.5 * family_of(pipe).encode_padded(pipe, ["wheels"], 12)
    positive, _, pooled, _ = pipe.encode_prompt(
        "a red bike", None, None, do_classifier_free_guidance=False, max_sequence_length=12
    )
    joined = torch.cat([positive, flipped[None]], 1)
    wanted = run_joint(pipe, None, prompt_embeds=joined, pooled_prompt_embeds=pooled)
    assert (output - wanted).abs().max() < 1e-9
    with pytest.raises(RequestError, match="in every row"), guided(pipe, ["wheels", ""], WEF()):
        pass


def test_what_an_ablation_cannot_do_is_said() -> None:
    with pytest.raises(RequestError, match="has no mask"):
        VSF(duplication=False)
    for option in ({"guided_blocks": "1"}, {"tau": 2.0}, {"blend": 0.5}, {"orthogonal": True}):
        with pytest.raises(RequestError, match="without its mask acts on every row: leave guided_blocks, tau, blend and"):
            VSF(attention_mask=False, **option)  # type: ignore[arg-type]
    pipe = random_pipeline("sd3")
    with guided(pipe, ["wheels", "a hat"], VSF(reference_layout=True)), pytest.raises(RequestError, match="of one length"):
        run_joint(pipe, ["a red bike", "a person"])
    clips = random_wan()
    with guided(clips, "wheels", VSF(attention_mask=False)), pytest.raises(RequestError, match="no mask to leave out"):
        run_wan(clips)
