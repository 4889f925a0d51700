"""Scenes in motion, and the parts of the embedded video model."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from vsf_cli.toy.scenes import COLORS, GROUNDS, OBJECTS, Part, Scene, split_of
from vsf_cli.toy.video_recipe import build_autoencoder, build_student_scheduler, build_transformer
from vsf_cli.toy.video_scenes import (
    FRAMES,
    SIDE,
    VERBS,
    animate,
    draw_video,
    sample_part,
    sample_video,
    video_caption,
    video_pairs,
    video_vocabulary,
)


def test_captions_use_known_words_and_name_the_verb() -> None:
    rng, words = random.Random(1), set(video_vocabulary())
    captions = [video_caption(sample_part(rng) if rng.random() < 0.2 else sample_video(rng), rng).split() for _ in range(2000)]
    assert all(set(each) <= words and len(each) <= 19 for each in captions)
    assert words == {word for each in captions for word in each}, "and no word that none of them has"
    assert 0.4 < np.mean([bool({*VERBS.values()} & set(each)) for each in captions]) < 0.7
    assert video_caption(sample_part(rng), rng).split()[-1] in {part for name in VERBS for part in OBJECTS[name]}


def test_a_caption_that_names_no_part_does_not_make_the_parts_rarer() -> None:
    rng = random.Random(2)
    videos = [sample_video(rng) for _ in range(4000)]
    captions = [{*video_caption(scene, rng).split()} for scene in videos]
    bare = [scene for scene, words in zip(videos, captions, strict=True) if not words & {*OBJECTS[scene.object]}]
    there = [np.mean([scene.has(part) for scene in several for part in OBJECTS[scene.object]]) for several in (videos, bare)]
    assert 0.45 < len(bare) / len(videos) < 0.6
    assert there[0] == pytest.approx(0.85, abs=0.015) and there[1] > there[0] - 0.04


def test_pairs_are_held_out_fixed_and_do_not_name_their_part() -> None:
    triples = video_pairs("test", 200)
    assert triples == video_pairs("test", 200) and len(set(triples)) == 200 and not set(triples) & set(video_pairs("dev", 100))
    for prompt, name, part in triples:
        words = prompt.split()
        (color,), (ground,) = set(words) & set(COLORS), set(words) & set(GROUNDS)
        assert split_of(name, color, ground) == "test" and name in words and part in OBJECTS[name] and part not in words
    with pytest.raises(ValueError, match="fewer than"):
        video_pairs("dev", 100_000)


@pytest.mark.parametrize(("name", "mirrored", "sign"), [("car", False, 1), ("boat", True, -1), ("cake", False, 0)])
def test_vehicles_move_the_way_they_look(name: str, mirrored: bool, sign: int) -> None:
    positions = [scene.x for scene in animate(Scene(name, "red", (), "road", mirrored=mirrored))]
    assert len(positions) == FRAMES and np.sign(positions[-1] - positions[0]) == sign


@pytest.mark.parametrize(("name", "part"), [("cake", "candles"), ("cat", "tail")])
def test_parts_that_move_do(name: str, part: str) -> None:
    bare = Scene(name, "blue", (), "grass")
    still, there = draw_video(bare, 5), draw_video(replace(bare, parts=(Part(part, "red"),)), 5)
    assert still.shape == (5, SIDE, SIDE, 3) and still.dtype == np.uint8
    assert (still == still[0]).all() and not (there == there[0]).all()


def test_the_sizes_are_those_of_the_recipe() -> None:
    latents = build_autoencoder().encode(torch.zeros(1, 3, FRAMES, SIDE, SIDE)).latent_dist.mean
    assert latents.shape == (1, 8, 5, 16, 16)
    output = build_transformer()(latents, torch.tensor([500.0]), torch.zeros(1, 24, 128), return_dict=False)[0]
    assert output.shape == latents.shape and not output.any(), "training begins at zero"


def test_the_students_steps_are_all_of_use() -> None:
    scheduler = build_student_scheduler()
    scheduler.set_timesteps(8)
    assert scheduler.sigmas[0] == 1 and scheduler.sigmas[-1] == 0
    assert (-scheduler.sigmas.diff() > 0.05).all()
