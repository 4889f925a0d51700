"""The training loop that all stages share: budgets, learning rates, averages, checkpoints, and the record of the losses."""

import csv
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vsf_cli.toy.drawing import draw
from vsf_cli.toy.scenes import Scene

__all__ = ["Budget", "Checkpoint", "Diverged", "autocast", "has_fast_bfloat16", "minimize", "rate_factor", "render", "steps"]

SECONDS_BETWEEN_CHECKPOINTS = 120
STEPS_BETWEEN_REPORTS = 20
UNTIMED_STEPS = 3
"""The first steps of a process compile the model. They do not count towards a budget of seconds."""


class Diverged(RuntimeError):
    """The loss is not finite, so that further training is of no use."""


@dataclass(frozen=True)
class Budget:
    """The length of a stage.

    Arguments:
        amount: Steps, or seconds of training.
        unit: The unit of the amount.
        deadline: `time.monotonic()` at which a budget of seconds ends at the latest.
    """

    amount: float
    unit: Literal["steps", "seconds"] = "steps"
    deadline: float = math.inf

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """The budget of a text: "9000" (steps) or "220s" (seconds).

        Raises:
            ValueError: If the text is neither, or not positive.
        """
        seconds = text.endswith("s")
        amount = float(text.removesuffix("s")) if seconds else int(text)
        if not 0 < amount < math.inf:
            raise ValueError(f"a budget is a positive number of steps (9000) or of seconds (220s), but '{text}' was given")
        return cls(amount, "seconds" if seconds else "steps")

    def progress(self, checkpoint: "Checkpoint") -> float:
        """The used fraction of the budget. From 1 on, the stage is finished."""
        return (checkpoint.step if self.unit == "steps" else checkpoint.seconds) / self.amount

    def before_deadline(self, used: float) -> "Budget":
        """The budget; one of seconds is cut so that it ends before the deadline, when `used` seconds of it are over."""
        left = self.deadline - time.monotonic()
        return self if self.unit == "steps" else replace(self, amount=max(1.0, min(self.amount, used + left)))


def render(scenes: Sequence[Scene]) -> np.ndarray:
    """The images of scenes, as bytes with shape (scenes, side, side, 3)."""
    return np.stack([np.asarray(draw(scene)) for scene in scenes])


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32. On a CPU without AMX they are much slower."""
    return device.type != "cpu" or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device | None = None, enabled: bool = True) -> torch.autocast:
    """A context that autocasts to bfloat16 where that is fast. The device defaults to PyTorch's default device."""
    device = device or torch.get_default_device()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and has_fast_bfloat16(device))


def rate_factor(progress: float, step: int, warmup: int) -> float:
    """The factor of the learning rate: a linear rise over `warmup` steps, and half a cosine down to 2 % over the budget."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


class Checkpoint:
    """The state of a stage, which can be saved and loaded: modules, averages, optimisers, steps, seconds and losses.

    Arguments:
        path: The safetensors file. It is written under another name and then renamed.
        modules: The modules in training, by name.
        optimizers: Their optimisers.
        decay: The decay of the moving average of the weights, per step.

    Attributes:
        step: The number of finished steps.
        seconds: Seconds of training, without compilation.
        losses: The losses since the last report.
        curve: Steps with the mean loss up to them, one pair for each report.
    """

    def __init__(
        self, path: Path, modules: dict[str, nn.Module], optimizers: list[torch.optim.Optimizer], decay: float = 0.998
    ) -> None:
        self.path = path
        self.modules = modules
        self.optimizers = optimizers
        self.decay = decay
        self.step = 0
        self.seconds = 0.0
        self.losses: list[Tensor] = []
        self.curve: list[tuple[int, float]] = []
        self.average = {name: tensor.detach().clone() for name, tensor in self._weights()}

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, module in self.modules.items():
            for key, tensor in module.state_dict().items():
                if tensor.is_floating_point():
                    yield f"{name}/{key}", tensor

    @torch.no_grad()
    def update(self) -> None:
        """Counts a step and moves the average towards the weights."""
        self.step += 1
        decay = min(self.decay, self.step / (self.step + 10))
        names, current = zip(*self._weights(), strict=True)
        torch._foreach_lerp_([self.average[name] for name in names], list(current), 1 - decay)

    def averaged(self, name: str) -> dict[str, Tensor]:
        """The moving average of the weights of a module, as a state dict."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): tensor for key, tensor in self.average.items() if key.startswith(prefix)}

    def report(self) -> float:
        """Adds the mean of the last losses to the curve, writes the curve as CSV, and returns the mean.

        Raises:
            Diverged: If the mean is not finite. Nothing is written then: the last checkpoint stays.
        """
        mean = float(torch.stack(self.losses).mean())
        if not math.isfinite(mean):
            raise Diverged(
                f"{self.path.stem}: the loss is {mean} near step {self.step}. Training stops; the last checkpoint is kept."
                " Try a lower --rate, --attention eager or written, or --no-compile."
            )
        self.losses.clear()
        self.curve.append((self.step, mean))
        rows = [f"{step},{loss:.5f}" for step, loss in self.curve]
        self.path.with_suffix(".csv").write_text("\n".join(["step,loss", *rows]) + "\n", "utf-8")
        return mean

    def save(self) -> None:
        """Writes everything but the curve, which `report` writes."""
        tensors = {f"average/{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"weights/{name}": tensor.detach() for name, tensor in self._weights()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(value)

        partial = self.path.with_suffix(".partial")
        metadata = {"step": str(self.step), "seconds": str(self.seconds)}
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, partial, metadata)
        partial.replace(self.path)

    def load(self) -> bool:
        """Reads the checkpoint. Returns whether there is one."""
        if not self.path.exists():
            return False
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
        self.step, self.seconds = int(metadata["step"]), float(metadata.get("seconds", 0))
        self.curve = [point for point in _read_curve(self.path.with_suffix(".csv")) if point[0] <= self.step]
        tensors = load_file(self.path)
        with torch.no_grad():
            for name, tensor in self._weights():
                tensor.copy_(tensors[f"weights/{name}"])
                self.average[name].copy_(tensors[f"average/{name}"])
        for number, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": _optimizer_state(tensors, number)})
        return True

    def finished(self, budget: Budget) -> bool:
        """Reads the checkpoint. Returns whether the budget is used up."""
        return self.load() and budget.progress(self) >= 1

    def summary(self, batch: int) -> dict[str, Any]:
        """Seconds, steps, samples and losses as plain values; a step has `batch` samples."""
        samples = self.step * batch
        return {
            "seconds": round(self.seconds, 1),
            "batch": batch,
            "steps": self.step,
            "samples": samples,
            "samples_per_second": round(samples / self.seconds) if self.seconds else None,
            "loss": [[step, round(loss, 4)] for step, loss in self.curve],
            "final_loss": round(self.curve[-1][1], 4),
        }


def _read_curve(path: Path) -> list[tuple[int, float]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def _optimizer_state(tensors: dict[str, Tensor], number: int) -> dict[int, dict[str, Tensor]]:
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, *rest = key.split("/")
        if kind == "optimizer" and rest[0] == str(number):
            states.setdefault(int(rest[1]), {})[rest[2]] = tensor
    return states


def steps(stage: str, checkpoint: Checkpoint, budget: Budget, rate: float = 1.0, warmup: int = 100) -> Iterator[random.Random]:
    """Runs a stage from its checkpoint: yields once for each step, then averages, reports and saves.

    The caller makes the step: it appends the loss to `checkpoint.losses`. Random numbers depend on the stage and the step
    alone, so that a run that was cut off continues as it would have.

    Arguments:
        stage: The name of the stage.
        checkpoint: Its state.
        budget: Its length. The learning rate falls with the used fraction.
        rate: A factor of all learning rates.
        warmup: Steps over which the learning rate rises.

    Yields:
        The source of random numbers of the step.

    Raises:
        Diverged: If the loss is not finite.
    """
    console = Console(stderr=True, width=120)
    checkpoint.load()
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in checkpoint.optimizers]
    first, last, saved = checkpoint.step, time.monotonic(), time.monotonic()
    if budget.progress(checkpoint) < 1:
        console.print(
            f"{stage}: {budget.amount:g} {budget.unit}, from step {first}; a line every {STEPS_BETWEEN_REPORTS} steps"
        )

    while budget.progress(checkpoint) < 1:
        factor = rate * rate_factor(budget.progress(checkpoint), checkpoint.step, warmup)
        for optimizer, rates in zip(checkpoint.optimizers, base, strict=True):
            for group, value in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = value * factor

        torch.manual_seed(_seed(stage, checkpoint.step))
        yield random.Random(_seed(stage, checkpoint.step))
        checkpoint.update()

        now = time.monotonic()
        if checkpoint.step == first + UNTIMED_STEPS:
            budget = budget.before_deadline(checkpoint.seconds)
        if checkpoint.step > first + UNTIMED_STEPS:
            checkpoint.seconds += now - last
        last = now
        if checkpoint.step % STEPS_BETWEEN_REPORTS == 0 or budget.progress(checkpoint) >= 1:
            console.print(_progress(stage, checkpoint, budget, checkpoint.report()))
        if now - saved > SECONDS_BETWEEN_CHECKPOINTS:
            checkpoint.save()
            saved = time.monotonic()
    checkpoint.save()


def _progress(stage: str, checkpoint: Checkpoint, budget: Budget, loss: float) -> str:
    progress, used = budget.progress(checkpoint), checkpoint.seconds
    left = used * (1 / progress - 1) / 60
    done = f"{progress:.0%} of {budget.amount:g} {budget.unit}"
    return f"{stage} step {checkpoint.step} loss {loss:.4f}, {done}, {left:.0f} min left"


def _seed(stage: str, step: int) -> int:
    return (sum(ord(letter) * 31**index for index, letter in enumerate(stage)) * 1_000_003 + step) % 2**31


def minimize(
    checkpoint: Checkpoint,
    loss_of: Callable[..., tuple[Tensor, Tensor | float]],
    *batch: Tensor,
    micro: int = 0,
) -> None:
    """Makes one step of the optimisers of a checkpoint.

    Arguments:
        checkpoint: Gets the loss.
        loss_of: Takes a batch; returns the loss, and a term that is added to it but not reported.
        batch: Tensors with a row for each sample.
        micro: Samples of one backward pass; 0 means the whole batch.
    """
    for optimizer in checkpoint.optimizers:
        optimizer.zero_grad(set_to_none=True)
    pieces = list(zip(*(tensor.split(micro or len(tensor)) for tensor in batch), strict=True)) or [()]
    losses = []
    for piece in pieces:
        loss, extra = loss_of(*piece)
        ((loss + extra) / len(pieces)).backward()
        losses.append(loss.detach())
    parameters = [parameter for module in checkpoint.modules.values() for parameter in module.parameters()]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in checkpoint.optimizers:
        optimizer.step()
    checkpoint.losses.append(torch.stack(losses).mean())
