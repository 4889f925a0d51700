"""What the attentions of a model share while it is guided."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsf_cli.attention import BACKENDS, scalar
from vsf_cli.errors import PatchError
from vsf_cli.methods import Method

__all__ = ["Encoded", "GuidanceState"]


@dataclass(frozen=True)
class Encoded:
    """Negative prompts as embeddings, one row each.

    Arguments:
        embeddings: Padded with zeros, with shape (rows, N, width).
        lengths: How many tokens of each row are real.
        weights: The weight of each token, with shape (rows, N); None means 1 for all of them.
    """

    embeddings: Tensor
    lengths: tuple[int, ...]
    weights: Tensor | None = None

    @classmethod
    def stack(cls, rows: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> "Encoded":
        """Pads rows of shape (tokens, width), and their weights of shape (tokens,), to the longest."""
        padded = None if weights is None else pad_sequence(list(weights), batch_first=True, padding_value=1.0)
        return cls(pad_sequence(list(rows), batch_first=True), tuple(len(row) for row in rows), padded)

    def expand(self, batch: int) -> "Encoded":
        """The same for a batch in which each row comes `batch / rows` times in a row, as `num_images_per_prompt` has it.

        Raises:
            PatchError: If the batch is not a multiple of the rows.
        """
        rows = len(self.lengths)
        if rows == batch:
            return self
        if batch % rows:
            raise PatchError(f"{rows} negative prompts for a batch of {batch}: give one for all, or one for each prompt")
        times = batch // rows
        lengths = tuple(length for length in self.lengths for _ in range(times))
        weights = None if self.weights is None else self.weights.repeat_interleave(times, dim=0)
        return Encoded(self.embeddings.repeat_interleave(times, dim=0), lengths, weights)


class GuidanceState:
    """The method, and where the negative prompt of the call that is running stands.

    Compiled code knows plain numbers by their value, and is recompiled for another. So what changes from prompt to prompt, or
    from step to step, is a tensor, or follows from a tensor's shape.

    Attributes:
        method: The method.
        is_running: Whether a call of the model is running.
        positives: How many tokens of text are not the negative prompts'; None in a call that is not guided.
        tokens: How many tokens the longest negative prompt has.
        lengths: How many of them are real in each row; None means all of them.
        weights: The weight of each token; None means 1 for all of them.
        progress: How much of the steps is done as this one begins.
        default_backend: The attention backend of diffusers where a processor names none.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.is_running = False
        self.positives: int | None = None
        self.tokens = 0
        self.lengths: Tensor | None = None
        self.weights: Tensor | None = None
        self.progress: Any = 0.0
        self.default_backend: str | None = None
        self._device: torch.device | None = None

    def begin_unguided(self) -> None:
        """Prepares for a call of the model without guidance."""
        self.is_running, self.positives = True, None

    def begin(self, negative: Encoded, text: Tensor, progress: float) -> None:
        """Prepares for a call of the model.

        Arguments:
            negative: The negative prompts.
            text: The positive prompts, with shape (B, P, width).
            progress: How much of the steps is done.
        """
        device = text.device
        if self._device != device:
            self.method, self._device = self.method.on(device), device
        self.progress = scalar(progress, device)
        self.tokens = max(negative.lengths)
        equal = all(length == self.tokens for length in negative.lengths)
        self.lengths = None if equal else torch.tensor(negative.lengths, device=device)
        self.weights = None if negative.weights is None else negative.weights.to(device)
        # Copies but the last count as part of the positive prompt.
        self.positives = text.shape[1] + (self.method.copies - 1) * self.tokens
        self.default_backend = _active_backend()
        self.is_running = True

    def end(self) -> None:
        """Ends the call."""
        self.is_running = False

    def backend(self, chosen: Any) -> str | None:
        """The backend by whose own call our attention has to go; None means PyTorch's own choice.

        Arguments:
            chosen: The backend that a processor names; None means the default.
        """
        name = self.default_backend if chosen is None else getattr(chosen, "value", chosen)
        return name if name in BACKENDS else None


def _active_backend() -> str:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    name, _ = _AttentionBackendRegistry.get_active_backend()
    return getattr(name, "value", name)
