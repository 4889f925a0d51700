"""A cheap check by CLIP: which of two captions fits an image better. Much less reliable than a multimodal judge."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.passes import Passes
from vsf_cli.judges.pretrained import check_model, reading_model
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import Outcome, Pair

__all__ = ["ClipJudge"]

VERSION = 2
"""Of its answers: since the second, they have scores."""
LIKENESS = 0.2
"""The least cosine at which an image shows its prompt; ViT-B/32 has 0.25 to 0.35 for true captions."""


class ClipJudge:
    """Compares an image with its prompt, and with its prompt and the negative together.

    The object is shown if the image is similar to the prompt; the negative is missing if the prompt alone fits better than
    the prompt "with" it. The probability of that is CLIP's own, the softmax of the two captions. The quality is the similarity
    to the prompt, from 0 to 1. CLIP hardly understands negation, and does not see small parts: use it to find images that went
    wrong, not to compare methods. It runs on the CPU.

    Arguments:
        model: A CLIP model of the hub, or a folder.
        batch_size: The most images of one pass.

    Raises:
        ModelError: At the first image, if the model cannot be loaded.
    """

    name = "clip"
    workers = 1
    costly = True

    def __init__(self, model: str = "openai/clip-vit-base-patch32", batch_size: int = 1) -> None:
        self.settings: Mapping[str, Any] = {"name": self.name, "model": model, "likeness": LIKENESS, "version": VERSION}
        self._model, self._passes = model, Passes(batch_size)

    def check(self, record: Record, offline: bool) -> None:
        """Raises a `ModelError` if the model is not on this machine, and must not be downloaded."""
        check_model(self._model, offline)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPProcessor

        with reading_model(self._model) as source:
            model = CLIPModel.from_pretrained(self._model, use_safetensors=True, **source).eval()
            return model, CLIPProcessor.from_pretrained(self._model, **source)

    @property
    def batch_size(self) -> int:
        """The most images of one pass; it gets smaller where memory does not suffice."""
        return self._passes.size

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the answer about an image."""
        (answer,) = self._answers([(image, record)])
        return answer

    def judge_several(self, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
        """Yields the outcomes of each pass.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        _ = self._loaded  # Now, since that it cannot be loaded is no image's fault.
        yield from self._passes.made(self._answers, pairs)

    def _answers(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """Returns the answers about images by one pass."""
        import torch

        model, processor = self._loaded
        texts = [text for _, one in pairs for text in (one.prompt, f"{one.prompt} with {one.negative}")]
        images = [image for image, _ in pairs]
        with torch.no_grad():
            output = model(**processor(text=texts, images=images, return_tensors="pt", padding=True, truncation=True))
            scale = float(model.logit_scale.exp())
        logits = output.logits_per_image.tolist()  # [images, 2 captions of each image]
        return [_answer(row[2 * number], row[2 * number + 1], scale) for number, row in enumerate(logits)]


def _answer(alone: float, together: float, scale: float) -> Judgement:
    """Returns the answer by the logits of the captions without and with the negative, which are cosines times a scale."""
    absent = (1 + math.tanh((alone - together) / 2)) / 2  # The softmax of both.
    alone, together = alone / scale, together / scale
    reason = f"likeness to the prompt {alone:.3f}, with the negative {together:.3f}"
    quality = min(1.0, max(0.0, alone))
    return Judgement(alone > LIKENESS, alone > together, quality, reason, scores={"absent": round(absent, 6)})
