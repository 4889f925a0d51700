"""A picture or clip of a real pipeline, timed by stage."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from vsf_cli.bench.arms import Arm
from vsf_cli.bench.timing import Sample, clock
from vsf_cli.generation.generate import Request
from vsf_cli.generation.guided import guided
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import encode_image, encode_video
from vsf_cli.models import family_of

__all__ = ["STAGES", "timed_picture"]

STAGES = ("text", "denoiser", "vae", "other", "writing")
CFG_SCALE = 4.0
"""Of CFG on a model that runs without it: its time does not depend on it."""


def timed_picture(pipe: Any, request: Request, arm: Arm) -> Sample:
    """The seconds of a picture: of all of it, of each stage, of a step of the denoiser, and of the process's own time."""
    device = pipe._execution_device
    started, used = clock(device), time.process_time()
    with _watched(pipe) as seconds:
        frames = _frames(pipe, request, arm)
        made = clock(device)
        _write(frames, request)
    ended = clock(device)
    seconds |= {"writing": ended - made, "total": ended - started, "cpu": time.process_time() - used}
    seconds["other"] = made - started - sum(seconds[stage] for stage in ("text", "denoiser", "vae"))
    return {**seconds, "step": seconds["denoiser"] / request.num_inference_steps}


def _frames(pipe: Any, request: Request, arm: Arm) -> Any:
    video, method = family_of(pipe).video, arm.method
    options: dict[str, Any] = {"num_frames": request.num_frames} if video else {}
    scale = 0.0
    if method.passes_negative_prompt:
        scale = request.guidance_scale if request.guidance_scale > 1 else CFG_SCALE
        options["negative_prompt"] = ", ".join(request.negative)
    guiding = guided(pipe, [list(request.negative)], method, request.max_sequence_length)
    with guiding if method.guides_attention else nullcontext():
        return pipe(
            request.prompt,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=scale,
            width=request.width,
            height=request.height,
            max_sequence_length=request.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="pil",
            **options,
        )[0][0]


def _write(frames: Any, request: Request) -> None:
    """Encodes, and writes a file, which waits for the disk."""
    with tempfile.TemporaryDirectory() as folder:
        if request.num_frames:
            write_bytes(Path(folder) / "clip.mp4", encode_video(frames, request.fps or 16, "mp4", None))
        else:
            write_bytes(Path(folder) / "picture.png", encode_image(frames, "png", None))


def _stages(pipe: Any) -> Mapping[str, list[Any]]:
    """The modules whose calls are a stage."""
    names = {
        "text": ("text_encoder", "text_encoder_2", "text_encoder_3"),
        "denoiser": ("transformer", "transformer_2"),
    }
    found = {stage: [getattr(pipe, name, None) for name in parts] for stage, parts in names.items()}
    # The pipeline calls `decode`, which hooks do not see; nearly all of it is in here.
    found["vae"] = [pipe.vae.decoder]
    return {stage: [module for module in modules if module is not None] for stage, modules in found.items()}


@contextmanager
def _watched(pipe: Any) -> Iterator[dict[str, float]]:
    """A `with` in which the seconds of the calls of each stage's modules are added up."""
    device, seconds = pipe._execution_device, dict.fromkeys(("text", "denoiser", "vae"), 0.0)
    started: list[float] = []

    def begin(*_: Any) -> None:
        started.append(clock(device))

    def ending(stage: str) -> Callable[..., None]:
        def end(*_: Any) -> None:
            seconds[stage] += clock(device) - started.pop()

        return end

    with ExitStack() as stack:
        for stage, modules in _stages(pipe).items():
            for module in modules:
                stack.callback(module.register_forward_pre_hook(begin).remove)
                stack.callback(module.register_forward_hook(ending(stage)).remove)
        yield seconds
