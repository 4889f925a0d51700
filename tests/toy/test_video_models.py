"""The embedded video model with its LoRA, by the default preset of `vsf video`."""

import json
from pathlib import Path

import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs, read_frames
from typer.testing import CliRunner, Result

from vsf_cli.cli.app import app
from vsf_cli.evaluation.prompts import load_prompts
from vsf_cli.evaluation.variants import choose_variants, load_variants
from vsf_cli.generation.generate import generate_batch
from vsf_cli.generation.plan import request_of
from vsf_cli.judges import judge_named
from vsf_cli.judges.frames import judge_frames
from vsf_cli.judges.judgement import Judgement
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.sources import source_of, vocabulary_of
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.presets import Settings, load_preset
from vsf_cli.toy.video_scenes import FPS, FRAMES, SIDE, video_vocabulary

PRESET = load_preset("tiny-wan-causvid")
MEGABYTE = 1e6


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vsf(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


def test_model_and_lora_are_small_and_of_the_real_classes() -> None:
    folder = source_of(PRESET.model).folder
    assert folder is not None
    files = [path for path in folder.rglob("*") if path.is_file()]
    lora = folder.parent / PRESET.loras[0].removeprefix("builtin:")
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    assert sum(path.stat().st_size for path in (*files, lora)) < 20 * MEGABYTE
    pipe = load(PRESET.model, PRESET.dtype, loras=PRESET.loras)
    assert {part: type(getattr(pipe, part)).__name__ for part in ("transformer", "vae", "text_encoder")} == {
        "transformer": "WanTransformer3DModel",
        "vae": "AutoencoderKLWan",
        "text_encoder": "UMT5EncoderModel",
    }
    assert vocabulary_of(PRESET.model) == set(video_vocabulary()) and pipe.get_active_adapters() == ["vsf_0"]
    assert all(len(pipe.tokenizer(word).input_ids) == 2 for word in video_vocabulary())


def test_the_shortest_command_makes_a_video_that_plays() -> None:
    result = vsf("video", "a red car drives on a road", "--neg", "wheels", "--seed", "1", "-o", "car.mp4")
    assert result.stdout.strip() == "car.mp4" and "--preset wan2.1-1.3b-causvid" in result.stderr
    reader = read_frames("car.mp4")
    facts = next(reader)
    reader.close()
    assert (facts["codec"], facts["fps"], facts["source_size"]) == ("h264", FPS, (SIDE, SIDE))
    assert count_frames_and_secs("car.mp4")[0] == FRAMES
    info = json.loads(vsf("info", "car.mp4", "--json").stdout)
    assert (info["vsf"]["request"]["preset"], info["vsf"]["request"]["loras"]) == (PRESET.name, list(PRESET.loras))


def test_the_same_file_can_be_made_again() -> None:
    vsf("video", "a green boat sails on water", "--neg", "sail", "--seed", "4", "--steps", "2", "-o", "a.webp", "-q")
    assert "everything is as when it was made" in vsf("again", "a.webp", "-o", "b.webp").stderr
    assert Path("a.webp").read_bytes() == Path("b.webp").read_bytes()


def judged(arm: str, count: int) -> list[Judgement]:
    """The judge's answers about videos of the dev split, seeds from 0."""
    (chosen,) = choose_variants(load_variants(), arm, PRESET)
    settings = Settings({"preset": PRESET.name, **chosen.settings}, video=True)
    records = load_prompts("clips-dev").records[:count]
    requests = [request_of(Texts(one.prompt, (one.negative,)), seed, settings, (), True)[0] for seed, one in enumerate(records)]
    pipe, judge = load(PRESET.model, PRESET.dtype, loras=PRESET.loras), judge_named("scenes", {})
    results = [one for start in range(0, count, 8) for one in generate_batch(pipe, requests[start : start + 8])]
    return [judge_frames(judge, one.frames, record) for one, record in zip(results, records, strict=True)]


def test_guidance_removes_parts_from_most_frames_and_keeps_objects() -> None:
    plain, guided = judged("none", 8), judged("vsf", 8)
    assert sum(one.positive for one in plain) >= 0.92 * 8 and sum(one.positive for one in guided) >= 0.75 * 8
    assert sum(one.negative for one in guided) >= sum(one.negative for one in plain) + 0.2 * 8


def test_with_the_lora_the_base_needs_neither_cfg_nor_many_steps() -> None:
    plain, few = load(PRESET.model, PRESET.dtype), load(PRESET.model, PRESET.dtype, loras=PRESET.loras)
    options = {"num_frames": FRAMES, "height": SIDE, "width": SIDE, "guidance_scale": 0.0, "max_sequence_length": 24}
    judge = judge_named("scenes", {})
    quality = []
    for pipe in (plain, few):
        records = load_prompts("clips-dev").records[:4]
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        videos = pipe(
            [one.prompt for one in records], num_inference_steps=8, generator=generators, output_type="pil", **options
        )
        judgements = [judge_frames(judge, frames, record) for frames, record in zip(videos.frames, records, strict=True)]
        quality.append(sum(one.positive + one.quality for one in judgements) / 4)
    assert quality[1] > quality[0] + 0.1
