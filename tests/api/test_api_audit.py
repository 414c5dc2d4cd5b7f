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


def noted(path: Path, uri: str, verb: str, stage: str = "ResponseComplete") -> dict[str, Any]:
    """Wait for the event of a request: it is written when the client already has its answer."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        whole = path.read_text().rpartition("\n")[0]
        for event in map(json.loads, whole.splitlines()):
            if (event["requestURI"], event["verb"], event["stage"]) == (uri, verb, stage):
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
    assert event["objectRef"] == {"resource": "namespaces", "apiVersion": "v1", "name": "noted"}
    assert event["annotations"] == {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}
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
    refused = noted(path, "/api/v1/pods", "list", "ResponseStarted")
    acted = noted(path, "/api/v1/nodes", "list")
    told = {"metadata": {}, "message": "Authentication failed, attempted: bearer", "code": 401}
    assert (refused["responseStatus"], refused["user"]) == (told, {})
    assert (acted["responseStatus"]["code"], acted["responseStatus"]["reason"]) == (403, "Forbidden")
    assert acted["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert (acted["user"]["username"], acted["impersonatedUser"]["username"]) == ("kubernetes-admin", "jane")


def test_a_watch_is_noted_when_it_begins_and_when_it_ends_under_the_id_it_is_told(
    audited: tuple[apiserver.Server, Path],
) -> None:
    server, path = audited
    uri = "/api/v1/nodes?watch=1&timeoutSeconds=1"
    _, _, headers = Client(server).raw("GET", uri, headers={"Audit-ID": "mine"})
    begun, ended = noted(path, uri, "watch", "ResponseStarted"), noted(path, uri, "watch")
    assert (headers["audit-id"], begun["auditID"], ended["auditID"]) == ("mine", "mine", "mine")
    assert (begun["responseStatus"]["code"], "responseObject" in ended) == (200, False)
    _, _, headers = Client(server).raw("GET", "/api/v1/namespaces/kube-system")
    assert headers["audit-id"] == noted(path, "/api/v1/namespaces/kube-system", "get")["auditID"]


def test_an_exec_is_noted_too(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    uri = "/api/v1/namespaces/default/pods/none/exec?command=id"
    asked = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    code, _, headers = Client(server).raw(
        "GET", uri, headers={**asked, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    )
    begun, ended = noted(path, uri, "create", "ResponseStarted"), noted(path, uri, "create")
    assert (code, begun["responseStatus"]["code"], ended["responseStatus"]["code"]) == (404, 404, 404)
    assert headers["audit-id"] == begun["auditID"] == ended["auditID"]


def test_why_a_role_let_a_request_pass_is_noted(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    Client(server).ask("GET", "/apis", headers={"Impersonate-User": "jane"})
    event = noted(path, "/apis", "get")
    why = 'RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group'
    assert event["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert event["annotations"]["authorization.k8s.io/reason"].startswith(why)


def test_what_a_refusal_says_is_noted_but_not_of_a_secret(audited: tuple[apiserver.Server, Path]) -> None:
    server, path = audited
    core = "/api/v1/namespaces/kube-public"
    for plural, field in (("configmaps", "data"), ("secrets", "stringData")):
        Client(server).ask("POST", f"{core}/{plural}", {"metadata": {"name": "x"}, field: {"not/a key": "v"}})
    told = noted(path, f"{core}/configmaps", "create")["responseStatus"]
    quiet = noted(path, f"{core}/secrets", "create")["responseStatus"]
    assert (told["reason"], "data[not/a key]" in told["message"]) == ("Invalid", True)
    assert quiet == {"metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422}


POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules:
  - level: None
    users: [nobody-of-interest]
  - level: RequestResponse
    resources: [{group: "", resources: [secrets, configmaps]}]
    verbs: [create]
    omitManagedFields: true
  - level: Metadata
    nonResourceURLs: [/version]
"""


def test_a_policy_says_what_is_noted_and_when_but_not_that_secrets_are(tmp_path: Path) -> None:
    where, path = tmp_path / "policy.yaml", tmp_path / "audit.log"
    where.write_text(POLICY)
    options = ("--no-controllers", "--audit-log-path", str(path), "--audit-policy-file", str(where))
    with apiserver.running(tmp_path / "data", options=options) as server:
        api, core = Client(server), "/api/v1/namespaces/default"
        api.ask("GET", f"{core}/configmaps")
        for plural, field in (("configmaps", "data"), ("secrets", "stringData")):
            api.ask("POST", f"{core}/{plural}", {"metadata": {"name": "x"}, field: {"key": "very-hidden"}})
        api.ask("GET", "/version")
        assert noted(path, "/version", "get")["level"] == "Metadata"
        made = noted(path, f"{core}/configmaps", "create")
        hidden = noted(path, f"{core}/secrets", "create")
        noted(path, "/version", "get", "RequestReceived")
    assert made["responseObject"]["data"] == {"key": "very-hidden"}
    assert "managedFields" not in made["responseObject"]["metadata"]
    assert (hidden["level"], hidden["objectRef"]["name"]) == ("Metadata", "x")
    assert path.read_text().count("very-hidden") == 2
    assert "list" not in {json.loads(line)["verb"] for line in path.read_text().splitlines()}


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
