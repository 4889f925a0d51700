"""The judge `vlm`: probabilities of yes and no from a vision-language model of one layer, and what is no such model."""

import json
import re
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

import vsf_cli.cli.plans as plans
import vsf_cli.generation.choosing as choosing
from tests.drawn import AnyPipe
from tests.judged import Maker
from vsf_cli.cli.app import app
from vsf_cli.errors import ModelError, RequestError
from vsf_cli.judges.frames import judge_frames
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import judge_several
from vsf_cli.judges.vlm import CLEAN, VlmJudge

CAR = Record("car", "a red car on a road", "wheels", "Is a car shown?", "Are the wheels missing?", "car", ("lens", "lights"))
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def vsf(*words: str) -> Any:
    return CliRunner().invoke(app, ["eval", *words])


def chat_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has the words of a text as tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, letters = ["<pad>", "<|start|>", "<|end|>", "<image>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator([text] * 9, trainer)
    names = {"pad_token": "<pad>", "eos_token": "<|end|>", "extra_special_tokens": {"image_token": "<image>"}}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a LLaVA with random weights."""
    folder = tmp_path_factory.mktemp("vlm") / "tiny-llava"
    tokenizer = chat_tokenizer("Yes yes YES No no NO Yes No yes no")
    token = tokenizer.convert_tokens_to_ids
    ids = {"pad_token_id": token("<pad>"), "bos_token_id": token("<|start|>"), "eos_token_id": token("<|end|>")}
    torch.manual_seed(5)
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**SIZES, image_size=32, patch_size=16),
            text_config=LlamaConfig(**SIZES, **ids, vocab_size=len(tokenizer)),
            image_token_index=token("<image>"),
            vision_feature_layer=-1,
            image_seq_length=4,
        )
    )
    with torch.no_grad():
        # Far larger than the default initialisation, so that answers differ.
        for parameter in llava.parameters():
            if parameter.ndim > 1:
                parameter.mul_(30)
    llava.save_pretrained(folder)
    shown = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        shown,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return str(folder)


def test_it_names_things_and_chooses_strengths(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = VlmJudge(model, device="cpu")
    assert judge.things(noise(1), CAR) == judge.things(noise(1), CAR) and len(judge.things(noise(1), CAR)) <= 5
    # An answer that ends early.
    spoken = judge._reader.processor.tokenizer.encode("flag, bell", add_special_tokens=False)
    answer = SimpleNamespace(sequences=torch.tensor([[7, 8, 9, *spoken]]), logits=[None] * len(spoken))
    with monkeypatch.context() as patch:
        patch.setattr(judge, "_generate", lambda *_: answer)
        assert judge.things(noise(1), CAR) == ("flag", "bell")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choosing, "generate_batch", Maker())
    monkeypatch.setattr(plans, "load_for", lambda *_: AnyPipe())
    options = ["--alpha", "auto:none,1", "--judge", "vlm", "--judge-model", model, "--keep", "auto", "--json", "-o", "a.png"]
    result = CliRunner().invoke(app, ["image", "a red car", "--neg", "wheels", "--seed", "1", *options])
    assert result.exit_code == 0, result.output
    choice = json.loads(result.stdout)["choice"]
    assert choice["judge"] == {"name": "vlm", "model": "tiny-llava", "threshold": 0.5, "wording": 1}
    assert all(set(one["answer"]["scores"]) == {"object", "absent"} for one in choice["tried"])


def noise(seed: int, side: int = 240) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype("uint8"))


def probability(model: Any, processor: Any, image: Image.Image, question: str) -> float:
    """The probability of yes, from all tokens of the vocabulary, for a question alone."""
    text = f"<|start|>user\n<image>{question} Answer yes or no.<|end|>\n<|start|>assistant\n"
    with torch.no_grad():
        logits = model(**processor(text=text, images=image, return_tensors="pt")).logits[0, -1]
    words = [processor.tokenizer.decode(token).strip().lower() for token in range(len(logits))]
    mass = {word: sum(p for p, one in zip(logits.softmax(-1).tolist(), words, strict=True) if one == word) for word in words}
    return mass["yes"] / (mass["yes"] + mass["no"])


def test_a_batch_of_questions_gives_the_probabilities_of_each_alone(model: str) -> None:
    alone = AutoModelForImageTextToText.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
    judge, found = VlmJudge(model), []
    questions = (CAR.question_1, CAR.question_2, CLEAN, "Is the lens visible?", "Are the lights visible?")
    for seed in range(4):
        image = noise(seed)
        answer = judge.judge(image, CAR)
        shown, absent, clean, *stayed = (probability(*alone, image, question) for question in questions)
        assert answer.scores == pytest.approx({"object": shown, "absent": absent}, abs=1e-4)
        assert answer.quality == pytest.approx(clean, abs=1e-4)
        assert (answer.positive, answer.negative) == (shown > 0.5, absent > 0.5)
        assert answer.kept == tuple(thing for thing, there in zip(CAR.keep, stayed, strict=True) if there > 0.5)
        told = dict(re.findall(r"([a-z ]+) (\d\.\d\d)(?:, |$)", answer.reason))
        wanted = {"object": shown, "negative absent": absent, "clean": clean, **dict(zip(CAR.keep, stayed, strict=True))}
        assert {name: float(number) for name, number in told.items()} == pytest.approx(wanted, abs=0.0051)
        found += [shown, absent, clean, *stayed]
    assert min(found) < 0.4 < 0.6 < max(found), "answers of both kinds"


def test_several_images_have_the_answers_of_each_alone(model: str) -> None:
    """Of several sizes, with questions of several numbers and lengths, which are padded on the left."""
    keeps = ((), ("lens",), ("the very small lights of a tower behind the trees", "roof", "lens"), ("lights",), ())
    images = [noise(seed, side).resize((side, height)) for seed, (side, height) in enumerate(SIDES)]
    pairs = [(image, replace(CAR, keep=keep)) for image, keep in zip(images, keeps, strict=True)]
    judge, alone = VlmJudge(model, device="cpu", batch_size=4), VlmJudge(model, device="cpu")
    assert (judge.batch_size, alone.batch_size) == (4, 1) and judge.settings == alone.settings
    parts = [*judge_several(judge, pairs)]
    assert [len(part) for part in parts] == [4, 1]
    for found, (image, record) in zip(chain(*parts), pairs, strict=True):
        wanted = alone.judge(image, record)
        assert isinstance(found, Judgement) and found.scores == pytest.approx(wanted.scores, abs=1e-4)
        assert found.quality == pytest.approx(wanted.quality, abs=1e-4) and found.kept == wanted.kept
        assert (found.positive, found.negative) == (wanted.positive, wanted.negative)
    frames = judge_frames(judge, images, CAR)
    assert frames.scores == pytest.approx(judge_frames(alone, images, CAR).scores, abs=1e-4)


SIDES = ((240, 240), (300, 224), (96, 96), (224, 500), (640, 480))


def test_passes_are_several_images_on_a_gpu(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsf_cli.judges.vlm.device_named", lambda _: torch.device("cuda"))
    assert VlmJudge(model).batch_size == 8 and VlmJudge(model, batch_size=3).batch_size == 3


def test_too_many_images_are_halved(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, rows = VlmJudge(model, device="cpu", batch_size=4), []
    genuine = judge._reader.model.generate

    def small(**inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        if rows[-1] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return genuine(**inputs)

    monkeypatch.setattr(judge._reader.model, "generate", small)
    pairs = [(noise(seed), replace(CAR, keep=())) for seed in range(5)]
    parts = [*judge_several(judge, pairs)]
    assert [len(part) for part in parts] == [2, 2, 1] and rows == [12, 6, 6, 3] and judge.batch_size == 2
    assert all(isinstance(one, Judgement) for part in parts for one in part)


def test_the_threshold_is_that_of_absence_alone(model: str) -> None:
    image, plain = noise(1), replace(CAR, keep=())
    answer = VlmJudge(model).judge(image, plain)
    assert answer.kept is None and answer.scores is not None
    for step, negative in ((-0.001, True), (0.001, False)):
        judge = VlmJudge(model, answer.scores["absent"] + step)
        assert judge.judge(image, plain) == replace(answer, negative=negative)
        assert judge.settings["threshold"] != VlmJudge(model).settings["threshold"]


def test_a_small_image_is_enlarged(model: str) -> None:
    small = noise(2, 96).resize((96, 48))
    enlarged = small.resize((448, 224), Image.Resampling.BICUBIC)
    assert VlmJudge(model).judge(small, CAR) == VlmJudge(model).judge(enlarged, CAR)
    assert VlmJudge(model).judge(small.convert("L"), CAR).scores is not None


def test_a_run_is_judged_and_reported_and_asked_once(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By records without questions."""
    prompts, run = tmp_path / "mine.jsonl", str(tmp_path / "run")
    things = (("a red car on a road", "wheels"), ("a green cat on grass", "tail"))
    lines = [{"id": f"r{number}", "prompt": prompt, "negative": part} for number, (prompt, part) in enumerate(things)]
    prompts.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    options = ("--limit", "2", "--seeds", "1", "--method", "vsf", "--steps", "2", "-o", run)
    assert vsf("run", str(prompts), *options).exit_code == 0
    chosen = ("--judge", "vlm", "--judge-model", model)
    done = vsf("judge", run, *chosen, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"go on with: vsf eval report {run} --judge vlm --judge-model {model}\n" in done.stderr
    kept = [json.loads(line) for line in Path(run, "judgements-vlm.jsonl").read_text("utf-8").splitlines()]
    assert len(kept) == 2 and all(answer["scores"].keys() == {"object", "absent"} for answer in kept)
    assert all(re.fullmatch(r"object 0\.\d\d, negative absent 0\.\d\d, clean 0\.\d\d", answer["reason"]) for answer in kept)

    asked = Mock(side_effect=AssertionError)
    monkeypatch.setattr(VlmJudge, "_probabilities", asked)
    done = vsf("judge", run, *chosen)
    assert done.exit_code == 0 and "0 images judged by the judge 'vlm', 2 were before" in done.stderr
    rows = json.loads(vsf("report", run, *chosen, "--json").stdout)
    assert [row["pictures"] for row in rows] == [2] and not asked.called
    assert Path(run, "report-vlm.md").read_text("utf-8").startswith("Judge vlm tiny-llava. ")

    asked.side_effect, asked.return_value = None, [0.7, 0.6, 0.5]
    assert vsf("judge", run, *chosen, "--judge-threshold", "0.6").exit_code == 0 and asked.call_count == 2
    done = vsf("report", run, *chosen)
    assert (
        done.exit_code == 6 and "vlm tiny-llava with threshold 0.6: choose one by --judge-model, --base-url or" in done.stderr
    )
    (row,) = json.loads(vsf("report", run, *chosen, "--judge-threshold", "0.6", "--json").stdout)
    assert (row["positive"], row["negative"], row["quality"]) == (1.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--judge-threshold", "0.3"), 6, "--judge-threshold is for the judge vlm: add --judge vlm"),
        (("--device", "cpu"), 6, "--device is for the judge vlm: add --judge vlm"),
        (("--judge-batch-size", "2"), 6, "--judge-batch-size is for the judges vlm and clip: choose one by --judge"),
        (("--judge", "mllm", "--judge-batch-size", "2"), 6, "--judge-batch-size is for the judges vlm and clip"),
        (("--judge", "clip", "--judge-batch-size", "0"), 6, "judge_batch_size is 0, but must be at least 1"),
        (("--judge", "vlm", "--judge-threshold", "1.5"), 6, "judge_threshold is 1.5, but must be 0 to 1"),
        (("--judge", "vlm", "--device", "abacus"), 6, "--device is 'abacus', which this machine does not have"),
    ],
)
def test_options_of_this_judge_have_no_effect_on_others(words: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,prompt,negative,absent\nlabels.csv,a car,wheels,yes\n", "utf-8")
    done = vsf("calibrate", str(table), *words)
    assert done.exit_code == code and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_device_of_the_environment_is_that_of_the_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VSF_DEVICE", "abacus")
    table = tmp_path / "labels.csv"
    table.write_text("file,prompt,negative,absent\nlabels.csv,a car,wheels,yes\n", "utf-8")
    assert "'abacus', which this machine does not have" in vsf("calibrate", str(table), "--judge", "vlm").stderr


def test_a_sweep_gives_the_judge_its_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = Mock(side_effect=RequestError("no more"))
    monkeypatch.setattr("vsf_cli.judges.judge_named", asked)
    monkeypatch.chdir(tmp_path)
    chosen = ("--judge", "vlm", "--device", "cpu", "--judge-threshold", "0.4", "--judge-batch-size", "3")
    done = vsf("sweep", "scenes-dev", *chosen, "--method", "vsf")
    assert done.exit_code == 6 and "no more" in done.stderr
    name, options = asked.call_args[0]
    assert (name, options["device"], options["threshold"], options["batch_size"]) == ("vlm", "cpu", 0.4, 3)


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def with_a_template_without_image(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}", "utf-8")


def with_a_broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if %}", "utf-8")


def without_image_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


def with_a_processor_of_other_arguments(folder: Path) -> None:
    path = folder / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "patch_size": "wide"}), "utf-8")


def without_a_word_for_yes(folder: Path) -> None:
    chat_tokenizer("red car").save_pretrained(folder)


def without_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_torn_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def of_a_text_model(folder: Path) -> None:
    for name in ("processor_config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "config.json").write_text('{"model_type": "llama"}', "utf-8")


def with_a_processor_of_no_parts(folder: Path) -> None:
    (folder / "processor_config.json").write_text('{"processor_class": "LlavaProcessor", "image_processor": 3}', "utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_template, "has no chat template: name an instruction-tuned model"),
        (with_a_template_without_image, "cannot be asked about an image: "),
        (with_a_broken_template, "cannot be asked about an image: "),
        (without_image_processor, "cannot be loaded: Can't load image processor"),
        (with_a_processor_of_other_arguments, "cannot be asked about an image: "),
        (without_a_word_for_yes, "has no token for 'yes' to answer with"),
        (without_safetensors, "has no safetensors weights that can be read: pickled weights are not loaded"),
        (with_torn_weights, "has a file that is damaged or no safetensors"),
        (of_a_text_model, "does not read images and texts: name a vision-language model"),
        (with_a_processor_of_no_parts, "has a processor that cannot be used: "),
    ],
)
def test_what_is_no_such_model_is_one_line(model: str, tmp_path: Path, damage: Any, said: str) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    damage(folder)
    with pytest.raises(ModelError, match=f"^model '.*' (?:{said})") as raised:
        VlmJudge(str(folder)).judge(noise(0), CAR)
    assert "\n" not in str(raised.value)


def test_a_model_that_is_not_here_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in (VlmJudge(str(tmp_path / "nothing")).judge, lambda _, car: VlmJudge("./nothing").check(car, offline=True)):
        with pytest.raises(ModelError, match=r"nothing' is neither a folder on this machine nor a hub id such as owner/name"):
            asked(noise(0), CAR)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"^model 'Qwen/Qwen3-VL-2B-Instruct' is not in the cache"):
        VlmJudge().judge(noise(0), CAR)
    wanted = ImportError("\nQwen3VLVideoProcessor requires the Torchvision library")
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", Mock(side_effect=wanted))
    with pytest.raises(ModelError, match=r'needs torchvision, which is not here: pip install "vsf-cli\[vlm\]"'):
        VlmJudge(str(tmp_path)).judge(noise(0), CAR)
    with pytest.raises(RequestError, match="--device is 'abacus'"):
        VlmJudge(device="abacus")


def test_too_little_memory_is_no_fault_of_the_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = VlmJudge(model)
    monkeypatch.setattr(judge._reader.model, "generate", Mock(side_effect=RuntimeError("CUDA out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        judge.judge(noise(0), CAR)
