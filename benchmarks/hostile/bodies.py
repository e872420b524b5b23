"""Hostile bodies: what is not JSON, JSON that is too much, and every field with values of every type."""

import gzip
import json
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from benchmarks.hostile.cases import JUDGED, REFUSED, VALID, Case, post
from qconf.wire import BatchRequest, CompareRequest, DetokenizeRequest, Message, Request, TokenizeRequest
from server.api.chat import ChatRequest
from server.api.completions import CompletionRequest

MEGABYTE = 2**20
MODELS: dict[str, type[Request]] = {
    "/compare": CompareRequest,
    "/compare/batch": BatchRequest,
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "open object": b"{",
    "open list": b"[",
    "closed object": b"}",
    "half a literal": b"nul",
    "single quotes": b"{'prompt': 'a'}",
    "trailing comma": b'{"prompt": "a",}',
    "no colon": b'{"prompt" "a"}',
    "no value": b'{"prompt":}',
    "number as name": b'{1: "a"}',
    "comment": b'{"prompt": "a"} // a',
    "trailing text": b'{"prompt": "a"} x',
    "two documents": b'{"prompt": "a"}{"prompt": "b"}',
    "byte order mark": b'\xef\xbb\xbf{"prompt": "a"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "UTF-16 without mark": '{"prompt": "a"}'.encode("utf-16-le"),
    "UTF-32": '{"prompt": "a"}'.encode("utf-32"),
    "Latin-1": b'{"prompt": "\xe9"}',
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "half a character": b'{"prompt": "\xf0\x9f"}',
    "overlong": b'{"prompt": "\xc0\xaf"}',
    "overlong NUL": b'{"prompt": "\xc0\x80"}',
    "surrogate in UTF-8": b'{"prompt": "\xed\xa0\x80"}',
    "beyond Unicode": b'{"prompt": "\xf4\x90\x80\x80"}',
    "NUL before": b'\x00{"prompt": "a"}',
    "NUL after": b'{"prompt": "a"}\x00',
    "NUL within": b'{"prompt": "a\x00b"}',
    "control character": b'{"prompt": "a\x1b[31m"}',
    "line break in text": b'{"prompt": "a\nb"}',
    "half a surrogate pair": rb'{"prompt": "\ud800"}',
    "low surrogate": rb'{"prompt": "\udc00\ud800"}',
    "half a surrogate pair in a name": rb'{"\ud800": "a"}',
    "bad escape": rb'{"prompt": "\x41"}',
    "short escape": rb'{"prompt": "\u12"}',
    "open text": b'{"prompt": "a',
    "NaN": b'{"prompt": NaN}',
    "NaN in a list": b'{"prompt": [1, NaN]}',
    "Infinity": b'{"prompt": Infinity}',
    "minus Infinity": b'{"prompt": -Infinity}',
    "NaN as a whole": b"NaN",
    "hexadecimal": b'{"prompt": [0x10]}',
    "leading zero": b'{"prompt": [01]}',
    "plus": b'{"prompt": [+1]}',
    "no digits before the point": b'{"prompt": [.5]}',
    "no digits after the point": b'{"prompt": [1.]}',
    "no exponent": b'{"prompt": [1e]}',
    "form": b"prompt=a&detail=summary",
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "YAML": b"prompt: !!python/object/apply:os.system ['true']",
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
    "a megabyte of one character": b"a" * MEGABYTE,
    "a megabyte of NUL": b"\x00" * MEGABYTE,
    "a megabyte of quotes": b'"' * MEGABYTE,
    "a megabyte of backslashes": b'{"prompt": "' + b"\\" * MEGABYTE,
    "a megabyte of white space": b" " * MEGABYTE,
    "a megabyte of open lists": b"[" * MEGABYTE,
    "a megabyte of open objects": b'{"a":' * (MEGABYTE // 5),
    "a megabyte of commas": b"[" + b"," * MEGABYTE,
    "a megabyte of minus signs": b"-" * MEGABYTE,
}
"""Refused by every route that reads JSON."""
TOO_MUCH: dict[str, bytes] = {
    "depth of 100": b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}",
    "depth of 1,000": b'{"prompt": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "depth of 100,000": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects, depth of 100": b'{"prompt": ' + b'{"a":' * 100 + b"1" + b"}" * 101,
    "a number of 4,000 digits": b'{"prompt": [' + b"9" * 4000 + b"]}",
    "a number of 100,000 digits": b'{"prompt": [' + b"9" * 100_000 + b"]}",
    "a fraction of 100,000 digits": b'{"prompt": [0.' + b"9" * 100_000 + b"]}",
    "an exponent of 100,000 digits": b'{"prompt": [1e' + b"9" * 100_000 + b"]}",
    "a number beyond floats": b'{"prompt": [1e999]}',
    "a million numbers": b'{"prompt": [' + b"1," * 1_000_000 + b"1]}",
    "a million texts": b'{"prompt": [' + b'"",' * 1_000_000 + b'""]}',
    "a million lists": b'{"prompt": [' + b"[]," * 1_000_000 + b"[]]}",
    "a hundred thousand unknown fields": json.dumps({f"f{number}": 1 for number in range(100_000)}).encode(),
    "a field's name of a megabyte": b'{"' + b"a" * MEGABYTE + b'": 1}',
    "an unknown field that is odd": b'{"\\u0000\\u202e__proto__": {"polluted": true}}',
    "the wrong field twice": b'{"wrong": 1, "wrong": 2}',
}
"""JSON that no route accepts, some of it refused before it is parsed."""
TEXTS: dict[str, str] = {
    "nothing": "",
    "NUL": "\u0000",
    "a megabyte of a": "a" * MEGABYTE,
    "a megabyte of spaces": " " * MEGABYTE,
    "a megabyte of line breaks": "\n" * MEGABYTE,
    "a megabyte of foxes": "🦊" * (MEGABYTE // 4),
    "a megabyte of accents": "e" + "\u0301" * (MEGABYTE // 2),
    "a megabyte of NUL": "\u0000" * (MEGABYTE // 6),
    "a megabyte of joiners": "\u200d" * (MEGABYTE // 3),
    "a megabyte of words": "the stone " * (MEGABYTE // 10),
    "4,000 characters": "ab" * 2000,
    "right to left": "\u202eabc\u202c",
    "noncharacters": "\uffff\ufffe\ufdd0\U0010ffff",
    "byte order mark": "\ufeff",
    "special tokens": "<s></s><unk><pad><|endoftext|><|im_start|>",
    "a template": "{{ 7 * 7 }}{% include '/etc/passwd' %}${7*7}",
    "terminal commands": "\u001b]0;a\u0007\u001b[2J",
    "line separators": "a\u2028b\u0085c\x0bd",
    "markup": "<script>alert(1)</script>",
    "a path": "../../../../etc/passwd\u0000.json",
}
ANY: dict[str, Any] = {
    "null": None,
    "true": True,
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "-0.0": -0.0,
    "1e308": 1e308,
    "2 to the 31": 2**31,
    "2 to the 63": 2**63,
    "2 to the 64": 2**64,
    "10 to the 1,000": 10**1000,
    "a text": "x",
    "the number as a text": "1",
    "no text": "",
    "an empty list": [],
    "an empty object": {},
    "a list in a list": [[]],
    "a list of null": [None],
    "a mixed list": [1, "a", [1]],
    "a list of texts": ["a", "b"],
    "ids": [5, 6],
    "ids beyond the vocabulary": [2**31, 2**63],
    "negative ids": [-1, -(2**70)],
    "an object": {"a": {"b": 1}},
    "a message": [{"role": "user\u0000", "content": "\u0000"}],
}


def bodies(key: str = "") -> Iterator[Case]:
    """Yield all hostile bodies."""
    for route in VALID:
        for family, contents in (("not JSON", NOT_JSON), ("too much", TOO_MUCH)):
            for name, body in contents.items():
                yield Case(family, f"{route}: {name}", post(route, body, key=key), REFUSED)
        for name, value in ANY.items():
            yield Case("whole bodies", f"{route}: {name}", post(route, _json(value), key=key), REFUSED)
        yield from _fields(route, key)
        yield from _encoded(route, key)
    yield from _texts(key)
    yield from _counts(key)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _fields(route: str, key: str) -> Iterator[Case]:
    """Yield the route's valid body with each of its fields replaced by each value."""
    for field in MODELS[route].model_fields:
        for name, value in ANY.items():
            yield Case("fields", f"{route}: {field} is {name}", _with(route, key, {field: value}), JUDGED)
    for field in Message.model_fields:
        for name, value in ANY.items():
            message = {"role": "user", "content": "a"} | {field: value}
            body = {"prompt": None, "continuations": None, "label": None, "messages": [message]}
            if route == "/compare":
                yield Case("fields", f"{route}: a message's {field} is {name}", _with(route, key, body), JUDGED)


def _texts(key: str) -> Iterator[Case]:
    for name, text in TEXTS.items():
        prompts: dict[str, dict[str, Any]] = {
            "/compare": {"prompt": text},
            "/compare/batch": {"requests": [{"prompt": text, "detail": "summary"}] * 3},
            "/v1/completions": {"prompt": [text, text]},
            "/tokenize": {"prompt": text, "return_token_strs": True},
        }
        for route, body in prompts.items():
            yield Case("texts", f"{route}: {name}", _with(route, key, body), JUDGED | {413})
        fields: dict[str, dict[str, Any]] = {
            "continuations": {"continuations": [text, " is"]},
            "messages": {"messages": [{"role": text, "content": text}], "prompt": None},
            "an unknown field": {text: 1},
            "model": {"model": text},
        }
        for field, body in fields.items():
            route = "/v1/completions" if field == "model" else "/compare"
            yield Case("texts", f"{route}: {field}: {name}", _with(route, key, body), JUDGED)


def _counts(key: str) -> Iterator[Case]:
    entry = {"prompt": "a", "detail": "summary"}
    for name, route, body in (
        ("256 equal continuations", "/compare", {"continuations": [" is"] * 256}),
        ("257 continuations", "/compare", {"continuations": [" is"] * 257, "label": None}),
        ("256 continuations of 4 KiB", "/compare", {"continuations": [" is" * 1300] * 256}),
        ("256 continuations of nothing", "/compare", {"continuations": [""] * 256}),
        ("8,000 messages", "/compare", {"prompt": None, "messages": [{"role": "user", "content": "a"}] * 8000}),
        ("a million messages", "/compare", {"prompt": None, "messages": [{}] * 1_000_000}),
        ("one id too many", "/compare", {"prompt": [5] * 1025}),
        ("a million ids", "/compare", {"prompt": [5] * 1_000_000}),
        ("1,024 empty entries", "/compare/batch", {"requests": [{}] * 1024}),
        ("1,025 entries", "/compare/batch", {"requests": [entry] * 1025}),
        ("entries that are not objects", "/compare/batch", {"requests": [None, 1, "a", []]}),
        ("a batch in a batch", "/compare/batch", {"requests": [{"requests": [entry]}]}),
        ("1,024 prompts of nothing", "/v1/completions", {"prompt": [""] * 1024}),
        ("1,024 lists of no ids", "/v1/completions", {"prompt": [[]] * 1024}),
        ("1,025 prompts", "/v1/completions", {"prompt": ["a"] * 1025}),
        ("7 MiB of words", "/tokenize", {"prompt": "the stone " * 730_000, "return_token_strs": True}),
        ("half a million ids", "/detokenize", {"tokens": [5] * 2**19}),
        ("a million ids", "/detokenize", {"tokens": [5] * 1_000_000}),
        ("ids of parts of characters", "/detokenize", {"tokens": list(range(300))}),
    ):
        yield Case("counts", f"{route}: {name}", _with(route, key, body), JUDGED)


def _with(route: str, key: str, fields: dict[str, Any]) -> bytes:
    return post(route, _json(VALID[route] | fields), key=key)


@cache
def _bomb() -> bytes:
    return gzip.compress(b"[" * 64 * MEGABYTE)


def _encoded(route: str, key: str) -> Iterator[Case]:
    """Yield bodies whose headers say something else than JSON. Compressed bodies are never unpacked."""
    body = _json(VALID[route])
    bomb = _bomb()
    for name, content, lines in (
        ("a gzip bomb", bomb, (b"Content-Type: application/json", b"Content-Encoding: gzip")),
        ("a gzip bomb in gzip", gzip.compress(bomb), (b"Content-Type: application/json", b"Content-Encoding: gzip")),
        ("deflate", zlib.compress(body), (b"Content-Type: application/json", b"Content-Encoding: deflate")),
        ("br, gzip", bomb[:100], (b"Content-Type: application/json", b"Content-Encoding: br, gzip")),
    ):
        yield Case("encodings", f"{route}: {name}", post(route, content, *lines, key=key), REFUSED)
    for type_ in (
        b"",
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=a",
        b"multipart/form-data",
        b"application/json; charset=utf-16",
        b"application/json; charset=\xff",
        b"APPLICATION/JSON",
        b"application/vnd.api+json",
        b"application/",
        b"/json",
        b"application/json, text/plain",
        b"a" * 10_000,
    ):
        request = post(route, body, b"Content-Type: " + type_, key=key)
        yield Case("encodings", f"{route}: {type_[:40].decode('latin-1')}", request, JUDGED)
