"""What a few-step model does, written down once, for a model of another family that learns from it.

Flow matching learns the mean of all scenes that fit a caption from samples that each show one. A teacher's velocity is that
mean already, so that a small model comes far on a CPU.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.attention import prepare
from training.command import say
from training.examples import Examples, caption_batches
from training.flow import STUDENT_EMPTY_CAPTIONS, FlowModel, Settings, column
from training.loop import autocast
from vsf_cli.errors import RequestError

__all__ = ["Lessons", "Teacher"]

CHUNK, BATCH = 4096, 64
"""Lessons of a file, and of one call of the teacher."""


@dataclass(frozen=True)
class Teacher:
    """A trained few-step model.

    Arguments:
        model: Its family.
        transformer: Its transformer.
        encoders: Its text encoders.
    """

    model: FlowModel
    transformer: nn.Module
    encoders: nn.Module

    def paths(self, grid: Tensor) -> Tensor:
        """The teacher's sigmas in each step of another model, with shape (steps, substeps + 1).

        Arguments:
            grid: The sigmas of the other model, from 1 to 0.

        Raises:
            ValueError: If they are not some of the teacher's.
        """
        own = self.model.grid
        substeps = max(1, (len(own) - 1) // (len(grid) - 1))
        if len(own[::substeps]) != len(grid) or not torch.allclose(own[::substeps], grid):
            raise ValueError(f"the sigmas are {grid.tolist()}, but must be every {substeps}. of the teacher's {own.tolist()}")
        return own.unfold(0, substeps + 1, substeps)

    def fingerprint(self) -> str:
        """The SHA-256 of its weights."""
        digest = hashlib.sha256()
        for module in (self.transformer, self.encoders):
            for tensor in module.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def velocity(self, noised: Tensor, path: Tensor, tokens: tuple[Tensor, ...]) -> Tensor:
        """The mean velocity along paths with shape (B, substeps + 1), from noised latents on."""
        with autocast(noised.device):
            text = self.encoders(*tokens)
        latents = noised
        for start, end in pairwise(path.unbind(1)):
            latents = latents + column(end - start, latents) * self.model.predict(self.transformer, latents, start, text)
        return (latents - noised) / column(path[:, -1] - path[:, 0], noised)


@dataclass(frozen=True)
class Lessons:
    """A teacher's lessons: tensors with a row for each.

    Arguments:
        scene: The number of the scene.
        tokens: The tokens of its caption, by the tokenizer of the model that learns.
        sigma: The sigma at which the lesson starts.
        noised: The noised latents of the scene, in float16.
        velocity: The teacher's mean velocity over the step from there, in float16.
    """

    scene: Tensor
    tokens: Tensor
    sigma: Tensor
    noised: Tensor
    velocity: Tensor

    @classmethod
    def of(cls, teacher: Teacher, grid: Tensor, examples: Examples, count: int, settings: Settings) -> "Lessons":
        """Writes lessons into files of a folder, of which those that are there already stay.

        Arguments:
            teacher: The teacher. The last of its tokenizers is that of the model that learns.
            grid: The sigmas of the model that learns, from 1 to 0.
            examples: The scenes.
            count: The number of lessons, rounded up to whole files.
            settings: The folder, the device, the workers that make captions, and whether the teacher's blocks are compiled.

        Raises:
            RequestError: If there are lessons of another teacher, of other sigmas or of other scenes.
        """
        prepare(teacher.model.blocks(teacher.transformer), teacher.model.processor, "fused", settings.compiled)
        files = [settings.folder / f"lessons-{number:03}.safetensors" for number in range(-(-count // CHUNK))]
        facts = {"teacher": teacher.fingerprint(), "sigmas": str(grid.tolist()), "scenes": str(len(examples.scenes))}
        for file in filter(Path.exists, files):
            _check_facts(file, facts)
        for number, file in enumerate(files):
            if not file.exists():
                say(f"lesson {number * CHUNK} of {len(files) * CHUNK}")
                batches = islice(_batches(teacher, number, grid, examples, settings), CHUNK // BATCH)
                columns = [torch.cat(tensors).cpu() for tensors in zip(*batches, strict=True)]
                partial = file.with_suffix(".partial")
                save_file(dict(zip(cls.names(), columns, strict=True)), partial, facts)
                partial.replace(file)
        stored = [load_file(file) for file in files]
        return cls(*(torch.cat([each[name] for each in stored]) for name in cls.names()))

    @classmethod
    def names(cls) -> list[str]:
        """The names of the tensors, in their order."""
        return [field.name for field in fields(cls)]

    def batch(self, rng: random.Random, count: int, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors of some lessons, in their order."""
        rows = torch.tensor([rng.randrange(len(self.scene)) for _ in range(count)])
        return tuple(getattr(self, name)[rows].to(device) for name in self.names())


def _check_facts(file: Path, facts: dict[str, str]) -> None:
    with safe_open(file, "pt") as opened:
        found = opened.metadata() or {}
    for name, value in facts.items():
        if found.get(name) != value:
            raise RequestError(f"{file} has lessons with {name} {found.get(name)}, but not {value}: give another --folder")


def _batches(
    teacher: Teacher, number: int, grid: Tensor, examples: Examples, settings: Settings
) -> Iterator[tuple[Tensor, ...]]:
    """Makes batches of lessons without end, with random numbers of their own for each file."""
    device, paths = settings.device, teacher.paths(grid)
    captions = caption_batches(
        f"lessons {number}", teacher.model, examples.scenes, BATCH, STUDENT_EMPTY_CAPTIONS, 0, settings.workers, device
    )
    generator = torch.Generator().manual_seed(number)
    for scenes, *tokens in captions:
        latents = examples.latents[scenes].float()
        path = paths[torch.randint(len(paths), (BATCH,), generator=generator)].to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        noised = torch.lerp(latents, noise, column(path[:, 0], latents)).half()
        yield scenes, tokens[-1], path[:, 0], noised, teacher.velocity(noised.float(), path, tuple(tokens)).half()
