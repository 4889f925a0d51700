"""Makes a diffusers pipeline ready: the only place that loads weights.

Only safetensors are loaded. Every error of loading becomes one line that says what to do.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vsf_cli.config.values import parse_path
from vsf_cli.errors import ModelError, OutOfMemory, RequestError
from vsf_cli.loading.hub import translated
from vsf_cli.loading.loras import BUILTIN, Lora, load_lora

__all__ = [
    "OFFLOADS",
    "Runtime",
    "Source",
    "check_dtype",
    "device_named",
    "grid_of",
    "identify",
    "is_here",
    "load",
    "offload_of",
    "out_of_memory_advice",
    "source_of",
    "vocabulary_of",
]

OFFLOADS = ("auto", "none", "model", "group", "sequential")
SCHEDULERS = {"UniPCMultistepScheduler": "flow_shift", "FlowMatchEulerDiscreteScheduler": "shift"}
"""The schedulers of flow matching that can be chosen, with what they call the shift of their sigmas."""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Runtime:
    """Where and how a model runs; nothing here decides the picture on a CPU.

    Arguments:
        device: "auto", or a device of torch.
        offload: One of "auto", "none", "model", "group", "sequential", by falling need of memory.
        offline: Whether the network may not be used.
        compile: Whether the blocks of the transformer are compiled.

    Raises:
        RequestError: If a value is not known.
    """

    device: str = "auto"
    offload: str = "auto"
    offline: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.offload not in OFFLOADS:
            raise RequestError(f"--offload is '{self.offload}', but must be one of {', '.join(OFFLOADS)}")


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Arguments:
        name: What the person wrote.
        folder: The folder on this machine; None for a hub id.
    """

    name: str
    folder: Path | None

    @property
    def location(self) -> str:
        """What diffusers loads from."""
        return str(self.folder) if self.folder else self.name


def source_of(model: str) -> Source:
    """Finds a model: `builtin:NAME`, a folder, or a hub id.

    Raises:
        ModelError: If a folder is meant that does not exist.
    """
    if model.startswith(BUILTIN):
        folder = Path(str(resources.files("vsf_cli") / "toy" / "weights" / model.removeprefix(BUILTIN)))
        if not folder.is_dir():
            raise ModelError(f"model '{model}' is not in this package: see 'vsf presets list'")
        return Source(model, folder)
    path = parse_path(model)
    if path.is_dir():
        return Source(model, path)
    if path.is_absolute() or model.startswith((".", "~")) or not re.fullmatch(r"[\w.\-]+/[\w.\-]+", model):
        raise ModelError(
            f"model '{model}' is neither a folder on this machine nor a hub id of the form owner/name: name it with -m"
        )
    return Source(model, None)


def vocabulary_of(model: str) -> frozenset[str] | None:
    """The words that a model knows, if its folder says so in `vocabulary.txt`; None if it knows any."""
    folder = source_of(model).folder
    path = folder / "vocabulary.txt" if folder else None
    return frozenset(path.read_text("utf-8").split()) if path and path.is_file() else None


def grid_of(model: str, revision: str | None) -> tuple[int, int | None] | None:
    """The pixels that one token's side covers, and how many tokens a side may have; None if its configuration is not here.

    It is read from files alone: `vsf_cli.models` has it of a model that is loaded.
    """
    transformer, autoencoder = (_configuration(model, revision, part) for part in ("transformer", "vae"))
    patch = transformer.get("patch_size")
    halvings = len(autoencoder.get("block_out_channels") or autoencoder.get("dim_mult") or ()) - 1
    if patch is None or halvings < 0:
        return None
    factor = autoencoder.get("scale_factor_spatial") or 2**halvings
    return factor * (patch[1] if isinstance(patch, list) else patch), transformer.get("pos_embed_max_size")


def _configuration(model: str, revision: str | None, part: str) -> dict[str, Any]:
    folder, name = source_of(model).folder, f"{part}/config.json"
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, name, revision=revision)
        path = Path(found) if isinstance(found, str) else None
    else:
        path = folder / name
    try:
        read = json.loads(path.read_text("utf-8")) if path else {}
    except (OSError, ValueError):
        return {}  # Whoever loads the model says what is wrong with it.
    return read if isinstance(read, dict) else {}


def identify(source: Source, revision: str | None) -> dict[str, str]:
    """What says which weights a picture was made with.

    Returns:
        For a hub id the commit, as `model_revision`. For a folder the SHA-256 of its transformer's weights, as `model_hash`;
        beyond a gigabyte that of their headers and sizes, as `model_fingerprint`: reading all of them would take minutes.
    """
    if source.folder is None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source.name, "model_index.json", revision=revision)
        return {"model_revision": Path(found).parent.name} if isinstance(found, str) else {}
    files = sorted((source.folder / "transformer").glob("*.safetensors"))
    if sum(path.stat().st_size for path in files) > 1e9:
        return {"model_fingerprint": _digest(_header(path) for path in files)}
    return {"model_hash": _digest(path.read_bytes() for path in files)} if files else {}


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        length = file.read(8)
        return str(path.stat().st_size).encode() + length + file.read(int.from_bytes(length, "little"))


def check_dtype(dtype: str) -> None:
    """Refuses a dtype that is not known.

    Raises:
        RequestError: If it is not one of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise RequestError(f"--dtype is '{dtype}', but must be one of {', '.join(DTYPES)}")


def is_here(model: str, revision: str | None) -> bool:
    """Whether a model's weights are on this machine: in a folder, or a hub model's transformer in the cache.

    Raises:
        ModelError: If it is neither a folder nor a name of the hub.
    """
    if source_of(model).folder is not None:
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
    try:
        return any(isinstance(try_to_load_from_cache(model, f"transformer/{name}", revision=revision), str) for name in names)
    except HFValidationError as error:
        raise ModelError(f"model '{model}' is no name of the hub: {error}") from error


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
    """Loads a pipeline and makes it ready to run.

    Arguments:
        model: `builtin:NAME`, a folder, or a hub id.
        dtype: One of "float32", "bfloat16", "float16".
        runtime: Where and how it runs.
        loras: LoRA files.
        revision: A branch, tag or commit of the hub.
        variant: The variant of the weights' files.
        scheduler: A class of `SCHEDULERS`, if not the model's own.
        flow_shift: How far its sigmas are shifted, if not as the model's own.
        vae_dtype: The dtype of the autoencoder, if another one.
        vae_tiling: Whether the autoencoder works tile by tile: less memory, and seams that differ a little.

    Returns:
        A diffusers pipeline of a family that is supported.

    Raises:
        ModelError: If the model is missing, gated, offline, or of a class that is not supported.
        RequestError: If the dtype, the device or a LoRA is not legal.
        OutOfMemory: If it does not fit.
    """
    runtime = runtime or Runtime()
    check_dtype(dtype)
    check_dtype(vae_dtype or dtype)
    if scheduler is not None and scheduler not in SCHEDULERS:
        raise RequestError(f"scheduler is '{scheduler}', but must be one of {', '.join(SCHEDULERS)}")
    parsed = [Lora.parse(lora) for lora in loras]
    source = source_of(model)

    import torch
    from diffusers import DiffusionPipeline

    device = device_named(runtime.device)
    with translated(model, runtime.offline):
        _check_class(source, revision, runtime.offline)
        pipe = DiffusionPipeline.from_pretrained(
            source.location,
            dtype={"default": getattr(torch, dtype), "vae": getattr(torch, vae_dtype or dtype)},
            use_safetensors=True,
            local_files_only=runtime.offline or source.folder is not None,
            **{key: value for key, value in (("revision", revision), ("variant", variant)) if value is not None},
        )
    pipe.set_progress_bar_config(disable=True)
    if vae_tiling:
        pipe.vae.enable_tiling()
    _set_scheduler(pipe, scheduler, flow_shift)
    for number, lora in enumerate(parsed):
        load_lora(pipe, lora, f"vsf_{number}", runtime.offline)
    if parsed:
        pipe.set_adapters([f"vsf_{number}" for number in range(len(parsed))], [lora.scale for lora in parsed])
    _place(pipe, device, runtime.offload)
    if runtime.compile:
        from vsf_cli.models.compile import compile_blocks

        for transformer in (pipe.transformer, getattr(pipe, "transformer_2", None)):
            if transformer is not None:
                compile_blocks(transformer, device)
    return pipe


def _set_scheduler(pipe: Any, name: str | None, flow_shift: float | None) -> None:
    import diffusers

    if name is None and flow_shift is None:
        return
    kind = getattr(diffusers, name) if name else type(pipe.scheduler)
    shift = {} if flow_shift is None else {SCHEDULERS[kind.__name__]: flow_shift}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **shift)


def device_named(name: str) -> Any:
    """A device of torch by its name, "auto" being the accelerator that is here, or else the CPU.

    Raises:
        RequestError: If this machine does not have it.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    # torch says "not here" in three ways: of an unknown name, of a build without the device, of a plug-in not installed.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise RequestError(f"--device is '{name}', which this machine does not have: see 'vsf doctor'") from error
    return device


def _check_class(source: Source, revision: str | None, offline: bool) -> None:
    """Refuses a pipeline of another class before its weights are downloaded."""
    from diffusers import DiffusionPipeline

    from vsf_cli.models import FAMILIES

    if source.folder is not None:
        index = source.folder / "model_index.json"
        if not index.is_file():
            raise ModelError(f"model '{source.name}' has no model_index.json: give the folder of a diffusers pipeline")
        found = json.loads(index.read_text("utf-8")).get("_class_name")
    else:
        config = DiffusionPipeline.load_config(source.name, revision=revision, local_files_only=offline)
        found = config.get("_class_name") if isinstance(config, dict) else None
    known = [family.pipelines[0] for family in FAMILIES.values()]
    if found not in known:
        raise ModelError(f"model '{source.name}' is a {found}, but supported pipelines are {', '.join(known)}")


def _place(pipe: Any, device: Any, offload: str) -> None:
    import torch

    if offload == "auto":
        offload = _offload_that_fits(pipe, device)
    try:
        if device.type == "cpu" or offload == "none":
            pipe.to(device)
        elif offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif offload == "group":
            pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
        else:
            pipe.enable_sequential_cpu_offload(device=device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(out_of_memory_advice(offload)) from error


def offload_of(pipe: Any) -> str:
    """How a loaded pipeline is offloaded: "cpu" if it needs no offloading, since it runs there."""
    if pipe._execution_device.type == "cpu":
        return "cpu"
    if getattr(pipe, "_all_hooks", None):
        return "model"
    if any(hasattr(module, "_diffusers_hook") for module in pipe.transformer.modules()):
        return "group"
    hooked = any(hasattr(module, "_hf_hook") for module in pipe.transformer.modules())
    return "sequential" if hooked else "none"


def _offload_that_fits(pipe: Any, device: Any) -> str:
    """ "none" if all weights fit with a quarter to spare, "model" if the largest part does, else "sequential"."""
    import torch

    if device.type != "cuda":
        return "none"
    sizes = [
        sum(tensor.numel() * tensor.element_size() for tensor in part.parameters())
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    free, _ = torch.cuda.mem_get_info(device)
    if 1.25 * sum(sizes) < free:
        return "none"
    return "model" if 1.25 * max(sizes) < free else "sequential"


def out_of_memory_advice(offload: str) -> str:
    """The next thing to try when memory does not suffice at this level of offloading."""
    if offload == "cpu":
        return "out of memory: try --dtype bfloat16, --vae-tiling, or a smaller --size"
    order = [level for level in OFFLOADS if level != "auto"]
    after = order[order.index(offload) + 1 :] if offload in order else order[1:]
    return f"out of memory: try --offload {after[0]}" if after else "out of memory: try --vae-tiling, or a smaller --size"
