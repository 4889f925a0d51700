"""What stands in for diffusers' processor of an attention while the model is guided."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor

from vsf_cli.attention import BACKENDS
from vsf_cli.errors import PatchError
from vsf_cli.models.family import Guidance

__all__ = ["GuidedProcessor", "merge_heads", "split_heads"]


class GuidedProcessor(ABC):
    """A family's processor projects and splits the tokens; the method combines them.

    Arguments:
        guidance: What the processors of a model share.
        stock: The processor that was there.
        block: The number of the attention, from 1.
    """

    replaces: type
    """diffusers' own processor, which this one can stand in for."""

    # By these names diffusers sets them: `transformer.set_attention_backend("flash")` works while the model is guided, too.
    _attention_backend: Any = None

    def __init__(self, guidance: Guidance, stock: Any, block: int) -> None:
        self.guidance = guidance
        self.stock = stock
        self.block = block
        self._attention_backend = getattr(stock, "_attention_backend", None)

    @property
    def backend(self) -> str | None:
        """The backend that the model was told to use, if our own calls have to go through diffusers to reach it."""
        chosen = self._attention_backend
        if chosen is None and hasattr(self.stock, "_attention_backend"):
            chosen, _ = _AttentionBackendRegistry.get_active_backend()
        name = getattr(chosen, "value", chosen)
        return name if name in BACKENDS else None

    @classmethod
    def of_all(cls, attentions: Iterable[tuple[str, Any]], guidance: Guidance) -> "dict[Any, GuidedProcessor]":
        """The new processor of each attention, given with its name.

        Raises:
            PatchError: If an attention is guided already, has another processor, fused projections, or is shared out.
        """
        return {module: cls(guidance, cls._stock(name, module), block) for block, (name, module) in enumerate(attentions, 1)}

    @classmethod
    def _stock(cls, name: str, module: Any) -> Any:
        processor = module.processor
        if isinstance(processor, GuidedProcessor):
            raise PatchError("the model is guided already: leave the first `with` before entering another")
        if type(processor) is not cls.replaces or getattr(module, "fused_projections", False):
            raise PatchError(
                f"{name} has a {type(processor).__name__}, perhaps with fused projections, but only a plain"
                f" {cls.replaces.__name__} can be guided: undo fused projections or unload the adapter that set it"
            )
        if getattr(processor, "_parallel_config", None) is not None:
            raise PatchError(f"{name} is shared out to several devices, which guidance is not: leave enable_parallelism out")
        return processor

    # diffusers drops arguments that a processor does not name.
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As diffusers calls it; a call without text or without a negative prompt is the stock processor's."""
        if encoder_hidden_states is None or self.guidance.positives is None:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        return self.guided(attn, hidden_states, encoder_hidden_states, self.guidance.positives)

    @abstractmethod
    def guided(self, attn: Any, hidden_states: Tensor, text: Tensor, positives: int) -> Any:
        """Attention with a negative prompt.

        Arguments:
            attn: The attention.
            hidden_states: The tokens of image or clip, with shape (B, I, H D).
            text: The tokens of the text, those of the negative prompts last, with shape (B, P + N, H D).
            positives: How many tokens of the text stand before the negative prompts.
        """
        ...


def split_heads(attn: Any, states: Tensor) -> Tensor:
    """Projected states, with shape (B, L, H D), by heads, with shape (B, H, L, D)."""
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def merge_heads(states: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    return states.transpose(1, 2).flatten(2)
