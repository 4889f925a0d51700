"""LTX-2: a video with its sound, from a whole pipeline of tiny random weights, and from the command line."""

import json
import subprocess
import wave
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTX2ImageToVideoPipeline, LTX2VideoTransformer3DModel
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from tests.models.families import LTX2_SIZES, TEXT, TINY, WIDTH, drawn
from tests.models.pipelines import build_ltx2
from tests.processes import TIMEOUT
from vsf_cli import VSF, guided
from vsf_cli.cli.app import app
from vsf_cli.errors import PatchError, RequestError
from vsf_cli.generation.generate import generate, generate_batch
from vsf_cli.loading.pipelines import load
from vsf_cli.maps import load as load_maps
from vsf_cli.maps.recorder import Recorder, _Step
from vsf_cli.methods import NAG
from vsf_cli.models import family_of
from vsf_cli.settings.request import Request

SIZE = ("--size", "64x32", "--frames", "9", "--steps", "2", "--seed", "1", "--dtype", "float32", "-q")
PROMPT = "a red bike"
OFF: dict[str, Any] = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_scale": 1.0} | {
    f"audio_{name}": None for name in ("stg_scale", "modality_scale", "guidance_scale")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small-ltx2"
    build_ltx2().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return load(str(folder), "float32")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def vsf(command: str, *arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [command, *arguments])
    assert done.exit_code == code, done.output
    return done


def run(pipe: Any, prompts: Any = PROMPT, seeds: tuple[int, ...] = (1,), **options: Any) -> tuple[Tensor, Tensor]:
    """The latents of the video and of its sound."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {**OFF, "num_inference_steps": 2, "width": 64, "height": 32, "num_frames": 5, **options}
    made = pipe(prompt=prompts, generator=generators, output_type="latent", return_dict=False, **options)
    return made[0], made[1]


def sound(path: str) -> np.ndarray:
    """The samples of a video's sound, with shape (samples, channels)."""
    done = subprocess.run([get_ffmpeg_exe(), "-v", "error", "-i", path, "-y", "sound.wav"], check=False, timeout=TIMEOUT)
    assert done.returncode == 0
    with wave.open("sound.wav") as file:
        assert (file.getnchannels(), file.getframerate()) == (2, 24000 if path.endswith("mp4") else 48000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


def test_a_clip_and_its_sound_change_with_a_negative_prompt_alone(folder: Path) -> None:
    model = ("-m", str(folder), *SIZE)
    vsf("video", PROMPT, *model, "-o", "none.mp4")
    vsf("video", PROMPT, *model, "--neg", "", "-o", "empty.mp4")
    vsf("video", PROMPT, *model, "--neg", "wheels", "-o", "vsf.mp4")
    infos = [json.loads(vsf("info", f"{name}.mp4", "--json").stdout)["vsf"] for name in ("none", "vsf")]
    assert infos[1]["request"]["negative"] == ["wheels"] and infos[1]["applied"]["blocks"] == 4
    sounds = [sound(f"{name}.mp4") for name in ("none", "empty", "vsf")]
    assert (sounds[0] == sounds[1]).all() and (sounds[0] != sounds[2]).any() and abs(sounds[0]).max() > 1000
    frames = [Image.open(path).tobytes() for path in frame_files(model)]
    assert frames[0] == frames[1] != frames[2]
    vsf("again", "vsf.mp4", "-m", str(folder), "-o", "again.mp4", "-q")
    assert Path("again.mp4").read_bytes() == Path("vsf.mp4").read_bytes()


def frame_files(model: tuple[str, ...]) -> Iterator[Path]:
    """The first frame without a negative prompt, with an empty one, and with one."""
    for name, negative in (("none", ()), ("empty", ("--neg", "")), ("vsf", ("--neg", "wheels"))):
        done = vsf("video", PROMPT, *model, *negative, "--format", "frames", "-o", name)
        assert "the sound is left out, which frames cannot hold" in " ".join(done.stderr.split())
        yield Path(name) / "0000.png"


def test_a_sound_is_as_long_as_what_is_left_of_its_clip(folder: Path) -> None:
    model = ("-m", str(folder), *SIZE, "--format", "webm")
    vsf("video", PROMPT, *model, "--fps", "5", "-o", "all.webm")
    vsf("video", PROMPT, *model, "--fps", "5", "--drop-frames", "2", "-o", "some.webm")
    lengths = [len(sound(f"{name}.webm")) / 48000 for name in ("all", "some")]
    assert lengths[0] == pytest.approx(1.8, abs=0.1) and lengths[0] - lengths[1] == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_a_format_without_sound_says_so(folder: Path, format: str) -> None:
    done = vsf("video", PROMPT, "-m", str(folder), *SIZE, "-o", f"a.{format}")
    assert f"the sound is left out, which {format} cannot hold" in " ".join(done.stderr.split())
    assert "sound" not in vsf("video", PROMPT, "-m", str(folder), *SIZE, "-o", "a.mp4").stderr


@pytest.mark.usefixtures("no_figures")
def test_a_batch_is_made_and_maps_beside_it(folder: Path) -> None:
    Path("table.csv").write_text("name,prompt,neg\n1,a red bike,wheels\n2,a hat,a person with glasses\n3,a hat,\n")
    preset_of(folder)
    vsf("batch", "table.csv", "--preset", "./ltx2.toml", *SIZE, "--batch-size", "3", "-o", "run")
    made = sorted(Path("run").glob("*.mp4"))
    assert len(made) == 3
    assert all(abs(sound(str(path))).max() > 1000 for path in made)

    own = ("--size", "64x32", "--seed", "1", "--dtype", "float32", "--steps", "1..2", "-o", "maps")
    vsf("attn-map", PROMPT, "--neg", "wheels", "--preset", "./ltx2.toml", *own)
    maps = load_maps("maps")
    assert maps.share.shape == (2, 2, 1, 5, 4, 8) and 0 < maps.share.mean() < 1 and maps.blocks == (1, 2)
    assert maps.words() == ["wheels"] and maps.sigmas[0] > maps.sigmas[-1] > 0


def preset_of(folder: Path, *lines: str) -> None:
    """Writes a preset of the model in a folder."""
    own = ('family = "ltx2"', f'model = "{folder.as_posix()}"', "max_sequence_length = 1024", "fps = 24", "num_frames = 9")
    Path("ltx2.toml").write_text("\n".join((*own, *lines)))


def test_steps_begin_at_the_noise_of_a_preset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas: list[list[float]] = []
    stock = FlowMatchEulerDiscreteScheduler.set_timesteps

    @wraps(stock)
    def watched(self: Any, *args: Any, **options: Any) -> None:
        stock(self, *args, **options)
        sigmas.append(self.sigmas.tolist())

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "set_timesteps", watched)
    preset_of(folder, "sigmas = [1.0, 0.725]", "num_inference_steps = 2", "flow_shift = 1.0")
    own = ("--preset", "./ltx2.toml", "--size", "64x32", "--seed", "1", "--dtype", "float32", "-q", "-o")
    vsf("video", PROMPT, *own, "a.mp4")
    vsf("again", "a.mp4", "-m", str(folder), "-q", "-o", "b.mp4")
    # Those of the video and of its sound, of each.
    assert len(sigmas) == 4 and all(one == pytest.approx([1, 0.725, 0]) for one in sigmas)
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    refused = vsf("video", PROMPT, *own, "c.mp4", "--steps", "3", code=6)
    assert "pass --steps 2" in " ".join(refused.output.split())


@pytest.mark.usefixtures("no_figures")
def test_maps_change_neither_video_nor_sound_and_are_those_of_the_video(folder: Path) -> None:
    model = ("-m", str(folder), *SIZE)
    vsf("video", PROMPT, *model, "--neg", "wheels", "-o", "plain.mp4", "--no-metadata")
    vsf("video", PROMPT, *model, "--neg", "wheels", "-o", "mapped.mp4", "--no-metadata", "--dump-attn")
    assert Path("plain.mp4").read_bytes() == Path("mapped.mp4").read_bytes()
    # At the last step the estimate of the video is the video.
    frames = [np.asarray(Image.open(f"mapped-attn/{name}/2.png")).astype(int) for name in ("frames", "steps/2")]
    assert abs(frames[0] - frames[1]).max() <= 1


def test_a_batch_of_different_negatives_equals_single_runs(pipe: Any) -> None:
    prompts, negatives = ["a red bike", "a hat", "a person"], ["wheels", ["glasses", "a person with a hat"], ""]
    with guided(pipe, negatives, VSF(2.0, 0.3)) as applied:
        both = run(pipe, prompts, (1, 2, 3))
    assert applied.blocks == 4
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        with guided(pipe, [negative], VSF(2.0, 0.3)):
            alone = run(pipe, [prompt], (row + 1,))
        for found, wanted in zip(both, alone, strict=True):
            torch.testing.assert_close(found[[row]], wanted, atol=2e-4, rtol=0)


def test_sounds_of_a_batch_are_those_of_single_requests(pipe: Any) -> None:
    sizes = {"num_inference_steps": 2, "width": 64, "height": 32, "num_frames": 9, "drop_frames": 2, "fps": 24}
    both = [
        Request("a hat", "x", seed, negative=negative, max_sequence_length=1024, **sizes)
        for seed, negative in ((1, ("wheels",)), (2, ()))
    ]
    for request, made in zip(both, generate_batch(pipe, both), strict=True):
        alone = generate(pipe, request)
        assert alone.sound is not None and made.sound is not None and len(alone.frames) == 7
        # The vocoder makes a bit less than the pipeline asks for: 9 / 24 s are 9000 samples, without 2 / 24 s.
        assert alone.sound.rate == 24000 and alone.sound.samples.shape == (2, 7920 - 2000)
        np.testing.assert_allclose(made.sound.samples, alone.sound.samples, atol=1e-5, rtol=0)


def test_other_methods_and_an_infinite_bias(pipe: Any) -> None:
    stock = run(pipe)
    for method in (VSF(3.0, 0.3), NAG(), NAG(padding=True)):
        with guided(pipe, "wheels", method):
            changed = run(pipe)
        assert all((one - other).abs().max() > 1e-4 for one, other in zip(changed, stock, strict=True))
    with guided(pipe, "wheels", VSF(3.0, torch.inf)):
        assert all((one - other).abs().max() < 1e-4 for one, other in zip(run(pipe), stock, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(run(pipe), stock, strict=True))


@pytest.mark.parametrize("name", list(OFF))
def test_further_passes_are_refused(pipe: Any, name: str) -> None:
    with guided(pipe, "wheels"), pytest.raises(RequestError, match=f"{name} is 4, but VSF .* pass {name}=[01],"):
        run(pipe, **{name: 4.0})


def test_all_of_them_are_named_at_once(pipe: Any) -> None:
    off = "guidance_scale=1, audio_guidance_scale=1, stg_scale=0, audio_stg_scale=0, modality_scale=1, audio_modality_scale=1"
    with guided(pipe, "wheels"), pytest.raises(RequestError, match=f"guidance_scale is 3, but VSF .* pass {off}, or"):
        pipe(PROMPT, width=64, height=32, num_frames=5)


def test_a_scale_of_cfg_is_refused_and_is_that_of_the_sound_too(folder: Path, pipe: Any) -> None:
    model = ("-m", str(folder), *SIZE)
    refused = vsf("video", PROMPT, *model, "--neg", "wheels", "--guidance", "4", "-o", "a.mp4", code=6)
    assert "pass --guidance 0" in refused.output
    vsf("video", PROMPT, *model, "--neg", "wheels", "--guidance", "4", "--method", "cfg", "-o", "cfg.mp4")
    vsf("video", PROMPT, *model, "-o", "none.mp4")
    assert (sound("cfg.mp4") != sound("none.mp4")).any()


def test_a_negative_prompt_is_encoded_as_a_prompt_alone_without_registers(pipe: Any) -> None:
    texts = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, call: texts.append(call), with_kwargs=True, prepend=True
    )
    run(pipe, "a person with glasses", num_inference_steps=1)
    handle.remove()
    both = torch.cat([texts[0]["encoder_hidden_states"], texts[0]["audio_encoder_hidden_states"]], -1)[0]
    family, count = family_of(pipe), len(pipe.tokenizer("a person with glasses").input_ids)
    assert len(both) == 1024 and torch.equal(family.encode_negative(pipe, [" a person with glasses"]), both[:count])
    words = family.encode_negative(pipe, ["a person with glasses"], special_tokens=False)
    assert torch.equal(words, both[1:count])
    assert torch.equal(family.encode_padded(pipe, ["a person with glasses"], 1024), both)
    with pytest.raises(RequestError, match="but the text encoder takes 1024"):
        family.encode_negative(pipe, ["wheels " * 1100])


def test_masks_hide_what_they_hid_and_show_the_negative_prompt() -> None:
    """Of a mask that hides the end of the positive prompt, and of one that hides nothing."""
    tiny = TINY["ltx2.3"]
    model, call, negative = tiny.model(), tiny.call(), drawn(1, 4, WIDTH)

    def output(mask: Tensor | None, count: int = TEXT) -> Tensor:
        shortened = {name: text[:, :count] if "encoder" in name else text for name, text in call.items()}
        masks = {f"{stream}encoder_attention_mask": mask for stream in ("", "audio_")}
        with guided(model, method=VSF(2.0, 0.3), negative_prompt_embeds=negative):
            return torch.cat([part.flatten() for part in model(**shortened, **masks, return_dict=False)])

    ones = torch.ones(1, TEXT, dtype=torch.int64)
    hiding = ones.where(torch.arange(TEXT) < 4, 0)
    assert torch.equal(output(ones), output(None)) and torch.equal(output(0.0 * ones[None]), output(None))
    for mask in (hiding, -10000.0 * (1 - hiding[None])):
        torch.testing.assert_close(output(mask), output(None, 4), atol=1e-6, rtol=0)


def test_blocks_are_those_of_both_streams() -> None:
    tiny = TINY["ltx2"]
    model, call, negative = tiny.model(), tiny.call(), drawn(1, 4, WIDTH)
    with guided(model, method=VSF(guided_blocks="2"), negative_prompt_embeds=negative) as applied:
        model(**call)
    assert applied.blocks == 2, "one of each stream"
    with (
        pytest.raises(RequestError, match="guided_blocks names block 3, but the model has 2"),
        guided(model, method=VSF(guided_blocks="3"), negative_prompt_embeds=negative),
    ):
        pass


def test_connectors_without_registers_are_refused(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connectors = SimpleNamespace(video_connector=SimpleNamespace(learnable_registers=None))
    monkeypatch.setitem(vars(pipe), "connectors", connectors)
    with pytest.raises(PatchError, match="no learned registers"), guided(pipe, "wheels"):
        pass


def test_a_clip_from_an_image_is_guided_too(pipe: Any) -> None:
    animated = LTX2ImageToVideoPipeline(**pipe.components)
    animated.set_progress_bar_config(disable=True)
    # Its own compression of the image needs another package.
    start = {"image": Image.new("RGB", (64, 32), "red"), "image_crf": 0}
    stock = run(animated, **start)
    with guided(animated, "wheels", VSF(3.0, 0.3)):
        changed = run(animated, **start)
    assert all((one - other).abs().max() > 1e-4 for one, other in zip(changed, stock, strict=True))
    with guided(animated, "wheels"), pytest.raises(RequestError, match="audio_guidance_scale is 7"):
        run(animated, **start, audio_guidance_scale=7.0)


def test_a_sound_as_long_as_the_video_has_no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, recorded = TINY["ltx2"], list[bool]()
    monkeypatch.setattr(Recorder, "_record", lambda self, query, context: recorded.append(context.has_grid))
    head = {"attention_head_dim": 8, "audio_attention_head_dim": 8}
    model = LTX2VideoTransformer3DModel(
        **LTX2_SIZES, **head, cross_attention_dim=16, audio_cross_attention_dim=16, caption_channels=8
    )
    call = {**tiny.call(), "audio_hidden_states": drawn(1, 12, 6), "audio_num_frames": 12}
    recorder = Recorder(VSF(), [])
    recorder._steps = [_Step()]
    with guided(model.double(), method=recorder, negative_prompt_embeds=tiny.text(1, 4)):
        model(**call, return_dict=False)
    assert recorded == [True, True]
