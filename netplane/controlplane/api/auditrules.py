"""Say how much of a request is written into the audit log, as a Policy of audit.k8s.io/v1 has it. Pure.

The first rule that matches a request decides. After k8s.io/apiserver/pkg/audit/policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netplane.controlplane.api import access, route

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")
_TOP = frozenset({"apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"})
_OF_A_RULE = frozenset(
    {"level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages",
     "omitManagedFields"}
)  # fmt: skip
_QUIET = ("/healthz*", "/livez*", "/readyz*", "/metrics*")


class PolicyError(Exception):
    """A policy that cannot be used; the message names the field."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which resources of a group a rule is for: none named means all."""

    group: str = ""
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def covers(self, target: route.Target) -> bool:
        """Whether these are the request's."""
        if target.group != self.group:
            return False
        if not self.resources:
            return True
        if self.names and target.name not in self.names:
            return False
        if not target.subresource:
            return any(each in (target.plural, "*", f"{target.plural}/*") for each in self.resources)
        whole = f"{target.plural}/{target.subresource}"
        return any(each in (whole, "*", f"*/{target.subresource}", f"{target.plural}/*") for each in self.resources)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a policy; what it does not name it is for all of."""

    level: str
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    resources: tuple[Chosen, ...] = ()
    paths: tuple[str, ...] = ()
    omitted: frozenset[str] = frozenset()
    omits_managed_fields: bool = False

    def matches(self, user: access.User | None, verb: str, path: str, target: route.Target | None) -> bool:
        """Whether a request is the rule's. Nobody is known as the user of one that could not be authenticated."""
        if self.users and (user is None or user.name not in self.users):
            return False
        if self.groups and (user is None or self.groups.isdisjoint(user.groups)):
            return False
        if self.verbs and verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            return target is not None and self._covers(target)
        if self.paths:
            return target is None and any(_is_path(each, path) for each in self.paths)
        return True

    def _covers(self, target: route.Target) -> bool:
        if self.namespaces and namespace_of(target) not in self.namespaces:
            return False
        return not self.resources or any(each.covers(target) for each in self.resources)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in their order; a request that none matches is not written."""

    rules: tuple[Rule, ...]

    def rule_for(self, user: access.User | None, verb: str, path: str, target: route.Target | None) -> Rule:
        """Return the rule that decides about a request."""
        return next((each for each in self.rules if each.matches(user, verb, path, target)), _NOTHING)


_NOTHING = Rule("None")


def namespace_of(target: route.Target) -> str:
    """Return the namespace a request is in: a Namespace is in itself."""
    return target.name if target.plural == "namespaces" and not target.group else target.namespace


def of_level(level: str) -> Policy:
    """Return the policy that `--audit-level` stands for: as Kubernetes' example, one event when a request ends.

    Long-running ones are told when they begin, too.
    """
    at_the_end = frozenset({"RequestReceived"})
    metadata = "Metadata" if level != "None" else "None"
    rarely = (Chosen("", ("configmaps",)), Chosen("certificates.k8s.io", ("certificatesigningrequests",)))
    return Policy(
        (
            Rule("None", paths=_QUIET),
            Rule(metadata, resources=rarely, omitted=at_the_end),
            Rule(level, omitted=at_the_end),
        )
    )


def _is_path(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def policy(document: object) -> Policy:
    """Read a Policy; raise PolicyError for what it may not say."""
    given = _mapping(document, "the policy", _TOP)
    if given.get("apiVersion") != "audit.k8s.io/v1" or given.get("kind") != "Policy":
        raise PolicyError("apiVersion and kind: must be audit.k8s.io/v1 and Policy")
    rules = given.get("rules")
    if not isinstance(rules, list) or not rules:
        raise PolicyError("rules: at least one is required")
    omitted = _stages(given, "omitStages")
    omits = _flag(given, "omitManagedFields", "omitManagedFields", False)
    return Policy(tuple(_rule(each, f"rules[{index}]", omitted, omits) for index, each in enumerate(rules)))


def _rule(document: object, at: str, omitted: frozenset[str], omits: bool) -> Rule:
    given = _mapping(document, at, _OF_A_RULE)
    level = given.get("level")
    if level not in LEVELS:
        raise PolicyError(f"{at}.level: must be one of {', '.join(LEVELS)}")
    paths = _texts(given, "nonResourceURLs", at)
    namespaces = frozenset(_texts(given, "namespaces", at))
    listed = given.get("resources") or []
    if not isinstance(listed, list):
        raise PolicyError(f"{at}.resources: must be a list")
    if paths and (namespaces or listed):
        raise PolicyError(f"{at}.nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs")
    for each in paths:
        if each != "*" and not each.startswith("/"):
            raise PolicyError(f"{at}.nonResourceURLs: {each!r}: must begin with a '/' character")
        if "*" in each[:-1]:
            raise PolicyError(f"{at}.nonResourceURLs: {each!r}: '*' must be the final character")
    return Rule(
        level,
        users=frozenset(_texts(given, "users", at)),
        groups=frozenset(_texts(given, "userGroups", at)),
        verbs=frozenset(_texts(given, "verbs", at)),
        namespaces=namespaces,
        resources=tuple(_chosen(each, f"{at}.resources[{index}]") for index, each in enumerate(listed)),
        paths=paths,
        omitted=omitted | _stages(given, "omitStages", at),
        omits_managed_fields=_flag(given, "omitManagedFields", f"{at}.omitManagedFields", omits),
    )


def _chosen(document: object, at: str) -> Chosen:
    given = _mapping(document, at, frozenset({"group", "resources", "resourceNames"}))
    group = given.get("group") or ""
    if not isinstance(group, str) or "/" in group:
        raise PolicyError(f"{at}.group: must be the name of an API group, without its version")
    made = Chosen(group, _texts(given, "resources", at), _texts(given, "resourceNames", at))
    if made.names and not made.resources:
        raise PolicyError(f"{at}.resourceNames: using resourceNames requires at least one resource")
    return made


def _mapping(given: object, at: str, known: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise PolicyError(f"{at}: must be an object")
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise PolicyError(f"{at}: unknown field {unknown[0]!r}")
    return given


def _texts(given: Mapping[str, Any], name: str, at: str) -> tuple[str, ...]:
    found = given.get(name) or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise PolicyError(f"{at}.{name}: must be a list of texts")
    return tuple(found)


def _stages(given: Mapping[str, Any], name: str, at: str = "the policy") -> frozenset[str]:
    found: Sequence[str] = _texts(given, name, at)
    for each in found:
        if each not in STAGES:
            raise PolicyError(f"{at}.{name}: {each!r}: must be one of {', '.join(STAGES)}")
    return frozenset(found)


def _flag(given: Mapping[str, Any], name: str, at: str, default: bool) -> bool:
    found = given.get(name)
    if found is None:
        return default
    if not isinstance(found, bool):
        raise PolicyError(f"{at}: must be true or false")
    return found
