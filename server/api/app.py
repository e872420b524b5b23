"""The HTTP interface: routes, and the shape of errors."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from qconf import __version__
from qconf.wire import (
    BatchReply,
    BatchRequest,
    CompareRequest,
    Comparison,
    DetokenizeReply,
    DetokenizeRequest,
    ErrorDetail,
    ErrorReply,
    ModelList,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
    problem,
)
from server.api.limits import BodyLimitMiddleware, ClientGone, until_disconnect
from server.api.openai import Completion, CompletionRequest, complete
from server.errors import InvalidRequest, RequestError
from server.monitoring.monitor import Monitor
from server.monitoring.service_metrics import CLIENT_CLOSED_REQUEST, MetricsMiddleware, ServiceMetrics, route_of
from server.scoring.service import Answer, Service
from server.scoring.tokenization import PairTokenizer

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request cannot be answered; `param` names the field."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    429: {"model": ErrorReply, "description": "Too much work in flight; see Retry-After."},
    503: {"model": ErrorReply, "description": "The engine is not there."},
}


def create_app(service: Service, monitor: Monitor, max_body_bytes: int) -> FastAPI:
    """The application that serves one pair."""
    # Its page of documentation needs no network; FastAPI's own loads its scripts from elsewhere.
    app = FastAPIOffline(
        redoc_url=None,
        title="qconf",
        version=__version__,
        summary="Compare a full-precision language model with its quantized twin.",
    )
    _add_comparisons(app, service, monitor.metrics)
    _add_tools(app, service, monitor.metrics)
    _add_operations(app, service, monitor)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, _on_unexpected)
    app.add_middleware(BodyLimitMiddleware, max_bytes=max_body_bytes)
    app.add_middleware(MetricsMiddleware, metrics=monitor.metrics)
    return app


def _add_comparisons(app: FastAPI, service: Service, metrics: ServiceMetrics) -> None:
    # FastAPI's own 422 would promise another shape of error in the documentation.
    @app.post("/compare", response_model=Comparison, responses=ERRORS | {422: ERRORS[400]})
    async def compare(body: CompareRequest, request: Request) -> Response:
        """Score a prompt, or continuations of it, under both models."""
        with service.admitted(_sequences(body)):
            answer = await until_disconnect(request, service.compare(body))
        metrics.timed(route_of(request.scope), answer.timing)
        return _json(answer.json)

    @app.post("/compare/batch", response_model=BatchReply, responses=ERRORS | {422: ERRORS[400]})
    async def compare_batch(body: BatchRequest, request: Request) -> Response:
        """Many comparisons, answered in order. An entry that fails has its own error in its place."""
        entries = [_parse_entry(entry) for entry in body.requests]
        with service.admitted(sum(_sequences(e) for e in entries if isinstance(e, CompareRequest))):
            results = await until_disconnect(request, _answer_all(service, entries))
        for result in results:
            if isinstance(result, Answer):
                metrics.timed(route_of(request.scope), result.timing)
            else:
                metrics.rejections.labels(result.type).inc()
        parts = [each.json if isinstance(each, Answer) else _error_json(each) for each in results]
        return _json(b'{"object":"list","results":[' + b",".join(parts) + b"]}")


def _add_tools(app: FastAPI, service: Service, metrics: ServiceMetrics) -> None:
    """Routes that other tools speak, with the fields that OpenAI and vLLM give them."""

    @app.post("/v1/completions", response_model=Completion, responses=ERRORS | {422: ERRORS[400]})
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """OpenAI's legacy completions: log-probabilities of prompts under one of the models, and one more token."""
        with service.admitted(len(body.prompts())):
            reply = await until_disconnect(request, complete(service, body))
        metrics.timed(route_of(request.scope), reply.timing)
        return _json(reply.model_dump_json().encode())

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The two models of the pair, base first, and what serves them."""
        return service.models

    @app.post("/tokenize", responses={400: ERRORS[400], 422: ERRORS[400]})
    async def tokenize(body: TokenizeRequest) -> TokenizeReply:
        """Token ids of a text, and each token's own text."""

        def split(tokenizer: PairTokenizer) -> TokenizeReply:
            ids = tokenizer.encode(body.prompt, body.add_special_tokens)
            return TokenizeReply(
                count=len(ids),
                max_model_len=service.engine.info.max_model_len,
                tokens=ids,
                token_strs=tokenizer.texts(ids) if body.return_token_strs else None,
            )

        return await service.with_tokenizer(split)

    @app.post("/detokenize", responses={400: ERRORS[400], 422: ERRORS[400]})
    async def detokenize(body: DetokenizeRequest) -> DetokenizeReply:
        """Text of token ids."""
        return DetokenizeReply(
            prompt=await service.with_tokenizer(
                lambda tokenizer: tokenizer.decode(tokenizer.check_ids(body.tokens, "tokens"))
            )
        )

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> TokenizerInfo:
        """Special tokens and chat template of the tokenizer that both models share."""
        return await service.with_tokenizer(PairTokenizer.info)


def _add_operations(app: FastAPI, service: Service, monitor: Monitor) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process and its engine live: 200, or 503 when it should be restarted."""
        service.check_ready()
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether comparisons are answered now: 200, or 503."""
        service.check_ready()
        return {"status": "ready"}

    @app.get("/metrics")
    async def prometheus(request: Request) -> Response:
        """ServiceMetrics for Prometheus, in its text format or in that of OpenMetrics, as the Accept header asks."""
        body, content_type = monitor.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def _sequences(request: CompareRequest) -> int:
    return len(request.continuations or [None])


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _error_json(error: ErrorDetail) -> bytes:
    return ErrorReply(error=error).model_dump_json().encode()


def _parse_entry(entry: dict[str, Any]) -> CompareRequest | ErrorDetail:
    try:
        return CompareRequest.model_validate(entry)
    except ValidationError as error:
        return problem(error.errors())


async def _answer_all(service: Service, entries: list[CompareRequest | ErrorDetail]) -> list[Answer | ErrorDetail]:
    async def answer(entry: CompareRequest | ErrorDetail) -> Answer | ErrorDetail:
        if isinstance(entry, ErrorDetail):
            return entry
        try:
            return await service.compare(entry)
        except RequestError as error:
            return error.detail

    return await asyncio.gather(*(answer(entry) for entry in entries))


def _error(error: RequestError) -> JSONResponse:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse(ErrorReply(error=error.detail).model_dump(), error.status, headers)


async def _on_request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _error(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _error(InvalidRequest(f"the body is not JSON: {first['ctx']['error']}"))
    detail = problem(error.errors())
    return _error(InvalidRequest(detail.message, detail.param))


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request_error")
    detail = ErrorDetail(type=kind, message=str(error.detail))
    return JSONResponse(ErrorReply(error=detail).model_dump(), error.status_code, error.headers)


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_unexpected(_: Request, error: Exception) -> Response:
    return _error(RequestError(f"the server failed: {type(error).__name__}"))
