"""ERNIE-Image: texts at a distance from the image, and the mask of a batch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.families import TINY, WIDTH, drawn
from tests.models.pipelines import build_ernie_image
from vsf_cli import VSF, guided
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded

FAMILY = TINY["ernie-image"].family
IMAGE = 12


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def call(*texts: Tensor) -> dict[str, Any]:
    """A call with prompts, padded to the longest."""
    padded = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    time = torch.full((len(texts),), 0.5).double()
    lengths = torch.tensor([len(text) for text in texts])
    return {"hidden_states": drawn(len(texts), 4, 4, 3), "timestep": time, "text_bth": padded, "text_lens": lengths}


def test_the_negatives_rows_are_those_of_a_prompt_alone() -> None:
    """If the positive prompt is as long: the model's rotary factors depend on more than the distance."""
    model, negative, rows = TINY["ernie-image"].model(), drawn(4, WIDTH), []
    model.layers[0].register_forward_hook(lambda layer, args, out: rows.append(out[:, 0]))
    model(**call(negative))
    with guided(model, negative_prompt_embeds=negative[None]):
        model(**call(drawn(4, WIDTH) + 1))
    torch.testing.assert_close(rows[1][IMAGE + 4 :], rows[0][IMAGE:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("beginning", [0, 1])
def test_each_text_has_its_own_distance_from_the_image(beginning: int) -> None:
    """With all tokens, or without the one for the beginning."""
    model, texts, angles = TINY["ernie-image"].model(), (drawn(4, WIDTH), drawn(3, WIDTH)), []
    # The image's first token is at (0, 0) of its grid.
    model.pos_embed.register_forward_hook(lambda module, args, out: angles.append(out[0, :, 0] - out[0, 0, 0]))
    for text in texts:
        model(**call(text))
    places = torch.cat([torch.arange(beginning, len(text)) for text in texts])
    groups = [Encoded.stack([torch.cat([text[beginning:] for text in texts])], None, [places])]
    with guided_denoisers(FAMILY, [model], VSF(), groups):
        model(**call(drawn(7, WIDTH)))
    alone = torch.cat([one[IMAGE + beginning :] for one in angles[:2]])
    torch.testing.assert_close(angles[2][IMAGE + 7 :], alone, atol=1e-5, rtol=0)


def test_a_batch_of_prompts_of_different_lengths() -> None:
    model, texts, negatives = (
        TINY["ernie-image"].model(),
        [drawn(7, WIDTH), drawn(3, WIDTH)],
        [drawn(4, WIDTH), drawn(2, WIDTH)],
    )
    with guided_denoisers(FAMILY, [model], VSF(2.0), [Encoded.stack(negatives)]):
        found = model(**call(*texts), return_dict=False)[0]
    for number, (text, negative) in enumerate(zip(texts, negatives, strict=True)):
        one = {**call(text), "hidden_states": drawn(2, 4, 4, 3)[number : number + 1]}
        with guided(model, method=VSF(2.0), negative_prompt_embeds=negative[None]):
            torch.testing.assert_close(found[number], model(**one, return_dict=False)[0][0], atol=1e-5, rtol=0)


def test_a_negative_prompt_is_encoded_as_a_prompt_is() -> None:
    pipe = build_ernie_image()
    texts = FAMILY.encode_texts(pipe, ["wheels", "a hat"], special_tokens=False)
    wanted = [pipe.encode_prompt(prompt, "cpu")[0][1:] for prompt in ("wheels", "a hat")]
    assert torch.equal(texts.embeddings, torch.cat(wanted))
    assert texts.positions.tolist() == [place for text in wanted for place in range(1, 1 + len(text))]
