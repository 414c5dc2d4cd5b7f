"""What a write may do and what it is refused for, over HTTP: deletions, types of Services, evictions, roles."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.Server]:
    """A server without controllers: what is written stays as it is written."""
    data = tmp_path_factory.mktemp("rules") / "data"
    with apiserver.running(data, options=("--no-controllers",)) as running:
        yield running


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


def core(namespace: str, plural: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


@pytest.mark.parametrize(
    ("query", "body", "code", "why"),
    [
        ("?dryRun=all", None, 422, 'dryRun: Unsupported value: "all"'),
        ("", {"dryRun": ["Foo"]}, 422, 'dryRun: Unsupported value: "Foo"'),
        ("?dryRun=all", {"dryRun": ["All"]}, 422, 'dryRun: Unsupported value: "All,all"'),
        ("", {"dryRun": "All"}, 400, "dryRun: Invalid value: must be a list"),
        ("", {"orphanDependents": True, "propagationPolicy": "Orphan"}, 422, "cannot be both set"),
        ("", {"propagationPolicy": "Away"}, 422, 'propagationPolicy: Unsupported value: "Away"'),
        ("", {"gracePeriodSeconds": "1"}, 400, "gracePeriodSeconds: Invalid value"),
        ("", {"preconditions": {"uid": 1}}, 400, "preconditions: Invalid value"),
        ("", {"kind": "Pod", "apiVersion": "v1"}, 400, "is DeleteOptions, not Pod"),
        ("?dryRun=All", {"propagationPolicy": "Background"}, 200, ""),
        ("", {"dryRun": ["All"]}, 200, ""),
    ],
)
def test_what_is_asked_badly_or_for_trial_deletes_nothing(
    api: Client, namespace: str, query: str, body: dict[str, Any] | None, code: int, why: str
) -> None:
    api.ask("POST", core(namespace, "configmaps"), {"metadata": {"name": "kept"}})
    found, told = api.ask("DELETE", core(namespace, "configmaps", "kept") + query, body)
    assert (found, why in told.get("message", "")) == (code, True), told
    assert api.ask("DELETE", core(namespace, "configmaps") + query, body)[0] == code
    assert api.ask("GET", core(namespace, "configmaps", "kept"))[0] == 200


INNER = {"ports": [{"port": 80}]}
NODE_PORT = {"type": "NodePort", "ports": [{"port": 80}]}
LOCAL = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        (NODE_PORT, {"type": "ClusterIP"}, {"externalTrafficPolicy"}),
        (LOCAL, {"type": "ClusterIP"}, {"externalTrafficPolicy", "healthCheckNodePort"}),
        (LOCAL, {"type": "NodePort"}, {"allocateLoadBalancerNodePorts", "healthCheckNodePort"}),
        (LOCAL, {"externalTrafficPolicy": "Cluster"}, {"healthCheckNodePort"}),
        (INNER, {"type": "ExternalName", "externalName": "x.y"}, {"clusterIP", "clusterIPs", "ipFamilies"}),
        (NODE_PORT, {"type": "ExternalName", "externalName": "x.y", "clusterIP": None}, {"clusterIP", "clusterIPs"}),
    ],
)  # fmt: skip
def test_a_service_of_another_type_gives_up_what_only_the_old_one_had(
    api: Client, namespace: str, before: dict[str, Any], after: dict[str, Any], gone: set[str]
) -> None:
    assert api.ask("POST", core(namespace, "services"), {"metadata": {"name": "s"}, "spec": before})[0] == 201
    code, told = api.ask("PATCH", core(namespace, "services", "s"), {"spec": after}, headers={"Content-Type": MERGE})
    assert code == 200, told
    assert not gone & told["spec"].keys()
    keeps = told["spec"]["type"] in ("LoadBalancer", "NodePort")
    assert all(("nodePort" in port) == keeps for port in told["spec"]["ports"])


def test_a_service_changes_its_type_by_apply_and_takes_no_port_that_its_type_cannot_have(
    api: Client, namespace: str
) -> None:
    def applied(**spec: Any) -> tuple[int, dict[str, Any]]:
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec}
        where = core(namespace, "services", "s") + "?fieldManager=me"
        return api.ask("PATCH", where, body, headers={"Content-Type": APPLY})

    assert applied(**NODE_PORT)[0] == 201
    code, told = applied(type="ClusterIP", ports=[{"port": 80}])
    assert (code, told["spec"]["type"]) == (200, "ClusterIP"), told
    assert applied(**NODE_PORT)[0] == 200
    code, told = applied(type="ClusterIP", ports=[{"port": 80, "nodePort": 32111}])
    assert (code, "may not be used when `type` is 'ClusterIP'" in told["message"]) == (422, True)


class Pods:
    """Pods of one label in a namespace, and the budget over them."""

    def __init__(self, api: Client, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def make(self, *names: str, is_ready: bool) -> None:
        """Make Pods that run."""
        condition = {"type": "Ready", "status": "True" if is_ready else "False"}
        shown = {"status": {"phase": "Running", "conditions": [condition]}}
        for name in names:
            spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}
            pod = {"metadata": {"name": name, "labels": {"app": "a"}}, "spec": spec}
            assert self._api.ask("POST", core(self._namespace, "pods"), pod)[0] == 201
            where = core(self._namespace, "pods", name) + "/status"
            assert self._api.ask("PATCH", where, shown, headers={"Content-Type": MERGE})[0] == 200

    def guard(self, *, allowed: int, healthy: int, desired: int, policy: str = "IfHealthyBudget") -> None:
        """Set a budget over them, and what its controller would count."""
        where = f"/apis/policy/v1/namespaces/{self._namespace}/poddisruptionbudgets"
        spec = {
            "minAvailable": desired,
            "selector": {"matchLabels": {"app": "a"}},
            "unhealthyPodEvictionPolicy": policy,
        }
        code, made = self._api.ask("POST", where, {"metadata": {"name": "b"}, "spec": spec})
        assert code == 201, made
        counts = {"disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired}
        made["status"] = {**counts, "expectedPods": 0, "observedGeneration": made["metadata"]["generation"]}
        assert self._api.ask("PUT", f"{where}/b/status", made)[0] == 200

    def evict(self, name: str, query: str = "", **more: Any) -> tuple[int, Any]:
        """Ask for an eviction."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, **more}
        return self._api.ask("POST", core(self._namespace, "pods", name) + f"/eviction{query}", body)

    @property
    def allowed(self) -> int:
        """How many more the budget lets go."""
        where = f"/apis/policy/v1/namespaces/{self._namespace}/poddisruptionbudgets/b"
        return int(self._api.ask("GET", where)[1]["status"]["disruptionsAllowed"])

    def is_kept(self, name: str) -> bool:
        """Whether nobody has deleted a Pod."""
        return "deletionTimestamp" not in self._api.ask("GET", core(self._namespace, "pods", name))[1]["metadata"]


@pytest.fixture
def pods(api: Client, namespace: str) -> Pods:
    return Pods(api, namespace)


def test_pods_evicted_at_once_go_as_far_as_the_budget_allows(pods: Pods) -> None:
    names = [f"p{index}" for index in range(10)]
    pods.make(*names, is_ready=True)
    pods.guard(allowed=7, healthy=10, desired=3)
    with futures.ThreadPoolExecutor(10) as threads:
        answers = sorted(code for code, _ in threads.map(pods.evict, names))
    assert answers == [201] * 7 + [429] * 3
    assert pods.allowed == 0


def test_an_eviction_that_cannot_be_leaves_pod_and_budget_as_they_are(pods: Pods) -> None:
    pods.make("p", is_ready=True)
    pods.guard(allowed=1, healthy=1, desired=0)
    assert pods.evict("p", metadata={"name": "q"})[0] == 400
    assert pods.evict("p", deleteOptions={"preconditions": {"uid": "another"}})[0] == 409
    assert pods.evict("p", deleteOptions={"dryRun": ["Foo"]})[0] == 422
    assert pods.evict("p", deleteOptions={"dryRun": ["All"]})[0] == 201
    assert (pods.allowed, pods.is_kept("p")) == (1, True)
    assert pods.evict("p")[0] == 201
    assert (pods.allowed, pods.is_kept("p")) == (0, False)


def test_a_pod_that_is_evicted_says_so(api: Client, pods: Pods, namespace: str) -> None:
    pods.make("p", is_ready=True)
    assert pods.evict("p", "?dryRun=All")[0] == 201
    shown = api.ask("GET", core(namespace, "pods", "p"))[1]["status"]["conditions"]
    assert [each["type"] for each in shown] == ["Ready"]
    assert pods.evict("p")[0] == 201
    ready, told = api.ask("GET", core(namespace, "pods", "p"))[1]["status"]["conditions"]
    assert (ready["type"], told["type"], told["status"]) == ("Ready", "DisruptionTarget", "True")
    assert (told["reason"], told["message"]) == ("EvictionByEvictionAPI", "Eviction API: evicting")


def test_an_eviction_for_trial_asks_the_budget(pods: Pods) -> None:
    pods.make("p", is_ready=True)
    pods.guard(allowed=0, healthy=1, desired=1)
    assert pods.evict("p", "?dryRun=All")[0] == 429


@pytest.mark.parametrize(
    ("policy", "healthy", "code"),
    [("AlwaysAllow", 0, 201), ("IfHealthyBudget", 2, 201), ("IfHealthyBudget", 1, 429)],
)
def test_a_pod_that_is_not_ready_goes_as_its_budgets_policy_says(
    pods: Pods, policy: str, healthy: int, code: int
) -> None:
    pods.make("p", is_ready=False)
    pods.guard(allowed=0, healthy=healthy, desired=2, policy=policy)
    assert pods.evict("p")[0] == code
    assert pods.is_kept("p") == (code == 429)


def test_the_pods_of_a_job_stay_unless_its_deletion_says_otherwise_as_a_warning_tells(
    api: Client, namespace: str
) -> None:
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    for name, query, is_left in (("a", "", True), ("b", "?propagationPolicy=Background", False)):
        assert api.ask("POST", jobs, {"metadata": {"name": name}, "spec": {"template": template}})[0] == 201
        _, raw, headers = api.raw("DELETE", f"{jobs}/{name}{query}")
        assert (b'"orphan"' in raw, "child pods are preserved" in headers.get("warning", "")) == (is_left, is_left)
    kept = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    counted = {"metadata": {"name": "r"}, "spec": {"selector": {"a": "b"}, "template": kept}}
    assert api.ask("POST", core(namespace, "replicationcontrollers"), counted)[0] == 201
    left = api.ask("DELETE", core(namespace, "replicationcontrollers", "r"))[1]
    assert left["metadata"]["finalizers"] == ["orphan"]


RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Author:
    """Somebody who may write roles and bindings of a namespace and read its ConfigMaps, and tries to have more."""

    def __init__(self, api: Client, namespace: str) -> None:
        self._api = api
        self.where = f"{RBAC}/namespaces/{namespace}"
        self.name = f"author-of-{namespace}"
        self.subjects = [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": self.name}]
        verbs = "get,list,watch,create,update,patch,delete"  # all verbs ("*") would be leave to escalate, too
        self.give("start", [rule(verbs, "roles,rolebindings", "rbac.authorization.k8s.io"), rule("get", "configmaps")])

    def give(self, name: str, rules: list[dict[str, Any]]) -> None:
        """Let the author do more, as the cluster's administrator."""
        assert self._api.ask("POST", f"{self.where}/roles", {"metadata": {"name": name}, "rules": rules})[0] == 201
        assert self._api.ask("POST", f"{self.where}/rolebindings", self.binding(name))[0] == 201

    def binding(self, role: str, kind: str = "Role") -> dict[str, Any]:
        """Return a binding of a role to the author."""
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
        return {"metadata": {"name": role}, "roleRef": ref, "subjects": self.subjects}

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, str]:
        """Do what the author does."""
        headers = {"Impersonate-User": self.name, "Content-Type": kind}
        code, told = self._api.ask(method, f"{self.where}/{path}", body, headers=headers)
        return code, told.get("message", "")


def rule(verbs: str, resources: str, group: str = "") -> dict[str, Any]:
    return {"verbs": verbs.split(","), "apiGroups": [group], "resources": resources.split(",")}


@pytest.fixture
def author(api: Client, namespace: str) -> Author:
    return Author(api, namespace)


def test_a_role_grants_no_more_than_its_author_may_do(author: Author) -> None:
    assert author.ask("POST", "roles", {"metadata": {"name": "r"}, "rules": [rule("get", "configmaps")]})[0] == 201
    more = {"rules": [rule("get,list", "secrets")]}
    code, why = author.ask("POST", "roles", {"metadata": {"name": "s"}, **more})
    assert code == 403
    assert f'roles.rbac.authorization.k8s.io "s" is forbidden: user "{author.name}"' in why
    assert '{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}' in why
    whole = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, **more}
    assert author.ask("PUT", "roles/r", whole)[0] == 403
    assert author.ask("PUT", "roles/t", {**whole, "metadata": {"name": "t"}})[0] == 403
    assert author.ask("PATCH", "roles/r", more, MERGE)[0] == 403
    assert author.ask("PATCH", "roles/r?fieldManager=me&force=true", whole, APPLY)[0] == 403
    author.give("leave", [rule("escalate", "roles", "rbac.authorization.k8s.io")])
    assert author.ask("PATCH", "roles/r", more, MERGE)[0] == 200


def test_a_binding_gives_no_more_than_its_author_may_do(author: Author) -> None:
    code, why = author.ask("POST", "rolebindings", author.binding("cluster-admin", "ClusterRole"))
    assert (code, "is attempting to grant RBAC permissions not currently held" in why) == (403, True)
    assert author.ask("POST", "rolebindings", author.binding("not-there"))[0] == 404
    assert author.ask("PATCH", "rolebindings/start", {"metadata": {"finalizers": ["a.b/c"]}}, MERGE)[0] == 200
    assert author.ask("PATCH", "rolebindings/start", {"metadata": {"finalizers": None}}, MERGE)[0] == 200
    own = author.binding("start") | {"metadata": {"name": "again"}}
    assert author.ask("POST", "rolebindings", own)[0] == 201
    author.give("leave", [rule("bind", "clusterroles", "rbac.authorization.k8s.io")])
    assert author.ask("POST", "rolebindings", author.binding("view", "ClusterRole"))[0] == 201


def test_only_who_may_do_everything_lets_a_role_gather_others(api: Client, author: Author) -> None:
    may = [rule("create,update,get", "clusterroles", "rbac.authorization.k8s.io")]
    name = author.name
    assert api.ask("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": may})[0] == 201
    assert api.ask("POST", f"{RBAC}/clusterrolebindings", author.binding(name, "ClusterRole"))[0] == 201
    gathers = {"metadata": {"name": f"{name}-all"}, "aggregationRule": {"clusterRoleSelectors": [{}]}}
    headers = {"Impersonate-User": name}
    code, told = api.ask("POST", f"{RBAC}/clusterroles", gathers, headers=headers)
    assert (code, "must have cluster-admin privileges to use the aggregationRule" in told["message"]) == (403, True)


def test_a_pod_is_bound_through_its_namespaces_bindings(api: Client, namespace: str) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    assert api.ask("POST", core(namespace, "pods"), pod)[0] == 201
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}
    assert api.ask("POST", core(namespace, "pods", "p") + "/binding", {**binding, "metadata": {"name": "q"}})[0] == 400
    assert api.ask("POST", core(namespace, "bindings"), {"target": binding["target"]})[0] == 400
    assert api.ask("POST", core(namespace, "bindings"), binding)[0] == 201
    assert api.ask("GET", core(namespace, "pods", "p"))[1]["spec"]["nodeName"] == "n"


def test_what_was_asked_is_counted_under_the_real_servers_names(
    api: Client, server: apiserver.Server, namespace: str
) -> None:
    api.ask("POST", core(namespace, "configmaps") + "?dryRun=All", {"metadata": {"name": "c"}})
    Client(server, token="bad").ask("PUT", core(namespace, "configmaps", "c"), {})
    lines = api.raw("GET", "/metrics")[1].decode().splitlines()
    told = [line for line in lines if line.startswith("apiserver_request_total") and '"configmaps"' in line]
    for parts in (('verb="POST"', 'dry_run="All"', 'code="201"'), ('verb="PUT"', 'dry_run=""', 'code="401"')):
        assert any(all(part in line for part in (*parts, 'component="apiserver"')) for line in told), parts


TWICE = b'{"metadata": {"name": "c"}, "data": {"a": "1", "b": "2", "a": "3"}}'
TWICE_IN_YAML = b"metadata:\n  name: c\ndata:\n  a: '1'\n  a: '2'\n"


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        (TWICE, "application/json", 'duplicate field "data.a"'),
        (TWICE_IN_YAML, "application/yaml", 'line 5: key "a" already set in map'),
    ],
)
def test_a_field_that_is_given_twice_is_refused_or_warned_of(
    api: Client, namespace: str, body: bytes, kind: str, why: str
) -> None:
    where = core(namespace, "configmaps")
    for method, path, sent in (("POST", where, kind), ("PATCH", f"{where}/c", APPLY)):
        asked = f"{path}?dryRun=All&fieldManager=me&fieldValidation"
        code, told = api.ask(method, f"{asked}=Strict", body, headers={"Content-Type": sent})
        assert (code, f"strict decoding error: {why}" in told["message"]) == (400, True)
    for query, expected in (("?fieldValidation=Warn", 201), ("?dryRun=All", 409), ("/c", 200)):
        method = "PUT" if query == "/c" else "POST"
        code, _, headers = api.raw(method, where + query, body, headers={"Content-Type": kind})
        assert (code, headers["warning"]) == (expected, '299 - "' + why.replace('"', '\\"') + '"')
    quiet, _, headers = api.raw("PUT", f"{where}/c?fieldValidation=Ignore", body, headers={"Content-Type": kind})
    assert (quiet, "warning" in headers) == (200, False)
    code, told = api.ask("PATCH", f"{where}/c?fieldValidation=Strict", TWICE, headers={"Content-Type": MERGE})
    assert (code, 'duplicate field "data.a"' in told["message"]) == (400, True)
