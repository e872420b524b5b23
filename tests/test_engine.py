"""The engine's numbers do not depend on batches, chunks and caches, and a model compared with itself diverges by 0.

Tolerance between ways of running: in bfloat16 the order of a matrix product's sums may depend on how many tokens run
together, which moves a hidden state by at most a unit in its last place and these tiny models' log-probabilities by
less than 0.02; divergences of both models' shared noise by less still.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.local_server import LocalServer, running_server
from tests.conftest import FIXTURES
from tests.pairs import make_pair

SEQUENCES = [[2 + (7 * i + 3 * j * j) % 1000 for j in range(90 + i)] for i in range(64)]
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def auto_gptq() -> Iterator[LocalServer]:
    """Serve a checkpoint of auto-gptq 0.7.1 and its base, compiled, in chunks far shorter than the prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "0")
        patch.setenv("TORCH_LOGS", "recompiles")
        with running_server(
            "--model",
            str(FIXTURES / "autogptq-0.7.1-base"),
            "--quantized",
            str(FIXTURES / "autogptq-0.7.1-quantized"),
            "--max-num-batched-tokens",
            "64",
            "--max-num-seqs",
            "16",
        ) as server:
            yield server


def score(url: str, **request: Any) -> dict[str, Any]:
    reply = httpx.post(f"{url}/compare", json=request, timeout=300)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def columns(prompt: dict[str, Any]) -> list[float]:
    """Return all numbers of a sequence in one list."""
    per_model = [prompt[model][name] for model in ("base", "quantized") for name in ("logprobs", "entropy")]
    return [value for column in (*per_model, prompt["kl"], prompt["js"]) for value in column[1:]]


def test_nothing_is_compiled_on_a_request(auto_gptq: LocalServer) -> None:
    for length in (2, 3, 17, 64, 65, 66, 90):
        score(auto_gptq.url, prompt=SEQUENCES[0][:length], top_logprobs=length % 4)
    printed = auto_gptq.log.read_text(encoding="utf-8")
    assert "are not compiled" not in printed
    assert "Recompiling function" not in printed


def test_alone_or_in_a_batch_of_64(auto_gptq: LocalServer) -> None:
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda ids: score(auto_gptq.url, prompt=ids), SEQUENCES))
    for ids, answer in zip(SEQUENCES[::16], together[::16], strict=True):
        alone = score(auto_gptq.url, prompt=ids)
        assert columns(alone["prompt"]) == pytest.approx(columns(answer["prompt"]), abs=TOLERANCE)


def test_from_a_warm_prefix_cache(auto_gptq: LocalServer) -> None:
    prompt, continuation = SEQUENCES[0], SEQUENCES[1][:20]
    score(auto_gptq.url, prompt=prompt)
    warm = score(auto_gptq.url, prompt=prompt, continuations=[continuation], detail="summary")
    cold = score(auto_gptq.url, prompt=prompt + continuation)
    assert warm["usage"]["computed_tokens"] < len(prompt)
    expected = sum(cold["prompt"]["base"]["logprobs"][-20:])
    assert warm["continuations"][0]["base"]["logprob"] == pytest.approx(expected, abs=20 * TOLERANCE)


def test_different_numbers_of_likeliest_tokens_in_one_batch(auto_gptq: LocalServer) -> None:
    with ThreadPoolExecutor(21) as pool:
        answers = list(pool.map(lambda k: score(auto_gptq.url, prompt=SEQUENCES[2], top_logprobs=k), range(21)))
    for k, answer in enumerate(answers):
        top = answer["prompt"]["base"]["top"]
        assert top is None if k == 0 else all(len(entry["token_ids"]) == k for entry in top[1:])


def test_whole_prefill_says_the_same_as_chunks_and_without_a_cache(auto_gptq: LocalServer) -> None:
    with running_server(
        "--model",
        str(FIXTURES / "autogptq-0.7.1-base"),
        "--quantized",
        str(FIXTURES / "autogptq-0.7.1-quantized"),
        "--no-enable-prefix-caching",
    ) as whole:
        for ids in SEQUENCES[::32]:
            chunks, one = score(auto_gptq.url, prompt=ids), score(whole.url, prompt=ids)
            assert columns(chunks["prompt"]) == pytest.approx(columns(one["prompt"]), abs=TOLERANCE)
        request = {"prompt": SEQUENCES[0], "continuations": [[5], [6]], "detail": "summary"}
        score(whole.url, **request)
        assert score(whole.url, **request)["usage"]["computed_tokens"] == 2 * (len(SEQUENCES[0]) + 1)
        assert whole.stop() == 0


def test_a_model_beside_itself_diverges_by_exactly_zero(tmp_path: Path) -> None:
    base = str(make_pair(tmp_path, "llama").base)
    with running_server("--model", base, "--quantized", base, "--allow-unquantized") as server:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda ids: score(server.url, prompt=ids), SEQUENCES[:32]))
        for answer in answers:
            assert answer["summary"]["max_kl"] == answer["summary"]["mean_js"] == 0
            assert set(answer["prompt"]["agree"][1:]) == {True}
        assert score(server.url, prompt="x", continuations=[" a", " b"])["choice"]["flip"] is False
