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
    Timing,
    problem,
)
from server.api.body import BodyRoute
from server.api.errors import ERRORS, unexpected
from server.api.work import Serving, ServingDependency, answered
from server.errors import RequestError
from server.monitoring.service_metrics import route_of
from server.scoring.admission import NOTHING, Cost, about
from server.scoring.service import Service, together_within
from server.scoring.turns import Origin

router = APIRouter(route_class=BodyRoute)
Answer = tuple[bytes, Timing]


@router.post("/compare", operation_id="compare", response_model=Comparison, responses=ERRORS)
async def compare(body: CompareRequest, request: Request, serving: ServingDependency) -> Response:
    """Score a prompt, or continuations of it, under both models."""
    json, timing = await answered(request, serving, _cost(body), lambda origin: serving.service.compare(body, origin))
    serving.monitor.metrics.timed(route_of(request.scope), timing)
    return _json(json)


@router.post("/compare/batch", response_model=BatchReply, responses=ERRORS)
async def compare_batch(body: BatchRequest, request: Request, serving: ServingDependency) -> Response:
    """Answer many comparisons, in order. A failed entry has its error in its place."""
    entries = [_parse_entry(entry) for entry in body.requests]
    costs = [_cost(entry) if isinstance(entry, CompareRequest) else NOTHING for entry in entries]
    cost = Cost(sum(each.sequences for each in costs), sum(each.tokens for each in costs))
    results = await answered(request, serving, cost, lambda origin: _answers(serving.service, entries, costs, origin))
    _count(serving, route_of(request.scope), results)
    parts = [_error_json(each) if isinstance(each, ErrorDetail) else each[0] for each in results]
    return _json(b'{"object":"list","results":[' + b",".join(parts) + b"]}")


def _cost(request: CompareRequest) -> Cost:
    prompt = request.prompt if request.messages is None else "".join(each.content for each in request.messages)
    continuations = request.continuations or []
    return Cost(max(1, len(continuations)), about(prompt or "") + sum(map(about, continuations)))


def _parse_entry(entry: dict[str, Any]) -> CompareRequest | ErrorDetail:
    try:
        request = CompareRequest.model_validate(entry)
    except ValidationError as error:
        return problem(error.errors())
    if request.expected_counts:  # a thousand vocabularies in one reply
        message = "'expected_counts' is true, expected false in a batch: ask /compare"
        return ErrorDetail(type=INVALID_REQUEST, message=message, param="expected_counts")
    return request


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
