"""What chance alone takes away and brings in: python benchmarks/chance.py --pairs 600 -o docs/results/chance.json

Guidance changes an image, and any other change of that size would lose parts, too. So the noise of each unguided image is mixed
with other noise, just as much as makes its pixels differ as much from the unguided ones as VSF's do (root mean square over the
first pairs). The judge is asked about these images as about guided ones: the rest that they keep is what chance leaves.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vsf_cli.bench.report import conditions
from vsf_cli.evaluation.judges import judge_named
from vsf_cli.evaluation.prompts import Record, load_prompts
from vsf_cli.generation.guided import guided
from vsf_cli.loading.pipelines import load
from vsf_cli.methods import NoGuidance
from vsf_cli.settings.presets import load_preset

PRESET = load_preset("tiny-sd3-turbo")
BATCH = 25
TRIALS = 8
"""Bisections of the share of other noise."""

Images = list[Image.Image]


def images(pipe: Any, records: Sequence[Record], share: float, guides: bool = False) -> Images:
    """The images of records, seeds from 0, from noise of which a share is other noise; with the preset's VSF if `guides`."""
    made: Images = []
    for first in range(0, len(records), BATCH):
        part = records[first : first + BATCH]
        latents = torch.cat([noise(pipe, first + number, share) for number in range(len(part))])
        method = PRESET.guidance() if guides else NoGuidance()
        with guided(pipe, [one.negative for one in part] if guides else "", method, PRESET.max_sequence_length):
            made += pipe(
                [one.prompt for one in part],
                latents=latents,
                num_inference_steps=PRESET.num_inference_steps,
                guidance_scale=0.0,
                max_sequence_length=PRESET.max_sequence_length,
                width=PRESET.width,
                height=PRESET.height,
            ).images
    return made


def noise(pipe: Any, seed: int, share: float) -> Tensor:
    """The noise of a seed, mixed with other noise so that its variance stays 1."""
    own, other = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(2**32 + seed)
    side = PRESET.width // pipe.vae_scale_factor
    shape = (1, pipe.transformer.config.in_channels, side, side)
    mixed: Tensor = (1 - share**2) ** 0.5 * torch.randn(shape, generator=own) + share * torch.randn(shape, generator=other)
    return mixed


def difference(one: Images, other: Images) -> float:
    """The root mean square of the differences of pixels, 0 to 255."""
    arrays = [np.stack([np.asarray(image, float) for image in part]) for part in (one, other)]
    return float(np.sqrt(((arrays[0] - arrays[1]) ** 2).mean()))


def matched(of_share: Callable[[float], float], wanted: float) -> float:
    """The share of noise whose difference is the wanted one, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(TRIALS):
        middle = (low + high) / 2
        low, high = (middle, high) if of_share(middle) < wanted else (low, middle)
    return (low + high) / 2


def report(records: Sequence[Record], plain: Images, changed: Images) -> dict[str, Any]:
    """What the judge says about changed images beside the plain ones."""
    judge = judge_named("scenes", {})
    before, after = ([judge.judge(*pair) for pair in zip(some, records, strict=True)] for some in (plain, changed))
    rest = [(thing, one.kept or ()) for one, was in zip(after, before, strict=True) for thing in was.kept or ()]
    came = [set(one.strange or ()) - set(was.strange or ()) for one, was in zip(after, before, strict=True)]
    return {
        "difference": round(difference(plain, changed), 2),
        "positive": round(sum(one.positive for one in after) / len(after), 4),
        "negative": round(sum(one.negative for one in after) / len(after), 4),
        "quality": round(sum(one.quality for one in after) / len(after), 4),
        "rest": round(sum(thing in kept for thing, kept in rest) / len(rest), 4),
        "things": len(rest),
        "strange": round(sum(map(bool, came)) / len(came), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="scenes-600")
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--tuned-on", type=int, default=100, help="pairs by which the share of noise is found")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    records = load_prompts(options.set).first(options.pairs).records
    pipe = load(PRESET.model, PRESET.dtype)
    plain, own = images(pipe, records, 0.0), images(pipe, records, 0.0, guides=True)
    few = records[: options.tuned_on]
    wanted = difference(plain[: len(few)], own[: len(few)])
    share = matched(lambda value: difference(plain[: len(few)], images(pipe, few, value)), wanted)
    found = {
        **conditions(torch.device("cpu")),
        "set": options.set,
        "pairs": len(records),
        "share": round(share, 4),
        "vsf": report(records, plain, own),
        "noise": report(records, plain, images(pipe, records, share)),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
