"""Let nobody give away what he does not have: checks of new and changed roles and bindings.

After k8s.io/kubernetes' registry/rbac (policybased storages, validation.Covers): a role and a binding may grant what
their author may do already, anything else only who may `escalate` the role or `bind` it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from netplane.controlplane.api import access, cluster, rbac, status
from netplane.controlplane.registry import types
from netplane.kube.types import Object

GROUP = "rbac.authorization.k8s.io"
_ROLES = ("Role", "ClusterRole")
_BINDINGS = ("RoleBinding", "ClusterRoleBinding")
_ALL = frozenset({"*"})
_EVERYTHING = (rbac.Rule(_ALL, _ALL, _ALL), rbac.Rule(_ALL, paths=("*",)))
_OF_THE_COLLECTOR = ("finalizers", "ownerReferences", "managedFields", "resourceVersion")


def check(
    at: cluster.Cluster, user: access.User, of: types.ResourceType, new: Object, old: Object | None, namespace: str
) -> None:
    """Raise 403 when a new or changed role or binding grants what the user does not have; other types pass."""
    if of.group != GROUP or access.MASTERS in user.groups or (old is not None and _is_collectors(new, old)):
        return
    name = new["metadata"].get("name", "")
    if of.kind in _ROLES:
        asked = rbac.Attributes("escalate", GROUP, of.plural, "", namespace, "" if old is None else name)
        if at.authorizer.why_allowed(user, asked) is not None:
            return
        granted = [rbac.rule(each) for each in new.get("rules") or ()]
        if new.get("aggregationRule") or (old or {}).get("aggregationRule"):
            if missing(_held(at, user, namespace), _EVERYTHING):
                raise _forbidden(of, name, "must have cluster-admin privileges to use the aggregationRule")
            return
    elif of.kind in _BINDINGS:
        found = _bound(at, user, new.get("roleRef") or {}, namespace)
        if found is None:
            return
        granted = list(found)
    else:
        return
    lacking = missing(_held(at, user, namespace), granted)
    if lacking:
        raise _forbidden(of, name, refusal(user, lacking))


def _held(at: cluster.Cluster, user: access.User, namespace: str) -> list[rbac.Rule]:
    return at.authorizer.policy().rules_in(user, namespace)


def _bound(at: cluster.Cluster, user: access.User, ref: Object, namespace: str) -> tuple[rbac.Rule, ...] | None:
    """Return what a binding gives, None when the user may bind that role whatever it is; raise 404 for none."""
    kind, name = ref.get("kind", ""), ref.get("name", "")
    if kind not in _ROLES:
        raise status.bad_request(f'roleRef.kind: unsupported role reference kind: "{kind}"')
    of = at.type_of(GROUP, "v1", f"{kind.lower()}s")
    if at.authorizer.why_allowed(user, rbac.Attributes("bind", GROUP, of.plural, "", namespace, name)) is not None:
        return None
    found = at.authorizer.policy().rules_of(kind, namespace if kind == "Role" else "", name)
    if found is None:
        raise status.not_found(of, name)
    return found


def _is_collectors(new: Object, old: Object) -> bool:
    """Whether nothing differs but what the garbage collector writes before an object can go."""

    def rest(obj: Object) -> Object:
        metadata = {key: value for key, value in obj["metadata"].items() if key not in _OF_THE_COLLECTOR}
        return {**obj, "metadata": metadata}

    return rest(new) == rest(old)


def _forbidden(of: types.ResourceType, name: str, why: str) -> status.ApiStatus:
    message = f'{of.resource.group_resource} "{name}" is forbidden: {why}'
    return status.forbidden(message, group=of.group, plural=of.plural, name=name)


def missing(held: Sequence[rbac.Rule], wanted: Iterable[rbac.Rule]) -> list[rbac.Rule]:
    """Return those of the rules, taken apart into single rights, that no rule which is held covers alone. Pure."""
    return [right for rule in wanted for right in _rights(rule) if not any(_covers(each, right) for each in held)]


def _rights(rule: rbac.Rule) -> Iterator[rbac.Rule]:
    for verb in sorted(rule.verbs):
        for group in sorted(rule.groups):
            for resource in sorted(rule.resources):
                for name in sorted(rule.names) or [""]:
                    names = frozenset({name} if name else ())
                    yield rbac.Rule(frozenset({verb}), frozenset({group}), frozenset({resource}), names)
        for path in rule.paths:
            yield rbac.Rule(frozenset({verb}), paths=(path,))


def _covers(held: rbac.Rule, right: rbac.Rule) -> bool:
    """Whether a rule covers one right: a single verb on a single resource, object or path."""
    if "*" not in held.verbs and not right.verbs <= held.verbs:
        return False
    if right.paths:
        return any(_covers_path(each, right.paths[0]) for each in held.paths)
    if "*" not in held.groups and not right.groups <= held.groups:
        return False
    if held.names and not (right.names and right.names <= held.names):
        return False
    (resource,) = right.resources
    _, is_part, subresource = resource.partition("/")
    whole = f"*/{subresource}" if is_part else resource
    return bool(held.resources & {"*", resource, whole})


def _covers_path(held: str, path: str) -> bool:
    return held in ("*", path) or (held.endswith("*") and path.startswith(held.rstrip("*")))


def refusal(user: access.User, lacking: Sequence[rbac.Rule]) -> str:
    """Return the sentence with which Kubernetes refuses, the rights put together by what they are on."""
    verbs: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for right in lacking:
        key = (tuple(right.groups), tuple(right.resources), right.paths, tuple(right.names))
        verbs.setdefault(key, []).extend(right.verbs)
    listed = "\n".join(sorted({_told(*key, tuple(each)) for key, each in verbs.items()}))
    who = f"user {json.dumps(user.name)} (groups={_quoted(user.groups)})"
    return f"{who} is attempting to grant RBAC permissions not currently held:\n{listed}"


def _told(*parts: Sequence[str]) -> str:
    names = ("APIGroups", "Resources", "NonResourceURLs", "ResourceNames", "Verbs")
    return f"{{{', '.join(f'{name}:{_quoted(part)}' for name, part in zip(names, parts, strict=True) if part)}}}"


def _quoted(texts: Sequence[str]) -> str:
    return f"[{' '.join(json.dumps(text) for text in texts)}]"
