"""Pipelines from trained weights, tried with small random ones."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training import adopt as command
from training.adopt import adopt
from training.image_flow import SD3Model, load_tokenizers
from training.results import prefixed, write_weights
from training.train_images import SHIPPED
from vsf_cli.loading.pipelines import load

COPIED = ("vocabulary.txt", "model_index.json", "scheduler", "tokenizer", "tokenizer_2", "tokenizer_3", "vae")


def files(folder: Path, names: tuple[str, ...] = COPIED) -> dict[str, bytes]:
    chosen = [path for name in names for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in chosen}


def equal(one: nn.Module, other: nn.Module) -> bool:
    weights = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first.bfloat16(), second.bfloat16()) for first, second in weights)


def write_random_weights(folder: Path) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Weights as the trainer writes them, of a base model and a student with one head."""
    model = SD3Model(load_tokenizers(SHIPPED), 1)
    modules = model.build_transformer(), model.build_transformer(), model.build_encoders()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (parameter for module in modules for parameter in module.parameters()):
            parameter.copy_(0.02 * torch.randn_like(parameter))
    base, student, encoders = modules
    write_weights(folder / "sd3-base.safetensors", prefixed(transformer=base, encoders=encoders))
    write_weights(folder / "sd3-student.safetensors", prefixed(transformer=student))
    return modules


def test_trained_weights_become_pipelines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, student, encoders = write_random_weights(tmp_path)
    out = tmp_path / "pipelines"
    monkeypatch.setattr("sys.argv", ["adopt", str(tmp_path), str(out)])
    command.main()
    assert capsys.readouterr().out.split() == [str(out / "tiny-sd3"), str(out / "tiny-sd3-turbo")]
    for name, transformer in (("tiny-sd3", base), ("tiny-sd3-turbo", student)):
        assert files(out / name) == files(SHIPPED.parent / name) and len(files(out / name)) > 8
        pipe = load(str(out / name), "float32")
        assert pipe.transformer.config.num_attention_heads == 1 and pipe.transformer.config.caption_projection_dim == 32
        assert equal(pipe.transformer, transformer) and equal(pipe.text_encoder, encoders.clip)  # type: ignore[arg-type]
        assert equal(pipe.text_encoder_2, encoders.clip_2) and equal(pipe.text_encoder_3, encoders.t5)  # type: ignore[arg-type]
    images = pipe("a bike", num_inference_steps=2, guidance_scale=0.0, max_sequence_length=20, output_type="pt").images
    assert images.shape == (1, 3, 96, 96) and images.isfinite().all()


def test_pipelines_that_exist_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "tiny-sd3-turbo").mkdir()
    with pytest.raises(FileExistsError, match="tiny-sd3-turbo exists"):
        adopt(tmp_path / "a", tmp_path / "b", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-sd3-turbo"]
