"""Logs of calls: what is sent for each form of line, what is left out and counted, and which files are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.bench.items import LoadedTask, TaskError
from client.bench.servers import Servers
from client.bench.sources.load import BenchOptions
from client.bench.sources.requests import load_requests
from qconf.run.calls import EMPTY, IN_WORDS
from qconf.run.folder import RunError, read_run
from qconf.wire import ModelInfo
from tests.fake_server import MODELS, FakeServer, error
from tests.replays import run, stopped

BASE = ModelInfo.model_validate(MODELS[0])
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "ab"}]}
TOOLS: dict[str, Any] = CHAT | {"tools": [{}]}
MEDIA: dict[str, Any] = {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}


def observed(request: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {"request": request, "response": {"choices": [choice]}, "source": "gateway", "key": "u-1"}


def recorded(tokens: int, part: str = "answer_text", **ids: list[int]) -> dict[str, Any]:
    summary = {"tokens": tokens, "mean_kl": 0.1}
    return {"mirrored": {"time": "now", "route": "/observe", "part": part, "variants": {"quantized": summary}}} | ids


def batch(body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def load(path: Path, fake: FakeServer, limit: int | None = None) -> LoadedTask:
    def servers() -> Servers:
        return Servers(["http://fake"], concurrency=2, timeout=60, retries=0, transport=fake.transport)

    return load_requests(path, BASE, servers, concurrency=2, limit=limit)


FORMS: dict[str, tuple[dict[str, Any], list[tuple[list[int], list[int]]]]] = {
    "a prompt": ({"prompt": "abc", "max_tokens": 5}, [([97], [98, 99])]),
    "ids": ({"prompt": [5, 6, 7]}, [([5], [6, 7])]),
    "a chat": (CHAT, [([97], [98])]),
    "a batch's input": (batch(CHAT), [([97], [98])]),
    "an answer's text": (observed({"prompt": "ab"}, text="cd"), [([97, 98], [99, 100])]),
    "an answer after ids": (observed({"prompt": [5, 6]}, text="cd"), [([5, 6], [99, 100])]),
    "a chat's answer": (observed(CHAT, message={"content": "c"}), [([97, 98], [99])]),
    "an answer's ids": (observed(CHAT, token_ids=[9, 8], prompt_token_ids=[5, 6]), [([5, 6], [9, 8])]),
    "an empty answer": (observed({"prompt": "ab"}, text=""), [([97], [98])]),
    "several prompts": ({"prompt": ["ab", "cd"]}, [([97], [98]), ([99], [100])]),
    "a record": (recorded(2, prompt_token_ids=[5, 6], token_ids=[9, 8]), [([5, 6], [9, 8])]),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_line_is_scored(options: BenchOptions, tmp_path: Path, form: str) -> None:
    line, expected = FORMS[form]
    fake = FakeServer()
    failed, _ = run(replace(options, tasks=[], requests=[write(tmp_path, line)]), fake)
    assert failed == 0
    assert sorted((body["prompt"], body["continuations"][0]) for body in fake.bodies("/compare")) == expected
    read = read_run(options.out)
    assert read.corpora == ["calls"]
    assert {item.kind for item in read.items()} == {"record"}
    assert read.tokens is not None
    columns = (read.tokens[name].to_pylist() for name in ("doc_id", "position", "token_id"))
    assert list(zip(*columns, strict=True)) == [
        (index, position, token) for index, (_, scored) in enumerate(expected) for position, token in enumerate(scored)
    ]


def test_what_has_ids_is_not_tokenized_again(options: BenchOptions, tmp_path: Path) -> None:
    fake = FakeServer()
    path = write(tmp_path, FORMS["an answer's ids"][0], FORMS["a record"][0])
    run(replace(options, tasks=[], requests=[path]), fake)
    assert fake.bodies("/tokenize") == []


def test_long_calls_are_cut(options: BenchOptions, tmp_path: Path) -> None:
    fake = FakeServer()
    path = write(tmp_path, observed({"prompt": "ab"}, text="c" * 30))
    run(replace(options, tasks=[], requests=[path], window=10, stride=4), fake)
    bodies = fake.bodies("/compare")
    assert all(len(body["prompt"]) + len(body["continuations"][0]) <= 10 for body in bodies)
    assert sum(len(body["continuations"][0]) for body in bodies) == 30


def test_calls_that_cannot_be_scored_are_counted(options: BenchOptions, tmp_path: Path) -> None:
    lines = [
        observed({"prompt": "ab"}, text="c"),
        observed(TOOLS, message={"content": "c"}),
        observed(TOOLS, token_ids=[9], prompt_token_ids=[5]),
        MEDIA,
        batch(MEDIA),
        observed({"prompt": "ab", "echo": True}, text="abc"),
        recorded(0, "prompt"),
        {"prompt": ["ab", "cd"]},
    ]
    options = replace(options, tasks=[], requests=[write(tmp_path, *lines)])
    _, printed = run(options, FakeServer())
    subject = read_run(options.out).manifest.subject
    assert subject is not None
    assert subject.settings.requests == [str(tmp_path / "calls.jsonl")]
    (task,) = subject.tasks
    calls = {"answer_text": 1, "tools": 1, "answer_ids": 1, "media": 2, "echo": 1, EMPTY: 1, "prompt": 1}
    assert (task.items, task.calls) == (4, calls)
    rows = {"calls": 8} | {IN_WORDS[kind]: count for kind, count in calls.items()}
    _, again = run(replace(options, resume=True), FakeServer())
    for text in (printed, again):
        shown = [line.rsplit(maxsplit=1) for line in text.splitlines()]
        assert [[words, str(count)] in shown for words, count in rows.items()] == [True] * len(rows)


def test_only_the_first_calls_are_taken(tmp_path: Path) -> None:
    task = load(write(tmp_path, {"prompt": ["ab", "cd"]}, TOOLS, CHAT), FakeServer(), limit=2)
    assert (len(task.items), task.calls) == (2, {"prompt": 1, "tools": 1})


def test_calls_that_the_server_refuses_or_that_have_one_token_are_left_out(
    options: BenchOptions, tmp_path: Path
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response | None:
        refused = request.url.path == "/tokenize" and json.loads(request.content)["messages"]
        return error(400, "the chat template refused 'messages': no", "messages") if refused else None

    path = write(tmp_path, {"prompt": "ab"}, {"prompt": "a"}, CHAT, {"prompt": ["a", "cd"]})
    failed, printed = run(replace(options, tasks=[], requests=[path]), FakeServer(refuse))
    assert failed == 0
    read = read_run(options.out)
    assert read.manifest.subject is not None
    (task,) = read.manifest.subject.tasks
    assert (task.items, task.calls) == (2, {"prompt": 2, "empty": 1, "refused": 1})
    assert task.refusal == "line 3: the chat template refused 'messages': no"
    assert f"The server refused calls, {task.refusal}" in printed
    with pytest.raises(TaskError, match="has no call that can be scored: 1 refused; line 1: the chat template refused"):
        load(write(tmp_path, CHAT), FakeServer(refuse))


NO_CALL = "line 1: the body: expected a call with 'messages' or 'prompt', a 'request' with its 'response', a line of a"
BAD: list[tuple[list[Any], str]] = [
    ([], "has no items: expected one JSON object per line"),
    ([{"text": "a"}], NO_CALL),
    ([[1]], NO_CALL),
    ([{"prompt": "a"}, {"prompt": 3}], "line 2: 'prompt': input should be a valid string"),
    ([{"prompt": "a", "messages": CHAT["messages"]}], "line 1: expected exactly one of 'prompt' and 'messages'"),
    ([CHAT | {"response": {"choices": []}}], "line 1: 'messages': extra inputs are not permitted, expected request"),
    ([{"request": CHAT, "reply": {}}], "line 1: 'reply': extra inputs are not permitted, expected request, response"),
    ([{"response": {"choices": []}}], "line 1: 'request': field required"),
    ([observed(CHAT, token_ids=[-1])], "line 1: 'response.choices[0].token_ids[0]': input should be greater than or"),
    ([{"custom_id": "1", "body": {"input": "a"}}], "line 1: expected exactly one of 'prompt' and 'messages'"),
    (
        [{"custom_id": "1", "response": {"body": {}}}],
        "line 1: 'body' is missing, the call, which a batch's output does",
    ),
    ([recorded(2)], "line 1: 'prompt_token_ids' is missing: expected calls recorded with --shadow-record-tokens"),
    ([{"prompt_token_ids": [1], "token_ids": [2]}], "line 1: 'mirrored': field required"),
    ([TOOLS, MEDIA, TOOLS], "has no call that can be scored: 2 tools, 1 media"),
]


@pytest.mark.parametrize(("lines", "message"), BAD)
def test_bad_lines_are_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(TaskError) as caught:
        load(path, FakeServer())
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_replay_resumes_only_with_the_same_calls(options: BenchOptions, tmp_path: Path) -> None:
    calls = [{"prompt": f"a{number}"} for number in range(9)]
    options = replace(options, tasks=[], requests=[write(tmp_path, *calls)])
    stopped(options)
    write(tmp_path, *reversed(calls))
    with pytest.raises(RunError, match=r"cannot be resumed: tasks\[0\]\.version was"):
        run(replace(options, resume=True), FakeServer())
    write(tmp_path, *calls)
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 4
    tokens = read_run(options.out).tokens
    assert tokens is not None
    assert tokens["token_id"].to_pylist() == [ord(str(number)) for number in range(9)]
