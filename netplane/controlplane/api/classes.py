"""Give claims and Ingresses that name no class the cluster's default one.

Source: storage/storageclass/setdefault and network/defaultingressclass of k8s.io/kubernetes/plugin/pkg/admission.
"""

from __future__ import annotations

from typing import Final

import orjson

from netplane.controlplane.api import cluster
from netplane.controlplane.registry import types
from netplane.kube.types import Object

_KINDS: Final = {
    ("", "PersistentVolumeClaim"): (
        "storageclasses.storage.k8s.io",
        "storageClassName",
        "volume.beta.kubernetes.io/storage-class",
        ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"),
    ),
    ("networking.k8s.io", "Ingress"): (
        "ingressclasses.networking.k8s.io",
        "ingressClassName",
        "kubernetes.io/ingress.class",
        ("ingressclass.kubernetes.io/is-default-class",),
    ),
}
"""Whose class it is: the classes, the field and the older annotation that name one, and what marks the default."""


def fill(at: cluster.Cluster, of: types.ResourceType, obj: Object) -> None:
    """Name the default class in a new object that names none; of several, the one made last."""
    known = _KINDS.get((of.group, of.kind))
    if known is None:
        return
    classes, field, note, marks = known
    spec = obj.get("spec") or {}
    if spec.get(field) is not None or note in (obj["metadata"].get("annotations") or {}):
        return
    found: list[tuple[str, str]] = []
    for record in at.store.cache(classes).range():
        if b"is-default-class" not in record.value:
            continue
        metadata = orjson.loads(record.value)["metadata"]
        if any((metadata.get("annotations") or {}).get(each) == "true" for each in marks):
            found.append((str(metadata["creationTimestamp"]), str(metadata["name"])))
    if found:
        newest = max(found)[0]
        obj.setdefault("spec", {})[field] = min(name for made, name in found if made == newest)
