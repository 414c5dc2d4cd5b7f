"""What goes over the wire: lists, watches, errors, access, as client-go relies on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


@pytest.fixture
def node(api: Client, namespace: str) -> Iterator[str]:
    """A node's name; the pods of one that is not there are collected as garbage."""
    name = f"node-{namespace}"
    api.ask("POST", "/api/v1/nodes", {"metadata": {"name": name}, "spec": {"unschedulable": True}})
    yield name
    api.ask("DELETE", f"/api/v1/nodes/{name}")


def conf(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **more}, "data": {"a": "b"}}


def path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{name}" if name else "")


def test_a_watch_tells_each_change_once_and_in_order(api: Client, namespace: str) -> None:
    _, listed = api.ask("GET", path(namespace))
    only = "fieldSelector=metadata.name%3Done"  # the namespace gets its kube-root-ca.crt meanwhile
    since = listed["metadata"]["resourceVersion"]
    with api.watch(f"{path(namespace)}?watch=1&{only}&resourceVersion={since}") as events:
        _, made = api.ask("POST", path(namespace), conf("one"))
        made["data"]["a"] = "c"
        api.ask("PUT", path(namespace, "one"), made)
        api.ask("DELETE", path(namespace, "one"))
        seen = [next(events) for _ in range(3)]
    assert [event["type"] for event in seen] == ["ADDED", "MODIFIED", "DELETED"]
    revisions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
    assert revisions == sorted(set(revisions))


def test_a_watch_list_ends_its_first_part_with_the_annotated_bookmark(api: Client, namespace: str) -> None:
    api.ask("POST", path(namespace), conf("one"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    with api.watch(f"{path(namespace)}?{query}") as events:
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["type"] != "BOOKMARK":
            seen.append(next(events))
        assert "one" in [event["object"]["metadata"]["name"] for event in seen[:-1]]
        assert seen[-1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_watch_list_is_what_client_go_reads_byte_for_byte(api: Client, namespace: str) -> None:
    for name in ("one", "two"):
        assert api.ask("POST", path(namespace), conf(name, labels={"mine": "yes"}))[0] == 201
    chosen = "labelSelector=mine%3Dyes"
    _, stored, _ = api.raw("GET", path(namespace, "one"))
    since = json.loads(api.raw("GET", path(namespace, "two"))[1])["metadata"]["resourceVersion"]
    _, other, _ = api.raw("GET", path(namespace, "two"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3"
    code, body, headers = api.raw("GET", f"{path(namespace)}?{query}&{chosen}")
    assert (code, headers["content-type"]) == (200, "application/json")
    first, second, end, *rest = body.splitlines(keepends=True)
    assert first == b'{"type":"ADDED","object":' + stored.rstrip() + b"}\n"
    assert second == b'{"type":"ADDED","object":' + other.rstrip() + b"}\n"
    revision = json.loads(end)["object"]["metadata"]["resourceVersion"]
    assert int(revision) >= int(since)
    assert end == (
        b'{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"'
        + revision.encode()
        + b'","creationTimestamp":null,"annotations":{"k8s.io/initial-events-end":"true"}}}}\n'
    )
    # What follows are the bookmarks of any watch, which do not end the first part a second time.
    assert all(json.loads(line)["type"] == "BOOKMARK" and b"initial-events-end" not in line for line in rest)


def test_send_initial_events_without_its_match_rule_is_invalid(api: Client, namespace: str) -> None:
    code, told = api.ask("GET", f"{path(namespace)}?watch=1&sendInitialEvents=true")
    assert (code, told["reason"]) == (422, "Invalid")


def test_an_object_that_leaves_the_selector_is_told_as_deleted(api: Client, namespace: str) -> None:
    _, made = api.ask("POST", path(namespace), conf("one", labels={"app": "x"}))
    revision = made["metadata"]["resourceVersion"]
    with api.watch(f"{path(namespace)}?watch=1&labelSelector=app%3Dx&resourceVersion={revision}") as events:
        made["metadata"]["labels"] = {"app": "y"}
        _, changed = api.ask("PUT", path(namespace, "one"), made)
        event = next(events)
    assert (event["type"], event["object"]["metadata"]["labels"]) == ("DELETED", {"app": "x"})
    assert event["object"]["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]


def test_a_watch_ends_well_after_its_timeout_and_bookmarks_where_it_stood(api: Client, namespace: str) -> None:
    with api.watch(f"{path(namespace)}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true") as events:
        types = [event["type"] for event in events]
    assert types[-1] == "BOOKMARK"


def test_a_watch_from_a_revision_of_another_life_is_gone(api: Client, namespace: str) -> None:
    with api.watch(f"{path(namespace)}?watch=1&resourceVersion=99999999") as events:
        event = next(events)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_a_watch_as_table_sends_one_row_each(api: Client, namespace: str) -> None:
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    with api.watch(f"{path(namespace)}?watch=1", headers=accept) as events:
        api.ask("POST", path(namespace), conf("one"))
        rows = [next(events)["object"]["rows"] for _ in range(2)]
    assert all(len(row) == 1 for row in rows)


def test_pages_add_up_to_the_list(api: Client, namespace: str) -> None:
    for number in range(5):
        api.ask("POST", path(namespace), conf(f"c{number}"))
    names, token = [], ""
    while True:
        _, page = api.ask("GET", f"{path(namespace)}?limit=2&continue={token}")
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert [name for name in names if name[0] == "c"] == [f"c{number}" for number in range(5)]


def test_a_limit_below_zero_is_none(api: Client, namespace: str) -> None:
    api.ask("POST", path(namespace), conf("a"))
    code, page = api.ask("GET", f"{path(namespace)}?limit=-1")
    assert (code, "continue" in page["metadata"]) == (200, False)
    assert "a" in [item["metadata"]["name"] for item in page["items"]]


def test_a_stale_write_conflicts(api: Client, namespace: str) -> None:
    _, made = api.ask("POST", path(namespace), conf("one"))
    api.ask("PUT", path(namespace, "one"), {**made, "data": {"a": "c"}})
    code, told = api.ask("PUT", path(namespace, "one"), {**made, "data": {"a": "d"}})
    assert (code, told["reason"]) == (409, "Conflict")
    assert told["details"] == {"name": "one", "kind": "configmaps"}


def test_a_write_that_changes_nothing_leaves_the_revision(api: Client, namespace: str) -> None:
    _, made = api.ask("POST", path(namespace), conf("one"))
    _, same = api.ask("PUT", path(namespace, "one"), conf("one"))
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_a_dry_run_answers_as_if_and_keeps_nothing(api: Client, namespace: str) -> None:
    code, told = api.ask("POST", f"{path(namespace)}?dryRun=All", conf("one"))
    assert (code, bool(told["metadata"]["uid"])) == (201, True)
    assert api.ask("GET", path(namespace, "one"))[0] == 404


def test_generated_names_differ(api: Client, namespace: str) -> None:
    body = {"metadata": {"generateName": "g-"}}
    names = {api.ask("POST", path(namespace), body)[1]["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("g-") for name in names)


def test_unknown_fields_are_refused_warned_about_or_dropped(api: Client, namespace: str) -> None:
    body = {**conf("one"), "colour": "red"}
    assert api.ask("POST", f"{path(namespace)}?fieldValidation=Strict", body)[0] == 400
    code, _, headers = api.raw("POST", path(namespace), body)
    assert (code, headers["warning"]) == (201, '299 - "unknown field \\"colour\\""')
    assert "warning" not in api.raw("POST", f"{path(namespace)}?fieldValidation=Ignore", {**body, **conf("two")})[2]


def test_a_finalizer_holds_the_object_until_it_is_removed(api: Client, namespace: str) -> None:
    api.ask("POST", path(namespace), conf("one", finalizers=["example.com/hold"]))
    _, held = api.ask("DELETE", path(namespace, "one"))
    assert held["metadata"]["deletionTimestamp"]
    patch = {"Content-Type": "application/merge-patch+json"}
    api.ask("PATCH", path(namespace, "one"), {"metadata": {"finalizers": None}}, headers=patch)
    assert api.ask("GET", path(namespace, "one"))[0] == 404


def test_a_deletion_with_another_uid_is_refused(api: Client, namespace: str) -> None:
    api.ask("POST", path(namespace), conf("one"))
    code, told = api.ask("DELETE", path(namespace, "one"), {"preconditions": {"uid": "other"}})
    assert (code, told["reason"]) == (409, "Conflict")


def test_delete_collection_takes_what_the_selector_chooses(api: Client, namespace: str) -> None:
    api.ask("POST", path(namespace), conf("one", labels={"app": "x"}))
    api.ask("POST", path(namespace), conf("two"))
    assert api.ask("DELETE", f"{path(namespace)}?labelSelector=app%3Dx")[0] == 200
    assert [api.ask("GET", path(namespace, name))[0] for name in ("one", "two")] == [404, 200]


def test_services_get_addresses_and_ports_that_are_theirs_alone(api: Client, namespace: str) -> None:
    body = {"spec": {"type": "NodePort", "ports": [{"port": 80}]}}
    made = [
        api.ask("POST", f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": f"s{n}"}, **body})[1]
        for n in range(5)
    ]
    assert len({each["spec"]["clusterIP"] for each in made}) == 5
    assert len({each["spec"]["ports"][0]["nodePort"] for each in made}) == 5
    taken = {"metadata": {"name": "t"}, "spec": {**body["spec"], "clusterIP": made[0]["spec"]["clusterIP"]}}
    code, told = api.ask("POST", f"/api/v1/namespaces/{namespace}/services", taken)
    assert (code, "already allocated" in told["message"]) == (422, True)


def test_a_pod_is_bound_once(api: Client, namespace: str, node: str) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"schedulerName": "by-hand", "containers": [{"name": "c", "image": "i"}]}
    pod = {"metadata": {"name": "p"}, "spec": spec}
    assert api.ask("POST", pods, pod)[0] == 201
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}}
    assert api.ask("POST", f"{pods}/p/binding", binding)[0] == 201
    assert api.ask("POST", f"{pods}/p/binding", binding)[0] == 409
    _, bound = api.ask("GET", f"{pods}/p")
    assert bound["spec"]["nodeName"] == node
    assert [c["status"] for c in bound["status"]["conditions"] if c["type"] == "PodScheduled"] == ["True"]


def test_without_a_token_only_health_and_version_are_answered(server: apiserver.Server) -> None:
    nobody = Client(server, token="")
    assert nobody.ask("GET", "/readyz")[0] == 200
    assert nobody.ask("GET", "/version")[0] == 200
    code, told = nobody.ask("GET", "/api/v1/namespaces")
    assert (code, told["kind"], told["reason"]) == (401, "Status", "Unauthorized")
    assert Client(server, token="bad").ask("GET", "/readyz")[0] == 401


def test_a_service_account_may_do_what_its_role_says(api: Client, server: apiserver.Server, namespace: str) -> None:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    api.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "robot"}})
    rules = [{"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]}]
    api.ask("POST", f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    subjects = [{"kind": "ServiceAccount", "name": "robot", "namespace": namespace}]
    api.ask("POST", f"{rbac}/rolebindings", {"metadata": {"name": "b"}, "roleRef": role, "subjects": subjects})
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts/robot/token"
    _, told = api.ask("POST", accounts, {"spec": {"audiences": None}})
    robot = Client(server, token=told["status"]["token"])
    assert robot.ask("GET", path(namespace))[0] == 200
    code, refused = robot.ask("GET", f"/api/v1/namespaces/{namespace}/secrets")
    assert (code, refused["reason"]) == (403, "Forbidden")
    assert f'system:serviceaccount:{namespace}:robot" cannot list resource "secrets"' in refused["message"]


def test_spdy_upgrades_are_told_the_way_out(api: Client, namespace: str, node: str) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
    api.ask("POST", pods, {"metadata": {"name": "p"}, "spec": spec})
    upgrade = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    code, told = api.ask("POST", f"{pods}/p/exec?command=sh", headers=upgrade)
    assert (code, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS" in told["message"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "asked", "code"),
    [
        ("GET", "/apis/nothing/v1/things", 404),
        ("GET", "/api/v1/namespaces/none/pods/p", 404),
        ("POST", "/api/v1/namespaces/none/pods", 404),
        ("PUT", "/api/v1/pods", 405),
        ("GET", "/openapi/v3/apis/none/v1", 404),
        ("GET", "/api/v1/pods?labelSelector=%3D%3D", 400),
        ("GET", "/api/v1/pods?continue=rubbish", 400),
        ("GET", "/api/v1/pods?resourceVersion=5&continue=x", 400),
    ],
)
def test_what_cannot_be_done_is_a_status_with_its_code(api: Client, method: str, asked: str, code: int) -> None:
    body = (
        {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}} if method == "POST" else None
    )
    found, told = api.ask(method, asked, body)
    assert (found, told["kind"], told["code"]) == (code, "Status", code)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"metadata": 3}', b'{"kind":"Pod"}', b"k8s\x00\xff\xff"])
def test_a_body_that_is_no_object_is_a_bad_request(api: Client, namespace: str, body: bytes) -> None:
    code, told = api.ask("POST", path(namespace), body)
    assert (code, told["reason"]) == (400, "BadRequest")


def test_a_body_larger_than_three_megabytes_is_refused(api: Client, namespace: str) -> None:
    code, told = api.ask("POST", path(namespace), {**conf("big"), "data": {"a": "x" * (4 << 20)}})
    assert (code, told["reason"]) == (413, "RequestEntityTooLarge")


def test_metrics_have_the_names_of_the_real_server(api: Client) -> None:
    _, text = api.ask("GET", "/metrics")
    for name in ("apiserver_request_total", "apiserver_request_duration_seconds_bucket", "apiserver_storage_objects"):
        assert name in text


def test_aggregated_discovery_is_answered_from_the_clients_cache(api: Client) -> None:
    accept = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}
    code, body, headers = api.raw("GET", "/apis", headers=accept)
    assert (code, b"APIGroupDiscoveryList" in body) == (200, True)
    code, body, _ = api.raw("GET", "/apis", headers={**accept, "If-None-Match": headers["etag"]})
    assert (code, body) == (304, b"")


def test_openapi_documents_may_be_cached_for_ever_under_their_hash(api: Client) -> None:
    _, index = api.ask("GET", "/openapi/v3")
    code, _, headers = api.raw("GET", index["paths"]["apis/apps/v1"]["serverRelativeURL"])
    assert (code, headers["cache-control"]) == (200, "public, immutable")


def test_the_v2_document_is_told_in_the_form_that_is_asked_for_and_from_the_clients_cache(api: Client) -> None:
    code, document = api.ask("GET", "/openapi/v2")
    assert (code, document["swagger"]) == (200, "2.0")
    assert "io.k8s.api.core.v1.Pod" in document["definitions"]
    asked = {"Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}
    code, body, headers = api.raw("GET", "/openapi/v2", headers=asked)
    assert (code, body[:5]) == (200, b"\n\x032.0")
    assert headers["content-type"] == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    code, body, _ = api.raw("GET", "/openapi/v2", headers={**asked, "If-None-Match": headers["etag"]})
    assert (code, body) == (304, b"")


def test_the_old_paths_of_watches_watch(api: Client, namespace: str) -> None:
    old = f"/api/v1/watch/namespaces/{namespace}/configmaps/one?resourceVersion=0"
    with api.watch(old) as events:
        api.ask("POST", path(namespace), conf("two"))
        api.ask("POST", path(namespace), conf("one"))
        event = next(events)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "one")


def test_a_pods_own_subresources_change_what_they_are_for_and_nothing_else(
    api: Client, namespace: str, node: str
) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    resources = {"requests": {"cpu": "100m"}}
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i", "resources": resources}]}
    assert api.ask("POST", pods, {"metadata": {"name": "p"}, "spec": spec})[0] == 201
    merge = {"Content-Type": "application/strategic-merge-patch+json"}
    added = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "b"}], "nodeName": "other"}}
    code, pod = api.ask("PATCH", f"{pods}/p/ephemeralcontainers", added, headers=merge)
    assert code == 200, pod
    assert [each["name"] for each in pod["spec"]["ephemeralContainers"]] == ["debug"]
    assert pod["spec"]["nodeName"] == node
    pod["spec"]["ephemeralContainers"] = []
    assert api.ask("PUT", f"{pods}/p/ephemeralcontainers", pod)[0] == 422
    larger = {"spec": {"containers": [{"name": "c", "image": "other", "resources": {"requests": {"cpu": "200m"}}}]}}
    code, pod = api.ask("PATCH", f"{pods}/p/resize", larger, headers=merge)
    assert code == 200, pod
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "200m"}
    assert pod["spec"]["containers"][0]["image"] == "i"
    storage = {"spec": {"containers": [{"name": "c", "resources": {"requests": {"ephemeral-storage": "1Gi"}}}]}}
    assert api.ask("PATCH", f"{pods}/p/resize", storage, headers=merge)[0] == 422
    larger["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "300m"}}
    assert api.ask("PATCH", f"{pods}/p", larger, headers=merge)[0] == 422


def test_an_autoscaler_is_the_same_in_both_versions(api: Client, namespace: str) -> None:
    base = f"namespaces/{namespace}/horizontalpodautoscalers"
    target = {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}
    spec = {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
    body = {"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": spec}
    code, made = api.ask("POST", f"/apis/autoscaling/v1/{base}", body)
    assert code == 201, made
    assert made["spec"] == {**spec, "minReplicas": 1}
    _, newer = api.ask("GET", f"/apis/autoscaling/v2/{base}/h")
    utilization = {"type": "Utilization", "averageUtilization": 50}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": utilization}}
    assert newer["spec"]["metrics"] == [cpu]
    memory = {"type": "Resource", "resource": {"name": "memory", "target": utilization}}
    newer["spec"]["metrics"].append(memory)
    code, newer = api.ask("PUT", f"/apis/autoscaling/v2/{base}/h", newer)
    assert code == 200, newer
    _, older = api.ask("GET", f"/apis/autoscaling/v1/{base}/h")
    assert older["spec"]["targetCPUUtilizationPercentage"] == 50
    assert "memory" in older["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"]
    code, _ = api.ask("PUT", f"/apis/autoscaling/v1/{base}/h", older)
    assert code == 200
    assert api.ask("GET", f"/apis/autoscaling/v2/{base}/h")[1]["spec"] == newer["spec"]


def test_the_keys_of_account_tokens_are_found_by_openid_discovery(api: Client) -> None:
    code, found = api.ask("GET", "/.well-known/openid-configuration")
    assert code == 200
    assert found["issuer"].startswith("https://kubernetes.default.svc")
    assert found["jwks_uri"].endswith("/openid/v1/jwks")
    code, keys = api.ask("GET", "/openid/v1/jwks")
    assert code == 200
    assert found["id_token_signing_alg_values_supported"] == [keys["keys"][0]["alg"]]
