"""Write into each ClusterRole that is put together of others what it grants, for who reads it.

Access itself is decided by the parts (api/rbac), at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import triggers, writes
from netplane.controlplane.controllers.view import Change, View
from netplane.kube import meta, select
from netplane.kube.types import Key, Object, Resource, key_of

CLUSTERROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)


def aggregated(view: View, change: Change) -> triggers.Keys:
    """Return all ClusterRoles that are put together of others: the one that changed may be a part of any."""
    return sorted(key_of(role) for role in view.all(CLUSTERROLES) if role.get("aggregationRule"))


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the role with the rules of its parts, in the order of their names and each once."""
    role = view.get(CLUSTERROLES, key)
    if role is None or meta.is_deleting(role) or not role.get("aggregationRule"):
        return ()
    selectors = role["aggregationRule"].get("clusterRoleSelectors") or ()
    rules: list[Object] = []
    for other in sorted(view.all(CLUSTERROLES), key=key_of):
        if key_of(other) != key and any(_matches(each, other) for each in selectors):
            rules += [each for each in other.get("rules") or () if each not in rules]
    if rules == (role.get("rules") or []):
        return ()
    return [writes.Update(CLUSTERROLES, {**role, "rules": rules})]


def _matches(selector: Object, role: Object) -> bool:
    try:
        return select.matches(selector, meta.labels(role))
    except select.SelectorError:
        return False  # as the API has it: such a selector chooses nothing
