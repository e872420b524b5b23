"""Readers of files that users name or that a crash leaves behind: any bytes give content, or an error of their own."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.bench.items import TaskError
from client.bench.journal import Journal
from client.bench.outcome import KEPT
from client.bench.servers import Servers
from client.bench.sources.data import load_data
from client.bench.sources.records import load_records
from client.bench.sources.requests import load_requests
from client.lines import Lines
from client.results.samples import import_samples
from client.trace.prompts import read_prompts
from client.trace.writing import Limits, past_records
from qconf.rules import read_rules
from qconf.run.choices import EvalError
from qconf.run.folder import MANIFEST, RunError, read_manifest
from server.api.keys import read_keys
from server.quantize.calibration_text import documents
from server.quantize.errors import QuantizeError
from tests.fake_server import FakeServer
from tests.test_results import manifest, subject

SAMPLE = {
    "doc_id": 0,
    "doc": {"question": "Is it?"},
    "target": "1",
    "arguments": {
        "gen_args_0": {"arg_0": "Is it?", "arg_1": " yes"},
        "gen_args_1": {"arg_0": "Is it?", "arg_1": " no"},
    },
    "resps": [[["-1.25", "False"]], [["-0.5", "True"]]],
    "filtered_resps": [["-1.25", "False"], ["-0.5", "True"]],
    "filter": "none",
    "metrics": ["acc"],
    "acc": 1.0,
    "doc_hash": "a",
    "prompt_hash": "b",
}
WHOLE = SAMPLE | {
    "arguments": {"gen_args_0": {"arg_0": "a page"}},
    "resps": [["-9.5"]],
    "metrics": ["word_perplexity"],
    "word_perplexity": [-9.5, 2],
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    2**70,
    math.inf,
    math.nan,
    "",
    "x",
    "\ud800",
    "\x00",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
)

BASE = subject().models.base
RECORD = {"prompt_token_ids": [5, 6], "token_ids": [7, 1], "greedy_of": BASE.digest}
CHAT = {"messages": [{"role": "user", "content": "ab"}]}
CALLS = (
    {
        "request": CHAT,
        "response": {"choices": [{"message": {"content": "c"}, "token_ids": [7], "prompt_token_ids": [5]}]},
    },
    {"request": CHAT, "response": {"choices": [{"message": {"content": "c"}}]}},
    {"prompt": ["ab", "cd"]},
    {"custom_id": "1", "body": {"messages": [{"role": "user", "content": [{"type": "text", "text": "ab"}]}]}},
    {
        "mirrored": {"part": "prompt", "variants": {"quantized": {"tokens": 1}}},
        "prompt_token_ids": [5],
        "token_ids": [6],
    },
)

DEEP = 100_000
HAND_MADE = (
    b"",
    b"\n\n",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}\n",
    b"null\n",
    b"[]\n",
    b'"text"\n',
    b"1\n",
    b"NaN\n",
    b"1e999\n",
    b"9" * 5000 + b"\n",
    b"[" * DEEP + b"\n",
    b'{"a":' * DEEP + b"\n",
    rb'{"text": "\ud800", "prompt": "\ud800", "choices": ["\ud800", "b"]}' + b"\n",
    b'{"doc_id": 1e999}\n',
    b'{"doc_id": NaN}\n',
    b"a = " + b"[" * DEEP,
)


@dataclass(frozen=True)
class Reader:
    """A reader, the name of its file, its own errors, and content that it accepts."""

    file: str
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    accepted: Callable[[Path], list[bytes]]


def _lines(*objects: object) -> Callable[[Path], list[bytes]]:
    return lambda _: [b"".join(json.dumps(each).encode() + b"\n" for each in objects[:stop]) for stop in (1, 9)]


def _read_journal(path: Path) -> object:
    with Journal(path) as journal:
        return journal.begin([subject()], "now")


def _journals(folder: Path) -> list[bytes]:
    """Return a journal that has only begun, and one with two items."""
    path = folder / "journal.jsonl"
    path.unlink(missing_ok=True)
    with Journal(path) as journal:
        journal.begin([subject()], "then")
        begun = path.read_bytes()
        for number in range(2):
            journal.add("boolq", number, 0.5, {"quantized": dict.fromkeys(KEPT, 1) | {"answer": None}})
    return [begun, path.read_bytes()]


def _read_trace(path: Path) -> object:
    with Lines(path, "the trace") as lines:
        return list(past_records(path, lines.read(), Limits(BASE, ends=[1], max_tokens=3)))


def _read_calls(path: Path) -> object:
    transport = FakeServer().transport

    def servers() -> Servers:
        return Servers(["http://fake"], concurrency=1, timeout=60, retries=0, transport=transport)

    return load_requests(path, BASE, servers, concurrency=1)


def _read_samples(path: Path) -> object:
    out = path.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    return import_samples(path, path, out)


READERS = {
    "journal": Reader("journal.jsonl", _read_journal, (RunError,), _journals),
    "items": Reader(
        "items.jsonl",
        lambda path: load_data(path, delimiter=" "),
        (TaskError,),
        _lines(
            {"prompt": "a", "choices": ["b", "c"], "label": 0, "cluster": "d"}, {"prompt": "", "choices": ["b", "c"]}
        ),
    ),
    "records": Reader("a.jsonl", lambda path: load_records(path, BASE), (TaskError,), _lines(RECORD, RECORD)),
    "calls": Reader("a.jsonl", _read_calls, (TaskError,), _lines(*CALLS)),
    "trace": Reader("a.jsonl", _read_trace, (RunError,), _lines(RECORD, RECORD)),
    "prompts": Reader(
        "a.jsonl",
        read_prompts,
        (TaskError,),
        _lines({"prompt": "a"}, {"prompt": [5]}, {"messages": [{"role": "user", "content": "a"}]}),
    ),
    "lines": Reader("a.txt", read_prompts, (TaskError,), lambda _: [b"a\n", b"a\n\nb"]),
    "samples": Reader("samples_a_1.jsonl", _read_samples, (RunError,), _lines(SAMPLE, WHOLE | {"doc_id": 1})),
    "calibration": Reader("text.jsonl", lambda path: list(documents(path)), (QuantizeError,), _lines({"text": "a"})),
    "manifest": Reader(
        MANIFEST,
        lambda path: read_manifest(path.parent),
        (RunError,),
        lambda _: [manifest().model_dump_json().encode()],
    ),
    "rules": Reader(
        "gate.toml", read_rules, (EvalError,), lambda _: [b'[[rule]]\nstatistic = "accuracy"\nat_least = -0.02\n']
    ),
    "keys": Reader("keys", read_keys, (ValueError,), lambda _: [b"# who\nalice = 0123456789abcdef\n"]),
}


def attempt(reader: Reader, folder: Path, content: bytes) -> None:
    """Read the content. Whatever is not the reader's own error is raised."""
    path = folder / reader.file
    path.write_bytes(content)
    with contextlib.suppress(*reader.errors):
        reader.read(path)


def surprises(reader: Reader, folder: Path) -> Iterator[bytes]:
    """Yield content near to what the reader accepts, and hand-made content."""
    for content in reader.accepted(folder):
        yield from _variants(content)
        for made in HAND_MADE:
            yield made
            yield content + made
            yield made + content


def _variants(content: bytes) -> Iterator[bytes]:
    """Yield content of JSON lines with each value in its last line replaced by values of other types, or left out."""
    *before, last = content.splitlines(keepends=True)
    try:
        parsed = json.loads(last)
    except ValueError:
        return
    for changed in _changed(parsed):
        yield b"".join(before) + json.dumps(changed).encode() + b"\n"


def _changed(value: Any) -> Iterator[Any]:
    yield from VALUES
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        rest = value.copy()
        del rest[key]
        yield rest
        for changed in _changed(value[key]):
            other = value.copy()
            other[key] = changed
            yield other
