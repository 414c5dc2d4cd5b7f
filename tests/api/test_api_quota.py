"""ResourceQuotas and LimitRanges, through the API."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def quota(api: Client, namespace: str, hard: dict[str, str], **spec: Any) -> str:
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    code, made = api.ask("POST", path, {"metadata": {"name": "q"}, "spec": {"hard": hard, **spec}})
    assert code == 201, made
    return f"{path}/q"


def used(api: Client, path: str, **wanted: str) -> None:
    """Wait until a quota says that so much is used."""
    deadline = time.monotonic() + 10
    shown: dict[str, str] = {}
    while time.monotonic() < deadline:
        shown = (api.ask("GET", path)[1].get("status") or {}).get("used") or {}
        if all(shown.get(name) == text for name, text in wanted.items()):
            return
        time.sleep(0.05)
    raise AssertionError(shown)


def pod(name: str, namespace: str, requests: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "x", "resources": {"requests": requests} if requests else {}}
    return {"metadata": {"name": name}, "spec": {"containers": [container], "schedulerName": "none", **spec}}


def test_what_goes_beyond_a_quota_is_refused_and_what_is_deleted_counts_no_more(api: Client, namespace: str) -> None:
    path, pods = quota(api, namespace, {"pods": "1", "requests.cpu": "1"}), f"/api/v1/namespaces/{namespace}/pods"
    assert api.ask("POST", pods, pod("one", namespace, {"cpu": "600m"}))[0] == 201
    used(api, path, pods="1", **{"requests.cpu": "600m"})
    code, refused = api.ask("POST", pods, pod("two", namespace, {"cpu": "600m"}))
    assert code == 403
    assert (
        "exceeded quota: q, requested: pods=1,requests.cpu=600m, used: pods=1,requests.cpu=600m,"
        " limited: pods=1,requests.cpu=1" in refused["message"]
    )
    assert api.ask("DELETE", f"{pods}/one?gracePeriodSeconds=0")[0] == 200
    used(api, path, pods="0")
    assert api.ask("POST", pods, pod("two", namespace, {"cpu": "600m"}))[0] == 201


def test_a_pod_must_say_what_a_quota_counts(api: Client, namespace: str) -> None:
    quota(api, namespace, {"requests.memory": "1Gi"})
    code, refused = api.ask("POST", f"/api/v1/namespaces/{namespace}/pods", pod("p", namespace))
    assert (code, "must specify requests.memory for: c" in refused["message"]) == (403, True)


def test_many_at_once_never_go_beyond_a_quota(api: Client, namespace: str) -> None:
    path = quota(api, namespace, {"count/configmaps": "6"})
    maps, codes = f"/api/v1/namespaces/{namespace}/configmaps", []

    def make(first: int) -> None:
        for index in range(first, first + 5):
            codes.append(api.ask("POST", maps, {"metadata": {"name": f"m{index}"}})[0])

    threads = [threading.Thread(target=make, args=(10 * each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The namespace's own kube-root-ca.crt counts as well.
    assert set(codes) <= {201, 403}
    assert len(api.ask("GET", maps)[1]["items"]) <= 6
    used(api, path, **{"count/configmaps": "6"})


def test_a_dry_run_uses_nothing_and_is_judged(api: Client, namespace: str) -> None:
    path = quota(api, namespace, {"secrets": "1"})
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    for _ in range(2):
        assert api.ask("POST", f"{secrets}?dryRun=All", {"metadata": {"name": "s"}})[0] == 201
    assert api.ask("POST", secrets, {"metadata": {"name": "s"}})[0] == 201
    assert api.ask("POST", f"{secrets}?dryRun=All", {"metadata": {"name": "t"}})[0] == 403
    used(api, path, secrets="1")


def test_scopes_choose_the_pods_that_count(api: Client, namespace: str) -> None:
    path, pods = quota(api, namespace, {"pods": "0"}, scopes=["BestEffort"]), f"/api/v1/namespaces/{namespace}/pods"
    assert api.ask("POST", pods, pod("idle", namespace))[0] == 403
    assert api.ask("POST", pods, pod("busy", namespace, {"cpu": "1m"}))[0] == 201
    used(api, path, pods="0")


def test_services_claims_and_custom_counts(api: Client, namespace: str) -> None:
    path = quota(api, namespace, {"services.nodeports": "1", "requests.storage": "3Gi", "count/deployments.apps": "0"})
    services = f"/api/v1/namespaces/{namespace}/services"
    spec = {"type": "NodePort", "ports": [{"port": 80}]}
    assert api.ask("POST", services, {"metadata": {"name": "a"}, "spec": spec})[0] == 201
    assert api.ask("POST", services, {"metadata": {"name": "b"}, "spec": spec})[0] == 403
    assert api.ask("POST", services, {"metadata": {"name": "b"}, "spec": {"ports": [{"port": 80}]}})[0] == 201
    merge = {"Content-Type": "application/merge-patch+json"}
    assert api.ask("PATCH", f"{services}/b", {"spec": {"type": "NodePort"}}, headers=merge)[0] == 403
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    assert api.ask("POST", claims, {"metadata": {"name": "a"}, "spec": claim})[0] == 201
    assert api.ask("POST", claims, {"metadata": {"name": "b"}, "spec": claim})[0] == 403
    used(api, path, **{"services.nodeports": "1", "requests.storage": "2Gi"})


def test_limit_ranges_fill_in_and_forbid(api: Client, namespace: str) -> None:
    item = {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}
    path = f"/api/v1/namespaces/{namespace}/limitranges"
    assert api.ask("POST", path, {"metadata": {"name": "l"}, "spec": {"limits": [item]}})[0] == 201
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for name in ("p", "another-of-its-template"):
        _, made = api.ask("POST", pods, {"apiVersion": "v1", "kind": "Pod", **pod(name, namespace)})
        assert made["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
        assert "LimitRanger plugin set" in made["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
    large = pod("q", namespace)
    large["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "2"}}
    code, refused = api.ask("POST", pods, large)
    assert code == 403
    assert "maximum cpu usage per Container is 1, but limit is 2" in refused["message"]


def test_pods_of_one_template_are_each_given_a_token_of_their_own(api: Client, namespace: str) -> None:
    accounts, pods = f"/api/v1/namespaces/{namespace}/serviceaccounts", f"/api/v1/namespaces/{namespace}/pods"
    assert api.ask("POST", accounts, {"metadata": {"name": "robot"}})[0] == 201
    body = {"apiVersion": "v1", "kind": "Pod", **pod("", namespace, serviceAccountName="robot")}
    body["metadata"] = {"generateName": "p-"}
    shown = [api.ask("POST", pods, body)[1] for _ in range(3)]
    names = {made["spec"]["volumes"][0]["name"] for made in shown}
    assert len(names) == len({made["metadata"]["name"] for made in shown}) == 3
    for made in shown:
        assert [each["name"] for each in made["spec"]["volumes"]] == [
            mount["name"] for mount in made["spec"]["containers"][0]["volumeMounts"]
        ]
        assert api.ask("GET", f"{pods}/{made['metadata']['name']}")[1]["spec"] == made["spec"]
