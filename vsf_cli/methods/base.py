"""The base class of guidance methods."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from vsf_cli.config.option import NEGATIVE, Option, Value, check_bounds, options_of
from vsf_cli.errors import RequestError
from vsf_cli.methods.tokens import Span

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vsf_cli.methods.tokens import AllTokens, Context, TextGroup, WholeAttention

__all__ = ["Method"]


class Method(ABC):
    """A way to combine attention to a positive and to a negative prompt.

    Class attributes:
        name: The name in presets, on the command line and in metadata.
        label: The name in the paper.
        guides_attention: Whether the method acts inside attention, so that the model has to be patched.
        accepts_guidance_scale: Whether it may run with `guidance_scale` above 1, diffusers' own CFG.
        passes_negative_prompt: Whether the pipeline itself gets the negative prompt.
        copies: How often the negative prompt joins the text; of two copies the first counts as part of the positive.
        flips_embedding: Whether the negative prompt joins the text with its embedding flipped; attention is the model's own.
        padding: Whether the negative prompt is padded as the positive is; it may be a hyper-parameter.
        special_tokens: Whether the negative prompt's tokens for beginning and end take part; it may be a hyper-parameter.
        beta: What is subtracted from the logits of the negative prompt, in nats.
        contrast: The part of the kept prompts' attention that is not subtracted.
        weighs_tokens: Whether weights of negative prompts and of their words have an effect.
        keeps: Whether kept prompts have an effect.
        bare: Whether the keys of its hyper-parameters have no prefix with the method's name.
        start, stop: The part of the steps that is guided, as fractions of all.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    guides_attention: ClassVar[bool] = True
    accepts_guidance_scale: ClassVar[bool] = False
    passes_negative_prompt: ClassVar[bool] = False
    copies: ClassVar[int] = 1
    flips_embedding: ClassVar[bool] = False
    weighs_tokens: ClassVar[bool] = False
    keeps: bool = False
    bare: ClassVar[bool] = False
    padding: bool = False
    special_tokens: bool = True
    beta: float = 0.0
    contrast: float = 0.0
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        for one in self.options():
            _check_type(one, getattr(self, one.field))
        check_bounds(self, self.options())

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """The options of the hyper-parameters, in their order. Without a negative prompt none of them has an effect."""
        return _options_of(cls)

    @classmethod
    def field_types(cls) -> dict[str, type]:
        """The type of each hyper-parameter, by name."""
        return {one.field: one.type for one in cls.options()}

    @classmethod
    def search(cls) -> Mapping[str, tuple[float, float]]:
        """The settings that `vsf eval sweep` searches, with their bounds."""
        return {one.key: one.search for one in cls.options() if one.search}

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters by name."""
        return asdict(self)  # type: ignore[call-overload]

    def __str__(self) -> str:
        return " ".join([self.label, *(f"{name}={value}" for name, value in self.shown.items())])

    @property
    def shown(self) -> dict[str, str]:
        """The hyper-parameters as a person reads them: switches and rare numbers only if they differ from their default."""
        acting = (one for one in self.options() if all(getattr(self, need.field, True) for need in one.needs))
        values = {one: getattr(self, one.field) for one in acting}
        return {
            one.field: _format(value)
            for one, value in values.items()
            if value != one.default or not (one.type is bool or one.rare)
        }

    def added_pairs(self, queries: int, images: int, positives: int, negatives: int) -> int:
        """How many pairs of query and key it adds to an attention: those of image and negative prompt.

        Arguments:
            queries: The image's queries.
            images: The image's keys; 0 in cross attention.
            positives, negatives: The keys of the prompts.
        """
        return queries * negatives

    def keep_unguided_rows(self, guided: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        """Returns the guided output, but the unguided one for batch rows without a negative prompt."""
        lengths = context.negative.lengths
        if lengths is None:
            return guided
        import torch

        return torch.where((lengths > 0).view(-1, 1, 1, 1), guided, base)

    def acts_at(self, progress: float) -> bool:
        """Whether a step is guided, by the fraction of all steps before it: 0 at the first, below 1 at the last."""
        return self.start <= progress < self.stop

    @property
    def follows_progress(self) -> bool:
        """Whether the method depends on the step."""
        return self.start > 0 or self.stop < 1 or self.varies

    @property
    def varies(self) -> bool:
        """Whether its strength is another one in each step: then `whole_attention` is asked anew in each."""
        return False

    @property
    def off(self) -> str:
        """The hyper-parameter that leaves nothing of the guidance, such as "blend 0"; "" if none does."""
        return ""

    def on(self, device: "torch.device") -> "Method":
        """Returns the method with numbers as tensors of a device, so that other numbers do not recompile the model."""
        return self

    def guides_block(self, block: int) -> bool:
        """Whether it guides a block, counted from 1."""
        return True

    @property
    def last_block(self) -> int:
        """The largest block number among its hyper-parameters; 0 if there is none."""
        return 0

    def attend(self, query: "Tensor", context: "Context", out: "Tensor | None" = None) -> "Tensor":
        """Returns the attention of the rows of image and positive prompt.

        Arguments:
            query: The queries, with shape (B, H, rows, D), in the order of `context.base`; in cross attention the image's.
            context: The keys and values.
            out: Where the outputs are written, with the same shape, not yet initialized; None in cross attention.
        """
        rows = context.image_rows
        # `off` comes last: compiled code cannot ask whether a number that is a tensor is infinite.
        if out is None or not context.has_parts(query) or self.off:
            base = context.attend_base(query)
            return context.write(self.guide(rows(query), rows(base), context), base, out)
        rows(out).copy_(self.guide(rows(query), context.attend_base_in_parts(rows(query)), context))
        context.write_unguided(query, out)
        return out

    def whole_attention(self, query: "Tensor", tokens: "AllTokens") -> "WholeAttention | None":
        """Returns a function for the attention of all rows in one call; None if the method takes the tokens apart.

        It serves all attentions of one size, also in later calls with equal sizes of text. So it must not depend on the
        progress, unless the method `varies`.

        Arguments:
            query: The queries of all rows of the first of them, with shape (B, H, rows, D).
            tokens: The keys and values of all its rows.
        """
        return None

    def attend_unguided(self, query: "Tensor", context: "Context", out: "Tensor | None" = None) -> "Tensor":
        """Returns the outputs of the unguided model, for the blocks in which the method does not act; else as `attend`."""
        base = context.attend_base(query)
        return base if out is None else out.copy_(base)

    @abstractmethod
    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        """Returns the guided output of the image's rows.

        Arguments:
            query: The image's queries, with shape (B, H, I, D).
            base: The unguided output of these rows, with the same shape.
            context: The keys and values.
        """

    def attend_groups(self, query: "Tensor", context: "Context", out: "Tensor") -> None:
        """Writes the attention of all groups' rows, with shape (B, H, tokens, D), into `out`."""
        from vsf_cli.attention import fused

        image, start = context.image_tokens, 0
        if (few := context.few_keys(query, context.grouped)) is not None:
            fused.attend_text(query, image.key, image.value, few, out, context.backend)
            return
        for group in context.groups:
            rows = Span(start, start := start + group.key.shape[2])
            rows.of(out).copy_(self.attend_group(rows.of(query), context, group))

    def attend_group(self, query: "Tensor", context: "Context", group: "TextGroup") -> "Tensor":
        """Returns the attention of a group's rows, with shape (B, H, N, D), to [image, group] (section 3.2).

        The outputs of padding have no meaning.
        """
        from vsf_cli.attention.exact import attention_with_lse, has_lse

        image = context.image_tokens
        if context.mask is not None or not has_lse(query, group.key, context.backend):
            return context.attend_with_images(query, group, group.own_mask)
        # In two parts, since joining the image's keys and values with the group's would copy them.
        images = attention_with_lse(query, image.key, image.value, context.backend)
        return group.add_to(*images, query)

    def attend_image_to_negative(self, query: "Tensor", context: "Context") -> "Tensor":
        """Returns the attention of the image's rows, with shape (B, H, I, D), to [image, negative]."""
        if context.has_parts(query):
            return context.negative.add_to(*context.take_images(query), query)
        mask = context.negative.mask
        if context.image_mask is not None and context.image is not None:
            mask = context.with_negative_mask(context.images.keys_of(context.image_mask))
        return context.attend_with_images(query, context.negative, mask)


def _check_type(one: Option, value: Any) -> None:
    wanted, name = {float: (Real, "a number"), bool: (bool, "true or false"), str: (str, "a text")}[one.type]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise RequestError(f"{one.key} is {value!r:.40}, but must be {name}")


@cache
def _options_of(method: type[Method]) -> tuple[Option, ...]:
    options = options_of(method, "" if method.bare else f"{method.name}_", every=True)
    return tuple(replace(one, needs=(NEGATIVE, *one.needs)) for one in options)


def _format(value: Value) -> str:
    if isinstance(value, str):
        return value
    return ("no", "yes")[value] if isinstance(value, bool) else f"{value:g}"
