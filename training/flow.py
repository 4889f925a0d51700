"""Flow matching for every family: a base model, then a student that runs in few steps without CFG."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import prepare
from training.command import say
from training.examples import Examples, caption_batches
from training.loop import Budget, Checkpoint, autocast, minimize, steps
from training.muon import optimizers_for
from training.regions import RegionHeads
from vsf_cli.toy.scenes import Scene

__all__ = [
    "DECAY",
    "STUDENT_EMPTY_CAPTIONS",
    "FlowModel",
    "Settings",
    "TrainedModel",
    "averaged_model",
    "column",
    "rehearse",
    "sample",
    "train",
]

EMPTY_CAPTIONS, STUDENT_EMPTY_CAPTIONS = 0.1, 0.05
REGION_WEIGHT = 0.2
TEACHER_GUIDANCE = 3.0
DECAY, STUDENT_DECAY = 0.9985, 0.998
REHEARSED = Budget(3)


@dataclass(frozen=True)
class Settings:
    """The settings of a training.

    Arguments:
        device: The device of all tensors.
        folder: Holds the checkpoints.
        batch: Samples of a step of the base model.
        student_batch: Samples of a step of the student.
        micro: Samples of one backward pass; 0 means the whole batch.
        workers: The number of processes that make captions; 0 makes them in this one.
        attention: A key of `training.attention.ATTENTIONS`.
        compiled: Whether the blocks are compiled.
        rate: A factor of the learning rates of the base model, which are for batches of 1,024.
    """

    device: torch.device
    folder: Path
    batch: int
    student_batch: int
    micro: int = 0
    workers: int = 0
    attention: str = "written"
    compiled: bool = True
    rate: float = 1.0


class FlowModel(ABC):
    """A family of models as the trainer sees it.

    Attributes:
        name: The name of the files that are written.
        width: The width of the hidden states of the transformer.
        processor: The attention processor of training.
        latent_shape: The shape of one sample's latents.
        grid: The sigmas of the student's steps, from 1 to 0.
        substeps: Steps of the teacher for one of the student.
        shift: Moves the times of training towards noise; 1 leaves them.
        student_rate: The learning rate of the student.
    """

    name: str
    width: int
    processor: type
    latent_shape: tuple[int, ...]
    grid: Tensor
    substeps = 4
    shift = 1.0
    student_rate = 5e-4

    @abstractmethod
    def build_transformer(self) -> nn.Module:
        """An untrained transformer."""

    @abstractmethod
    def build_encoders(self) -> nn.Module:
        """Untrained text encoders: from the tensors of `tokens` to embeddings with shape (B, text, width)."""

    @abstractmethod
    def caption(self, scene: Scene, rng: random.Random) -> str:
        """A caption of a scene."""

    @abstractmethod
    def tokens(self, captions: list[str]) -> tuple[Tensor, ...]:
        """Token ids (and masks) of captions, each with shape (B, length)."""

    @abstractmethod
    def velocity(
        self, transformer: nn.Module, latents: Tensor, sigma: Tensor, text: Tensor, attended: Tensor | None = None
    ) -> Tensor:
        """The predicted velocity, with the shape of the latents.

        Arguments:
            transformer: The transformer.
            latents: Noised latents.
            sigma: Noise levels of 0 to 1 with shape (B,).
            text: Prompt embeddings.
            attended: Which tokens of the text are keys, with shape (B, text); None means all.
        """

    def predict(
        self, transformer: nn.Module, latents: Tensor, sigma: Tensor, text: Tensor, attended: Tensor | None = None
    ) -> Tensor:
        """The same in float32, computed in bfloat16 where that is fast."""
        with autocast(latents.device):
            return self.velocity(transformer, latents, sigma, text, attended).float()

    @abstractmethod
    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """The blocks in their order."""

    @abstractmethod
    def region_block(self, transformer: nn.Module) -> nn.Module:
        """The block whose hidden states the region heads read."""

    def attended(self, tokens: tuple[Tensor, ...]) -> Tensor | None:
        """Which tokens of the text are keys in training; None means all."""
        return None

    def cut(self, latents: Tensor, step: int, progress: float) -> Tensor:
        """The part of a batch of latents that a step trains on."""
        return latents

    def student(self, base: nn.Module) -> tuple[nn.Module, nn.Module]:
        """A student that starts as the base model, and a module with those of its weights that are trained."""
        student = self.build_transformer()
        student.load_state_dict(base.state_dict())
        return student, student


def column(values: Tensor, like: Tensor) -> Tensor:
    """Values with shape (B,) in the shape (B, 1, ...) of another tensor's axes."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _prepare(model: FlowModel, transformer: nn.Module, settings: Settings) -> None:
    prepare(model.blocks(transformer), model.processor, settings.attention, settings.compiled)


def _batches(
    stage: str, model: FlowModel, examples: Examples, checkpoint: Checkpoint, settings: Settings, count: int, empty: float
) -> Iterator[tuple[Tensor, ...]]:
    checkpoint.load()
    return caption_batches(stage, model, examples.scenes, count, empty, checkpoint.step, settings.workers, settings.device)


def train_base(
    model: FlowModel, examples: Examples, settings: Settings, budget: Budget
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Trains a transformer and its text encoders together by flow matching, with logit-normal times.

    Returns:
        Both, with averaged weights, and a summary of the stage.
    """
    torch.manual_seed(0)
    device = settings.device
    transformer, encoders = model.build_transformer().to(device).train(), model.build_encoders().to(device).train()
    heads = RegionHeads(model.region_block(transformer), model.width).to(device)
    optimizers = optimizers_for(transformer, [encoders, heads], fused=device.type == "cuda")
    modules = {"transformer": transformer, "encoders": encoders, "heads": heads}
    checkpoint = Checkpoint(settings.folder / "base.safetensors", modules, optimizers, DECAY)
    batches = _batches("base", model, examples, checkpoint, settings, settings.batch, EMPTY_CAPTIONS)
    _prepare(model, transformer, settings)

    def loss_of(indices: Tensor, *tokens: Tensor) -> tuple[Tensor, Tensor]:
        latents = model.cut(examples.latents[indices].float(), checkpoint.step, budget.progress(checkpoint))
        indices, tokens = indices[: len(latents)], tuple(part[: len(latents)] for part in tokens)
        sigma, noise = torch.randn(len(latents), device=device).sigmoid(), torch.randn_like(latents)
        sigma = model.shift * sigma / (1 + (model.shift - 1) * sigma)
        noised = torch.lerp(latents, noise, column(sigma, latents))
        with autocast(device):
            text = encoders(*tokens)
        velocity = model.predict(transformer, noised, sigma, text, model.attended(tokens))
        regions = heads(*examples.regions.targets(indices, heads.tokens))
        return F.mse_loss(velocity, noise - latents), REGION_WEIGHT * regions

    for _ in steps("base", checkpoint, budget, settings.rate):
        minimize(checkpoint, loss_of, *next(batches), micro=settings.micro)

    heads.detach()
    return averaged_model(model, encoders, checkpoint, device), encoders, checkpoint.summary(settings.batch)


def averaged_model(model: FlowModel, encoders: nn.Module, checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """Returns a transformer with the averaged weights of a checkpoint, and gives the text encoders theirs."""
    averaged = model.build_transformer().to(device)
    averaged.load_state_dict(checkpoint.averaged("transformer"), strict=False)
    encoders.load_state_dict(checkpoint.averaged("encoders"), strict=False)
    encoders.eval()
    return averaged.eval()


def train_student(
    model: FlowModel, base: nn.Module, encoders: nn.Module, examples: Examples, settings: Settings, budget: Budget
) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Distils a student: one of its steps goes where the base model goes in several steps with CFG.

    Samples are noised to the sigmas of the student's steps. The target velocity is that of `substeps` guided Euler steps to
    the next sigma.

    Returns:
        The student with averaged weights, those of its weights that were trained, and a summary of the stage.
    """
    torch.manual_seed(1)
    device = settings.device
    base.requires_grad_(False)
    encoders.requires_grad_(False)
    student, trained = model.student(base)
    student.to(device).train()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=model.student_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=device.type == "cuda"
    )
    checkpoint = Checkpoint(settings.folder / "student.safetensors", {"student": trained}, [optimizer], STUDENT_DECAY)
    batches = _batches("student", model, examples, checkpoint, settings, settings.student_batch, STUDENT_EMPTY_CAPTIONS)
    _prepare(model, student, settings)
    _prepare(model, base, settings)
    grid = model.grid.to(device)
    teacher = _Teacher(model, base, _encode(model, encoders, [""], device))

    def loss_of(indices: Tensor, *tokens: Tensor) -> tuple[Tensor, float]:
        latents = examples.latents[indices].float()
        step = torch.randint(len(grid) - 1, (len(latents),), device=device)
        with torch.no_grad():
            text = encoders(*tokens)
            noised = torch.lerp(latents, torch.randn_like(latents), column(grid[step], latents))
            target = teacher(noised, grid[step], grid[step + 1], text)
        velocity = model.predict(student, noised, grid[step], text, model.attended(tokens))
        return F.mse_loss(velocity, target), 0.0

    for _ in steps("student", checkpoint, budget, warmup=20):
        minimize(checkpoint, loss_of, *next(batches), micro=settings.micro)

    averaged = checkpoint.averaged("student")
    trained.load_state_dict(averaged, strict=False)
    return student.eval(), averaged, checkpoint.summary(settings.student_batch)


@dataclass(frozen=True)
class _Teacher:
    """The mean velocity of a base model with CFG, over several Euler steps."""

    model: FlowModel
    base: nn.Module
    empty: Tensor

    def __call__(self, noised: Tensor, start: Tensor, end: Tensor, text: Tensor) -> Tensor:
        both = torch.cat([self.empty.expand(len(noised), -1, -1), text])
        latents, length = noised, (end - start) / self.model.substeps
        for number in range(self.model.substeps):
            sigma = start + length * number
            doubled = latents.repeat(2, *[1] * (latents.ndim - 1))
            unconditional, conditional = self.model.predict(self.base, doubled, sigma.repeat(2), both).chunk(2)
            velocity = unconditional + TEACHER_GUIDANCE * (conditional - unconditional)
            latents = latents + column(length, latents) * velocity
        return (latents - noised) / column(end - start, noised)


@torch.no_grad()
def _encode(model: FlowModel, encoders: nn.Module, captions: list[str], device: torch.device) -> Tensor:
    text: Tensor = encoders(*(part.to(device) for part in model.tokens(captions)))
    return text


@torch.no_grad()
def sample(model: FlowModel, student: nn.Module, encoders: nn.Module, captions: list[str], device: torch.device) -> Tensor:
    """Latents of captions by the student's steps, without guidance; the seed is fixed."""
    text, grid = _encode(model, encoders, captions, device), model.grid.to(device)
    latents = torch.randn(len(captions), *model.latent_shape, generator=torch.Generator().manual_seed(1)).to(device)
    for start, end in pairwise(grid):
        latents = latents + (end - start) * model.predict(student, latents, start.expand(len(captions)), text)
    return latents


@dataclass(frozen=True)
class TrainedModel:
    """A base model with its text encoders, and its student.

    Arguments:
        base: The base model, with averaged weights.
        encoders: The text encoders of both.
        student: The student.
        student_weights: Those weights of the student that were trained.
        summaries: Seconds, samples and losses of "base" and "student".
    """

    base: nn.Module
    encoders: nn.Module
    student: nn.Module
    student_weights: dict[str, Tensor]
    summaries: dict[str, dict[str, Any]]


def train(model: FlowModel, examples: Examples, settings: Settings, base: Budget, student: Budget) -> TrainedModel:
    """Trains a base model and its student, or continues from their checkpoints.

    Raises:
        Diverged: If a loss is not finite.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    transformer, encoders, summary = train_base(model, examples, settings, base)
    # A student belongs to the base model that taught it.
    folder = settings.folder / f"student-of-{summary['steps']}"
    folder.mkdir(exist_ok=True)
    own = replace(settings, folder=folder)
    trained, weights, student_summary = train_student(model, transformer, encoders, examples, own, student)
    return TrainedModel(transformer, encoders, trained, weights, {"base": summary, "student": student_summary})


def rehearse(model: FlowModel, examples: Examples, settings: Settings) -> None:
    """Trains a base model and its student for three steps and discards them, so that a fault costs seconds.

    Raises:
        Diverged: If a loss is not finite.
    """
    say(f"rehearsing {model.name}: {REHEARSED.amount:g} steps of each stage")
    with TemporaryDirectory() as folder:
        train(model, examples, replace(settings, folder=Path(folder)), REHEARSED, REHEARSED)
