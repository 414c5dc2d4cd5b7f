"""What storage classes, volumes and claims must fulfil, and what of them never changes.

Source: k8s.io/kubernetes/pkg/apis/storage/validation, pkg/apis/core/validation.
"""

from __future__ import annotations

import copy
import posixpath

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.claims import claim_spec_faults, class_faults, mode_faults
from netplane.controlplane.registry.pods.placement import node_selector_faults
from netplane.controlplane.registry.pods.sources import volume_source_faults
from netplane.controlplane.registry.rules import names
from netplane.kube import quantity
from netplane.kube.types import Object

_IMMUTABLE = "field is immutable"
_BINDING_MODES = ("Immediate", "WaitForFirstConsumer")
_NO_SOURCE = (
    "capacity", "accessModes", "claimRef", "persistentVolumeReclaimPolicy", "storageClassName", "volumeMode",
    "mountOptions", "nodeAffinity", "volumeAttributesClassName",
)  # fmt: skip
_MAX_PARAMETERS = 512
_CLASS_NOTE = "volume.beta.kubernetes.io/storage-class"
_CLAIM = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"


def storage_class(obj: Object) -> list[Fault]:
    """Return every fault of a StorageClass."""
    provisioner, binding = obj.get("provisioner", ""), obj["volumeBindingMode"]
    found: list[Fault] = [] if provisioner else [faults.required("provisioner")]
    if provisioner:
        found += [faults.invalid("provisioner", provisioner, each) for each in names.qualified(provisioner.lower())]
    parameters = obj.get("parameters") or {}
    if len(parameters) > _MAX_PARAMETERS:
        found.append(faults.too_long("parameters", _MAX_PARAMETERS))
    if "" in parameters:
        found.append(faults.invalid("parameters", "", "field can not be empty."))
    if obj["reclaimPolicy"] not in ("Delete", "Retain"):
        found.append(faults.not_supported("reclaimPolicy", obj["reclaimPolicy"], ("Delete", "Retain")))
    if binding not in _BINDING_MODES:
        found.append(faults.not_supported("volumeBindingMode", binding, _BINDING_MODES))
    return found


def storage_class_update(new: Object, old: Object) -> list[Fault]:
    """How a class makes volumes never changes."""
    found = [
        faults.forbidden(name, f"updates to {name} are forbidden.")
        for name in ("parameters", "provisioner", "reclaimPolicy")
        if (new.get(name) or None) != (old.get(name) or None)
    ]
    if new.get("volumeBindingMode") != old.get("volumeBindingMode"):
        found.append(faults.invalid("volumeBindingMode", new.get("volumeBindingMode"), _IMMUTABLE))
    return found


def volume(obj: Object) -> list[Fault]:
    """Return every fault of a PersistentVolume."""
    spec = obj.get("spec") or {}
    found = mode_faults(spec, "spec") + _capacity(spec.get("capacity") or {})
    reclaim = spec["persistentVolumeReclaimPolicy"]
    if reclaim not in ("Delete", "Recycle", "Retain"):
        at = "spec.persistentVolumeReclaimPolicy"
        found.append(faults.not_supported(at, reclaim, ("Delete", "Recycle", "Retain")))
    sources = [each for each in spec if each not in _NO_SOURCE]
    if not sources:
        found.append(faults.required("spec", "must specify a volume type"))
    found += [faults.forbidden(f"spec.{each}", "may not specify more than 1 volume type") for each in sources[1:]]
    for kind in sources[:1]:
        found += volume_source_faults(kind, spec[kind], f"spec.{kind}")
    path = (spec.get("hostPath") or {}).get("path")
    if reclaim == "Recycle" and path and posixpath.normpath(path) == "/":
        detail = "may not be 'recycle' for a hostPath mount of '/'"
        found.append(faults.forbidden("spec.persistentVolumeReclaimPolicy", detail))
    return found + _affinity(spec) + class_faults(spec, "spec")


def _affinity(spec: Object) -> list[Fault]:
    """Which nodes reach a volume: one on a node's own disk must say so."""
    affinity, at = spec.get("nodeAffinity"), "spec.nodeAffinity"
    if affinity is None:
        return [faults.required(at, "Local volume requires node affinity")] if "local" in spec else []
    if not affinity.get("required"):
        return [faults.required(f"{at}.required", "must specify required node constraints")]
    return node_selector_faults(affinity["required"], f"{at}.required")


def _capacity(capacity: Object) -> list[Fault]:
    found = [] if capacity else [faults.required("spec.capacity")]
    if set(capacity) != {"storage"}:
        found.append(faults.not_supported("spec.capacity", capacity, ("storage",)))
    for name, amount in capacity.items():
        at, value = f"spec.capacity[{name}]", quantity.parse(amount)
        if value < 0:
            found.append(faults.invalid(at, amount, "must be a valid resource quantity"))
        if value <= 0:
            found.append(faults.invalid(at, amount, "must be greater than zero"))
    return found


def volume_update(new: Object, old: Object) -> list[Fault]:
    """Where a volume's data is never changes; which nodes reach it may be said once."""
    spec, before = new["spec"], old["spec"]
    found: list[Fault] = []
    if _source(spec, before) != _source(before, before):
        at, detail = "spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation"
        found.append(faults.forbidden(at, detail))
    if spec.get("volumeMode") != before.get("volumeMode"):
        found.append(faults.invalid("volumeMode", spec.get("volumeMode"), _IMMUTABLE))
    if before.get("nodeAffinity") and spec.get("nodeAffinity") != before["nodeAffinity"]:
        found.append(faults.invalid("nodeAffinity", spec.get("nodeAffinity"), _IMMUTABLE))
    return found


def _source(spec: Object, before: Object) -> Object:
    """The source of a volume, without what expands it: that may be added later."""
    source = {key: value for key, value in spec.items() if key not in _NO_SOURCE}
    if "csi" in source and "controllerExpandSecretRef" not in (before.get("csi") or {}):
        source["csi"] = {key: value for key, value in source["csi"].items() if key != "controllerExpandSecretRef"}
    return source


def claim(obj: Object) -> list[Fault]:
    """Return every fault of a PersistentVolumeClaim."""
    spec = obj.get("spec") or {}
    return claim_spec_faults(spec, "spec")


def claim_update(new: Object, old: Object) -> list[Fault]:
    """A claim's spec never changes but for its volume, once, and the size of what is bound: upwards."""
    is_bound = (old.get("status") or {}).get("phase") == "Bound"
    found: list[Fault] = []
    if _fixed(new, old, is_bound=is_bound) != _fixed(old, old, is_bound=is_bound):
        found.append(faults.forbidden("spec", _CLAIM))
    capacity = ((old.get("status") or {}).get("capacity") or {}).get("storage", "0")
    if quantity.parse(_size(new)) < quantity.parse(_size(old)) and quantity.parse(_size(new)) <= quantity.parse(
        capacity
    ):
        found.append(faults.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity"))
    if new["spec"].get("volumeMode") != old["spec"].get("volumeMode"):
        found.append(faults.invalid("volumeMode", new["spec"].get("volumeMode"), _IMMUTABLE))
    return found


def _size(obj: Object) -> str:
    requests = (obj["spec"].get("resources") or {}).get("requests") or {}
    return str(requests.get("storage", "0"))


def _fixed(obj: Object, old: Object, *, is_bound: bool) -> Object:
    """What of a claim's spec must be as it was."""
    spec: Object = copy.deepcopy(obj["spec"])
    before = old["spec"]
    if not before.get("volumeName"):
        spec.pop("volumeName", None)
    # A claim made before there was a default class gets it afterwards.
    if before.get("storageClassName") is None and _CLASS_NOTE not in (old["metadata"].get("annotations") or {}):
        spec.pop("storageClassName", None)
    if is_bound:
        spec.pop("volumeAttributesClassName", None)
        ((spec.get("resources") or {}).get("requests") or {}).pop("storage", None)
    return spec
