"""Flux.2 dev, whose text is padded on the left: a whole pipeline of tiny random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from tests.models.pipelines import build_flux2_dev
from vsf_cli import VSF, guided
from vsf_cli.cli.app import app
from vsf_cli.errors import RequestError
from vsf_cli.generation import run as generation
from vsf_cli.maps import load as load_maps
from vsf_cli.models import family_of

PROMPT = "a red bike"


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = build_flux2_dev()
    made.set_progress_bar_config(disable=True)
    return made


def run(pipe: Any, prompt: Any = PROMPT, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 1, "output_type": "np", "width": 32, "height": 32, **options}
    return pipe(prompt=prompt, generator=generator, **options)[0]


def first_texts(pipe: Any, *calls: Any) -> list[Tensor]:
    """The rows of the text behind the first block in each call."""
    texts: list[Tensor] = []
    handle = pipe.transformer.transformer_blocks[0].register_forward_hook(lambda module, args, out: texts.append(out[0][0]))
    for call in calls:
        call()
    handle.remove()
    return texts


def test_the_negatives_rows_are_those_at_the_end_of_a_text(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def guide() -> None:
        with guided(pipe, "wheels") as applied:
            run(pipe, max_sequence_length=200)
        assert applied.tokens == (len(own),)

    def last_ids(embeddings: Tensor) -> Tensor:
        return ids(embeddings) + torch.tensor([0, 0, 0, 200 - len(own)])

    own, ids = family_of(pipe).encode_negative(pipe, ["wheels"]), pipe._prepare_text_ids
    (joined,) = first_texts(pipe, guide)
    monkeypatch.setattr(pipe, "_prepare_text_ids", last_ids)
    (alone,) = first_texts(pipe, lambda: run(pipe, None, prompt_embeds=own[None]))
    torch.testing.assert_close(joined[: len(own)], alone, atol=1e-5, rtol=1e-5)


def test_an_infinite_bias_is_the_stock_pipeline_and_any_guidance_an_input(pipe: Any) -> None:
    stock = run(pipe, guidance_scale=4.0)
    with guided(pipe, "wheels", VSF(3.0, float("inf"))):
        assert abs(run(pipe, guidance_scale=4.0) - stock).max() < 1e-5
    with guided(pipe, "wheels"):
        assert abs(run(pipe, guidance_scale=4.0) - stock).max() > 1e-4
    with guided(pipe, [["wheels"], ["a person with glasses"]]), pytest.raises(RequestError, match="with --batch-size 1"):
        run(pipe, [PROMPT] * 2)


def vsf(*arguments: str) -> Result:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.usefixtures("no_figures")
def test_it_runs_from_the_command_line(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "flux2-dev"
    pipe.save_config(folder)
    # It is not read, since its processor needs torchvision.
    monkeypatch.setattr(generation, "load", lambda *args, **options: pipe)
    for name, side in (("photo.png", 64), ("hat.png", 80)):
        Image.linear_gradient("L").resize((64, side)).convert("RGB").save(name)
    model = (PROMPT, "--neg", "wheels", "-m", str(folder), "--size", "32x32", "--seed", "1", "--dtype", "float32", "-q")
    images = ("--image", "photo.png", "--image", "hat.png")
    vsf("image", *model, "--steps", "1", "-o", "plain.png", "--dump-attn")
    vsf("image", *model, "--steps", "1", *images, "-o", "edited.png")
    assert Image.open("edited.png").tobytes() != Image.open("plain.png").tobytes()
    assert load_maps("plain-attn").words() == ["wheels"]


def test_tokens_of_the_prompt_stand_behind_their_padding(pipe: Any) -> None:
    family = family_of(pipe)
    states = pipe.encode_prompt(PROMPT, max_sequence_length=200)[0][0]
    own = family.encode_negative(pipe, [PROMPT])
    tokens = [token for token in family.tokens(pipe, PROMPT, [PROMPT], True, 200) if token.word]
    positive, negative = ([one.position for one in tokens if one.prompt == kind] for kind in ("positive", "negative"))
    assert len(positive) == len(negative) >= 3 and max(positive) < 0
    torch.testing.assert_close(states[positive], own[negative], atol=1e-4, rtol=1e-4)
