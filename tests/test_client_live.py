"""The client against a real server with the demo pair."""

import asyncio
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import AsyncClient, Client, CompareRequest, Comparison, ErrorDetail, InvalidRequest, NotFound
from client.bench.display.scoreboard import chosen, softmax
from client.bench.items import Item
from client.bench.sources.lm_eval_tasks import load_tasks
from qconf.demo import TASKS
from qconf.run.columns import ItemResult
from qconf.run.folder import read_run

NAMES = ["demo_boolq", "demo_arc_easy", "demo_openbookqa", "demo_hellaswag", "demo_piqa", "demo_storycloze"]

# What else is in the batch may change the shape of a matrix product and with it the rounding, hardly more on a CPU.
BATCH_TOLERANCE = 1e-3


@pytest.fixture
def qconf(server_url: str) -> Iterator[Client]:
    with Client(server_url) as client:
        yield client


@pytest.fixture(scope="session")
def items() -> list[Item]:
    return [item for task in load_tasks(NAMES, include_path=TASKS, limit=8).tasks for item in task.items]


def test_a_prompt_gets_columns_of_both_models(qconf: Client) -> None:
    reply = qconf.compare(prompt="the stone is heavy and the", top_logprobs=2)
    assert reply.continuations is None
    assert reply.prompt is not None
    length = len(reply.prompt.token_ids)
    for model in (reply.prompt.base, reply.prompt.quantized):
        assert [len(model.logprobs), len(model.entropy), len(model.confidence), len(model.argmax)] == 4 * [length]
        assert model.logprobs[0] is None
        assert all(value is not None and value <= 0 for value in model.logprobs[1:])
        assert model.top is not None
        assert all(top is not None and len(top.logprobs) == 2 for top in model.top[1:])
    kl = [value for value in reply.prompt.kl[1:] if value is not None]
    assert len(kl) == length - 1 == reply.summary.tokens
    assert reply.summary.mean_kl == pytest.approx(sum(kl) / len(kl), rel=1e-6)
    assert reply.summary.max_kl == max(kl)


def test_continuations_with_a_label(qconf: Client, items: list[Item]) -> None:
    item = items[0]
    reply = qconf.compare(prompt=item.contexts[0], continuations=item.choices, label=item.label)
    assert reply.continuations is not None
    assert reply.choice is not None
    assert [c.text for c in reply.continuations] == list(item.choices)
    base = [c.base.logprob for c in reply.continuations]
    quantized = [c.quantized.logprob for c in reply.continuations]
    assert [c.base.confidence for c in reply.continuations] == pytest.approx(softmax(base), rel=1e-6)
    assert [c.quantized.confidence for c in reply.continuations] == pytest.approx(softmax(quantized), rel=1e-6)
    assert (reply.choice.base, reply.choice.quantized) == (chosen(base), chosen(quantized))
    assert reply.choice.flip == (chosen(base) != chosen(quantized))
    assert reply.choice.label == item.label
    assert reply.choice.correct is not None
    assert reply.choice.correct.base == (chosen(base) == item.label)


def test_the_two_models_are_not_the_same(qconf: Client, items: list[Item]) -> None:
    reply = qconf.compare(prompt=items[0].contexts[0], continuations=items[0].choices, detail="summary")
    assert reply.summary.mean_kl is not None
    assert 0 < reply.summary.mean_kl < 5
    assert reply.continuations is not None
    assert all(c.scores is None for c in reply.continuations)


def test_a_batch_answers_in_order_and_a_bad_entry_for_itself(qconf: Client, items: list[Item]) -> None:
    first, second = (
        CompareRequest.model_validate({"prompt": item.contexts[0], "continuations": list(item.choices)})
        for item in items[:2]
    )
    replies = qconf.compare_batch([first, {"prompt": "a", "continuations": [" b"], "label": 5}, second])
    assert [type(reply) for reply in replies] == [Comparison, ErrorDetail, Comparison]
    assert isinstance(replies[1], ErrorDetail)
    assert replies[1].param == "label"
    alone = qconf.compare(prompt=items[1].contexts[0], continuations=items[1].choices)
    assert isinstance(replies[2], Comparison)
    assert logprobs(replies[2]) == pytest.approx(logprobs(alone), abs=BATCH_TOLERANCE)


def test_token_ids_score_as_the_text_they_are(qconf: Client, items: list[Item]) -> None:
    item = items[0]
    text = qconf.compare(prompt=item.contexts[0], continuations=item.choices)
    assert text.continuations is not None
    ids = qconf.compare(
        prompt=qconf.tokenize(item.contexts[0]).tokens, continuations=[c.token_ids for c in text.continuations]
    )
    assert logprobs(ids) == pytest.approx(logprobs(text), abs=BATCH_TOLERANCE)


def logprobs(reply: Comparison) -> list[float]:
    return [number for c in reply.continuations or [] for number in (c.base.logprob, c.quantized.logprob)]


def test_messages_are_rendered_with_the_chat_template(qconf: Client) -> None:
    reply = qconf.compare(messages=[{"role": "user", "content": "is the stone heavy ?"}], continuations=[" no", " yes"])
    assert reply.usage.prompt_tokens > 5
    assert reply.choice is not None


def test_models_and_readiness(qconf: Client) -> None:
    served = qconf.models()
    assert [model.id for model in served.data] == ["base", "quantized"]
    assert served.data[0].quantization is None
    assert "gptq" in str(served.data[1].quantization)
    assert served.server.vllm
    assert qconf.ready()


def test_errors_of_the_server_come_as_ours(qconf: Client, server_url: str) -> None:
    with pytest.raises(InvalidRequest, match="'label' is 2, expected an index below 2") as local:
        qconf.compare(prompt="a", continuations=[" b", " c"], label=2)
    assert local.value.status is None
    with pytest.raises(InvalidRequest) as remote:
        qconf.compare(prompt=[10**9, 1])
    assert (remote.value.status, remote.value.param) == (400, "prompt")
    with pytest.raises(InvalidRequest, match="tokens") as long:
        qconf.compare(prompt="the " * 5000)
    assert long.value.param == "prompt"
    with Client(f"{server_url}/nowhere") as elsewhere, pytest.raises(NotFound):
        elsewhere.models()


async def test_many_at_once_get_the_numbers_that_each_gets_alone(server_url: str, items: list[Item]) -> None:
    async with AsyncClient(server_url) as qconf:

        async def score(item: Item) -> Comparison:
            return await qconf.compare(prompt=item.contexts[0], continuations=item.choices, detail="summary")

        alone = [await score(item) for item in items[:32]]
        together = await asyncio.gather(*(score(item) for item in items[:32]))
    for one, other in zip(alone, together, strict=True):
        assert logprobs(other) == pytest.approx(logprobs(one), abs=BATCH_TOLERANCE)


def test_the_bench_replays_the_demo_tasks(server_url: str, tmp_path: Path, items: list[Item]) -> None:
    command = [sys.executable, "-m", "client.bench", "--url", server_url, "--tasks", ",".join(NAMES)]
    options = ["--include-path", str(TASKS), "--limit", "8", "--out", str(tmp_path / "run")]
    done = subprocess.run(command + options, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path / "run") in done.stdout
    run = read_run(tmp_path / "run")
    assert run.manifest.subject is not None
    assert [task.name for task in run.manifest.subject.tasks] == NAMES
    assert run.manifest.counts.model_dump() == {"items": 48, "ok": 48, "failed": 0}
    rows = run.items()
    assert [row.prompt_hash for row in rows] == [item.prompt_hash for item in items]
    assert all(_sound(row) for row in rows)
    with Client(server_url) as qconf:
        reply = qconf.compare(prompt=items[20].contexts[0], continuations=items[20].choices)
    assert list(rows[20].base_logprob) == pytest.approx(logprobs(reply)[::2], abs=BATCH_TOLERANCE)
    assert list(rows[20].quantized_logprob) == pytest.approx(logprobs(reply)[1::2], abs=BATCH_TOLERANCE)


def _sound(row: ItemResult) -> bool:
    numbers = [*row.base_logprob, *row.quantized_logprob]
    columns = [row.base_logprob, row.quantized_logprob, row.choice_tokens, row.base_is_greedy, row.choice_mean_kl]
    return (
        row.mean_kl is not None
        and row.max_kl is not None
        and 0 <= row.mean_kl <= row.max_kl
        and all(math.isfinite(number) and number <= 0 for number in numbers)
        and all(len(column) == row.n_choices for column in columns)
        and all(tokens > 0 for tokens in row.choice_tokens)
    )
