"""A family of models: data and a few functions, without files, presets or names of methods. Importing it needs no torch."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from vsf_cli.config.values import FRAMES_OF_A_TOKEN
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.prompts.tokens import Token

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from vsf_cli.models.state import Encoded

__all__ = [
    "Arguments",
    "EncodedText",
    "Family",
    "Follow",
    "Order",
    "PromptTokenizer",
    "TextPart",
    "Uses",
    "append_text",
    "block_of",
    "call_parameters",
    "check_kind",
    "pixels_per_patch",
    "prepend_text",
    "shared_places",
    "unwrap",
]


class Order(Enum):
    """The order of image, positive and negative prompt in an attention. N is at an end, so that the others are one view."""

    TEXT_FIRST = "N K P I"
    TEXT_LAST = "I P N K"
    CROSS = "P N K"


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer, and the position of its tokens in the denoiser's text.

    Arguments:
        name: The text encoder's name.
        tokenizer: The tokenizer.
        start: The position of its first token.
        max_length: How many tokens its encoder takes, padding included.
        template: Returns the text that its encoder gets for a prompt; None means the prompt itself.
        from_end: Whether padding or images stand before the tokens, whose positions then are negative: from the text's end.
    """

    name: str
    tokenizer: Any
    _: KW_ONLY
    start: int
    max_length: int
    template: Callable[[str], str] | None = None
    from_end: bool = False

    def whole(self, prompt: str) -> str:
        """Returns the text that the encoder gets for a prompt."""
        return self.template(prompt) if self.template else prompt

    def count(self, prompt: str) -> int:
        """Returns the number of tokens of a prompt without padding, with its template."""
        return len(self.tokenizer(self.whole(prompt), truncation=False, verbose=False).input_ids)


class EncodedText(NamedTuple):
    """Texts that were encoded each alone, and joined.

    Arguments:
        embeddings: The embeddings, with shape (tokens, width).
        positions: The position of each token in its own text, with shape (tokens,), on the CPU: the denoiser's calls check
            them, and would wait for a GPU. That of a hidden token at position p is -2 - p.
    """

    embeddings: "Tensor"
    positions: "Tensor"


@dataclass(frozen=True)
class TextPart:
    """The output of one text encoder for a prompt.

    Arguments:
        embeddings: The embeddings, with shape (tokens, width).
        is_word: Which tokens are neither beginning, end nor padding, nor of a template, with shape (tokens,).
        start: The position of the first token in its text.
        beginning: How many tokens come first of a template's beginning, which is always hidden.
    """

    embeddings: "Tensor"
    is_word: "Tensor"
    start: int = 0
    beginning: int = 0


Arguments = Mapping[str, Any]
"""The arguments of a denoiser's `forward`, by name."""

Follow = Callable[[Any, Sequence[Any], "Sequence[Encoded]", Any], Any]
"""Takes the output and the arguments of a function inside a denoiser, the groups of prompts, and the denoiser."""


def text_of(arguments: Arguments) -> "Tensor | None":
    """Returns the embeddings of the positive prompts, with shape (B, P, width)."""
    return arguments.get("encoder_hidden_states")


def append_text(arguments: Arguments, negative: "Tensor", positions: "Tensor", mask: str = "") -> dict[str, Any]:
    """Returns the arguments with the negative prompt, of shape (B, N, width), after the positive prompt.

    `mask` is the argument with the mask of the text, if the model takes one.
    """
    import torch

    extended = {**arguments, "encoder_hidden_states": torch.cat([arguments["encoder_hidden_states"], negative], dim=1)}
    if (own := arguments.get(mask)) is not None:
        extended[mask] = torch.cat([own, own.new_ones(negative.shape[:2])], dim=1)
    return extended


def prepend_text(arguments: Arguments, negative: "Tensor", positions: "Tensor", mask: str = "") -> dict[str, Any]:
    """Returns the arguments with the negative prompt, of shape (B, N, width), before the positive prompt.

    `mask` is the argument with the mask of the text, if the model takes one.
    """
    import torch

    extended = {**arguments, "encoder_hidden_states": torch.cat([negative, arguments["encoder_hidden_states"]], dim=1)}
    if (own := arguments.get(mask)) is not None:
        extended[mask] = torch.cat([own.new_ones(negative.shape[:2]), own], dim=1)
    return extended


def shared_places(positions: "Tensor") -> "Tensor":
    """Returns the positions of a batch's tokens in their own texts, with shape (N,), where a model has one for all rows.

    Raises:
        RequestError: If the rows differ.
    """
    places = positions.amax(0)
    if ((positions != places) & (positions >= 0)).any():
        raise RequestError(
            "this model has one position for a token in all rows of a batch, and those of these negative prompts differ: make"
            " them one at a time, with --batch-size 1"
        )
    return places


def grid_of_latents(arguments: Arguments, denoiser: Any) -> tuple[int, int, int]:
    """Returns the frames, rows and columns of image tokens of latents with shape (B, C, h, w) or (B, C, f, h, w)."""
    latents: Sequence[int] = arguments["hidden_states"].shape
    patch_size = denoiser.config.patch_size
    sides = [1, *latents[2:]] if len(latents) == 4 else list(latents[2:])
    patch = [1, patch_size, patch_size] if isinstance(patch_size, int) else list(patch_size)
    frames, rows, columns = (side // part for side, part in zip(sides, patch, strict=True))
    return frames, rows, columns


def pixels_per_patch(pipe: Any) -> int:
    """Returns the side in pixels of a token that is a patch of latents."""
    return int(pipe.vae_scale_factor * pipe.transformer.config.patch_size)


def encode_by_pipeline(pipe: Any, prompts: Sequence[str], max_length: int) -> "Tensor":
    """Returns the embeddings of prompts, joined by commas, as a pipeline encodes its positive prompt."""
    import torch

    options: dict[str, Any] = {"max_sequence_length": max_length, "num_images_per_prompt": 1, "prompt_2": None}
    options |= {"device": pipe._execution_device, "do_classifier_free_guidance": False, "prompt_3": None}
    names = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        return pipe.encode_prompt(", ".join(prompts), **{name: options[name] for name in options if name in names})[0][0]


def runs_cfg(pipe: Any, variables: Mapping[str, Any]) -> bool:
    """Returns whether a running pipeline uses classifier-free guidance, by its own rule."""
    return bool(getattr(pipe, "do_classifier_free_guidance", False))


class Uses(NamedTuple):
    """What else a model does.

    Arguments:
        image: The name of its pipeline that starts from an image, or edits one; None if it has none.
        mask: That of its pipeline that redraws an image where a mask is white.
        text: Whether it makes something of a text alone.
        several: Whether it takes several images.
        needs: The package that it needs beyond those of vsf.
    """

    image: str | None = None
    mask: str | None = None
    text: bool = True
    several: bool = False
    needs: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Arguments:
        name: Its name in presets.
        models: The names of its denoisers' classes; subclasses belong to it too.
        pipelines: What the models do, by the names of the pipelines of diffusers that `vsf` loads.
        attentions: The order of tokens in each guided attention, by a pattern of the module's name.
        isolated: Patterns of the names of attentions among the text alone, in which prompts are kept from each other.
        off_grid: Patterns of the names of guided attentions whose queries are not the image's tokens: they have no maps.
        tokenizers: Returns the tokenizers of a pipeline with a `max_sequence_length`, in the order of their tokens in the text;
            the one that takes most of a prompt is the last.
        encode: Encodes one prompt, alone and without padding, by each text encoder.
        encode_padded: Encodes prompts as the pipeline encodes a positive prompt with a `max_sequence_length`, with shape
            (tokens, width).
        decode: Returns the images, or the frames of one video, of a pipeline's latents of a width and a height in pixels.
        sound: Returns the sound of a pipeline's output, with shape (B, channels, samples), and its samples per second.
        pixels_per_token: Returns the side of a token in pixels.
        size_multiple: Returns the number of pixels that sides are multiples of: a token's side, or more.
        frames_per_token: Returns how many frames a token has; the first one of a video has one.
        frames_multiple: The same in the models that are known, to which a requested length is rounded.
        extend: Returns the arguments of the denoiser's `forward` with the negative prompt in embeddings, positions and masks,
            from its embeddings, of shape (B, N, width), and the positions of its tokens in their own texts, of shape (B, N).
        text: Returns a tensor like the positive prompts' embeddings in the blocks, with shape (B, P, width).
        inside: By the paths of functions inside a denoiser, such as "pos_embed.forward", what returns their outputs with the
            negative prompt, where it cannot be all in the arguments: positions that the model counts by itself, for example.
        hides_tokens: Whether the text goes through blocks of its own, which see tokens that the image does not see: those of a
            template's beginning, and all special tokens if they are left out.
        folds_padding: Whether a token's keys and values in the guided attentions depend on its embedding alone, so that equal
            tokens can be folded into one.
        masks_negative: Whether the model masks the negative prompt, behind its text, as padding: the image shall see it.
        denoisers: The attributes of a pipeline with its denoisers.
        last: The beginning of the names of a denoiser's modules that run last, though they are listed before others.
        drops_text: Returns whether a guided attention's output for the text is unused.
        calls_once: Returns whether an attention calls its attention function once, although the code has several calls.
        clean: Cleans a prompt as the pipeline does.
        grid: Returns the frames, rows and columns of image tokens of a denoiser with the arguments of its call.
        runs_cfg: Returns whether a running pipeline uses classifier-free guidance, by itself and the variables of its call.
        call: Returns arguments of a pipeline's call that are the same in all with a number of steps.
        limits: Arguments of a pipeline's call that add passes of the model, with the largest value that adds none.
        cfg_argument: The argument of a pipeline's call with the scale of classifier-free guidance. If it is another one, then
            `guidance_scale` is an input of the model.
        max_scale: The largest scale that is no classifier-free guidance; infinite if none of its pipelines has any.
        max_length: The largest `max_sequence_length` of its pipelines.
        defaults: The default keys of the family's presets.
        video: Whether it makes videos.
    """

    name: str
    models: tuple[str, ...]
    pipelines: Mapping[str, Uses]
    attentions: Mapping[str, Order]
    tokenizers: Callable[[Any, int], list[PromptTokenizer]]
    encode: Callable[[Any, str], list[TextPart]]
    encode_padded: "Callable[[Any, Sequence[str], int], Tensor]" = encode_by_pipeline
    decode: "Callable[[Any, Tensor, int, int], list[Image.Image]]"
    sound: "Callable[[Any, Any], tuple[Tensor, int] | None]" = lambda pipe, output: None
    pixels_per_token: Callable[[Any], int]
    size_multiple: Callable[[Any], int]
    frames_per_token: Callable[[Any], int] = lambda pipe: 1
    frames_multiple: int = FRAMES_OF_A_TOKEN
    extend: "Callable[[Arguments, Tensor, Tensor], dict[str, Any]]" = append_text
    text: "Callable[[Arguments], Tensor | None]" = text_of
    inside: Mapping[str, Follow] = field(default_factory=dict)
    hides_tokens: bool = False
    folds_padding: bool = False
    masks_negative: bool = False
    denoisers: tuple[str, ...] = ("transformer",)
    isolated: tuple[str, ...] = ()
    off_grid: tuple[str, ...] = ()
    last: str | None = None
    drops_text: Callable[[Any], bool] = lambda attention: False
    calls_once: Callable[[Any], bool] = lambda attention: False
    clean: Callable[[str], str] = str
    grid: Callable[[Arguments, Any], tuple[int, int, int]] = grid_of_latents
    runs_cfg: Callable[[Any, Mapping[str, Any]], bool] = runs_cfg
    call: Callable[[int], Mapping[str, Any]] = lambda steps: {}
    limits: Mapping[str, float] = field(default_factory=dict)
    cfg_argument: str = "guidance_scale"
    max_scale: float = 1.0
    max_length: int = 512
    defaults: Mapping[str, Any] = field(default_factory=dict)
    video: bool = False

    @property
    def embeds_scale(self) -> bool:
        """Whether `guidance_scale` is an input of the model, and not that of classifier-free guidance."""
        return self.cfg_argument != "guidance_scale"

    def owns(self, model: Any) -> bool:
        """Whether a model is a denoiser of this family."""
        return any(kind.__name__ in self.models for kind in type(unwrap(model)).__mro__)

    def denoisers_of(self, pipe: Any) -> list[Any]:
        """Returns the denoisers of a pipeline, or a denoiser itself."""
        models = [pipe, *(getattr(pipe, name, None) for name in self.denoisers)]
        return [model for model in models if model is not None and self.owns(model)]

    def attentions_of(self, model: Any) -> "Iterator[tuple[str, nn.Module, Order]]":
        """Yields the names, modules and orders of tokens of a denoiser's guided attentions, in the order in which they run."""
        modules = list(unwrap(model).named_modules())
        for name, module in sorted(modules, key=lambda pair: self.last is not None and pair[0].startswith(self.last)):
            for pattern, order in self.attentions.items():
                if fnmatchcase(name, pattern) and hasattr(module, "processor"):
                    yield name, module, order

    def has_grid(self, name: str) -> bool:
        """Returns whether the queries of a guided attention are the image's tokens, by its name."""
        return not any(fnmatchcase(name, pattern) for pattern in self.off_grid)

    def isolated_of(self, model: Any) -> "list[nn.Module]":
        """Returns the attentions of a denoiser among the text alone."""
        named = unwrap(model).named_modules()
        return [module for name, module in named if any(fnmatchcase(name, pattern) for pattern in self.isolated)]

    def blocks_of(self, model: Any) -> "list[nn.Module]":
        """Returns the blocks of a denoiser that have a guided attention, in the order in which they run."""
        names = dict.fromkeys(block_of(name) for name, _, _ in self.attentions_of(model))
        return [unwrap(model).get_submodule(name) for name in names]

    def added_passes(self, pipe: Any, variables: Mapping[str, Any]) -> dict[str, float]:
        """Returns the arguments by which a running pipeline makes further passes of the model, with values that add none."""
        added = {name: limit for name, limit in self.limits.items() if (variables.get(name) or 0) > limit}
        return added or ({self.cfg_argument: float(self.embeds_scale)} if self.runs_cfg(pipe, variables) else {})

    def main_tokenizer(self, pipe: Any, max_length: int) -> PromptTokenizer:
        """Returns the tokenizer that takes most of a prompt with a `max_sequence_length`."""
        return self.tokenizers(pipe, max_length)[-1]

    def encoded_text(self, pipe: Any, prompt: str) -> str:
        """Returns the text that is encoded for a prompt: cleaned, and with all vectors of a textual inversion."""
        cleaned = self.clean(prompt)
        if not hasattr(pipe, "maybe_convert_prompt"):
            return cleaned
        tokenizers = [part for name, part in pipe.components.items() if name.startswith("tokenizer")]
        # A pipeline without its text encoders says so when it encodes.
        return cleaned if None in tokenizers else str(pipe.maybe_convert_prompt(cleaned, tokenizers[-1]))

    def encode_negative(self, pipe: Any, prompts: Sequence[str], special_tokens: bool = True) -> "Tensor":
        """Returns the embeddings of `encode_texts`."""
        return self.encode_texts(pipe, prompts, special_tokens).embeddings

    def encode_texts(self, pipe: Any, prompts: Sequence[str], special_tokens: bool = True) -> EncodedText:
        """Encodes prompts, each alone and without padding, and joins them (section 3.4).

        Arguments:
            pipe: The pipeline.
            prompts: The prompts; none of them empty.
            special_tokens: Whether the embeddings of the tokens for beginning and end are kept.

        Raises:
            PatchError: If the pipeline was loaded without its text encoders.
            RequestError: If a prompt is longer than the encoders can take, or has nothing but special tokens.
        """
        import torch

        with torch.no_grad():
            rows = zip(*(self._encode(pipe, prompt, special_tokens) for prompt in prompts), strict=True)
            return EncodedText(*map(torch.cat, rows))

    def _encode(self, pipe: Any, prompt: str, special_tokens: bool) -> EncodedText:
        import torch

        parts = self.encode(pipe, self.encoded_text(pipe, prompt))
        embeddings = torch.cat([part.embeddings for part in parts])
        chosen = torch.cat([_chosen(part, special_tokens) for part in parts])
        places = torch.cat([part.start + torch.arange(len(part.embeddings)) for part in parts])
        if not chosen.any():
            raise RequestError(f"negative prompt '{prompt}' has no word that the text encoders know: write another")
        if self.hides_tokens:
            return EncodedText(embeddings, places.where(chosen, -2 - places))
        return EncodedText(embeddings[chosen.to(embeddings.device)], places[chosen])

    def tokens(
        self,
        pipe: Any,
        prompt: str,
        negative: Sequence[str],
        special_tokens: bool,
        max_length: int,
        padding: bool = False,
        kept: Sequence[str] = (),
    ) -> list[Token]:
        """Returns the tokens of all prompts, except padding, with their positions in the text of their kind.

        Arguments:
            pipe: The pipeline.
            prompt: The prompt.
            negative: The negative prompts, joined as `encode_negative` joins them.
            special_tokens: Whether the negative prompts have their special tokens.
            max_length: The call's `max_sequence_length`.
            padding: Whether the negative prompts are encoded by `encode_padded`.
            kept: The kept prompts, which have no special tokens.
        """
        tokenizers, encoded = self.tokenizers(pipe, max_length), partial(self.encoded_text, pipe)
        if padding:
            found = _padded_tokens(tokenizers, "negative", encoded(", ".join(negative)))
        else:
            found = _joined_tokens(tokenizers, "negative", list(map(encoded, negative)), special_tokens)
        return (
            _padded_tokens(tokenizers, "positive", encoded(prompt))
            + found
            + _joined_tokens(tokenizers, "kept", list(map(encoded, kept)), False)
        )


def _chosen(part: TextPart, special_tokens: bool) -> "Tensor":
    """Returns which tokens the image sees, on the CPU."""
    chosen = (part.is_word | special_tokens).cpu()
    chosen[: part.beginning] = False
    return chosen


def _padded_tokens(tokenizers: Sequence[PromptTokenizer], kind: str, text: str) -> list[Token]:
    """Returns the tokens of a text as the pipeline encodes it."""
    from vsf_cli.models.prompt_tokens import prompt_tokens

    tokens: list[Token] = []
    for one in tokenizers:
        own = prompt_tokens(one, kind, text, one.max_length)
        begin = -len(own) if one.from_end else one.start
        tokens += [replace(token, position=begin + token.position) for token in own]
    # Of a template only the prompt's own tokens: a pipeline may have padding between them and the template's end.
    templated = {one.name for one in tokenizers if one.template}
    return [token for token in tokens if not (token.encoder in templated and token.special)]


def _joined_tokens(tokenizers: Sequence[PromptTokenizer], kind: str, texts: Sequence[str], special_tokens: bool) -> list[Token]:
    """Returns the tokens of texts that are encoded each alone, without the beginning of a template, and joined."""
    from vsf_cli.models.prompt_tokens import prompt_tokens

    found: list[Token] = []
    before = 0
    for text in texts:
        for one in tokenizers:
            tokens = prompt_tokens(one, kind, text)
            begin = next((n for n, token in enumerate(tokens) if not token.special), 0) if one.template else 0
            tokens = [token for token in tokens[begin:] if special_tokens or not token.special]
            first = len(found)
            found += [replace(token, position=first + n, start=before + token.start) for n, token in enumerate(tokens)]
        before += len(text) + 1
    return found


def call_parameters(pipe: Any) -> "Mapping[str, inspect.Parameter]":
    """Returns the parameters of a pipeline's call, by name."""
    return inspect.signature(type(pipe).__call__).parameters


def check_kind(pipe: Any) -> None:
    """Raises a `PatchError` for a modular pipeline, which does not say whether it uses classifier-free guidance."""
    if any(kind.__name__ == "ModularPipeline" for kind in type(pipe).__mro__):
        raise PatchError(
            f"a {type(pipe).__name__} is a modular pipeline, whose guider may run the model without text unseen: use a"
            " DiffusionPipeline of the same model"
        )


def block_of(name: str) -> str:
    """Returns the name of the block that an attention is in, by the attention's own."""
    return name.rpartition(".")[0]


def unwrap(model: Any) -> Any:
    """Returns a model without the wrapper of `torch.compile`."""
    # A model of diffusers takes long to say that it has no such attribute.
    return getattr(model, "_modules", {}).get("_orig_mod", model)
