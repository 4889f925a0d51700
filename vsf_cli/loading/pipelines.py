"""Loads diffusers pipelines, only from safetensors. Every error is one line that says what to do."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from vsf_cli.errors import ModelError, OutOfMemory, VSFError, is_out_of_memory
from vsf_cli.loading.hub import as_model_error, stays_offline
from vsf_cli.loading.libraries import quietly
from vsf_cli.loading.loras import Lora, load_lora
from vsf_cli.loading.offload import move_to_device
from vsf_cli.loading.runtime import Runtime, check_dtype, check_runtime, device_named
from vsf_cli.loading.schedulers import check_scheduler, set_scheduler
from vsf_cli.loading.sources import Source, index_of, is_here, source_of
from vsf_cli.models import FAMILIES, family_of
from vsf_cli.models.compile import compile_blocks

__all__ = ["check_source", "load"]


def load(
    model: str,
    dtype: str,
    runtime: Runtime | None = None,
    loras: tuple[str, ...] = (),
    revision: str | None = None,
    variant: str | None = None,
    *,
    scheduler: str | None = None,
    flow_shift: float | None = None,
    vae_dtype: str | None = None,
    vae_tiling: bool = False,
) -> Any:
    """Returns a diffusers pipeline of a supported family, ready to run.

    Arguments:
        model: `builtin:NAME`, a folder, or a hub id.
        dtype: "float32", "bfloat16" or "float16".
        runtime: Where and how it runs.
        loras: LoRA files, as `Lora` parses them.
        revision: A branch, tag or commit of the hub.
        variant: The variant of the weights' files.
        scheduler: A class of `SCHEDULERS`; None keeps the model's own.
        flow_shift: The shift of the scheduler's sigmas; None keeps the model's own.
        vae_dtype: The dtype of the autoencoder; None means `dtype`.
        vae_tiling: Whether the autoencoder works in tiles, which need less memory and leave faint seams.

    Raises:
        ModelError: If the model is missing, gated, not in the cache while offline, or of a class that is not supported.
        RequestError: If the dtype, the scheduler, the device or a LoRA is not legal.
        OutOfMemory: If it does not fit.
    """
    runtime, dtypes = runtime or Runtime(), {"default": dtype, "vae": vae_dtype or dtype}
    for one in dtypes.values():
        check_dtype(one)
    check_scheduler(scheduler)
    parsed, source = [Lora.parse(lora) for lora in loras], source_of(model)
    check_runtime(runtime)
    device = device_named(runtime.device)
    with quietly(), _advising(source, dtype):
        pipe = _read(source, dtypes, revision, variant, runtime.offline)
        if vae_tiling:
            pipe.vae.enable_tiling()
        set_scheduler(pipe, scheduler, flow_shift)
        _add_loras(pipe, parsed, runtime.offline)
        move_to_device(pipe, device, runtime.offload)
    if runtime.compile:
        for denoiser in family_of(pipe).denoisers_of(pipe):
            compile_blocks(denoiser, device)
    return pipe


@contextmanager
def _advising(source: Source, dtype: str) -> Iterator[None]:
    """Raises errors of too little memory, but those that have advice already, with advice for a model that is being loaded."""
    try:
        yield
    except Exception as error:
        if isinstance(error, VSFError) or not is_out_of_memory(error):
            raise
        smaller = "--dtype bfloat16, or a smaller model" if dtype == "float32" else "a smaller model"
        raise OutOfMemory(f"out of memory while model '{source.name}' was loaded: try {smaller}") from error


def _read(source: Source, dtypes: dict[str, str], revision: str | None, variant: str | None, offline: bool) -> Any:
    """Returns a pipeline with the weights of a model, each component in its dtype."""
    import torch
    from diffusers import DiffusionPipeline

    optional = {"revision": revision, "variant": variant}
    with as_model_error(source.name, offline):
        local = _check_class(source, revision, offline)
        pipe = DiffusionPipeline.from_pretrained(
            source.location,
            dtype={component: getattr(torch, dtype) for component, dtype in dtypes.items()},
            use_safetensors=True,
            local_files_only=local,
            **{name: value for name, value in optional.items() if value is not None},
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _add_loras(pipe: Any, loras: Sequence[Lora], offline: bool) -> None:
    names = [f"vsf_{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        load_lora(pipe, lora, name, offline)
    if names:
        pipe.set_adapters(names, [lora.scale for lora in loras])


def check_source(model: str, revision: str | None, offline: bool) -> None:
    """Raises a `ModelError` if a model does not exist, is gated or cannot be reached, before anything large is downloaded."""
    source = source_of(model)
    with as_model_error(source.name, offline):
        _check_class(source, revision, offline)


def _check_class(source: Source, revision: str | None, offline: bool) -> bool:
    """Returns whether a model is loaded without the network; raises an error for an unsupported one before it is downloaded."""
    from diffusers import DiffusionPipeline

    local = source.folder is not None or stays_offline(source.name, is_here(source.name, revision), offline)
    if index := index_of(source):
        class_name = json.loads(index.read_text("utf-8")).get("_class_name")
    else:
        config = DiffusionPipeline.load_config(source.name, revision=revision, local_files_only=local)
        class_name = config.get("_class_name") if isinstance(config, dict) else None
    known = {name: uses for family in FAMILIES.values() for name, uses in family.pipelines.items()}
    if class_name in known and (package := known[class_name].needs) and find_spec(package) is None:
        raise ModelError(f'a {class_name} needs {package}, which is not here: pip install "vsf-cli[edit]"')
    if class_name not in known:
        raise ModelError(f"model '{source.name}' is a {class_name}, but supported pipelines are {', '.join(known)}")
    return local
