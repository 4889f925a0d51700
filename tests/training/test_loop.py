import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.curves import plot
from training.loop import Budget, Checkpoint, Diverged, autocast, minimize, rate_factor, steps
from training.muon import Muon, optimizers_for, orthogonalised


@pytest.mark.parametrize(("amx", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_trains_in_bfloat16_only_if_it_has_amx(amx: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def stage(path: Path) -> tuple[nn.Linear, Checkpoint]:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    optimizers: list[torch.optim.Optimizer] = [Muon([model.weight], 0.1), torch.optim.AdamW([model.bias], lr=0.1)]
    return model, Checkpoint(path, {"model": model}, optimizers, 0.9)


def run(path: Path, budget: Budget, stop: int | None = None) -> Checkpoint:
    """Trains for the whole budget, or is cut off after a checkpoint at step `stop`."""
    model, checkpoint = stage(path)

    def loss_of(inputs: Tensor) -> tuple[Tensor, float]:
        return (model(inputs) + torch.randn(3)).square().mean(), 0.0

    for rng in steps("test", checkpoint, budget, warmup=2):
        if checkpoint.step == stop:
            checkpoint.save()
            break
        minimize(checkpoint, loss_of, torch.full((1, 3), rng.random()))
    return checkpoint


def test_a_run_that_was_cut_off_continues_to_the_same_weights(tmp_path: Path) -> None:
    whole = run(tmp_path / "a.safetensors", Budget(12))
    run(tmp_path / "b.safetensors", Budget(12), stop=5)
    parts = run(tmp_path / "b.safetensors", Budget(12))
    assert whole.step == parts.step == 12
    assert all(torch.equal(whole.average[name], parts.average[name]) for name in whole.average)


def test_a_budget_of_seconds_ends_and_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    budget = Budget(0.02, "seconds")
    checkpoint = run(tmp_path / "a.safetensors", budget)
    assert checkpoint.seconds >= 0.02 and checkpoint.step > 3
    again = stage(tmp_path / "a.safetensors")[1]
    assert again.finished(budget) and again.seconds == checkpoint.seconds and again.step == checkpoint.step
    assert not again.finished(Budget(1e6, "seconds"))


def test_budgets_are_steps_or_seconds_and_end_before_the_deadline() -> None:
    assert Budget.parse("9000") == Budget(9000) and Budget.parse("220s") == Budget(220, "seconds")
    for text in ("0", "-3s", "soon", "nans"):
        with pytest.raises(ValueError, match=r"budget|invalid|convert"):
            Budget.parse(text)
    late = Budget(220, "seconds", deadline=0.0)
    assert late.before_deadline(0).amount == 1 and Budget(9000, deadline=0.0).before_deadline(0).amount == 9000


def test_the_rate_rises_then_falls_with_the_used_fraction() -> None:
    assert rate_factor(0, 0, 10) == 0.1 and rate_factor(0, 9, 10) == 1
    falling = [rate_factor(progress, 100, 10) for progress in (0, 0.25, 0.5, 0.75, 1, 1.5)]
    assert falling[:5] == sorted(falling[:5], reverse=True) and falling[4] == falling[5] == pytest.approx(0.02)


def test_training_stops_where_the_loss_is_not_finite(tmp_path: Path) -> None:
    _, checkpoint = stage(tmp_path / "base.safetensors")

    def train() -> None:
        for _ in steps("base", checkpoint, Budget(1000)):
            checkpoint.losses.append(torch.tensor(math.nan if checkpoint.step == 25 else 1.0))

    with pytest.raises(Diverged, match="base: the loss is nan near step 40"):
        train()
    assert not checkpoint.path.exists(), "weights that are of no use are not saved"


def test_a_step_in_pieces_is_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    weights = []
    for micro in (0, 2):
        model, checkpoint = stage(tmp_path / "a.safetensors")
        minimize(checkpoint, lambda part, model=model: (model(part).square().mean(), 0.0), inputs, micro=micro)
        weights.append(model.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((3, 16, 48), (2, 48, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(2))))
        assert values.min() > 0.5 and values.max() < 1.4


def test_muon_in_a_batch_is_muon_of_each_matrix() -> None:
    generator = torch.Generator().manual_seed(3)
    start, gradients = torch.randn(3, 8, 5, generator=generator), torch.randn(2, 3, 8, 5, generator=generator)
    together = [nn.Parameter(matrix.clone()) for matrix in start]
    alone = [nn.Parameter(matrix.clone()) for matrix in start]
    batched, single = Muon(together, 0.1), [Muon([matrix], 0.1) for matrix in alone]
    for step in gradients:
        for matrices in (together, alone):
            for matrix, gradient in zip(matrices, step, strict=True):
                matrix.grad = gradient.clone()
        batched.step()
        for optimizer in single:
            optimizer.step()
    for one, other, before in zip(together, alone, start, strict=True):
        torch.testing.assert_close(one, other)
        assert not torch.equal(one, before)


def test_muon_takes_the_matrices_of_the_blocks() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 3)]), "proj_out": nn.Linear(3, 2)})
    muon, adamw = optimizers_for(model, [nn.Linear(1, 1)])
    assert [tuple(each.shape) for each in muon.param_groups[0]["params"]] == [(3, 2)]
    assert len(adamw.param_groups[0]["params"]) == 5


def test_a_stage_keeps_its_curve_for_a_plot(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no table"):
        plot(tmp_path)
    run(tmp_path / "base.safetensors", Budget(40))
    run(tmp_path / "base.safetensors", Budget(60))
    lines = (tmp_path / "base.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "20", "40", "60"]
    (axes,) = plot(tmp_path).axes
    assert list(axes.lines[0].get_xdata()) == [20, 40, 60]
    summary = stage(tmp_path / "base.safetensors")[1]
    assert summary.load() and summary.summary(4)["samples"] == 240 and len(summary.summary(4)["loss"]) == 3


def test_random_numbers_depend_on_stage_and_step(tmp_path: Path) -> None:
    _, checkpoint = stage(tmp_path / "a.safetensors")
    numbers = []
    for rng in steps("test", checkpoint, Budget(3)):
        checkpoint.losses.append(torch.tensor(1.0))
        numbers.append(rng.random())
    assert len(set(numbers)) == 3
