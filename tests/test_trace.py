"""Traces: the base model's greedy answers from a real server against transformers', resuming, and refusals."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from client import Client
from client.bench.items import TaskError
from client.trace.greedy import REQUEST_TOKENS
from client.trace.writing import Stopped, TraceOptions, write_trace
from qconf.demo import PAIR, TASKS
from qconf.run.folder import RunError, read_run
from tests.fake_server import MODELS, FakeServer, compare, error
from tests.oracle import LOGPROB_TOLERANCE

EOS = 36
ENDLESS = 1000
"""Texts after such a token do not end."""
MOST = 24


def answer(prompt: list[int], most: int) -> dict[str, Any]:
    """Return the stand-in's answer: counts up from the prompt's last token, and ends before 50."""
    written: list[int] = []
    while len(written) < most and EOS not in written:
        last = [*prompt, *written][-1]
        written.append(EOS if 49 <= last < ENDLESS else last + 1)
    return {"token_ids": written, "finish_reason": "stop" if EOS in written else "length"}


class Writer(FakeServer):
    """A stand-in whose base model writes. It stops answering after so many requests."""

    def __init__(self, requests: float = float("inf")) -> None:
        super().__init__(self._write)
        self.left = requests

    def _write(self, request: httpx.Request) -> httpx.Response | None:
        if request.url.path == "/ready" and not self.left:
            return error(503, "stopping")
        if request.url.path != "/compare":
            return None
        if not self.left:
            return error(503, "stopping")
        fields = json.loads(request.content)
        body = compare(fields)
        self.left -= 1
        body["generation"]["base"] |= answer(fields["prompt"], fields["max_tokens"])
        return httpx.Response(200, json=body)


@pytest.fixture
def options(tmp_path: Path) -> TraceOptions:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{chr(code)}\n" for code in (40, 45, 48, 60)))
    return TraceOptions(
        url="http://fake",
        prompts=prompts,
        out=tmp_path / "answers.jsonl",
        max_tokens=5,
        add_special_tokens=True,
        concurrency=2,
        retries=0,
        timeout=10.0,
        resume=False,
    )


def write(options: TraceOptions, fake: FakeServer) -> list[str]:
    said: list[str] = []
    write_trace(options, said.append, fake.transport)
    return said


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(found: Iterable[dict[str, Any]]) -> dict[tuple[int, ...], list[int]]:
    return {tuple(record["prompt_token_ids"]): record["token_ids"] for record in found}


WRITTEN = {(40,): [41, 42, 43, 44, 45], (45,): [46, 47, 48, 49, EOS], (48,): [49, EOS], (60,): [EOS]}


def test_texts_end_with_the_model_or_after_so_many_tokens(options: TraceOptions) -> None:
    fake = Writer()
    said = write(options, fake)
    found = records(options.out)
    assert texts(found) == WRITTEN
    assert {record["greedy_of"] for record in found} == {MODELS[0]["digest"]}
    assert len(fake.bodies("/compare")) == len(WRITTEN)
    assert said == [f"4 texts of 13 tokens in {options.out}"]


def test_a_long_text_takes_several_requests(options: TraceOptions) -> None:
    options.prompts.write_text(f"{chr(ENDLESS)}\n")
    fake = Writer()
    write(replace(options, max_tokens=300), fake)
    assert texts(records(options.out)) == {(ENDLESS,): list(range(ENDLESS + 1, ENDLESS + 301))}
    assert [body["max_tokens"] for body in fake.bodies("/compare")] == [REQUEST_TOKENS, 300 - REQUEST_TOKENS]


def test_a_text_ends_with_the_context(options: TraceOptions) -> None:
    options.prompts.write_text("(" * 509 + "\n")
    write(replace(options, max_tokens=100), Writer())
    assert [len(record["token_ids"]) for record in records(options.out)] == [3]


def test_prompts_are_texts_ids_or_chats_and_written_once(options: TraceOptions, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [
        {"prompt": "("},
        {"prompt": [40]},
        {"prompt": [45]},
        {"messages": [{"role": "user", "content": "()"}]},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write(replace(options, prompts=path, concurrency=1), Writer())
    assert texts(records(options.out)) == {
        (40,): WRITTEN[40,],
        (45,): WRITTEN[45,],
        (40, 41): [42, 43, 44, 45, 46],
    }
    assert len(records(options.out)) == 3


def test_a_finished_text_is_not_written_again(options: TraceOptions) -> None:
    with pytest.raises(Stopped, match=r"1 texts are kept in .*answers\.jsonl: run the same command with --resume"):
        write(replace(options, concurrency=1), Writer(requests=1))
    assert texts(records(options.out)) == {(40,): WRITTEN[40,]}
    with options.out.open("a") as file:
        file.write('{"prompt_token_ids": [45')  # cut off while it was written
    fake = Writer()
    write(replace(options, resume=True), fake)
    assert texts(records(options.out)) == WRITTEN
    assert len(fake.bodies("/compare")) == 3
    with pytest.raises(RunError, match="exists already: --resume continues it"):
        write(options, Writer())


@pytest.mark.parametrize("max_tokens", [4, 6])
def test_other_lengths_are_not_mixed(options: TraceOptions, max_tokens: int) -> None:
    write(options, Writer())
    with pytest.raises(RunError, match=r"answers\.jsonl, line \d has 5 tokens, and with --max-tokens"):
        write(replace(options, resume=True, max_tokens=max_tokens), Writer())


def test_other_models_are_not_mixed(options: TraceOptions) -> None:
    write(options, Writer())
    (first, *rest) = options.out.read_text().splitlines()
    options.out.write_text("\n".join([first.replace(MODELS[0]["digest"], "another"), *rest]) + "\n")
    with pytest.raises(RunError, match=r"line 1: 'greedy_of' is 'another', expected the base model's digest"):
        write(replace(options, resume=True), Writer())


def test_another_model_ends_the_trace(options: TraceOptions) -> None:
    class Replaced(Writer):
        def _write(self, request: httpx.Request) -> httpx.Response | None:
            reply = super()._write(request)
            if reply is None:
                return None
            body = reply.json()
            body["models"]["base"] = body["models"]["base"] | {"digest": "another", "root": "fake/other"}
            return httpx.Response(200, json=body)

    with pytest.raises(Stopped, match="another base model is being served now: fake/other; 0 texts are kept"):
        write(options, Replaced())


BAD = [
    ("prompts.txt", b"\n \n", "prompts.txt has no prompts: expected one per line"),
    ("prompts.txt", b"ab\xff", "prompts.txt is not UTF-8 text: byte 2 is 0xff"),
    ("prompts.txt", b"a\n" + b"b" * 512, "prompts.txt, line 2: the prompt has 512 tokens, expected 1 to 511"),
    ("prompts.jsonl", b"{}", "prompts.jsonl, line 1: expected exactly one of 'prompt' and 'messages'"),
    ("prompts.jsonl", b'{"prompt": 3}', "prompts.jsonl, line 1: 'prompt': expected text or a list of at least one"),
    ("prompts.jsonl", b'{"text": "a"}', "prompts.jsonl, line 1: 'text': extra inputs are not permitted"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_prompts_are_refused(
    options: TraceOptions, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError) as caught:
        write(replace(options, prompts=tmp_path / name), Writer())
    assert message in str(caught.value)


def test_what_the_server_refuses_is_named_by_its_line(options: TraceOptions) -> None:
    def refuse(request: httpx.Request) -> httpx.Response | None:
        return error(400, "'prompt[0]' is 40, expected less", "prompt") if request.url.path == "/compare" else None

    with pytest.raises(TaskError, match=r"prompts\.txt, line 1: 'prompt\[0\]' is 40, expected less"):
        write(replace(options, concurrency=1), FakeServer(refuse))


def test_a_trace_has_the_name_of_a_corpus_of_ids(options: TraceOptions, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"answers\.txt, expected a name that ends in \.jsonl"):
        write(replace(options, out=tmp_path / "answers.txt"), Writer())


@pytest.fixture(scope="module")
def trace(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    items = (TASKS / "demo_storycloze" / "items.jsonl").read_text().splitlines()[:24]
    prompts = [{"prompt": json.loads(item)["prompt"]} for item in items]
    chat = {"messages": [{"role": "user", "content": "What is a cup made of?"}]}
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [*prompts, chat]))
    command("client.trace", "--url", server_url, "--prompts", str(folder / "prompts.jsonl"),
            "--out", str(folder / "answers.jsonl"), "--max-tokens", str(MOST))  # fmt: skip
    return folder / "answers.jsonl"


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_each_token_is_the_base_models_likeliest(trace: Path) -> None:
    """Where that can be told: of two tokens that are equally likely within the tolerance, either may be written."""
    model = AutoModelForCausalLM.from_pretrained(PAIR / "base", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(PAIR / "base")
    found = records(trace)
    assert len(found) == 25
    chat = [{"role": "user", "content": "What is a cup made of?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) in texts(found)
    clear = []
    for record in found:
        prompt, written = record["prompt_token_ids"], record["token_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        first, second = logprobs.topk(2)[0].unbind(-1)
        certain = first - second > 2 * LOGPROB_TOLERANCE["bfloat16"]
        assert (logprobs.argmax(-1) == torch.tensor(written))[certain].all()
        assert model.generation_config.eos_token_id not in written[:-1]
        assert len(written) == MOST or written[-1] == model.generation_config.eos_token_id
        clear += certain.tolist()
    assert sum(clear) > 0.8 * len(clear)


def test_a_text_is_what_scoring_finds_likeliest_token_by_token(server_url: str, trace: Path) -> None:
    """Where that can be told, as above: other batches round otherwise."""
    with Client(server_url) as qconf:
        for record in records(trace)[:3]:
            sequence = record["prompt_token_ids"]
            for written in record["token_ids"]:
                reply = qconf.compare(prompt=sequence, continuations=[[written]], score_prompt=False, top_logprobs=2)
                assert reply.continuations
                scores = reply.continuations[0].scores
                assert scores
                assert scores.base.top
                assert scores.base.top[0]
                first, second = scores.base.top[0].logprobs
                clear = first - second > 2 * LOGPROB_TOLERANCE["bfloat16"]
                assert scores.base.argmax[0] == written or not clear
                sequence = [*sequence, written]


def test_a_replay_of_it_has_its_divergent_tokens(server_url: str, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = command("client.bench", "--url", server_url, "--corpus", str(trace), "--out", str(out))
    assert "base's text, divergent tokens" in printed
    run = read_run(out)
    assert run.tokens is not None
    assert {item.kind for item in run.items()} == {"trace"}
    rows = run.tokens.to_pylist()
    for number, record in enumerate(records(trace)):
        assert [row["token_id"] for row in rows if row["doc_id"] == number] == record["token_ids"]
    again = [row["token_id"] == row["base_argmax"] for row in rows]
    # All of them, but where another batch rounds two equally likely tokens otherwise.
    assert sum(again) >= 0.97 * len(again)
    summary = run.results["tasks"]["answers"]["corpus"]
    divergent = [row["token_id"] != row["quantized_argmax"] for row in rows]
    assert summary["divergent"] == pytest.approx(sum(divergent) / len(divergent))
    assert 0 < summary["divergent"] < 0.5
    assert summary["mean_total_variation"] < 0.5
    assert 0 <= summary["first_divergent"] <= MOST
