"""CustomResourceDefinitions whose schemas state rules in CEL, through the API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def definition(*rules: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "type": "object",
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}},
        "x-kubernetes-validations": list(rules),
    }
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "ranges", "singular": "range", "kind": "Range"}
    return {
        "metadata": {"name": "ranges.rules.example.com"},
        "spec": {"group": "rules.example.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }


@pytest.fixture
def ranges(api: Client, namespace: str) -> Iterator[str]:
    """The path of a custom resource with a rule about a value and one about a change."""
    body = definition(
        {"rule": "self.min <= self.max", "message": "min must not exceed max"},
        {"rule": "self.max >= oldSelf.max", "message": "max may only grow"},
    )
    assert api.ask("POST", CRDS, body)[0] == 201
    path = f"/apis/rules.example.com/v1/namespaces/{namespace}/ranges"
    deadline = time.monotonic() + 10
    while api.ask("GET", path)[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    yield path
    api.ask("DELETE", f"{CRDS}/ranges.rules.example.com")
    while api.ask("GET", f"{CRDS}/ranges.rules.example.com")[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.02)


def test_objects_are_judged_by_the_rules_of_their_schema(api: Client, ranges: str) -> None:
    def body(low: int, high: int) -> dict[str, Any]:
        return {"apiVersion": "rules.example.com/v1", "kind": "Range", "metadata": {"name": "one"},
                "spec": {"min": low, "max": high}}  # fmt: skip

    code, refused = api.ask("POST", ranges, body(3, 2))
    assert code == 422
    assert refused["details"]["causes"] == [
        {
            "reason": "FieldValueInvalid",
            "message": 'Invalid value: "object": min must not exceed max',
            "field": "spec",
        }
    ]
    assert api.ask("POST", ranges, body(1, 5))[0] == 201
    merge = {"Content-Type": "application/merge-patch+json"}
    code, refused = api.ask("PATCH", f"{ranges}/one", {"spec": {"max": 4}}, headers=merge)
    assert (code, "max may only grow" in refused["message"]) == (422, True)
    assert api.ask("PATCH", f"{ranges}/one", {"spec": {"max": 6}}, headers=merge)[0] == 200


def test_a_definition_whose_rule_does_not_compile_is_refused_with_its_path(api: Client) -> None:
    code, refused = api.ask("POST", CRDS, definition({"rule": "self.minimum <= self.max"}))
    assert code == 422
    path = "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule"
    assert refused["details"]["causes"][0]["field"] == path
    assert "undefined field 'minimum'" in refused["message"]


def test_a_type_that_is_gone_is_not_there_for_who_asked_for_it_before(api: Client, ranges: str) -> None:
    for _ in range(3):
        assert api.ask("GET", ranges)[0] == 200
    assert api.ask("DELETE", f"{CRDS}/ranges.rules.example.com")[0] == 200
    deadline = time.monotonic() + 15
    while (code := api.ask("GET", ranges)[0]) != 404 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert code == 404
