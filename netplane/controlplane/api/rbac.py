"""Decide what a user may do from roles and bindings. Pure; the built-in roles are in bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netplane.controlplane.api import access
from netplane.kube import select
from netplane.kube.types import Object


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request would do: on a resource, or on a plain path when `path` is set."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    """The (field, value) pairs to which a list or watch is limited."""

    @property
    def full_resource(self) -> str:
        """`pods/log`: how rules name a subresource."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule of a role."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    def allows(self, asked: Attributes) -> bool:
        """Whether the rule covers the request (RBAC has no denials)."""
        if "*" not in self.verbs and asked.verb not in self.verbs:
            return False
        if asked.path:
            return any(_path_matches(path, asked.path) for path in self.paths)
        if "*" not in self.groups and asked.group not in self.groups:
            return False
        if self.names and asked.name not in self.names:
            return False
        return self._covers_resource(asked)

    def _covers_resource(self, asked: Attributes) -> bool:
        resources = self.resources
        return (
            "*" in resources
            or asked.full_resource in resources
            or (bool(asked.subresource) and f"*/{asked.subresource}" in resources)
        )


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return pattern == path


def rule(spec: Mapping[str, Any]) -> Rule:
    """Decode one entry of a role's `rules`."""
    return Rule(
        frozenset(spec.get("verbs") or ()),
        frozenset(spec.get("apiGroups") or ()),
        frozenset(spec.get("resources") or ()),
        frozenset(spec.get("resourceNames") or ()),
        tuple(spec.get("nonResourceURLs") or ()),
    )


@dataclass(frozen=True, slots=True)
class Grant:
    """The rules that a binding gives its subjects, in one namespace or ("") everywhere."""

    namespace: str
    rules: tuple[Rule, ...]
    why: str

    def allows(self, asked: Attributes) -> bool:
        """Whether the grant covers the request."""
        if self.namespace and (asked.path or asked.namespace != self.namespace):
            return False
        return any(each.allows(asked) for each in self.rules)


class Policy:
    """All grants, found by subject. Immutable; made anew when a role or binding changes."""

    __slots__ = ("_by_subject", "_rules")

    def __init__(
        self,
        *,
        cluster_roles: Iterable[Object],
        roles: Iterable[Object],
        cluster_bindings: Iterable[Object],
        bindings: Iterable[Object],
    ) -> None:
        cluster = list(cluster_roles)
        rules: dict[tuple[str, str, str], tuple[Rule, ...]] = {
            ("ClusterRole", "", role["metadata"]["name"]): _rules_of(role, cluster) for role in cluster
        }
        for role in roles:
            key = ("Role", role["metadata"]["namespace"], role["metadata"]["name"])
            rules[key] = _rules_of(role, ())
        self._rules = rules
        self._by_subject: dict[tuple[str, str], list[Grant]] = {}
        for binding in cluster_bindings:
            self._bind(binding, "", rules)
        for binding in bindings:
            self._bind(binding, binding["metadata"]["namespace"], rules)

    def _bind(self, binding: Object, namespace: str, rules: Mapping[tuple[str, str, str], tuple[Rule, ...]]) -> None:
        ref = binding.get("roleRef") or {}
        role = (ref.get("kind", ""), namespace if ref.get("kind") == "Role" else "", ref.get("name", ""))
        granted = rules.get(role)
        if not granted:
            return
        kind = "RoleBinding" if namespace else "ClusterRoleBinding"
        where = f"{binding['metadata']['name']}/{namespace}" if namespace else binding["metadata"]["name"]
        for subject in binding.get("subjects") or ():
            key = _subject(subject, namespace)
            why = f'RBAC: allowed by {kind} "{where}" of {role[0]} "{role[2]}" to {key[0]} "{key[1]}"'
            self._by_subject.setdefault(key, []).append(Grant(namespace, granted, why))

    def rules_of(self, kind: str, namespace: str, name: str) -> tuple[Rule, ...] | None:
        """Return what a Role or ClusterRole (namespace "") grants, None when there is none."""
        return self._rules.get((kind, namespace, name))

    def grants(self, user: access.User) -> Iterable[Grant]:
        """Iterate the grants a user holds by name or by group."""
        yield from self._by_subject.get(("User", user.name), ())
        for group in user.groups:
            yield from self._by_subject.get(("Group", group), ())

    def why_allowed(self, user: access.User, asked: Attributes) -> str | None:
        """Return the reason why the user may do this, None when nothing allows it."""
        if access.MASTERS in user.groups:
            return "system:masters may do everything"
        for grant in self.grants(user):
            if grant.allows(asked):
                return grant.why
        return None

    def rules_in(self, user: access.User, namespace: str) -> list[Rule]:
        """Return the rules that hold for a user in a namespace: what SelfSubjectRulesReview lists."""
        if access.MASTERS in user.groups:
            everything = frozenset({"*"})
            return [Rule(everything, everything, everything), Rule(everything, paths=("*",))]
        return [each for grant in self.grants(user) if grant.namespace in ("", namespace) for each in grant.rules]


def _subject(subject: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    if subject.get("kind") == "ServiceAccount":
        return "User", f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject.get('name', '')}"
    return str(subject.get("kind", "")), str(subject.get("name", ""))


def _rules_of(role: Object, others: Sequence[Object]) -> tuple[Rule, ...]:
    aggregation = role.get("aggregationRule")
    if aggregation is None:
        return tuple(rule(spec) for spec in role.get("rules") or ())
    chosen: list[Rule] = []
    for other in others:
        if other is not role and is_part(role, other):
            chosen += [rule(spec) for spec in other.get("rules") or ()]
    return tuple(chosen)


def is_part(role: Object, other: Object) -> bool:
    """Whether a ClusterRole that is put together of others takes the rules of this one. An empty selector takes all."""
    labels = other["metadata"].get("labels")
    wanted = (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
    try:
        return any(select.matches(selector, labels) for selector in wanted)
    except select.SelectorError:
        return False  # one role that cannot be read must not take all others with it


def refusal(user: access.User, asked: Attributes) -> str:
    """Return the sentence with which Kubernetes refuses."""
    if asked.path:
        return f'User "{user.name}" cannot {asked.verb} path "{asked.path}"'
    where = f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
    return (
        f'User "{user.name}" cannot {asked.verb} resource "{asked.full_resource}" in API group "{asked.group}"{where}'
    )


def forbidden_message(user: access.User, asked: Attributes) -> str:
    """Return the whole message of the 403."""
    if asked.path:
        return f"forbidden: {refusal(user, asked)}"
    of = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    name = f' "{asked.name}"' if asked.name else ""
    return f"{of}{name} is forbidden: {refusal(user, asked)}"
