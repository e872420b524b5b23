"""Routes that compare both models."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from qconf.error_types import INVALID_REQUEST
from qconf.wire import (
    BatchReply,
    BatchRequest,
    CompareRequest,
    Comparison,
    ErrorDetail,
    ErrorReply,
    GeneratedToken,
    Timing,
    problem,
)
from server.api.body import BodyRoute
from server.api.errors import ERRORS, unexpected
from server.api.streaming import Send, streamed
from server.api.work import Serving, ServingDependency, answered
from server.errors import RequestError
from server.monitoring.service_metrics import route_of
from server.scoring.admission import NOTHING, Cost, about, of_answers
from server.scoring.generation import Place
from server.scoring.reply import columns
from server.scoring.service import Service
from server.scoring.together import together_within
from server.scoring.turns import Origin

router = APIRouter(route_class=BodyRoute)
Answer = tuple[bytes, Timing]


@router.post("/compare", operation_id="compare", response_model=Comparison, responses=ERRORS)
async def compare(body: CompareRequest, request: Request, serving: ServingDependency) -> Response:
    """Score a prompt, or continuations of it, under both models, and generate answers to it.

    With ``stream``, the reply is a stream of server-sent events: each has a GeneratedToken, the last one the
    Comparison.
    """
    service, cost = serving.service, _cost(body, serving.service)
    if body.stream:
        return await streamed(request, serving, cost, lambda origin, send: _stream(service, body, origin, send))
    json, timing = await answered(request, serving, cost, lambda origin: service.compare(body, origin))
    serving.monitor.metrics.timed(route_of(request.scope), timing)
    return _json(json)


async def _stream(service: Service, body: CompareRequest, origin: Origin, send: Send) -> None:
    """Send each token as it is drawn, and at last the whole reply."""
    names = [model.id for model in service.models.data]
    texts = service.answer_tokenizer.texts

    def emit(models: tuple[int, ...], index: int, place: Place, text: str) -> None:
        rows = place.rows[max(0, models[0] - 1)]
        event = GeneratedToken(
            models=[names[model] for model in models],
            index=index,
            text=text,
            scores=columns([place.token_id], rows, texts, body.top_logprobs),
        )
        send(event.model_dump_json())

    json, _ = await service.compare(body, origin, emit)
    send(json.decode())


@router.post("/compare/batch", response_model=BatchReply, responses=ERRORS)
async def compare_batch(body: BatchRequest, request: Request, serving: ServingDependency) -> Response:
    """Answer many comparisons, in order. A failed entry has its error in its place."""
    entries = [_parse_entry(entry, serving.service) for entry in body.requests]
    costs = [_cost(entry, serving.service) if isinstance(entry, CompareRequest) else NOTHING for entry in entries]
    cost = sum(costs, NOTHING)
    results = await answered(request, serving, cost, lambda origin: _answers(serving.service, entries, costs, origin))
    _count(serving, route_of(request.scope), results)
    parts = [_error_json(each) if isinstance(each, ErrorDetail) else each[0] for each in results]
    return _json(b'{"object":"list","results":[' + b",".join(parts) + b"]}")


def _cost(request: CompareRequest, service: Service) -> Cost:
    prompt = request.prompt if request.messages is None else "".join(each.content for each in request.messages)
    continuations = request.continuations or []
    tokens = about(prompt or "") + sum(map(about, continuations))
    number = len(service.answering(request.generate_from))
    return Cost(max(1, len(continuations)), tokens) + of_answers(number, request.max_tokens, service.cheapest)


def _parse_entry(entry: dict[str, Any], service: Service) -> CompareRequest | ErrorDetail:
    try:
        request = CompareRequest.model_validate(entry)
    except ValidationError as error:
        return problem(error.errors())
    if request.expected_counts:  # a thousand vocabularies in one reply
        return _not_in_batch("expected_counts")
    if request.stream:
        return _not_in_batch("stream")
    try:
        service.answering(request.generate_from)
    except RequestError as error:
        return error.detail
    return request


def _not_in_batch(field: str) -> ErrorDetail:
    message = f"{field!r} is true, expected false in a batch: ask /compare"
    return ErrorDetail(type=INVALID_REQUEST, message=message, param=field)


async def _answers(
    service: Service, entries: list[CompareRequest | ErrorDetail], costs: list[Cost], origin: Origin
) -> list[Answer | ErrorDetail]:
    # Begun all at once, a thousand would keep the event loop busy while others wait.
    return await together_within(
        service.begun_tokens,
        ((cost.tokens, _answer(service, entry, origin)) for entry, cost in zip(entries, costs, strict=True)),
    )


async def _answer(service: Service, entry: CompareRequest | ErrorDetail, origin: Origin) -> Answer | ErrorDetail:
    if isinstance(entry, ErrorDetail):
        return entry
    try:
        return await service.compare(entry, origin)
    except RequestError as error:
        return error.detail
    except Exception as error:
        return unexpected(error).detail


def _count(serving: Serving, route: str, results: list[Answer | ErrorDetail]) -> None:
    for result in results:
        if isinstance(result, ErrorDetail):
            serving.monitor.metrics.rejections.labels(result.type).inc()
        else:
            serving.monitor.metrics.timed(route, result[1])


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _error_json(error: ErrorDetail) -> bytes:
    return ErrorReply(error=error).model_dump_json().encode()
