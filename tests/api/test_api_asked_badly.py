"""What is told of options, patches and objects that make no sense, or little."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

MERGE = {"POST": "application/json", "PUT": "application/json", "PATCH": "application/merge-patch+json"}


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def conf(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}


def path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{name}" if name else "")


@pytest.mark.parametrize(
    ("query", "field", "why"),
    [
        ("resourceVersionMatch=Exact", "resourceVersionMatch", "is forbidden unless resourceVersion is provided"),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            "resourceVersionMatch",
            'is forbidden for resourceVersion "0"',
        ),
        ("resourceVersionMatch=Some&resourceVersion=5", "resourceVersionMatch", 'Unsupported value: "Some"'),
        ("sendInitialEvents=true", "sendInitialEvents", "is forbidden for list"),
        ("watch=1&resourceVersionMatch=NotOlderThan", "resourceVersionMatch", "unless sendInitialEvents is provided"),
    ],
)
def test_a_list_whose_options_make_no_sense_is_invalid_by_the_option(
    api: Client, namespace: str, query: str, field: str, why: str
) -> None:
    code, told = api.ask("GET", f"{path(namespace)}?{query}")
    assert (code, told["reason"], told["details"]["kind"]) == (422, "Invalid", "ListOptions")
    assert told["details"]["causes"][0]["field"] == field
    assert why in told["message"]


@pytest.mark.parametrize(
    ("method", "query", "kind", "why"),
    [
        ("POST", "dryRun=Some", "CreateOptions", 'dryRun: Unsupported value: "Some": supported values: "All"'),
        ("PUT", "fieldValidation=Some", "UpdateOptions", 'fieldValidation: Unsupported value: "Some"'),
        ("PATCH", "force=true", "PatchOptions", "force: Forbidden: may not be specified for non-apply patch"),
        ("PATCH", f"fieldManager={'x' * 129}", "PatchOptions", "fieldManager: Too long"),
    ],
)
def test_a_write_whose_options_make_no_sense_is_invalid_by_the_option(
    api: Client, namespace: str, method: str, query: str, kind: str, why: str
) -> None:
    where = path(namespace, "" if method == "POST" else "one")
    code, told = api.ask(method, f"{where}?{query}", conf("one"), headers={"Content-Type": MERGE[method]})
    assert (code, told["reason"], told["details"]["kind"]) == (422, "Invalid", kind)
    assert why in told["message"]


def test_what_no_patch_may_say_is_a_bad_request(api: Client, namespace: str) -> None:
    api.ask("POST", path(namespace), conf("one"))
    apply = {"Content-Type": "application/apply-patch+yaml"}
    where = path(namespace, "one")
    for other in ({"name": "two"}, {"namespace": "two"}):
        assert api.ask("PATCH", where, {"metadata": other}, headers={"Content-Type": MERGE["PATCH"]})[0] == 400
    code, told = api.ask("PATCH", f"{where}?fieldManager=m", {"metadata": {"name": "one"}}, headers=apply)
    assert (code, "Incorrect version specified in apply patch" in told["message"]) == (400, True)
    gone = {**conf("gone"), "metadata": {"name": "gone", "uid": "u"}}
    code, told = api.ask("PATCH", path(namespace, "gone") + "?fieldManager=m", gone, headers=apply)
    assert (code, "uid mismatch" in told["message"]) == (409, True)
    code, told = api.ask("PATCH", where, conf("one"), headers=apply)
    assert (code, told["details"]["causes"][0]["field"]) == (422, "fieldManager")


def test_who_asks_for_what_is_deprecated_is_warned(api: Client, namespace: str) -> None:
    told = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
    where = f"/api/v1/namespaces/{namespace}/endpoints"
    for query in ("", "?watch=1&timeoutSeconds=1"):
        assert api.raw("GET", where + query)[2]["warning"] == told
    assert api.raw("POST", where, {"metadata": {"name": "e"}})[2]["warning"] == told
    assert "warning" not in api.raw("GET", path(namespace))[2]
    spec = {"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": [{"name": "c", "image": "i"}]}
    pods = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    warned = api.raw("POST", pods, {"metadata": {"name": "p"}, "spec": spec})[2]["warning"]
    assert "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14" in warned
