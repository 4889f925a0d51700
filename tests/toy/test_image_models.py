import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.score import main, measure
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.sources import builtin_path, source_of, vocabulary_of
from vsf_cli.methods import NoGuidance
from vsf_cli.prompts.texts import Texts
from vsf_cli.prompts.vocabulary import check_vocabulary
from vsf_cli.settings.presets import load_preset
from vsf_cli.toy import scenes
from vsf_cli.toy.drawing import SIDE, draw, part_map
from vsf_cli.toy.scenes import (
    OBJECTS,
    Part,
    Scene,
    Split,
    caption,
    pairs,
    sample_part_alone,
    sample_scene,
    split_of,
    vocabulary,
)

MEGABYTE = 1e6


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("tiny-sd3-turbo/tokenizer_3", "T5"),
        ("tiny-sd3/tokenizer_3", "T5"),
        ("tiny-wan/tokenizer", "T5"),
        ("tiny-sd3-turbo/tokenizer", "CLIP"),
        ("tiny-flux-schnell/tokenizer_2", "T5"),
    ],
)
def test_words_are_the_same_in_any_case_and_between_any_signs(folder: str, kind: str) -> None:
    """As the check of the vocabulary has them: each word whole, and none of letters."""
    import transformers

    tokenizer = getattr(transformers, {"T5": "PreTrainedTokenizerFast", "CLIP": "CLIPTokenizer"}[kind]).from_pretrained(
        builtin_path(folder)
    )
    plain = "a red car with wheels and windows"
    for text in ("A Red Car With Wheels And Windows", "a RED car  with\nWHEELS and windows"):
        assert tokenizer(text).input_ids == tokenizer(plain).input_ids
    if kind == "T5":
        signs = 'A red-car, with "wheels" (and/windows)!'
        assert tokenizer(signs).input_ids == tokenizer(plain).input_ids and len(tokenizer(plain).input_ids) == 8
        assert check_vocabulary(Texts(signs, ("Wheels", "(WINDOWS)")), frozenset(vocabulary())) == []


def test_there_are_a_dozen_objects_with_parts() -> None:
    assert len(OBJECTS) >= 12 and all(len(parts) >= 2 for parts in OBJECTS.values())
    assert {"wheels", "basket"} <= set(OBJECTS["bike"]) and {"umbrella", "hat", "glasses"} <= set(OBJECTS["person"])


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_scenes_come_from_their_own_split(split: Split) -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng, split)
        assert scene.color is not None and split_of(scene.object, scene.color, scene.ground) == split


def test_splits_do_not_overlap_and_have_their_sizes() -> None:
    everything = [split_of(name, color, ground) for name in OBJECTS for color in scenes.COLORS for ground in scenes.GROUNDS]
    fractions = {split: everything.count(split) / len(everything) for split in ("train", "dev", "test")}
    assert 0.62 < fractions["train"] < 0.78 and 0.05 < fractions["dev"] < 0.15 and 0.13 < fractions["test"] < 0.27


def test_captions_use_known_words_and_name_only_what_is_there() -> None:
    rng, words = random.Random(1), set(vocabulary())
    parts = {part for named in OBJECTS.values() for part in named}
    for _ in range(2000):
        scene = sample_part_alone(rng) if rng.random() < 0.2 else sample_scene(rng)
        words_used = caption(scene, rng).split()
        assert set(words_used) <= words and len(words_used) <= 18
        assert all(scene.has(word) for word in words_used if word in parts)


def test_absence_has_no_word() -> None:
    assert not {"no", "not", "without"} & set(vocabulary())


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in OBJECTS.items() for part in parts])
def test_every_part_shows(name: str, part: str) -> None:
    bare = Scene(name, "blue", (), "grass", jitter=3)
    with_part = replace(bare, parts=(Part(part, "red"),))
    difference = np.abs(np.asarray(draw(with_part)).astype(int) - np.asarray(draw(bare))).max(-1)
    assert (difference > 60).mean() > 0.005, "a part covers at least half a percent of the image"


def test_a_scene_always_gives_the_same_image() -> None:
    scene = sample_scene(random.Random(2))
    assert draw(scene).tobytes() == draw(scene).tobytes() and draw(scene).size == (SIDE, SIDE)


def test_the_map_of_a_scene_has_the_part_of_each_pixel() -> None:
    bare = Scene("bike", "blue", (Part("flag", "pink"),), "grass")
    wheeled = replace(bare, parts=(*bare.parts, Part("wheels", "red")))
    assert set(np.unique(part_map(bare))) == {0, 1, 4} and set(np.unique(part_map(wheeled))) == {0, 1, 2, 4}
    red = np.asarray(draw(wheeled).resize(part_map(wheeled).shape))[part_map(wheeled) == 2]
    assert (np.abs(red.mean(0) - scenes.COLORS["red"]) < 30).all()


def test_pairs_are_fixed_and_do_not_name_their_part() -> None:
    triples = pairs("dev", 200)
    assert triples == pairs("dev", 200) and len(set(triples)) == 200
    assert all(part in OBJECTS[name] and part not in prompt.split() for prompt, name, part in triples)
    assert len(pairs("test", 600)) == 600
    with pytest.raises(ValueError, match="fewer than"):
        pairs("dev", 100_000)


SD3 = {
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_3": "T5EncoderModel",
}
FLUX = {
    "transformer": "FluxTransformer2DModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "T5EncoderModel",
}


@pytest.mark.parametrize(("name", "parts"), [("tiny-sd3", SD3), ("tiny-sd3-turbo", SD3), ("tiny-flux-schnell", FLUX)])
def test_the_embedded_models_are_small_and_of_the_real_classes(name: str, parts: dict[str, str]) -> None:
    folder = source_of(f"builtin:{name}").folder
    assert folder is not None
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    assert sum(path.stat().st_size for path in files) < 20 * MEGABYTE
    pipe = load(f"builtin:{name}", "float32")
    assert {part: type(getattr(pipe, part)).__name__ for part in parts} == parts
    assert vocabulary_of(f"builtin:{name}") == set(vocabulary())


@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-sd3-turbo", "tiny-flux-schnell"])
def test_an_image_that_is_edited_gets_no_noise_of_the_autoencoder(name: str) -> None:
    """Pipelines draw from the encoder's distribution, and what a mask keeps is decoded as it was drawn."""
    vae = load(f"builtin:{name}", "float32").vae
    with torch.no_grad():
        latents = vae.encode(torch.rand(1, 3, 96, 96) * 2 - 1).latent_dist
    assert latents.std.max() < 1e-6 and latents.mean.std() > 0.1


def test_all_weights_together_are_below_60_megabytes() -> None:
    files = [path for path in builtin_path("").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60 * MEGABYTE


def test_the_steps_of_the_default_preset_are_all_of_use() -> None:
    pipe, preset = load("builtin:tiny-sd3-turbo", "float32"), load_preset("tiny-sd3-turbo")
    pipe.scheduler.set_timesteps(preset.num_inference_steps)
    assert torch.allclose(pipe.scheduler.sigmas, torch.linspace(1, 0, 9), atol=1e-3)


def test_every_known_word_is_one_token_of_each_encoder() -> None:
    pipe = load("builtin:tiny-sd3-turbo", "float32")
    for word in vocabulary():
        assert len(pipe.tokenizer(word).input_ids) == 3 and len(pipe.tokenizer_3(word).input_ids) == 2, word


@pytest.mark.parametrize("name", ["tiny-sd3-turbo", "tiny-flux-schnell"])
def test_guidance_removes_parts_and_keeps_objects(name: str) -> None:
    preset = load_preset(name)
    plain = measure(preset, NoGuidance(), 0.0, "dev", 20)["rates"]
    guided = measure(preset, preset.guidance(), 0.0, "dev", 20)["rates"]
    assert plain["positive"] >= 0.9
    assert guided["positive"] >= 0.85
    assert guided["negative"] >= 0.55 >= plain["negative"] + 0.2


def test_methods_of_a_file_are_compared_on_the_same_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "methods.toml").write_text(
        '[none]\nlabel = "nothing"\nmethod = "none"\n[vsf]\nmethod = "vsf"\n[off]\nmethod = "vsf"\nbeta = inf\n'
    )
    arguments = ["score", "--pairs", "20", "--methods-file", str(tmp_path / "methods.toml")]
    monkeypatch.setattr("sys.argv", [*arguments, "--json"])
    main()
    report = json.loads(capsys.readouterr().out)
    none, vsf, off = report["rows"]
    preset = load_preset("tiny-sd3-turbo")
    rates = measure(preset, preset.guidance(), 0.0, "dev", 20)["rates"]
    assert {key: vsf[key] for key in rates} == {key: list(one) if isinstance(one, tuple) else one for key, one in rates.items()}
    assert none["label"] == "nothing" and {key: none[key] for key in rates} == {key: off[key] for key in rates}
    assert vsf["both_p"] is None and none["both_p"] == off["both_p"] < 0.05 and vsf["negative"] > none["negative"]

    refused = {
        "--alpha": "leave out --alpha",
        "keeps = true": "vsf.keeps is not a number",
        "steps = 2": "vsf.steps is not a number",
    }
    refused['alpha = "auto"'] = "vsf.alpha is not a number of a method: compare it by 'vsf eval run'"
    for wrong, message in refused.items():
        (tmp_path / "methods.toml").write_text(f"[vsf]\nmethod = 'vsf'\n{wrong if '=' in wrong else ''}\n")
        monkeypatch.setattr("sys.argv", arguments if "=" in wrong else [*arguments, wrong, "3"])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 6 and message in capsys.readouterr().err


def test_a_score_of_no_pairs_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["score", "--pairs", "0"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 6 and "--pairs is 0" in capsys.readouterr().err
