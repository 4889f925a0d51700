"""LoRA files for Wan, by every name under which they are published, on a small random model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from huggingface_hub import errors
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from tests.models.test_wan import random_wan
from vsf_cli.cli.app import app
from vsf_cli.errors import ModelError, RequestError, VSFError
from vsf_cli.loading import loras
from vsf_cli.loading.lora_keys import match_keys
from vsf_cli.loading.loras import Lora
from vsf_cli.loading.pipelines import load

OWN = "blocks.1.attn2.to_q", "blocks.0.attn1.to_out.0", "blocks.2.ffn.net.0.proj"
ORIGINAL = "blocks.1.cross_attn.q", "blocks.0.self_attn.o", "blocks.2.ffn.0"
SIZES = (24, 24), (24, 24), (24, 32)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return random_wan(torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pipe: Any) -> Path:
    place = tmp_path_factory.mktemp("models") / "small-wan"
    pipe.save_pretrained(place)
    return place


def matrices(
    down: str = "lora_down", up: str = "lora_up", names: tuple[str, ...] = ORIGINAL, prefix: str = ""
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name, (inner, outer) in zip(names, SIZES, strict=True):
        found[f"{prefix}{name}.{down}.weight"] = torch.randn(2, inner, generator=generator)
        found[f"{prefix}{name}.{up}.weight"] = torch.randn(outer, 2, generator=generator)
    return found


def saved(path: Path, tensors: dict[str, Tensor], scale: str = "") -> str:
    save_file(tensors, path)
    return f"{path}{scale}"


def layer(pipe: Any, name: str) -> Any:
    return pipe.transformer.get_submodule(name)


WANTED = matrices("lora_A", "lora_B", OWN, "transformer.")


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "transformer.", "base_model.model.", "model.diffusion_model."])
@pytest.mark.parametrize("names", [OWN, ORIGINAL], ids=["diffusers", "original"])
@pytest.mark.parametrize("kinds", [("lora_down", "lora_up"), ("lora_A", "lora_B"), ("lora_A.default", "lora_B.default")])
def test_every_name_of_a_layer_is_known(pipe: Any, prefix: str, names: tuple[str, ...], kinds: tuple[str, str]) -> None:
    state, unmatched = match_keys(matrices(*kinds, names, prefix), pipe)
    assert not unmatched and state.keys() == WANTED.keys()
    assert all(torch.equal(state[key], WANTED[key]) for key in state)


def test_names_with_underscores_are_known(pipe: Any) -> None:
    names = tuple(name.replace(".", "_") for name in ORIGINAL)
    state, unmatched = match_keys(matrices(names=names, prefix="lora_unet_"), pipe)
    assert not unmatched and state.keys() == WANTED.keys()


def test_names_strengths_and_biases_are_those_of_diffusers(pipe: Any) -> None:
    """Of a file as those for Wan are published."""
    raw = matrices(prefix="diffusion_model.")
    raw |= {f"diffusion_model.{name}.alpha": torch.tensor(0.25 * number) for number, name in enumerate(ORIGINAL, 1)}
    raw |= {f"diffusion_model.{name}.diff_b": torch.randn(outer) for name, (_, outer) in zip(ORIGINAL, SIZES, strict=True)}
    state, unmatched = match_keys(raw, pipe)
    wanted = _convert_non_diffusers_wan_lora_to_diffusers(dict(raw))
    assert not unmatched and state.keys() == wanted.keys()
    for key in wanted:
        torch.testing.assert_close(state[key], wanted[key], rtol=1e-6, atol=0)


@pytest.mark.parametrize("names", [OWN, ORIGINAL], ids=["diffusers", "original"])
@pytest.mark.parametrize("prefix", ["", "transformer.", "diffusion_model."])
def test_the_strength_and_the_biases_of_a_file_act(folder: Path, tmp_path: Path, prefix: str, names: tuple[str, ...]) -> None:
    raw = matrices(names=names, prefix=prefix)
    raw[f"{prefix}{names[0]}.alpha"], raw[f"{prefix}{names[0]}.diff_b"] = torch.tensor(0.5), torch.full((24,), 0.25)
    own = layer(load(str(folder), "float32", loras=(saved(tmp_path / "x.safetensors", raw, ":0.5"),)), OWN[0])
    down, up = (raw[f"{prefix}{names[0]}.{kind}.weight"] for kind in ("lora_down", "lora_up"))
    torch.testing.assert_close(own.get_delta_weight("vsf_0"), 0.5 * (0.5 / 2) * up @ down)
    inputs = torch.randn(3, 24)
    with torch.no_grad():
        added = own(inputs) - own.base_layer(inputs)
    torch.testing.assert_close(added, 0.5 * ((0.5 / 2) * inputs @ down.T @ up.T + 0.25))


def test_a_bias_alone_and_a_whole_difference_act(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    whole = torch.randn(16, 24, generator=generator)
    raw = matrices(prefix="diffusion_model.") | {
        "diffusion_model.blocks.0.cross_attn.k.diff_b": torch.ones(24),
        "diffusion_model.head.head.diff": whole,
        "diffusion_model.head.head.diff_b": torch.ones(16),
    }
    pipe = load(str(folder), "float32", loras=(saved(tmp_path / "x.safetensors", raw),))
    inputs = torch.randn(3, 24)
    with torch.no_grad():
        for name, wanted in (("blocks.0.attn2.to_k", torch.ones(3, 24)), ("proj_out", inputs @ whole.T + 1)):
            own = layer(pipe, name)
            torch.testing.assert_close(own(inputs) - own.base_layer(inputs), wanted)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_what_diffusers_writes_keeps_its_strength(folder: Path, tmp_path: Path, prefix: str) -> None:
    made = load(str(folder), "float32").transformer
    made.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False), "x")
    if prefix:
        from diffusers import WanPipeline
        from peft.utils import get_peft_model_state_dict

        told = {"r": 4, "lora_alpha": 2, "target_modules": ["to_q"]}
        layers = get_peft_model_state_dict(made, adapter_name="x")
        WanPipeline.save_lora_weights(tmp_path, layers, transformer_lora_adapter_metadata=told)
    else:
        made.save_lora_adapter(tmp_path, adapter_name="x")
    pipe = load(str(folder), "float32", loras=(str(tmp_path),))
    assert layer(pipe, OWN[0]).scaling == {"vsf_0": 0.5}


def test_several_act_together_each_with_its_scale(folder: Path, tmp_path: Path) -> None:
    files = [
        saved(tmp_path / "a.safetensors", matrices(prefix="diffusion_model."), ":0.5"),
        saved(tmp_path / "b.safetensors", matrices("lora_A", "lora_B", OWN), ":-1"),
    ]
    own = layer(load(str(folder), "float32", loras=tuple(files)), OWN[0])
    assert own.scaling == {"vsf_0": 0.5, "vsf_1": -1.0} and own.active_adapters == ["vsf_0", "vsf_1"]
    inputs = torch.randn(3, 24)
    with torch.no_grad():
        added = own(inputs) - own.base_layer(inputs)
    down, up = (WANTED[f"transformer.{OWN[0]}.{kind}.weight"] for kind in ("lora_A", "lora_B"))
    torch.testing.assert_close(added, (0.5 - 1) * inputs @ down.T @ up.T)


@pytest.mark.parametrize("part", ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.default.weight"])
@pytest.mark.parametrize("prefix", ["transformer.", "lora_unet_", "lora_transformer_"])
def test_the_magnitudes_of_a_dora_act(folder: Path, tmp_path: Path, prefix: str, part: str) -> None:
    """Of each layer, by the names of kohya's scripts, peft's, and OneTrainer's."""
    names = OWN if prefix.endswith(".") else tuple(name.replace(".", "_") for name in OWN)
    raw = matrices(names=names, prefix=prefix)
    magnitudes = [torch.linspace(0.5, 1.5, outer) for _, outer in SIZES]
    for name, magnitude in zip(names, magnitudes, strict=True):
        raw[f"{prefix}{name}.{part}"] = magnitude[:, None].clone() if part == "dora_scale" else magnitude
        raw[f"{prefix}{name}.alpha"] = torch.tensor(1.0)
    pipe = load(str(folder), "float32", loras=(saved(tmp_path / "x.safetensors", raw),))
    for own, name, magnitude in zip(OWN, names, magnitudes, strict=True):
        found, inputs = layer(pipe, own), torch.randn(3, layer(pipe, own).in_features)
        down, up = (raw[f"{prefix}{name}.{kind}.weight"] for kind in ("lora_down", "lora_up"))
        weight = found.base_layer.weight + 0.5 * up @ down
        weight = weight * (magnitude / weight.norm(dim=1))[:, None]
        with torch.no_grad():
            torch.testing.assert_close(found(inputs), inputs @ weight.T + found.base_layer.bias, atol=1e-5, rtol=1e-4)


def test_a_dora_in_part_or_of_the_inputs_is_said(folder: Path, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = matrices(prefix="transformer.", names=OWN) | {f"transformer.{OWN[0]}.dora_scale": torch.ones(24, 1)}
    saved(here / "x.safetensors", raw)
    told = video(folder, "--lora", "x.safetensors")
    assert told.exit_code == 6 and "a magnitude for each layer, but only 1 of 3 layers" in told.output
    raw[f"transformer.{OWN[0]}.dora_scale"] = torch.ones(1, 24)
    saved(here / "x.safetensors", raw)
    load(str(folder), "float32", loras=("x.safetensors",))
    assert "6 of 7 keys" in caplog.text and f"transformer.{OWN[0]}.dora_scale" in caplog.text
    assert caplog.records[-1].levelname == "WARNING"


def test_a_scale_of_a_dora_is_warned_of(folder: Path, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = matrices(prefix="transformer.", names=OWN)
    raw |= {f"transformer.{name}.dora_scale": torch.ones(outer) for name, (_, outer) in zip(OWN, SIZES, strict=True)}
    load(str(folder), "float32", loras=(saved(here / "x.safetensors", raw),))
    assert not caplog.records
    load(str(folder), "float32", loras=(saved(here / "x.safetensors", raw, ":0.5"),))
    assert "its magnitudes act in full, whatever its scale is" in caplog.text


def video(folder: Path, *arguments: str) -> Any:
    options = ["--steps", "2", "--size", "32x32", "--frames", "5", "--seed", "1", "--dtype", "float32", "-o", "a.webp"]
    return CliRunner().invoke(app, ["video", "a red bike", "-m", str(folder), *options, *arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_matches_is_counted_in_the_names_of_the_file(folder: Path, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = matrices(prefix="diffusion_model.")
    raw |= {f"diffusion_model.{name}": torch.ones(24) for name in ("blocks.0.norm3.diff_b", "blocks.9.self_attn.q.diff_b")}
    raw |= {"diffusion_model.blocks.0.cross_attn.k.lora_down.weight": torch.ones(2, 24)}
    saved(here / "x.safetensors", raw)
    # Without -v, too.
    assert video(folder, "--lora", "x.safetensors").exit_code == 0
    (told,) = [record.message for record in caplog.records if "--lora" in record.message]
    assert told.startswith("6 of 9 keys of --lora 'x.safetensors' match; 3 do not: diffusion_model.blocks.0.norm3.diff_b, ")
    assert "blocks.9" in told and "cross_attn.k.lora_down" in told


FOREIGN = [
    "diffusion_model.double_blocks.0.img_attn.q",
    "transformer.single_blocks.0.attn.to_q",
    "lora_unet_x_blocks_0_q",
    "nonsense",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_for_another_model_is_refused_with_what_was_found(folder: Path, here: Path, name: str) -> None:
    saved(here / "x.safetensors", {f"{name}.{kind}.weight": torch.ones(2, 2) for kind in ("lora_down", "lora_up")})
    result = video(folder, "--lora", "x.safetensors")
    said = " ".join(result.stderr.split())
    assert result.exit_code == 6 and f"no key that matches this model: found {name}.lora_down.weight" in said
    assert "transformer.blocks.0.attn1.to_q.lora_A.weight, diffusion_model.blocks.0.self_attn.q.lora_down.weight" in said
    assert "Traceback" not in result.output and not list(here.glob("*.webp"))


def test_a_matrix_of_another_size_is_refused(folder: Path, here: Path) -> None:
    names = {f"{ORIGINAL[0]}.lora_down.weight": (2, 99), f"{ORIGINAL[0]}.lora_up.weight": (24, 2)}
    saved(here / "x.safetensors", {name: torch.ones(shape) for name, shape in names.items()})
    result = video(folder, "--lora", "x.safetensors")
    said = " ".join(result.stderr.split())
    assert result.exit_code == 6 and "does not fit this model: blocks.1.attn2.to_q.lora_A" in said
    assert "has shape [2, 99], but must have [2, 24]" in said and "size mismatch" not in said


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (WANTED, "[]", "must be an object"),
        (WANTED, "nonsense", "cannot be loaded"),
        (WANTED, "[" * 99_999, "nested too deeply"),
        (WANTED, '{"transformer.r": "x"}', "does not fit this model"),
        ({f"transformer.{OWN[0]}.{end}": torch.ones(4) for end in ("lora_A.weight", "lora_B.weight")}, "", "does not fit"),
    ],
)
def test_a_header_that_is_not_as_it_should_be_is_one_line(
    pipe: Any, here: Path, tensors: dict[str, Tensor], metadata: str, message: str
) -> None:
    save_file(tensors, here / "x.safetensors", {"lora_adapter_metadata": metadata})
    with pytest.raises(VSFError, match=message) as found:
        loras.load_lora(pipe, Lora.parse("x.safetensors"), "x", True)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text",
    ["x.th", "x.PT", "x.lora", "x.Bin", "x", "owner/x.pt", "./x.ckpt", "owner/name:x.lora", "owner/name:x.PT:0.5", "odd/x"],
)
def test_what_is_no_safetensors_is_refused(here: Path, text: str) -> None:
    (here / "odd").mkdir()
    (here / "odd" / "x").write_bytes(b"a pickle of any name")
    with pytest.raises(RequestError, match="safetensors"):
        Lora.parse(text)


@pytest.mark.parametrize("text", ["x.safetensors:0.5,1", "x.safetensors:abc:0.5", "x.safetensors:nan", "x.safetensors:1e999"])
def test_nothing_but_a_number_stands_behind_a_file(text: str) -> None:
    with pytest.raises(RequestError, match="--lora"):
        Lora.parse(text)


@pytest.mark.parametrize(("text", "scale"), [("1e3", 1000), ("-2.5E-1", -0.25), ("+1", 1), ("1.", 1)])
def test_a_scale_is_any_number(text: str, scale: float) -> None:
    assert Lora.parse(f"X.SAFETENSORS:{text}") == Lora("X.SAFETENSORS", None, scale)


def test_a_file_of_the_hub_is_found_by_its_name_or_as_the_only_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "x.safetensors", matrices())
    asked = []

    def download(place: str, name: str, local_files_only: bool) -> str:
        asked.append((place, name, local_files_only))
        return str(tmp_path / "x.safetensors")

    monkeypatch.setattr("vsf_cli.loading.hub._is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda place: ["README.md", "in/only.safetensors"])
    for text in ("owner/name:in/x.safetensors", "owner/name"):
        pipe = load(str(folder), "float32", loras=(text,))
        assert layer(pipe, OWN[0]).scaling == {"vsf_0": 1.0}
    assert asked == [("owner/name", "in/x.safetensors", False), ("owner/name", "in/only.safetensors", False)]
    assert loras._only(Lora("a/b"), ["a.safetensors", loras.DEFAULT_NAME]) == loras.DEFAULT_NAME


def test_what_a_folder_or_repository_lacks_is_said(folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "files").mkdir()
    for names, error, message in (
        ((), ModelError, r"no \.safetensors file"),
        (("a.safetensors", "b.safetensors"), RequestError, r"has 2 files: name one, such as files:a\.safetensors"),
    ):
        for name in names:
            saved(here / "files" / name, matrices())
        with pytest.raises(error, match=message):
            load(str(folder), "float32", loras=("files",))
    with pytest.raises(ModelError, match=r"no file 'c\.safetensors': it has a\.safetensors"):
        load(str(folder), "float32", loras=("files:c.safetensors",))

    def missing(*_: Any, **__: Any) -> str:
        error = errors.RemoteEntryNotFoundError.__new__(errors.RemoteEntryNotFoundError)
        Exception.__init__(error, "404")
        raise error

    monkeypatch.setattr("vsf_cli.loading.hub._is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", missing)
    with pytest.raises(ModelError, match=r"'owner/name' has no such file: see https://huggingface\.co/owner/name/tree/main"):
        load(str(folder), "float32", loras=("owner/name:x.safetensors",))
