"""Refuse what a node's agent may not write into the objects it may touch: the admission plugin NodeRestriction.

After k8s.io/kubernetes/plugin/pkg/admission/noderestriction. Which objects it may touch at all is node's. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netplane.controlplane.api import access, node, references, status
from netplane.kube.types import Object

GROUP = "system:nodes"
_OWN_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)
_OWN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


def create(user: access.User, storage: str, obj: Object, *, own: Object | None) -> None:
    """Check what a user creates in a storage; `own` is the Node object of a node's agent. Raises 403."""
    if GROUP not in user.groups:
        return
    name = _name(user)
    if storage == "pods":
        _check_mirror(user, name, obj, own)
    elif storage == "nodes":
        _check_node(user, name, obj, {})
    elif storage == "leases.coordination.k8s.io":
        _check_lease(user, name, obj)


def update(user: access.User, storage: str, new: Object, old: Object) -> None:
    """Check what a user makes of an object. Raises 403."""
    if GROUP not in user.groups:
        return
    name = _name(user)
    if storage == "pods":
        _check_own(user, name, old)
        if _labels(new) != _labels(old):
            raise _refused(user, "pods", old, "cannot update labels through pod status")
    elif storage == "nodes":
        _check_node(user, name, new, old)
    elif storage == "leases.coordination.k8s.io":
        _check_lease(user, name, new)


def delete(user: access.User, storage: str, obj: Object) -> None:
    """Check the deletion or eviction of an object by a user. Raises 403."""
    if GROUP in user.groups and storage == "pods":
        _check_own(user, _name(user), obj)


def token(user: access.User, account: str, spec: Mapping[str, Any], pod: Object | None) -> None:
    """Check a node's request for a token of an account; `pod` is the one it shall be bound to. Raises 403."""
    if GROUP not in user.groups:
        return
    name, ref = _name(user), spec.get("boundObjectRef") or {}
    shown: Object = {"metadata": {"name": account}}
    if ref.get("kind") != "Pod" or not ref.get("name") or not ref.get("uid"):
        raise _refused(user, "serviceaccounts", shown, "token requested not bound to a pod, with its name and UID")
    if pod is None or (pod.get("spec") or {}).get("nodeName") != name:
        raise _refused(user, "serviceaccounts", shown, "token requested for a pod that is not bound to this node")
    wanted = [str(each) for each in spec.get("audiences") or ()] or [""]
    known = references.audiences(pod)
    if len(wanted) > 1 or not (wanted[0] in known or (wanted[0] == access.ISSUER and "" in known)):
        raise _refused(user, "serviceaccounts", shown, f"audiences {wanted} are not those of the pod's own tokens")


def _name(user: access.User) -> str:
    if not user.node:
        raise status.forbidden(f'could not determine node from user "{user.name}"')
    return user.node


def _refused(user: access.User, plural: str, obj: Object, why: str) -> status.ApiStatus:
    name = obj["metadata"].get("name", "")
    message = f'{plural} "{name}" is forbidden: node "{user.node}" {why}'
    return status.forbidden(message, plural=plural, name=name)


def _check_own(user: access.User, name: str, pod: Object) -> None:
    if (pod.get("spec") or {}).get("nodeName") != name:
        raise _refused(user, "pods", pod, "can only touch pods with spec.nodeName set to itself")


def _check_mirror(user: access.User, name: str, pod: Object, own: Object | None) -> None:
    if not references.is_mirror(pod):
        raise _refused(user, "pods", pod, "can only create mirror pods")
    _check_own(user, name, pod)
    if found := references.named(pod):
        plural = min(found)[0]
        raise _refused(user, "pods", pod, f"can not create pods that reference {plural}")
    owners = pod["metadata"].get("ownerReferences") or ()
    if not owners:
        return
    owner = owners[0]
    is_own = owner.get("kind") == "Node" and owner.get("apiVersion") == "v1" and owner.get("name") == name
    if len(owners) > 1 or not is_own or owner.get("blockOwnerDeletion") or not owner.get("controller"):
        raise _refused(user, "pods", pod, "can only create pods whose one owner and controller is itself")
    if own is None or own["metadata"]["uid"] != owner.get("uid"):
        raise _refused(user, "pods", pod, "can only create pods with an owner reference to its own UID")


def _check_node(user: access.User, name: str, new: Object, old: Object) -> None:
    if new["metadata"].get("name") != name:
        raise _refused(user, "nodes", new, "is not allowed to modify another node")
    if old and (new.get("spec") or {}).get("taints") != (old.get("spec") or {}).get("taints"):
        raise _refused(user, "nodes", new, "is not allowed to modify taints")
    if (new["metadata"].get("ownerReferences") or []) != ((old.get("metadata") or {}).get("ownerReferences") or []):
        raise _refused(user, "nodes", new, "is not allowed to modify ownerReferences")
    now, before = _labels(new), _labels(old)
    changed = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
    if refused := [key for key in changed if not _may_set(key)]:
        raise _refused(user, "nodes", new, f"is not allowed to modify labels: {', '.join(refused)}")


def _check_lease(user: access.User, name: str, lease: Object) -> None:
    metadata = lease["metadata"]
    if metadata.get("name") != name or metadata.get("namespace", node.LEASES) != node.LEASES:
        raise _refused(user, "leases", lease, "can only access the lease of its own name in kube-node-lease")


def _labels(obj: Object) -> Mapping[str, str]:
    return (obj.get("metadata") or {}).get("labels") or {}


def _may_set(label: str) -> bool:
    """Whether a node may set the label on itself: any of its own making, of Kubernetes' only the known ones."""
    domain, slash, _ = label.rpartition("/")
    if not slash or (not _under(domain, "kubernetes.io") and not _under(domain, "k8s.io")):
        return True
    if _under(domain, "node-restriction.kubernetes.io"):
        return False
    return label in _OWN_LABELS or any(_under(domain, each) for each in _OWN_DOMAINS)


def _under(domain: str, of: str) -> bool:
    return domain == of or domain.endswith("." + of)
