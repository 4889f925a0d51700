"""Z-Image: its texts go through blocks of their own, and stand at a distance from the image."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.families import TINY, WIDTH, drawn
from tests.models.pipelines import build_z_image
from vsf_cli import VSF, guided
from vsf_cli.errors import PatchError
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded
from vsf_cli.models.z_image import Z_IMAGE

TINY_Z = TINY["z-image"]
IMAGE = 32


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def call(*lengths: int) -> dict[str, Any]:
    """A call with prompts of some numbers of tokens, and images without padding, which has positions of its own."""
    images = list(drawn(len(lengths), 4, 1, 8, 16))
    return {"x": images, "t": torch.full((len(lengths),), 0.5).double(), "cap_feats": [drawn(n, WIDTH) for n in lengths]}


def output(model: Any, arguments: dict[str, Any]) -> Tensor:
    return torch.stack(model(**arguments, return_dict=False)[0])


@pytest.mark.parametrize(("positives", "negatives"), [(7, 32), (40, 32), (7, 64)])
def test_the_negatives_rows_are_those_of_a_prompt_alone(positives: int, negatives: int) -> None:
    """Its distance from the image is its own, whether the positive prompt is shorter, as long, or longer."""
    model, rows = TINY_Z.model(), []
    model.layers[0].register_forward_hook(lambda layer, args, out: rows.append(out[0]))
    negative = drawn(1, negatives, WIDTH)
    output(model, {**call(positives), "cap_feats": [negative[0]]})
    with guided(model, negative_prompt_embeds=negative):
        output(model, call(positives))
    torch.testing.assert_close(rows[1][-negatives:], rows[0][IMAGE:], atol=1e-6, rtol=0)
    assert (rows[1][-negatives:] - rows[0][IMAGE:]).abs().max() < 1e-3 * rows[0].abs().max()


def test_hidden_tokens_are_seen_by_their_own_text_alone() -> None:
    model, inputs = TINY_Z.model(), []
    model.layers[0].register_forward_pre_hook(lambda layer, args: inputs.append(args))
    texts = drawn(9, WIDTH), drawn(6, WIDTH)
    for text in texts:
        output(model, {**call(7), "cap_feats": [text]})
    # Three tokens of a template's beginning, and one of its end.
    places = [torch.tensor([-2, -3, -4, 3, 4, 5, 6, 7, -10]), torch.tensor([-2, -3, -4, 3, 4, -7])]
    groups = [Encoded.stack([torch.cat(texts)], None, [torch.cat(places)])]
    assert groups[0].lengths == (7,)
    with guided_denoisers(TINY_Z.family, [model], VSF(), groups):
        output(model, call(7))
    alone = [inputs[0], inputs[1]]
    for part in (0, 2):
        rows = [one[part][0, IMAGE + 3 : IMAGE + end] for one, end in zip(alone, (8, 5), strict=True)]
        torch.testing.assert_close(inputs[2][part][0, -7:], torch.cat(rows), atol=1e-6, rtol=0)


def test_a_batch_of_prompts_of_different_lengths() -> None:
    model, arguments = TINY_Z.model(), call(7, 40)
    rows = [drawn(4, WIDTH), drawn(2, WIDTH)]
    with guided_denoisers(TINY_Z.family, [model], VSF(2.0), [Encoded.stack(rows)]):
        found = output(model, arguments)
    for number, row in enumerate(rows):
        alone = {name: values[number : number + 1] for name, values in arguments.items()}
        with guided(model, method=VSF(2.0), negative_prompt_embeds=row[None]):
            torch.testing.assert_close(found[number : number + 1], output(model, alone), atol=1e-6, rtol=0)


def test_a_controlnet_is_refused() -> None:
    model = TINY_Z.model()
    with guided(model, negative_prompt_embeds=drawn(1, 4, WIDTH)), pytest.raises(PatchError, match="with a ControlNet"):
        output(model, {**call(7), "controlnet_block_samples": {0: torch.zeros(1)}})


def test_embeddings_know_which_tokens_of_their_text_are_hidden() -> None:
    pipe, steps = build_z_image(), []
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.layers[0].register_forward_pre_hook(lambda layer, args: steps.append(args[0]))
    texts = ["wheels", "a hat"]
    for given in ({"negative_prompt": [texts]}, {"negative_prompt_embeds": Z_IMAGE.encode_texts(pipe, texts)}):
        with guided(pipe, **given) as applied:
            generator = torch.Generator().manual_seed(1)
            options = {"num_inference_steps": 1, "guidance_scale": 0.0, "output_type": "latent", "width": 32, "height": 32}
            pipe("a red bike", generator=generator, **options)
    assert torch.equal(*steps) and 0 < applied.tokens[0] < len(Z_IMAGE.encode_negative(pipe, texts))
