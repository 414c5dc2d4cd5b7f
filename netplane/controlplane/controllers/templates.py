"""Make Pods from templates, and tell templates apart by a hash that is safe in a name."""

from __future__ import annotations

import json
from collections.abc import Mapping

from netplane.controlplane.controllers import owners
from netplane.kube.types import Object, Resource

HASH = "pod-template-hash"
_SAFE = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels and no look-alikes, as Kubernetes' rand.SafeEncodeString: a hash never spells a word."""


def pod(owner: Object, resource: Resource, *, name: str = "") -> Object:
    """Return the Pod of an owner's template, named by the API server (or `name`) and controlled by that owner."""
    template = owner["spec"]["template"]
    given = template.get("metadata") or {}
    metadata: Object = {"namespace": owner["metadata"]["namespace"]}
    for field in ("labels", "annotations", "finalizers"):
        if given.get(field):
            metadata[field] = given[field]
    metadata["ownerReferences"] = [owners.reference(owner, resource)]
    if name:
        metadata["name"] = name
    else:
        metadata["generateName"] = prefix(owner["metadata"]["name"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(template["spec"])}


def prefix(name: str) -> str:
    """Return the generateName of a child: five characters are still to come, and a name holds 63."""
    return f"{name[:57]}-"


def has_labels(obj: Object, labels: Mapping[str, str]) -> bool:
    """Say whether the object carries all of these labels."""
    held = obj["metadata"].get("labels") or {}
    return all(held.get(name) == value for name, value in labels.items())


def same(one: Object, other: Object) -> bool:
    """Say whether two pod templates mean the same Pods: all but the pod-template-hash label counts."""
    return _bare(one) == _bare(other)


def digest(template: Object, collisions: int | None = None) -> str:
    """Return the hash of a template: 32 bits of FNV-1a over its canonical JSON, in safe letters."""
    text = json.dumps(_bare(template), sort_keys=True, separators=(",", ":"))
    if collisions:
        text += str(collisions)
    return short_hash(text)


def short_hash(text: str) -> str:
    """Return a hash of some text, up to ten letters that are safe in a name."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(value))


def _bare(template: Object) -> Object:
    metadata = template.get("metadata") or {}
    labels = {name: value for name, value in (metadata.get("labels") or {}).items() if name != HASH}
    kept = {name: value for name, value in metadata.items() if name not in ("labels", "creationTimestamp") and value}
    return {"metadata": {**kept, "labels": labels}, "spec": template.get("spec") or {}}
