"""Records what image tokens attend to, by a wrapper around a guidance method that does not change the image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vsf_cli.attention.exact import attention_with_lse, masked_attention_with_lse
from vsf_cli.errors import RequestError
from vsf_cli.maps.data import PROMPTS, Maps, Selection, Token, check_method
from vsf_cli.methods import AllTokens, Context, KeyValue, Method, WholeAttention
from vsf_cli.models import family_of
from vsf_cli.models.guided_model import named_arguments
from vsf_cli.models.patching import followed

__all__ = ["Recorder"]

COPIED = (
    *("label", "accepts_guidance_scale", "copies", "padding", "special_tokens", "weighs_tokens", "keeps"),
    *("beta", "contrast", "start", "stop"),
)
"""The attributes that the recorder copies from its method."""


@dataclass
class _Step:
    """The records of one call of the denoiser."""

    sigma: float = 1.0
    recorded: bool = False
    logits: list[Tensor] = field(default_factory=list)
    share: list[Tensor] = field(default_factory=list)
    kept_share: list[Tensor] = field(default_factory=list)
    estimate: Tensor | None = None


class Recorder(Method):
    r"""A method that calls another one, and records what the image attends to.

    In each block it records the logits :math:`s = q k^T / \sqrt{D}` of the image to the selected text tokens, and the share of
    attention that goes to the negative prompt,

    .. math:: w = \mathrm{sigmoid}(L_2 - \beta - L_1)

    where :math:`L_1` and :math:`L_2` are the log-sum-exps of the image's attention to [image, positive] and to the negative
    prompt, and :math:`\beta` is the method's bias, or 0. With the method `none`, :math:`w` is the share that the negative
    prompt would have. The share of kept prompts is the one that they would have in its place.

    Arguments:
        method: The method.
        tokens: The tokens to record, by `vsf_cli.models.Family.tokens`.
        selection: The steps, blocks and heads to record.

    Raises:
        RequestError: If the method acts outside of attention.
    """

    name = "recorder"
    label = "recorder"

    def __init__(self, method: Method, tokens: Sequence[Token], selection: Selection | None = None) -> None:
        check_method(method)
        self.method = self._running = method
        for name in COPIED:
            setattr(self, name, getattr(method, name))
        self.selection = selection or Selection()
        self.tokens = sorted(tokens, key=lambda token: PROMPTS.index(token.prompt))
        self._positions = [[token.position for token in self.tokens if token.prompt == prompt] for prompt in PROMPTS]
        self._steps: list[_Step] = []
        self._calls = 0
        self._blocks = 0
        self._head_dim = 0
        self._grid = (1, 1, 1)
        self._arrays: dict[str, np.ndarray] = {}

    def __str__(self) -> str:
        return str(self.method)

    @contextmanager
    def recording(self, pipe: Any) -> Iterator[None]:
        """Counts the calls of the pipeline's denoisers, of which Wan 2.2 has two, as steps inside a `with`."""
        family = family_of(pipe)

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = named_arguments(module, args, kwargs)
            text = family.text(call)
            if text is not None and (batch := len(text)) > 1:
                raise RequestError(f"maps are of one image at a time without CFG, but this call has {batch}")
            self._grid = family.grid(call, module)
            self._steps.append(_Step())
            self._calls = 0

        def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._blocks = max(self._blocks, self._calls)

        with ExitStack() as stack:
            for denoiser in family.denoisers_of(pipe):
                stack.callback(denoiser.register_forward_pre_hook(begin, with_kwargs=True).remove)
                stack.callback(denoiser.register_forward_hook(end).remove)
            stack.enter_context(followed(pipe.scheduler, "step", self._watch(pipe.scheduler)))
            yield

    def _watch(self, scheduler: Any) -> Callable[[Any, Sequence[Any]], Any]:
        """Returns what takes each step's noise level and estimate from the scheduler, which knows what the model predicts.

        A copy of the scheduler, which may be that of a sound, is not watched.
        """

        def after(output: Any, args: Sequence[Any]) -> Any:
            model_output, timestep, sample = args[:3]
            if self._steps:
                sigma = noise_level(scheduler, timestep)
                # Schedulers that do not return the estimate are those of flow matching.
                own = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                estimate = sample.float() - sigma * model_output.float() if own is None else own
                self._steps[-1].sigma, self._steps[-1].estimate = sigma, estimate.float().cpu()
            return output

        return after

    def on(self, device: torch.device) -> "Recorder":
        self._running = self.method.on(device)
        return self

    @property
    def follows_progress(self) -> bool:
        return self.method.follows_progress

    @property
    def varies(self) -> bool:
        return self.method.varies

    @property
    def last_block(self) -> int:
        return self.method.last_block

    def guides_block(self, block: int) -> bool:
        return self.method.guides_block(block)

    def attend(self, query: Tensor, context: Context, out: Tensor | None = None) -> Tensor:
        output = self._running.attend(query, context, out)
        self._count(query, context)
        return output

    def whole_attention(self, query: Tensor, tokens: AllTokens) -> WholeAttention | None:
        attend = self._running.whole_attention(query, tokens)
        if attend is None:
            return None

        def recorded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self._count(tokens.base.of(query), tokens.make_context(KeyValue(key, value)))
            return attend(query, key, value)

        return recorded

    def attend_unguided(self, query: Tensor, context: Context, out: Tensor | None = None) -> Tensor:
        output = self._running.attend_unguided(query, context, out)
        self._count(query, context)
        return output

    def guide(self, query: Tensor, base: Tensor, context: Context) -> Tensor:
        return self._running.guide(query, base, context)

    def attend_groups(self, query: Tensor, context: Context, out: Tensor) -> None:
        self._running.attend_groups(query, context, out)

    def _count(self, query: Tensor, context: Context) -> None:
        """Counts the call, and records it if its step and its block are selected. A sound has no maps."""
        if not context.has_grid:
            return
        self._calls += 1
        chosen = self.selection
        if len(self._steps) in (chosen.steps or (len(self._steps),)) and self._calls in (chosen.blocks or (self._calls,)):
            self._record(context.image_rows(query), context)

    @torch.no_grad()
    def _record(self, query: Tensor, context: Context) -> None:
        self._head_dim = query.shape[-1]
        prompts = context.base.part(context.positive), *context.groups
        keys = torch.cat([text.key[:, :, chosen] for text, chosen in zip(prompts, self._positions, strict=False)], 2)
        logits = (query[0].float() * self._head_dim**-0.5) @ keys[0].float().transpose(-1, -2)  # [H, I, T]
        base, mask = context.base, context.image_mask
        if mask is None:
            _, total = attention_with_lse(query, base.key, base.value)
        else:
            _, total = masked_attention_with_lse(query, base.key, base.value, mask)
        step = self._steps[-1]
        step.recorded = True
        step.logits.append(self._on_grid(self._select_heads(logits).transpose(1, 2)).half().cpu())  # [heads, T, I]
        for group, shares in zip(context.groups, (step.share, step.kept_share), strict=False):
            _, own = group.attend(query)
            share = torch.sigmoid(own.float() - self.beta - total.float())[0]  # [H, I]
            shares.append(self._on_grid(self._select_heads(share)).cpu())  # [heads, I]

    def _on_grid(self, values: Tensor) -> Tensor:
        """Returns values with shape (..., I) of a block at the resolution of the grid: a U-Net's blocks have others.

        Behind the image that is made there may be padding, or images of reference.
        """
        frames, rows, columns = self._grid
        if values.shape[-1] >= (size := frames * rows * columns):
            return values[..., :size]
        times = round((rows * columns / values.shape[-1]) ** 0.5)
        sides = (-(-rows // times), -(-columns // times))
        large = values.unflatten(-1, sides).repeat_interleave(times, -2).repeat_interleave(times, -1)
        return large[..., :rows, :columns].flatten(-2)

    def _select_heads(self, values: Tensor) -> Tensor:
        """Returns the mean over heads, or the selected heads, of values with shape (H, ...)."""
        heads = self.selection.heads
        return values.mean(0, keepdim=True) if heads is None else values[[head - 1 for head in heads]]

    def maps(self, settings: Mapping[str, Any] | None = None) -> Maps:
        """Returns the maps, with the JSON of the image's or video's file as their settings; later calls share the arrays.

        Raises:
            RequestError: If nothing was recorded.
        """
        recorded = [(number, step) for number, step in enumerate(self._steps, 1) if step.recorded]
        if not recorded:
            raise RequestError("no attention was recorded: the model made no step, or the steps and blocks leave none")
        for name in ("logits", "share", "kept_share"):
            if name not in self._arrays and getattr(recorded[0][1], name):
                self._arrays[name] = _gather([getattr(step, name) for _, step in recorded])
        arrays = {name: array.reshape(*array.shape[:-1], *self._grid) for name, array in self._arrays.items()}
        steps, sigmas = zip(*((number, round(step.sigma, 6)) for number, step in recorded), strict=True)
        blocks, heads = self.selection.blocks or tuple(range(1, self._blocks + 1)), self.selection.heads or ()
        return Maps(
            tokens=tuple(self.tokens),
            steps=steps,
            sigmas=sigmas,
            blocks=blocks,
            heads=heads,
            head_dim=self._head_dim,
            settings=settings or {},
            **arrays,
        )

    def estimates(self) -> list[Tensor]:
        r"""Returns the estimates :math:`x_0 = x_t - \sigma v` of the final latents, one for each recorded step."""
        return [step.estimate for step in self._steps if step.recorded and step.estimate is not None]


def _gather(steps: Sequence[list[Tensor]]) -> np.ndarray:
    """Returns the tensors of all steps and blocks as one array with the axes (step, block, ...), and empties the lists."""
    first = steps[0][0].numpy()
    array = np.empty((len(steps), len(steps[0]), *first.shape), first.dtype)
    for part, blocks in zip(array, steps, strict=True):
        for number in reversed(range(len(blocks))):
            part[number] = blocks.pop().numpy()
    return array


def noise_level(scheduler: Any, timestep: Any) -> float:
    """Returns the noise level of the step that a scheduler has just made: 1 is pure noise."""
    flows = hasattr(scheduler, "sigmas") and not hasattr(scheduler, "alphas_cumprod")
    if flows or scheduler.config.get("use_flow_sigmas"):
        return float(scheduler.sigmas[scheduler.step_index - 1])
    if scheduler.config.get("prediction_type") == "trigflow":
        return float(scheduler.timesteps[scheduler.step_index - 1].sin())
    return float((1 - scheduler.alphas_cumprod[int(timestep)]).sqrt())
