"""Answers through ``/compare``: they are plain vLLM's, and every token is scored as a continuation would be."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from client import Client
from demo.local_server import LocalServer
from qconf.demo import PAIR
from qconf.wire import Comparison, GeneratedToken, Generation
from tests.plain_vllm import greedy
from tests.test_engine import TOLERANCE

PROMPTS = ["The cat", "Anna is a farmer in", "Passage: Karl keeps a cow in Northam.", "In the morning", "Nora was"]
MODELS = ("base", "quantized")


@pytest.fixture(scope="module")
def client(server_url: str) -> Iterator[Client]:
    with Client(server_url) as client:
        yield client


def answers(reply: Comparison) -> tuple[Generation, Generation]:
    assert reply.generation is not None
    assert reply.generation.base is not None
    assert reply.generation.quantized is not None
    return reply.generation.base, reply.generation.quantized


def test_greedy_answers_are_those_of_plain_vllm(client: Client) -> None:
    """Where they part, the two likeliest tokens are as good as tied in the served type."""
    prompts = [client.tokenize(prompt).tokens for prompt in PROMPTS]
    paths = [str(PAIR / model) for model in MODELS]
    dtype = client.models().data[0].dtype
    plain = greedy(paths, prompts, 40, dtype)
    equal = 0
    for i, prompt in enumerate(prompts):
        ours = answers(client.compare(prompt=prompt, max_tokens=40, ignore_eos=True, top_logprobs=2))
        for model, mine, theirs in zip(MODELS, ours, (plain[0][i], plain[1][i]), strict=True):
            assert len(mine.token_ids) == len(theirs) == 40
            at = next((j for j in range(40) if mine.token_ids[j] != theirs[j]), None)
            if at is None:
                equal += 1
                continue
            assert mine.scores is not None
            top = getattr(mine.scores, model).top[at]
            assert theirs[at] in top.token_ids
            assert top.logprobs[0] - top.logprobs[1] < TOLERANCE
    assert equal >= 8  # of ten


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_have_the_scores_of_a_continuation(client: Client, temperature: float) -> None:
    prompt = client.tokenize(PROMPTS[0]).tokens
    for answer in answers(client.compare(prompt=prompt, max_tokens=30, temperature=temperature, seed=1)):
        (scored,) = client.compare(prompt=prompt, continuations=[answer.token_ids]).continuations or []
        assert scored.scores is not None
        assert answer.scores is not None
        assert answer.scores.token_ids == scored.scores.token_ids
        for name in ("kl", "reverse_kl", "js", "total_variation"):
            assert getattr(answer.scores, name) == pytest.approx(getattr(scored.scores, name), abs=TOLERANCE)
        for model in MODELS:
            mine, theirs = getattr(answer.scores, model), getattr(scored.scores, model)
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=TOLERANCE)
            assert mine.entropy == pytest.approx(theirs.entropy, abs=TOLERANCE)


def test_greedy_tokens_are_each_models_likeliest(client: Client) -> None:
    base, quantized = answers(client.compare(prompt=PROMPTS[0], max_tokens=30))
    assert base.scores is not None
    assert quantized.scores is not None
    assert base.scores.base.argmax == base.token_ids
    assert quantized.scores.quantized.argmax == quantized.token_ids


def test_where_two_answers_part(client: Client) -> None:
    parted = 0
    for prompt in PROMPTS:
        reply = client.compare(prompt=prompt, max_tokens=40, ignore_eos=True)
        base, quantized = answers(reply)
        generation = reply.generation
        assert generation is not None
        assert generation.common_prefix is not None
        common = generation.common_prefix
        assert base.token_ids[:common] == quantized.token_ids[:common]
        assert generation.length_ratio == 1.0
        assert quantized.scores is not None
        assert base.scores is not None
        variation = [value for value in quantized.scores.total_variation if value is not None]
        assert generation.acceptance == pytest.approx(1 - sum(variation) / 40, abs=1e-6)
        assert reply.usage.generated_tokens == 40 + (40 - common)
        fork = generation.fork
        if fork is None:
            assert common == 40
            continue
        parted += 1
        assert fork.index == common
        assert (fork.token_ids.base, fork.token_ids.quantized) == (
            base.token_ids[common],
            quantized.token_ids[common],
        )
        assert fork.token_ids.base == fork.top.base.token_ids[0] != fork.top.quantized.token_ids[0]
        assert fork.token_ids.quantized == fork.top.quantized.token_ids[0]
        assert fork.kl == pytest.approx(base.scores.kl[common])
        assert base.scores.kl[common] == quantized.scores.kl[common]  # one and the same place
    assert parted


@pytest.fixture(scope="module")
def exact_client(exact: LocalServer) -> Iterator[Client]:
    with Client(exact.url) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_alone_is_that_of_both(exact_client: Client, model: str) -> None:
    fields: dict[str, Any] = {"prompt": PROMPTS[1], "max_tokens": 25, "temperature": 0.8, "top_p": 0.9, "seed": 5}
    alone = exact_client.compare(**fields, generate_from=model).generation
    both = exact_client.compare(**fields).generation
    assert alone is not None
    assert both is not None
    answer, other = getattr(alone, model), getattr(alone, "quantized" if model == "base" else "base")
    assert other is None
    assert answer.token_ids == getattr(both, model).token_ids
    assert (alone.fork, alone.common_prefix, alone.length_ratio, alone.seed) == (None, None, None, 5)


def test_what_is_drawn_does_not_depend_on_what_runs_beside_it(exact_client: Client) -> None:
    def drawn(seed: int) -> list[list[int]]:
        reply = exact_client.compare(prompt=PROMPTS[2], max_tokens=20, temperature=1.0, seed=seed, detail="summary")
        return [answer.token_ids for answer in answers(reply)]

    alone = [drawn(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(drawn, range(8)))
    assert together == alone
    assert len({str(each) for each in alone}) > 1


def test_without_a_seed_draws_differ_and_the_seed_that_was_taken_repeats_them(exact_client: Client) -> None:
    fields: dict[str, Any] = {"prompt": PROMPTS[2], "max_tokens": 20, "temperature": 1.0, "detail": "summary"}
    first, second = exact_client.compare(**fields), exact_client.compare(**fields)
    assert first.generation is not None
    assert second.generation is not None
    assert first.generation.seed != second.generation.seed
    again = exact_client.compare(**fields, seed=first.generation.seed)
    assert answers(again)[0].token_ids == answers(first)[0].token_ids
    greedy_reply = exact_client.compare(prompt=PROMPTS[2], max_tokens=1)
    assert greedy_reply.generation is not None
    assert greedy_reply.generation.seed is None


def test_an_answer_ends_with_the_token_that_ends_texts(client: Client) -> None:
    ends = client.tokenizer_info().eos_token_ids
    base, _ = answers(client.compare(prompt="The cat", max_tokens=200))
    assert base.finish_reason == "stop"
    assert base.token_ids[-1] in ends
    assert not set(base.token_ids[:-1]) & set(ends)
    assert "</s>" not in base.text
    longer, _ = answers(client.compare(prompt="The cat", max_tokens=200, ignore_eos=True))
    assert longer.finish_reason == "length"
    assert len(longer.token_ids) == 200
    assert longer.token_ids[: len(base.token_ids)] == base.token_ids


def test_an_answer_ends_before_a_stop_text(client: Client) -> None:
    whole, _ = answers(client.compare(prompt="The cat", max_tokens=30, generate_from="both"))
    middle = whole.text[20:26]
    base, _ = answers(client.compare(prompt="The cat", max_tokens=30, stop=["never written", middle]))
    assert base.finish_reason == "stop"
    assert base.text == whole.text[: whole.text.index(middle)]
    assert base.token_ids == whole.token_ids[: len(base.token_ids)]
    assert len(base.token_ids) < 30


def test_choices_and_answers_in_one_request(client: Client) -> None:
    reply = client.compare(prompt="The cat ", continuations=["sat", "is"], max_tokens=3, label=1)
    assert reply.choice is not None
    alone = client.compare(prompt="The cat ", max_tokens=3)
    assert answers(reply)[0].token_ids == answers(alone)[0].token_ids


def stream(url: str, **fields: Any) -> tuple[list[GeneratedToken], Comparison]:
    events = []
    with httpx.stream("POST", f"{url}/compare", json={**fields, "stream": True}, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    return [GeneratedToken.model_validate_json(each) for each in events[:-2]], Comparison.model_validate_json(
        events[-2]
    )


def test_a_stream_has_every_token_and_then_the_reply(server_url: str) -> None:
    tokens, reply = stream(server_url, prompt=PROMPTS[0], max_tokens=40, top_logprobs=3, ignore_eos=True)
    for name, answer in zip(MODELS, answers(reply), strict=True):
        its = [token for token in tokens if name in token.models]
        assert [token.index for token in its] == list(range(40))
        assert [token.scores.token_ids[0] for token in its] == answer.token_ids
        assert "".join(token.text for token in its) == answer.text
        assert answer.scores is not None
        assert [token.scores.kl[0] for token in its] == answer.scores.kl
        assert all(token.scores.base.top is not None for token in its)
    assert reply.usage.generated_tokens == len(tokens)


def test_a_stream_that_cannot_begin_is_an_error_like_any_other(server_url: str) -> None:
    body = {"prompt": "a", "max_tokens": 5, "stream": True, "generate_from": "nobody"}
    reply = httpx.post(f"{server_url}/compare", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "generate_from"


def generated(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith('qconf_tokens_total{kind="generated"}')).split()[-1])


def test_work_stops_when_the_client_leaves(server_url: str) -> None:
    body = {"prompt": "a", "max_tokens": 1000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{server_url}/compare", json=body, timeout=60) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 30
    while "qconf_requests_in_flight 0.0" not in httpx.get(f"{server_url}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before = generated(server_url)
    time.sleep(0.5)
    assert generated(server_url) == before
    httpx.post(
        f"{server_url}/compare", json={"prompt": "a", "max_tokens": 7, "ignore_eos": True, "generate_from": "base"}
    )
    assert generated(server_url) == before + 7


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing to generate": ({"temperature": 0.5}, "'temperature' needs 'max_tokens' of at least 1", "temperature"),
    "temperature": ({"max_tokens": 1, "temperature": -1}, "greater than or equal to 0, got -1", "temperature"),
    "top_p": ({"max_tokens": 1, "top_p": 1.5}, "less than or equal to 1, got 1.5", "top_p"),
    "seed": ({"max_tokens": 1, "seed": -1}, "greater than or equal to 0, got -1", "seed"),
    "stop": ({"max_tokens": 1, "stop": ""}, "'stop' has an empty text, expected at least one character", "stop"),
    "model": ({"max_tokens": 1, "generate_from": "x"}, "'x', expected one of 'base', 'both'", "generate_from"),
    "context": ({"max_tokens": 1024}, "'max_tokens' is 1024 after the", "max_tokens"),
    "chat": ({"continue_final_message": True}, "'continue_final_message' needs 'messages'", "continue_final_message"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_refused_by_name(server_url: str, case: str) -> None:
    fields, message, param = BAD[case]
    reply = httpx.post(f"{server_url}/compare", json={"prompt": "The cat"} | fields)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == param


def test_a_batch_generates_and_a_bad_entry_keeps_the_others(client: Client) -> None:
    entries: list[dict[str, Any]] = [
        {"prompt": "The cat", "max_tokens": 3},
        {"prompt": "The cat", "max_tokens": 3, "generate_from": "nobody"},
        {"prompt": "The cat", "max_tokens": 3, "stream": True},
    ]
    first, second, third = client.compare_batch(entries)
    assert isinstance(first, Comparison)
    assert first.generation is not None
    assert not isinstance(second, Comparison)
    assert second.param == "generate_from"
    assert not isinstance(third, Comparison)
    assert third.param == "stream"


def test_a_chat_may_end_within_its_last_message(client: Client) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "The cat"}]
    begun = client.compare(messages=messages, continue_final_message=True, max_tokens=2)
    closed = client.compare(messages=messages, add_generation_prompt=False, max_tokens=2)
    ended = client.compare(messages=messages, max_tokens=2)
    texts = [client.detokenize(each.prompt.token_ids).prompt for each in (begun, closed, ended) if each.prompt]
    assert texts[0].endswith("The cat")
    assert texts[1].startswith(texts[0])
    assert len(texts[1]) > len(texts[0])
    assert texts[2].startswith(texts[1])
    assert len(texts[2]) > len(texts[1])


def test_answers_survive_a_cache_that_has_no_room_for_all(exact: LocalServer) -> None:
    """Sequences that lose their place are computed again, and none waits for another for ever."""

    def answer(i: int) -> list[int]:
        body = {"prompt": [5 + i] * 40, "max_tokens": 200, "ignore_eos": True, "generate_from": "base"}
        reply = httpx.post(f"{exact.url}/compare", json=body | {"score_prompt": False}, timeout=120)
        assert reply.status_code == 200, reply.text
        ids: list[int] = reply.json()["generation"]["base"]["token_ids"]
        return ids

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answer, range(8)))
    assert together == [answer(i) for i in range(8)]
    assert [len(ids) for ids in together] == [200] * 8
