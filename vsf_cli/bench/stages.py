"""Times an image or video of a real pipeline by stages."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from vsf_cli.bench.methods import BenchMethod
from vsf_cli.bench.timing import Sample, clock
from vsf_cli.errors import RequestError
from vsf_cli.generation.generate import Request
from vsf_cli.generation.guided import guided
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import encode_image, encode_video
from vsf_cli.models import family_of
from vsf_cli.models.family import call_parameters

__all__ = ["STAGES", "time_request"]

STAGES = ("text", "denoiser", "vae", "other", "writing")
CFG_SCALE = 4.0
"""The scale for models that run without CFG. The time of CFG does not depend on it."""


def time_request(pipe: Any, request: Request, method: BenchMethod) -> Sample:
    """Makes an image or video, and returns its seconds, in all and by stage, and its CPU time, in all and of a step."""
    device = pipe._execution_device
    started, cpu = clock(device), time.process_time()
    with _stages_timed(pipe) as seconds:
        frames = _generate(pipe, request, method)
        generated = clock(device)
        _write(frames, request)
    ended = clock(device)
    seconds |= {"writing": ended - generated, "total": ended - started, "cpu": time.process_time() - cpu}
    seconds["other"] = generated - started - sum(seconds[stage] for stage in ("text", "denoiser", "vae"))
    steps = request.num_inference_steps
    of_step = {"step": seconds["denoiser"] / steps, "step_cpu": seconds.pop("denoiser_cpu") / steps}
    return {**seconds, **of_step}


def _generate(pipe: Any, request: Request, bench_method: BenchMethod) -> Any:
    method, family, parameters = bench_method.implementation, family_of(pipe), call_parameters(pipe)
    options: dict[str, Any] = {"guidance_scale": 0.0, **family.call(request.num_inference_steps)}
    if method.passes_negative_prompt:
        if "negative_prompt" not in parameters:
            raise RequestError(f"a {type(pipe).__name__} takes no negative prompt for CFG: leave cfg out of --method")
        options[family.cfg_argument] = request.guidance_scale if request.guidance_scale > 1 else CFG_SCALE
        options["negative_prompt"] = ", ".join(request.negative)
    keep = [list(request.keep)] if bench_method.keeps else None
    guidance = guided(pipe, [list(request.negative)], method, request.max_sequence_length, keep=keep)
    names = ("prompt", "num_inference_steps", "width", "height", "max_sequence_length", "num_frames")
    options |= {name: getattr(request, name) for name in names if name in parameters}
    generator = torch.Generator("cpu").manual_seed(request.seed)
    with guidance if method.guides_attention else nullcontext():
        return pipe(**options, generator=generator, output_type="pil")[0][0]


def _write(frames: Any, request: Request) -> None:
    """Encodes the image or video, and writes a file, which waits for the disk."""
    with tempfile.TemporaryDirectory() as folder:
        if request.num_frames:
            write_bytes(Path(folder) / "video.mp4", encode_video(frames, request.fps or 16, "mp4", None))
        else:
            write_bytes(Path(folder) / "image.png", encode_image(frames, "png", None))


def _stages(pipe: Any) -> Mapping[str, list[Any]]:
    encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")]
    # Hooks do not see the calls of `vae.decode`; the decoder takes nearly all of its time.
    stages = {"denoiser": family_of(pipe).denoisers_of(pipe), "vae": [pipe.vae.decoder]}
    return {"text": [encoder for encoder in encoders if encoder is not None], **stages}


@contextmanager
def _stages_timed(pipe: Any) -> Iterator[dict[str, float]]:
    """Adds up the seconds of the calls of each stage's modules inside a `with`; yields them by stage."""
    device, seconds = pipe._execution_device, dict.fromkeys(("text", "denoiser", "vae", "denoiser_cpu"), 0.0)
    started: list[tuple[float, float]] = []

    def begin(*_: Any) -> None:
        started.append((clock(device), time.process_time()))

    def end_of(stage: str) -> Callable[..., None]:
        def end(*_: Any) -> None:
            began, used = started.pop()
            seconds[stage] += clock(device) - began
            if stage == "denoiser":
                seconds["denoiser_cpu"] += time.process_time() - used

        return end

    with ExitStack() as stack:
        for stage, modules in _stages(pipe).items():
            for module in modules:
                stack.callback(module.register_forward_pre_hook(begin).remove)
                stack.callback(module.register_forward_hook(end_of(stage)).remove)
        yield seconds
