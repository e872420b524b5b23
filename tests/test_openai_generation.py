"""OpenAI's own client generates with either model, streams included, and gets what ``/compare`` gives."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from client import Client
from demo.local_server import LocalServer

PROMPT = "Anna is a farmer in"
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
MODELS = ["base", "quantized"]


@pytest.fixture(scope="module")
def llm(exact: LocalServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{exact.url}/v1", api_key="none", max_retries=0) as llm:
        yield llm


def compared(url: str, model: str, **fields: Any) -> Any:
    with Client(url) as client:
        generation = client.compare(**fields, generate_from=model).generation
    return getattr(generation, model)


@pytest.mark.parametrize("model", MODELS)
def test_a_completion_is_the_answer_of_compare(llm: openai.OpenAI, exact: LocalServer, model: str) -> None:
    ours = compared(exact.url, model, prompt=PROMPT, max_tokens=60, top_logprobs=2)
    reply = llm.completions.create(model=model, prompt=PROMPT, max_tokens=60, temperature=0, logprobs=2)
    (choice,) = reply.choices
    assert choice.text == ours.text
    assert choice.finish_reason == ours.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(ours.token_ids)
    columns: Any = choice.logprobs
    assert columns.token_logprobs == pytest.approx(getattr(ours.scores, model).logprobs, abs=1e-3)
    assert all(
        max(top.values()) == logprob for top, logprob in zip(columns.top_logprobs, columns.token_logprobs, strict=True)
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_streamed_completion_is_the_whole_one_in_parts(llm: openai.OpenAI, model: str) -> None:
    fields: Any = {"model": model, "prompt": [PROMPT, "The cat"], "max_tokens": 25, "temperature": 0.9, "seed": 4}
    whole = llm.completions.create(**fields, logprobs=1)
    stream = llm.completions.create(**fields, logprobs=1, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[-1].usage == whole.usage
    for index, choice in enumerate(whole.choices):
        its = [each for chunk in chunks for each in chunk.choices if each.index == index]
        assert "".join(each.text for each in its) == choice.text
        assert [each.finish_reason for each in its] == [None] * (len(its) - 1) + [choice.finish_reason]
        columns: Any = choice.logprobs
        parts: list[Any] = [each.logprobs for each in its[:-1]]
        assert [part.tokens[0] for part in parts] == columns.tokens
        assert [part.token_logprobs[0] for part in parts] == pytest.approx(columns.token_logprobs, abs=0.05)


def test_an_echoed_prompt_and_what_follows_have_their_logprobs(llm: openai.OpenAI) -> None:
    reply = llm.completions.create(model="base", prompt=PROMPT, max_tokens=5, temperature=0, echo=True, logprobs=0)
    scored = llm.completions.create(model="base", prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    columns: Any = reply.choices[0].logprobs
    alone: Any = scored.choices[0].logprobs
    assert reply.choices[0].text.startswith(scored.choices[0].text)
    assert columns.token_logprobs[0] is None
    assert columns.token_logprobs[1:-5] == pytest.approx(alone.token_logprobs[1:], abs=0.02)
    assert len(columns.tokens) == len(alone.tokens) + 5


def test_stop_ends_a_completion(llm: openai.OpenAI) -> None:
    whole = llm.completions.create(model="base", prompt=PROMPT, max_tokens=30, temperature=0).choices[0].text
    reply = llm.completions.create(model="base", prompt=PROMPT, max_tokens=30, temperature=0, stop=[whole[10:14]])
    assert reply.choices[0].text == whole[: whole.index(whole[10:14])]
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", MODELS)
def test_a_chat_is_answered(llm: openai.OpenAI, exact: LocalServer, model: str) -> None:
    ours = compared(exact.url, model, messages=MESSAGES, max_tokens=20, top_logprobs=3)
    reply = llm.chat.completions.create(
        model=model, messages=MESSAGES, max_completion_tokens=20, temperature=0, logprobs=True, top_logprobs=3
    )
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == ours.text
    assert choice.finish_reason == ours.finish_reason
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert [token.token for token in content] == ours.scores.tokens
    assert [token.logprob for token in content] == pytest.approx(getattr(ours.scores, model).logprobs, abs=1e-3)
    assert all(token.top_logprobs[0].logprob == token.logprob for token in content)
    assert bytes(content[0].bytes or []).decode() == content[0].token


def test_a_streamed_chat_is_the_whole_one_in_parts(llm: openai.OpenAI) -> None:
    fields: Any = {"model": "base", "messages": MESSAGES, "max_completion_tokens": 20, "temperature": 1, "seed": 3}
    whole = llm.chat.completions.create(**fields)
    chunks = list(llm.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(delta.delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert deltas[0].delta.role == "assistant"
    assert deltas[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_without_a_limit_a_chat_is_answered_to_its_end_or_the_contexts(llm: openai.OpenAI) -> None:
    reply = llm.chat.completions.create(model="base", messages=MESSAGES, temperature=0, extra_body={"ignore_eos": True})
    assert reply.usage is not None
    assert reply.usage.total_tokens == 1024
    assert reply.choices[0].finish_reason == "length"


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no messages": ({"messages": None}, "'messages' is missing", "messages"),
    "top": ({"top_logprobs": 2}, "'top_logprobs' needs 'logprobs'", "top_logprobs"),
    "two limits": ({"max_tokens": 2, "max_completion_tokens": 2}, "expected at most one of", "max_tokens"),
    "context": ({"max_tokens": 1024}, "'max_tokens' is 1024 after the", "max_tokens"),
    "tools": ({"tools": []}, "'tools': extra inputs are not permitted", "tools"),
    "model": ({"model": "gpt"}, "'model' is 'gpt', expected one of", "model"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_refused_by_name(llm: openai.OpenAI, case: str) -> None:
    fields, message, param = BAD[case]
    body = {"model": "base", "messages": MESSAGES} | fields
    with pytest.raises(openai.BadRequestError) as refused:
        llm.post("/chat/completions", body=body, cast_to=object)
    error: Any = refused.value.body
    assert message in error["message"]
    assert error["param"] == param
