"""Measures the methods, on a real pipeline or on a random transformer, or counts them on paper."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from vsf_cli.bench.analytic import analytic_flops
from vsf_cli.bench.arms import Arm
from vsf_cli.bench.counting import Costs, counted
from vsf_cli.bench.masked import forget_mask
from vsf_cli.bench.memory import peak_memory
from vsf_cli.bench.random_model import RandomModel, build, prepared
from vsf_cli.bench.shapes import Shape
from vsf_cli.bench.stages import timed_picture
from vsf_cli.bench.timing import Progress, Sample, clock, interleaved
from vsf_cli.errors import OutOfMemory
from vsf_cli.generation.generate import Request
from vsf_cli.models import family_of

__all__ = ["Row", "count", "measure_pipeline", "measure_random", "shape_of_pipeline"]


@dataclass(frozen=True)
class Row:
    """What one method costs.

    Arguments:
        arm: The method.
        tokens: Tokens of the negative prompt that it works with.
        costs: What one step was counted to cost.
        analytic: The FLOPs of one step by the sizes alone; None if they are not known.
        samples: The seconds of each round; none if nothing was timed.
        memory: The most bytes that were taken, weights included; None if that cannot be said here.
    """

    arm: Arm
    tokens: int
    costs: Costs
    analytic: int | None
    samples: Sequence[Sample] = ()
    memory: int | None = None


@dataclass
class _Memories:
    """Measures the memory of each run as it is called for the first time."""

    device: torch.device
    found: dict[str, int | None] = field(default_factory=dict)

    def __call__(self, name: str, run: Callable[[], Sample]) -> None:
        forget_mask()
        self.found[name] = peak_memory(self.device, run)


def count(shape: Shape, arms: Sequence[Arm], dtype: torch.dtype, negatives: int, progress: Progress | None = None) -> list[Row]:
    """Counts one step of each method, by tensors without numbers: at any size, in seconds.

    Arguments:
        shape: The architecture.
        arms: The methods.
        dtype: That of weights and inputs.
        negatives: Tokens of the negative prompt without padding.
        progress: Is told the methods done and all methods.
    """
    model = build(shape, dtype, torch.device("meta"), negatives)
    rows = []
    for arm in arms:
        with prepared(model, arm) as step:
            costs = counted(step)
        tokens = shape.positives if arm.method.padding or arm.method.passes_negative_prompt else negatives
        tokens = tokens if arm.method.guides_attention or arm.method.passes_negative_prompt else 0
        rows.append(Row(arm, tokens, costs, analytic_flops(shape, arm, negatives)))
        if progress is not None:
            progress(len(rows), len(arms))
    return rows


def measure_random(
    model: RandomModel, rows: Sequence[Row], device: torch.device, rounds: int, progress: Progress | None = None
) -> list[Row]:
    """Times one step of each method on a transformer with random weights.

    Arguments:
        model: The transformer.
        rows: The methods, as `count` gives them.
        device: Where it runs.
        rounds: How often each is timed.
        progress: Is told the runs done and all runs.
    """
    runs = {row.arm.name: partial(_timed_step, model, row.arm, device) for row in rows}
    return _timed(rows, runs, device, rounds, progress)


def measure_pipeline(
    pipe: Any, request: Request, rows: Sequence[Row], rounds: int, progress: Progress | None = None
) -> list[Row]:
    """Times a picture or clip by each method on a real pipeline.

    Arguments:
        pipe: The pipeline.
        request: What is made; the methods are those of the rows.
        rows: The methods, as `count` gives them.
        rounds: How often each is timed.
        progress: Is told the runs done and all runs.
    """
    runs = {row.arm.name: partial(timed_picture, pipe, request, row.arm) for row in rows}
    return _timed(rows, runs, pipe._execution_device, rounds, progress)


def _timed(
    rows: Sequence[Row],
    runs: Mapping[str, Callable[[], Sample]],
    device: torch.device,
    rounds: int,
    progress: Progress | None,
) -> list[Row]:
    memories = _Memories(device)
    try:
        samples = interleaved(runs, rounds, memories, progress)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory("out of memory: pass fewer --layers of --random-weights, or a smaller --size") from error
    return [
        Row(row.arm, row.tokens, row.costs, row.analytic, samples[row.arm.name], memories.found[row.arm.name]) for row in rows
    ]


def _timed_step(model: RandomModel, arm: Arm, device: torch.device) -> Sample:
    with prepared(model, arm) as step:
        started, used = clock(device), time.process_time()
        step()
        return {"step": clock(device) - started, "cpu": time.process_time() - used}


def shape_of_pipeline(pipe: Any, request: Request) -> Shape:
    """The shape of a pipeline's transformer at the size of a request."""
    family = family_of(pipe)
    transformer = family.denoisers_of(pipe)[0]
    config = {**transformer.config, "_class_name": type(transformer).__name__}
    if family.video:
        scale, name = pipe.vae_scale_factor_spatial, "wan"
        frames = ((request.num_frames or 1) - 1) // pipe.vae_scale_factor_temporal + 1
        default, clip, before = 0, 0, [frames]
    else:
        scale, name = pipe.vae_scale_factor, "sd3"
        default, clip, before = config["sample_size"] * scale, pipe.tokenizer_max_length, []
    latent = (*before, (request.height or default) // scale, (request.width or default) // scale)
    return Shape(request.model, name, config, latent, clip + request.max_sequence_length, config["num_layers"])
