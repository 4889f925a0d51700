"""Weights of negatives, and VSF's further options: each against its definition written out, and neutral where it should be."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import random_pipeline
from tests.models.test_wan import cross_attentions, random_wan
from tests.models.test_wan import run as run_wan
from vsf_cli import VSF, guided
from vsf_cli.errors import RequestError
from vsf_cli.generation.generate import Request
from vsf_cli.generation.plan import request_of
from vsf_cli.methods import METHODS, NAG, NoGuidance
from vsf_cli.models import family_of
from vsf_cli.prompts.prompt_weights import Weighted, move_negatives, parse_weights
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.presets import Settings

# The grammar


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("wheels", Weighted("wheels")),
        ("wheels:2", Weighted("wheels", 2.0)),
        ("  blue   wheels : .5 ", Weighted("blue wheels", 0.5)),
        ("ratio 3:2", Weighted("ratio 3:2")),
        ("at 12:30", Weighted("at 12:30")),
        (r"wheels\:2", Weighted("wheels:2")),
        ("note: wheels", Weighted("note: wheels")),
        ("a hat (with feathers:0.5)", Weighted("a hat with feathers", 1.0, ((6, 19, 0.5),))),
        ("(wheels:2) and (smoke:0):3", Weighted("wheels and smoke", 3.0, ((0, 6, 2.0), (11, 16, 0.0)))),
        (r"a smile \(wide:2\)", Weighted("a smile (wide:2)")),
        ("a hat (red)", Weighted("a hat (red)")),
        ("(red:2)(hat:3)", Weighted("red hat", 1.0, ((0, 3, 2.0), (4, 7, 3.0)))),
        ("hat(wheels:2)flag", Weighted("hat wheels flag", 1.0, ((4, 10, 2.0),))),
        ("(red:2), (hat:3).", Weighted("red, hat.", 1.0, ((0, 3, 2.0), (5, 8, 3.0)))),
        ("wheels::2", Weighted("wheels::2")),
        ("( ((wheels:2)) )", Weighted("wheels", 1.0, ((0, 6, 2.0),))),
    ],
)
def test_weights_are_read(text: str, found: Weighted) -> None:
    assert parse_weights(text) == found


@pytest.mark.parametrize("text", ["wheels:-1", "a (hat:-0.5)"])
def test_a_weight_below_zero_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="has a weight below 0"):
        parse_weights(text)


@pytest.mark.parametrize(
    ("prompt", "text", "negatives"),
    [
        ("a bike (wheels:-1.5) on a road", "a bike on a road", ("wheels:1.5",)),
        ("a bike, (wheels:-1), (red paint: -2)", "a bike", ("wheels:1", "red paint:2")),
        ("a (red:1.3) bike", "a (red:1.3) bike", ()),
        (r"a bike \(wheels:-1)", r"a bike \(wheels:-1)", ()),
        ("a bike (fast)", "a bike (fast)", ()),
        ("a bike ((wheels:-1)), red", "a bike, red", ("wheels:1",)),
        ("a bike ((wheels:-1):1.2) [(hat:−1)]", "a bike", ("wheels:1", "hat:1")),
        ("a bike —NO wheels --ar 1:1", "a bike --ar 1:1", ("wheels",)),
        ("((wheels:-1), (hat:-2)) a bike", "a bike", ("wheels:1", "hat:2")),
        ("a (red (wheels:-1)) bike", "a (red) bike", ("wheels:1",)),
        ("a bike --no wheels, hats", "a bike", ("wheels, hats",)),
        ("a bike\n--no  old wheels --ar 16:9", "a bike --ar 16:9", ("old wheels",)),
        ("a bike (hat:-1) --no wheels", "a bike", ("hat:1", "wheels")),
        ("a bike --now wheels", "a bike --now wheels", ()),
    ],
)
def test_inline_negatives_are_moved(prompt: str, text: str, negatives: tuple[str, ...]) -> None:
    assert move_negatives(prompt) == (text, negatives)


@given(st.text())
def test_any_text_is_read_without_a_fault(text: str) -> None:
    move_negatives(text)
    try:
        found = parse_weights(text)
    except RequestError:
        return
    assert all(0 <= start < end <= len(found.text) for start, end, _ in found.parts) and math.isfinite(found.weight)


def test_a_request_keeps_weights_and_plain_text() -> None:
    settings = Settings({"preset": "tiny-sd3-turbo", "guided_blocks": "1..3", "tau": 1.5})
    request, _ = request_of(Texts("a bike (wheels:-1.5) on a road", ("smoke:2",)), 7, settings, (), False)
    assert request.prompt == "a bike on a road" and request.negative == ("smoke:2", "wheels:1.5")
    assert [one.text for one in request.negatives] == ["smoke", "wheels"]
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].weighs_tokens and name != "none"])
def test_methods_without_weights_refuse_them(method: str) -> None:
    scale = 3.0 if method == "cfg" else 0.0
    with pytest.raises(RequestError, match=f"method {method} knows no weights"):
        Request("a bike", "m", 0, ("wheels:2",), method=method, guidance_scale=scale)
    Request("a bike", "m", 0, (r"wheels\:2",), method=method, guidance_scale=scale)


# VSF written out, in both families: [stock tokens, negative tokens], each negative token with its own flip strength.


class Literal:
    """Image rows by equation 6 with weights, a norm and a blend; text rows as the mask of section 3.2 has them."""

    def __init__(self, length: int, alphas: Tensor, method: VSF, guides: bool) -> None:
        self.length, self.alphas, self.method, self.guides = length, alphas, method, guides

    def image(self, query: Tensor, key: Tensor, value: Tensor, negative_key: Tensor, negative_value: Tensor) -> Tensor:
        unguided = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1) @ value
        if not self.guides:
            return unguided
        keys = torch.cat([key, negative_key], 2)
        values = torch.cat([value, -self.alphas[:, None] * negative_value], 2)
        logits = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
        logits[..., key.shape[2] :] -= self.method.beta
        output = logits.softmax(-1) @ values
        if self.method.tau < math.inf:
            ratio = output.abs().sum((1, 3), keepdim=True) / unguided.abs().sum((1, 3), keepdim=True)
            output = torch.where(ratio > self.method.tau, output * self.method.tau / ratio, output)
        return self.method.blend * output + (1 - self.method.blend) * unguided


class LiteralJoint(Literal):
    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None) -> Any:
        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], attn.heads, -1).transpose(1, 2)

        def normed(module: Any, states: Tensor) -> Tensor:
            return states if module is None else module(states)

        text, cut = encoder_hidden_states, encoder_hidden_states.shape[1] - self.length
        iq, ik = normed(attn.norm_q, heads(attn.to_q(hidden_states))), normed(attn.norm_k, heads(attn.to_k(hidden_states)))
        tq, tk = (
            normed(attn.norm_added_q, heads(attn.add_q_proj(text))),
            normed(attn.norm_added_k, heads(attn.add_k_proj(text))),
        )
        iv, tv = heads(attn.to_v(hidden_states)), heads(attn.add_v_proj(text))
        stock = torch.cat([ik, tk[:, :, :cut]], 2), torch.cat([iv, tv[:, :, :cut]], 2)
        image = self.image(iq, *stock, tk[:, :, cut:], tv[:, :, cut:])
        scale = iq.shape[-1] ** 0.5
        positive = torch.softmax(tq[:, :, :cut] @ stock[0].transpose(-1, -2) / scale, -1) @ stock[1]
        own = torch.cat([ik, tk[:, :, cut:]], 2), torch.cat([iv, tv[:, :, cut:]], 2)
        negative = torch.softmax(tq[:, :, cut:] @ own[0].transpose(-1, -2) / scale, -1) @ own[1]
        image = attn.to_out[0](image.transpose(1, 2).flatten(2))
        rows = torch.cat([positive, negative], 2).transpose(1, 2).flatten(2)
        return image, rows if attn.context_pre_only else attn.to_add_out(rows)


class LiteralCross(Literal):
    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(encoder_hidden_states))
        value, cut = attn.to_v(encoder_hidden_states), encoder_hidden_states.shape[1] - self.length
        query, key, value = (part.view(*part.shape[:2], attn.heads, -1).transpose(1, 2) for part in (query, key, value))
        output = self.image(query, key[:, :, :cut], value[:, :, :cut], key[:, :, cut:], value[:, :, cut:])
        return attn.to_out[0](output.transpose(1, 2).flatten(2))


@contextmanager
def literal(pipe: Any, prompts: list[str], weights: list[float], method: VSF, steps: int) -> Iterator[None]:
    """The model with `Literal` in every guided attention, and the negatives behind its text."""
    wan = not isinstance(pipe, StableDiffusion3Pipeline)
    encoded = family_of(pipe).encode_negative(pipe, prompts)
    attentions = cross_attentions(pipe) if wan else [block.attn for block in pipe.transformer.transformer_blocks]
    assert len(weights) == len(encoded)
    old = {attention: attention.processor for attention in attentions}
    kind = LiteralCross if wan else LiteralJoint
    chosen = None if method.guided_blocks == "all" else {int(number) for number in method.guided_blocks.split(",")}
    own = {
        attention: kind(len(encoded), torch.tensor(weights).double(), method, chosen is None or number in chosen)
        for number, attention in enumerate(attentions, 1)
    }
    calls = 0

    def append(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        nonlocal calls
        done, calls = calls / steps, calls + 1
        strength = method.alpha * (1 - method.slope + 2 * method.slope * done)
        for processor in own.values():
            processor.alphas = strength * torch.tensor(weights).double()
        text = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": torch.cat([text, encoded[None].expand(len(text), -1, -1)], 1)}

    hook = pipe.transformer.register_forward_pre_hook(append, with_kwargs=True)
    for attention, processor in own.items():
        attention.set_processor(processor)
    yield
    hook.remove()
    for attention, stock in old.items():
        attention.set_processor(stock)


def made(pipe: Any, steps: int) -> Tensor:
    if not isinstance(pipe, StableDiffusion3Pipeline):
        return run_wan(pipe, num_inference_steps=steps)
    options = {"guidance_scale": 0.0, "num_inference_steps": steps, "max_sequence_length": 16, "output_type": "latent"}
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return pipe("a red bike", latents=latents, **options).images


FAMILIES = {"sd3": lambda: random_pipeline("sd3.5-medium"), "wan": random_wan}
SHARES = {"sd3": [2.0] * 5 + [0.5] * 7, "wan": [2.0] * 2 + [0.5] * 3}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "method",
    [
        VSF(3.0, 0.3),
        VSF(2.0, 0.1, slope=-0.7),
        VSF(2.0, 0.1, slope=1.0),
        VSF(4.0, -0.5, tau=1.1),
        VSF(4.0, -0.5, tau=0.9, blend=0.4),
        VSF(3.0, 0.0, guided_blocks="2"),
        VSF(3.0, 0.0, guided_blocks="1,2", slope=0.5, tau=1.2, blend=0.8),
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_every_option_equals_its_definition(family: str, method: VSF, weighted: bool) -> None:
    pipe, steps = FAMILIES[family](), 3
    encode = family_of(pipe).encode_negative
    counts = [len(encode(pipe, [text])) for text in ("wheels", "a hat")]
    shares = (2.0, 0.5) if weighted else (1.0, 1.0)
    weights = [share for share, count in zip(shares, counts, strict=True) for _ in range(count)]
    with literal(pipe, ["wheels", "a hat"], weights, method, steps):
        wanted = made(pipe, steps)
    negatives = [[parse_weights("wheels:2"), parse_weights("a hat:0.5")]] if weighted else [["wheels", "a hat"]]
    with guided(pipe, negatives, method):
        found = made(pipe, steps)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
    assert (wanted - made(pipe, steps)).abs().max() > 1e-4, "the oracle must differ from no guidance"


@pytest.mark.parametrize("family", FAMILIES)
def test_words_have_weights_of_their_own(family: str) -> None:
    """A weight of 0 on a word leaves its share of attention, and takes nothing away; the other words keep theirs."""
    pipe = FAMILIES[family]()
    prompt = parse_weights("a (hat:0) with blue wheels")
    tokens = [one for one in family_of(pipe).tokens(pipe, "", [prompt.text], True, 1) if one.prompt == "negative"]
    weights = [0.0 if token.word == "hat" else 1.0 for token in sorted(tokens, key=lambda token: token.position)]
    assert 0.0 in weights and 1.0 in weights
    with literal(pipe, [prompt.text], weights, VSF(3.0, 0.3), 2):
        wanted = made(pipe, 2)
    with guided(pipe, prompt, VSF(3.0, 0.3)):
        found = made(pipe, 2)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_neutral_settings_change_no_bit(family: str) -> None:
    pipe = FAMILIES[family]()
    with guided(pipe, "wheels", VSF(3.0, 0.3)):
        plain = made(pipe, 2)
    for method in (
        VSF(3.0, 0.3, slope=0.0, tau=math.inf, blend=1.0, guided_blocks="all"),
        VSF(3.0, 0.3, guided_blocks="1..2,3"),
    ):
        if method.last_block > 3 - (family == "sd3"):
            continue
        with guided(pipe, parse_weights("wheels:1"), method):
            assert torch.equal(made(pipe, 2), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_guided_is_no_guidance(family: str) -> None:
    """Blend 0 takes nothing of the guided output: to rounding the model's own."""
    pipe = FAMILIES[family]()
    with guided(pipe, "wheels", VSF(3.0, 0.3, blend=0.0)):
        torch.testing.assert_close(made(pipe, 2), made_without(pipe), atol=1e-12, rtol=0)


def made_without(pipe: Any) -> Tensor:
    return made(pipe, 2)


def test_rows_may_have_weights_of_their_own() -> None:
    pipe = random_wan()
    with guided(pipe, [[parse_weights("wheels:2")], ["a hat"], []], VSF(2.0, 0.2)):
        together = run_wan(pipe, ["a red bike", "a person", "a hat"], latents=noise(3))
    for row, (prompt, negative) in enumerate((("a red bike", "wheels:2"), ("a person", "a hat"), ("a hat", ""))):
        with guided(pipe, parse_weights(negative), VSF(2.0, 0.2)):
            alone = run_wan(pipe, prompt, latents=noise(3)[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-9, rtol=0)


def noise(rows: int) -> Tensor:
    return torch.randn(rows, 4, 3, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_what_is_not_legal_is_refused() -> None:
    pipe = random_wan()
    with (
        pytest.raises(RequestError, match="names block 9, but the model has 3"),
        guided(pipe, "wheels", VSF(guided_blocks="9")),
    ):
        pass
    with pytest.raises(RequestError, match="nag knows no weights"), guided(pipe, parse_weights("wheels:2"), NAG()):
        pass
    with guided(pipe, parse_weights("wheels:2"), NoGuidance()) as applied:
        assert applied.blocks == 0
    for fields in ({"slope": 1.5}, {"tau": 0.0}, {"blend": 2.0}, {"guided_blocks": "x"}, {"guided_blocks": "0"}):
        with pytest.raises(RequestError):
            VSF(**fields)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="leave guided_blocks, tau, blend and orthogonal out"):
        VSF(attention_mask=False, guided_blocks="1")
