import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.processes import ROOT
from vsf_cli.errors import PresetError, RequestError
from vsf_cli.models import FAMILIES
from vsf_cli.settings.presets import (
    SETTINGS,
    Settings,
    load_preset,
    preset_for_model,
    preset_names,
    remember_preset,
)

MINIMAL = 'family = "sd3"\nmodel = "owner/name"\n'


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    folder = tmp_path / "user" / "vsf"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "presets").glob("*.toml")))
def test_shipped_presets_say_source_measure_and_licence(name: str) -> None:
    preset = load_preset(name)
    assert name in preset_names()
    assert "not stated" not in (preset.source, preset.license) and preset.measured and preset.about


def test_the_real_preset_is_the_one_of_the_design() -> None:
    settings = Settings({"preset": "sd3.5-large-turbo"}, {})
    found = {key: settings[key] for key in ("steps", "guidance", "dtype", "size", "alpha", "beta", "method")}
    assert found == {
        "steps": 8, "guidance": 0.0, "dtype": "bfloat16", "size": "1024x1024", "alpha": 3.0, "beta": 0.3, "method": "vsf",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stepz = 3", "unknown key 'stepz'"),
        ("num_inference_step = 3", "Did you mean 'num_inference_steps'"),
        ('num_inference_steps = "eight"', "must be a whole number"),
        ("[method]\nalhpa = 3", "Did you mean 'method.alpha'"),
        ('[method]\nalpha = "strong"', "must be a number"),
        ("[method]\nname = 3", "method.name is '3'"),
        ('method = "vsf"', "must be a table"),
        ("width = 96", "give both width and height"),
        ('[method]\nname = "vfs"', "Did you mean 'vsf'"),
        ("width = [", "not TOML"),
        ("# caf\udce9", "is not UTF-8"),
    ],
)
def test_what_is_not_legal_in_a_preset_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + line, "utf-8", "surrogateescape")
    with pytest.raises(PresetError, match=message):
        load_preset(str(path))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_preset_is_read_as_editors_save_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL, encoding)
    assert load_preset(str(path)).family == "sd3"


@pytest.mark.parametrize("number", ["8", "8.0"])
def test_a_whole_number_is_a_float_too(tmp_path: Path, user: Path, number: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f"{MINIMAL}flow_shift = {number}\nguidance_scale = {number}\nsigmas = [1, 0.5]\n[method]\nalpha = {number}\n"
    )
    preset = load_preset(str(path))
    values = preset.flow_shift, preset.guidance_scale, preset.sigmas, preset.guidance().parameters["alpha"]
    assert repr(values) == "(8.0, 8.0, (1.0, 0.5), 8.0)"
    (user / "config.toml").write_text(f"guidance = {number}\nalpha = {number}\n")
    assert repr((Settings({}, {})["guidance"], Settings({}, {})["alpha"])) == "(8.0, 8.0)"


@pytest.mark.parametrize("missing", ["family", "model"])
def test_a_preset_names_its_family_and_its_model(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line for line in MINIMAL.splitlines() if not line.startswith(missing)))
    with pytest.raises(PresetError, match=f"'{missing}' is missing"):
        load_preset(str(path))


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(PresetError, match="Did you mean 'tiny-sd3-turbo'"):
        load_preset("tiny-sd3-turb")


def test_a_file_in_the_users_folder_is_a_preset(user: Path) -> None:
    (user / "presets").mkdir()
    (user / "presets" / "mine.toml").write_text(MINIMAL)
    assert "mine" in preset_names() and load_preset("mine").model == "owner/name"


def test_the_nearest_layer_decides(user: Path) -> None:
    def origin(options: dict[str, int], environment: dict[str, str]) -> tuple[int, str]:
        setting = Settings(options, environment).origin("steps")
        return setting.value, setting.origin

    assert origin({}, {}) == (8, "preset tiny-sd3-turbo")
    (user / "config.toml").write_text("steps = 5")
    assert origin({}, {}) == (5, "user file")
    assert origin({}, {"VSF_STEPS": "6"}) == (6, "environment")
    assert origin({"steps": 7}, {"VSF_STEPS": "6"}) == (7, "option")


def test_every_setting_has_an_origin() -> None:
    settings = Settings({}, {})
    assert all(settings.origin(key).origin for key in SETTINGS)
    with pytest.raises(PresetError, match="Did you mean 'steps'"):
        settings.origin("step")


@pytest.mark.parametrize(("name", "value"), [("VSF_STEPS", "many"), ("VSF_OFFLINE", "perhaps")])
def test_an_environment_that_is_not_legal_is_named(name: str, value: str) -> None:
    with pytest.raises(PresetError, match=f"{name} is '{value}', but must be (a whole number|true or false)"):
        Settings({}, {name: value})


def test_a_users_file_that_is_not_legal_is_named(user: Path) -> None:
    (user / "config.toml").write_text("presets = 3")
    with pytest.raises(PresetError, match="Did you mean 'preset'"):
        Settings({}, {})


def test_a_named_file_that_is_not_there_is_refused_and_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSF_CONFIG", str(tmp_path / "mine" / "own.toml"))
    with pytest.raises(PresetError, match=r"VSF_CONFIG names \S+own.toml, and there is no such file"):
        Settings({}, {})
    remember_preset("sd3.5-medium-turbo")
    assert Settings({}, {}).preset.name == "sd3.5-medium-turbo"


def test_a_chosen_preset_stays(user: Path) -> None:
    (user / "config.toml").write_text("steps = 5\n")
    remember_preset("sd3.5-large-turbo")
    remember_preset("sd3.5-medium-turbo")
    settings = Settings({}, {})
    assert settings.preset.name == "sd3.5-medium-turbo" and settings["steps"] == 5 and settings.chosen
    assert (user / "config.toml").read_text().count("preset") == 1


def test_an_unknown_preset_cannot_be_chosen(user: Path) -> None:
    with pytest.raises(PresetError):
        remember_preset("nope")
    assert not (user / "config.toml").exists()


def test_a_model_takes_the_preset_that_names_it() -> None:
    assert preset_for_model("stabilityai/stable-diffusion-3.5-large-turbo").name == "sd3.5-large-turbo"


@pytest.mark.parametrize("model", ["stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-v1-5/stable-diffusion-v1-5"])
def test_a_model_of_several_loras_is_not_given_one_of_them(model: str) -> None:
    with pytest.raises(RequestError, match=r"several LoRA files: choose one of them with --preset: \S+, "):
        preset_for_model(model)


def test_a_model_of_no_preset_takes_the_familys_defaults_and_not_the_tiny_ones() -> None:
    settings = Settings({"model": "owner/name"}, {})
    assert settings["size"] is None and settings["steps"] == 28 and settings["dtype"] == "bfloat16"
    assert settings["beta"] == 0.3 and settings["model"] == "owner/name"


def test_a_model_of_no_preset_is_of_the_family_that_its_index_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(FAMILIES["sd3"], name="mine", pipelines=("MyPipeline",), defaults={"num_inference_steps": 3})
    monkeypatch.setitem(FAMILIES, "mine", mine)
    for name, family, steps in (("MyPipeline", "mine", 3), ("OtherPipeline", "sd3", 28)):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
        preset = preset_for_model(str(tmp_path))
        assert (preset.family, preset.num_inference_steps) == (family, steps)
    assert preset_for_model(str(tmp_path), video=True).family == "wan"


def test_a_model_with_a_preset_keeps_the_presets_settings() -> None:
    settings = Settings({"model": "owner/name", "preset": "tiny-sd3-turbo"}, {})
    assert settings["model"] == "owner/name" and settings["steps"] == 8


@pytest.mark.parametrize("layer", ["environment", "user file"])
def test_a_chosen_preset_brings_its_own_model(user: Path, layer: str) -> None:
    if layer == "user file":
        (user / "config.toml").write_text('model = "owner/name"')
    environment = {"VSF_MODEL": "owner/name"} if layer == "environment" else {}
    assert Settings({"preset": "tiny-sd3"}, environment)["model"] == "builtin:tiny-sd3"
    assert Settings({}, environment)["model"] == "owner/name"


def test_a_broken_preset_does_not_stand_in_the_way_of_others(user: Path) -> None:
    (user / "presets").mkdir()
    (user / "presets" / "a.toml").write_text("nonsense = ")
    assert preset_for_model("stabilityai/stable-diffusion-3.5-large-turbo").name == "sd3.5-large-turbo"


def test_numbers_of_another_method_are_not_taken_over() -> None:
    assert Settings({"preset": "tiny-sd3"}, {}).parameters("vsf") == {}
    assert Settings({"preset": "tiny-sd3-turbo"}, {}).parameters("vsf") == {"alpha": 2.5, "beta": 0.5, "stop": 0.5}
    assert Settings({"preset": "tiny-sd3-turbo"}, {}).parameters("none") == {}


def test_a_preset_says_what_auto_tries_and_who_judges(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'strengths = "none, 1,2@0.5,2@0.9"\njudge = "clip"\n{MINIMAL}', "utf-8")
    preset = load_preset(str(path))
    assert (preset.strengths_for(True), preset.strengths_for(False)) == ("none,1,2@0.5,2@0.9", "1,2")
    assert Settings({"preset": str(path)}, {})["judge"] == "clip"
    settings = Settings({"preset": str(path), "judge": "mllm"}, {"VSF_ALPHA": "auto:1"})
    assert (settings["judge"], settings["alpha"], settings.parameters("vsf")) == ("mllm", "auto:1", {})
    path.write_text(f'strengths = "none"\n{MINIMAL}', "utf-8")
    with pytest.raises(PresetError, match="must have a number"):
        load_preset(str(path))
    path.write_text(f'strengths = "strong"\n{MINIMAL}', "utf-8")
    with pytest.raises(PresetError, match="strengths: 'strong' is no strength"):
        load_preset(str(path))
    with pytest.raises(PresetError, match="VSF_ALPHA is 'auto:x'"):
        Settings({}, {"VSF_ALPHA": "auto:x"})
