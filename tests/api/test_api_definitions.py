"""CustomResourceDefinitions as such: names that are taken, approval, what outlasts a deletion, watches that end."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MERGE = {"Content-Type": "application/merge-patch+json"}
OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


@pytest.fixture
def group(api: Client) -> Iterator[str]:
    """A group of its own, whose definitions go with the test."""
    name = f"test-{uuid.uuid4().hex[:8]}.example.com"
    yield name
    left = [each["metadata"]["name"] for each in api.ask("GET", CRDS)[1]["items"] if each["spec"]["group"] == name]
    for each in left:
        api.ask("DELETE", f"{CRDS}/{each}")
    until(lambda: all(api.ask("GET", f"{CRDS}/{each}")[0] == 404 for each in left))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def definition(group: str, plural: str, kind: str, **names: Any) -> dict[str, Any]:
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": OPEN}}
    return {
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, **names},
            "versions": [version],
        },
    }


def made(api: Client, body: dict[str, Any]) -> str:
    code, answer = api.ask("POST", CRDS, body)
    assert code == 201, answer
    path = f"{CRDS}/{body['metadata']['name']}"
    until(lambda: bool(conditions(api, path)))
    return path


def conditions(api: Client, path: str) -> dict[str, tuple[str, str]]:
    _, crd = api.ask("GET", path)
    told = (crd.get("status") or {}).get("conditions") or ()
    return {each["type"]: (each["status"], each["reason"]) for each in told}


def test_a_definition_whose_kind_is_taken_is_not_served_until_it_is_free(
    api: Client, group: str, namespace: str
) -> None:
    first = made(api, definition(group, "boats", "Boat", shortNames=["b"]))
    second = made(api, definition(group, "ships", "Boat", singular="ship", shortNames=["s"]))
    assert conditions(api, second) == {
        "NamesAccepted": ("False", "ListKindConflict"),
        "Established": ("False", "NotAccepted"),
    }
    ships = f"/apis/{group}/v1/namespaces/{namespace}/ships"
    assert api.ask("GET", ships)[0] == 404
    assert api.ask("DELETE", first)[0] == 200
    until(lambda: conditions(api, second).get("Established", ("",))[0] == "True")
    assert api.ask("GET", ships)[0] == 200
    assert conditions(api, second)["NamesAccepted"] == ("True", "NoConflicts")


def test_a_short_name_that_is_taken_is_not_given_twice(api: Client, group: str) -> None:
    made(api, definition(group, "boats", "Boat", shortNames=["b"]))
    second = made(api, definition(group, "bikes", "Bike"))
    assert api.ask("PATCH", second, {"spec": {"names": {"shortNames": ["b"]}}}, headers=MERGE)[0] == 200
    until(lambda: conditions(api, second)["NamesAccepted"] == ("False", "ShortNamesConflict"))
    assert conditions(api, second)["Established"][0] == "True"
    _, told = api.ask("GET", f"/apis/{group}/v1")
    assert {each["name"]: each.get("shortNames") for each in told["resources"]} == {"boats": ["b"], "bikes": None}


def test_a_definition_waits_for_the_finalizers_of_its_objects(api: Client, group: str, namespace: str) -> None:
    path = made(api, definition(group, "boats", "Boat"))
    boats = f"/apis/{group}/v1/namespaces/{namespace}/boats"
    held = {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": "held", "finalizers": ["example.com/f"]}}
    free = {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": "free"}}
    assert [api.ask("POST", boats, each)[0] for each in (held, free)] == [201, 201]
    assert api.ask("DELETE", path)[0] == 200
    until(lambda: api.ask("GET", f"{boats}/free")[0] == 404)
    assert conditions(api, path)["Terminating"] == ("True", "InstanceDeletionInProgress")
    assert api.ask("GET", f"{boats}/held")[1]["metadata"]["deletionTimestamp"]
    code, refused = api.ask("POST", boats, free)
    assert (code, refused["message"]) == (
        405,
        "create not allowed while custom resource definition is terminating",
    )
    assert api.ask("PATCH", f"{boats}/held", {"metadata": {"finalizers": None}}, headers=MERGE)[0] == 200
    until(lambda: api.ask("GET", path)[0] == 404)
    until(lambda: api.ask("GET", boats)[0] == 404)


def test_what_is_built_in_stays_whatever_a_definition_says(api: Client, namespace: str) -> None:
    body = definition("networking.k8s.io", "ingresses", "Ingress")
    code, refused = api.ask("POST", CRDS, body)
    assert code == 422
    assert refused["details"]["causes"][0]["field"] == "metadata.annotations[api-approved.kubernetes.io]"
    body["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, a test"}
    ingresses = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses"
    backend = {"service": {"name": "a", "port": {"number": 80}}}
    ingress = {"metadata": {"name": "kept"}, "spec": {"defaultBackend": backend}}
    assert api.ask("POST", ingresses, ingress)[0] == 201
    path = made(api, body)
    assert conditions(api, path)["KubernetesAPIApprovalPolicyConformant"] == ("False", "UnapprovedAnnotation")
    assert api.ask("DELETE", path)[0] == 200
    until(lambda: api.ask("GET", path)[0] == 404)
    assert api.ask("GET", f"{ingresses}/kept")[0] == 200


def test_a_version_in_which_objects_are_stored_cannot_go(api: Client, group: str) -> None:
    body = definition(group, "boats", "Boat")
    path = made(api, body)
    (v1,) = body["spec"]["versions"]
    both = [{**v1, "storage": False}, {**v1, "name": "v2"}]
    code, changed = api.ask("PATCH", path, {"spec": {"versions": both}}, headers=MERGE)
    assert (code, changed["status"]["storedVersions"]) == (200, ["v1", "v2"])
    code, refused = api.ask("PATCH", path, {"spec": {"versions": [{**v1, "name": "v2"}]}}, headers=MERGE)
    assert (code, refused["details"]["causes"][0]["field"]) == (422, "status.storedVersions[0]")
    code, refused = api.ask("PATCH", f"{path}/status", {"status": {"storedVersions": ["v1"]}}, headers=MERGE)
    assert (code, "must have the storage version v2" in refused["message"]) == (422, True)
    assert api.ask("PATCH", f"{path}/status", {"status": {"storedVersions": ["v2"]}}, headers=MERGE)[0] == 200
    assert api.ask("PATCH", path, {"spec": {"versions": [{**v1, "name": "v2"}]}}, headers=MERGE)[0] == 200


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_watch_ends_with_the_version_it_is_of(
    api: Client, server: apiserver.Server, group: str, namespace: str, *, is_deleted: bool
) -> None:
    body = definition(group, "boats", "Boat")
    path = made(api, body)
    url = f"{server.url}/apis/{group}/v1/boats?watch=true&timeoutSeconds=60"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {server.token}"})
    with urllib.request.urlopen(request, context=server.context(), timeout=30) as watch:
        boat = {"metadata": {"name": "one"}}
        for name in ("one", "two"):
            boat["metadata"]["name"] = name
            assert api.ask("POST", f"/apis/{group}/v1/namespaces/{namespace}/boats", boat)[0] == 201
            assert json.loads(watch.readline())["type"] == "ADDED"
        if is_deleted:
            assert api.ask("DELETE", path)[0] == 200
        else:
            (v1,) = body["spec"]["versions"]
            changed = {"spec": {"versions": [{**v1, "served": False}, {**v1, "name": "v2", "storage": False}]}}
            assert api.ask("PATCH", path, changed, headers=MERGE)[0] == 200
        assert [json.loads(line)["type"] for line in watch] == ["DELETED", "DELETED"] * is_deleted
