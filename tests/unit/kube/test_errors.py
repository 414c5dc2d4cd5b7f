"""Each refusal becomes its own class, whatever the answer looks like."""

import pytest

from netplane.kube import errors
from netplane.kube.types import DEPLOYMENTS


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (410, "Gone", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (403, "Forbidden", errors.Forbidden),
        (401, "Unauthorized", errors.Unauthorized),
        (504, "Timeout", errors.Timeout),
        (429, "", errors.TooManyRequests),
        (503, "SomethingNew", errors.Unavailable),
        (418, "Teapot", errors.ApiError),
    ],
)
def test_the_class_follows_reason_then_code(code: int, reason: str, kind: type[errors.ApiError]) -> None:
    assert type(errors.of(code, reason, "why")) is kind


def test_a_status_body_gives_message_and_details() -> None:
    body = b'{"kind":"Status","reason":"NotFound","message":"pods \\"x\\" not found","details":{"name":"x"}}'
    error = errors.from_response(404, body)
    assert (type(error), str(error), error.details) == (errors.NotFound, 'pods "x" not found', {"name": "x"})


@pytest.mark.parametrize(
    ("body", "text"), [(b"gateway down\n", "gateway down"), (b"", "HTTP status 503"), (b"[]", "[]")]
)
def test_any_other_body_is_quoted(body: bytes, text: str) -> None:
    assert str(errors.from_response(503, body)) == text


def test_retry_after_comes_from_the_header_or_the_details() -> None:
    assert errors.from_response(429, b"", retry_after=3.0).retry_after == 3.0
    assert errors.of(429, "", "", {"retryAfterSeconds": 2}).retry_after == 2.0


def test_messages_are_worded_as_kubernetes_does() -> None:
    assert str(errors.not_found(DEPLOYMENTS, "web")) == 'deployments.apps "web" not found'
    assert str(errors.conflict(DEPLOYMENTS, "web")).startswith(
        'Operation cannot be fulfilled on deployments.apps "web"'
    )
