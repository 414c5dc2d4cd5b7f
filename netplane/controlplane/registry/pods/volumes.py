"""What volumes must fulfil."""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.containers import relative_path
from netplane.controlplane.registry.pods.environment import VOLUME_FIELDS, field_faults, resource_field_faults
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
_HOST_PATH_TYPES = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
_NEEDED = {
    "secret": ("secretName",), "configMap": ("name",), "hostPath": ("path",), "nfs": ("server", "path"),
    "persistentVolumeClaim": ("claimName",), "csi": ("driver",), "gitRepo": ("repository",),
    "iscsi": ("targetPortal", "iqn"), "image": (),
}  # fmt: skip


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
    found += [faults.required(f"{at}.{each}") for each in _NEEDED.get(kind, ()) if not source.get(each)]
    found += _mode(source, "defaultMode", at)
    if kind == "hostPath":
        found += host_path_faults(source, at)
    if kind == "emptyDir" and source.get("medium", "") not in ("", "Memory") and "HugePages" not in source["medium"]:
        found.append(faults.not_supported(f"{at}.medium", source["medium"], ("", "HugePages", "Memory")))
    if kind in ("secret", "configMap"):
        found += _items(source.get("items") or [], f"{at}.items")
    if kind == "downwardAPI":
        found += _downward(source, at)
    if kind == "projected":
        found += _projected(source, at)
    if kind == "ephemeral" and not source.get("volumeClaimTemplate"):
        found.append(faults.required(f"{at}.volumeClaimTemplate"))
    return found


def host_path_faults(source: Object, path: str) -> list[Fault]:
    """Return the faults of a path on the node: one that stays where it says, of a known type."""
    found: list[Fault] = []
    if ".." in source.get("path", "").split("/"):
        found.append(faults.invalid(f"{path}.path", source["path"], "must not contain '..'"))
    if source.get("type", "") not in _HOST_PATH_TYPES:
        found.append(faults.not_supported(f"{path}.type", source["type"], _HOST_PATH_TYPES))
    return found


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
