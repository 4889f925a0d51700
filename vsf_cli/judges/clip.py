"""A cheap check by CLIP: which of two captions fits an image better. Much less reliable than a multimodal judge."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from PIL import Image

from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.pretrained import check_model, reading_model
from vsf_cli.judges.questions import Record

__all__ = ["ClipJudge"]

LIKENESS = 0.2
"""The least cosine at which an image shows its prompt; ViT-B/32 has 0.25 to 0.35 for true captions."""


class ClipJudge:
    """Compares an image with its prompt, and with its prompt and the negative together.

    The object is shown if the image is similar to the prompt; the negative is missing if the prompt alone fits better than
    the prompt "with" it. The quality is the similarity to the prompt, from 0 to 1. CLIP hardly understands negation, and does
    not see small parts: use it to find images that went wrong, not to compare methods.

    Arguments:
        model: A CLIP model of the hub, or a folder.

    Raises:
        ModelError: At the first image, if the model cannot be loaded.
    """

    name = "clip"
    workers = 1
    costly = True

    def __init__(self, model: str = "openai/clip-vit-base-patch32") -> None:
        self.settings: Mapping[str, Any] = {"name": self.name, "model": model, "likeness": LIKENESS}
        self._model = model

    def check(self, record: Record, offline: bool) -> None:
        """Raises a `ModelError` if the model is not on this machine, and must not be downloaded."""
        check_model(self._model, offline)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPProcessor

        with reading_model(self._model) as source:
            model = CLIPModel.from_pretrained(self._model, use_safetensors=True, **source).eval()
            return model, CLIPProcessor.from_pretrained(self._model, **source)

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the answer about an image."""
        import torch

        model, processor = self._loaded
        texts = [record.prompt, f"{record.prompt} with {record.negative}"]
        with torch.no_grad():
            output = model(**processor(text=texts, images=image, return_tensors="pt", padding=True, truncation=True))
            scale = float(model.logit_scale.exp())
        alone, together = (float(value) / scale for value in output.logits_per_image[0])
        reason = f"likeness to the prompt {alone:.3f}, with the negative {together:.3f}"
        return Judgement(alone > LIKENESS, alone > together, min(1.0, max(0.0, alone)), reason)
