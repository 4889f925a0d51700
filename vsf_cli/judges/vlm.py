"""A small vision-language model on this machine as a judge: it answers by the probabilities of yes and no."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import islice
from typing import Any

from PIL import Image

from vsf_cli.errors import ModelError, RequestError, is_out_of_memory
from vsf_cli.judges.judgement import EVEN, Judgement
from vsf_cli.judges.passes import Passes
from vsf_cli.judges.pretrained import check_model, is_here, reading_model
from vsf_cli.judges.questions import Record, named_things, question_about, question_about_things
from vsf_cli.judges.several import Outcome, Pair
from vsf_cli.loading.runtime import device_named

__all__ = ["VlmJudge"]

INSTALL = 'pip install "vsf-cli[vlm]"'
MODEL = "Qwen/Qwen3-VL-2B-Instruct"
CLEAN = "Is this a clean picture, without blur, artefacts, deformed shapes or doubled contours?"
ENDING = " Answer yes or no."
WORDING = 1
"""The version of the judge's own words, on which its answers depend."""
YES, NO = ("yes", "Yes", "YES"), ("no", "No", "NO")
MAX_TOKENS = 40
"""The length of the answer that names things."""
ON_GPU = 8
"""The usual number of images of one pass on a GPU; on a CPU it is 1."""
MIN_SIDE = 224
"""The least side of an image in pixels: some processors refuse images of a few patches."""

Row = tuple[Image.Image, str]
"""An image as the model sees it, and a question about it."""


@dataclass(frozen=True)
class _Reader:
    """A model with its processor, and the tokens that mean yes and no."""

    model: Any
    processor: Any
    template: str
    yes: Sequence[int]
    no: Sequence[int]


class VlmJudge:
    """Asks a vision-language model of transformers the two questions of a record, whether the image is clean, and what stayed.

    An answer is the probability of the next token: of all tokens that mean yes, against those that mean no. The default model
    has a permissive licence (Apache-2.0), is small (4.3 GB in bfloat16), and transformers knows it without code of its own.
    It needs torchvision. The model runs in bfloat16, and on a CPU in float32.

    Arguments:
        model: A hub id, or a folder.
        threshold: The probability above which the negative is absent; the other answers are yes above 0.5.
        device: "auto", or a device of torch.
        batch_size: The most images of one pass; None means 8 on a GPU and 1 on a CPU. Each has a row for each question.

    Raises:
        ModelError: At the first image, if the model cannot be loaded, or is no vision-language model with a chat template.
        RequestError: If this machine lacks the device.
    """

    name = "vlm"
    workers = 1
    costly = True

    def __init__(
        self, model: str = MODEL, threshold: float = EVEN, device: str = "auto", batch_size: int | None = None
    ) -> None:
        if device not in ("auto", "cpu"):
            device_named(device)
        self.settings: Mapping[str, Any] = {"name": self.name, "model": model, "threshold": threshold, "wording": WORDING}
        self._model, self._threshold, self._device = model, threshold, device
        self._given = None if batch_size is None else Passes(batch_size)

    def check(self, record: Record, offline: bool) -> None:
        """Checks before any work what the judge needs: of a model that is on this machine, what it reads images and texts with.

        Raises:
            RequestError: If a package is missing that most models need, and the model is not on this machine.
            ModelError: If the model is not on this machine, and must not be downloaded; or it is none that can be asked.
        """
        check_model(self._model, offline)
        if is_here(self._model):
            _ = self._asking  # Read now, since it fails if the model cannot be asked.
        elif find_spec("torchvision") is None:
            raise RequestError(f"judge vlm needs torchvision, which is not here: {INSTALL}, or choose --judge mllm or clip")

    @cached_property
    def _reader(self) -> _Reader:
        import torch
        from transformers import AutoModelForImageTextToText

        device, asking = device_named(self._device), self._asking  # Before the weights, which take long to download.
        with reading_model(self._model) as source:
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
            options = {**source, "dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
            model = AutoModelForImageTextToText.from_pretrained(self._model, **options)
        return _Reader(model.to(device).eval(), *asking)

    @cached_property
    def _asking(self) -> tuple[Any, str, Sequence[int], Sequence[int]]:
        """What texts and images are read with, the template of a conversation, and the tokens that mean yes and no."""
        with reading_model(self._model) as source:
            processor = _processor_of(self._model, {**source, "trust_remote_code": False})
            template = _template_of(self._model, processor)
            yes, no = (_tokens_of(self._model, processor.tokenizer, words) for words in (YES, NO))
        return processor, template, yes, no

    @cached_property
    def _passes(self) -> Passes:
        return self._given or Passes(1 if device_named(self._device).type == "cpu" else ON_GPU)

    @property
    def batch_size(self) -> int:
        """The most images of one pass; it gets smaller where memory does not suffice."""
        return self._passes.size

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the answer about an image.

        Raises:
            ModelError: If the model cannot be used.
        """
        (answer,) = self._answers([(image, record)])
        return answer

    def judge_several(self, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
        """Yields the outcomes of each pass, which has the questions about several images.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        _ = self._reader  # Loaded now, since that it cannot be loaded is no image's fault.
        yield from self._passes.made(self._answers, pairs)

    def _answers(self, pairs: Sequence[Pair]) -> list[Judgement]:
        """Returns the answers about images, whose questions are one batch."""
        asked = [(_enlarged(image.convert("RGB")), _questions(record)) for image, record in pairs]
        rest = iter(self._probabilities([(image, text) for image, questions in asked for text in questions]))
        own = ([*islice(rest, len(questions))] for _, questions in asked)
        return [self._answer(record, answers) for (_, record), answers in zip(pairs, own, strict=True)]

    def _answer(self, record: Record, answers: Sequence[float]) -> Judgement:
        """Returns the answer about an image by the probabilities of yes to the questions about it."""
        shown, absent, clean, *stayed = (round(answer, 6) for answer in answers)
        kept = tuple(thing for thing, answer in zip(record.keep, stayed, strict=True) if answer > EVEN)
        names = ("object", "negative absent", "clean", *record.keep)
        reason = ", ".join(f"{name} {answer:.2f}" for name, answer in zip(names, (shown, absent, clean, *stayed), strict=True))
        scores = {"object": shown, "absent": absent}
        is_absent = absent > self._threshold
        return Judgement(shown > EVEN, is_absent, clean, reason, kept if record.keep else None, scores=scores)

    def things(self, image: Image.Image, record: Record) -> tuple[str, ...]:
        """Returns what else an image shows, in the model's own words.

        Raises:
            ModelError: If the model cannot be used.
        """
        answer = self._generate([(_enlarged(image.convert("RGB")), question_about_things(record))], MAX_TOKENS)
        # There is a row of logits for each new token; the question stands before them.
        tokens = answer.sequences[0, -len(answer.logits) :]
        return named_things(self._reader.processor.tokenizer.decode(tokens, skip_special_tokens=True), record)

    def _probabilities(self, rows: Sequence[Row]) -> list[float]:
        """Returns the probability of yes, against no, for each question about an image; all rows are one batch."""
        reader = self._reader
        logits = self._generate([(image, text + ENDING) for image, text in rows], 1).logits[0].float()
        yes, no = (logits[:, list(tokens)].logsumexp(-1) for tokens in (reader.yes, reader.no))
        return (yes - no).sigmoid().tolist()

    def _generate(self, rows: Sequence[Row], tokens: int) -> Any:
        """Returns what the model generates, at most so many tokens, for each row."""
        reader = self._reader
        contents = [[{"type": "image", "image": image}, {"type": "text", "text": text}] for image, text in rows]
        try:
            inputs = reader.processor.apply_chat_template(
                [[{"role": "user", "content": content}] for content in contents],
                reader.template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                # On the left, so that the next token of each question follows its last one.
                processor_kwargs={"padding": True, "padding_side": "left"},
            ).to(reader.model.device, reader.model.dtype)
            return reader.model.generate(
                **inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        # Templates and processors come with the model, and fail in any way.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            text = " ".join(str(error).split())[:200]
            raise ModelError(f"model '{self._model}' cannot be asked about an image: {text or type(error).__name__}") from error


def _questions(record: Record) -> list[str]:
    """Returns what the model is asked about an image: the questions of the record, whether it is clean, and what stayed."""
    stay = [question_about(thing, "visible") for thing in record.keep]
    return [record.question_1, record.question_2, CLEAN, *stay]


def _processor_of(model: str, source: Mapping[str, Any]) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model, **source)
    except ImportError as error:
        if "torchvision" in str(error).lower():
            raise ModelError(f"model '{model}' needs torchvision, which is not here: {INSTALL}") from error
        raise
    # The processor's files say which class it is, and what that is made of.
    except (AttributeError, TypeError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"model '{model}' has a processor that cannot be used: {text}") from error
    if any(getattr(processor, part, None) is None for part in ("tokenizer", "image_processor")):
        raise ModelError(f"model '{model}' does not read images and texts: name a vision-language model with --judge-model")
    return processor


def _template_of(model: str, processor: Any) -> str:
    """Returns the template of a conversation; older models have it with their tokenizer."""
    template = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelError(f"model '{model}' has no chat template: name an instruction-tuned model with --judge-model")
    return template


def _tokens_of(model: str, tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Returns the tokens that are one of some words as a whole, with or without a space before it."""
    spelled = (tokenizer.encode(space + word, add_special_tokens=False) for word in words for space in ("", " "))
    tokens = {ids[0] for ids in spelled if len(ids) == 1} - {tokenizer.unk_token_id}
    if not tokens:
        raise ModelError(f"model '{model}' has no token for '{words[0]}' to answer with: name another with --judge-model")
    return sorted(tokens)


def _enlarged(image: Image.Image) -> Image.Image:
    """Returns an image whose sides are `MIN_SIDE` or more."""
    scale = MIN_SIDE / min(image.size)
    if scale <= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
