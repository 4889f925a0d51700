"""A multimodal language model as a judge, at any endpoint with OpenAI's protocol."""

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vsf_cli.config.option import read_bool
from vsf_cli.errors import RequestError, VSFError
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.questions import Record, named_things, question_about_things

__all__ = ["INSTRUCTIONS", "Answer", "MllmJudge"]

INSTRUCTIONS = """\
You look at one generated picture and answer two questions about it, then rate it. First write down briefly what you see.

Question 1 asks whether the main thing is shown. Answer true if it is recognisable, also if some of its parts are missing.
Question 2 asks whether a certain element is missing. Judge by what can be seen, never by what such a thing usually has: if you
cannot see the element, it is missing, and the answer is true. If any of it can be seen, also if it is faint, broken or in an
unusual place, the answer is false.

Quality goes from 0 (unusable) to 1 (flawless). Lower it for blur, noise, artefacts, deformed shapes and doubled contours. Do
not lower it because the element of question 2 is missing, nor because the scene is unusual without it."""
"""The paper's instructions in our words."""
QUESTION_3 = "Question 3: which of these can be seen, other than faint or broken: {}? Answer with a list of these words."
"""The question about what must stay, which records without such things do not have."""

KEY = "OPENAI_API_KEY"
LOCAL = "localhost", "127.0.0.1", "::1"
"""The hosts that are no network."""
MAX_ATTEMPTS = 3
"""How often a question is sent if the answers cannot be parsed."""

PROPERTIES = {
    "reasoning": {"description": "what is seen, in one or two sentences", "title": "Reasoning", "type": "string"},
    "answer_1": {"title": "Answer 1", "type": "boolean"},
    "answer_2": {"title": "Answer 2", "type": "boolean"},
    "quality": {"maximum": 1, "minimum": 0, "title": "Quality", "type": "number"},
}


def _format(keep: Sequence[str]) -> Any:
    """Returns the form of an answer, for the endpoint."""
    third = {"answer_3": {"items": {"enum": list(keep), "type": "string"}, "title": "Answer 3", "type": "array"}}
    properties: dict[str, Any] = PROPERTIES | (third if keep else {})
    schema = {
        "description": "What the model has to answer.",
        "properties": properties,
        "required": list(properties),
        "title": "Answer",
        "type": "object",
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


@dataclass(frozen=True)
class Answer:
    """An answer of the model, with a quality of 0 to 1; without a third question the third answer is None."""

    reasoning: str
    answer_1: bool
    answer_2: bool
    quality: float
    answer_3: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str, keep: Sequence[str] = ()) -> "Answer":
        """Returns the answer in a JSON text; `keep` has the things that the third question is about.

        Raises:
            ValueError: If the text is not an answer.
        """
        try:
            fields = json.loads(text)
            reasoning, quality = fields["reasoning"], float(fields["quality"])
            first, second = read_bool(str(fields["answer_1"])), read_bool(str(fields["answer_2"]))
            third = fields["answer_3"] if keep else []
        except (LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"no answer: {error!r}") from error
        if not isinstance(reasoning, str) or isinstance(fields["quality"], bool) or not 0 <= quality <= 1:
            raise ValueError(f"no answer: {text[:100]!r}")
        if not isinstance(third, list):
            raise ValueError(f"no answer: {text[:100]!r}")
        shown = {str(thing).strip().lower() for thing in third}
        kept = tuple(thing for thing in keep if thing.lower() in shown) if keep else None
        return cls(reasoning, first, second, quality, kept)


class MllmJudge:
    """Asks a model over the network. The key comes only from the environment variable `OPENAI_API_KEY`.

    Arguments:
        model: The name of the model at the endpoint.
        base_url: The endpoint; None means that of the environment variable `OPENAI_BASE_URL`, else OpenAI's own.
        workers: The number of images that are judged at a time.
        retries: How often a request is sent again after 429, 5xx or a time-out, with growing waits.
        timeout: Seconds until a request is given up.

    Raises:
        RequestError: If the package is not installed, or there is no key.
    """

    name = "mllm"
    costly = True

    def __init__(
        self, model: str = "gpt-4o-mini", base_url: str | None = None, workers: int = 8, retries: int = 6, timeout: float = 120
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise RequestError('judge mllm needs the package openai: pip install "vsf-cli[mllm]"') from error
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        # Local endpoints need no key.
        key = os.environ.get(KEY) or ("none" if base_url else None)
        if key is None:
            raise RequestError(
                f"judge mllm needs a key: set {KEY}, or OPENAI_BASE_URL for an endpoint of your own that needs none"
            )
        self.settings: Mapping[str, Any] = {"name": self.name, "model": model, "base_url": base_url, "instructions": 1}
        self.workers = workers
        self._errors = openai
        self._client = openai.OpenAI(api_key=key, base_url=base_url, max_retries=retries, timeout=timeout)
        self._model = model

    def check(self, record: Record, offline: bool) -> None:
        """Raises a `RequestError` if the network may not be used; what else the judge needs is checked when it is made."""
        if offline and self._client.base_url.host not in LOCAL:
            host = self._client.base_url.host
            raise RequestError(f"judge mllm asks {host}, which --offline forbids: leave --offline out, or choose --judge vlm")

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the answer about an image.

        Raises:
            VSFError: If the endpoint refuses, cannot be reached, or its answers cannot be parsed.
        """
        label = " ".join(filter(None, ("about", record.id, self._model)))
        text = ""
        for _ in range(MAX_ATTEMPTS):
            try:
                text = _content(self._ask(image, record))
                answer = Answer.parse(text, record.keep)
            except ValueError:
                continue
            except self._errors.OpenAIError as error:
                raise self._failed(label, error) from error
            return Judgement(answer.answer_1, answer.answer_2, answer.quality, answer.reasoning, answer.answer_3)
        raise VSFError(f"asked {label} gave {MAX_ATTEMPTS} answers that are not what was asked for, such as {text[:100]!r}")

    def things(self, image: Image.Image, record: Record) -> tuple[str, ...]:
        """Returns what else an image shows, in the model's own words.

        Raises:
            VSFError: If the endpoint refuses, or cannot be reached.
        """
        try:
            reply = self._send(image, question_about_things(record), "You look at one generated picture.")
        except self._errors.OpenAIError as error:
            raise self._failed(f"what else a picture shows, {self._model}", error) from error
        return named_things(_content(reply), record)

    def _failed(self, label: str, error: Exception) -> VSFError:
        message = " ".join(str(error).split()).rstrip(".")[:200]
        return VSFError(f"{self._client.base_url.host} was asked {label}, and failed: {message}")

    def _ask(self, image: Image.Image, record: Record) -> str:
        """Returns the unparsed reply of the endpoint to the questions of a record."""
        questions = f"Question 1: {record.question_1}\nQuestion 2: {record.question_2}"
        questions += "\n" + QUESTION_3.format(", ".join(record.keep)) if record.keep else ""
        return self._send(image, questions, INSTRUCTIONS, response_format=_format(record.keep))

    def _send(self, image: Image.Image, questions: str, instructions: str, **form: Any) -> str:
        """Returns the unparsed reply of the endpoint."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        content = [{"type": "text", "text": questions}, {"type": "image_url", "image_url": {"url": url}}]
        messages: list[Any] = [{"role": "system", "content": instructions}, {"role": "user", "content": content}]
        reply = self._client.chat.completions.with_raw_response.create(
            model=self._model, messages=messages, temperature=0, **form
        )
        return reply.text


def _content(reply: str) -> str:
    """Returns the text of a reply; the reply itself if it has another form, such as the page of a proxy."""
    try:
        text = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = None
    return text if isinstance(text, str) else reply
