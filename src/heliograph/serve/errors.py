"""Every error a client sees: an HTTP status and `{"error": {"message", "type", "param", "code"}}`."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "server_error",
    507: "server_error",
}
"""OpenAI's words for kinds of errors; any other 4xx is `invalid_request_error`, any other 5xx `server_error`."""


class ApiError(Exception):
    """A request that is refused. The message says what was wrong, what was given and what to send instead."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The error as clients of OpenAI read it."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer; one that will be the same next time tells clients not to try again."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status in (400, 404, 409, 413, 422):
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Something in the request cannot be used."""
    return ApiError(400, message, param=param, code=code)


def not_found(what: str, name: str) -> ApiError:
    """There is no such thing (any more)."""
    shown = name if len(name) <= 48 else name[:45] + "..."
    return ApiError(404, f"there is no {what} {shown!r}; it may have been deleted, list them to see", code="not_found")


def from_validation(error: ValidationError | RequestValidationError) -> ApiError:
    """The first thing that pydantic found wrong, in words."""
    first: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    given = "" if first["type"] == "missing" else f", got {_short(first.get('input'))}"
    name = place or "the request"
    return bad_request(f"{name}: {first['msg']}{given}", place or None, "invalid_value")


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app in the one form."""

    async def answer(_request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        if isinstance(error, RequestValidationError | ValidationError):
            return from_validation(error).response()
        assert isinstance(error, HTTPException)
        return _from_http(error).response()

    for kind in (ApiError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, _unexpected)


def _from_http(error: HTTPException) -> ApiError:
    """Errors that the framework finds itself."""
    if error.status_code == 404:
        return ApiError(404, "there is no such route; GET /openapi.json lists them", code="unknown_route")
    if error.status_code == 405:
        return ApiError(405, "this route does not take that method; GET /openapi.json lists them", code="method")
    return ApiError(error.status_code, str(error.detail) or HTTPStatus(error.status_code).phrase)


async def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the log has it, the client learns nothing about the inside.

    The server closes the connection after it, so the client must not keep it for the next request.
    """
    logger.error("a request failed", exc_info=error)
    answer = ApiError(500, "the server made a mistake; its log says which", code="internal").response()
    answer.headers["connection"] = "close"
    return answer


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
