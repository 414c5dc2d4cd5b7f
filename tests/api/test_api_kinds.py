"""Kinds that the server itself keeps up to date, or keeps for others: addresses of Services, storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

NETWORKING = "/apis/networking.k8s.io/v1"
STORAGE = "/apis/storage.k8s.io/v1"


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


def test_the_addresses_of_services_are_shown_as_long_as_they_are_held(api: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/services"
    code, made = api.ask("POST", path, {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})
    assert code == 201, made
    address = f"{NETWORKING}/ipaddresses/{made['spec']['clusterIP']}"
    until(lambda: api.ask("GET", address)[0] == 200)
    parent = api.ask("GET", address)[1]["spec"]["parentRef"]
    assert (parent["resource"], parent["namespace"], parent["name"]) == ("services", namespace, "web")
    api.ask("DELETE", f"{path}/web")
    until(lambda: api.ask("GET", address)[0] == 404)


def test_an_address_that_something_else_has_is_not_given_to_a_service(api: Client, namespace: str) -> None:
    services, shown = f"/api/v1/namespaces/{namespace}/services", f"{NETWORKING}/ipaddresses"
    parent = {"group": "example.org", "resource": "doors", "name": "front"}
    assert api.ask("POST", shown, {"metadata": {"name": "10.96.0.77"}, "spec": {"parentRef": parent}})[0] == 201
    wanted = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.77"}}
    code, told = api.ask("POST", services, wanted)
    assert (code, "provided IP is already allocated" in told["message"]) == (422, True)
    assert api.ask("DELETE", f"{shown}/10.96.0.77")[0] == 200
    assert api.ask("POST", services, wanted)[0] == 201


def test_the_servers_own_ranges_are_a_ready_service_cidr(api: Client) -> None:
    path = f"{NETWORKING}/servicecidrs/kubernetes"

    def is_ready() -> bool:
        conditions = api.ask("GET", path)[1].get("status", {}).get("conditions") or ()
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    until(is_ready)
    found = api.ask("GET", path)[1]
    assert found["spec"]["cidrs"]
    merge = {"Content-Type": "application/merge-patch+json"}
    assert api.ask("PATCH", path, {"spec": {"cidrs": ["10.1.0.0/16"]}}, headers=merge)[0] == 422


@pytest.mark.parametrize(
    ("plural", "obj", "fault"),
    [
        (f"{NETWORKING}/servicecidrs", {"spec": {"cidrs": ["10.1.0.0/16", "10.2.0.0/16"]}}, "one IP for each IP"),
        (f"{NETWORKING}/servicecidrs", {"spec": {"cidrs": ["ten"]}}, "must be a valid CIDR value"),
        (f"{NETWORKING}/ipaddresses", {"spec": {"parentRef": {"resource": "x", "name": "y"}}}, "valid IP address"),
        (f"{STORAGE}/csidrivers", {"spec": {"volumeLifecycleModes": ["Always"]}}, "spec.volumeLifecycleModes"),
        (f"{STORAGE}/csinodes", {"spec": {"drivers": [{"name": "a", "nodeID": ""}]}}, "spec.drivers[0].nodeID"),
        (
            f"{STORAGE}/volumeattachments",
            {"spec": {"attacher": "a", "nodeName": "n", "source": {}}},
            "exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(api: Client, plural: str, obj: dict[str, Any], fault: str) -> None:
    code, told = api.ask("POST", plural, {"metadata": {"name": "not-so"}, **obj})
    assert code == 422, told
    assert fault in told["message"]


def test_a_storage_driver_is_kept_with_its_defaults(api: Client, namespace: str) -> None:
    name = f"{namespace}.example.com"
    code, made = api.ask("POST", f"{STORAGE}/csidrivers", {"metadata": {"name": name}, "spec": {}})
    assert code == 201, made
    assert (made["spec"]["attachRequired"], made["spec"]["volumeLifecycleModes"]) == (True, ["Persistent"])
    made["spec"]["attachRequired"] = False
    assert api.ask("PUT", f"{STORAGE}/csidrivers/{name}", made)[0] == 422
    api.ask("DELETE", f"{STORAGE}/csidrivers/{name}")
