"""Say what the Kubernetes API answered when it refused.

ApiError(code, reason)
├── BadRequest 400    Unauthorized 401   Forbidden 403   NotFound 404
├── Conflict 409      AlreadyExists 409  Gone 410        Invalid 422
├── TooManyRequests 429   InternalError 500   Unavailable 503   Timeout 504
└── Unreachable       no answer at all: the transport failed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from netplane.kube.types import Resource


class ApiError(Exception):
    """A refusal: HTTP code, machine-readable reason (metav1.StatusReason), message for people, and details."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}

    def __str__(self) -> str:
        return self.message

    @property
    def retry_after(self) -> float | None:
        """Seconds the server asked to wait, if it did."""
        seconds = self.details.get("retryAfterSeconds")
        return float(seconds) if seconds else None


class BadRequest(ApiError):
    """The request itself makes no sense."""


class Unauthorized(ApiError):
    """Who we are is not known or no longer believed."""


class Forbidden(ApiError):
    """We may not do this."""


class NotFound(ApiError):
    """There is no such object, or no such resource type."""


class Conflict(ApiError):
    """The object changed since it was read: read, decide and write again."""


class AlreadyExists(ApiError):
    """There is an object of that name."""


class Gone(ApiError):
    """The history asked for was compacted: list again."""


class Invalid(ApiError):
    """The object breaks a rule of its type; `details["causes"]` names the fields."""


class TooManyRequests(ApiError):
    """Come again later, after `retry_after`."""


class InternalError(ApiError):
    """The server failed."""


class Unavailable(ApiError):
    """The server or what stands behind it cannot serve now."""


class Timeout(ApiError):
    """The server gave up; the request may have been carried out."""


class Unreachable(ApiError):
    """No answer from the server: refused, reset, timed out, or not trusted. Writes may have been carried out."""

    def __init__(self, server: str, cause: str) -> None:
        super().__init__(0, "Unreachable", f"API server {server}: {cause}")


_BY_REASON: dict[str, type[ApiError]] = {
    "BadRequest": BadRequest,
    "Unauthorized": Unauthorized,
    "Forbidden": Forbidden,
    "NotFound": NotFound,
    "Conflict": Conflict,
    "AlreadyExists": AlreadyExists,
    "Gone": Gone,
    "Expired": Gone,
    "Invalid": Invalid,
    "TooManyRequests": TooManyRequests,
    "InternalError": InternalError,
    "ServiceUnavailable": Unavailable,
    "Timeout": Timeout,
    "ServerTimeout": Timeout,
}
_REASON_BY_CODE = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Gone",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def of(code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> ApiError:
    """Return the error of the class that stands for this reason, else for this code."""
    kind = _BY_REASON.get(reason) or _BY_REASON.get(_REASON_BY_CODE.get(code, ""), ApiError)
    return kind(code, reason or _REASON_BY_CODE.get(code, "Unknown"), message, details)


def from_status(status: Mapping[str, Any]) -> ApiError:
    """Return the error a metav1.Status object of a failure stands for."""
    code, reason = int(status.get("code") or 500), str(status.get("reason") or "")
    message = str(status.get("message") or reason or f"status {code}")
    return of(code, reason, message, status.get("details"))


def from_response(code: int, body: bytes, *, retry_after: float | None = None) -> ApiError:
    """Return the error an HTTP answer stands for, whether its body is a Status, text or nothing."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict) and content.get("kind") == "Status":
        error = from_status({"code": code, **content})
    else:
        error = of(code, "", body[:300].decode("utf-8", "replace").strip() or f"HTTP status {code}")
    if retry_after is not None and error.retry_after is None:
        error.details = {**error.details, "retryAfterSeconds": retry_after}
    return error


def not_found(resource: Resource, name: str) -> NotFound:
    """Return the error for a missing object, worded as Kubernetes does."""
    return NotFound(404, "NotFound", f'{resource.group_resource} "{name}" not found', _details(resource, name))


def already_exists(resource: Resource, name: str) -> AlreadyExists:
    """Return the error for creating what is there."""
    message = f'{resource.group_resource} "{name}" already exists'
    return AlreadyExists(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> Conflict:
    """Return the error for a write whose precondition no longer holds."""
    because = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource.group_resource} "{name}": {because}'
    return Conflict(409, "Conflict", message, _details(resource, name))


def _details(resource: Resource, name: str) -> dict[str, Any]:
    return {"name": name, "group": resource.group, "kind": resource.plural}
