"""What every stage of training shares: data, the schedule of the learning rate, averages, checkpoints, progress."""

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vsf_cli.toy.drawing import draw
from vsf_cli.toy.scenes import Scene

__all__ = ["Checkpoint", "autocast", "cosine", "minimize", "optimizers_for", "render", "steps"]

SECONDS_BETWEEN_CHECKPOINTS = 120
STEPS_BETWEEN_REPORTS = 20


def render(scenes: list[Scene]) -> np.ndarray:
    """Draws scenes into an array of bytes, with shape (scenes, side, side, 3)."""
    return np.stack([np.asarray(draw(scene)) for scene in scenes])


def autocast(enabled: bool = True) -> torch.autocast:
    """Training in bfloat16, on the device that `torch.set_default_device` has chosen.

    A processor that has no AVX-512 does bfloat16 in software, forty times as slowly as float32: there it is float32.
    """
    device = torch.get_default_device().type
    slow = device == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"
    return torch.autocast(device, torch.bfloat16, enabled=enabled and not slow)


def cosine(step: int, total: int, warmup: int) -> float:
    """The learning rate's factor: a linear rise over `warmup` steps, then half a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2


class Checkpoint:
    """A stage's state on disk, from which it goes on: modules, averages, optimisers and the step.

    Arguments:
        path: The safetensors file; written beside, then renamed.
        modules: The modules in training, by name.
        optimizers: Their optimisers.
        decay: The decay of the weights' moving average, per step.
    """

    def __init__(
        self, path: Path, modules: dict[str, nn.Module], optimizers: list[torch.optim.Optimizer], decay: float = 0.998
    ) -> None:
        self.path = path
        self.modules = modules
        self.optimizers = optimizers
        self.decay = decay
        self.step = 0
        self.losses: list[float] = []
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
        """The moving average of a module's weights, as a state dict."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): tensor for key, tensor in self.average.items() if key.startswith(prefix)}

    def save(self) -> None:
        """Writes everything."""
        tensors = {f"average/{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"weights/{name}": tensor.detach() for name, tensor in self._weights()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(value)

        beside = self.path.with_suffix(".partial")
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, beside, {"step": str(self.step)})
        beside.replace(self.path)

    def load(self) -> bool:
        """Reads everything back, if there is something to read."""
        if not self.path.exists():
            return False
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            self.step = int(file.metadata()["step"])
        tensors = load_file(self.path)
        with torch.no_grad():
            for name, tensor in self._weights():
                tensor.copy_(tensors[f"weights/{name}"])
                self.average[name].copy_(tensors[f"average/{name}"])
        for number, optimizer in enumerate(self.optimizers):
            states: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                kind, *rest = key.split("/")
                if kind == "optimizer" and rest[0] == str(number):
                    states.setdefault(int(rest[1]), {})[rest[2]] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        return True

    def finished(self, total: int) -> bool:
        """Reads everything back; whether `total` steps were made."""
        return self.load() and self.step >= total


def steps(stage: str, checkpoint: Checkpoint, total: int, rate: float, warmup: int = 100) -> Iterator[random.Random]:
    """Runs a stage: sets the learning rate, yields a source of chance for each step, then averages, reports and saves.

    The chance of a step depends on the stage and the step alone, so that a run taken up again goes on as it would have.
    The caller appends each step's loss to `checkpoint.losses`.
    """
    console = Console(stderr=True, width=120)
    checkpoint.load()
    losses = checkpoint.losses
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in checkpoint.optimizers]
    started, first, saved = time.monotonic(), checkpoint.step, time.monotonic()

    while checkpoint.step < total:
        factor = cosine(checkpoint.step, total, warmup) * rate
        for optimizer, rates in zip(checkpoint.optimizers, base, strict=True):
            for group, value in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = value * factor

        torch.manual_seed(_seed(stage, checkpoint.step))
        yield random.Random(_seed(stage, checkpoint.step))
        checkpoint.update()

        if checkpoint.step % STEPS_BETWEEN_REPORTS == 0 or checkpoint.step == total:
            pace = (time.monotonic() - started) / (checkpoint.step - first)
            left = pace * (total - checkpoint.step) / 60
            mean = sum(losses) / max(1, len(losses))
            console.print(f"{stage} {checkpoint.step}/{total} loss {mean:.4f} {pace:.3f} s a step, {left:.0f} min left")
            _record(checkpoint.path.with_suffix(".csv"), checkpoint.step, mean)
            losses.clear()
        if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            checkpoint.save()
            saved = time.monotonic()
    checkpoint.save()


def _record(path: Path, step: int, loss: float) -> None:
    """Adds a point to the stage's curve; one taken up again writes over what came after its checkpoint."""
    lines = path.read_text("utf-8").splitlines()[1:] if path.exists() else []
    kept = [line for line in lines if int(line.split(",")[0]) < step]
    path.write_text("\n".join(["step,loss", *kept, f"{step},{loss:.5f}"]) + "\n", "utf-8")


def _seed(stage: str, step: int) -> int:
    return (sum(ord(letter) * 31**place for place, letter in enumerate(stage)) * 1_000_003 + step) % 2**31


def optimizers_for(transformer: nn.Module, others: list[nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else."""
    matrices: list[nn.Parameter] = []
    rest = [parameter for module in others for parameter in module.parameters() if parameter.requires_grad]
    for name, parameter in transformer.named_parameters():
        inner = (
            name.startswith(("transformer_blocks", "blocks"))
            and parameter.ndim == 2
            and ".norm" not in name
            and "table" not in name
        )
        (matrices if inner else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def minimize(loss: Tensor, checkpoint: Checkpoint, besides: Tensor | float = 0.0) -> None:
    """One step of a checkpoint's optimisers; `besides` is added to the loss, and not reported with it."""
    for optimizer in checkpoint.optimizers:
        optimizer.zero_grad(set_to_none=True)
    (loss + besides).backward()
    for module in checkpoint.modules.values():
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimizer in checkpoint.optimizers:
        optimizer.step()
    checkpoint.losses.append(loss.item())
