"""Attention maps: recorded without a change to the image, saved, loaded and drawn."""

import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vsf_cli
from tests.conftest import random_pipeline
from tests.contexts import attended, joint_context
from tests.maps.example_maps import TOKENS, example_images, example_maps
from tests.models.test_wan import random_wan
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.generation.capture import MAX_BYTES, _limit_blocks, capture, check_capture, maps_folder, write_capture
from vsf_cli.generation.generate import Request, generate
from vsf_cli.generation.guided import guided
from vsf_cli.loading.pipelines import load as load_pipeline
from vsf_cli.maps import plots
from vsf_cli.maps.data import AXES, Selection, Token, load, save
from vsf_cli.maps.recorder import Recorder, _Step
from vsf_cli.methods import CFG, NAG, NASA, ONG, VSF, WEF, Angular, Context, KeyValue, Method, NoGuidance, Span, TextGroup
from vsf_cli.models import family_of
from vsf_cli.models.family import PromptTokenizer
from vsf_cli.models.prompt_tokens import prompt_tokens

REQUEST = Request(
    "a red bike", "tests", 3, ("wheels", "a hat"), num_inference_steps=3, max_sequence_length=12, width=16, height=16
)
METHODS = [
    VSF(2.0, 0.4),
    VSF(2.0, 0.4, special_tokens=False),
    VSF(2.0, 0.4, reference_layout=True),
    VSF(2.0, attention_mask=False),
    NAG(),
    NASA(),
    ONG(),
    Angular(),
    NoGuidance(),
]


@pytest.fixture(scope="module")
def small() -> StableDiffusion3Pipeline:
    return random_pipeline("sd3", torch.float32)


def tokens_of(pipe: Any, method: Method) -> list[Token]:
    options = method.special_tokens, 12, method.padding
    tokens: list[Token] = family_of(pipe).tokens(pipe, REQUEST.prompt, REQUEST.negative, *options)
    return tokens


def request_of(method: Method) -> Request:
    return replace(REQUEST, method=method.name, parameters=method.parameters)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_recording_does_not_change_a_bit_of_the_image(small: StableDiffusion3Pipeline, method: Method) -> None:
    before = {name: id(module.processor) for name, module in small.transformer.named_modules() if hasattr(module, "processor")}
    plain = generate(small, request_of(method)).image
    recorder = Recorder(method, Selection().tokens(tokens_of(small, method)))
    assert generate(small, request_of(method), None, recorder).image.tobytes() == plain.tobytes()
    assert len(recorder.maps().steps) == 3
    after = {name: id(module.processor) for name, module in small.transformer.named_modules() if hasattr(module, "processor")}
    assert before == after and not small.transformer._forward_hooks and not small.transformer._forward_pre_hooks


def test_recording_keeps_what_must_stay(small: StableDiffusion3Pipeline) -> None:
    request = replace(request_of(VSF(2.0, 0.4)), keep=("bells",))
    recorder = Recorder(request.guidance, Selection().tokens(tokens_of(small, request.guidance)))
    kept = generate(small, request).image.tobytes()
    assert generate(small, request, None, recorder).image.tobytes() == kept
    assert kept != generate(small, replace(request, keep=())).image.tobytes()
    assert recorder.maps().kept_share is not None


def test_words_that_are_kept_have_maps(small: StableDiffusion3Pipeline, tmp_path: Path) -> None:
    captured = capture(small, replace(request_of(VSF(2.0, 0.4)), keep=("glasses, a hat",)), Selection())
    assert captured.maps.words("kept") == ["glasses", "a", "hat"]
    assert captured.maps.word("glasses", "kept").shape == captured.maps.share.shape
    write_capture(captured, tmp_path, {"request": {"model": "tests"}, "versions": {}, "size": [16, 16]}, metadata=False)
    again = load(tmp_path)
    assert again.kept_share is not None and np.array_equal(again.kept_share, captured.maps.kept_share)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["mean_kept_share"]["per step"]) == 3 and summary["axes"]["kept_share"] == list(AXES["kept_share"])
    page = (tmp_path / "index.html").read_text()
    assert "all that is kept" in page and "keep glasses" in page and "keep glasses, a hat" in page


def test_without_contrast_nothing_is_kept(small: StableDiffusion3Pipeline) -> None:
    captured = capture(small, replace(request_of(VSF(2.0, 0.4, contrast=0.0)), keep=("glasses",)), Selection())
    assert captured.maps.kept_share is None and not captured.maps.words("kept")


def dense_share(query: torch.Tensor, keys: list[torch.Tensor], beta: float) -> torch.Tensor:
    """Returns the softmax mass on the last of [image, positive, negative - beta] in float64, with shape (H, I)."""
    logits = [query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5 for key in keys]
    logits[-1] = logits[-1] - beta
    return torch.cat(logits, -1).softmax(-1)[..., -keys[-1].shape[-2] :].sum(-1)


@given(st.integers(1, 20), st.integers(1, 9), st.tuples(*[st.integers(1, 5)] * 2), st.floats(-3, 3), st.integers(0, 2**31))
def test_shares_are_those_of_the_dense_softmax(
    images: int, positives: int, counts: tuple[int, int], beta: float, seed: int
) -> None:
    random_numbers = torch.Generator().manual_seed(seed)
    negatives, keeps = counts
    query, image, positive, negative, kept = (
        torch.randn(1, 3, count, 8, generator=random_numbers) * 1.5 for count in (images, images, positives, negatives, keeps)
    )
    base = KeyValue(torch.cat([image, positive], 2), torch.cat([image, positive], 2))
    tokens = [Token("positive", "clip", 0, "a", "a", 0), Token("negative", "clip", negatives - 1, "b", "b", 0)]
    recorder = Recorder(VSF(1.0, beta), tokens, Selection(heads=(1, 2, 3)))

    class SD3Transformer2DModel(torch.nn.Module):
        """A stand-in that is known by its name."""

        config = type("Config", (), {"patch_size": 1})

        def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor) -> None:
            """Never called."""

    transformer = SD3Transformer2DModel()
    scheduler = type("Scheduler", (), {"sigmas": torch.tensor([0.5, 0.0]), "step_index": 1, "config": {}})()
    type(scheduler).step = lambda self, output, timestep, sample: (sample,)
    with recorder.recording(type("Pipe", (), {"transformer": transformer, "scheduler": scheduler})):
        latents = torch.zeros(1, 1, 1, images)
        for hook in list(transformer._forward_pre_hooks.values()):
            hook(transformer, (), {"hidden_states": latents, "encoder_hidden_states": latents})  # type: ignore[call-arg]
        rows = torch.cat([query, torch.zeros_like(positive)], 2)
        attended(recorder, rows, joint_context(base, images, TextGroup(negative, negative), TextGroup(kept, kept)))
        scheduler.step(latents, 500, latents)
    assert "step" not in vars(scheduler), "the scheduler is as it was"
    recorder._blocks = 1
    maps = recorder.maps()
    for share, group in ((maps.share, negative), (maps.kept_share, kept)):
        wanted = dense_share(query[0], [image[0], positive[0], group[0]], beta)
        assert share is not None and np.abs(share[0, 0, :, 0, 0] - wanted.numpy()).max() < 1e-6
    logits = query[0].double() @ torch.stack([positive[0, :, 0], negative[0, :, -1]], 1).double().transpose(-1, -2) / 8**0.5
    assert np.abs(maps.logits[0, 0, :, :, 0, 0].transpose(0, 2, 1) - logits.numpy()).max() < 0.05
    assert maps.sigmas == (0.5,)


def test_the_estimate_of_a_flow_is_the_image_at_the_end_of_its_velocity(small: StableDiffusion3Pipeline) -> None:
    method = VSF(2.0, 0.4)
    recorder = Recorder(method, Selection().tokens(tokens_of(small, method)))
    steps: list[torch.Tensor] = []

    def after(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(tensors["latents"].clone())
        return tensors

    with recorder.recording(small), guided(small, [list(REQUEST.negative)], recorder):
        small(
            REQUEST.prompt,
            num_inference_steps=3,
            guidance_scale=0.0,
            width=16,
            height=16,
            max_sequence_length=12,
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=after,
            output_type="latent",
        )
    # Euler's last step ends on sigma 0: on the estimate itself.
    assert torch.allclose(recorder.estimates()[-1], steps[-1], atol=1e-4)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["red, wheels", "wheels !", "a zebra"])
def test_tokens_are_counted_as_they_are_encoded(small: StableDiffusion3Pipeline, special: bool, text: str) -> None:
    family = family_of(small)
    tokens = [token for token in family.tokens(small, "a bike", [text], special, 12) if token.prompt == "negative"]
    assert len(tokens) == len(family.encode_negative(small, [text], special))


@pytest.mark.parametrize("special", [True, False])
def test_tokens_stand_where_the_transformer_has_them(small: StableDiffusion3Pipeline, special: bool) -> None:
    family = family_of(small)
    tokens = family.tokens(small, REQUEST.prompt, REQUEST.negative, special, 12)
    negative = [token for token in tokens if token.prompt == "negative"]
    assert [token.position for token in negative] == list(range(len(negative)))
    assert len(negative) == len(family.encode_negative(small, REQUEST.negative, special))
    assert special == any(token.special for token in negative)
    whole = [token for token in negative if not token.special]
    assert {token.word for token in whole} == {"wheels", "a", "hat"}
    assert {token.encoder for token in whole if token.word == "wheels"} == {"clip", "t5"}

    # The positions of T5 come after those of CLIP.
    clip = small.tokenizer_max_length
    positive = [token for token in tokens if token.prompt == "positive"]
    assert [token.word for token in positive if token.encoder == "t5" and not token.special] == ["a", "red", "bike"]
    assert all((token.position >= clip) == (token.encoder == "t5") for token in positive)
    ids = small.tokenizer_3(REQUEST.prompt).input_ids
    pieces = [token.piece for token in positive if token.encoder == "t5"]
    assert pieces == small.tokenizer_3.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("make", [random_wan, lambda: random_pipeline("sd3")], ids=["wan", "sd3"])
def test_the_token_that_is_read_of_a_padded_negative_is_the_word(make: Callable[[], Any]) -> None:
    pipe = make()
    clip = getattr(pipe, "tokenizer_max_length", 0)
    padded = {"t5": (getattr(pipe, "tokenizer_3", pipe.tokenizer), clip, 12), "clip": (pipe.tokenizer, 0, clip)}
    tokens = [one for one in tokens_of(pipe, NAG()) if one.prompt == "negative"]
    assert {one.word for one in tokens} == {"wheels", "a", "hat", ""}
    for one in tokens:
        tokenizer, first, length = padded[one.encoder]
        # As the pipeline itself reads it.
        ids = tokenizer(", ".join(REQUEST.negative), padding="max_length", max_length=length, truncation=True).input_ids
        assert tokenizer.convert_ids_to_tokens(ids[one.position - first]) == one.piece
    assert len(family_of(pipe).encode_padded(pipe, REQUEST.negative, 12)) == clip + 12


def test_punctuation_belongs_to_no_word() -> None:
    pipe = random_pipeline("sd3", torch.float32)
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_3):
        tokens = prompt_tokens(
            PromptTokenizer("any", tokenizer, start=0, max_length=77), "negative", "A red, t-shirt (wheels) !"
        )
        words: dict[tuple[str, int], str] = {}
        for token in tokens:
            words[token.word, token.start] = words.get((token.word, token.start), "") + token.piece
        named = [(word, start) for word, start in words if word]
        assert named == [("a", 0), ("red", 2), ("t-shirt", 7), ("wheels", 16)]
        assert words["red", 2].strip("\u2581").removesuffix("</w>") == "red", "the comma is no piece of it"


def test_pieces_of_a_word_are_joined_by_the_embedded_tokenizers() -> None:
    pipe = load_pipeline("builtin:tiny-sd3-turbo", "float32")
    for tokenizer, pieces in (
        (pipe.tokenizer, ["s", "k", "at", "e", "bo", "a", "r", "d</w>"]),
        (pipe.tokenizer_3, ["\u2581", *"skateboard"]),
    ):
        tokens = prompt_tokens(
            PromptTokenizer("any", tokenizer, start=0, max_length=77), "positive", "a red skateboard, with wheels"
        )
        assert [token.piece for token in tokens if token.word == "skateboard"] == pieces
        assert {token.start for token in tokens if token.word == "skateboard"} == {6}
        assert list(dict.fromkeys(token.word for token in tokens if token.word)) == ["a", "red", "skateboard", "with", "wheels"]


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps have the sizes of those that the command above the example writes: 4 guided steps, 6 blocks, 12 x 12 tokens."""
    text = (Path(vsf_cli.__file__).parent.parent / "docs" / "maps.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(from vsf_cli import maps\n.*?)```", text, re.S)
    (folder,) = re.findall(r'maps\.load\("(.*?)"\)', block)
    save(example_maps(steps=4, blocks=6, side=12), tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["loaded"].words() == ["wheels"]


def test_a_prompt_that_is_cut_ends_with_its_end(small: StableDiffusion3Pipeline) -> None:
    text = "a red bike with blue wheels on a road a person with an umbrella"
    tokens = [one for one in family_of(small).tokens(small, text, ["wheels"], True, 6) if one.prompt == "positive"]
    last = {name: [one for one in tokens if one.encoder == name][-1] for name in ("clip", "t5")}
    assert last["t5"].position == small.tokenizer_max_length + 5 and last["t5"].piece == "</s>"
    assert last["t5"].special and not last["t5"].word


def test_pieces_and_copies_of_a_word_are_joined() -> None:
    maps = example_maps()
    assert maps.words() == ["wheels"] and maps.words("positive") == ["bike"] and maps.encoders("wheels") == ["clip", "t5"]
    pieces = maps.logits.astype(np.float32)
    assert np.allclose(maps.word("wheels", encoder="clip"), pieces[:, :, :, 2] + pieces[:, :, :, 3])
    assert np.allclose(maps.word("wheels"), maps.word("wheels", encoder="clip") + maps.word("wheels", encoder="t5"))
    with pytest.raises(RequestError, match="has no 'hat' in these maps: it has wheels"):
        maps.word("hat")
    with pytest.raises(RequestError, match="encoder is 't6', but must be one of clip, t5"):
        maps.word("wheels", encoder="t6")
    with pytest.raises(RequestError, match="prompt is 'kepd', but must be one of positive, negative, kept"):
        maps.word("wheels", "kepd")


def test_maps_are_read_back_as_they_were(tmp_path: Path) -> None:
    maps = example_maps()
    save(maps, tmp_path)
    loaded = load(tmp_path)
    assert np.array_equal(loaded.logits, maps.logits) and np.array_equal(loaded.share, maps.share)
    assert vars(replace(loaded, logits=maps.logits, share=maps.share)) == vars(maps)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {name: len(axes) for name, axes in AXES.items()} == {"logits": 7, "share": 6, "kept_share": 6}
    assert maps.logits.ndim == 7 and maps.share.ndim == 6
    assert len(summary["mean_share"]["per step"]) == 3 and len(summary["mean_share"]["per block"]) == 6
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "schema": 99}))
    with pytest.raises(MediaError, match="has schema 99"):
        load(tmp_path)
    with pytest.raises(MediaError, match="no maps that can be read"):
        load(tmp_path / "nowhere")


def test_missing_blocks_heads_and_words_cannot_be_selected() -> None:
    with pytest.raises(RequestError, match="--tokens names 'hat', but the prompts have bike, wheels"):
        Selection(words=("hat",)).tokens(TOKENS)
    for name, message in (("blocks", "blocks 1 to 6"), ("heads", "1 to 4")):
        with pytest.raises(RequestError, match=message):
            Selection(**{name: (9,)}).check(6, 4)
    for steps, acting, message in (
        ((9,), range(1, 5), "--steps has 9, but there are steps 1 to 8"),
        ((6, 7), range(1, 5), "--steps has 6, but guided steps are 1 to 4; --stop 1 guides all"),
        ((1, 6), range(1, 5), "--steps has 6, but guided steps are 1 to 4; --stop 1 guides all"),
        ((1, 6), range(3, 9), "--steps has 1, but guided steps are 3 to 8; --start 0 --stop 1 guides all"),
    ):
        with pytest.raises(RequestError, match=message):
            Selection(steps=steps).check_steps(8, acting)
    assert Selection.parse("1..3,8", None, "2", "Wheels, red") == Selection((1, 2, 3, 8), None, (2,), ("wheels", "red"))
    with pytest.raises(ValueError, match="'x' is no block"):
        Selection.parse(None, "x", None, None)


def test_a_selection_keeps_what_it_names(small: StableDiffusion3Pipeline) -> None:
    everything = capture(small, request_of(VSF(2.0, 0.4)), Selection(heads=(1, 2, 3, 4))).maps
    some = capture(small, request_of(VSF(2.0, 0.4)), Selection((2,), (1, 3), (4,), ("wheels",)))
    assert some.maps.logits.shape[:4] == (1, 2, 1, 2) and len(some.estimates) == 1
    assert (some.maps.steps, some.maps.blocks, some.maps.heads) == ((2,), (1, 3), (4,))
    assert np.array_equal(some.maps.share, everything.share[[1]][:, [0, 2]][:, :, [3]])
    assert np.array_equal(some.maps.word("wheels"), everything.word("wheels")[[1]][:, [0, 2]][:, :, [3]])
    mean = capture(small, request_of(VSF(2.0, 0.4)), Selection()).maps
    assert np.allclose(mean.share[:, :, 0], everything.share.mean(2), atol=1e-6)


def test_requests_without_maps_are_refused(small: StableDiffusion3Pipeline) -> None:
    with pytest.raises(RequestError, match="add --neg"):
        capture(small, replace(REQUEST, negative=()), Selection())
    with pytest.raises(RequestError, match="--guidance is 4, but maps are of one call of the model a step"):
        check_capture(replace(request_of(NoGuidance()), guidance_scale=4.0))
    with pytest.raises(RequestError, match="--steps has 3, but guided steps are 1 to 2"):
        check_capture(request_of(VSF(2.0, stop=0.5)), Selection(steps=(3,)))
    for method in (CFG(), WEF()):
        with pytest.raises(RequestError, match=f"{method.name} acts outside of attention"):
            Recorder(method, ())
    recorder = Recorder(NoGuidance(), tokens_of(small, NoGuidance()))
    with (
        pytest.raises(RequestError, match="one image at a time"),
        recorder.recording(small),
        guided(small, "wheels", recorder),
    ):
        small(["a bike", "a hat"], num_inference_steps=1, guidance_scale=0.0, width=16, height=16, max_sequence_length=12)
    with pytest.raises(RequestError, match="no attention was recorded"):
        Recorder(VSF(), ()).maps()


def recorded(steps: int, blocks: int, images: int, positives: int, negatives: int, heads: int = 2) -> Recorder:
    """Returns a recorder of random attention, with the mean over heads."""
    tokens = [Token("positive", "t5", position, "a", "a", 0) for position in range(positives)]
    tokens += [Token("negative", "t5", position, "b", "b", 0) for position in range(negatives)]
    recorder = Recorder(NoGuidance(), tokens)
    recorder._grid = (1, 1, images)
    keys = torch.randn(1, heads, images + positives + negatives, 8)
    base, negative = KeyValue(keys, keys).part(Span(0, images + positives)), keys[:, :, images + positives :]
    context = joint_context(base, images, TextGroup(negative, negative))
    for _ in range(steps):
        recorder._steps.append(_Step(1.0))
        for _ in range(blocks):
            attended(recorder, keys[:, :, : images + positives], context)
    recorder._blocks = blocks
    return recorder


def recorded_bytes(recorder: Recorder) -> int:
    """Returns the bytes of the records, with those of padding in their storage."""
    tensors = [tensor for step in recorder._steps for tensor in (*step.logits, *step.share)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_memory_is_what_the_docs_say() -> None:
    """SD3.5-Large at 1024 px: 4,096 image tokens, 45 + 10 text tokens; 1 of its 8 steps and 2 of its 38 blocks."""
    recorder = recorded(1, 2, 4096, 45, 10)
    bytes_ = 1 * 2 * 4096 * (2 * 55 + 4)
    assert recorded_bytes(recorder) == bytes_ and bytes_ * 8 * 19 == 141_950_976 < 200e6
    maps = recorder.maps()
    assert maps.logits.nbytes + maps.share.nbytes == bytes_ and recorded_bytes(recorder) == 0, "once, and not twice"
    assert recorder.maps().share is not None and np.shares_memory(recorder.maps().share, maps.share)


def test_gathering_holds_no_second_copy() -> None:
    recorder = recorded(8, 4, 1024, 20, 4)
    whole = recorded_bytes(recorder)
    tracemalloc.start()
    recorder.maps()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole <= peak < 1.1 * whole, "the arrays themselves"


def test_products_are_without_the_root(tmp_path: Path) -> None:
    maps = example_maps()
    assert np.allclose(maps.products, maps.logits.astype(np.float32) * 32**0.5) and maps.products.dtype == np.float32
    save(maps, tmp_path)
    units = json.loads((tmp_path / "summary.json").read_text())["units"]
    assert units["products"] == "q k^T: logits * sqrt(32)" and units["logits"] == "q k^T / sqrt(32), nats"


def test_special_tokens_are_kept_if_they_are_named(small: StableDiffusion3Pipeline) -> None:
    tokens = tokens_of(small, VSF())
    words = {token.word for token in Selection().tokens(tokens)}
    assert words == {"a", "red", "bike", "wheels", "hat"} and Selection(words=("all",)).tokens(tokens) == Selection().tokens(
        tokens
    )
    special = Selection(words=("special",)).tokens(tokens)
    assert {token.word for token in special} == {"<|startoftext|>", "<|endoftext|>", "</s>"}
    both = Selection(words=("special", "wheels")).tokens(tokens)
    assert {token.word for token in both} == {"<|startoftext|>", "<|endoftext|>", "</s>", "wheels"}
    maps = capture(small, request_of(VSF(2.0, 0.4)), Selection(words=("all", "special"))).maps
    assert set(maps.words()) == {"<|startoftext|>", "<|endoftext|>", "</s>", "wheels", "a", "hat"}


def test_steps_that_are_not_guided_have_no_maps(small: StableDiffusion3Pipeline, tmp_path: Path) -> None:
    captured = capture(small, request_of(VSF(2.0, 0.4, stop=0.5)), Selection())
    assert captured.maps.steps == (1, 2) and captured.maps.blocks == tuple(range(1, 1 + captured.maps.share.shape[1]))
    assert len(captured.estimates) == 2
    write_capture(captured, tmp_path, {"request": {"model": "tests"}, "versions": {}, "size": [16, 16]}, metadata=False)
    assert load(tmp_path).steps == (1, 2)


def test_a_folder_that_fails_half_way_says_what_is_written(
    small: StableDiffusion3Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = capture(small, request_of(VSF(2.0, 0.4)), Selection())

    def written_until(error: BaseException) -> str:
        monkeypatch.setattr(plots, "curves", Mock(side_effect=error))
        description = {"request": {"model": "tests"}, "versions": {}, "size": [16, 16]}
        with pytest.raises(type(error)) as raised:
            write_capture(captured, tmp_path / "x", description, metadata=False, before=[tmp_path / "x.png"])
        return "; ".join([str(raised.value), *getattr(raised.value, "__notes__", [])])

    names = f"written before: {tmp_path}/x.png, {tmp_path}/x/picture.png, "
    for error, message in (
        (MediaError("the disk is full"), f"the disk is full; {names}"),
        (KeyboardInterrupt(), names),
        (ZeroDivisionError("a bug"), f"a bug; {names}"),
    ):
        said = written_until(error)
        assert said.startswith(message) and said.endswith(f"{tmp_path}/x/words.png")
    assert (tmp_path / "x" / "maps.npz").exists() and not (tmp_path / "x" / "index.html").exists()


@pytest.mark.parametrize("error", [RequestError("half way"), KeyboardInterrupt("half way"), ValueError("half way")], ids=repr)
def test_a_model_that_fails_half_way_is_left_unpatched(
    small: StableDiffusion3Pipeline, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = small.transformer.attn_processors
    calls = []

    def failing(self: Any, query: torch.Tensor, context: Context) -> None:
        calls.append(query)
        if len(calls) == 5:
            raise error

    monkeypatch.setattr(Recorder, "_record", failing)
    with pytest.raises(type(error), match="half way"):
        capture(small, request_of(VSF(2.0, 0.4)), Selection())
    after = small.transformer.attn_processors
    assert all(after[name] is processor for name, processor in before.items())
    assert not small.transformer._forward_hooks and not small.transformer._forward_pre_hooks


def test_figures_are_drawn_with_one_scale_and_no_clipped_text() -> None:
    maps, (final, unguided, estimates) = example_maps(steps=12), example_images(steps=12)
    for figure in (
        plots.grid(maps, "share", final, unguided, estimates),
        plots.grid(maps, "logits", final, None, estimates),
        plots.words(maps, final),
        plots.curves(maps),
        plots.frames(example_maps(frames=5), *example_images(frames=5)[:2]),
        plots.frames(example_maps(frames=21), example_images(frames=21)[0], None),
    ):
        figure.draw_without_rendering()
        text, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(text.x0, text.y0) > -0.01 and text.x1 < width + 0.01 and text.y1 < height + 0.01, "nothing is cut"
        maps_of = [[image for image in axes.images if image.get_array().ndim == 2] for axes in figure.axes]
        limits = {image.get_clim() for images in maps_of for image in images}
        assert len(limits) <= (2 if figure.get_supxlabel() else 1), "one scale, and in words.png another of sums"
    columns = [
        axes.get_title() for axes in plots.grid(maps, "share", final, unguided, estimates).axes if "step" in axes.get_title()
    ]
    assert columns[0].startswith("step 1\n") and columns[-1].startswith("step 12\n") and len(columns) == plots.MAX_COLUMNS


@pytest.mark.parametrize(("steps", "named"), [(4, ["step 1", "step 2", "step 3", "step 4"]), (9, [])])
def test_every_curve_and_every_bar_of_colours_is_named(steps: int, named: list[str]) -> None:
    """Few lines by a legend, many by a bar."""
    maps = example_maps(steps=steps)
    _, by_block, *bars = plots.curves(maps).axes
    legend = by_block.get_legend()
    assert (
        [text.get_text() for text in legend.get_texts()] == named if legend else [bar.get_ylabel() for bar in bars] == ["step"]
    )
    assert len(by_block.lines) == steps and bool(named) == (legend is not None)
    assert [axes.get_xlabel() for axes in plots.words(maps, example_images()[0]).axes[-2:]] == ["CLIP and T5", "sum"]


def test_without_a_word_of_the_negative_there_is_no_grid_of_its_logits(small: StableDiffusion3Pipeline, tmp_path: Path) -> None:
    for words in (("bike",), ("special",)):
        captured = capture(small, request_of(VSF(2.0, 0.4)), Selection(words=words))
        description = {"request": {"model": "tests"}, "versions": {}, "size": [16, 16]}
        names = {path.name for path in write_capture(captured, tmp_path / words[0], description, metadata=False)}
        assert "grid-logits.png" not in names and {"grid.png", "words.png", "index.html"} <= names


def test_a_video_has_maps_of_each_latent_frame(tmp_path: Path) -> None:
    pipe = random_wan(torch.float32)
    request = Request("a red bike", "tests", 3, ("wheels",), num_inference_steps=3, max_sequence_length=12, width=32, height=32)
    request = replace(request, num_frames=9, drop_frames=2, fps=4)
    plain = generate(pipe, request)
    captured = capture(pipe, request, Selection())
    assert [frame.tobytes() for frame in captured.result.frames] == [frame.tobytes() for frame in plain.frames]
    assert len(plain.frames) == 7 and captured.result.request == plain.request
    assert captured.maps.share.shape == (3, 3, 1, 3, 2, 2), "steps, blocks, heads, latent frames, rows, columns"
    assert [len(frames) for frames in (captured.final, captured.unguided or [], *captured.estimates)] == [3] * 5
    description = {"request": {"model": "tests"}, "versions": {}, "size": [32, 32]}
    (tmp_path / "steps" / "9").mkdir(parents=True)
    for name in ("steps/9/1.png", "mine.txt"):
        (tmp_path / name).touch()
    written = {path.relative_to(tmp_path).as_posix() for path in write_capture(captured, tmp_path, description)}
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*written, "mine.txt"}, "what a longer run left is gone"
    assert {"overlay.webp", "frames.png", "frames/3.png", "no-guidance/1.png", "steps/2/3.png", "index.html"} <= written
    with Image.open(tmp_path / "overlay.webp") as overlay:
        assert overlay.n_frames == 7 and overlay.size == (32, 32)
    video = [Image.new("RGB", (8, 8))] * 7
    whole = plots.overlay(captured.maps, [*video, *video[:2]])
    assert [frame.tobytes() for frame in plots.overlay(captured.maps, video, 2)] == [frame.tobytes() for frame in whole[2:]]
    assert load(tmp_path).share.shape == captured.maps.share.shape


def test_both_transformers_are_recorded() -> None:
    pipe = random_wan(torch.float32, two=True)
    request = Request("a red bike", "tests", 3, ("wheels",), num_inference_steps=4, max_sequence_length=12, width=32, height=32)
    request = replace(request, num_frames=5, fps=4)
    maps = capture(pipe, request, Selection()).maps
    assert maps.steps == (1, 2, 3, 4) and maps.blocks == (1, 2, 3) and maps.share.shape[:2] == (4, 3)
    assert capture(pipe, request, Selection(blocks=(3,))).maps.blocks == (3,)
    with pytest.raises(RequestError, match="--blocks has 4, but there are blocks 1 to 3"):
        capture(pipe, request, Selection(blocks=(4,)))


def test_the_result_notes_which_blocks_are_kept(small: StableDiffusion3Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsf_cli.generation.capture.MAX_BYTES", 3000)
    captured = capture(small, request_of(VSF(2.0, 0.4)), Selection())
    assert len(captured.maps.blocks) < 3
    (note,) = captured.result.notes
    assert f"blocks {', '.join(map(str, captured.maps.blocks))} are kept" in note


def test_large_maps_keep_fewer_blocks() -> None:
    everything, notes = _limit_blocks(Selection(), 114, 38, 64 * 64, 8)
    assert everything == Selection() and not notes
    wan, notes = _limit_blocks(Selection(), 114, 30, 21 * 30 * 52, 8)
    assert wan.blocks is not None and wan.blocks[0] == 1 and wan.blocks[-1] == 30 and 1 < len(wan.blocks) < 30
    assert len(wan.blocks) * 8 * 21 * 30 * 52 * (2 * 55 + 4) <= MAX_BYTES
    assert "all 30 blocks would be 896 MB" in notes[0] and ", 30 are kept" in notes[0]
    chosen, notes = _limit_blocks(Selection(blocks=(3,)), 55, 30, 21 * 30 * 52, 8)
    assert chosen.blocks == (3,) and not notes


def test_the_folder_stands_beside_the_image() -> None:
    assert maps_folder(Path("outputs/a.b-1.png")) == Path("outputs/a.b-1-attn")


def test_maps_are_shown_on_one_line() -> None:
    maps = example_maps()
    assert repr(maps) == "Maps(wheels: logits 3 x 6 x 1 x 5 x 1 x 4 x 4, share 3 x 6 x 1 x 1 x 4 x 4)"
    # Arrays have no single truth: maps are equal to themselves alone.
    assert maps == maps and maps != example_maps()
