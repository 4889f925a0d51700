"""Trains the embedded video model from nothing: `python -m training.train_videos --folder FOLDER`.

Stages, in order: the autoencoder, the base model (on single frames, then on clips), the LoRA. Each writes checkpoints to the
folder and goes on from them. At the end, `--export` writes the pipeline's folder and the LoRA's file, in bfloat16.
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.video_autoencoder import train_video_autoencoder
from training.video_flow import ClipExamples, train_clip_base, train_lora
from vsf_cli.loading.lora_keys import original_name
from vsf_cli.toy.video_recipe import LORA_RANK, build_student_scheduler, build_transformer
from vsf_cli.toy.video_scenes import video_vocabulary

__all__ = ["main", "published", "read_published"]

STAGES = ("autoencoder", "base", "lora")


def published(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA by the names under which those for Wan are published, with its `alpha`."""
    found = {}
    for name, tensor in lora.items():
        module, kind = name.replace(".default", "").removesuffix(".weight").rsplit(".lora_", 1)
        place = f"diffusion_model.{original_name(module)}"
        found[f"{place}.lora_{'down' if kind == 'A' else 'up'}.weight"] = tensor.bfloat16().contiguous()
        found[f"{place}.alpha"] = torch.tensor(float(LORA_RANK)).bfloat16()
    return found


def read_published(path: Path) -> dict[str, Tensor]:
    """A file of `published`, by the names of diffusers."""
    known = {original_name(name): name for name, _ in build_transformer().named_modules()}
    found = {}
    for name, tensor in load_file(path).items():
        place, _, kind = name.removeprefix("diffusion_model.").partition(".lora_")
        if kind:
            letter = "A" if kind == "down.weight" else "B"
            found[f"{known[place]}.lora_{letter}.default.weight"] = tensor.float()
    return found


def main() -> None:
    """Runs the stages."""
    parser = argparse.ArgumentParser(prog="python -m training.train_videos", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are written and found again")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, which was never tried")
    parser.add_argument("--until", choices=STAGES, default="lora", help="the last stage to run")
    parser.add_argument("--autoencoder-steps", type=int, default=6000)
    parser.add_argument("--still-steps", type=int, default=1800, help="of the base, on single frames alone")
    parser.add_argument("--clip-steps", type=int, default=4800, help="of the base, on both")
    parser.add_argument("--start-from", type=Path, help="a pipeline's folder: its autoencoder stays, and its base goes on")
    parser.add_argument("--start-lora", type=Path, help="the LoRA's file that goes on")
    parser.add_argument("--lora-steps", type=int, default=600)
    parser.add_argument("--export", type=Path, help="where it is written; the package's own is vsf_cli/toy/weights")
    options = parser.parse_args()
    folder, wanted = options.folder, STAGES[: STAGES.index(options.until) + 1]
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_device(options.device)

    start = WanPipeline.from_pretrained(options.start_from, torch_dtype=torch.float32) if options.start_from else None
    vae = start.vae if start else train_video_autoencoder(folder, options.autoencoder_steps)
    if "base" not in wanted:
        return
    stills, clips = ClipExamples.stills(vae, folder), ClipExamples.clips(vae, folder)
    base, encoder = train_clip_base(stills, clips, folder, options.still_steps, options.clip_steps, start)
    if "lora" not in wanted:
        return
    begun = read_published(options.start_lora) if options.start_lora else None
    lora = train_lora(base, encoder, build_student_scheduler(), clips, folder, options.lora_steps, begun)
    if options.export is None:
        return
    place = options.export / "tiny-wan"
    shutil.rmtree(place, ignore_errors=True)
    pipe = WanPipeline(
        tokenizer=encoder.tokenizer,
        text_encoder=encoder.encoder,
        vae=vae,
        scheduler=build_student_scheduler(),
        transformer=base,
    )
    pipe.to("cpu", torch.bfloat16).save_pretrained(place, safe_serialization=True)
    for path in place.rglob("*.json"):
        # diffusers notes the folder that a part was loaded from.
        path.write_text("".join(line for line in path.open() if '"_name_or_path"' not in line), "utf-8")
    (place / "vocabulary.txt").write_text("\n".join(video_vocabulary()) + "\n", "utf-8")
    save_file(published(lora), place.parent / "tiny-wan-causvid-lora.safetensors")


if __name__ == "__main__":
    main()
