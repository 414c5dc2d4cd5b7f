"""Keep claims and volumes that are deleted as long as they are used: the finalizers that admission gives them.

After pkg/controller/volume/pvcprotection and pvprotection. A claim is used by Pods that are bound to a Node, a volume
by the claim it is bound to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from netplane.controlplane.controllers import triggers, writes
from netplane.controlplane.controllers.view import Change, View
from netplane.controlplane.registry.cluster.volumes import CLAIM_FINALIZER, VOLUME_FINALIZER
from netplane.kube import meta
from netplane.kube.types import PODS, Key, Object, Resource, key_of

CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
VOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)


def of_pod(view: View, change: Change) -> triggers.Keys:
    """Return the claims that may go now that a Pod has gone."""
    old, new = change.old, change.new
    if old is None or (new is not None and new["metadata"].get("uid") == old["metadata"].get("uid")):
        return ()
    keys = ((change.key[0], name) for name in _claims(old))
    return [key for key in keys if (found := view.get(CLAIMS, key)) is not None and meta.is_deleting(found)]


def decide_claim(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the finalizer that a claim lacks, or the release of one that no Pod uses."""
    claim = view.get(CLAIMS, key)
    if claim is None or _is_settled(claim, CLAIM_FINALIZER):
        return ()
    patch = _turned(CLAIMS, claim, CLAIM_FINALIZER)
    if not meta.is_deleting(claim):
        return [patch]

    def uses(pod: Object) -> bool:
        return bool(pod["spec"].get("nodeName")) and key[1] in _claims(pod)

    if any(uses(pod) for pod in view.all(PODS, key[0])):
        return ()
    return [writes.Release(PODS, key[0], uses, patch)]


def decide_volume(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the finalizer that a volume lacks, or the release of one that is bound to no claim."""
    volume = view.get(VOLUMES, key)
    if volume is None or _is_settled(volume, VOLUME_FINALIZER):
        return ()
    if meta.is_deleting(volume) and (volume.get("status") or {}).get("phase") == "Bound":
        return ()
    return [_turned(VOLUMES, volume, VOLUME_FINALIZER)]


def _is_settled(obj: Object, finalizer: str) -> bool:
    return (finalizer in (obj["metadata"].get("finalizers") or ())) != meta.is_deleting(obj)


def _turned(of: Resource, obj: Object, finalizer: str) -> writes.Patch:
    """Return what takes the finalizer off if it is there, and puts it there if it is not."""
    held = obj["metadata"].get("finalizers") or []
    wanted = [each for each in held if each != finalizer] if finalizer in held else [*held, finalizer]
    guard = {"uid": obj["metadata"]["uid"], "resourceVersion": obj["metadata"]["resourceVersion"]}
    return writes.Patch(of, key_of(obj), {"metadata": {**guard, "finalizers": wanted}})


def _claims(pod: Object) -> Iterator[str]:
    """Yield the names of the claims a Pod's volumes are: those named, and those made for it (KEP-1698)."""
    for volume in pod["spec"].get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            yield str((volume["persistentVolumeClaim"] or {}).get("claimName", ""))
        elif "ephemeral" in volume:
            yield f"{pod['metadata']['name']}-{volume['name']}"
