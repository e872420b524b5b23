"""OpenAI's completions route of a real server, with OpenAI's own client and against /compare on the same tokens."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from client import Client, Comparison

PROMPT = "the stone is heavy and the feather is light"
OPENAI_FIELDS: dict[str, Any] = {
    "temperature": 0,
    "seed": 1,
    "n": 1,
    "best_of": 1,
    "stream": False,
    "top_p": 1,
    "user": "me",
}

# A prompt scored with one more token after it may be computed in another shape, and so rounded otherwise.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def llm(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def compared(server_url: str) -> Comparison:
    with Client(server_url) as qconf:
        return qconf.compare(prompt=PROMPT, top_logprobs=20)


@pytest.mark.parametrize("model", ["base", "quantized"])
@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_echoed_logprobs_are_those_of_compare(llm: openai.OpenAI, compared: Comparison, model: str, top: int) -> None:
    reply = llm.completions.create(model=model, prompt=PROMPT, echo=True, logprobs=top, max_tokens=0, **OPENAI_FIELDS)
    (choice,) = reply.choices
    columns: Any = choice.logprobs
    assert compared.prompt is not None
    expected = compared.prompt.base if model == "base" else compared.prompt.quantized
    assert choice.text == f"<s>{PROMPT}"
    assert choice.finish_reason == "length"
    assert columns.tokens == compared.prompt.tokens
    assert (columns.token_logprobs[0], columns.top_logprobs[0]) == (None, None)
    assert columns.token_logprobs[1:] == pytest.approx(expected.logprobs[1:], abs=TOLERANCE)
    assert [choice.text[at:].startswith(token) for at, token in zip(columns.text_offset, columns.tokens, strict=True)]
    assert expected.top is not None
    for i in range(1, len(columns.tokens)):
        alternatives, likeliest = columns.top_logprobs[i], expected.top[i]
        assert likeliest is not None
        assert columns.tokens[i] in alternatives
        assert max(0, top - 1) <= len(alternatives) <= top + 1
        if top:
            assert max(alternatives.values()) == pytest.approx(likeliest.logprobs[0], abs=TOLERANCE)


@pytest.mark.parametrize("model", ["base", "quantized"])
def test_a_greedy_token_has_the_largest_logprob_to_the_bit(llm: openai.OpenAI, server_url: str, model: str) -> None:
    """Tools decide by equality whether a token was greedy."""
    with Client(server_url) as qconf:
        ids = qconf.tokenize(PROMPT).tokens
        generation: Any = qconf.compare(prompt=ids, max_tokens=4, ignore_eos=True).generation
    ids += getattr(generation, model).token_ids
    reply = llm.completions.create(model=model, prompt=ids, max_tokens=1, temperature=0, echo=True, logprobs=1)
    columns: Any = reply.choices[0].logprobs
    for i in range(len(columns.tokens) - 5, len(columns.tokens)):
        assert columns.token_logprobs[i] == max(columns.top_logprobs[i].values())


def test_what_is_generated_is_the_likeliest_next_token(llm: openai.OpenAI, server_url: str) -> None:
    for model in ("base", "quantized"):
        (choice,) = llm.completions.create(model=model, prompt=PROMPT, max_tokens=1, temperature=0, logprobs=3).choices
        columns: Any = choice.logprobs
        assert columns.tokens == [choice.text]
        assert columns.text_offset == [0]
        with Client(server_url) as qconf:
            ids = [*qconf.tokenize(PROMPT).tokens, 7]
            scored = qconf.compare(prompt=ids, top_logprobs=1).prompt
        assert scored is not None
        side = scored.base if model == "base" else scored.quantized
        assert side.top is not None
        last = side.top[-1]
        assert last is not None
        assert columns.token_logprobs == pytest.approx(last.logprobs, abs=TOLERANCE)
        assert choice.text == last.tokens[0]


def test_prompts_in_every_form_score_alike(llm: openai.OpenAI, server_url: str) -> None:
    with Client(server_url) as qconf:
        ids = qconf.tokenize(PROMPT).tokens
    forms: list[Any] = [PROMPT, ids, [PROMPT, "the stone"], [ids, [5, 6, 7]]]
    scores = []
    for form in forms:
        reply = llm.completions.create(model="base", prompt=form, echo=True, logprobs=1, max_tokens=0)
        several = len(form) == 2
        assert [choice.index for choice in reply.choices] == [0, 1][: 1 + several]
        columns: Any = reply.choices[0].logprobs
        scores.append(columns.token_logprobs[1:])
    assert all(score == pytest.approx(scores[0], abs=TOLERANCE) for score in scores)


def test_usage_counts_tokens(llm: openai.OpenAI) -> None:
    usage = llm.completions.create(model="base", prompt=[[5, 6, 7], [8, 9]], max_tokens=1).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 2, 7)


def test_models_go_by_role_or_real_name(llm: openai.OpenAI) -> None:
    served = llm.models.list().data
    assert [model.id for model in served] == ["base", "quantized"]
    roots = [str(model.model_dump()["root"]) for model in served]
    assert roots[0] != roots[1]
    for model in (served[1].id, roots[1]):
        assert llm.completions.create(model=model, prompt=PROMPT, max_tokens=1).model == model


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "model": ({"model": "gpt"}, "'model' is 'gpt', expected one of '", "model"),
    "prompt": ({"prompt": 7}, "'prompt': input should be a valid string, got 7", "prompt"),
    "no prompts": ({"prompt": []}, "'prompt': list should have at least 1 item", "prompt"),
    "empty": ({"prompt": "", "add_special_tokens": False}, "'prompt' is empty", "prompt"),
    "one empty": ({"prompt": ["a", ""], "add_special_tokens": False}, "'prompt[1]' is empty", "prompt[1]"),
    "no ids": ({"prompt": [[1], []]}, "at least 1 item", "prompt[1]"),
    "mixed": ({"prompt": ["a", 3]}, "'prompt[1]': input should be a valid string, got 3", "prompt[1]"),
    "fraction": ({"prompt": [1, 2.5]}, "valid integer, got 2.5", "prompt[1]"),
    "id": ({"prompt": [[1], [10**6]]}, "'prompt[1][0]' is 1000000, expected a token id", "prompt[1]"),
    "length": ({"prompt": [5] * 1024}, "'max_tokens' is 1 after the 1024 tokens of 'prompt', expected", "max_tokens"),
    "tokens by default": ({"max_tokens": None}, "'max_tokens': input should be a valid integer", "max_tokens"),
    "many tokens": ({"max_tokens": 2**20 + 1}, "less than or equal to 1048576", "max_tokens"),
    "nothing": ({"max_tokens": 0}, "nothing is asked for", "max_tokens"),
    "logprobs": ({"logprobs": 21}, "less than or equal to 20", "logprobs"),
    "temperature": ({"temperature": -0.7}, "greater than or equal to 0, got -0.7", "temperature"),
    "top_p": ({"top_p": 0}, "greater than 0, got 0", "top_p"),
    "several": ({"n": 2}, "'n': input should be 1, got 2", "n"),
    "echo in a stream": ({"stream": True, "echo": True}, "expected false in a stream", "echo"),
    "options": ({"stream_options": {}}, "'stream_options' needs 'stream'", "stream_options"),
    "stop": ({"stop": ["a", ""]}, "'stop' has an empty text", "stop"),
    "unknown": ({"guided_json": "{}"}, "'guided_json': extra inputs", "guided_json"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_refused(server_url: str, case: str) -> None:
    fields, message, param = BAD[case]
    body = {"model": "base", "prompt": "a", "max_tokens": 1} | fields
    reply = httpx.post(f"{server_url}/v1/completions", json=body, timeout=60)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert message in error["message"]
    assert error["param"] == param
