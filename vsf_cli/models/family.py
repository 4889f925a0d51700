"""What every model family offers, and what its processors share during one `with`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vsf_cli.attention import scalar
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import Context, KeyValue, Method, Negative
from vsf_cli.models.patching import hooked
from vsf_cli.prompts.tokens import Token

__all__ = ["Encoded", "Family", "Guidance", "appended", "progress"]


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
            PatchError: If the batch is no multiple of the rows.
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


class Guidance:
    """What the processors of one model share while it is guided: the method, and where this call's negative stands.

    Compiled code knows plain numbers by their value, and is compiled anew for another. So what changes from prompt to prompt,
    or from step to step, is a tensor, or follows from a tensor's shape.

    Attributes:
        method: The method.
        positives: How many tokens stand before the negative prompts; None in a call that is not guided.
        tokens: How many tokens the longest negative prompt has.
        lengths: How many of them are real in each row; None means all of them.
        weights: The weight of each token; None means 1 for all of them.
        progress: How much of the steps is done as this one begins.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.positives: int | None = None
        self.tokens = 0
        self.lengths: Tensor | None = None
        self.weights: Tensor | None = None
        self.progress: Any = 0.0
        self._device: torch.device | None = None

    def context(self, stock: KeyValue, images: int, negative: KeyValue, block: int, backend: str | None = None) -> Context:
        """What the queries of a block can attend to.

        Arguments:
            stock: The tokens [image, positive].
            images: How many of them are image tokens.
            negative: The negative prompts' tokens.
            block: The number of the attention, from 1.
            backend: The attention backend of diffusers that the model was told to use.
        """
        told = Negative(negative.key, negative.value, self.lengths, self.weights)
        return Context(stock, images, told, self.progress, block, backend)

    def rest(self) -> None:
        """Takes note that the forward call that begins is not guided: it has no negative prompt."""
        self.positives = None

    def begin(self, negative: Encoded, text: Tensor, progress: float) -> None:
        """Takes note of the negative prompts of the forward call that begins.

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


def progress(pipe: Any, timestep: Tensor) -> float:
    """How much of the steps is done as the one with that timestep begins: 0 at the first, below 1 at the last."""
    timesteps: Tensor = pipe.scheduler.timesteps
    return int((timesteps - timestep.max().to(timesteps)).abs().argmin()) / len(timesteps)


class Family(Protocol):
    """A family of models."""

    pipelines: tuple[str, ...]
    """The names of the diffusers pipelines of this family, the one that takes text alone first."""

    video: bool
    """Whether it makes clips."""

    def cell(self, pipe: Any) -> int:
        """The side of what one token covers, in pixels."""
        ...

    def multiple(self, pipe: Any) -> int:
        """What the pipeline wants sizes to be multiples of, in pixels: whole tokens, or more."""
        ...

    def frames_of_a_token(self, pipe: Any) -> int:
        """How many frames a token covers, but for the first of a clip, which covers one; 1 for pictures."""
        ...

    def reader(self, pipe: Any, most: int) -> tuple[Any, int]:
        """The tokenizer that takes most of a prompt, and how many tokens it takes with that `max_sequence_length`."""
        ...

    def encode_negative(self, pipe: Any, prompts: Sequence[str], special_tokens: bool = True) -> Tensor:
        """Encodes prompts, each alone and without padding, and joins them; with shape (tokens, width)."""
        ...

    def encode_padded(self, pipe: Any, prompts: Sequence[str], most: int) -> Tensor:
        """Encodes prompts joined by commas as the pipeline encodes a positive prompt with that `max_sequence_length`."""
        ...

    def tokens(
        self, pipe: Any, prompt: str, negative: Sequence[str], special_tokens: bool, most: int, padding: bool = False
    ) -> list[Token]:
        """The tokens of a call's positive and negative prompts, special ones too, with their places in the text stream.

        Arguments:
            pipe: The pipeline.
            prompt: The prompt.
            negative: The negative prompts, joined as `encode_negative` joins them.
            special_tokens: Whether those of the negative prompts are among its tokens.
            most: The call's `max_sequence_length`.
            padding: Whether the negative prompts are encoded as `encode_padded` does it; the padding is not told.
        """
        ...

    def decode(self, pipe: Any, latents: Tensor) -> list[Image.Image]:
        """The pictures, or the frames of one clip, that latents of the pipeline show."""
        ...

    def processors(self, pipe: Any, guidance: Guidance) -> Mapping[Any, Any]:
        """The new processor of each attention module that is to be guided."""
        ...

    def caching_text(self, pipe: Any) -> AbstractContextManager[None]:
        """A `with` in which what depends on the text alone is computed once for all steps.

        Raises:
            RequestError: If the text changes from step to step.
        """
        ...

    def appending(self, pipe: Any, guidance: Guidance, encoded: Encoded) -> AbstractContextManager[None]:
        """A `with` in which the negative prompt joins the text of every call of the model."""
        ...


@contextmanager
def appended(
    pipe: Any, transformers: Sequence[nn.Module], places: tuple[int, int], guidance: Guidance, encoded: Encoded
) -> Iterator[None]:
    """A `with` in which the negative prompt joins the text of every guided call of some transformers.

    Arguments:
        pipe: The pipeline.
        transformers: The models.
        places: Where `encoder_hidden_states` and `timestep` stand among the arguments of their `forward`.
        guidance: What the processors share.
        encoded: The negative prompts.

    Raises:
        RequestError: In a call of the pipeline with `guidance_scale` above 1, if the method cannot be used with it.
    """

    place, timestep_place = places

    def append(transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if getattr(pipe, "_guidance_scale", 0) > 1 and not guidance.method.accepts_guidance_scale:
            raise RequestError(
                f"guidance_scale is {pipe.guidance_scale:g}, but {guidance.method.label} is for models that run without"
                " CFG: pass guidance_scale=0, or another method"
            )
        done = 0.0
        if guidance.method.follows_progress:
            # Of image to video, the timestep of what is given is 0.
            timestep = args[timestep_place] if len(args) > timestep_place else kwargs["timestep"]
            done = progress(pipe, timestep)
            if not guidance.method.acts_at(done):
                guidance.rest()
                return args, kwargs
        positional = len(args) > place
        text: Tensor = args[place] if positional else kwargs["encoder_hidden_states"]
        negative = encoded.expand(len(text))
        guidance.begin(negative, text, done)
        copies = guidance.method.copies
        if copies > 1 and guidance.lengths is not None:
            raise RequestError("the layout of the public code takes negative prompts of one length: run the others apart")
        joined = torch.cat([text, *[negative.embeddings.to(text)] * copies], dim=1)
        if positional:
            return (*args[:place], joined, *args[place + 1 :]), kwargs
        return args, {**kwargs, "encoder_hidden_states": joined}

    with ExitStack() as stack:
        for transformer in transformers:
            # Offloading by accelerate replaces `forward`, which native hooks stand before: they see every call.
            stack.enter_context(hooked(transformer, append))
        yield
