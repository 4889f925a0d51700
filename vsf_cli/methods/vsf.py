"""Value sign flip."""

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.config.option import ABLATIONS, KEEP, Need, option
from vsf_cli.config.values import parse_numbers
from vsf_cli.errors import RequestError
from vsf_cli.methods.at_once import cross_at_once, joint_at_once
from vsf_cli.methods.base import Method
from vsf_cli.methods.tokens import KeyValue, Span
from vsf_cli.methods.vectors import norm, orthogonal_part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vsf_cli.attention.fused import FewKeys, Strengths
    from vsf_cli.methods.tokens import AllTokens, Context, WholeAttention

__all__ = ["VSF"]

ROWS = 512
"""How many rows of the image are guided at a time on a CPU: what is added to them stays in its cache."""

MASK = Need("attention_mask", "VSF with its mask: leave --no-attention-mask out")
"""What an option that acts in the mask needs; the details of options (`rare`, `newer`, ...) are those of `Option`."""


@dataclass(frozen=True)
class VSF(Method):
    r"""Value sign flip: the image attends to the negative prompt, whose values are then subtracted.

    .. math:: z = \mathrm{softmax}\big([s_{I}, \; s_{P}, \; s_{N} - \beta]\big) \, [v_{I}; \; v_{P}; \; -\alpha v_{N}] ,
        \quad s = q k^T / \sqrt{D}

    which is evaluated exactly and without a mask, from the stock attention :math:`O_1` with its log-sum-exp :math:`L_1` and
    the attention to the negative prompt alone, :math:`O_2` with :math:`L_2`, as

    .. math:: z = (1 - w) O_1 - \alpha w O_2 , \quad w = \mathrm{sigmoid}(L_2 - \beta - L_1)

    where :math:`-\alpha O_2` is the attention to values that were multiplied by :math:`-\alpha` before. So the sum is written
    into the memory of :math:`O_1`, and `z` takes none of its own.

    With kept prompts K, what the image would take from them is not subtracted (contrastive VSF, not in the paper):

    .. math:: z = (1 - w) O_1 - \alpha w (O_2 - c \, O_3)

    where :math:`O_3` is the attention to K alone, which takes no share. N and K do not see each other.

    Orthogonal VSF (not in the paper) subtracts only the part that is orthogonal to the unguided output, as orthogonal negative
    guidance (ONG) does; in each head, since each has a share :math:`w` of its own:

    .. math:: z = (1 - w) O_1 - \alpha w \Big( O_2 - \frac{O_2 \cdot O_1}{O_1 \cdot O_1} \, O_1 \Big)

    References:
        | VSF: Simple, Efficient, and Effective Negative Guidance in Few-Step Image Generation Models By Value Sign Flip
        | (Guo & Du, 2025), equation 6 and sections 3.2-3.3
        | https://arxiv.org/abs/2508.10931

    Arguments:
        alpha: The flip strength :math:`\alpha \geq 0`. 0 is not the same as no guidance: the negative prompt still takes its
            share of attention (section 3.3).
        beta: The bias :math:`\beta` subtracted from the logits of the negative prompt, in nats. Infinity turns guidance off.
        contrast: The part of the kept prompts' attention that is not subtracted, :math:`c`, 0 to 1; without kept prompts it has
            no effect (not in the paper).
        special_tokens: Whether the negative prompt has its tokens for beginning and end, as in the paper. They have no meaning
            of their own, but a share of attention, so that subtracting them also removes what was not meant.
        attention_mask: Whether only the image attends to the flipped tokens. For the paper's ablation (section 4.8): without
            it, all rows attend to all tokens, and there is no bias. In joint attention only.
        duplication: Whether an unflipped copy of the negative prompt goes through the blocks. For the ablation: without it,
            and without the mask, all rows attend to the flipped tokens only.
        reference_layout: Whether the positive prompt has another unflipped copy, as in the paper's public code. For comparison:
            the flip has to cancel that copy first.
        start, stop: The part of the steps that is guided, as fractions of all (not in the paper). The first steps decide what
            is in the image; without guidance in the last ones it is cleaner.
        slope: How the flip strength changes from `start` to `stop`, -1 to 1 (not in the paper): from :math:`\alpha (1 - s)` to
            :math:`\alpha (1 + s)`. 0 keeps it.
        tau: The maximum ratio of the L1 norms of a token's guided and unguided output, over all heads, as in NAG (the paper's
            future work). Infinity does not limit it.
        blend: The weight of the guided output, as in NAG; the unguided one has the rest.
        guided_blocks: The blocks that are guided, from 1, such as "1..4,8", or "all"; in the others the image does not attend
            to the negative prompt.
        orthogonal: Whether only what is orthogonal to the unguided output is subtracted (not in the paper).

    Raises:
        RequestError: If a number is out of its range, `start` is not below `stop`, the blocks cannot be parsed, there is an
            `attention_mask` without `duplication`, or `guided_blocks`, `tau`, `blend` or `orthogonal` without an
            `attention_mask`.
    """

    name: ClassVar[str] = "vsf"
    label: ClassVar[str] = "VSF"
    weighs_tokens: ClassVar[bool] = True
    bare: ClassVar[bool] = True
    _has_finite_beta: ClassVar[bool] = False
    """Whether beta is finite, so that one call over all keys serves; `on` sets it, and no block asks the device for it."""

    alpha: float = option(
        3.0,
        *("--alpha", "--scale"),
        help="VSF's strength; auto: the least that a judge is content with.",
        min=0,
        sweep=True,
        auto=True,
        columns=("vsf_scale",),
        search=(0.0, 6.0),
    )
    beta: float = option(
        0.3,
        *("--beta", "--offset"),
        help="VSF's bias in nats: more weakens VSF, inf is off.",
        above=-math.inf,
        finite=False,
        sweep=True,
        search=(0.0, 2.0),
        needs=(MASK,),
    )
    contrast: float = option(
        0.7,
        "--contrast",
        help="How much of what --keep names is spared.",
        min=0,
        max=1,
        sweep=True,
        rare=True,
        newer=True,
        needs=(KEEP,),
    )
    special_tokens: bool = option(True, "--special-tokens", help="Whether VSF uses the negative's begin and end tokens.")
    attention_mask: bool = option(
        True, "--attention-mask", help="Whether only the image sees the flipped negative.", panel=ABLATIONS
    )
    duplication: bool = option(
        True, "--duplication", help="Keep an unflipped copy of the negative in the blocks.", panel=ABLATIONS
    )
    reference_layout: bool = option(
        False,
        "--reference-layout",
        off="--paper-layout",
        help="A second unflipped copy, as in the paper's code.",
        panel=ABLATIONS,
    )
    start: float = option(0.0, "--start", help="Guide from this fraction of the steps on.", min=0, max=1, sweep=True, rare=True)
    stop: float = option(1.0, "--stop", help="Guide until this fraction of the steps.", above=0, max=1, sweep=True, rare=True)
    slope: float = option(
        0.0, "--slope", help="Alpha over the steps: -1 falls to 0, 1 rises from 0.", min=-1, max=1, sweep=True, rare=True
    )
    tau: float = option(
        math.inf, "--tau", help="The most VSF may multiply a token's norm by.", above=0, finite=False, sweep=True, rare=True
    )
    blend: float = option(1.0, "--blend", help="Share of VSF: 1 is all, 0 is none.", min=0, max=1, sweep=True, rare=True)
    guided_blocks: str = option("all", "--guided-blocks", help="Which blocks VSF guides, from 1: 1..4,8.", rare=True)
    orthogonal: bool = option(False, "--orthogonal", help="Subtract only what is orthogonal to the output.", newer=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_mask and not self.duplication:
            raise RequestError("VSF without duplication has no mask: pass --no-duplication with --no-attention-mask")
        if self.start >= self.stop:
            raise RequestError(f"start is {self.start:g} and stop {self.stop:g}, but start must be less than stop")
        if not self.attention_mask and (self._blocks is not None or self._is_limited):
            raise RequestError("VSF without its mask acts on every row: leave guided_blocks, tau, blend and orthogonal out")
        if self._blocks == ():
            raise RequestError("guided_blocks names no block: write all, or 1..4,8")

    @cached_property
    def _blocks(self) -> tuple[int, ...] | None:
        try:
            blocks = parse_numbers(self.guided_blocks, "block")
        except ValueError as error:
            raise RequestError(f"guided_blocks: {error}, or all") from error
        if blocks is not None and blocks[0] < 1:
            raise RequestError(f"guided_blocks is '{self.guided_blocks}', but blocks are counted from 1")
        return blocks

    def guides_block(self, block: int) -> bool:
        return self._blocks is None or block in self._blocks

    @property
    def keeps(self) -> bool:  # type: ignore[override]
        """Whether kept prompts have an effect: they have none in the ablations."""
        return self.attention_mask and not self.reference_layout

    @property
    def last_block(self) -> int:
        """The largest number in `guided_blocks`; 0 for all blocks."""
        return max(self._blocks or (0,))

    @property
    def off(self) -> str:
        return "beta inf" if self.beta == math.inf and self.attention_mask else "blend 0" if self.blend == 0 else ""

    @property
    def varies(self) -> bool:
        return self.slope != 0

    def on(self, device: "torch.device") -> "VSF":
        """Returns the method with alpha and beta as tensors: a float would be part of the compiled code."""
        from vsf_cli.attention.exact import KERNEL_DEVICES, scalar

        other = copy.copy(self)
        object.__setattr__(other, "_has_finite_beta", self.beta < math.inf)
        for name in ("alpha", "beta", "contrast"):
            # Where no kernel returns a log-sum-exp, a bias of 0 needs no mask, and must be known to be 0.
            if name != "beta" or self.beta != 0 or device.type in KERNEL_DEVICES:
                object.__setattr__(other, name, scalar(getattr(self, name), device))
        return other

    def alpha_at(self, progress: "float | Tensor") -> "float | Tensor":
        """Returns the flip strength of a step, by the fraction of all steps before it."""
        if self.slope == 0:
            return self.alpha
        done = (progress - self.start) / (self.stop - self.start)
        return self.alpha * (1 + self.slope * (2 * done - 1))

    @property
    def copies(self) -> int:  # type: ignore[override]
        """How many unflipped copies of the negative prompt join the text: two in the layout of the public code."""
        return 2 if self.reference_layout else 1

    def attend(self, query: "Tensor", context: "Context", out: "Tensor | None" = None) -> "Tensor":
        from vsf_cli.attention.exact import has_lse

        if not self.attention_mask:
            return self._attend_everything(query, context, out)
        if context.image is None and (few := self._fused_keys(query, context.whole, context)) is not None:
            return self._attend_few_keys(query, context, few)
        if context.mask is None and has_lse(query, context.base.key, context.backend):
            return self._attend_in_parts(query, context, out)
        if self._is_limited:
            return super().attend(query, context, out)
        return self._attend_at_once(query, context, out)

    def whole_attention(self, query: "Tensor", tokens: "AllTokens") -> "WholeAttention | None":
        """One call over all keys, where that is the least work: on a CPU, in cross attention and in short sequences."""
        import torch

        if not self._is_at_once(query) or len(tokens.groups) > 1:
            return None
        alpha = self.alpha_at(tokens.progress)
        if not tokens.are_crossed:
            return joint_at_once(tokens, alpha, self.beta) if tokens.are_few else None
        context = tokens.make_context(tokens.keys)
        bias = self._bias(context, torch.promote_types(query.dtype, torch.float32))
        assert bias is not None
        return cross_at_once(query.shape[2], context, bias, alpha)

    def _is_at_once(self, query: "Tensor") -> bool:
        """Whether one call over all keys is less work than two that are merged: on a CPU, where a bias costs nothing."""
        import torch

        if query.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return self.attention_mask and not self._is_limited and self._has_finite_beta

    def _fused_keys(self, query: "Tensor", keys: "KeyValue | None", context: "Context") -> "FewKeys | None":
        """Returns the tokens of negative and kept prompts if a fused kernel does this method with all of `keys`."""
        if self._is_limited or (context.mask is not None and context.key_bias is None):
            return None
        return context.few_keys(query, keys)

    def _attend_few_keys(self, query: "Tensor", context: "Context", few: "FewKeys") -> "Tensor":
        """Cross attention as one kernel, where the prompts together are short."""
        from vsf_cli.attention import fused

        assert context.whole is not None
        keys, strengths = context.whole, self._strengths(context)
        return fused.attend_few_keys(query, keys.key, keys.value, context.key_bias, few, strengths)

    def _strengths(self, context: "Context") -> "Strengths":
        """Alpha, beta and the contrast as tensors without axes."""
        import torch

        from vsf_cli.attention.exact import scalar

        device = context.base.key.device
        numbers = self.alpha_at(context.progress), self.beta, self.contrast
        alpha, beta, contrast = (one if isinstance(one, torch.Tensor) else scalar(one, device) for one in numbers)
        return alpha, beta, contrast

    def _attend_in_parts(self, query: "Tensor", context: "Context", out: "Tensor | None") -> "Tensor":
        """Two partial attentions, merged by their log-sum-exp."""
        from vsf_cli.attention import fused
        from vsf_cli.attention.exact import attention_with_lse

        base, rows = context.base, context.image_rows
        output, lse = attention_with_lse(query, base.key, base.value, context.backend)
        if (few := self._fused_keys(query, context.grouped, context)) is not None:
            span, target = context.image or Span(0, query.shape[2]), output if out is None else out
            fused.guide_image(query, output, lse, few, self._strengths(context), target, span.start, span.stop)
            return target
        query, image, lse = rows(query), rows(output), rows(lse)
        if out is None:
            return self._add_negative(query, image, lse, context)
        context.copy_unguided(output, out)
        for some in _chunks(query):
            self._add_negative(some.of(query), some.of(image), some.of(lse), context, some.of(rows(out)))
        return out

    def _add_negative(
        self, query: "Tensor", base: "Tensor", lse: "Tensor", context: "Context", out: "Tensor | None" = None
    ) -> "Tensor":
        """Returns the guided outputs of rows of the image, from the unguided ones and their log-sum-exp, written into `out`.

        Without `out` the memory of the unguided ones is overwritten.
        """
        import torch

        from vsf_cli.attention.merging import merge_attention_states

        # It is cheaper to flip the few values than the output of all rows.
        alpha = self.alpha_at(context.progress)
        added, added_lse = context.negative.times(-alpha).attend(query)
        if (spared := self._spared(query, context, alpha)) is not None:
            added = added + spared if added.requires_grad or spared.requires_grad else added.add_(spared)
        if self.orthogonal:
            added = orthogonal_part(added, base, per_head=True)
        target = torch.empty_like(base) if self._is_limited else out
        guided = merge_attention_states(base, added, lse, added_lse, self.beta, target)
        if not self._is_limited:
            return guided
        guided = self._limit(guided, base, context)
        return guided if out is None else out.copy_(guided)

    def _attend_at_once(self, query: "Tensor", context: "Context", out: "Tensor | None") -> "Tensor":
        """The same without a log-sum-exp: one call each for the rows of image and positive prompt, which see other keys."""
        guided = self._attend_with_bias(context.image_rows(query), context)
        if out is None:
            return guided
        context.image_rows(out).copy_(guided)
        context.write_unguided(query, out)
        return out

    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        return self._limit(self._attend_with_bias(query, context, base), base, context)

    @property
    def _is_limited(self) -> bool:
        """Whether the guided output depends on the unguided one."""
        return self.tau < math.inf or self.blend != 1 or self.orthogonal

    def _limit(self, guided: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        """The guided output, limited and blended as in NAG (equation 5)."""
        if self.tau < math.inf:
            ratio = norm(guided) / norm(base)
            guided = guided * (ratio.clamp(max=self.tau) / ratio).to(guided.dtype)
        guided = guided if self.blend == 1 else self.blend * guided + (1 - self.blend) * base
        return self.keep_unguided_rows(guided, base, context)

    def _attend_with_bias(self, query: "Tensor", context: "Context", base: "Tensor | None" = None) -> "Tensor":
        """Attention of the image's rows to all keys, in one call; `base` is their unguided output, if it is known."""
        import torch

        from vsf_cli.attention.exact import attention

        alpha, bias = self.alpha_at(context.progress), self._bias(context, query.dtype)
        keys = context.base.join(context.negative.times(-alpha))
        spared = self._spared(query, context, alpha)
        if self.orthogonal:
            assert base is not None
            flipped = context.negative.times(-alpha).attend(query)[0]
            spared = orthogonal_part(flipped if spared is None else flipped + spared, base, per_head=True) - flipped
        if spared is None:
            return attention(query, keys.key, keys.value, bias)
        # The share w of the negative prompt is the attention to values that are 1 there, and 0 elsewhere.
        share = torch.zeros_like(keys.value[..., :1])
        share[:, :, context.base.key.shape[2] :] = 1
        output = attention(query, keys.key, torch.cat([keys.value, share], dim=-1), bias)
        return output[..., :-1] + output[..., -1:] * spared

    def _spared(self, query: "Tensor", context: "Context", alpha: "float | Tensor") -> "Tensor | None":
        r"""What the image takes from the kept prompts, :math:`\alpha c \, O_3`, with shape (B, H, I, D); None: nothing."""
        if context.kept is None:
            return None
        return context.kept.times(alpha * self.contrast).attend(query)[0]

    def _bias(self, context: "Context", dtype: "torch.dtype") -> "Tensor | None":
        """What is added to the image's logits, with shape (B or 1, H or 1, I or 1, keys); None means nothing."""
        import torch

        key, lengths, mask = context.negative.key, context.negative.lengths, context.image_mask
        if lengths is None and mask is None and not isinstance(self.beta, torch.Tensor) and self.beta == 0:
            return None
        before = context.base.key.shape[2]
        bias = torch.zeros(1, 1, 1, before + key.shape[2], dtype=dtype, device=key.device)
        bias[..., before:] -= self.beta
        seen = context.negative.seen_after(before)
        if mask is not None:
            mask = context.with_negative_mask(mask)
            bias = bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask
        return bias if seen is None else bias.masked_fill(~seen, -torch.inf)

    def attend_groups(self, query: "Tensor", context: "Context", out: "Tensor") -> None:
        if self.attention_mask:
            super().attend_groups(query, context, out)
        else:
            self._attend_everything(query, context, out)

    def _attend_everything(self, query: "Tensor", context: "Context", out: "Tensor | None" = None) -> "Tensor":
        """Attention to [base, negative, flipped negative], or without the second: the ablation."""
        from vsf_cli.attention.exact import attention

        if context.image is None:
            raise RequestError("VSF without its mask is for joint attention: cross attention has no mask to leave out")
        if context.mask is not None:
            raise RequestError("VSF without its mask is for models that have no attention mask of their own")
        negative, copies = context.negative, 1 + self.duplication
        keys = context.base.join(negative) if self.duplication else context.base
        keys = keys.join(KeyValue(negative.key, -self.alpha_at(context.progress) * negative.weighted_value))
        output = attention(query, keys.key, keys.value, negative.seen_after(context.base.key.shape[2], copies))
        return output if out is None else out.copy_(output)


def _chunks(query: "Tensor") -> list[Span]:
    """Returns the positions of the image's rows, a few at a time on a CPU."""
    import torch

    count = query.shape[2]
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return [Span(0, count)]
    return [Span(row, min(row + ROWS, count)) for row in range(0, count, ROWS)]
