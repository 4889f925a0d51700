import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from huggingface_hub import errors
from safetensors.torch import save_file

from tests.conftest import random_pipeline
from vsf_cli.errors import ModelError, OutOfMemory, RequestError
from vsf_cli.loading.hub import as_model_error
from vsf_cli.loading.loras import Lora
from vsf_cli.loading.offload import out_of_memory_advice
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.runtime import Runtime
from vsf_cli.loading.schedulers import check_scheduler, set_scheduler
from vsf_cli.loading.sources import source_of, vocabulary_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, in bfloat16."""
    path = tmp_path_factory.mktemp("model") / "random-sd3"
    random_pipeline("sd3.5-medium", torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_is_loaded_in_the_dtype_that_is_asked_for(folder: Path, dtype: torch.dtype) -> None:
    pipe = load(str(folder), str(dtype).removeprefix("torch."))
    assert pipe.transformer.dtype == dtype and type(pipe).__name__ == "StableDiffusion3Pipeline"


@pytest.mark.parametrize("tiling", [True, False])
def test_the_autoencoder_works_by_tiles_where_that_is_asked_for(folder: Path, tiling: bool) -> None:
    assert load(str(folder), "float32", vae_tiling=tiling).vae.use_tiling is tiling


@pytest.mark.parametrize("model", ["/no/such/folder", "./nope", "nope", "a/b/c", "builtin:nope"])
def test_a_model_that_does_not_exist_is_named(model: str) -> None:
    with pytest.raises(ModelError, match=r"nope|folder|b/c"):
        source_of(model)


def test_a_folder_of_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model_index\.json"):
        load(str(tmp_path), "float32")


def test_a_pipeline_of_another_class_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AuraFlowPipeline"}))
    with pytest.raises(ModelError, match="is a AuraFlowPipeline, but supported pipelines are StableDiffusion3Pipeline"):
        load(str(tmp_path), "float32")


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "pickled"
    shutil.copytree(folder, copy)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({}, copy / "transformer" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="pickled weights are not loaded"):
        load(str(copy), "float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "--dtype is 'float8'"),
        *(({"runtime": Runtime(device=name)}, f"--device is '{name}'") for name in ("cuda:99", "hpu", "meta", "nonsense")),
    ],
)
def test_options_that_are_not_legal_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(str(folder), **{"dtype": "float32", **options})


def test_an_offload_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RequestError, match="--offload is 'disk'"):
        Runtime(offload="disk")


def test_a_model_that_is_not_cached_is_one_line_when_offline() -> None:
    with pytest.raises(ModelError, match="not in the cache, and --offline"):
        load("owner/name", "float32", Runtime(offline=True))


def raised_from(inner: BaseException) -> BaseException:
    try:
        try:
            raise inner
        except type(inner) as error:
            raise OSError("owner/name is not a local folder and is not a valid model identifier") from error
    except OSError as outer:
        return outer


def hub_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    error = kind.__new__(kind)
    Exception.__init__(error, "from the hub")
    return error


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (hub_error(errors.GatedRepoError), "https://huggingface.co/owner/name, then run 'hf auth login'"),
        (hub_error(errors.RepositoryNotFoundError), "does not exist on the hub"),
        (hub_error(errors.RevisionNotFoundError), "no such revision"),
        (errors.OfflineModeIsEnabled("off"), "run once without --offline"),
        (errors.LocalEntryNotFoundError("gone"), "the hub cannot be reached"),
    ],
)
def test_errors_of_the_hub_are_one_line_however_deep(inner: BaseException, message: str) -> None:
    with pytest.raises(ModelError, match=message) as found, as_model_error("owner/name", False):
        raise raised_from(inner)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("owner/name", Lora("owner/name")),
        ("owner/name:0.5", Lora("owner/name", None, 0.5)),
        ("owner/name:file.safetensors:-1", Lora("owner/name", "file.safetensors", -1.0)),
        ("folder/x.safetensors:.7", Lora("folder/x.safetensors", None, 0.7)),
        (r"C:\loras\x.safetensors:2", Lora(r"C:\loras\x.safetensors", None, 2.0)),
    ],
)
def test_loras_are_parsed(text: str, wanted: Lora) -> None:
    assert Lora.parse(text) == wanted


@pytest.mark.parametrize("text", ["", ":0.5", "a:b:c:1", "x.bin", "owner/name:x.pt:0.5"])
def test_loras_that_are_not_legal_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--lora"):
        Lora.parse(text)


def lora_file(path: Path, prefix: str, size: int = 32) -> Path:
    name = f"{prefix}transformer_blocks.0.attn.to_q"
    torch.manual_seed(0)
    save_file({f"{name}.lora_A.weight": torch.randn(2, size), f"{name}.lora_B.weight": torch.randn(32, 2)}, path)
    return path


def test_a_lora_acts_with_its_scale(folder: Path, tmp_path: Path) -> None:
    path = lora_file(tmp_path / "x.safetensors", "transformer.")
    pipe = load(str(folder), "float32", loras=(f"{path}:0.5",))
    layer = pipe.transformer.transformer_blocks[0].attn.to_q
    assert next(iter(layer.scaling.values())) == 0.5


def test_a_lora_keeps_the_strength_that_its_file_names(folder: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusion3Pipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    made = load(str(folder), "float32")
    made.transformer.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False), "x")
    StableDiffusion3Pipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(made.transformer, adapter_name="x"),
        transformer_lora_adapter_metadata={"r": 4, "lora_alpha": 2, "target_modules": ["to_q"]},
        weight_name="half.safetensors",
    )
    pipe = load(str(folder), "float32", loras=(str(tmp_path / "half.safetensors"),))
    assert next(iter(pipe.transformer.transformer_blocks[0].attn.to_q.scaling.values())) == 0.5


def test_a_lora_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    path = lora_file(tmp_path / "large.safetensors", "transformer.", 64)
    with pytest.raises(RequestError, match=r"large\.safetensors.*does not fit this model"):
        load(str(folder), "float32", loras=(str(path),))


def test_a_damaged_lora_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing of use")
    with pytest.raises(ModelError, match="damaged"):
        load(str(folder), "float32", loras=(str(tmp_path / "x.safetensors"),))


def test_a_lora_without_a_matching_key_is_refused_with_what_was_found(folder: Path, tmp_path: Path) -> None:
    path = lora_file(tmp_path / "other.safetensors", "transformer.single_")
    with pytest.raises(RequestError, match=r"other\.safetensors.*no key that matches.*found .*single_"):
        load(str(folder), "float32", loras=(str(path),))


def test_a_lora_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nope\.safetensors.*no such file"):
        Lora.parse(str(tmp_path / "nope.safetensors")).check()


def test_the_next_thing_to_try_when_memory_is_short() -> None:
    assert "--offload model" in out_of_memory_advice("none") and "--offload model" in out_of_memory_advice("auto")
    assert "--offload sequential" in out_of_memory_advice("group")
    assert "--size" in out_of_memory_advice("sequential")
    assert out_of_memory_advice("cpu") == "out of memory: try --dtype bfloat16, --vae-tiling, or a smaller --size"
    assert "--offload" not in out_of_memory_advice("cpu")
    used = ["--dtype bfloat16", "--vae-tiling"]
    assert (
        out_of_memory_advice("cpu", used) == out_of_memory_advice("sequential", used) == "out of memory: try a smaller --size"
    )
    assert OutOfMemory.exit_code == 5


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_memory_that_does_not_suffice_for_loading_is_said(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", fail)
    with pytest.raises(OutOfMemory, match=r"was loaded: try --dtype bfloat16, or a smaller model"):
        load(str(folder), "float32")


def test_a_folder_may_say_which_words_it_knows(tmp_path: Path) -> None:
    assert vocabulary_of(str(tmp_path)) is None
    (tmp_path / "vocabulary.txt").write_text("bike\nwheels\n")
    assert vocabulary_of(str(tmp_path)) == {"bike", "wheels"}


def test_a_shift_takes_the_place_of_one_by_the_size_of_the_image() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    pipe = type("Pipe", (), {"scheduler": scheduler})()
    set_scheduler(pipe, None, 3.0)
    pipe.scheduler.set_timesteps(4)
    even = torch.linspace(1, 0, 5)
    # Of the schedulers' 1000 sigmas the last is not 0, so that the steps are even but for a thousandth.
    torch.testing.assert_close(pipe.scheduler.sigmas[:2], (3 * even / (1 + 2 * even))[:2], atol=0.06, rtol=0)
    assert pipe.scheduler.config.shift == 3.0 and pipe.scheduler.config.shift_terminal is None


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (FlowMatchHeunDiscreteScheduler(), "shift"),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "flow_shift"),
        (DPMSolverMultistepScheduler(), None),
        (EulerDiscreteScheduler(), None),
    ],
)
def test_any_scheduler_that_shifts_sigmas_takes_a_shift(scheduler: Any, name: str | None) -> None:
    pipe = type("Pipe", (), {"scheduler": scheduler})()
    if name is None:
        with pytest.raises(RequestError, match="has no shift: leave it out"):
            set_scheduler(pipe, None, 3.0)
        return
    set_scheduler(pipe, None, 3.0)
    assert type(pipe.scheduler) is type(scheduler) and pipe.scheduler.config[name] == 3.0


def test_a_named_scheduler_begins_at_pure_noise() -> None:
    pipe = type("Pipe", (), {"scheduler": EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1)})()
    for name in ("EulerDiscreteScheduler", "DDIMScheduler", "LCMScheduler"):
        set_scheduler(pipe, name, None)
        pipe.scheduler.set_timesteps(4)
        assert type(pipe.scheduler).__name__ == name and pipe.scheduler.timesteps[0] == 999
    with pytest.raises(RequestError, match="--shift is 3, but a LCMScheduler has no shift"):
        set_scheduler(pipe, None, 3.0)
    with pytest.raises(RequestError, match="scheduler is 'PNDMScheduler', but must be one of"):
        check_scheduler("PNDMScheduler")
