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
    """Prompts of one group, the negative or the kept ones, as embeddings, one row each.

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

    @property
    def is_even(self) -> bool:
        """Whether all rows have equally many tokens."""
        return len(set(self.lengths)) == 1

    def expand(self, batch: int) -> "Encoded":
        """The same for a batch in which each row comes `batch / rows` times in a row, as `num_images_per_prompt` has it.

        Raises:
            PatchError: If the batch is not a multiple of the rows.
        """
        rows = len(self.lengths)
        if rows == batch:
            return self
        if batch % rows:
            raise PatchError(
                f"{rows} negative or kept prompts for a batch of {batch}: give one for all, or one for each prompt"
            )
        times = batch // rows
        lengths = tuple(length for length in self.lengths for _ in range(times))
        weights = None if self.weights is None else self.weights.repeat_interleave(times, dim=0)
        return Encoded(self.embeddings.repeat_interleave(times, dim=0), lengths, weights)


class GuidanceState:
    """The method, and where the negative and the kept prompts of the call that is running stand.

    Compiled code knows plain numbers by their value, and is recompiled for another. So what changes from prompt to prompt, or
    from step to step, is a tensor, or follows from a tensor's shape.

    Attributes:
        method: The method.
        counts: An empty tensor with shape (P, N, ..., 0): how many tokens of text are in no group, and how many the longest row
            of each group has; None in a call that is not guided.
        lengths: For each group, how many tokens are real in each row; None means all of them.
        weights: For each group, the weight of each token; None means 1 for all of them.
        progress: How much of the steps is done as this one begins.
        default_backend: The attention backend of diffusers where a processor names none.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.counts: Tensor | None = None
        self.lengths: tuple[Tensor | None, ...] = ()
        self.weights: tuple[Tensor | None, ...] = ()
        self.progress: Any = 0.0
        self.default_backend: str | None = None
        self._device: torch.device | None = None

    def begin_unguided(self) -> None:
        """Prepares for a call of the model without guidance."""
        self.counts = None

    def begin(self, groups: Sequence[Encoded], text: Tensor, progress: float) -> None:
        """Prepares for a call of the model.

        Arguments:
            groups: The negative prompts, then the kept ones if there are any.
            text: The positive prompts, with shape (B, P, width).
            progress: How much of the steps is done.
        """
        device = text.device
        if self._device != device:
            self.method, self._device = self.method.on(device), device
        self.progress = scalar(progress, device)
        self.lengths = tuple(None if one.is_even else torch.tensor(one.lengths, device=device) for one in groups)
        self.weights = tuple(None if one.weights is None else one.weights.to(device) for one in groups)
        longest = [max(one.lengths) for one in groups]
        # Copies but the last count as part of the positive prompt.
        positives = text.shape[1] + (self.method.copies - 1) * longest[0]
        self.counts = torch.empty(positives, *longest, 0, device=device)
        for axis in range(1 + len(longest)):
            torch._dynamo.maybe_mark_dynamic(self.counts, axis)
        self.default_backend = _active_backend()

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
