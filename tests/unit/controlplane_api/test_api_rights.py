"""Who may do what: roles and their bindings, who may give rights away, and who acts as another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from netplane.controlplane.api import access, authorize, bootstrap, cluster, escalation, impersonation, rbac, status
from netplane.controlplane.registry import builtin
from netplane.controlplane.store import embedded

POLICY = rbac.Policy(
    cluster_roles=bootstrap.cluster_roles(),
    roles=[{"metadata": {"namespace": "x", "name": "reader"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/log"], "resourceNames": ["p"]}]}],
    cluster_bindings=bootstrap.cluster_role_bindings(),
    bindings=[
        {"metadata": {"namespace": "x", "name": "b1"}, "roleRef": {"kind": "Role", "name": "reader"},
         "subjects": [{"kind": "ServiceAccount", "name": "robot"}]},
        {"metadata": {"namespace": "x", "name": "b2"}, "roleRef": {"kind": "ClusterRole", "name": "edit"},
         "subjects": [{"kind": "User", "name": "jane"}]},
    ],
)  # fmt: skip
ROBOT = access.User("system:serviceaccount:x:robot", ("system:authenticated",))
JANE = access.User("jane", ("system:authenticated",))
NODE = access.User("system:node:n", ("system:nodes", "system:authenticated"))


@pytest.mark.parametrize(
    ("user", "asked", "is_allowed"),
    [
        (ROBOT, rbac.Attributes("get", "", "pods", "", "x", "p"), True),
        (ROBOT, rbac.Attributes("get", "", "pods", "", "x", "other"), False),
        (ROBOT, rbac.Attributes("get", "", "pods", "log", "x", "p"), True),
        (ROBOT, rbac.Attributes("get", "", "pods", "", "y", "p"), False),
        (ROBOT, rbac.Attributes("list", "", "pods", "", "x", "p"), False),
        (JANE, rbac.Attributes("list", "apps", "deployments", "", "x"), True),
        (JANE, rbac.Attributes("create", "", "pods", "exec", "x", "p"), True),
        (JANE, rbac.Attributes("create", "rbac.authorization.k8s.io", "roles", "", "x"), False),
        (JANE, rbac.Attributes("get", path="/version"), True),
        (access.ANONYMOUS, rbac.Attributes("get", path="/readyz"), True),
        (access.ANONYMOUS, rbac.Attributes("get", path="/metrics"), False),
        (NODE, rbac.Attributes("patch", "", "nodes", "status", "", "n"), False),
        (NODE, rbac.Attributes("delete", "", "namespaces", "", "", "x"), False),
        (access.User("a", ("system:masters",)), rbac.Attributes("delete", "any", "thing"), True),
    ],
)
def test_roles_and_bindings_decide(user: access.User, asked: rbac.Attributes, is_allowed: bool) -> None:
    assert (POLICY.why_allowed(user, asked) is not None) is is_allowed


@pytest.mark.parametrize(
    ("held", "wanted", "is_covered"),
    [
        ("get,list|apps|deployments", "get|apps|deployments", True),
        ("get|apps|deployments", "get,list|apps|deployments", False),
        ("*|*|*", "escalate|rbac.authorization.k8s.io|roles,pods/exec", True),
        ("get||pods", "get||pods,secrets", False),
        ("get||pods", "get|*|pods", False),
        ("get||*", "get||pods/log", True),
        ("get||*/log", "get||pods/log", True),
        ("get||*/log", "get||pods", False),
        ("get||pods", "get||*", False),
        ("get||pods|a,b", "get||pods|a", True),
        ("get||pods|a", "get||pods", False),
        ("get||pods", "get||pods|a", True),
        ("get||||/api/*", "get||||/api/v1", True),
        ("get||||/api/v1", "get||||/api/*", False),
        ("*|*|*", "get||||/api", False),
    ],
)
def test_who_gives_rights_must_have_each_of_them(held: str, wanted: str, is_covered: bool) -> None:
    def rule(text: str) -> rbac.Rule:
        parts = [part.split(",") if part else [] for part in (text + "||||").split("|")[:5]]
        groups = (parts[1] or [""]) if parts[2] else []
        sets = [frozenset(each) for each in (parts[0], groups, parts[2], parts[3])]
        return rbac.Rule(sets[0], sets[1], sets[2], sets[3], tuple(parts[4]))

    assert (not escalation.missing([rule(held)], [rule(wanted)])) is is_covered


def test_rights_that_one_lacks_are_told_by_what_they_are_on() -> None:
    wanted = [
        rbac.Rule(frozenset({"list", "get"}), frozenset({""}), frozenset({"secrets"}), frozenset({"s"})),
        rbac.Rule(frozenset({"get"}), paths=("/metrics",)),
    ]
    assert escalation.refusal(JANE, escalation.missing([], wanted)) == (
        'user "jane" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n'
        '{APIGroups:[""], Resources:["secrets"], ResourceNames:["s"], Verbs:["get" "list"]}\n'
        '{NonResourceURLs:["/metrics"], Verbs:["get"]}'
    )


def test_a_role_whose_selector_cannot_be_read_grants_nothing_and_spoils_no_other() -> None:
    bad = {
        "metadata": {"name": "bad"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "Near"}]}]},
    }
    policy = rbac.Policy(
        cluster_roles=[bad, *bootstrap.cluster_roles()],
        roles=(),
        cluster_bindings=bootstrap.cluster_role_bindings(),
        bindings=(),
    )
    assert policy.rules_of("ClusterRole", "", "bad") == ()
    assert policy.rules_of("ClusterRole", "", "admin")


def test_nobody_acts_as_another_without_leave() -> None:
    def deny(asked: rbac.Attributes) -> None:
        raise status.forbidden(f"{asked.verb} {asked.resource} {asked.name}")

    with pytest.raises(status.ApiStatus, match="impersonate users root"):
        impersonation.effective(JANE, [(b"impersonate-user", b"root")], deny)


def test_who_acts_as_another_has_that_ones_groups_alone() -> None:
    headers = [(b"impersonate-user", b"joe"), (b"impersonate-group", b"devs")]
    acting = impersonation.effective(access.User("root", ("system:masters",)), headers, lambda _: None)
    assert (acting.name, acting.groups) == ("joe", ("devs", "system:authenticated"))


def test_facts_of_requests_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        JANE.name = "joe"  # type: ignore[misc]  # the point of the test


async def test_what_was_allowed_before_is_asked_anew_when_a_role_or_binding_changes(tmp_path: Path) -> None:
    store = embedded.Embedded(tmp_path / "state.db", cluster.index(builtin()))
    await store.start()
    try:
        authorizer = authorize.Authorizer(store)
        user, asked = access.User("jo", (access.AUTHENTICATED,)), rbac.Attributes("create", "", "pods", "", "x")

        def may(what: rbac.Attributes = asked, who: access.User = user) -> bool:
            return authorizer.why_allowed(who, what) is not None

        assert not may()
        rules = [{"verbs": ["create"], "apiGroups": [""], "resources": ["pods"]}]
        role = await store.create(authorize.ROLES, {"metadata": {"namespace": "x", "name": "r"}, "rules": rules})
        binding = {
            "metadata": {"namespace": "x", "name": "b"},
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "jo"}],
        }
        bound = await store.create(authorize.BINDINGS, binding)
        assert [may(), may()] == [True, True]
        assert not may(rbac.Attributes("create", "", "pods", "", "y"))
        assert not may(rbac.Attributes("create", "", "pods", "status", "x"))
        assert not may(who=access.User("mo", (access.AUTHENTICATED,)))
        narrowed = {"metadata": {"namespace": "x", "name": "r"}, "rules": []}
        role = await store.update(authorize.ROLES, narrowed, expected=role.revision)
        assert not may()
        await store.update(authorize.ROLES, {**narrowed, "rules": rules}, expected=role.revision)
        assert may()
        await store.delete(authorize.BINDINGS, binding, expected=bound.revision)
        assert not may()
    finally:
        await store.stop()
