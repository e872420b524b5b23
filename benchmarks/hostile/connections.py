"""Hostile framing: request lines, headers, lengths, chunks and half requests; each reply may be read by a proxy."""

from collections.abc import Iterator

from benchmarks.hostile.cases import GET_ROUTES, JUDGED, NO_ANSWER, REFUSED, VALID, Case, head, post, valid

ENDED = frozenset({NO_ANSWER})
LINE = b"POST /compare HTTP/1.1"
CHUNKED = b"Transfer-Encoding: chunked"
JSON = b"Content-Type: application/json"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNK = b'd\r\n{"prompt":"a"\r\n1\r\n}\r\n0\r\n\r\n'
METHODS = (b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"MERGE", b"SUBSCRIBE")
NO_METHODS = (b"FOO", b"get", b"G", b"", b"GE\x00T", b"\xff\xfe", b"POST\t", b"A" * 70_000)


def connections(key: str = "") -> Iterator[Case]:
    """Yield all requests that are hostile by their form."""
    yield from _smuggling(key)
    yield from _lengths(key)
    yield from _chunks(key)
    yield from _methods(key)
    yield from _targets(key)
    yield from _headers(key)
    yield from _protocols(key)
    yield from _pipelines(key)
    yield from _halves(key)


def _smuggling(key: str) -> Iterator[Case]:
    """Yield requests whose end two parsers could see in different places: each must end its connection."""
    for name, lines in {
        "length and chunks": (b"Content-Length: 5", CHUNKED),
        "chunks and length": (CHUNKED, b"Content-Length: 5"),
        "two lengths": (b"Content-Length: 0", b"Content-Length: 47"),
        "two equal lengths": (b"Content-Length: 0", b"Content-Length: 0"),
        "a list of lengths": (b"Content-Length: 0, 47",),
        "a folded length": (b"Content-Length:\r\n 0",),
        "folded chunks": (b"Transfer-Encoding:\r\n chunked", b"Content-Length: 5"),
        "space before the colon": (b"Content-Length : 0",),
        "space before the colon of chunks": (b"Transfer-Encoding : chunked", b"Content-Length: 5"),
        "tab before the colon": (b"Transfer-Encoding\t: chunked", b"Content-Length: 5"),
        "chunks twice": (b"Transfer-Encoding: chunked, chunked", b"Content-Length: 5"),
        "chunks not last": (b"Transfer-Encoding: chunked, identity",),
        "unknown coding": (b"Transfer-Encoding: xchunked",),
        "unknown coding and length": (b"Transfer-Encoding: xchunked", b"Content-Length: 5"),
        "quoted chunks": (b'Transfer-Encoding: "chunked"', b"Content-Length: 5"),
        "vertical tab": (b"Transfer-Encoding: \x0bchunked", b"Content-Length: 5"),
        "NUL in chunks": (b"Transfer-Encoding: chunked\x00", b"Content-Length: 5"),
        "NUL in the name": (b"Transfer-Encoding\x00: chunked", b"Content-Length: 5"),
        "a bare line feed within a value": (b"X: a\nContent-Length: 0",),
        "a bare carriage return within a value": (b"X: a\rContent-Length: 0",),
        "no colon": (b"Content-Length",),
        "no name": (b": 0",),
    }.items():
        yield Case("smuggling", name, head(LINE, JSON, *lines, key=key, close=False) + b"0\r\n\r\n" + SMUGGLED, REFUSED)


def _lengths(key: str) -> Iterator[Case]:
    for length in (b"-1", b"+2", b"0x2", b"2.0", b"1e1", b"", b"two", b"2 2", "٢".encode(), b"1" * 30, b"1" * 5000):
        case = head(LINE, JSON, b"Content-Length: " + length, key=key) + b"{}"
        yield Case("lengths", length[:20].decode(), case, frozenset({400, 413}))
    for length in (b"0", b" 2 ", b"002", b"1"):
        case = head(LINE, JSON, b"Content-Length: " + length, key=key) + b"{}"
        yield Case("lengths", f"'{length.decode()}'", case, REFUSED)
    yield Case("lengths", "none", head(LINE, JSON, key=key), REFUSED)
    yield Case("lengths", "too large", head(LINE, JSON, b"Content-Length: 99999999", key=key), frozenset({413}))
    long = b" " * (8 * 2**20 + 1)
    yield Case("lengths", "one byte too much", post("/compare", long, key=key), frozenset({413}))
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(long), long)
    yield Case("lengths", "one byte too much, in a chunk", head(LINE, JSON, CHUNKED, key=key) + chunk, frozenset({413}))
    yield Case("lengths", "longer than said", post("/compare", b"{}", key=key) + b"x" * 2**10, REFUSED)
    # Whoever closes before all was read resets the connection, and the answer may be lost on its way.
    excess = post("/compare", b"{}", key=key) + b"x" * 2**20
    yield Case("lengths", "much longer than said", excess, REFUSED | {NO_ANSWER})


def _chunks(key: str) -> Iterator[Case]:
    start = head(LINE, JSON, CHUNKED, key=key)
    yield Case("chunks", "valid", start + CHUNK, frozenset({200}))
    for name, body in {
        "size not hexadecimal": b"g\r\n{}\r\n0\r\n\r\n",
        "negative size": b"-2\r\n{}\r\n0\r\n\r\n",
        "size of 17 digits": b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "size with 0x": b"0x2\r\n{}\r\n0\r\n\r\n",
        "size with a space before": b" 2\r\n{}\r\n0\r\n\r\n",
        "size that is too small": b"1\r\n{}\r\n0\r\n\r\n",
        "no line break after the data": b"2\r\n{}0\r\n\r\n",
        "no size": b"\r\n{}\r\n0\r\n\r\n",
        "bare line feeds": b"2\n{}\n0\n\n",
    }.items():
        yield Case("chunks", name, start + body, REFUSED)
    for name, body in {
        "an extension": b"2;a=b\r\n{}\r\n0\r\n\r\n",
        "an extension of 100 KB": b"2;a=" + b"b" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
        "an extension with a line feed": b"2;a\nb\r\n{}\r\n0\r\n\r\n",
        "a trailer": b"2\r\n{}\r\n0\r\nX: a\r\n\r\n",
        "a trailer with a length": b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n",
        "10,000 trailers": b"2\r\n{}\r\n0\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
        "a megabyte of zeros": b"0" * 2**20,
        "a trailer of a megabyte": b"2\r\n{}\r\n0\r\nX: " + b"a" * 2**20,
        "a megabyte of trailers": b"2\r\n{}\r\n0\r\n" + b"X: a\r\n" * 2**17,
        "20,000 chunks": b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n",
    }.items():
        yield Case("chunks", name, start + body, frozenset({400, 431}))
    for name, body in {
        "no end": b"2\r\n{}\r\n",
        "half a size": b"2",
        "half the data": b"9\r\n{}",
        "16 digits": b"f" * 16 + b"\r\n{}",
    }.items():
        yield Case("chunks", name, start + body, ENDED)


def _methods(key: str) -> Iterator[Case]:
    for route in (*GET_ROUTES, *VALID, "/nothing"):
        for method in METHODS:
            allowed = frozenset({404 if route == "/nothing" else 405})
            if route == "/openapi.json" and method == b"HEAD":
                allowed = frozenset({200})
            yield Case(
                "methods", f"{method.decode()} {route}", head(method + f" {route} HTTP/1.1".encode(), key=key), allowed
            )
    for method in NO_METHODS:
        name = repr(method[:10])
        yield Case("methods", name, head(method + b" /health HTTP/1.1", key=key), frozenset({400, 431}))
    yield Case(
        "methods", "GET with a body", head(b"GET /health HTTP/1.1", b"Content-Length: 2", key=key) + b"{}", JUDGED
    )
    yield Case("methods", "CONNECT", head(b"CONNECT localhost:80 HTTP/1.1", key=key), frozenset({400, 404, 405}))


def _targets(key: str) -> Iterator[Case]:
    for target in (
        b"http://localhost/nothing",
        b"http://elsewhere.invalid/nothing",
        b"https://user:password@elsewhere.invalid:99999/",
        b"//elsewhere.invalid/compare",
        b"///",
        b"*",
        b"/../../../../etc/passwd",
        b"/docs/../../etc/passwd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/static/..%2f..%2fetc%2fpasswd",
        b"/static-offline-docs/../../../../etc/passwd",
        b"/static-offline-docs/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        b"/static-offline-docs/%00",
        b"/static-offline-docs/" + b"a" * 5000,
        b"/%00",
        b"/%",
        b"/%zz",
        b"/%ff%fe",
        b"/%0d%0aX-Injected:%20a",
        b"/compare%2f",
        b"/compare/",
        b"//compare",
        b"/compare//batch",
        b"/compare;a=b",
        b"/COMPARE",
        b"/compare#fragment",
        b"/compare?" + b"a=b&" * 10_000,
        b"/\xff\xfe",
        "/東京".encode(),
        b"/\\",
        b"/a b",
        b"/\x00",
        b"/\x7f",
        b"/" + b"a/" * 20_000,
        b"/nothing?q=%ff%00" + b"%f0%9f" * 1000,
        b"",
        b"nothing",
        b"http://",
        b"http:///nothing",
        b"http://[::1/nothing",
        b"javascript:alert(1)",
    ):
        line = b"GET " + target + b" HTTP/1.1"
        yield Case("targets", repr(target[:50]), head(line, key=key), frozenset({400, 404, 405, 431}))
        line = b"POST " + target + b" HTTP/1.1"
        yield Case(
            "targets",
            f"POST {target[:50]!r}",
            head(line, JSON, b"Content-Length: 2", key=key) + b"{}",
            frozenset({400, 404, 405, 431}),
        )
    query = b"/?q=%ff%00" + b"%f0%9f" * 1000
    for target in (query, b"/health?a=%ff%00&b", b"/health?" + b"a=b&" * 1000, b"http://elsewhere.invalid/health"):
        yield Case("targets", repr(target[:50]), head(b"GET " + target + b" HTTP/1.1", key=key), frozenset({200, 400}))


def _headers(key: str) -> Iterator[Case]:
    for name, lines in {
        "empty value": (b"X:",),
        "a value of spaces": (b"X: " + b" " * 1000,),
        "bytes beyond ASCII": (b"X: \xff\xfe\x80",),
        "an id with a line break": (b"X-Request-Id: a%0d%0ab",),
        "an id of 10,000 characters": (b"X-Request-Id: " + b"a" * 10_000,),
        "an id beyond ASCII": (b"X-Request-Id: \xe9",),
        "two ids": (b"X-Request-Id: a", b"X-Request-Id: b"),
        "a bad traceparent": (b"traceparent: 00-zz-zz-zz", b"tracestate: " + b"a=b," * 1000),
        "two hosts": (b"Host: elsewhere.invalid",),
        "cookies": (b"Cookie: " + b"a=b; " * 5000,),
        "forwarded": (b"X-Forwarded-For: \xff, ::1, a", b"X-Forwarded-Proto: javascript", b"Forwarded: for=;"),
        "a range": (b"Range: bytes=0-1,0-1,9999999999999999999-",),
        "conditions": (b"If-Modified-Since: \xff", b"If-None-Match: *", b"If-Range: a"),
        "accept": (b"Accept: application/openmetrics-text;q=\xff," + b"*/*;q=9," * 1000,),
        "encodings": (b"Accept-Encoding: gzip;q=1.5, *;q=nan, " + b"a," * 1000,),
        "expect": (b"Expect: 100-continue",),
        "an unknown expectation": (b"Expect: everything",),
        "an origin": (b"Origin: null", b"Access-Control-Request-Method: POST"),
        "connection": (b"Connection: keep-alive, close, upgrade, \xff",),
        "trailers": (b"TE: trailers", b"Trailer: Content-Length"),
        "another method": (b"X-HTTP-Method-Override: DELETE",),
        "199 lines": (b"X: a",) * 190,
    }.items():
        for route in GET_ROUTES:
            request = head(f"GET {route} HTTP/1.1".encode(), *lines, key=key)
            yield Case("headers", f"{route}: {name}", request, frozenset({200, 206, 304, 400, 416}))
        request = post("/compare", b"{}", JSON, *lines, key=key)
        yield Case("headers", f"/compare: {name}", request, frozenset({100, 400}))
    for name, line in {
        "NUL in a value": b"X: a\x00b",
        "NUL in a name": b"X\x00: a",
        "a name beyond ASCII": b"\xff: a",
        "a space in a name": b"X Y: a",
        "no name": b": a",
        "no colon": b"X",
        "a bare line feed first": b"\nX: a",
        "a bare carriage return": b"X: a\rb",
        "folded": b"X: a\r\n b",
        "DEL": b"X: \x7f",
    }.items():
        yield Case("headers", name, head(b"GET /health HTTP/1.1", line, key=key), JUDGED)
    for name, line in {
        "a header of 100 KB": b"X: " + b"a" * 100_000,
        "a name of 100 KB": b"X" * 100_000 + b": a",
        "a header of 20 MB": b"X: " + b"a" * 20_000_000,
        "10,000 lines": b"X: a\r\n" * 10_000 + b"X: a",
        "201 lines": b"\r\n".join([b"X: a"] * 201),
    }.items():
        yield Case("headers", name, head(b"GET /health HTTP/1.1", line, key=key), frozenset({431}))


def _protocols(key: str) -> Iterator[Case]:
    for version in (b"HTTP/1.0", b"HTTP/1.1"):
        yield Case("protocols", version.decode(), head(b"GET /health " + version, key=key), frozenset({200}))
    for version in (
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/3.0",
        b"HTTP/9.9",
        b"HTTP/11",
        b"http/1.1",
        b"HTTP/1.",
    ):
        yield Case("protocols", version.decode(), head(b"GET /health " + version, key=key), JUDGED)
    yield Case("protocols", "HTTP/0.9 without version", b"GET /health\r\n\r\n", JUDGED)
    for name, sent in {
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        "TLS": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 200,
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "Redis": b"*1\r\n$7\r\nCOMMAND\r\n",
        "PROXY": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + head(b"GET /health HTTP/1.1", key=key),
        "random bytes": bytes((i * 197 + 13) % 256 for i in range(5000)),
        "zeros": b"\x00" * 100_000,
        "a reply": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "lines that are empty, then nothing": b"\r\n" * 40_000,
    }.items():
        yield Case("protocols", name, sent, frozenset({400, 431}))
    for name, lines in {
        "WebSocket": (
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        "WebSocket without key": (b"Upgrade: websocket", b"Connection: Upgrade"),
        "h2c": (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        "TLS": (b"Upgrade: TLS/1.0", b"Connection: Upgrade"),
    }.items():
        for line in (b"GET /health HTTP/1.1", b"GET /compare HTTP/1.1"):
            yield Case(
                "protocols",
                f"upgrade to {name}: {line.split()[1].decode()}",
                head(line, *lines, key=key, close=False),
                frozenset({200, 400, 405}),
            )


def _pipelines(key: str) -> Iterator[Case]:
    get, last = head(b"GET /health HTTP/1.1", key=key, close=False), head(b"GET /ready HTTP/1.1", key=key)
    for name, sent in {
        "100 requests": get * 99 + last,
        "comparisons": valid("/compare", key, close=False) * 20 + last,
        "good, then bad": get + b"NOT HTTP\r\n\r\n",
        "good, then too large": get + b"GET /" + b"a" * 200_000,
        "a comparison, then bad": valid("/compare", key, close=False) + b"NOT HTTP\r\n\r\n",
        "a body, then a request": post("/health", b"x" * 100_000, key=key, close=False) + last,
        "empty lines between": get + b"\r\n\r\n" + last,
        "after the last": last + get,
    }.items():
        yield Case("pipelines", name, sent, frozenset({200, 405}))


def _halves(key: str) -> Iterator[Case]:
    """Yield requests that stop in the middle, and whole ones whose client then closes its sending side."""
    for route in VALID:
        request = valid(route, key)
        for share in range(1, 10):
            part = request[: share * len(request) // 10]
            yield Case("halves", f"{route}: {share} tenths", part, ENDED)
            yield Case("halves", f"{route}: {share} tenths, then closed", part, frozenset({NO_ANSWER, 400}), True)
        yield Case("halves", f"{route}: whole, then closed", request, frozenset({NO_ANSWER, 200}), True)
    yield Case("halves", "nothing", b"", ENDED)
    yield Case("halves", "nothing, then closed", b"", ENDED, True)
