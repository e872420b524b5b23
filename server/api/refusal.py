"""The reply to a request that is refused or failed."""

from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import Scope

from qconf.error_types import STATUS
from qconf.wire import ErrorReply
from server.errors import RequestError
from server.monitoring.service_metrics import note_error


def refusal(scope: Scope, error: RequestError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make the reply, and let the request be counted under the error's type."""
    note_error(scope, error.type)
    wait = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse(ErrorReply(error=error.detail).model_dump(), STATUS[error.type], {**wait, **(headers or {})})
