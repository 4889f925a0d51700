"""Times methods on a pipeline or on a transformer with random weights, or counts their costs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from vsf_cli.bench.analytic import analytic_flops
from vsf_cli.bench.counting import Costs, count_costs
from vsf_cli.bench.inputs import PROMPT
from vsf_cli.bench.masked import forget_mask
from vsf_cli.bench.memory import peak_memory
from vsf_cli.bench.methods import BenchMethod
from vsf_cli.bench.random_model import RandomModel, build, prepared
from vsf_cli.bench.shapes import IN_LATENTS, Shape, depth_of
from vsf_cli.bench.stages import time_request
from vsf_cli.bench.timing import Progress, Sample, clock, interleave
from vsf_cli.errors import OutOfMemory
from vsf_cli.generation.generate import Request
from vsf_cli.models import Family, family_of

__all__ = ["Row", "count", "measure_pipeline", "measure_random", "shape_of_pipeline"]


@dataclass(frozen=True)
class Row:
    """The costs of one method.

    Arguments:
        method: The method.
        tokens: The number of tokens of the negative prompt that it uses.
        costs: The counted costs of one step.
        analytic: The FLOPs of one step by formula; None for a family without one.
        samples: The seconds of each round; empty if nothing was timed.
        memory: The peak memory in bytes, weights included; None if it cannot be measured here.
    """

    method: BenchMethod
    tokens: int
    costs: Costs
    analytic: int | None
    samples: Sequence[Sample] = ()
    memory: int | None = None


def count(
    shape: Shape, methods: Sequence[BenchMethod], dtype: torch.dtype, negatives: int, progress: Progress | None = None
) -> list[Row]:
    """Returns the costs of one step of each method, counted with tensors without values: seconds at any size.

    `negatives` is the number of tokens of the negative prompt without padding.
    """
    model = build(shape, dtype, torch.device("meta"), negatives)
    rows = []
    for method in methods:
        with prepared(model, method) as step, _no_autocast():
            costs = count_costs(step)
        seen = replace(shape, positives=PROMPT + 1) if method.folds else shape
        rows.append(Row(method, _negative_tokens(shape, method, negatives), costs, analytic_flops(seen, method, negatives)))
        if progress is not None:
            progress(len(rows), len(methods))
    return rows


@contextmanager
def _no_autocast() -> Iterator[None]:
    """A `with` for tensors without values, on whose device there is no autocast that a model could switch off."""
    own = torch.autocast
    torch.autocast = lambda *args, **options: nullcontext()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        torch.autocast = own  # type: ignore[misc]


def _negative_tokens(shape: Shape, method: BenchMethod, negatives: int) -> int:
    """Returns how many tokens of the negative prompt a method uses, of `negatives` without padding."""
    if method.implementation.passes_negative_prompt or method.implementation.padding:
        return shape.positives
    return negatives if method.implementation.guides_attention else 0


def measure_random(
    model: RandomModel, rows: Sequence[Row], device: torch.device, rounds: int, progress: Progress | None = None
) -> list[Row]:
    """Returns the rows of `count` with the times of one step of each method on a transformer with random weights."""
    runs = {row.method.name: partial(_timed_step, model, row.method, device) for row in rows}
    return _timed(rows, runs, device, rounds, progress)


def measure_pipeline(
    pipe: Any, request: Request, rows: Sequence[Row], rounds: int, progress: Progress | None = None
) -> list[Row]:
    """Returns the rows of `count` with the times of an image or video by each method on a real pipeline.

    The methods of the rows replace that of the request.
    """
    runs = {row.method.name: partial(time_request, pipe, request, row.method) for row in rows}
    return _timed(rows, runs, pipe._execution_device, rounds, progress)


def _timed(
    rows: Sequence[Row],
    runs: Mapping[str, Callable[[], Sample]],
    device: torch.device,
    rounds: int,
    progress: Progress | None,
) -> list[Row]:
    memory: dict[str, int | None] = {}

    def warm_up(name: str, run: Callable[[], Sample]) -> None:
        forget_mask()
        memory[name] = peak_memory(device, run)

    try:
        samples = interleave(runs, rounds, warm_up, progress)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory("out of memory: pass fewer --layers of --random-weights, or a smaller --size") from error
    return [replace(row, samples=samples[row.method.name], memory=memory[row.method.name]) for row in rows]


def _timed_step(model: RandomModel, method: BenchMethod, device: torch.device) -> Sample:
    with prepared(model, method) as step:
        started, used = clock(device), time.process_time()
        step()
        return {"step": clock(device) - started, "step_cpu": time.process_time() - used}


def _shape_in_tokens(pipe: Any, family: Family, config: dict[str, Any], request: Request) -> Shape:
    side = family.pixels_per_token(pipe)
    # A pipeline that does not say its own size makes 1024 pixels a side.
    default = getattr(pipe, "default_sample_size", 0) * getattr(pipe, "vae_scale_factor", 0) or 1024
    latent: tuple[int, ...] = ((request.height or default) // side, (request.width or default) // side)
    if request.num_frames is not None:
        latent = ((request.num_frames - 1) // family.frames_per_token(pipe) + 1, *latent)
    text = min(request.max_sequence_length, family.main_tokenizer(pipe, request.max_sequence_length).max_length)
    return Shape(request.model, family.name, config, latent, text, depth_of(config))


def shape_of_pipeline(pipe: Any, request: Request) -> Shape:
    """Returns the shape of a pipeline's transformer at the size of a request."""
    family = family_of(pipe)
    transformer = family.denoisers_of(pipe)[0]
    config = {**transformer.config, "_class_name": type(transformer).__name__}
    if family.name not in IN_LATENTS:
        return _shape_in_tokens(pipe, family, config, request)
    if family.video:
        scale, name = pipe.vae_scale_factor_spatial, "wan"
        frames = ((request.num_frames or 1) - 1) // pipe.vae_scale_factor_temporal + 1
        default, clip_tokens, leading = 0, 0, [frames]
    else:
        scale, name = pipe.vae_scale_factor, "sd3"
        default, clip_tokens, leading = config["sample_size"] * scale, pipe.tokenizer_max_length, []
    latent = (*leading, (request.height or default) // scale, (request.width or default) // scale)
    return Shape(request.model, name, config, latent, clip_tokens + request.max_sequence_length, config["num_layers"])
