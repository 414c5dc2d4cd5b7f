"""What a claim for storage must say, be it one of its own or a pod's template of one.

Source: ValidatePersistentVolumeClaimSpec of k8s.io/kubernetes/pkg/apis/core/validation.
"""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import labels, names
from netplane.kube import quantity
from netplane.kube.types import Object

_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_ALONE = "ReadWriteOncePod"
_VOLUME_MODES = ("Block", "Filesystem")


def claim_spec_faults(spec: Object, path: str) -> list[Fault]:
    """Return every fault of a PersistentVolumeClaimSpec."""
    found = mode_faults(spec, path, "at least 1 access mode is required")
    if spec.get("selector"):
        found += labels.selector_faults(spec["selector"], f"{path}.selector")
    amount = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if amount is None:
        found.append(faults.required(f"{path}.resources[storage]"))
    elif quantity.parse(amount) <= 0:
        found.append(faults.invalid(f"{path}.resources[storage]", amount, "must be greater than zero"))
    for name in ("dataSource", "dataSourceRef"):
        if spec.get(name) is not None:
            found += _origin(spec[name], f"{path}.{name}")
    return found + class_faults(spec, path)


def _origin(source: Object, path: str) -> list[Fault]:
    found = [faults.required(f"{path}.{each}") for each in ("name", "kind") if not source.get(each)]
    if not source.get("apiGroup") and source.get("kind") not in (None, "", "PersistentVolumeClaim"):
        detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        found.append(faults.invalid(path, source["kind"], detail))
    return found


def mode_faults(spec: Object, path: str, detail: str = "") -> list[Fault]:
    """Return the faults of who may reach a volume at once."""
    modes = spec.get("accessModes") or []
    at = f"{path}.accessModes"
    if not modes:
        return [faults.required(at, detail)]
    found = [faults.not_supported(at, each, _ACCESS_MODES) for each in modes if each not in _ACCESS_MODES]
    if _ALONE in modes and set(modes) != {_ALONE}:
        found.append(faults.forbidden(at, f"may not use {_ALONE} with other access modes"))
    return found


def class_faults(spec: Object, path: str) -> list[Fault]:
    """Return the faults of a volume's class, and of what it is used as."""
    name, mode = spec.get("storageClassName") or "", spec.get("volumeMode")
    found = [faults.invalid(f"{path}.storageClassName", name, each) for each in names.subdomain(name)] if name else []
    if mode is not None and mode not in _VOLUME_MODES:
        found.append(faults.not_supported(f"{path}.volumeMode", mode, _VOLUME_MODES))
    return found
