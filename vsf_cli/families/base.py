"""What every model family offers, and what its processors share during one `with`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsf_cli.errors import PatchError
from vsf_cli.maps import Token
from vsf_cli.methods import Method

__all__ = ["Encoded", "Family", "Guidance", "progress"]


@dataclass(frozen=True)
class Encoded:
    """Negative prompts as embeddings, one row each.

    Arguments:
        embeddings: Padded with zeros, with shape (rows, N, width).
        lengths: How many tokens of each row are real.
    """

    embeddings: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def stack(cls, rows: Sequence[Tensor]) -> "Encoded":
        """Pads rows of shape (tokens, width) to the longest."""
        return cls(pad_sequence(list(rows), batch_first=True), tuple(len(row) for row in rows))

    def expand(self, batch: int) -> "Encoded":
        """The same for a batch in which each row comes `batch / rows` times in a row, as `num_images_per_prompt` has it.

        Raises:
            PatchError: If the batch is no multiple of the rows.
        """
        rows = len(self.lengths)
        if rows == batch:
            return self
        if batch % rows:
            raise PatchError(f"{rows} negative prompts for a batch of {batch}: give one for all, or one for each prompt")
        times = batch // rows
        lengths = tuple(length for length in self.lengths for _ in range(times))
        return Encoded(self.embeddings.repeat_interleave(times, dim=0), lengths)


class Guidance:
    """What the processors of one model share while it is guided: the method, and how long this call's negative is."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.tokens = 0
        self.lengths: Tensor | None = None

    @property
    def windowed(self) -> bool:
        """Whether some steps are not guided."""
        return self.method.start > 0 or self.method.stop < 1

    def rest(self) -> None:
        """Takes note that the forward call that begins is not guided: it has no negative prompt."""
        self.tokens = 0

    def begin(self, lengths: Sequence[int], device: torch.device) -> None:
        """Takes note of the negative prompts of the forward call that begins."""
        self.tokens = max(lengths)
        equal = all(length == self.tokens for length in lengths)
        self.lengths = None if equal else torch.tensor(lengths, device=device)


def progress(pipe: Any, timestep: Tensor) -> float:
    """How much of the steps is done as the one with that timestep begins: 0 at the first, below 1 at the last."""
    timesteps: Tensor = pipe.scheduler.timesteps
    return int((timesteps - timestep.max().to(timesteps)).abs().argmin()) / len(timesteps)


class Family(Protocol):
    """A family of models."""

    pipelines: tuple[str, ...]
    """The names of the diffusers pipelines of this family, text to image first."""

    def encode_negative(self, pipe: Any, prompts: Sequence[str], special_tokens: bool = True) -> Tensor:
        """Encodes prompts, each alone and without padding, and joins them; with shape (tokens, width)."""
        ...

    def tokens(self, pipe: Any, prompt: str, negative: Sequence[str], special_tokens: bool, most: int) -> list[Token]:
        """The tokens of a call's positive and negative prompts, special ones too, with their places in the text stream.

        Arguments:
            pipe: The pipeline.
            prompt: The prompt.
            negative: The negative prompts, joined as `encode_negative` joins them.
            special_tokens: Whether those of the negative prompts are among its tokens.
            most: The call's `max_sequence_length`.
        """
        ...

    def decode(self, pipe: Any, latents: Tensor) -> list[Image.Image]:
        """The pictures, or the frames of one clip, that latents of the pipeline show."""
        ...

    def processors(self, pipe: Any, guidance: Guidance) -> Mapping[Any, Any]:
        """The new processor of each attention module that is to be guided."""
        ...

    def appending(self, pipe: Any, guidance: Guidance, encoded: Encoded) -> AbstractContextManager[None]:
        """A `with` in which the negative prompt joins the text of every call of the model."""
        ...
