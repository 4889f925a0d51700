"""The tokens of prompts in a template."""

import copy
from types import SimpleNamespace

import pytest

from tests.models.pipelines import chat_tokenizer
from vsf_cli.models.family import PromptTokenizer
from vsf_cli.models.prompt_tokens import chat_template, prompt_tokens, template_tokens


@pytest.mark.parametrize("prompt", ["user", "a", "im"])
def test_a_prompt_is_not_mistaken_for_a_part_of_its_template(prompt: str) -> None:
    tokenizer = copy.deepcopy(chat_tokenizer())
    template = chat_template(tokenizer, True)
    pipe = SimpleNamespace(text_encoder=object(), _execution_device="cpu")
    ids, is_word, start = template_tokens(tokenizer, template, prompt, pipe)
    alone = tokenizer(prompt).input_ids
    assert ids[0, start : start + len(alone)].tolist() == alone
    assert is_word.tolist() == [True] * len(alone) + [False] * (ids.shape[1] - start - len(alone))
    tokens = prompt_tokens(PromptTokenizer("qwen3", tokenizer, start=0, max_length=512, template=template), "positive", prompt)
    assert [token.position for token in tokens if not token.special] == [start + n for n in range(len(alone))]
