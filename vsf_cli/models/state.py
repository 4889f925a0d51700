"""The state that the attentions of a guided model share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsf_cli.attention.exact import BACKENDS, scalar
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import Method

__all__ = ["Encoded", "GuidanceState", "joined"]


@dataclass(frozen=True)
class Encoded:
    """Prompts of one group, the negative or the kept ones, as embeddings, one row each.

    Arguments:
        embeddings: Padded with zeros, with shape (rows, N, width).
        lengths: How many tokens of each row are real, without hidden ones.
        weights: The weight of each token that is not hidden, with shape (rows, N); None means 1 for all of them.
        positions: The position of each token in its own text, with shape (rows, N), -1 for padding, and -2 - p for a hidden
            token at position p; None means that a row is one text.
    """

    embeddings: Tensor
    lengths: tuple[int, ...]
    weights: Tensor | None = None
    positions: Tensor | None = None

    @classmethod
    def stack(
        cls, rows: Sequence[Tensor], weights: Sequence[Tensor] | None = None, positions: Sequence[Tensor] | None = None
    ) -> "Encoded":
        """Pads rows of shape (tokens, width), and their weights and positions of shape (tokens,), to the longest row."""
        padded = None if weights is None else pad_sequence(list(weights), batch_first=True, padding_value=1.0)
        places = None if positions is None else pad_sequence(list(positions), batch_first=True, padding_value=-1)
        lengths = [len(row) for row in rows] if positions is None else [int((row >= 0).sum()) for row in positions]
        return cls(pad_sequence(list(rows), batch_first=True), tuple(lengths), padded, places)

    @property
    def places(self) -> Tensor:
        """The position of each token in its own text, with shape (rows, N)."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.embeddings.shape[1]).expand(self.embeddings.shape[:2])

    def texts(self, row: int) -> "list[tuple[Tensor, Tensor]]":
        """Returns the embeddings and positions of each text of a row."""
        places = self.places[row]
        places = places[: self.lengths[row]] if self.positions is None else places[places != -1]
        begins = [*((places == 0) | (places == -2)).nonzero()[:, 0].tolist(), len(places)]
        counts = [end - begin for begin, end in pairwise(begins)]
        return list(zip(self.embeddings[row, : len(places)].split(counts), places.split(counts), strict=True))

    @property
    def is_even(self) -> bool:
        """Whether all rows have equally many tokens."""
        return len(set(self.lengths)) == 1

    def expand(self, batch: int) -> "Encoded":
        """Returns the prompts with each row repeated to the size of a batch, as `num_images_per_prompt` repeats rows.

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
        weights, positions = (
            None if one is None else one.repeat_interleave(times, dim=0) for one in (self.weights, self.positions)
        )
        return Encoded(self.embeddings.repeat_interleave(times, dim=0), lengths, weights, positions)


def joined(groups: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Returns the embeddings and the positions of groups of prompts, one group after another."""
    parts = [one.embeddings for one in groups], [one.places for one in groups]
    embeddings, places = (part[0] if len(part) == 1 else torch.cat(part, dim=1) for part in parts)
    return embeddings, places


class GuidanceState:
    """The method, and the sizes of the prompts in the running call.

    Compiled code is recompiled for other plain numbers. So what changes with the prompt or the step is a tensor, or a shape.

    Attributes:
        method: The method.
        counts: An empty tensor with shape (R, P, N, ..., 0), for R tokens of images that are edited, and P tokens of text
            before those of each group; None if the call is not guided.
        lengths: How many tokens of each row are real, for each group; None means all of them.
        weights: The weight of each token, for each group; None means 1 for all of them.
        groups: The negative prompts, as often as the method takes them, then the kept ones if there are any.
        progress: The fraction of all steps before this one.
        guided_steps, unguided_steps: How many calls of a model were guided, and how many were outside the method's window.
        default_backend: The attention backend of diffusers for processors without one of their own.
        bias: What folded padding adds to the logits of the positive prompt's keys, with shape (1, 1, 1, P); None: nothing.
        wholes: What the method answered to attentions of each size, until what it knows of a call changes.
        sized: What it makes once for all calls with these sizes of prompts.
        gradients: Whether the call is differentiated, so that no part of it may run again unseen.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.counts: Tensor | None = None
        self.lengths: tuple[Tensor | None, ...] = ()
        self.weights: tuple[Tensor | None, ...] = ()
        self.groups: Sequence[Encoded] = ()
        self.progress: Any = 0.0
        self.guided_steps = self.unguided_steps = 0
        self.default_backend: str | None = None
        self.bias: Tensor | None = None
        self.wholes: dict[Any, Any] = {}
        self.sized: dict[Any, Any] = {}
        self.gradients = False
        self._device: torch.device | None = None
        self._progress: Any = None
        self._fitted: Any = None

    def begin(
        self, groups: Sequence[Encoded], text: Tensor, progress: float, references: int = 0, bias: Tensor | None = None
    ) -> None:
        """Prepares for a guided call of the model with positive prompts of shape (B, P, width).

        Arguments:
            groups: The negative prompts, then the kept ones if there are any.
            text: The embeddings of the positive prompts.
            progress: The fraction of all steps before this one.
            references: The number of tokens of images that are edited.
            bias: What folded padding adds to the logits of the positive prompts' keys, with shape (1, 1, 1, P).

        Raises:
            PatchError: If the groups do not fit the positive prompts.
            RequestError: If the method cannot have groups of several lengths.
        """
        device = text.device
        if self._device != device:
            self.method, self._device = self.method.on(device), device
        self.bias = bias
        self.default_backend = _active_backend()
        mode = device, torch.is_inference_mode_enabled()
        if self._progress != (progress, *mode):
            self.progress, self._progress = scalar(progress, device), (progress, *mode)
        of_step = progress if self.method.varies else None
        fitted = text.shape, text.dtype, references, *mode, of_step, *(_version(one.embeddings) for one in groups)
        # A graph is good for one backward pass.
        if self.counts is None or self._fitted != fitted or torch.is_grad_enabled():
            self._fit([one.expand(len(text)) for one in groups], text, references)
            self._fitted, self.wholes = fitted, {}
        elif bias is not None:
            self.wholes = {}  # Folded padding is counted anew in each call.

    def _fit(self, groups: Sequence[Encoded], text: Tensor, references: int) -> None:
        """Sets the groups, one row for each row of the positive prompts, and the sizes."""
        device = text.device
        for width in (one.embeddings.shape[-1] for one in groups):
            if width != text.shape[-1]:
                raise PatchError(f"the negative prompt's embeddings have width {width}, but the text's {text.shape[-1]}")
        self.lengths = tuple(None if one.is_even else torch.tensor(one.lengths, device=device) for one in groups)
        if self.method.copies > 1 and self.lengths[0] is not None:
            raise RequestError("the layout of the public code takes negative prompts of one length: run the others apart")
        self.weights = tuple(None if one.weights is None else one.weights.to(device) for one in groups)
        longest = [max(one.lengths) for one in groups]
        # Copies but the last count as part of the positive prompt.
        positives = text.shape[1] + (self.method.copies - 1) * sum(longest[:1])
        self._count(device, references, positives, *longest)
        groups = [replace(one, embeddings=one.embeddings.to(text)) for one in groups]
        self.groups = groups[:1] * self.method.copies + groups[1:]

    def _count(self, device: torch.device, *sizes: int) -> None:
        if self.counts is None or self.counts.device != device or self.counts.shape[:-1] != sizes:
            self.counts, self.sized = torch.empty(*sizes, 0, device=device), {}
            for axis in range(len(sizes)):
                torch._dynamo.maybe_mark_dynamic(self.counts, axis)

    def backend(self, chosen: Any) -> str | None:
        """Returns the backend for our attention, by that of a processor; None means PyTorch's own choice."""
        name = self.default_backend if chosen is None else getattr(chosen, "value", chosen)
        return name if name in BACKENDS else None


def _version(tensor: Tensor) -> Any:
    """Returns what is equal as long as a tensor is not changed in place; that of inference mode does not count its changes."""
    return object() if tensor.is_inference() else tensor._version


def _active_backend() -> str:
    name, _ = _AttentionBackendRegistry.get_active_backend()
    return getattr(name, "value", name)
