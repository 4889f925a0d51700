"""Guides denoisers inside a `with`, by twins of their attention processors and a hook that extends their inputs."""

import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from vsf_cli.config.names import counted
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import Method
from vsf_cli.models.checkpointing import check_checkpoints, wrapped_checkpoints
from vsf_cli.models.family import Family, Follow, block_of, check_kind, unwrap
from vsf_cli.models.folding import Folding
from vsf_cli.models.guided_attention import AttentionKind, RunningCall, guided_attention, isolated_attention
from vsf_cli.models.interpose import attention_calls, called_code, is_twin, twin_class, twin_of
from vsf_cli.models.patching import followed, hooked, patched
from vsf_cli.models.state import Encoded, GuidanceState, joined
from vsf_cli.models.steps import StepCounter

__all__ = ["guided_denoisers", "named_arguments"]


NEGATIVES = ("negative_prompt", "negative_prompt_2", "negative_prompt_3", "negative_prompt_embeds")
"""The arguments of pipelines for negative prompts."""


class _Twins(threading.local):
    """The classes of a thread's twins, and its running call of a guided model.

    Compiled code depends on the class of a processor: another class for each `with` would recompile every block.
    """

    def __init__(self) -> None:
        self.running = RunningCall()
        self.classes: dict[Any, type] = {}

    def class_of(self, processor: type, kind: AttentionKind | None = None) -> type:
        """Returns the twin class of a processor's class for attentions of a kind, or among the text alone."""
        key = processor, called_code(processor), kind
        if key not in self.classes:
            attend = guided_attention(self.running, kind) if kind else isolated_attention(self.running)
            self.classes[key] = twin_class(processor, attend)
        return self.classes[key]


_TWINS = _Twins()


@contextmanager
def guided_denoisers(
    family: Family,
    denoisers: Sequence[Any],
    method: Method,
    groups: Sequence[Encoded],
    pipe: Any = None,
    fold_padding: bool = False,
    padded_length: int | None = None,
) -> Iterator[int]:
    """Guides models inside a `with` block, and then restores their processors, whatever happens inside.

    Arguments:
        family: The family of the models.
        denoisers: The models.
        method: The method.
        groups: The negative prompts, then the kept ones if there are any; none of them if only padding is folded.
        pipe: The pipeline that will call the models; None means any caller.
        fold_padding: Whether equal tokens at the end of the text are folded into one.
        padded_length: The `max_sequence_length` to which the groups are padded; None if they are not.

    Yields:
        The number of guided attentions, without those that `guided_blocks` leaves out.

    Raises:
        PatchError: If an attention cannot be guided, or is guided already.
        RequestError: If the model does not have a block of `guided_blocks`, or its padding cannot be folded. Also in a call of
            a model, if the pipeline uses classifier-free guidance without a method for it, or the method depends on steps that
            cannot be counted; and at the end, if steps ran and the method's window had none of them.
    """
    _check_family(family, method, fold_padding)
    for model in denoisers:
        _check_attentions(family, model)
    state = GuidanceState(method)
    # An embedding that is flipped before the model needs no twins: attention stays the model's own.
    guided = [{} if method.flips_embedding else _twins(family, model, method) for model in denoisers]
    twins = [of_model and of_model | _isolated_twins(family, model) for model, of_model in zip(denoisers, guided, strict=True)]
    all_twins = {module: twin for of_model in twins for module, twin in of_model.items()}
    steps = StepCounter()
    with ExitStack() as stack:
        stack.enter_context(patched(all_twins))
        for model, of_model in zip(denoisers, twins, strict=True):
            call = _GuidedCall(family, model, state, groups, of_model, pipe, steps, _TWINS.running, fold_padding, padded_length)
            stack.enter_context(hooked(model, *call.hooks()))
            for path, follow in family.inside.items():
                owner, _, name = path.rpartition(".")
                stack.enter_context(followed(unwrap(model).get_submodule(owner), name, call.inside(follow)))
        yield 0 if method.flips_embedding else sum(sum(_guides(family, model, method)) for model in denoisers)
    if state.unguided_steps and not state.guided_steps:
        window = f"start {method.start:g} and stop {method.stop:g}"
        raise RequestError(f"{window} left none of the {counted(state.unguided_steps, 'step')} that ran guided: widen them")


def _check_family(family: Family, method: Method, fold_padding: bool) -> None:
    if method.flips_embedding and family.masks_negative:
        raise RequestError(
            f"{method.label} has no effect on a model that masks what is not its own text: choose another method"
        )
    if fold_padding and not family.folds_padding:
        raise RequestError("fold_padding is for models whose text stays as it is in all blocks, such as Wan: leave it out")


def _check_attentions(family: Family, model: Any) -> None:
    """Raises an error with the name of the first attention that cannot be guided."""
    for name, module, _ in family.attentions_of(model):
        processor = module.processor
        if is_twin(processor):
            raise PatchError("the model is guided already: leave the first `with` before entering another")
        type_name = type(processor).__name__
        calls = attention_calls(type(processor))
        if calls == 0:
            raise PatchError(f"{name} has a {type_name}, which calls no attention function that can be guided: set another one")
        if calls > 1 and not family.calls_once(module):
            raise PatchError(
                f"{name} has a {type_name}, which calls attention more than once, for an image of its own perhaps: such a model"
                " cannot be guided; unload the adapter that set it, or choose a model without it"
            )
        if getattr(processor, "_parallel_config", None) is not None:
            raise PatchError(f"{name} is shared out to several devices, which guidance is not: leave enable_parallelism out")


def _twins(family: Family, model: Any, method: Method) -> dict[nn.Module, Any]:
    """Returns the twin of each guided attention's processor."""
    attentions = list(family.attentions_of(model))
    if not attentions:
        raise PatchError("no attention module to patch: the model has no attention that sees both image and text")
    twins = {}
    for (name, module, order), guides in zip(attentions, _guides(family, model, method), strict=True):
        kind = AttentionKind(order, guides, family.drops_text(module), family.has_grid(name), family.masks_negative)
        twins[module] = twin_of(module.processor, _TWINS.class_of(type(module.processor), kind))
    return twins


def _guides(family: Family, model: Any, method: Method) -> list[bool]:
    """Returns of each attention that can be guided whether a method guides its block."""
    of_attentions = [block_of(name) for name, _, _ in family.attentions_of(model)]
    numbers = {block: number for number, block in enumerate(dict.fromkeys(of_attentions), 1)}
    if len(numbers) < method.last_block:
        raise RequestError(f"guided_blocks names block {method.last_block}, but the model has {len(numbers)}")
    return [method.guides_block(numbers[block]) for block in of_attentions]


def _isolated_twins(family: Family, model: Any) -> dict[nn.Module, Any]:
    """Returns the twin of each processor of an attention among the text alone."""
    return {module: twin_of(module.processor, _TWINS.class_of(type(module.processor))) for module in family.isolated_of(model)}


@dataclass
class _GuidedCall:
    """The hooks of a guided model's calls, and their state."""

    family: Family
    model: Any
    state: GuidanceState
    groups: Sequence[Encoded]
    twins: Mapping[nn.Module, Any]
    pipe: Any
    steps: StepCounter
    running: RunningCall
    folds: bool = False
    padded_length: int | None = None
    folding: Folding = field(default_factory=Folding)

    def __post_init__(self) -> None:
        model = unwrap(self.model)
        self._paths = {name: module for name, module in model.named_modules() if module in self.twins}
        self._modules = _modules_on(self._paths, model)

    def hooks(self) -> tuple[Callable[..., Any], Callable[..., None]]:
        """Returns the hooks before and after the model's `forward`."""
        checkpoints = ExitStack()

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            running, thread = self.running, threading.get_ident()
            if running.state is not None and running.thread != thread:
                raise PatchError("a guided model is called in one thread while a call in another one runs: one after another")
            running.state, running.thread = None, thread
            check_checkpoints()
            extended = self._extend(args, kwargs)
            self.state.gradients = torch.is_grad_enabled()
            if self.state.gradients:
                checkpoints.enter_context(wrapped_checkpoints(unwrap(self.model), self._repeatable))
            running.state = self.state
            return extended

        def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self.running.thread == threading.get_ident():
                self.running.state = None
                checkpoints.close()

        return torch.compiler.disable(begin), torch.compiler.disable(end)

    def _repeatable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function of the running call that is guided alike when it runs again, even behind the `with`."""
        state, kinds = copy(self.state), {module: type(twin) for module, twin in self.twins.items()}
        state.gradients = False

        def run(*args: Any, **kwargs: Any) -> Any:
            missing = {module: kind for module, kind in kinds.items() if type(module.processor) is not kind}
            twins = {module: twin_of(module.processor, kind) for module, kind in missing.items()}
            with self.running.during(state), patched(twins):
                return function(*args, **kwargs)

        return run

    def inside(self, follow: Follow) -> Callable[[Any, Sequence[Any]], Any]:
        """Returns what is called with the output and the arguments of a function inside the model, and returns its output."""

        def call(output: Any, args: Sequence[Any]) -> Any:
            guided = self.running.state is self.state and self.state.counts is not None
            return follow(output, args, self.state.groups, unwrap(self.model)) if guided else output

        return torch.compiler.disable(call)

    def _extend(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        caller, variables = _calling_pipeline()
        self._check(caller, variables)
        state, method, progress = self.state, self.state.method, 0.0
        arguments = named_arguments(self.model, args, kwargs)
        if method.follows_progress:
            scheduler = getattr(caller or self.pipe, "scheduler", None)
            progress = self.steps.progress(scheduler, arguments.get("timestep"))
            if not method.acts_at(progress):
                state.counts = None
                state.unguided_steps += 1
                return args, kwargs
        state.guided_steps += 1
        text = self.family.text(arguments)
        if text is None:
            raise PatchError("the model was called without text, to which no negative prompt can be joined")
        text, bias = self.folding.fold(text) if self.folds else (text, None)
        state.begin(self.groups, text, progress, _references(arguments, variables), bias)
        if bias is not None:
            arguments["encoder_hidden_states"] = text
        if state.groups:
            arguments.update(self.family.extend(arguments, *joined(state.groups)))
        return (), arguments

    def _check(self, caller: Any, variables: Mapping[str, Any]) -> None:
        """Raises an error if the negative prompt would be lost, or would be subtracted twice."""
        if any(module.processor is not twin for module, twin in self.twins.items()):
            if (own := variables.get("original_attn_proc")) is not None:
                # Perturbed attention guidance puts them back only if its call ends without an error.
                unwrap(self.model).set_attn_processor(own)
            raise PatchError(
                "attention processors were set inside the `with`, so that the negative prompt would be lost: set them before"
                " it, and leave perturbed attention guidance out"
            )
        if path := self._replaced():
            raise PatchError(f"{path} was replaced inside the `with`, and is not guided: change the model before it")
        if caller is not None:
            self._check_caller(caller, variables)

    def _replaced(self) -> str:
        """Returns the path of the first guided attention that another module has; empty if there is none."""
        if all(parent._modules.get(name) is module for parent, name, module in self._modules):
            return ""
        model = unwrap(self.model)
        return next((path for path, module in self._paths.items() if _at(model, path) is not module), "")

    def _check_caller(self, caller: Any, variables: Mapping[str, Any]) -> None:
        """Raises an error if a pipeline is not the guided one, or has classifier-free guidance or a negative prompt, too."""
        if self.pipe is not None and caller is not self.pipe:
            raise PatchError(
                f"a {type(caller).__name__} calls the model, but another pipeline was guided: guide the one that you call"
            )
        method = self.state.method
        if (added := self.family.added_passes(caller, variables)) and not method.accepts_guidance_scale:
            name, off = next(iter(added)), ", ".join(f"{name}={value:g}" for name, value in added.items())
            scale = variables.get(name, getattr(caller, name, None))
            raise RequestError(
                f"{name} is {scale:g}, but {method.label} is for models that run without CFG: pass {off}, or another method"
            )
        lost = [name for name in NEGATIVES if _is_given(variables.get(name))]
        if lost and not method.accepts_guidance_scale:
            raise RequestError(
                f"{lost[0]} was passed to the pipeline, where it has no effect without CFG: give it to guided() alone"
            )
        length = variables.get("max_sequence_length")
        if self.padded_length and length not in (None, self.padded_length):
            warnings.warn(
                f"the call has max_sequence_length={length}, but {method.label} pads the negative prompt to"
                f" {self.padded_length}: give guided() the same",
                stacklevel=2,
            )
            self.padded_length = None  # Once is enough.


def _modules_on(paths: Iterable[str], model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Returns the modules on paths of a model, each behind its parent and its name there."""
    modules = {}
    for path in paths:
        parent, prefix = model, ""
        for name in path.split("."):
            prefix, module = f"{prefix}.{name}", parent.get_submodule(name)
            modules[prefix], parent = (parent, name, module), module
    return list(modules.values())


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _is_given(value: Any) -> bool:
    """Returns whether a pipeline's argument for negative prompts holds any."""
    if isinstance(value, str):
        return bool(value.strip())
    return any(map(_is_given, value)) if isinstance(value, (list, tuple)) else value is not None


def _references(arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> int:
    """Returns the number of tokens of images that a pipeline edits: those in the model's sequence beyond its own latents."""
    sequence, latents = arguments.get("hidden_states"), variables.get("latents")
    if not (isinstance(sequence, torch.Tensor) and isinstance(latents, torch.Tensor) and sequence.ndim == latents.ndim == 3):
        return 0
    return max(0, sequence.shape[1] - latents.shape[1])


def named_arguments(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a model's call by their names in the stock `forward`.

    Raises:
        TypeError: If one is missing.
    """
    signature, required = _signature(type(unwrap(model)).forward)
    # All by name, as pipelines call most models, they need not be bound, which takes as long as all other checks.
    return signature.bind(*args, **kwargs).arguments if args or not required <= kwargs.keys() else dict(kwargs)


@lru_cache(maxsize=16)
def _signature(forward: Callable[..., Any]) -> tuple[inspect.Signature, frozenset[str]]:
    """Returns the signature of a method without `self`, and the names of the arguments that must be given."""
    signature = inspect.signature(forward)
    parameters = list(signature.parameters.values())[1:]
    required = frozenset(one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD)
    return signature.replace(parameters=parameters), required


def _calling_pipeline() -> tuple[Any, Mapping[str, Any]]:
    """Returns the pipeline that calls the model, and the variables of its call; None if it is called by other code.

    Raises:
        PatchError: If a modular pipeline calls it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            # Each look at the variables of a frame copies them.
            found = (variables := frame.f_locals).get("self")
            if isinstance(found, DiffusionPipeline):
                return found, variables
            check_kind(found)
        frame = frame.f_back  # type: ignore[assignment]
    return None, {}
