"""A real server with one base and several quantized variants of it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from playwright.sync_api import expect

from client import Client
from demo.local_server import LocalServer, ServerDidNotStart, running_server
from qconf.float32 import from_base64
from qconf.run.folder import read_run
from tests.browser import browsing, needs_chromium, watched
from tests.oracle import LOGPROB_TOLERANCE, expected
from tests.pairs import VOCABULARY, TinyPair, make_pair
from tests.test_oracle import TOP, check_prompt

DTYPE = "float32"
FORMATS: dict[str, dict[str, Any]] = {
    "int4": {"method": "gptq", "bits": 4},
    "int8": {"method": "gptq", "bits": 8, "group_size": 32},
    "packed": {"method": "compressed-tensors", "bits": 4, "group_size": 64},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyPair]:
    """Make variants of bases that are alike, since each is made with the same seed."""
    return {name: make_pair(tmp_path_factory.mktemp(name), "llama", **how) for name, how in FORMATS.items()}


def arguments(pairs: dict[str, TinyPair], names: list[str]) -> list[str]:
    variants = [each for name in names for each in ("--quantized", f"{name}={pairs[name].quantized}")]
    return ["--model", str(pairs["int4"].base), *variants, "--dtype", DTYPE]


@pytest.fixture(scope="module")
def server(pairs: dict[str, TinyPair], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    # With a folder for state, the start scores every variant's canary rows too.
    state = tmp_path_factory.mktemp("state")
    with running_server(*arguments(pairs, list(FORMATS)), "--state-dir", str(state)) as live:
        assert len(list(state.glob("canary-*.npy"))) == 1
        yield live


def test_models_are_listed_by_name(server: LocalServer, pairs: dict[str, TinyPair]) -> None:
    with Client(server.url) as client:
        models = client.models().data
    assert [each.id for each in models] == ["base", *FORMATS]
    assert [each.quantization for each in models] == [None, "gptq", "gptq", "compressed-tensors"]
    assert len({each.digest for each in models}) == 4
    sizes = [each.size.bytes for each in models if each.size]
    assert len(sizes) == 4
    assert sizes[1] < sizes[2] < sizes[0]


def test_each_variant_agrees_with_transformers(server: LocalServer, pairs: dict[str, TinyPair]) -> None:
    """Lengths are below and above a block of the prefix cache. Tolerances are those of a pair: tests/oracle.py."""
    generator = torch.Generator().manual_seed(0)
    for length in (2, 61, 300):
        ids = torch.randint(2, VOCABULARY, (length,), generator=generator).tolist()
        body = {"prompt": ids, "top_logprobs": TOP}
        reply = httpx.post(f"{server.url}/compare", json=body, timeout=120).raise_for_status().json()
        assert list(reply["variants"]) == ["int8", "packed"]
        for name, pair in pairs.items():
            scores = reply if name == "int4" else reply["variants"][name]
            assert scores["models"]["quantized"]["id"] == name
            check_prompt(scores["prompt"], pair, ids, DTYPE)


def test_expected_counts_agree_with_transformers(server: LocalServer, pairs: dict[str, TinyPair]) -> None:
    """Log-probabilities may be off by the tolerance, and so the sums of probabilities by as much of themselves.

    The second of equal requests finds its positions in the prefix cache.
    """
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (300,), generator=generator).tolist()
    for context in (280, 280, 1, 299):
        with Client(server.url) as client:
            reply = client.compare(prompt=ids[:context], continuations=[ids[context:]], expected_counts=True)
        for name, pair in pairs.items():
            want = expected(pair.base_model, pair.quantized_model, ids)
            (continuation,) = reply.of(name).continuations or []
            assert continuation.expected_counts is not None
            for text, logprobs in (
                (continuation.expected_counts.base, want.base_logprobs),
                (continuation.expected_counts.quantized, want.quantized_logprobs),
            ):
                counts = torch.tensor(from_base64(text), dtype=torch.float64)
                sums = logprobs[context - 1 :].exp().sum(0)
                torch.testing.assert_close(counts, sums, rtol=LOGPROB_TOLERANCE[DTYPE], atol=0)
                # As many in all as there are positions, to float32's rounding of a sum of 300.
                assert counts.sum().item() == pytest.approx(300 - context, rel=300 * 6e-8)


def test_expected_counts_are_of_one_continuation(server: LocalServer) -> None:
    one = {"prompt": [5, 6], "continuations": [[7]], "expected_counts": True}
    for continuations in (None, [[7], [8]]):
        body = {"prompt": [5, 6], "continuations": continuations, "expected_counts": True}
        answer = httpx.post(f"{server.url}/compare", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "expected_counts"
        assert f"needs 1 continuation, got {len(continuations or [])}" in answer.json()["error"]["message"]
    answer = httpx.post(f"{server.url}/compare/batch", json={"requests": [one, {"prompt": [5, 6]}]})
    refused, scored = answer.json()["results"]
    assert refused["error"]["param"] == "expected_counts"
    assert scored["summary"]["tokens"] == 1


def test_a_variant_among_others_is_as_alone(server: LocalServer, pairs: dict[str, TinyPair]) -> None:
    body: dict[str, Any] = {"prompt": list(range(5, 60)), "continuations": [[7, 8, 9], [10, 11]], "label": 1}
    with Client(server.url) as client:
        together = client.compare(**body)
        again = client.compare(**body)
    with running_server(*arguments(pairs, ["int8"])) as alone, Client(alone.url) as client:
        expected = client.compare(**body)
    # The same rows of the same matrices, perhaps in batches of another size: the last digits of float32.
    found = together.of("int8")
    for name in FORMATS:
        assert again.of(name).summary.mean_kl == pytest.approx(together.of(name).summary.mean_kl, rel=1e-4)
    for ours, theirs in zip(found.continuations or [], expected.continuations or [], strict=True):
        assert ours.quantized.logprob == pytest.approx(theirs.quantized.logprob, abs=1e-4)
        assert ours.base.logprob == pytest.approx(theirs.base.logprob, abs=1e-4)
        assert ours.summary.mean_kl == pytest.approx(theirs.summary.mean_kl, rel=1e-3)
    assert found.choice is not None
    assert expected.choice is not None
    assert (found.choice.base, found.choice.quantized) == (expected.choice.base, expected.choice.quantized)
    with pytest.raises(KeyError):
        together.of("int3")


def test_usage_counts_a_token_once(server: LocalServer) -> None:
    with Client(server.url) as client:
        reply = client.compare(prompt=list(range(90, 100)))
    assert (reply.usage.prompt_tokens, reply.usage.scored_tokens, reply.usage.computed_tokens) == (10, 9, 10)


def test_the_openai_package_names_a_variant(server: LocalServer) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none")
    assert [model.id for model in client.models.list().data] == ["base", *FORMATS]

    def logprobs(model: str) -> Sequence[float | None]:
        reply = client.completions.create(
            model=model, prompt=list(range(5, 30)), max_tokens=0, echo=True, logprobs=1, temperature=0
        )
        assert reply.choices[0].logprobs is not None
        return reply.choices[0].logprobs.token_logprobs or []

    with Client(server.url) as compare:
        reply = compare.compare(prompt=list(range(5, 30)))
    for name in FORMATS:
        prompt = reply.of(name).prompt
        assert prompt is not None
        assert logprobs(name)[1:] == pytest.approx(prompt.quantized.logprobs[1:], abs=1e-4)
        assert logprobs("base")[1:] == pytest.approx(prompt.base.logprobs[1:], abs=1e-4)
    assert logprobs("quantized") == logprobs("int4")
    body = {"model": "int3", "prompt": "a", "max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert answer.status_code == 400
    assert "'int3', expected one of " in answer.json()["error"]["message"]
    assert "'int8'" in answer.json()["error"]["message"]


def test_metrics_know_variants_by_name(server: LocalServer) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    for name in FORMATS:
        assert f'qconf_comparisons_total{{variant="{name}"}}' in text
        assert f'model="{name}"' in text
    assert 'qconf_tokens_total{kind="scored"}' in text


def test_a_replay_writes_a_run_for_each(server: LocalServer, tmp_path: Path) -> None:
    items = [{"prompt": f"{number} and", "choices": ["one", "two", "three"], "label": 0} for number in range(6)]
    data, out = tmp_path / "items.jsonl", tmp_path / "runs"
    data.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    command = [sys.executable, "-m", "client.bench", "--url", server.url, "--data", str(data), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == sorted(FORMATS)
    with Client(server.url) as client:
        served = {model.id: model for model in client.models().data}
        reply = client.compare(prompt="0 and", continuations=[" one", " two", " three"])
    for name in FORMATS:
        run = read_run(out / name)
        assert run.manifest.subject is not None
        assert run.manifest.subject.models.quantized == served[name]
        assert run.manifest.counts.ok == 6
        expected = reply.of(name).continuations or []
        row = run.items()[0]
        assert list(row.base_logprob) == pytest.approx([each.base.logprob for each in expected], abs=1e-4)
        assert list(row.quantized_logprob) == pytest.approx([each.quantized.logprob for each in expected], abs=1e-4)


def test_a_batch_has_all_variants(server: LocalServer) -> None:
    with Client(server.url) as client:
        results = client.compare_batch([{"prompt": [5, 6, 7]}, {"prompt": []}, {"prompt": [8, 9]}])
    assert [hasattr(each, "variants") for each in results] == [True, False, True]


def test_a_variant_that_does_not_fit_is_refused_by_name(pairs: dict[str, TinyPair], tmp_path: Path) -> None:
    other = make_pair(tmp_path, "opt")
    wrong = [*arguments(pairs, ["int4"]), "--quantized", f"other={other.quantized}"]
    with pytest.raises(ServerDidNotStart, match=f"{other.quantized} is OPTForCausalLM"), running_server(*wrong):
        pass


@needs_chromium
def test_the_page_shows_the_variant_that_is_selected(server: LocalServer) -> None:
    with Client(server.url) as client:
        reply = client.compare(prompt="Any text of a few words", top_logprobs=10)
    with browsing() as browser:
        page = browser.new_page()
        problems = watched(page)
        page.goto(server.url)
        expect(page.locator("#variant option")).to_have_count(len(FORMATS))
        page.fill("#prompt", "Any text of a few words")
        page.click("#compare")
        expect(page.locator("#prompt-tokens .token").first).to_be_visible()
        for name in FORMATS:
            page.select_option("#variant", name)
            scores = reply.of(name).prompt
            assert scores is not None
            # The strongest colour of the default quantity, KL, is at the largest.
            levels = page.locator("#prompt-tokens .token").evaluate_all(
                "all => all.map((each) => Number(each.style.getPropertyValue('--level')))"
            )
            kl = [value or 0 for value in scores.kl]
            assert levels[kl.index(max(kl))] == max(levels)
            page.locator("#prompt-tokens .token").nth(kl.index(max(kl))).hover()
            drawn = page.locator(".pairs dd").first.inner_text().replace("\N{MINUS SIGN}", "-")
            assert float(drawn) == pytest.approx(max(kl), rel=0.05)
        address = page.url
        page.goto("about:blank")
        page.goto(address)
        expect(page.locator("#prompt-tokens .token").first).to_be_visible()
        assert page.input_value("#variant") == name
        assert problems == []


@torch.no_grad()
def test_every_model_answers_as_transformers_does_and_answers_part_where_they_differ(
    server: LocalServer, pairs: dict[str, TinyPair]
) -> None:
    """In float32, where the two likeliest tokens of models with random weights are never as good as tied."""
    prompt, length = [7, 300, 21], 12
    expected_ids = {"base": greedy(pairs["int4"].base_model, prompt, length)}
    expected_ids |= {name: greedy(pair.quantized_model, prompt, length) for name, pair in pairs.items()}
    with Client(server.url) as client:
        reply = client.compare(prompt=prompt, max_tokens=length, ignore_eos=True)
        alone = client.compare(prompt=prompt, max_tokens=length, ignore_eos=True, generate_from="packed")
    distinct = {tuple(ids[: i + 1]) for ids in expected_ids.values() for i in range(length)}
    assert reply.usage.generated_tokens == len(distinct)
    for name in FORMATS:
        generation: Any = reply.of(name).generation
        assert generation.base.token_ids == expected_ids["base"]
        assert generation.quantized.token_ids == expected_ids[name]
        assert generation.quantized.scores.quantized.argmax == expected_ids[name]
    assert len(distinct) > length  # some part
    assert alone.generation is None
    only: Any = alone.of("packed").generation
    assert only.base is None
    assert only.quantized.token_ids == expected_ids["packed"]


def greedy(model: Any, prompt: list[int], length: int) -> list[int]:
    ids = list(prompt)
    for _ in range(length):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
