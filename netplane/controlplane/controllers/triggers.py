"""Map what changed to the keys whose decision may change with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from netplane.controlplane.controllers import backends, disruption, owners, podgc, pods, serviceaccount
from netplane.controlplane.controllers.view import Change, View, controller_uid
from netplane.kube import meta
from netplane.kube.types import DEPLOYMENTS, NAMESPACES, NODES, PODDISRUPTIONBUDGETS, Key, Object, Resource, key_of

Keys = Iterable[tuple[str, ...]]
Trigger = Callable[[View, Change], Keys]


def itself(view: View, change: Change) -> Keys:
    """Return the key of what changed."""
    return (change.key,)


def created(view: View, change: Change) -> Keys:
    """Return the key of what is there, not of what went."""
    return (change.key,) if change.new is not None else ()


def owner(resource: Resource) -> Trigger:
    """Return the trigger for children: their controller before and after, or whoever may adopt them."""

    def keys(view: View, change: Change) -> Keys:
        found: set[Key] = set()
        for obj in (change.old, change.new):
            if obj is not None:
                found.update(owners.claimants(view, obj, resource))
        return sorted(found)

    return keys


def services_of_pod(view: View, change: Change) -> Keys:
    """Return the Services that select a Pod, if anything their endpoints tell of it changed."""
    old, new = change.old, change.new
    if old is not None and new is not None and _told(old) == _told(new):
        return ()
    found: set[Key] = set()
    for obj in (old, new):
        if obj is not None and (backends.addresses(obj) or (old and backends.addresses(old))):
            found.update(backends.selecting(view, obj))
    return sorted(found)


def budgets_of_pod(view: View, change: Change) -> Keys:
    """Return the PodDisruptionBudgets that protect a Pod, if its health or its labels changed."""
    old, new = change.old, change.new
    if old is not None and new is not None and _told(old) == _told(new):
        return ()
    found = view.all(PODDISRUPTIONBUDGETS, change.key[0])
    return [key_of(budget) for budget in found if any(disruption.protects(budget, pod) for pod in (old, new) if pod)]


def services_of_node(view: View, change: Change) -> Keys:
    """Return the Services with Pods on a Node that came, went, or moved to another zone."""
    zones = [meta.labels(obj).get(backends.ZONE) if obj else None for obj in (change.old, change.new)]
    if change.old is not None and change.new is not None and zones[0] == zones[1]:
        return ()
    return sorted({key for pod in view.on_node(change.key[1]) for key in backends.selecting(view, pod)})


def service_of_slice(view: View, change: Change) -> Keys:
    """Return the Service an EndpointSlice says it belongs to."""
    name = meta.labels(change.either).get(backends.SERVICE_NAME)
    return ((change.key[0], name),) if name else ()


def node_of_lease(view: View, change: Change) -> Keys:
    """Return the Node whose lease moved."""
    return (("", change.key[1]),) if change.key[0] == "kube-node-lease" else ()


def nodes_of_node(view: View, change: Change) -> Keys:
    """Return the Node; and all others when its readiness changed, since evictions depend on there being a ready one."""
    ready = [obj is not None and meta.is_condition_true(obj, "Ready") for obj in (change.old, change.new)]
    return (change.key,) if ready[0] == ready[1] else [key_of(node) for node in view.all(NODES)]


def node_of_pod(view: View, change: Change) -> Keys:
    """Return the Node a Pod is bound to, when the Pod turned ready (it must not while its Node is silent)."""
    pod = change.new
    if pod is None or not pods.is_ready(pod) or (change.old is not None and pods.is_ready(change.old)):
        return ()
    return (("", pod["spec"]["nodeName"]),) if pod["spec"].get("nodeName") else ()


def unserved_nodes(view: View, change: Change) -> Keys:
    """Return the Node if it is new, or all that have no range when one was given back."""
    if change.new is not None:
        return (change.key,)
    return [key_of(node) for node in view.all(NODES) if not node["spec"].get("podCIDR")]


def pods_of_tainted_node(view: View, change: Change) -> Keys:
    """Return the Pods of a Node whose taints changed."""
    taints = [obj["spec"].get("taints") if obj else None for obj in (change.old, change.new)]
    return [key_of(pod) for pod in view.on_node(change.key[1])] if taints[0] != taints[1] else ()


def bound_pod(view: View, change: Change) -> Keys:
    """Return a Pod that came, or was bound, or tolerates something else now."""
    old, new = change.old, change.new
    if new is None or not new["spec"].get("nodeName"):
        return ()
    same = old is not None and all(
        old["spec"].get(name) == new["spec"].get(name) for name in ("nodeName", "tolerations")
    )
    return () if same else (change.key,)


def pods_of_gone_node(view: View, change: Change) -> Keys:
    """Return the Pods of a Node that is no more."""
    return [key_of(pod) for pod in view.on_node(change.key[1])] if change.new is None else ()


def pod_to_collect(view: View, change: Change) -> Keys:
    """Return a Pod bound to nowhere, or terminating unbound; and the count's key when one ended."""
    pod = change.new
    if pod is None:
        return
    node = pod["spec"].get("nodeName")
    if (view.get(NODES, ("", node)) is None) if node else meta.is_deleting(pod):
        yield change.key
    if pods.is_terminal(pod) and not (change.old and pods.is_terminal(change.old)):
        yield podgc.ENDED


def namespace_of_account(view: View, change: Change) -> Keys:
    """Return the namespace that lost or changed what it must have."""
    return (("", change.key[0]),) if change.key[1] in ("default", serviceaccount.ROOT_CA) else ()


def terminating_namespace(view: View, change: Change) -> Keys:
    """Return the namespace something vanished from (or turned terminating in), if it is being deleted."""
    if not change.key[0] or (change.new is not None and not meta.is_deleting(change.new)):
        return ()
    namespace = view.get(NAMESPACES, ("", change.key[0]))
    return (("", change.key[0]),) if namespace is not None and meta.is_deleting(namespace) else ()


def all_of(resource: Resource) -> Trigger:
    """Return the trigger that looks at every object of a type."""

    def keys(view: View, change: Change) -> Keys:
        return [key_of(obj) for obj in view.all(resource)]

    return keys


def relevant_node(resource: Resource) -> Trigger:
    """Return the trigger that looks at every object of a type when a Node's labels, taints or presence changed."""

    def keys(view: View, change: Change) -> Keys:
        if change.old is not None and change.new is not None and _placing(change.old) == _placing(change.new):
            return ()
        return [key_of(obj) for obj in view.all(resource)]

    return keys


def _placing(node: Object) -> tuple[object, ...]:
    return meta.labels(node), node["spec"].get("taints"), node["spec"].get("unschedulable")


def _told(pod: Object) -> tuple[object, ...]:
    """Return all that endpoints tell of a Pod."""
    return (
        backends.addresses(pod),
        pods.is_ready(pod),
        pods.is_terminal(pod),
        meta.is_deleting(pod),
        pod["spec"].get("nodeName"),
        meta.labels(pod),
    )


def recreating_deployment(view: View, change: Change) -> Keys:
    """Return the Deployment behind a Pod that ended or went: Recreate waits for the last old one."""
    if change.new is not None and not pods.is_terminal(change.new):
        return ()
    row = view.row_of(controller_uid(change.either))
    replica_set = view.get(*row) if row else None
    return owners.claimants(view, replica_set, DEPLOYMENTS) if replica_set is not None else ()
