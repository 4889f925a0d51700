"""The trainer on tiny models, on a CPU and uncompiled: what runs here is what runs on a GPU."""

import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training import train_images, train_videos
from training.attention import ATTENTIONS, prepare
from training.examples import CHUNK, Examples, caption_batches
from training.flow import FlowModel, Settings, train
from training.image_flow import IMAGE_DRAWING, IMAGE_MODELS, load_tokenizers
from training.loop import Budget, Diverged
from training.regions import NAMES, RegionHeads, Regions
from training.train_videos import published_lora
from training.video_flow import VIDEO_DRAWING, WanModel, load_tokenizer
from vsf_cli.toy import scenes
from vsf_cli.toy.image_recipe import build_transformer
from vsf_cli.toy.scenes import Part, Scene

FAMILIES = ("sd3", "flux", "wan")


@lru_cache
def model_of(name: str) -> FlowModel:
    shipped = train_images.SHIPPED
    if name == "wan":
        return WanModel(load_tokenizer(shipped.parent / "tiny-wan"), 1)
    return IMAGE_MODELS[name](load_tokenizers(shipped), 1)


def random_transformer(model: FlowModel) -> torch.nn.Module:
    torch.manual_seed(0)
    transformer = model.build_transformer().eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return transformer


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_of_training_is_that_of_diffusers(name: str, attention: str) -> None:
    model = model_of(name)
    transformer = random_transformer(model)
    latents, sigma = torch.randn(2, *model.latent_shape), torch.tensor([0.3, 0.9])
    text = model.build_encoders().eval()(*model.tokens(["a red bike", ""])).detach()
    with torch.no_grad():
        base = model.predict(transformer, latents, sigma, text)
        prepare(model.blocks(transformer), model.processor, attention, compiled=False)
        ours = model.predict(transformer, latents, sigma, text)
    assert base.abs().mean() > 0.01
    torch.testing.assert_close(ours, base, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_token_that_is_not_attended_to_has_no_effect(name: str, attention: str) -> None:
    model = model_of(name)
    transformer = random_transformer(model)
    prepare(model.blocks(transformer), model.processor, attention, compiled=False)
    latents, sigma = torch.randn(1, *model.latent_shape), torch.tensor([0.5])
    tokens = model.tokens(["a red bike"])
    text = model.build_encoders().eval()(*tokens).detach()
    attended = model.words(tokens)  # type: ignore[attr-defined]
    changed = torch.where(attended[..., None], text, torch.randn_like(text))
    with torch.no_grad():
        outputs = [model.predict(transformer, latents, sigma, each, attended) for each in (text, changed)]
        everything = model.predict(transformer, latents, sigma, changed)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0], everything, atol=1e-3)


def test_half_of_the_samples_are_of_words_alone() -> None:
    model = model_of("sd3")
    tokens = model.tokens(["a red bike", "wheels", ""])
    words = model.words(tokens)  # type: ignore[attr-defined]
    assert words.shape == (3, 40) and words.sum(1).tolist() == [6, 2, 0], "each word once in CLIP and once in T5"
    torch.manual_seed(0)
    draws = [model.attended(tokens) for _ in range(200)]
    attended = torch.stack([each for each in draws if each is not None])
    assert len(attended) == 200 and (attended | ~words).all(), "a word is never left out"
    assert 0.4 < attended[:, :, 0].float().mean() < 0.6, "the beginning is there in half of them"


def test_the_second_loss_binds_words_to_the_tokens_that_show_them() -> None:
    scene = Scene("bike", "blue", (Part("wheels", "red"),), "grass")
    regions = Regions([scene, scene], torch.from_numpy(Regions.measure([scene, scene])))
    names, colors = regions.targets([1])
    assert names.shape == (1, 144, 1 + len(NAMES)) and torch.allclose(names.sum(-1), torch.ones(1, 144), atol=0.01)
    wheels, bike = 1 + NAMES.index("wheels"), 1 + NAMES.index("bike")
    assert set(names.sum(1)[0].nonzero().flatten().tolist()) == {0, bike, wheels}
    assert torch.allclose(names[..., wheels], colors[..., 1 + list(scenes.COLORS).index("red")])
    assert torch.equal(regions.targets([1], 12)[0], names[:, :12])

    transformer = build_transformer()
    heads = RegionHeads(transformer.transformer_blocks[3], 128)
    transformer(torch.randn(1, 4, 24, 24), torch.randn(1, 40, 128), torch.zeros(1, 128), torch.tensor([500.0]))
    assert heads.tokens == 144
    loss = heads(names, colors)
    loss.backward()
    assert loss > 1 and transformer.transformer_blocks[3].attn.to_k.weight.grad is not None
    assert transformer.transformer_blocks[4].attn.to_k.weight.grad is None


def random_examples(model: FlowModel) -> Examples:
    drawing = VIDEO_DRAWING if model.name == "wan" else IMAGE_DRAWING
    several = drawing.scenes(0)[:8]
    coverage = torch.from_numpy(np.stack([drawing.regions(scene) for scene in several]))
    latents = torch.randn(8, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    return Examples(several, latents.half(), Regions(several, coverage))


def settings_for(folder: Path) -> Settings:
    return Settings(torch.device("cpu"), folder, batch=8, student_batch=2, micro=4, compiled=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_and_continues(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    examples, settings = random_examples(model), settings_for(tmp_path)
    trained = train(model, examples, settings, Budget(3), Budget(2))
    assert trained.summaries["base"]["samples"] == 24 and trained.summaries["student"]["steps"] == 2
    assert 0.5 < trained.summaries["base"]["final_loss"] < 4
    again = train(model, examples, settings, Budget(3), Budget(2))
    weights = zip(trained.base.state_dict().values(), again.base.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    start = dict(model.build_transformer().named_parameters())
    assert trained.student_weights.keys() == again.student_weights.keys() and len(trained.student_weights) > 20
    assert any(not torch.equal(tensor, start[key]) for key, tensor in trained.base.named_parameters())


def test_training_on_latents_that_are_not_finite_stops(tmp_path: Path) -> None:
    model = model_of("flux")
    examples = random_examples(model)
    examples.latents[:] = torch.inf
    with pytest.raises(Diverged, match="the loss is nan"):
        train(model, examples, settings_for(tmp_path), Budget(3), Budget(1))


def test_captions_of_a_step_are_the_same_in_this_process_and_in_a_worker() -> None:
    model, several = model_of("sd3"), IMAGE_DRAWING.scenes(0)
    here = caption_batches("base", model, several, 4, 0.1, first=5)
    there = caption_batches("base", model, several, 4, 0.1, first=5, workers=1)
    for _ in range(2):
        assert all(torch.equal(one, other) for one, other in zip(next(here), next(there), strict=True))
    assert not torch.equal(next(here)[0], next(caption_batches("base", model, several, 4, 0.1))[0])


def test_videos_start_with_single_frames() -> None:
    model = model_of("wan")
    latents = torch.randn(8, *model.latent_shape)
    assert model.cut(latents, 0, 0.1).shape[:3] == (8, 8, 1) and model.cut(latents, 1, 0.9).shape[2] == 1
    assert model.cut(latents, 3, 0.9).shape[:3] == (2, 8, 5)


def test_examples_are_read_back(tmp_path: Path) -> None:
    def encode(images: np.ndarray) -> Tensor:
        return torch.from_numpy(images[:, :2, :2, 0]).float()

    first = Examples.encode(IMAGE_DRAWING, CHUNK, encode, tmp_path / "scenes.safetensors")
    second = Examples.encode(IMAGE_DRAWING, CHUNK, lambda images: pytest.fail("drawn again"), tmp_path / "scenes.safetensors")
    assert first.scenes == second.scenes and torch.equal(first.latents, second.latents) and len(first.scenes) == CHUNK
    assert torch.equal(first.regions.coverage, second.regions.coverage)


SMALL = ["--heads", "1", "--batch", "4", "--student-batch", "2", "--workers", "0", "--no-compile", "--base", "2"]


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_the_command_for_images_writes_weights_a_report_and_samples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("examples", "train_images"):
        monkeypatch.setattr(f"training.{module}.CHUNK", 4)
    monkeypatch.setattr("training.flow.REHEARSED", Budget(1))
    monkeypatch.setattr(train_images, "SAMPLES", 8)
    arguments = ["--folder", str(tmp_path), "--model", name, "--scenes", "1", "--student", "1", *SMALL]
    monkeypatch.setattr("sys.argv", ["train_images", *arguments, *(["--no-rehearsal"] if name == "sd3" else [])])
    train_images.main()
    base, student = (load_file(tmp_path / f"{name}-{part}.safetensors") for part in ("base", "student"))
    model = model_of(name)
    for weights in (base, student):
        own = {key.removeprefix("transformer/") for key in weights if key.startswith("transformer/")}
        assert own == set(model.build_transformer().state_dict())
    assert {key for key in base if key.startswith("encoders/t5")} and base["transformer/proj_out.bias"].dtype == torch.bfloat16
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["base"]["steps"] == 2 and report["student"]["steps"] == 1 and len(report["captions"]) == 8
    assert report["scenes"] == 4 and report["machine"]["device"] == "cpu"
    assert (tmp_path / f"{name}-samples.png").stat().st_size > 10_000


def test_the_command_for_videos_writes_weights_a_report_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("examples.CHUNK", 2), ("video_autoencoder.MEASURED", 2), ("video_autoencoder.VIDEOS", 1)):
        monkeypatch.setattr(f"training.{name}", number)
    monkeypatch.setattr(train_videos, "SAMPLES", 4)
    # Training a tokenizer takes seconds.
    shutil.copytree(train_images.SHIPPED.parent / "tiny-wan" / "tokenizer", tmp_path / "tokenizer")
    arguments = ["--folder", str(tmp_path), "--videos", "1", "--base-dim", "8", "--no-rehearsal"]
    arguments += ["--autoencoder", "1", "--autoencoder-batch", "1", "--lora", "1"]
    monkeypatch.setattr("sys.argv", ["train_videos", *arguments, *SMALL])
    train_videos.main()
    lora = load_file(tmp_path / "wan-lora.safetensors")
    assert "diffusion_model.blocks.0.cross_attn.o.lora_down.weight" in lora
    report = json.loads((tmp_path / "wan.json").read_text())
    assert report["student"]["samples"] == 2 and len(report["autoencoder"]["latents_mean"]) == 8
    assert {path.name for path in tmp_path.iterdir()} >= {
        "wan-autoencoder.safetensors",
        "wan-base.safetensors",
        "wan-samples.png",
    }


def test_a_lora_is_written_by_the_names_under_which_those_for_wan_are_published() -> None:
    shapes = {"A": (32, 128), "B": (128, 32)}
    lora = {f"blocks.0.attn2.to_out.0.lora_{kind}.default.weight": torch.ones(shape) for kind, shape in shapes.items()}
    prefix = "diffusion_model.blocks.0.cross_attn.o"
    assert {name: tuple(tensor.shape) for name, tensor in published_lora(lora).items()} == {
        f"{prefix}.lora_down.weight": (32, 128),
        f"{prefix}.lora_up.weight": (128, 32),
        f"{prefix}.alpha": (),
    }


def test_scenes_of_a_chunk_are_always_the_same() -> None:
    assert IMAGE_DRAWING.scenes(3) == IMAGE_DRAWING.scenes(3) != IMAGE_DRAWING.scenes(4)
    assert VIDEO_DRAWING.regions(VIDEO_DRAWING.scenes(0)[0]).shape[0] == 5 * 8 * 8
