"""`vsf doctor`: what this machine has, and what a preset would need."""

import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import Json, command_option
from vsf_cli.config.names import counted
from vsf_cli.config.option import MODEL
from vsf_cli.errors import ModelError
from vsf_cli.loading.sources import is_here
from vsf_cli.media.metadata import versions
from vsf_cli.models import FAMILIES
from vsf_cli.settings.presets import Preset, Settings

__all__ = ["app"]

app = command_app()
KERNELS = {
    "cuda-flash": "flash attention on the GPU",
    "cuda-cudnn": "cuDNN on the GPU",
    "cuda-efficient": "memory-efficient attention on the GPU",
    "cpu-flash": "flash attention on the CPU",
    "fallback": "plain PyTorch where no kernel fits",
}
"""The paths of attention in words."""


@app.command(cls=Command, epilog="Example: vsf doctor --preset sd3.5-large-turbo")
@handle_errors
def doctor(
    preset: Annotated[
        str | None, command_option("--preset", help="A preset's name, or the path of its file.", panel=MODEL)
    ] = None,
    as_json: Json = False,
) -> None:
    """Report versions, device, memory, attention kernels, cache, and what a preset needs."""
    report = _report(Settings({"preset": preset}))
    if as_json:
        Console.data(as_line(report))
        return
    report["attention"] = [KERNELS[name] for name in report["attention"]]
    for key, value in report.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        Console.data_pairs([(key, ", ".join(text) if isinstance(text, list) else text)], 14)


def _report(settings: Settings) -> dict[str, Any]:
    import torch
    from huggingface_hub import constants

    from vsf_cli.attention.exact import available_paths
    from vsf_cli.attention.fused import unusable

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}, {counted(torch.get_num_threads(), 'thread')}",
        "device": str(accelerator or "cpu"),
        "memory": _memory(accelerator),
        "attention": [name for name, exists in available_paths().items() if exists],
        "fused kernels": unusable(accelerator or torch.device("cpu")) or "by Triton",
        "cache": f"{cache}, {free / 1e9:.0f} GB free",
        "preset": settings.preset.name,
        "model": settings["model"],
        "about": settings.preset.about,
        "needs": _needs(settings["model"], settings.preset),
    }


def _memory(accelerator: Any) -> str:
    import torch

    if accelerator is not None and accelerator.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free on {torch.cuda.get_device_name()}"
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"


def _needs(model: str, preset: Preset) -> str:
    uses = FAMILIES[preset.family].pipelines.get(preset.main_pipeline)
    package = uses.needs if uses else None
    needs = [f'{package}: pip install "vsf-cli[edit]"'] if package and find_spec(package) is None else []
    try:
        if not is_here(model, preset.revision_of(model)):
            size, license = preset.download(model)
            needs.append(f"{size} from the hub; licence: {license}")
    except ModelError as error:
        return str(error)
    return "; ".join(needs) or "nothing: its weights are here"
