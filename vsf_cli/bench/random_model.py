"""A transformer with random weights and random inputs, guided by a method."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vsf_cli.bench.inputs import PROMPT, random_inputs, random_text
from vsf_cli.bench.methods import BenchMethod
from vsf_cli.bench.shapes import Shape
from vsf_cli.errors import OutOfMemory
from vsf_cli.methods import Method
from vsf_cli.models import FAMILIES
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded

__all__ = ["RandomModel", "build", "prepared"]


@dataclass(frozen=True)
class RandomModel:
    """A transformer and the inputs of one call.

    Arguments:
        shape: The architecture.
        transformer: The model.
        inputs: The arguments of its `forward`, for one image or video.
        negative, kept: Embeddings of the negative and the kept prompt without padding, with shape (1, N, ...).
        padded: Embeddings of a negative prompt with padding, with shape (1, P, ...).
    """

    shape: Shape
    transformer: Any
    inputs: dict[str, Any]
    negative: Tensor
    kept: Tensor
    padded: Tensor


def build(shape: Shape, dtype: torch.dtype, device: torch.device, negatives: int, seed: int = 0) -> RandomModel:
    """Returns a transformer with random weights, and random inputs; modules that the model keeps in float32 stay in it.

    `negatives` is the number of tokens of the negative prompt without padding.

    Raises:
        OutOfMemory: If the weights do not fit.
    """
    import diffusers
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        transformer = getattr(diffusers, shape.config["_class_name"]).from_config(shape.built)
    _check_memory(shape, transformer, dtype, device)
    generator = torch.Generator("cpu" if device.type == "meta" else device).manual_seed(seed)
    _fill(transformer, dtype, device, generator)
    transformer.to(device).eval().requires_grad_(False)
    normal = partial(torch.randn, dtype=dtype, device=device, generator=generator)
    inputs = random_inputs(shape, normal, device)
    texts = (random_text(shape, normal, tokens) for tokens in (negatives, negatives, shape.positives))
    return RandomModel(shape, transformer, inputs, *texts)


def _check_memory(shape: Shape, transformer: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    needed = sum(parameter.numel() for parameter in transformer.parameters()) * dtype.itemsize
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    elif device.type == "cpu":
        import psutil

        free = psutil.virtual_memory().available
    else:
        return
    if needed > free:
        needs = f"{shape.layers} layers of {shape.model} need {needed / 1e9:.1f} GB"
        raise OutOfMemory(f"{needs}, but {free / 1e9:.1f} GB are free: pass fewer --layers")


def _fill(transformer: Any, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> None:
    """Initialises the parameters: matrices keep the variance of their inputs, weights of norms are 1 and biases 0."""
    float32_modules = tuple(getattr(transformer, "_keep_in_fp32_modules", None) or ())
    for path, module in transformer.named_modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            in_float32 = any(part in f"{path}.{name}".split(".") for part in float32_modules)
            values = torch.empty(parameter.shape, dtype=torch.float32 if in_float32 else dtype, device=device)
            if parameter.ndim > 1:
                values.normal_(0, math.prod(parameter.shape[1:]) ** -0.5, generator=generator)
            else:
                values.fill_(1.0 if name == "weight" else 0.0)
            module._parameters[name] = nn.Parameter(values, requires_grad=False)
    for module in transformer.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = buffer.to(dtype if buffer.is_floating_point() else buffer.dtype)


def _call(model: RandomModel, method: Method) -> tuple[int, dict[str, Any]]:
    """Returns how often a step calls the model, and the arguments.

    diffusers' CFG runs both prompts of Stable Diffusion 3 in one batch, and those of Wan in two calls.
    """
    batched = method.passes_negative_prompt and model.shape.family == "sd3"
    calls = 2 if method.passes_negative_prompt and not batched else 1
    return calls, {name: torch.cat([tensor] * 2) if batched else tensor for name, tensor in model.inputs.items()}


@contextmanager
def prepared(model: RandomModel, method: BenchMethod) -> Iterator[Callable[[], Tensor]]:
    """Guides the model by a method inside a `with`; yields a function that runs one step and returns its output."""
    implementation = method.implementation

    @torch.no_grad()
    def step() -> Tensor:
        for _ in range(calls):
            output = model.transformer(**inputs, return_dict=False)[0]
        # Z-Image has a list of images.
        return output if isinstance(output, Tensor) else output[0]

    calls, inputs = _call(model, implementation)
    folds = method.folds
    if folds and model.negative.is_meta:
        # Without values no padding is found: the text is as short as if it had been folded.
        inputs, folds = {**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"][:, : PROMPT + 1]}, False
    if not implementation.guides_attention and not folds:
        yield step
        return
    texts = [model.padded if implementation.padding else model.negative, *([model.kept] if method.keeps else [])]
    groups = [Encoded(text, (text.shape[1],)) for text in texts] if implementation.guides_attention else []
    family = FAMILIES[model.shape.family]
    with guided_denoisers(family, [model.transformer], implementation, groups, fold_padding=folds):
        yield step
