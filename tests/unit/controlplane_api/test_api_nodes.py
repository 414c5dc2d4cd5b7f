"""What a node's agent may ask for and may write: the graph of its pods, its authorizer, its restriction."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from netplane.controlplane.api import access, authorize, cluster, graph, node, rbac, references, restriction, status
from netplane.controlplane.registry import builtin
from netplane.controlplane.store import embedded
from netplane.kube.types import Object

NODE = access.User("system:node:n1", ("system:nodes", "system:authenticated"))
NAMELESS = access.User("mallory", ("system:nodes",))


def pod(name: str = "p", node_name: str = "n1", **spec: Any) -> Object:
    volumes = [
        {"name": "s", "secret": {"secretName": "in-volume"}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
        {"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}}, {"serviceAccountToken": {"path": "v", "audience": "vault"}},
            {"configMap": {"name": "projected"}}]}},
        {"name": "e", "ephemeral": {"volumeClaimTemplate": {}}},
    ]  # fmt: skip
    containers = [
        {
            "name": "c",
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "in-env", "key": "a"}}}],
            "envFrom": [{"secretRef": {"name": "in-env-from"}}],
        }
    ]
    known = {"containers": containers, "volumes": volumes, "serviceAccountName": "robot", "nodeName": node_name}
    return {"metadata": {"name": name, "namespace": "x", "uid": f"uid-{name}"}, "spec": known | spec}


def mirror(**metadata: Any) -> Object:
    known = {"name": "m", "namespace": "x", "annotations": {references.MIRROR: "hash"}}
    return {"metadata": known | metadata, "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}}


def own_node(**more: Any) -> Object:
    return {"metadata": {"name": "n1", "uid": "u1", "labels": {"kubernetes.io/hostname": "n1"}} | more}


def test_a_pod_refers_to_what_its_volumes_variables_and_account_name() -> None:
    assert references.of(pod()) == {
        ("secrets", "in-volume"),
        ("secrets", "in-env-from"),
        ("configmaps", "in-env"),
        ("configmaps", "projected"),
        ("persistentvolumeclaims", "claim"),
        ("persistentvolumeclaims", "p-e"),
        ("serviceaccounts", "robot"),
    }


def test_a_mirror_pod_gives_its_node_nothing_to_read() -> None:
    made = pod()
    made["metadata"]["annotations"] = {references.MIRROR: "x"}
    assert references.of(made) == frozenset()


async def test_a_reference_holds_from_the_binding_to_the_end_of_the_last_pod(tmp_path: Path) -> None:
    store = embedded.Embedded(tmp_path / "state.db", cluster.index(builtin()))
    await store.start()
    try:
        known = graph.Graph(store)
        first = await store.create("pods", pod("p1", ""))
        assert not known.refers("n1", "secrets", "x", "in-volume")
        bound = await store.update("pods", pod("p1"), expected=first.revision)
        second = await store.create("pods", pod("p2"))
        assert known.refers("n1", "secrets", "x", "in-volume")
        assert not known.refers("n2", "secrets", "x", "in-volume")
        assert not known.refers("n1", "secrets", "y", "in-volume")
        await store.delete("pods", pod("p1"), expected=bound.revision)
        assert known.refers("n1", "secrets", "x", "in-volume")
        assert known.has_pod("n1", "x", "p2")
        assert not known.has_pod("n1", "x", "p1")
        await store.delete("pods", pod("p2"), expected=second.revision)
        assert not known.refers("n1", "secrets", "x", "in-volume")
        assert not known._counts
        assert not known._pods
    finally:
        await store.stop()


async def test_a_late_container_adds_what_it_refers_to(tmp_path: Path) -> None:
    store = embedded.Embedded(tmp_path / "state.db", cluster.index(builtin()))
    await store.start()
    try:
        known = graph.Graph(store)
        made = await store.create("pods", pod())
        assert not known.refers("n1", "secrets", "x", "late")
        late = [{"name": "d", "envFrom": [{"secretRef": {"name": "late"}}]}]
        await store.update("pods", pod(ephemeralContainers=late), expected=made.revision)
        assert known.refers("n1", "secrets", "x", "late")
    finally:
        await store.stop()


@pytest.mark.parametrize(
    ("asked", "is_allowed"),
    [
        (rbac.Attributes("get", "", "secrets", "", "x", "in-volume"), True),
        (rbac.Attributes("watch", "", "configmaps", "", "x", "in-env"), True),
        (rbac.Attributes("list", "", "secrets", "", "x"), False),
        (rbac.Attributes("get", "", "secrets", "", "x", "other"), False),
        (rbac.Attributes("get", "", "secrets", "", "y", "in-volume"), False),
        (rbac.Attributes("update", "", "secrets", "", "x", "in-volume"), False),
        (rbac.Attributes("create", "", "serviceaccounts", "token", "x", "robot"), True),
        (rbac.Attributes("create", "", "serviceaccounts", "token", "x", "other"), False),
        (rbac.Attributes("get", "", "persistentvolumeclaims", "", "x", "claim"), True),
        (rbac.Attributes("get", "", "persistentvolumes", "", "", "volume"), True),
        (rbac.Attributes("get", "", "persistentvolumes", "", "", "other"), False),
        (rbac.Attributes("list", "", "pods", fields=(("spec.nodeName", "n1"),)), True),
        (rbac.Attributes("list", "", "pods", fields=(("spec.nodeName", "n2"),)), False),
        (rbac.Attributes("list", "", "pods"), False),
        (rbac.Attributes("get", "", "pods", "", "x", "p"), True),
        (rbac.Attributes("get", "", "pods", "", "x", "other"), False),
        (rbac.Attributes("update", "", "pods", "", "x", "p"), False),
        (rbac.Attributes("deletecollection", "", "pods", "", "x"), False),
        (rbac.Attributes("create", "", "pods", "exec", "x", "p"), False),
        (rbac.Attributes("create", "", "nodes"), True),
        (rbac.Attributes("get", "", "nodes", "", "", "n1"), True),
        (rbac.Attributes("patch", "", "nodes", "status", "", "n1"), True),
        (rbac.Attributes("patch", "", "nodes", "status", "", "n2"), False),
        (rbac.Attributes("delete", "", "nodes", "", "", "n1"), False),
        (rbac.Attributes("patch", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"), True),
        (rbac.Attributes("patch", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2"), False),
        (rbac.Attributes("patch", "coordination.k8s.io", "leases", "", "kube-system", "n1"), False),
        (rbac.Attributes("watch", "", "services"), True),
        (rbac.Attributes("delete", "", "namespaces", "", "", "x"), False),
        (rbac.Attributes("post", path="/netplane.io/v1/node-certificate"), True),
        (rbac.Attributes("get", path="/metrics"), False),
    ],
)
async def test_a_node_may_ask_for_its_own_and_what_its_pods_need(
    tmp_path: Path, asked: rbac.Attributes, is_allowed: bool
) -> None:
    store = embedded.Embedded(tmp_path / "state.db", cluster.index(builtin()))
    await store.start()
    try:
        await store.create("pods", pod())
        await store.create("pods", pod("other", "n2", volumes=[], containers=[], serviceAccountName="other"))
        claim = {"namespace": "x", "name": "claim"}
        await store.create("persistentvolumes", {"metadata": {"name": "volume"}, "spec": {"claimRef": claim}})
        await store.create("persistentvolumes", {"metadata": {"name": "other"}, "spec": {}})
        allowed = authorize.Authorizer(store).why_allowed(NODE, asked)
    finally:
        await store.stop()
    assert (allowed is not None) is is_allowed


async def test_the_group_alone_makes_no_node(tmp_path: Path) -> None:
    store = embedded.Embedded(tmp_path / "state.db", cluster.index(builtin()))
    await store.start()
    try:
        asked = rbac.Attributes("watch", "", "services")
        assert authorize.Authorizer(store).why_allowed(NAMELESS, asked) is None
    finally:
        await store.stop()


def _owner(**more: Any) -> list[Object]:
    return [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": True} | more]


@pytest.mark.parametrize(
    ("storage", "obj"),
    [
        ("pods", mirror()),
        ("pods", mirror(ownerReferences=_owner())),
        ("nodes", own_node()),
        ("nodes", own_node(labels={"node.kubernetes.io/pool": "a", "example.com/rack": "1", "plain": "x"})),
        ("leases.coordination.k8s.io", {"metadata": {"name": "n1", "namespace": "kube-node-lease"}}),
        ("events", {"metadata": {"name": "e"}}),
    ],
)
def test_a_node_creates_what_is_its_own(storage: str, obj: Object) -> None:
    restriction.create(NODE, storage, obj, own=own_node())


@pytest.mark.parametrize(
    ("storage", "obj", "why"),
    [
        ("pods", pod(), "can only create mirror pods"),
        ("pods", mirror() | {"spec": {"nodeName": "n2"}}, "spec.nodeName set to itself"),
        ("pods", mirror() | {"spec": {"nodeName": "n1", "serviceAccountName": "a"}}, "reference serviceaccounts"),
        ("pods", mirror(ownerReferences=_owner(uid="u2")), "its own UID"),
        ("pods", mirror(ownerReferences=_owner(name="n2")), "is itself"),
        ("pods", mirror(ownerReferences=_owner() * 2), "is itself"),
        ("nodes", own_node(name="n2"), "another node"),
        ("nodes", own_node(labels={"node-restriction.kubernetes.io/a": "b"}), "node-restriction.kubernetes.io/a"),
        ("nodes", own_node(labels={"x.node-restriction.kubernetes.io/a": "b"}), "modify labels"),
        ("nodes", own_node(labels={"node-role.kubernetes.io/control-plane": ""}), "modify labels"),
        ("nodes", own_node(ownerReferences=_owner()), "ownerReferences"),
        ("leases.coordination.k8s.io", {"metadata": {"name": "n2"}}, "lease of its own name"),
    ],
)
def test_a_node_creates_nothing_else(storage: str, obj: Object, why: str) -> None:
    with pytest.raises(status.ApiStatus, match=why) as refused:
        restriction.create(NODE, storage, obj, own=own_node())
    assert refused.value.code == 403


def test_a_node_gives_itself_no_taints_labels_or_owners() -> None:
    tainted = own_node() | {"spec": {"taints": [{"key": "b"}]}}
    for taints in ([], [{"key": "a"}]):
        with pytest.raises(status.ApiStatus, match="taints"):
            restriction.update(NODE, "nodes", own_node() | {"spec": {"taints": taints}}, tainted)
    labelled = own_node(labels={"node-restriction.kubernetes.io/a": "b"})
    restriction.update(NODE, "nodes", copy.deepcopy(labelled), labelled)
    with pytest.raises(status.ApiStatus, match="modify labels"):
        restriction.update(NODE, "nodes", own_node(labels={}), labelled)


def test_a_node_changes_no_labels_through_a_pods_status() -> None:
    changed = pod()
    changed["metadata"]["labels"] = {"app": "kept-for-a-service"}
    with pytest.raises(status.ApiStatus, match="labels"):
        restriction.update(NODE, "pods", changed, pod())


def test_a_node_touches_no_pod_of_another() -> None:
    other = pod(node_name="n2")
    with pytest.raises(status.ApiStatus, match="nodeName"):
        restriction.update(NODE, "pods", other, other)
    with pytest.raises(status.ApiStatus, match="nodeName"):
        restriction.delete(NODE, "pods", other)
    restriction.delete(NODE, "pods", pod())


@pytest.mark.parametrize(
    ("spec", "of"),
    [
        ({}, pod()),
        ({"boundObjectRef": {"kind": "Secret", "name": "p", "uid": "u"}}, None),
        ({"boundObjectRef": {"kind": "Pod", "name": "p"}}, pod()),
        ({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "uid-p"}}, None),
        ({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "uid-p"}}, pod(node_name="n2")),
        ({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "uid-p"}, "audiences": ["other"]}, pod()),
        ({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "uid-p"}, "audiences": ["", "vault"]}, pod()),
    ],
)
def test_a_node_gets_no_token_but_its_pods_own(spec: Object, of: Object | None) -> None:
    with pytest.raises(status.ApiStatus):
        restriction.token(NODE, "robot", spec, of)


def test_a_node_gets_the_tokens_its_pods_ask_for() -> None:
    bound = {"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "uid-p"}}
    for audiences in ([], ["vault"], [access.ISSUER]):
        restriction.token(NODE, "robot", bound | {"audiences": audiences}, pod())


def test_a_member_of_the_group_without_a_nodes_name_writes_nothing() -> None:
    with pytest.raises(status.ApiStatus, match="could not determine node"):
        restriction.create(NAMELESS, "events", {"metadata": {"name": "e"}}, own=None)


def test_others_are_not_restricted() -> None:
    restriction.create(access.User("jane"), "pods", pod(), own=None)
    restriction.update(access.User("jane"), "nodes", own_node(labels={}), own_node())
    assert node.rules()
