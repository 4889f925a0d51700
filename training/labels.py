"""Compares the judge with labels by eye: `python -m training.labels make FOLDER`, then `check FOLDER`.

`make` writes images of pairs, half unguided and half guided, with a table. A person then writes `present`, `absent` or
`damaged` for the part into it, before seeing the judge's answer; of videos, also whether the object is `shown`: `yes` or `no`.
`check` compares, and with `--card` writes the figures next to the judge's weights: every table of the judge states them. The
judge learns from drawings, and from images of the train split that were labelled in the same way.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from training.command import at_least, run
from training.score import generate_pairs
from vsf_cli.judges.frames import frames_to_judge
from vsf_cli.loading.pipelines import load
from vsf_cli.methods import NoGuidance, method_named
from vsf_cli.settings.presets import DEFAULT_PRESET, Preset, load_preset
from vsf_cli.toy.drawing import SIDE
from vsf_cli.toy.judge import STATES, Judge, Verdict
from vsf_cli.toy.networks import NETWORKS
from vsf_cli.toy.scenes import OBJECTS, Split, pairs
from vsf_cli.toy.video_scenes import video_pairs

__all__ = ["agreement", "beside", "main", "read_labels", "read_pictures"]

TABLE = "labels.csv"
COLUMNS = ("file", "method", "prompt", "object", "part", "label")
VIDEO_COLUMNS = ("shown", "alpha", "unwanted")
FRAMES, QUALITY = 5, 90
"""The frames of a video that are kept, and the quality of their WebP file."""


def _make(folder: Path, preset: Preset, count: int, split: Split, every_part: bool, strengths: Sequence[float]) -> None:
    """Writes `count` images of pairs, and the table to fill in: for the pair's part, or for every part of the object.

    The images are unguided and guided in turn, at each of `strengths`; without any, at that of the preset. Five frames of a
    video stand beside each other in one image.
    """
    pipe = load(preset.model, preset.dtype, loras=preset.loras)
    own = preset.guidance()
    guidances = [method_named(own.name, {**own.parameters, "alpha": alpha}) for alpha in strengths] or [own]
    methods = [("none", NoGuidance()), *(("vsf", guidance) for guidance in guidances)]
    triples = video_pairs(split, count) if preset.video else pairs(split, count)
    folder.mkdir(parents=True, exist_ok=True)

    rows = []
    for offset, (name, method) in enumerate(methods):
        chosen = triples[offset :: len(methods)]
        for number, ((prompt, thing, part), made) in enumerate(
            generate_pairs(pipe, preset, chosen, method, preset.guidance_scale)
        ):
            file = f"{len(methods) * number + offset:03}.{'webp' if preset.video else 'png'}"
            (beside(made) if preset.video else made).save(folder / file, quality=QUALITY)
            parts = OBJECTS[thing] if every_part else (part,)
            of_video: tuple[Any, ...] = ("", method.parameters.get("alpha", 0), part) if preset.video else ()
            rows += [(file, name, prompt, thing, label_part, "", *of_video) for label_part in parts]
    columns = (*COLUMNS, *(VIDEO_COLUMNS if preset.video else ()))
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows([columns, *sorted(rows)])


def beside(frames: Sequence[Image.Image]) -> Image.Image:
    """`FRAMES` frames of a video, evenly spaced, beside each other."""
    chosen = frames_to_judge(frames, FRAMES)
    strip = Image.new("RGB", (FRAMES * chosen[0].width, chosen[0].height))
    for number, frame in enumerate(chosen):
        strip.paste(frame, (number * frame.width, 0))
    return strip


def read_labels(folder: Path) -> list[dict[str, str]]:
    """The rows of a labelled folder.

    Raises:
        ValueError: If a label is not one of `STATES`.
    """
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["label"] not in STATES:
            raise ValueError(
                f"{folder / TABLE}: label of {row['file']} is '{row['label']}', but must be one of {', '.join(STATES)}"
            )
    return rows


def read_pictures(path: Path) -> list[Image.Image]:
    """An image, or the frames of a video that stand beside each other in a file, in the size in which a judge sees them.

    Raises:
        ValueError: If the file holds no row of squares.
    """
    image = Image.open(path).convert("RGB")
    size = image.height
    if image.width % size:
        raise ValueError(f"{path} has {image.width} x {size} pixels, but must be a square, or squares beside each other")
    frames = [image.crop((left, 0, left + size, size)) for left in range(0, image.width, size)]
    return [frame.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for frame in frames]


def _state(verdicts: Sequence[Verdict], part: str) -> str:
    """The state of a part in most frames; of states in equally many, the one that was seen first."""
    return Counter(verdict.state(part) for verdict in verdicts).most_common(1)[0][0]


def agreement(judge: Judge, folder: Path) -> dict[str, Any]:
    """The agreement of the judge with the labels.

    Returns:
        `images` and `labels`, their numbers; `agreement`, the fraction of equal states; `absent_agreement`, the fraction that
        agrees on whether the part is absent; `absent_precision`, the fraction labelled "absent" of the guided images that are
        judged "absent"; `counts` of each label and judged state. If the table has a column `second`, the labels of another
        reader, also `readers_agreement` and `readers_absent_agreement` of the two readers.
    """
    rows = read_labels(folder)
    verdicts = {file: judge.verdicts(read_pictures(folder / file)) for file in {row["file"] for row in rows}}
    judged = [_state(verdicts[row["file"]], row["part"]) for row in rows]
    both = list(zip((row["label"] for row in rows), judged, strict=True))
    guided = [row["method"] != "none" for row in rows]
    gone = [label for (label, state), known in zip(both, guided, strict=True) if known and state == "absent"]
    report = {
        "images": len({row["file"] for row in rows}),
        "labels": len(rows),
        "agreement": _fraction([label == state for label, state in both]),
        "absent_agreement": _fraction([(label == "absent") == (state == "absent") for label, state in both]),
        "absent_precision": _fraction([label == "absent" for label in gone]),
        "counts": {label: {state: both.count((label, state)) for state in STATES} for label in STATES},
    }
    if "second" in rows[0]:
        pairs_of_labels = [(row["label"], row["second"]) for row in rows]
        report["readers_agreement"] = _fraction([one == other for one, other in pairs_of_labels])
        report["readers_absent_agreement"] = _fraction(
            [(one == "absent") == (other == "absent") for one, other in pairs_of_labels]
        )
    return report


def _fraction(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training.labels", description=__doc__)
    parser.add_argument("action", choices=("make", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default=DEFAULT_PRESET, help="make: the model, for videos tiny-wan-causvid")
    parser.add_argument("--pictures", type=at_least(1), default=100)
    parser.add_argument("--split", choices=("train", "dev"), default="dev", help="train: for images to learn from")
    parser.add_argument("--every-part", action="store_true", help="label every part of the object, not only the pair's")
    parser.add_argument("--alpha", type=float, nargs="*", default=[], help="strengths of guidance; default: the preset's")
    parser.add_argument("--judge", choices=tuple(NETWORKS), default="scenes", help="check: who is compared with the labels")
    parser.add_argument("--card", action="store_true", help="write the figures next to the judge's weights")
    options = parser.parse_args()
    if options.action == "make":
        _make(options.folder, load_preset(options.preset), options.pictures, options.split, options.every_part, options.alpha)
        return
    network = NETWORKS[options.judge]
    report = agreement(network.load(), options.folder)
    print(json.dumps(report))
    if options.card:
        network.card().write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    run(main)
