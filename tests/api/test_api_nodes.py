"""A node's credentials against the real server: what the agent needs works, all else is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

NODE_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


@pytest.fixture
def name(api: Client, namespace: str) -> Iterator[str]:
    """The name of a node that is not registered yet."""
    name = f"node-{namespace}"
    yield name
    api.ask("DELETE", f"/api/v1/nodes/{name}")


@pytest.fixture
def another(api: Client, name: str) -> Iterator[str]:
    """The name of another node."""
    yield f"{name}-2"
    api.ask("DELETE", f"/api/v1/nodes/{name}-2")


@pytest.fixture
def node(server: apiserver.Server, name: str) -> Client:
    """The client of a node's agent."""
    options = ["--data-dir", str(server.data_dir), "--server", server.url]
    who = ["--user", f"system:node:{name}", "--group", "system:nodes"]
    command = [*apiserver.program(), "kubeconfig", *options, *who]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return Client(server, token=made.stdout.split("token: ")[1].split()[0])


def _pod(api: Client, namespace: str, node_name: str, pod_name: str = "p") -> dict[str, Any]:
    """Make a pod that runs on a node, uses the Secret `used` and the account `robot`."""
    # The pods of a node that is not there are collected as garbage.
    api.ask("POST", "/api/v1/nodes", {"metadata": {"name": node_name}, "spec": {"unschedulable": True}})
    _account(api, namespace, "robot")
    spec = {
        "nodeName": node_name,
        "serviceAccountName": "robot",
        "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "used"}}]}],
    }
    code, made = api.ask("POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": pod_name}, "spec": spec})
    assert code == 201, made
    found: dict[str, Any] = made
    return found


def _account(api: Client, namespace: str, name: str) -> None:
    api.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})


def _secret(api: Client, namespace: str, name: str) -> str:
    assert api.ask("POST", f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}})[0] == 201
    return f"/api/v1/namespaces/{namespace}/secrets"


def test_a_node_reads_the_secrets_of_its_pods_and_no_others(
    api: Client, node: Client, namespace: str, name: str
) -> None:
    secrets = _secret(api, namespace, "used")
    _secret(api, namespace, "other")
    assert node.ask("GET", f"{secrets}/used")[0] == 403
    _pod(api, namespace, name)
    assert node.ask("GET", f"{secrets}/used")[0] == 200
    assert [node.ask("GET", path)[0] for path in (f"{secrets}/other", secrets, "/api/v1/secrets")] == [403] * 3


def test_a_node_watches_the_one_object_its_pod_refers_to(api: Client, node: Client, namespace: str, name: str) -> None:
    secrets = _secret(api, namespace, "used")
    _pod(api, namespace, name)
    with node.watch(f"{secrets}?watch=1&fieldSelector=metadata.name%3Dused") as events:
        assert next(events)["object"]["metadata"]["name"] == "used"
    assert node.ask("GET", f"{secrets}?watch=1&fieldSelector=metadata.name%3Dother")[0] == 403
    assert node.ask("GET", f"{secrets}?watch=1&fieldSelector=metadata.name!%3Dused")[0] == 403
    assert node.ask("GET", "/api/v1/secrets?watch=1&fieldSelector=metadata.name%3Dused")[0] == 403


def test_a_node_reads_nothing_more_when_its_pod_is_gone(api: Client, node: Client, namespace: str, name: str) -> None:
    secrets = _secret(api, namespace, "used")
    _pod(api, namespace, name)
    assert node.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/p?gracePeriodSeconds=0")[0] == 200
    assert node.ask("GET", f"{secrets}/used")[0] == 403


def test_a_node_lists_its_own_pods_alone(api: Client, node: Client, namespace: str, name: str) -> None:
    _pod(api, namespace, name)
    code, listed = node.ask("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")
    # Pods of other tests may find the new node as well: all of them run on it.
    assert (code, {each["spec"]["nodeName"] for each in listed["items"]}) == (200, {name})
    assert (namespace, "p") in [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in listed["items"]]
    assert node.ask("GET", "/api/v1/pods")[0] == 403
    assert node.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dother")[0] == 403


def test_a_node_writes_the_status_of_its_own_pods_alone(
    api: Client, node: Client, namespace: str, name: str, another: str
) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    _pod(api, namespace, name)
    _pod(api, namespace, another, "q")
    patch = {"status": {"phase": "Running"}}
    merge = {"Content-Type": "application/merge-patch+json"}
    codes = [node.ask("PATCH", f"{pods}/{each}/status", patch, headers=merge)[0] for each in ("p", "q", "none")]
    assert codes == [200, 403, 404]
    assert node.ask("DELETE", f"{pods}/q")[0] == 403
    assert node.ask("POST", f"{pods}/q/eviction", {"metadata": {"name": "q"}})[0] == 403
    assert node.ask("PATCH", f"{pods}/p", {"metadata": {"labels": {"a": "b"}}}, headers=merge)[0] == 403


def test_a_node_gets_tokens_for_its_pods_bound_to_them(api: Client, node: Client, namespace: str, name: str) -> None:
    made = _pod(api, namespace, name)
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    _account(api, namespace, "other")
    bound = {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]}}
    code, issued = node.ask("POST", f"{accounts}/robot/token", {"spec": bound})
    assert (code, bool(issued["status"]["token"])) == (201, True)
    assert node.ask("POST", f"{accounts}/robot/token", {"spec": {}})[0] == 403
    assert node.ask("POST", f"{accounts}/robot/token", {"spec": bound | {"audiences": ["vault"]}})[0] == 403
    assert node.ask("POST", f"{accounts}/other/token", {"spec": bound})[0] == 403
    assert api.ask("POST", f"{accounts}/other/token", {"spec": bound})[0] == 400


def test_a_node_registers_itself_and_no_other(api: Client, node: Client, name: str) -> None:
    merge = {"Content-Type": "application/merge-patch+json"}
    assert node.ask("POST", "/api/v1/nodes", {"metadata": {"name": "another"}})[0] == 403
    restricted = {"node-restriction.kubernetes.io/team": "a"}
    assert node.ask("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": restricted}})[0] == 403
    assert node.ask("POST", "/api/v1/nodes", {"metadata": {"name": name}})[0] == 201
    path = f"/api/v1/nodes/{name}"
    body = {"metadata": {"labels": restricted}}
    codes = [node.ask("PATCH", at, body, headers=merge)[0] for at in (path, f"{path}/status")]
    assert codes == [403, 403]
    assert node.ask("PATCH", path, {"metadata": {"labels": {"plain": "x"}}}, headers=merge)[0] == 200
    assert node.ask("DELETE", path)[0] == 403


def test_a_node_keeps_its_own_lease_alone(api: Client, node: Client, name: str) -> None:
    assert node.ask("POST", NODE_LEASES, {"metadata": {"name": "another"}})[0] == 403
    assert node.ask("POST", NODE_LEASES, {"metadata": {"name": name}, "spec": {"holderIdentity": name}})[0] == 201
    assert node.ask("GET", f"{NODE_LEASES}/{name}")[0] == 200
    assert node.ask("DELETE", f"{NODE_LEASES}/{name}")[0] == 200
