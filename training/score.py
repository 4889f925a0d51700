"""Scores guidance on the scenes: `python -m training.score --pairs 200 --method vsf --alpha 3 --beta 1.5`.

Each pair is a prompt and a part of its object that the prompt does not name; the part is the negative prompt. The judge decides
whether the object is right (positive) and whether the part is absent (negative; a damaged part is not absent), and scores the
quality of the image from 0 to 1. The seed is the number of the pair. With --methods-file, the methods of a file are compared.
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from training.command import run, say
from vsf_cli.errors import RequestError, VSFError
from vsf_cli.evaluation.statistics import mcnemar, wilson_interval
from vsf_cli.evaluation.variants import BASELINE, choose_variants, load_variants
from vsf_cli.generation.guided import guided
from vsf_cli.generation.plan import request_of
from vsf_cli.loading.pipelines import load
from vsf_cli.media.metadata import versions
from vsf_cli.methods import Method, method_named, method_options
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.presets import Preset, Settings, load_preset
from vsf_cli.toy.judge import Judge
from vsf_cli.toy.networks import ConvolutionalJudge
from vsf_cli.toy.scenes import Split, pairs

__all__ = ["Outcome", "compare", "generate_pairs", "main", "score"]

BATCH = 20
NUMBERS = ("alpha", "beta", "special_tokens", "start", "stop")
"""The options that are settings of the method."""


@dataclass(frozen=True)
class Outcome:
    """The judge's answer about one pair: the object, the state of the part, and the quality of the image from 0 to 1."""

    prompt: str
    object: str
    part: str
    object_right: bool
    state: str
    quality: float

    @property
    def part_absent(self) -> bool:
        """Whether the part is absent. A damaged part is not."""
        return self.state == "absent"

    @property
    def both(self) -> bool:
        """Whether the object is right and the part absent."""
        return self.object_right and self.part_absent


def generate_pairs(
    pipe: Any, preset: Preset, triples: Sequence[tuple[str, str, str]], method: Method, guidance_scale: float
) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """Generates the image or video of each pair, in batches with a different negative prompt in each row.

    Yields:
        The pair and its image, or the frames of its video."""
    length = {"num_frames": preset.num_frames} if preset.video else {}
    for start in range(0, len(triples), BATCH):
        batch = triples[start : start + BATCH]
        negatives = [part for _, _, part in batch]
        with guided(pipe, negatives if method.guides_attention else "", method, preset.max_sequence_length):
            outputs = pipe(
                [prompt for prompt, _, _ in batch],
                num_inference_steps=preset.num_inference_steps,
                guidance_scale=guidance_scale,
                max_sequence_length=preset.max_sequence_length,
                width=preset.width,
                height=preset.height,
                generator=[torch.Generator().manual_seed(start + row) for row in range(len(batch))],
                output_type="pil",
                return_dict=False,
                **({"negative_prompt": negatives} if method.passes_negative_prompt else {}),
                **length,
            )[0]
        yield from zip(batch, outputs, strict=True)


def score(judge: Judge, images: Sequence[tuple[tuple[str, str, str], Image.Image]]) -> list[Outcome]:
    """The judge's answers about the images of pairs."""
    verdicts = judge.verdicts([image for _, image in images])
    return [
        Outcome(prompt, name, part, verdict.object == name, verdict.state(part), verdict.quality)
        for ((prompt, name, part), _), verdict in zip(images, verdicts, strict=True)
    ]


def _rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    count = len(outcomes)
    positive, negative = sum(one.object_right for one in outcomes), sum(one.part_absent for one in outcomes)
    both = sum(one.both for one in outcomes)
    return {
        "pairs": count,
        "positive": positive / count,
        "positive_interval": wilson_interval(positive, count),
        "negative": negative / count,
        "negative_interval": wilson_interval(negative, count),
        "both": both / count,
        "damaged": sum(one.state == "damaged" for one in outcomes) / count,
        "quality": sum(one.quality for one in outcomes) / count,
    }


def _print_table(report: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(", ".join(f"{key} {value}" for key, value in report["conditions"].items()))
    rows = {row["label"]: row for row in report["rows"]} if "rows" in report else {"all": report["rates"], **report["parts"]}
    for name, rates in rows.items():
        positive, negative = rates["positive_interval"], rates["negative_interval"]
        console.print(
            f"{name:22} {rates['pairs']:4} pairs   object right {rates['positive']:.3f} [{positive[0]:.2f}, {positive[1]:.2f}]"
            f"   part absent {rates['negative']:.3f} [{negative[0]:.2f}, {negative[1]:.2f}]   damaged {rates['damaged']:.3f}"
            f"   both {rates['both']:.3f}   quality {rates['quality']:.3f}"
        )
    card = report["judge"]
    agreement = f"agrees with {card['agreement']:.0%} of {card['labels']} labels by eye"
    readers = f"two readers with each other: {card['readers_agreement']:.0%}"
    console.print(
        f"judge: {agreement} ({readers}); of guided pictures that it calls absent, {card['absent_precision']:.0%} are"
    )


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training.score", description=__doc__)
    parser.add_argument("--preset", default="tiny-sd3-turbo")
    parser.add_argument("--split", choices=("dev", "test"), default="dev", help="report test once for each released model")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--method", help="default: that of the preset")
    parser.add_argument("--methods-file", type=Path, help="a TOML file of methods, as for 'vsf eval run', which are compared")
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--beta", type=float)
    parser.add_argument("--special-tokens", action=argparse.BooleanOptionalAction, help="default: that of the preset")
    parser.add_argument("--start", type=float, help="guide from this fraction of the steps on")
    parser.add_argument("--stop", type=float, help="guide until this fraction of the steps")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.pairs < 1:
        parser.exit(6, f"error: --pairs is {options.pairs}, but it must be at least 1\n")
    if options.methods_file and (given := [name for name in NUMBERS if getattr(options, name) is not None]):
        parser.exit(6, f"error: --methods-file has the numbers of its methods: leave out --{given[0].replace('_', '-')}\n")

    preset, split = load_preset(options.preset), options.split
    guidance = preset.guidance_scale if options.guidance is None else options.guidance
    say(f"making and judging {options.pairs} pairs of the {split} split")
    try:
        if options.methods_file:
            report = compare(preset, _methods_of(options, preset), guidance, split, options.pairs)
        else:
            report = measure(preset, _method_of(options, preset), guidance, split, options.pairs)
    except (VSFError, ValueError) as error:
        parser.exit(getattr(error, "exit_code", 6), f"error: {error}\n")
    if options.json:
        print(json.dumps(report))
        return
    _print_table(report)


def _method_of(options: argparse.Namespace, preset: Preset) -> Method:
    """The method of the options; what they leave open is the preset's, if the method is."""
    own = preset.guidance()
    name = options.method or own.name
    given = {key: value for key in NUMBERS if (value := getattr(options, key)) is not None}
    return method_named(name, {**(own.parameters if name == own.name else {}), **given})


def _methods_of(options: argparse.Namespace, preset: Preset) -> dict[str, tuple[str, Method]]:
    """The methods of a file by their names, each with its label.

    Raises:
        RequestError: If one has more than a method and its numbers.
    """
    methods = {}
    for variant in choose_variants(load_variants(options.methods_file), options.method or "all", preset):
        settings = Settings({"preset": options.preset, **variant.settings}, {})
        request, _ = request_of(Texts("a bike", ("wheels",)), 0, settings, (), preset.video)
        others = [key for key in variant.settings if key != "method" and key not in method_options()]
        told = [name for name in ("keeps", "names_kept") if getattr(variant, name)]
        chosen = ["alpha"] if request.chooses else []
        if more := [*others, *told, *chosen]:
            raise RequestError(
                f"{options.methods_file}: {variant.name}.{more[0]} is not a number of a method: compare it by 'vsf eval run'"
            )
        methods[variant.name] = variant.label, request.guidance
    return methods


def _outcomes(pipe: Any, preset: Preset, method: Method, guidance_scale: float, split: Split, count: int) -> list[Outcome]:
    generated = generate_pairs(pipe, preset, pairs(split, count), method, guidance_scale)
    console = Console(stderr=True)
    images = list(track(generated, "images", count, console=console, transient=True, disable=not sys.stderr.isatty()))
    return score(ConvolutionalJudge.load(), images)


def _conditions(pipe: Any, preset: Preset, guidance_scale: float, split: Split, count: int) -> dict[str, Any]:
    return {
        "split": split,
        "pairs": count,
        "seeds": f"0..{count - 1}",
        "steps": preset.num_inference_steps,
        "guidance_scale": guidance_scale,
        "dtype": preset.dtype,
        "device": f"{pipe._execution_device.type} {platform.machine()}",
        **versions(),
    }


def measure(preset: Preset, method: Method, guidance_scale: float, split: Split, count: int) -> dict[str, Any]:
    """Scores a method on a preset: rates with their conditions, over all pairs and for each object and part."""
    pipe = load(preset.model, preset.dtype)
    outcomes = _outcomes(pipe, preset, method, guidance_scale, split, count)
    conditions = {"model": preset.model, "method": str(method), **_conditions(pipe, preset, guidance_scale, split, count)}
    names = sorted({(one.object, one.part) for one in outcomes})
    parts = {f"{a}/{b}": _rates([one for one in outcomes if (one.object, one.part) == (a, b)]) for a, b in names}
    return {"conditions": conditions, "judge": ConvolutionalJudge.read_card(), "rates": _rates(outcomes), "parts": parts}


def compare(
    preset: Preset, methods: Mapping[str, tuple[str, Method]], guidance_scale: float, split: Split, count: int
) -> dict[str, Any]:
    """Scores several methods: a row of rates each, with McNemar's test of both conditions against the method "vsf"."""
    pipe = load(preset.model, preset.dtype)
    outcomes = {name: _outcomes(pipe, preset, method, guidance_scale, split, count) for name, (_, method) in methods.items()}
    rows = []
    for name, (label, method) in methods.items():
        row = {"arm": name, "label": label, "method": str(method), **_rates(outcomes[name]), "both_p": None}
        if BASELINE in outcomes and name != BASELINE:
            ours, theirs = ([one.both for one in outcomes[each]] for each in (BASELINE, name))
            row["both_p"] = mcnemar(ours, theirs)
        rows.append(row)
    conditions = {"model": preset.model, **_conditions(pipe, preset, guidance_scale, split, count)}
    return {"conditions": conditions, "judge": ConvolutionalJudge.read_card(), "rows": rows}


if __name__ == "__main__":
    run(main)
