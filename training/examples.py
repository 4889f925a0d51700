"""Drawn scenes as training examples: latents, regions and captions, made by worker processes."""

import multiprocessing
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.command import say
from training.regions import Regions
from vsf_cli.toy.scenes import Scene

__all__ = ["CHUNK", "Drawing", "Examples", "caption_batches", "draw"]

CHUNK = 100
"""Scenes of one task of a worker process."""


@dataclass(frozen=True)
class Drawing:
    """A kind of scenes: functions that sample and draw them. Worker processes need functions of a module.

    Arguments:
        name: Decides the random numbers.
        sample: Samples a scene of the train split.
        render: Draws a scene: bytes with shape (side, side, 3), or (frames, side, side, 3).
        regions: Measures the coverage of its tokens, with shape (tokens, channels).
    """

    name: str
    sample: Callable[[random.Random], Scene]
    render: Callable[[Scene], np.ndarray]
    regions: Callable[[Scene], np.ndarray]

    def scenes(self, chunk: int) -> list[Scene]:
        """The scenes of a chunk."""
        rng = random.Random(f"{self.name} {chunk}")
        return [self.sample(rng) for _ in range(CHUNK)]

    def __call__(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a chunk, and the coverage of their tokens."""
        scenes = self.scenes(chunk)
        return np.stack([self.render(scene) for scene in scenes]), np.stack([self.regions(scene) for scene in scenes])


def draw(drawing: Drawing, count: int, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws `count` scenes, rounded up to whole chunks.

    Arguments:
        drawing: The kind of scenes.
        count: The number of scenes.
        workers: The number of processes; 0 draws in this one.

    Yields:
        The images of a chunk, and the coverage of their tokens.
    """
    chunks = range(-(-count // CHUNK))
    if workers == 0:
        yield from map(drawing, chunks)
        return
    # A fork of a process that uses CUDA cannot be relied on.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_interrupts) as pool:
        yield from pool.map(drawing, chunks)


def _leave_interrupts() -> None:
    """Leaves Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass
class Examples:
    """Scenes with their latents, normalised, in float16, with a row for each scene, and their regions."""

    scenes: list[Scene]
    latents: Tensor
    regions: Regions

    @classmethod
    @torch.no_grad()
    def encode(
        cls, drawing: Drawing, count: int, encode: Callable[[np.ndarray], Tensor], path: Path, workers: int = 0
    ) -> "Examples":
        """Draws and encodes scenes, or reads them from a file that an earlier call wrote.

        Arguments:
            drawing: The kind of scenes.
            count: The number of scenes, rounded up to whole chunks.
            encode: Turns drawn images into normalised latents.
            path: The safetensors file.
            workers: The number of processes that draw.
        """
        if not path.exists():
            latents, coverage = [], []
            say(f"drawing and encoding {count} scenes for the {drawing.name}")
            for images, covered in draw(drawing, count, workers):
                latents.append(encode(images).half().cpu().contiguous())
                coverage.append(torch.from_numpy(covered))
            save_file({"latents": torch.cat(latents), "shares": torch.cat(coverage)}, path)
        stored = load_file(path)
        scenes = [scene for chunk in range(len(stored["latents"]) // CHUNK) for scene in drawing.scenes(chunk)]
        return cls(scenes, stored["latents"], Regions(scenes, stored["shares"]))

    def to(self, device: torch.device) -> "Examples":
        """The same examples on a device."""
        return Examples(self.scenes, self.latents.to(device), Regions(self.scenes, self.regions.coverage.to(device)))


@dataclass(frozen=True)
class _Captions(Dataset[tuple[Tensor, ...]]):
    """The batch of each step: indices of scenes, and the tokens of a fresh caption of each."""

    stage: str
    scenes: list[Scene]
    caption: Callable[[Scene, random.Random], str]
    tokens: Callable[[list[str]], tuple[Tensor, ...]]
    batch: int
    empty: float

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        rng = random.Random(f"{self.stage} {step}")
        indices = [rng.randrange(len(self.scenes)) for _ in range(self.batch)]
        captions = ["" if rng.random() < self.empty else self.caption(self.scenes[index], rng) for index in indices]
        return torch.tensor(indices), *self.tokens(captions)


def caption_batches(
    stage: str,
    model: Any,
    scenes: list[Scene],
    batch: int,
    empty: float,
    first: int = 0,
    workers: int = 0,
    device: torch.device | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Makes batches without end. Each depends on the stage and the step alone.

    Arguments:
        stage: The name of the stage.
        model: Has `caption` and `tokens`, as a `training.flow.FlowModel` does.
        scenes: The scenes.
        batch: Samples of a batch.
        empty: The probability of an empty caption.
        first: The first step.
        workers: The number of processes; 0 makes captions in this one.
        device: The device of the tensors.

    Yields:
        Indices of scenes with shape (B,), and tokens with shape (B, length), one tensor for each tokenizer.
    """
    captions = _Captions(stage, scenes, model.caption, model.tokens, batch, empty)
    order: Iterable[int] = range(first, 2**40)
    options: dict[str, Any] = {"prefetch_factor": 4} if workers else {}
    pinned = device is not None and device.type == "cuda"
    loader = DataLoader(captions, batch_size=None, sampler=order, num_workers=workers, pin_memory=pinned, **options)
    for tensors in loader:
        yield tuple(tensor.to(device, non_blocking=True) for tensor in tensors)
