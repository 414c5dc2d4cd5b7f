"""What volumes must fulfil."""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.claims import claim_spec_faults
from netplane.controlplane.registry.pods.containers import relative_path
from netplane.controlplane.registry.pods.environment import VOLUME_FIELDS, field_faults, resource_field_faults
from netplane.controlplane.registry.pods.sources import source_faults
from netplane.controlplane.registry.rules import metadata, names
from netplane.kube import quantity
from netplane.kube.types import Object

_MODE = "must be a number between 0 and 0777 (octal), both inclusive"


def volume_list(volumes: list[Object], path: str) -> list[Fault]:
    """Return every fault of a pod's volumes."""
    found: list[Fault] = []
    seen: set[str] = set()
    for index, volume in enumerate(volumes):
        at = f"{path}[{index}]"
        name = volume.get("name", "")
        if not name:
            found.append(faults.required(f"{at}.name"))
        else:
            found += [faults.invalid(f"{at}.name", name, each) for each in names.label(name)]
            if name in seen:
                found.append(faults.duplicate(f"{at}.name", name))
            seen.add(name)
        found += _source(volume, at)
    return found


def _source(volume: Object, path: str) -> list[Fault]:
    given = [each for each in volume if each != "name"]
    if not given:
        return [faults.required(path, "must specify a volume type")]
    found = [faults.forbidden(f"{path}.{each}", "may not specify more than 1 volume type") for each in given[1:]]
    kind = given[0]
    source = volume[kind]
    at = f"{path}.{kind}"
    found += source_faults(kind, source, at) + _mode(source, "defaultMode", at)
    if kind == "emptyDir":
        found += _empty_dir(source, at)
    if kind == "gitRepo" and source.get("directory"):
        found += relative_path(source["directory"], f"{at}.directory")
    if kind in ("secret", "configMap"):
        found += _items(source.get("items") or [], f"{at}.items")
    if kind == "downwardAPI":
        found += _downward(source, at)
    if kind == "projected":
        found += _projected(source, at)
    if kind == "ephemeral":
        found += _claim_template(source.get("volumeClaimTemplate"), f"{at}.volumeClaimTemplate")
    return found


def _empty_dir(source: Object, path: str) -> list[Fault]:
    medium = source.get("medium", "")
    found: list[Fault] = []
    if medium not in ("", "Memory") and "HugePages" not in medium:
        found.append(faults.not_supported(f"{path}.medium", medium, ("", "HugePages", "Memory")))
    if quantity.parse(source.get("sizeLimit", "0")) < 0:
        found.append(faults.forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity"))
    return found


def _claim_template(template: Object | None, path: str) -> list[Fault]:
    if template is None:
        return [faults.required(path)]
    meta = template.get("metadata") or {}
    found = metadata.label_faults(meta.get("labels") or {}, f"{path}.metadata.labels")
    found += metadata.annotation_faults(meta.get("annotations") or {}, f"{path}.metadata.annotations")
    return found + claim_spec_faults(template.get("spec") or {}, f"{path}.spec")


def _mode(source: Object, name: str, path: str) -> list[Fault]:
    mode = source.get(name)
    return [faults.invalid(f"{path}.{name}", mode, _MODE)] if mode is not None and not 0 <= mode <= 0o777 else []


def _items(items: list[Object], path: str) -> list[Fault]:
    found: list[Fault] = []
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        if not item.get("key"):
            found.append(faults.required(f"{at}.key"))
        found += _relative(item, at) + _mode(item, "mode", at)
    return found


def _relative(item: Object, path: str) -> list[Fault]:
    text = item.get("path", "")
    if not text:
        return [faults.required(f"{path}.path")]
    found = relative_path(text, f"{path}.path")
    if text.startswith("..") and not found:
        found.append(faults.invalid(f"{path}.path", text, "must not start with '..'"))
    return found


def _downward(source: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    for index, item in enumerate(source.get("items") or ()):
        at = f"{path}.items[{index}]" if path.endswith("downwardAPI") else f"{path}[{index}]"
        found += _relative(item, at) + _mode(item, "mode", at)
        if "fieldRef" in item:
            found += field_faults(item["fieldRef"], f"{at}.fieldRef", VOLUME_FIELDS)
            if "resourceFieldRef" in item:
                detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
                found.append(faults.invalid(at, "resource", detail))
        elif "resourceFieldRef" in item:
            found += resource_field_faults(item["resourceFieldRef"], f"{at}.resourceFieldRef", needs_container=True)
        else:
            found.append(faults.required(f"{at}.fieldRef", "one of fieldRef and resourceFieldRef is required"))
    return found


def _projected(source: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    taken: set[str] = set()
    for index, each in enumerate(source.get("sources") or ()):
        at = f"{path}.sources[{index}]"
        given = list(each)
        if not given:
            found.append(faults.required(at, "must specify a volume source"))
        found += [faults.forbidden(f"{at}.{kind}", "may not specify more than 1 volume type") for kind in given[1:]]
        for kind in ("secret", "configMap"):
            if kind in each:
                found += [] if each[kind].get("name") else [faults.required(f"{at}.{kind}.name")]
                found += _items(each[kind].get("items") or [], f"{at}.{kind}.items")
        if "downwardAPI" in each:
            found += _downward(each["downwardAPI"], f"{at}.downwardAPI")
        if "serviceAccountToken" in each:
            found += _token(each["serviceAccountToken"], f"{at}.serviceAccountToken")
        found += _conflicts(each, at, taken)
    return found


def _conflicts(source: Object, path: str, taken: set[str]) -> list[Fault]:
    """Return the faults of files that a source before puts at the same place; remember this one's."""
    found: list[Fault] = []
    for kind in ("secret", "configMap", "downwardAPI"):
        for item in (source.get(kind) or {}).get("items") or ():
            place = item.get("path", "")
            if place and place in taken:
                told = source[kind].get("name", place)
                found.append(faults.invalid(f"{path}.{kind}", told, f"conflicting duplicate paths: {place}"))
            taken.add(place)
    place = (source.get("serviceAccountToken") or {}).get("path", "")
    if place and place in taken:
        found.append(faults.invalid(f"{path}.serviceAccountToken", place, "conflicting duplicate paths"))
    taken.add(place)
    return found


def _token(source: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    seconds = source.get("expirationSeconds", 3600)
    if seconds < 600:
        found.append(
            faults.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        )
    if seconds > 2**32:
        found.append(
            faults.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
        )
    return found + _relative(source, path)
