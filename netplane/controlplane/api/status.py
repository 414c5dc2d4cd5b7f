"""Say no the way Kubernetes does: `metav1.Status` with the reason, details and causes that clients act on.

One tree: `ApiStatus(code, reason, message, details)`; the functions below make the kinds of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netplane.controlplane.registry import faults, types
from netplane.kube.types import Object


class ApiStatus(Exception):
    """A refusal, as the client will read it."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Object | None = None,
        metadata: Object | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata or {}
        self.headers = tuple(headers)

    def body(self) -> Object:
        """The Status object."""
        out: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            out["details"] = self.details
        out["code"] = self.code
        return out


def _details(of: types.ResourceType, name: str, **more: Any) -> Object:
    details: Object = {"name": name} if name else {}
    if of.group:
        details["group"] = of.group
    details["kind"] = of.plural
    return details | more


def _what(of: types.ResourceType, name: str) -> str:
    return f'{of.resource.group_resource} "{name}"'


def not_found(of: types.ResourceType, name: str) -> ApiStatus:
    """404: the object is not there."""
    return ApiStatus(404, "NotFound", f"{_what(of, name)} not found", details=_details(of, name))


def no_such_path() -> ApiStatus:
    """404: nothing is served at this path."""
    return ApiStatus(404, "NotFound", "the server could not find the requested resource", details={})


def exists(of: types.ResourceType, name: str) -> ApiStatus:
    """409: the name is taken."""
    return ApiStatus(409, "AlreadyExists", f"{_what(of, name)} already exists", details=_details(of, name))


def conflict(of: types.ResourceType, name: str, why: str = "") -> ApiStatus:
    """409: the object has changed since the client read it, or a precondition does not hold."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f"Operation cannot be fulfilled on {_what(of, name)}: {why}"
    return ApiStatus(409, "Conflict", message, details=_details(of, name))


def invalid(of: types.ResourceType, name: str, found: Sequence[faults.Fault]) -> ApiStatus:
    """422: every fault with its field path, as `field.ErrorList` prints them."""
    texts = [str(fault) for fault in found]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details: Object = {"name": name} if name else {}
    if of.group:
        details["group"] = of.group
    details |= {"kind": of.kind, "causes": [fault.cause() for fault in found]}
    group_kind = f"{of.kind}.{of.group}" if of.group else of.kind
    return ApiStatus(422, "Invalid", f'{group_kind} "{name}" is invalid: {listed}', details=details)


def invalid_options(kind: str, *found: faults.Fault) -> ApiStatus:
    """422: options of a request that make no sense, as `ListOptions`."""
    causes = [each.cause() for each in found]
    details = {"group": "meta.k8s.io", "kind": kind, "causes": causes}
    return ApiStatus(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {faults.summary(found)}', details=details)


def bad_request(message: str) -> ApiStatus:
    """400: the request makes no sense as it stands."""
    return ApiStatus(400, "BadRequest", message)


def forbidden(message: str, *, group: str = "", plural: str = "", name: str = "") -> ApiStatus:
    """403: known, and not allowed."""
    details: Object = {"name": name} if name else {}
    if group:
        details["group"] = group
    if plural:
        details["kind"] = plural
    return ApiStatus(403, "Forbidden", message, details=details)


def unauthorized() -> ApiStatus:
    """401: no credentials, or none that hold."""
    return ApiStatus(401, "Unauthorized", "Unauthorized", headers=[(b"www-authenticate", b'Bearer realm="netplane"')])


def expired(message: str, *, next_token: str = "") -> ApiStatus:
    """410: the revision is gone; the client lists anew."""
    return ApiStatus(410, "Expired", message, metadata={"continue": next_token} if next_token else None)


def method_not_allowed(of: types.ResourceType | None, verb: str) -> ApiStatus:
    """405: this resource does not do that."""
    details: Object = _details(of, "") if of is not None else {}
    return ApiStatus(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource", details=details
    )


def unsupported_media_type(found: str, accepted: Sequence[str]) -> ApiStatus:
    """415: the body's type is not read here."""
    message = f"the body of the request was in an unknown format ({found}) - accepted media types include: "
    return ApiStatus(415, "UnsupportedMediaType", message + ", ".join(accepted))


def too_large(limit: int) -> ApiStatus:
    """413: the body is larger than the server reads."""
    return ApiStatus(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def too_many(message: str, *, retry_after: int = 1, causes: Sequence[Object] = ()) -> ApiStatus:
    """429: not now. Eviction answers so while a budget forbids it."""
    details: Object = {"retryAfterSeconds": retry_after} if retry_after else {}
    if causes:
        details["causes"] = list(causes)
    # client-go repeats by itself, silently, what comes with this header.
    headers = [(b"retry-after", str(retry_after).encode())] if retry_after else []
    return ApiStatus(429, "TooManyRequests", message, details=details, headers=headers)


def internal(message: str) -> ApiStatus:
    """500: our fault."""
    return ApiStatus(500, "InternalError", f"Internal error occurred: {message}")


def too_large_revision(asked: int, current: int) -> ApiStatus:
    """504: a revision this server has not reached."""
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiStatus(504, "Timeout", message, details={"causes": [cause], "retryAfterSeconds": 1})


def unavailable(message: str) -> ApiStatus:
    """503: the store or a node cannot be reached now."""
    return ApiStatus(503, "ServiceUnavailable", message, headers=[(b"retry-after", b"1")])


def terminating(namespace: str, of: types.ResourceType, name: str) -> ApiStatus:
    """403: nothing new is made in a namespace that is going away."""
    message = (
        f"{_what(of, name)} is forbidden: unable to create new content in namespace {namespace}"
        " because it is being terminated"
    )
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    return ApiStatus(403, "Forbidden", message, details=_details(of, name, causes=[cause]))


def success(of: types.ResourceType, name: str, uid: str) -> Object:
    """The Status that answers a deletion."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": _details(of, name, uid=uid),
    }
