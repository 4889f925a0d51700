"""Lessons of one family for another, and the small Flux that is trained on them."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file
from torch import Tensor

from training import lessons, train_flux
from training.examples import Examples
from training.flow import Settings
from training.image_flow import IMAGE_DRAWING, FluxModel, SD3Model, load_tokenizers
from training.lessons import Lessons, Teacher
from training.regions import Regions
from training.train_images import SHIPPED
from vsf_cli.errors import RequestError


@pytest.fixture
def teacher() -> Teacher:
    model = SD3Model(load_tokenizers(SHIPPED), 1)
    torch.manual_seed(0)
    transformer, encoders = model.build_transformer().eval(), model.build_encoders().eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Teacher(model, transformer.requires_grad_(False), encoders.requires_grad_(False))


def examples_of(count: int) -> Examples:
    scenes = IMAGE_DRAWING.scenes(0)[:count]
    coverage = torch.from_numpy(Regions.measure(scenes))
    latents = torch.randn(count, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    return Examples(scenes, latents.half(), Regions(scenes, coverage))


def test_a_step_of_flux_is_two_of_the_teacher(teacher: Teacher) -> None:
    paths = teacher.paths(FluxModel.grid)
    expected = [[1, 0.875, 0.75], [0.75, 0.625, 0.5], [0.5, 0.375, 0.25], [0.25, 0.125, 0]]
    torch.testing.assert_close(paths, torch.tensor(expected))
    with pytest.raises(ValueError, match=r"must be every 2\. of the teacher's"):
        teacher.paths(torch.tensor([1.0, 0.7, 0.3, 0.0]))


def test_a_lesson_ends_where_the_teacher_ends(teacher: Teacher) -> None:
    model, path = teacher.model, torch.tensor([[0.75, 0.625, 0.5], [1.0, 0.875, 0.75]])
    tokens, start = model.tokens(["a red bike", ""]), torch.randn(2, 4, 24, 24)
    velocity = teacher.velocity(start, path, tokens)
    ends = []
    for row, sigmas in enumerate(path):
        latents, text = start[row : row + 1], teacher.encoders(*(part[row : row + 1] for part in tokens))
        for sigma, following in pairwise(sigmas):
            latents = latents + (following - sigma) * model.predict(teacher.transformer, latents, sigma[None], text)
        ends.append(latents)
    torch.testing.assert_close(start - 0.25 * velocity, torch.cat(ends), rtol=1e-4, atol=1e-4)


def test_lessons_are_written_down_once(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "CHUNK", 8)
    monkeypatch.setattr(lessons, "BATCH", 4)
    settings = Settings(torch.device("cpu"), tmp_path, batch=4, student_batch=0, compiled=False)
    first = Lessons.of(teacher, FluxModel.grid, examples_of(8), 9, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lessons-000.safetensors", "lessons-001.safetensors"]
    assert len(first.scene) == 16 and first.velocity.shape == (16, 4, 24, 24) and first.tokens.shape == (16, 20)
    assert not torch.equal(first.noised[:8], first.noised[8:]), "the files differ"

    def never(*args: Tensor) -> Tensor:
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(Teacher, "velocity", never)
    second = Lessons.of(teacher, FluxModel.grid, examples_of(8), 9, settings)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in Lessons.names())
    with pytest.raises(RequestError, match="has lessons with scenes 8, but not 6: give another --folder"):
        Lessons.of(teacher, FluxModel.grid, examples_of(6), 9, settings)
    scene, _, sigma, noised, velocity = first.batch(random.Random(0), 5, torch.device("cpu"))
    row = next(row for row in range(16) if torch.equal(first.noised[row], noised[0]))
    assert first.scene[row] == scene[0] and first.sigma[row] == sigma[0] and torch.equal(first.velocity[row], velocity[0])


def test_the_command_trains_and_exports_a_flux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "CHUNK", 4)
    monkeypatch.setattr(lessons, "BATCH", 4)
    monkeypatch.setattr("training.examples.CHUNK", 4)
    small = ["--heads", "1", "--batch", "2", "--workers", "0", "--no-compile", "--scenes", "1", "--lessons", "4"]
    command = ["train_flux", "--folder", str(tmp_path), "--export", str(tmp_path / "out"), *small, "--budget"]
    # A run that was cut off after one step goes on by the same command.
    for budget in ("1", "2"):
        monkeypatch.setattr("sys.argv", [*command, budget])
        train_flux.main()
    report = json.loads((tmp_path / "tiny-flux-schnell.json").read_text())
    assert report["student"]["steps"] == 2 and report["lessons"] == 4 and report["teacher"] == "tiny-sd3-turbo"
    assert (tmp_path / "tiny-flux-schnell-samples.png").stat().st_size > 10_000

    folder = tmp_path / "out" / "tiny-flux-schnell"
    assert "bike" in (folder / "vocabulary.txt").read_text().split()
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    trained = load_file(tmp_path / "tiny-flux-schnell.safetensors")
    assert torch.equal(pipe.transformer.x_embedder.weight.bfloat16(), trained["transformer/x_embedder.weight"])
    text, pooled, _ = pipe.encode_prompt("a red bike", None, max_sequence_length=20)
    assert not pooled.any() and text.shape == (1, 20, 128) and text.any()
    image = pipe("a red bike", width=96, height=96, num_inference_steps=4, guidance_scale=0.0, max_sequence_length=20).images[0]
    assert image.size == (96, 96) and pipe.scheduler.sigmas.tolist() == [1, 0.75, 0.5, 0.25, 0]
