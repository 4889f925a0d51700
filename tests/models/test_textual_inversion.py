"""Textual inversions, whose several vectors are several tokens, in a negative prompt too."""

from typing import Any

import pytest
import torch

from tests.models.pipelines import build_flux, build_sd15
from vsf_cli import guided
from vsf_cli.generation.guided import _weights
from vsf_cli.models import family_of
from vsf_cli.prompts.prompt_weights import parse_weights

VECTORS = 3


@pytest.fixture(params=["sd15", "flux"])
def pipe(request: pytest.FixtureRequest) -> Any:
    made: Any = build_sd15() if request.param == "sd15" else build_flux()
    names = ("text_encoder", "tokenizer") if request.param == "sd15" else ("text_encoder_2", "tokenizer_2")
    encoder, tokenizer = (getattr(made, name) for name in names)
    vectors = torch.randn(VECTORS, encoder.get_input_embeddings().embedding_dim, generator=torch.Generator().manual_seed(1))
    made.load_textual_inversion({"ugly": vectors}, token="ugly", text_encoder=encoder, tokenizer=tokenizer)
    return made


def test_all_vectors_are_in_the_negative_prompt(pipe: Any) -> None:
    with guided(pipe, "ugly") as applied:
        pass
    # Beside the end, CLIP has a token for the beginning.
    assert applied.tokens == (VECTORS + (2 if "unet" in pipe.components else 1),)


def test_weights_are_of_the_words_behind_them(pipe: Any) -> None:
    found = _weights(pipe, family_of(pipe), parse_weights("ugly, (wheels:0.5)"), special_tokens=False)
    assert found[:VECTORS] == [1.0] * VECTORS and found[-1] == 0.5
    assert len(found) == len(family_of(pipe).encode_negative(pipe, ["ugly, wheels"], special_tokens=False))
