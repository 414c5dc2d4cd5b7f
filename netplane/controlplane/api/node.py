"""Say what a node's agent may ask for: its own Node and Lease, its pods, and what those refer to.

After k8s.io/kubernetes/plugin/pkg/auth/authorizer/node. What it may write into these is restriction's.
"""

from __future__ import annotations

from netplane.controlplane.api import bootstrap, graph, rbac

LEASES = "kube-node-lease"
_WHY = "node: allowed by the node authorizer"
_RULES = tuple(rbac.rule(spec) for spec in bootstrap.NODE)


def rules() -> list[rbac.Rule]:
    """Return the outer bounds of what every node may do."""
    return list(_RULES)


def why_allowed(node: str, asked: rbac.Attributes, known: graph.Graph) -> str | None:
    """Return why the node's agent may do this; None when it may not as a node."""
    if not any(rule.allows(asked) for rule in _RULES):
        return None
    if asked.path:
        return _WHY
    check = _CHECKS.get((asked.group, asked.resource))
    return _WHY if check is None or check(node, asked, known) else None


def _own_node(node: str, asked: rbac.Attributes, known: graph.Graph) -> bool:
    return asked.verb == "create" or asked.name == node


def _own_lease(node: str, asked: rbac.Attributes, known: graph.Graph) -> bool:
    # A create does not name its object in the URL: restriction looks at the name.
    return asked.namespace == LEASES and (asked.name == node or (asked.verb == "create" and not asked.name))


def _own_pod(node: str, asked: rbac.Attributes, known: graph.Graph) -> bool:
    if asked.verb in ("list", "watch") and ("spec.nodeName", node) in asked.fields:
        return True
    if asked.verb not in ("get", "list", "watch"):
        # Whose it is, restriction sees in the pod itself; one that is gone is a 404, which the agent understands.
        return True
    return bool(asked.name) and known.has_pod(node, asked.namespace, asked.name)


def _referred(node: str, asked: rbac.Attributes, known: graph.Graph) -> bool:
    return bool(asked.name) and known.refers(node, asked.resource, asked.namespace, asked.name)


def _referred_volume(node: str, asked: rbac.Attributes, known: graph.Graph) -> bool:
    return bool(asked.name) and known.refers_to_volume(node, asked.name)


_CHECKS = {
    ("", "nodes"): _own_node,
    ("", "pods"): _own_pod,
    ("", "configmaps"): _referred,
    ("", "secrets"): _referred,
    ("", "serviceaccounts"): _referred,
    ("", "persistentvolumeclaims"): _referred,
    ("", "persistentvolumes"): _referred_volume,
    ("coordination.k8s.io", "leases"): _own_lease,
}
