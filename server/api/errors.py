"""The shape of errors."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from qconf import error_types
from qconf.error_types import STATUS
from qconf.wire import ErrorDetail, ErrorReply, problem
from server.api.refusal import refusal
from server.api.work import ClientGone
from server.errors import InvalidRequest, RequestError
from server.monitoring.service_metrics import CLIENT_CLOSED_REQUEST, note_error

logger = logging.getLogger(__name__)

UNAUTHORIZED: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorReply, "description": "The server has API keys, and the request none of them."}
}
BAD_REQUEST: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request cannot be answered; `param` names the field."},
    # FastAPI's own 422 would promise another shape of error in the documentation.
    422: {"model": ErrorReply, "description": "Not sent: what is wrong with a request is answered with 400."},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorReply, "description": "The server was started without what answers here."}
}
ERRORS = {
    **BAD_REQUEST,
    **UNAUTHORIZED,
    408: {"model": ErrorReply, "description": "The body came too slowly."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    429: {"model": ErrorReply, "description": "Too much work in flight, or a quota is used up; see Retry-After."},
    503: {"model": ErrorReply, "description": "The engine is not there, or the server is stopping; see Retry-After."},
    504: {"model": ErrorReply, "description": "The request took longer than the server allows."},
}


def add_error_handlers(app: FastAPI) -> None:
    """Give every error the shape of ``ErrorReply``."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, _on_unexpected)


def unexpected(error: Exception) -> RequestError:
    """Log an error that nobody expected, and return what its client is told."""
    logger.error("the server failed", exc_info=error)
    return RequestError(f"the server failed: {type(error).__name__}")


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return refusal(request.scope, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return refusal(request.scope, InvalidRequest(f"the body is not JSON: {first['ctx']['error']}"))
    detail = problem(error.errors())
    return refusal(request.scope, InvalidRequest(detail.message, detail.param))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    types = {status: type_ for type_, status in STATUS.items() if status in (404, 405)}
    detail = ErrorDetail(type=types.get(error.status_code, error_types.INVALID_REQUEST), message=str(error.detail))
    note_error(request.scope, detail.type)
    return JSONResponse(ErrorReply(error=detail).model_dump(), error.status_code, error.headers)


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return refusal(request.scope, unexpected(error))
