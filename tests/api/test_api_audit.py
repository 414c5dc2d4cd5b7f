"""The audit log, and how many requests are answered at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netplane.controlplane.api import access, inflight, status
from tests.support import apiserver
from tests.support.http_client import Client

_PATIENCE = 30.0


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[apiserver.Server, Path]]:
    """A server that writes down requests with their bodies, and where."""
    folder = tmp_path_factory.mktemp("audited")
    path = folder / "audit.log"
    options = ("--no-controllers", "--audit-log-path", str(path), "--audit-level", "RequestResponse")
    with apiserver.running(folder / "data", options=options) as running:
        yield running, path


def noted(path: Path, uri: str, verb: str) -> dict[str, Any]:
    """Wait for the event of a request: it is written when the client already has its answer."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        whole = path.read_text().rpartition("\n")[0]
        for event in map(json.loads, whole.splitlines()):
            if (event["requestURI"], event["verb"]) == (uri, verb):
                return dict(event)
        time.sleep(0.02)
    raise AssertionError(f"no event of {verb} {uri}: {path.read_text()}")


def test_a_write_is_noted_with_who_what_and_its_outcome(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    body = {"metadata": {"name": "noted"}}
    Client(server).ask("POST", "/api/v1/namespaces", body)
    event = noted(path, "/api/v1/namespaces", "create")
    assert event["user"]["username"] == "kubernetes-admin"
    assert event["responseStatus"]["code"] == 201
    assert event["objectRef"] == {"resource": "namespaces", "apiVersion": "v1"}
    assert event["requestObject"] == body
    assert event["responseObject"]["metadata"]["name"] == "noted"
    assert (event["kind"], event["apiVersion"], event["stage"]) == ("Event", "audit.k8s.io/v1", "ResponseComplete")


def test_what_is_read_is_noted_as_it_was_answered(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    Client(server).ask("GET", "/api/v1/namespaces/default")
    event = noted(path, "/api/v1/namespaces/default", "get")
    assert (event["level"], event["responseObject"]["metadata"]["name"]) == ("RequestResponse", "default")


def test_a_protobuf_body_is_noted_as_json(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    meta = b"\x0a\x0d" + b"\x0a\x02v1" + b"\x12\x07Service"  # runtime.TypeMeta of runtime.Unknown
    raw = b"\x12\x07" + b"\x0a\x05" + b"\x0a\x03web"  # metadata.name
    body = b"k8s\x00" + meta + raw
    where = "/api/v1/namespaces/default/services"
    Client(server).ask("POST", where, body, headers={"Content-Type": "application/vnd.kubernetes.protobuf"})
    assert noted(path, where, "create")["requestObject"]["metadata"]["name"] == "web"


def test_no_secret_is_ever_written(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    api = Client(server)
    hidden = {"metadata": {"name": "s"}, "stringData": {"password": "very-hidden"}}
    api.ask("POST", "/api/v1/namespaces/default/secrets", hidden)
    api.ask("GET", "/api/v1/namespaces/default/secrets/s")
    merge = {"Content-Type": "application/merge-patch+json"}
    api.ask("PATCH", "/api/v1/namespaces/default/secrets/s", {"stringData": {"password": "very-hidden"}}, headers=merge)
    noted(path, "/api/v1/namespaces/default/secrets/s", "patch")
    written = path.read_text()
    assert "namespaces/default/secrets" in written
    assert "very-hidden" not in written
    assert "dmVyeS1oaWRkZW4" not in written
    assert server.token not in written
    assert server.token not in (server.data_dir / "server.log").read_text()


def test_who_is_refused_and_who_acts_for_another_is_noted(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    Client(server, token="x").ask("GET", "/api/v1/pods")
    Client(server).ask("GET", "/api/v1/nodes", headers={"Impersonate-User": "jane"})
    refused = noted(path, "/api/v1/pods", "list")
    acted = noted(path, "/api/v1/nodes", "list")
    assert refused["responseStatus"]["code"] == 401
    assert acted["responseStatus"]["code"] == 403
    assert (acted["user"]["username"], acted["impersonatedUser"]["username"]) == ("kubernetes-admin", "jane")


def test_a_path_that_cannot_be_written_ends_the_start_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot write the audit log"):
        apiserver.start(
            tmp_path / "data", options=("--no-controllers", "--audit-log-path", str(tmp_path / "none" / "log"))
        )


def test_more_requests_than_the_bound_are_told_to_come_again_but_not_administrators() -> None:
    user, admin = access.User("jane"), access.User("root", (access.MASTERS,))
    bound = inflight.Inflight(2, 1)
    bound.enter(user, "create")
    with pytest.raises(status.ApiStatus) as refused:
        bound.enter(user, "update")
    assert refused.value.code == 429
    assert (b"retry-after", b"1") in refused.value.headers
    bound.enter(user, "get")
    bound.enter(admin, "create")
    bound.leave("create")
    bound.leave("create")
    bound.enter(user, "update")
