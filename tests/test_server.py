"""The HTTP interface of a real server with the demo pair."""

import contextlib
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from transformers import GenerationConfig

from demo.local_server import LocalServer
from qconf.demo import PAIR
from server.processor import fast_dtype

HALF_PAIR = '{"prompt": "a\\ud800"}'
HUGE = 17 * 2**20

# Each: route, body (an object, or text sent as it is), and what the error's message and field must be.
BAD_REQUESTS: dict[str, tuple[str, Any, str, str | None]] = {
    "nothing": ("/compare", {}, "expected exactly one of 'prompt' and 'messages'", "prompt"),
    "both": (
        "/compare",
        {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
        "expected exactly one of 'prompt' and 'messages'",
        "prompt",
    ),
    "unknown-field": ("/compare", {"prompt": "a", "temprature": 1}, "'temprature': extra inputs", "temprature"),
    "empty-ids": ("/compare", {"prompt": []}, "expected text or a list of at least one token id, got []", "prompt"),
    "no-messages": ("/compare", {"messages": []}, "at least 1 item", "messages"),
    "role-missing": ("/compare", {"messages": [{"content": "a"}]}, "field required", "messages[0].role"),
    "type-of-prompt": ("/compare", {"prompt": 7}, "expected text or a list of at least one token id, got 7", "prompt"),
    "fraction": ("/compare", {"prompt": [1, 2.5]}, "got 2.5", "prompt[1]"),
    "boolean": ("/compare", {"prompt": [True]}, "got True", "prompt[0]"),
    "text-for-number": ("/compare", {"prompt": "a", "top_logprobs": "5"}, "got '5'", "top_logprobs"),
    "too-many-top": ("/compare", {"prompt": "a", "top_logprobs": 21}, "less than or equal to 20", "top_logprobs"),
    "negative-top": ("/compare", {"prompt": "a", "top_logprobs": -1}, "greater than or equal to 0", "top_logprobs"),
    "top-without-tokens": (
        "/compare",
        {"prompt": "a", "top_logprobs": 1, "detail": "summary"},
        "'top_logprobs' needs detail 'tokens'",
        "top_logprobs",
    ),
    "detail": ("/compare", {"prompt": "a", "detail": "all"}, "'tokens' or 'summary', got 'all'", "detail"),
    "not-a-number": ("/compare", '{"prompt": NaN}', "the body is not JSON: expected value", None),
    "half-a-surrogate-pair": ("/compare", HALF_PAIR, "the body is not JSON: unexpected end of hex escape", None),
    "id-too-large": ("/compare", {"prompt": [2, 10**6]}, "'prompt[1]' is 1000000, expected a token id", "prompt"),
    "id-enormous": ("/compare", {"prompt": [10**30]}, "expected a token id", "prompt"),
    "id-negative": ("/compare", {"prompt": [-1]}, "'prompt[0]' is -1, expected a token id", "prompt"),
    "too-long": ("/compare", {"prompt": [2] * 100_000}, "a sequence of 100000 tokens, expected at most", "prompt"),
    "too-long-together": (
        "/compare",
        {"prompt": [2], "continuations": [[2], [2] * 100_000]},
        "a sequence of 100001 tokens",
        "continuations[1]",
    ),
    "no-continuations": ("/compare", {"prompt": "a", "continuations": []}, "at least 1 item", "continuations"),
    "empty-continuation": (
        "/compare",
        {"prompt": "a", "continuations": [" b", ""]},
        "adds no token",
        "continuations[1]",
    ),
    "continuation-type": ("/compare", {"prompt": "a", "continuations": [" b", 3]}, "got 3", "continuations[1]"),
    "continuation-id": (
        "/compare",
        {"prompt": "a", "continuations": [[10**6]]},
        "'continuations[0][0]' is 1000000",
        "continuations[0]",
    ),
    "label-alone": ("/compare", {"prompt": "a", "label": 0}, "'label' needs 'continuations'", "label"),
    "label-out-of-range": (
        "/compare",
        {"prompt": "a", "continuations": [" b"], "label": 1},
        "'label' is 1, expected an index below 1",
        "label",
    ),
    "not-json": ("/compare", '{"prompt": "a",', "the body is not JSON", None),
    "not-an-object": ("/compare", "[1]", "the body: ", None),
    "no-body": ("/compare", "", "the body: field required", None),
    "deeply-nested": ("/compare", "[" * 100_000, "the body", None),
    "empty-batch": ("/compare/batch", {"requests": []}, "at least 1 item", "requests"),
    "batch-of-numbers": ("/compare/batch", {"requests": [1]}, "dictionary", "requests[0]"),
    "text-missing": ("/tokenize", {}, "expected exactly one of 'prompt' and 'messages'", "prompt"),
    "too-many-ids": ("/tokenize", {"prompt": [5] * (2**19 + 1)}, "has 524289 ids, expected at most 524288", "prompt"),
    "no-token": ("/tokenize", {"prompt": "a", "continuation": ""}, "'continuation' is '', which adds", "continuation"),
    "detokenize-range": ("/detokenize", {"tokens": [10**6]}, "'tokens[0]' is 1000000", "tokens"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request(server_url: str, case: str) -> None:
    route, body, message, param = BAD_REQUESTS[case]
    content = body if isinstance(body, str) else json.dumps(body)
    reply = httpx.post(server_url + route, content=content, headers={"content-type": "application/json"}, timeout=60)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error"), error
    assert message in error["message"]
    assert error["param"] == param
    assert httpx.get(f"{server_url}/ready").status_code == 200


def test_empty_prompt_gets_the_tokenizers_first_token_or_is_refused(server_url: str) -> None:
    plain = httpx.post(f"{server_url}/compare", json={"prompt": "", "add_special_tokens": False})
    assert plain.status_code == 400
    assert plain.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("chunked", [False, True])
def test_huge_body(server_url: str, chunked: bool) -> None:
    content = (b" " * 2**20 for _ in range(HUGE // 2**20)) if chunked else b" " * HUGE
    reply = httpx.post(f"{server_url}/compare", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert reply.json()["error"]["type"] == "request_too_large"


def test_other_errors_have_the_same_shape(server_url: str) -> None:
    missing = httpx.get(f"{server_url}/nothing-here")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found")
    method = httpx.get(f"{server_url}/compare")
    assert (method.status_code, method.json()["error"]["type"]) == (405, "method_not_allowed")


def compare(url: str, **request: Any) -> dict[str, Any]:
    reply = httpx.post(f"{url}/compare", json=request, timeout=120)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_continuations_in_context(server_url: str) -> None:
    """Scores of a continuation are those that the same tokens have within the whole text."""
    prompt, continuation = "the stone is heavy and", " the feather is light"
    answer = compare(server_url, prompt=prompt, continuations=[continuation, " it"], label=0)
    whole = compare(server_url, prompt=prompt + continuation)
    scores = answer["continuations"][0]
    count = len(scores["token_ids"])
    assert whole["prompt"]["token_ids"][-count:] == scores["token_ids"]
    for model in ("base", "quantized"):
        tail = whole["prompt"][model]["logprobs"][-count:]
        assert scores[model]["logprob"] == pytest.approx(sum(tail), abs=1e-4)
        assert sum(c[model]["confidence"] for c in answer["continuations"]) == pytest.approx(1)
    best = max(answer["continuations"], key=lambda c: c["base"]["logprob"])
    assert answer["choice"]["base"] == best["index"]
    assert answer["choice"]["correct"]["base"] == (best["index"] == 0)


def test_white_space_at_the_end_of_the_prompt_belongs_to_the_continuation(server_url: str) -> None:
    left = compare(server_url, prompt="the stone is ", continuations=["heavy"])["continuations"][0]
    right = compare(server_url, prompt="the stone is", continuations=[" heavy"])["continuations"][0]
    assert left["token_ids"] == right["token_ids"]
    assert left["base"]["logprob"] == pytest.approx(right["base"]["logprob"], abs=1e-6)


def test_continuation_without_context(server_url: str) -> None:
    answer = compare(server_url, prompt="", continuations=["the stone", "a"])
    assert answer["usage"]["prompt_tokens"] == 1
    assert all(c["base"]["logprob"] < 0 for c in answer["continuations"])


def test_identical_request_twice_returns_every_row(server_url: str) -> None:
    request = {"prompt": list(range(5, 205)), "continuations": [list(range(40, 120))], "top_logprobs": 3}
    first, second = compare(server_url, **request), compare(server_url, **request)
    assert first["continuations"] == second["continuations"]
    assert first["prompt"] == second["prompt"]
    assert len(second["continuations"][0]["scores"]["kl"]) == 80


def test_prefix_cache_is_read(server_url: str) -> None:
    context = list(range(300, 400))
    request = {"prompt": context, "continuations": [[i] for i in range(8)], "detail": "summary"}
    computed = compare(server_url, **request)["usage"]["computed_tokens"]
    assert computed < 8 * len(context) / 2


def test_batch_answers_in_order_with_its_own_errors(server_url: str) -> None:
    entries = [
        {"prompt": "the stone"},
        {"prompt": 3},
        {"prompt": [10**6]},
        {"prompt": "a feather", "detail": "summary"},
    ]
    reply = httpx.post(f"{server_url}/compare/batch", json={"requests": entries}, timeout=120)
    results = reply.json()["results"]
    assert reply.status_code == 200
    assert [("error" in result) for result in results] == [False, True, True, False]
    assert [results[i]["error"]["param"] for i in (1, 2)] == ["prompt", "prompt"]
    assert results[0]["prompt"]["tokens"][-1].strip() == "stone"
    assert results[3]["prompt"] is None


def test_tokenize_and_back(server_url: str) -> None:
    text = "the stone is heavy, naïve 東京"
    fields = {"prompt": text, "add_special_tokens": False}
    reply = httpx.post(f"{server_url}/tokenize", json=fields | {"return_token_strs": True}).json()
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["token_strs"][2] == " stone"
    assert httpx.post(f"{server_url}/tokenize", json=fields).json() == reply | {"token_strs": None}
    assert httpx.post(f"{server_url}/detokenize", json={"tokens": reply["tokens"]}).json() == {"prompt": text}


PROMPTS: tuple[dict[str, Any], ...] = (
    {"prompt": "the stone is"},
    {"prompt": "ends in a space "},
    {"prompt": " "},
    {"prompt": [5, 6, 7]},
    {"prompt": "the stone is", "add_special_tokens": False},
    {"messages": [{"role": "user", "content": "What is a cup made of?"}]},
    {"messages": [{"role": "assistant", "content": "A cup is"}], "continue_final_message": True},
)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokenize_splits_prompts_and_continuations_as_compare_does(server_url: str, prompt: dict[str, Any]) -> None:
    split = httpx.post(f"{server_url}/tokenize", json=prompt | {"continuation": " heavy stone"}).json()
    compared = compare(server_url, **prompt, continuations=[" heavy stone"])
    assert split["tokens"] == compared["prompt"]["token_ids"]
    assert split["continuation"] == compared["continuations"][0]["token_ids"]
    whole = httpx.post(f"{server_url}/tokenize", json=prompt).json()
    assert whole["continuation"] is None
    assert whole["tokens"] == compare(server_url, **prompt)["prompt"]["token_ids"]


def test_tokenize_takes_texts_beyond_the_context(server_url: str) -> None:
    fields = {"prompt": "the stone is heavy " * 2000, "continuation": "and hard " * 2000}
    reply = httpx.post(f"{server_url}/tokenize", json=fields, timeout=60).json()
    assert min(len(reply["tokens"]), len(reply["continuation"])) > reply["max_model_len"]


def test_tokenizer_info(server_url: str) -> None:
    info = httpx.get(f"{server_url}/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", None)
    assert info["eos_token_ids"] == [GenerationConfig.from_pretrained(PAIR / "base").eos_token_id]
    assert "messages" in info["chat_template"]


def test_the_columns_of_the_prompt_can_be_left_out(server_url: str) -> None:
    request = {"prompt": "the stone is", "continuations": [" heavy"]}
    whole, rest = compare(server_url, **request), compare(server_url, **request, score_prompt=False)
    assert rest["prompt"] is None
    assert len(whole["prompt"]["kl"]) == whole["usage"]["prompt_tokens"]
    for name in ("kl", "js", "total_variation"):
        assert rest["continuations"][0]["scores"][name] == pytest.approx(
            whole["continuations"][0]["scores"][name], abs=1e-4
        )


def test_paths_of_the_server_stay_its_own(server_url: str) -> None:
    unknown = httpx.post(f"{server_url}/v1/completions", json={"model": "x", "prompt": "a", "max_tokens": 1})
    for text in (
        httpx.get(f"{server_url}/v1/models").text,
        httpx.get(f"{server_url}/metrics").text,
        unknown.text,
    ):
        assert "pair/base" in text
        assert str(PAIR) not in text


def test_models_health_docs_and_metrics(server_url: str) -> None:
    models = httpx.get(f"{server_url}/v1/models").json()
    assert httpx.get(f"{server_url}/version").json() == models["server"]
    assert [model["id"] for model in models["data"]] == ["base", "quantized"]
    assert [model["quantization"] for model in models["data"]] == [None, "gptq"]
    assert {model["dtype"] for model in models["data"]} == {fast_dtype()}
    assert httpx.get(f"{server_url}/health").json() == {"status": "ok"}
    assert "qconf" in httpx.get(f"{server_url}/docs").text
    assert "/compare/batch" in httpx.get(f"{server_url}/openapi.json").json()["paths"]
    compare(server_url, prompt="the stone")
    metrics = httpx.get(f"{server_url}/metrics").text
    assert 'qconf_requests_total{route="/compare",status="200"}' in metrics
    assert 'qconf_request_duration_seconds_bucket{le="+Inf",route="/compare"}' in metrics


def series(url: str) -> set[str]:
    """Return all series that the server itself exports."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if line.startswith("qconf_")}


def counted(url: str, name: str) -> float:
    """Return the value of a series."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


def test_hostile_input_adds_no_series(server_url: str) -> None:
    def hostile(seed: str) -> None:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", f"X{len(seed)}"):
            for path in ("/", "/compare", "/compare/batch", "/metrics", "/v1/completions", "/docs/"):
                httpx.request(method, f"{server_url}{path}{seed}/%0a%22{seed}?a={seed}", headers={b"x": seed.encode()})
                httpx.request(method, f"{server_url}{path}", json={"prompt": 7, seed: seed})
        for body in (b"", b"{", seed.encode(), b"\xff", b'{"prompt": "\\ud800"}'):
            httpx.post(f"{server_url}/compare", content=body)
        # The server closes a connection whose body is too large, and its answer may be lost with it.
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{server_url}/compare", content=b"x" * (17 * 2**20))
        httpx.post(f"{server_url}/compare/batch", json={"requests": [{"prompt": "a", seed: 1}, {"prompt": [10**9]}]})
        httpx.post(f"{server_url}/v1/completions", json={"model": seed, "prompt": "a", "max_tokens": 1})
        compare(server_url, prompt=seed, continuations=[seed, f"{seed}{seed}"], label=1)

    hostile("first")
    before = series(server_url)
    hostile('second\u2028"')
    assert series(server_url) == before
    assert 'qconf_rejections_total{reason="request_too_large"}' in before
    assert any('route="unmatched"' in each for each in before)


def test_what_is_counted(server_url: str) -> None:
    names = [f'qconf_tokens_total{{kind="{kind}"}}' for kind in ("scored", "computed", "cached")]
    names += [f'qconf_request_{part}_seconds_count{{route="/compare/batch"}}' for part in ("queue", "engine")]
    names += ["qconf_comparisons_total", 'qconf_rejections_total{reason="invalid_request_error"}']
    httpx.post(f"{server_url}/compare/batch", json={"requests": [{"prompt": "a"}, {}]})  # makes the series
    before = [counted(server_url, name) for name in names]
    prompt = [2 + i % 300 for i in range(100)]
    # The prompt is scored first, so its blocks are in the cache when the choices follow.
    entries = [{"prompt": prompt, "continuations": [[5, 6], [7]]}, {"prompt": "a", "label": 3}, {}]
    reply = httpx.post(f"{server_url}/compare/batch", json={"requests": entries}).json()["results"]
    after = [counted(server_url, name) for name in names]
    scored, computed, cached, queue, engine, comparisons, refused = (b - a for a, b in zip(before, after, strict=True))
    assert scored == 99 + 2 + 1
    assert computed == reply[0]["usage"]["computed_tokens"]
    assert cached == 100 + 102 + 101 - computed > 0
    assert (queue, engine, comparisons, refused) == (1, 1, 1, 2)
    timing = reply[0]["timing"]
    assert 0 <= timing["queue_ms"] < timing["total_ms"]
    assert timing["tokenize_ms"] + timing["queue_ms"] + timing["engine_ms"] <= timing["total_ms"]
    assert counted(server_url, "qconf_tokens_in_flight") == counted(server_url, "qconf_sequences_in_flight") == 0
    assert counted(server_url, "qconf_engine_up") == 1
    assert "vllm:prefix_cache_queries_total" in httpx.get(f"{server_url}/metrics").text


def test_dropped_connection_aborts_its_work(server: LocalServer) -> None:
    """A client that leaves is counted, and later clients do not wait for its request."""
    entries = [{"prompt": [2 + (i + j) % 500 for j in range(400)]} for i in range(500)]
    body = json.dumps({"requests": entries}).encode()
    address = urlsplit(server.url)
    aborted = counted(server.url, "qconf_aborted_requests_total")
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = (
            f"POST /compare/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        time.sleep(1)
    deadline = time.monotonic() + 30
    counter = 'qconf_requests_total{route="/compare/batch",status="499"}'
    while counter not in httpx.get(f"{server.url}/metrics", timeout=60).text:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert counted(server.url, "qconf_aborted_requests_total") == aborted + 1
    compare(server.url, prompt="the stone")
