"""What `metadata` must fulfil, alike for every type (k8s.io/apimachinery/pkg/api/validation)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_ANNOTATION_BYTES = 256 * 1024


def validate(metadata: Object, *, namespaced: bool, name_faults: Callable[[str], list[str]]) -> list[Fault]:
    """Return every fault of an object's metadata."""
    found = _names(metadata, namespaced=namespaced, name_faults=name_faults)
    if "labels" in metadata:
        found += label_faults(metadata["labels"], "metadata.labels")
    if "annotations" in metadata:
        found += annotation_faults(metadata["annotations"], "metadata.annotations")
    if "ownerReferences" in metadata:
        found += _owners(metadata["ownerReferences"])
    for index, each in enumerate(metadata.get("finalizers") or ()):
        found += _finalizer(each, f"metadata.finalizers[{index}]")
    return found


def _names(metadata: Object, *, namespaced: bool, name_faults: Callable[[str], list[str]]) -> list[Fault]:
    found: list[Fault] = []
    prefix, name, namespace = metadata.get("generateName"), metadata.get("name"), metadata.get("namespace")
    if prefix:
        trimmed = prefix[:-1] + "a" if prefix.endswith("-") else prefix
        found += [faults.invalid("metadata.generateName", prefix, each) for each in name_faults(trimmed)]
    if name:
        for each in name_faults(name):
            found.append(faults.invalid("metadata.name", name, each))
    else:
        found.append(faults.required("metadata.name", "name or generateName is required"))
    if not namespaced and namespace:
        found.append(faults.forbidden("metadata.namespace", "not allowed on this type"))
    elif namespaced and not namespace:
        found.append(faults.required("metadata.namespace"))
    elif namespaced:
        for each in names.label(str(namespace)):
            found.append(faults.invalid("metadata.namespace", namespace, each))
    return found


def label_faults(values: Mapping[str, Any], path: str) -> list[Fault]:
    """Return every fault of a map of labels."""
    found: list[Fault] = []
    for key, value in values.items():
        if names.is_label(key, value):
            continue
        found += [faults.invalid(path, key, each) for each in names.qualified(key)]
        found += [faults.invalid(path, value, each) for each in names.label_value(value)]
    return found


def annotation_faults(values: Mapping[str, str], path: str) -> list[Fault]:
    """Return every fault of a map of annotations."""
    found: list[Fault] = []
    size = 0
    for key, value in values.items():
        size += len(key) + len(value)
        if not names.is_label(key.lower(), ""):
            found += [faults.invalid(path, key, each) for each in names.qualified(key.lower())]
    if size > _ANNOTATION_BYTES:
        found.append(faults.too_long(path, _ANNOTATION_BYTES))
    return found


def _owners(owners: list[Object]) -> list[Fault]:
    found: list[Fault] = []
    controller = None
    for owner in owners:
        path = "metadata.ownerReferences"
        if not owner.get("apiVersion"):
            found.append(faults.invalid(f"{path}.apiVersion", "", "version must not be empty"))
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                found.append(faults.invalid(f"{path}.{field}", "", f"{field} must not be empty"))
        if not owner.get("controller"):
            continue
        if controller is not None:
            detail = 'Only one reference can have Controller set to true. Found "true" in references for {} and {}'
            found.append(faults.invalid(path, owners, detail.format(controller.get("name"), owner.get("name"))))
        controller = owner
    return found


def _finalizer(text: str, path: str) -> list[Fault]:
    return [faults.invalid(path, text, each) for each in names.qualified(text)]


def validate_update(new: Object, old: Object, *, allows_unconditional: bool) -> list[Fault]:
    """Return every fault of a change from the old metadata to the new; what the server owns was copied before."""
    found: list[Fault] = []
    for field in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if new.get(field) != old.get(field):
            found.append(faults.invalid(f"metadata.{field}", new.get(field), "field is immutable"))
    if not allows_unconditional and not new.get("resourceVersion"):
        text = "Invalid value: 0x0: must be specified for an update"
        found.append(Fault("metadata.resourceVersion", "FieldValueInvalid", text))
    if old.get("deletionTimestamp"):
        added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if added:
            listed = ", ".join(faults.shown(each) for each in added)
            detail = "no new finalizers can be added if the object is being deleted, found new finalizers []string{"
            found.append(faults.forbidden("metadata.finalizers", f"{detail}{listed}}}"))
    return found
