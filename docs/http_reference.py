"""The reference page of the HTTP interface, from the application's OpenAPI document."""

import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

from docs.markdown import anchor, markdown, page, table
from qconf.error_types import STATUS
from server import errors
from server.api.app import create_app
from server.api.work import Serving
from server.settings import Settings

Schema = dict[str, Any]
REQUEST = ("field", "type", "default", "meaning")
REPLY = ("field", "type", "meaning")
PREFIX = "#/components/schemas/"
NEVER_SENT = "422"


def openapi() -> Schema:
    """Return the OpenAPI document of an application without an engine: routes touch it only when they answer."""
    serving = cast(Serving, SimpleNamespace(monitor=SimpleNamespace(metrics=None), admission=None))
    document: Schema = create_app(serving, max_body_bytes=Settings.model_fields["max_body_bytes"].default).openapi()
    return document


def http() -> str:
    """Return routes, fields of requests and replies, and errors."""
    document = openapi()
    schemas: dict[str, Schema] = document["components"]["schemas"]
    routes = [
        (f"{method.upper()} {path}", each) for path, by in document["paths"].items() for method, each in by.items()
    ]
    first = (
        "[Ask about your own text](../how-to/compare.md) has examples. A running server shows this page at `/docs`,\n"
        "and its OpenAPI document at `/openapi.json`. Replies may gain fields. Unknown fields in requests are\n"
        "refused. Servers ignore the header `X-Qconf-Context`, which is for [balancers](../how-to/replicas.md)."
    )
    names = [(f"[`{name}`](#{anchor(name)})", _first_sentence(route["description"])) for name, route in routes]
    return page(
        "HTTP",
        first,
        table(("route", "what it does"), names),
        *(_route(name, route, schemas) for name, route in routes),
        "## Errors\n\nThe body is [ErrorReply](#errorreply). 429 and 503 have the header Retry-After.",
        table(("type", "status", "meaning"), _errors()),
        "## Objects",
        *(_object(name, schemas) for name in _replied(routes, schemas)),
    )


def _route(name: str, route: Schema, schemas: dict[str, Schema]) -> str:
    parts = [f"## `{name}`", markdown(route["description"])]
    if "requestBody" in route:
        body = schemas[_referred(route["requestBody"]["content"]["application/json"]["schema"])]
        parts += [f"Request: {markdown(body['description'])}", table(REQUEST, _request_fields(body))]
    success = next(status for status in route["responses"] if status.startswith("2"))
    (media, content), *_ = route["responses"][success]["content"].items()
    reply = type_in_words(content["schema"], schemas) if media == "application/json" else f"`{media}`"
    failed = [f"{status}" for status in sorted(route["responses"]) if status not in (success, NEVER_SENT)]
    parts.append(f"Reply: {reply}." + (f" [Errors](#errors): {', '.join(failed)}." if failed else ""))
    return "\n\n".join(parts)


def _request_fields(body: Schema) -> Iterator[tuple[str, ...]]:
    for name, field in body["properties"].items():
        default = "needed" if name in body.get("required", []) else _value(field.get("default"))
        yield f"`{name}`", type_in_words(_without_null(field), {}), default, markdown(field.get("description"))


def _object(name: str, schemas: dict[str, Schema]) -> str:
    schema = schemas[name]
    rows = (
        (f"`{field}`", type_in_words(each, schemas), markdown(each.get("description")))
        for field, each in schema["properties"].items()
    )
    described = any("description" in each for each in schema["properties"].values())
    fields = table(REPLY, rows) if described else table(REPLY[:2], (row[:2] for row in rows))
    return f"### {name}\n\n{markdown(schema.get('description'))}\n\n{fields}"


def _replied(routes: list[tuple[str, Schema]], schemas: dict[str, Schema]) -> list[str]:
    """Return the names of the objects in replies and within requests, in the order in which a reader meets them."""
    found: dict[str, None] = {}
    requests = {
        _referred(route["requestBody"]["content"]["application/json"]["schema"])
        for _, route in routes
        if "requestBody" in route
    } - _nested(schemas)

    def visit(schema: object) -> None:
        if isinstance(schema, list):
            for each in schema:
                visit(each)
        elif isinstance(schema, dict):
            name = schema.get("$ref", "").removeprefix(PREFIX)
            if name and name not in found:
                if not (name in requests or _is_pair(schemas[name])):
                    found[name] = None
                visit(schemas[name])
            visit(list(schema.values()))

    visit([route for _, route in routes])
    return list(found)


def _nested(schemas: dict[str, Schema]) -> set[str]:
    """Return the names of the objects that are part of others."""
    return set(re.findall(rf'"{PREFIX}(\w+)"', json.dumps(schemas)))


def _errors() -> Iterator[tuple[str, str, str]]:
    kinds = {kind.type: kind for kind in errors.RequestError.__subclasses__()}
    for name, status in STATUS.items():
        meaning = kinds[name].__doc__ if name in kinds else f"{HTTPStatus(status).phrase.capitalize()}."
        yield f"`{name}`", str(status), markdown(meaning)


def type_in_words(schema: Schema, schemas: dict[str, Schema]) -> str:
    """Return a schema in words, with its limits."""
    if "$ref" in schema:
        name = _referred(schema)
        if name in schemas and _is_pair(schemas[name]):
            return f"`base` and `quantized`, each {type_in_words(schemas[name]['properties']['base'], schemas)}"
        return f"[{name}](#{anchor(name)})"
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_within(type_in_words(each, schemas), " and ") for each in parts)
    if values := [schema["const"]] if "const" in schema else schema.get("enum"):
        return " or ".join(map(_value, values))
    match schema.get("type"):
        case "array":
            limits = _limits(schema, "minItems", "maxItems")
            return f"list of {limits + ' ' if limits else ''}{_several(schema['items'], schemas)}"
        case "object":
            values = schema.get("additionalProperties", True)
            return "object" if values is True else f"object with {_several(values, schemas)}"
    limits = _limits(schema, "minimum", "maximum")
    return str(schema["type"]) + (f", {limits}" if limits else "")


def _several(schema: Schema, schemas: dict[str, Schema]) -> str:
    text = type_in_words(schema, schemas)
    name, _, limits = text.partition(", ")
    if name.isalpha():
        return f"{name}s ({limits})" if limits else f"{name}s"
    return _within(text, " or ", "list")


def _within(text: str, *unclear: str) -> str:
    """Return a part of a larger type, in brackets where it has one of the words that would make that unclear."""
    return f"({text})" if any(each in text for each in unclear) else text


def _limits(schema: Schema, low: str, high: str) -> str:
    least, most = (f"{int(schema[key]):,}" if key in schema else None for key in (low, high))
    if least and most:
        return f"{least} to {most}"
    return f"at least {least}" if least else f"at most {most}" if most else ""


def _is_pair(schema: Schema) -> bool:
    fields = schema["properties"]
    return set(fields) == {"base", "quantized"} and schema.get("title", "").startswith("Both")


def _without_null(schema: Schema) -> Schema:
    """Return a field's schema as its sender needs it: leaving the field out means null."""
    if "anyOf" not in schema:
        return schema
    return schema | {"anyOf": [each for each in schema["anyOf"] if each != {"type": "null"}]}


def _referred(schema: Schema) -> str:
    return str(schema["$ref"]).removeprefix(PREFIX)


def _value(value: object) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`"


def _first_sentence(text: str) -> str:
    return markdown(text).split(". ")[0].rstrip(".")
