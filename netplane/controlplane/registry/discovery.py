"""What clients ask first: which groups, versions and resources there are. Plain and aggregated (KEP-3352)."""

from __future__ import annotations

from typing import Literal

from netplane.controlplane.registry.catalog import Registry
from netplane.controlplane.registry.rules.versions import priority
from netplane.controlplane.registry.types import ResourceType, Subresource
from netplane.kube.types import Object

AggregatedVersion = Literal["v2", "v2beta1"]


def aggregated_content_type(version: AggregatedVersion) -> str:
    """The media type under which the aggregated form is asked for and answered."""
    return f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"


def core_versions(server_address: str = "") -> Object:
    """Answer `/api`."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}] if server_address else []
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def groups(registry: Registry) -> Object:
    """Answer `/apis`: every named group with its versions."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(n, v) for n, v in _versions(registry).items()],
    }


def group(registry: Registry, name: str) -> Object | None:
    """Answer `/apis/GROUP`; None when there is no such group."""
    versions = _versions(registry).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions else None


def resources(registry: Registry, group: str, version: str) -> Object | None:
    """Answer `/api/v1` and `/apis/GROUP/VERSION`; None when it is not served."""
    types = registry.group_versions().get((group, version))
    if types is None:
        return None
    found = [row for rt in types for row in _rows(rt)]
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": found}


def aggregated(registry: Registry, *, is_core: bool, version: AggregatedVersion) -> Object:
    """Answer `/api` or `/apis` in one piece: every group, version, resource and subresource."""
    by_group: dict[str, list[Object]] = {}
    for (name, each), types in registry.group_versions().items():
        if (name == "") == is_core:
            entry = {"version": each, "resources": [_aggregated(rt) for rt in types], "freshness": "Current"}
            by_group.setdefault(name, []).append(entry)
    items = [
        {"metadata": {"name": name} if name else {}, "versions": _by_priority(versions)}
        for name, versions in by_group.items()
    ]
    kind = "APIGroupDiscoveryList"
    return {"kind": kind, "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {}, "items": items}


def _by_priority(versions: list[Object]) -> list[Object]:
    return sorted(versions, key=lambda each: priority(each["version"]))


def _versions(registry: Registry) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, version in registry.group_versions():
        if name:
            found.setdefault(name, []).append(version)
    return {name: sorted(versions, key=priority) for name, versions in found.items()}


def _group(name: str, versions: list[str]) -> Object:
    rows = [{"groupVersion": f"{name}/{each}", "version": each} for each in versions]
    return {"name": name, "versions": rows, "preferredVersion": rows[0]}


def _rows(rt: ResourceType) -> list[Object]:
    row: Object = {
        "name": rt.plural,
        "singularName": rt.singular,
        "namespaced": rt.namespaced,
        "kind": rt.kind,
        "verbs": list(rt.verbs),
    }
    if rt.short_names:
        row["shortNames"] = list(rt.short_names)
    if rt.categories:
        row["categories"] = list(rt.categories)
    return [row, *(_subresource_row(rt, each) for each in rt.subresources)]


def _subresource_row(rt: ResourceType, each: Subresource) -> Object:
    row: Object = {
        "name": f"{rt.plural}/{each.name}",
        "singularName": "",
        "namespaced": rt.namespaced,
        "kind": each.kind or rt.kind,
        "verbs": list(each.verbs),
    }
    return row | ({"group": each.group, "version": each.version} if each.group else {})


def _aggregated(rt: ResourceType) -> Object:
    row: Object = {
        "resource": rt.plural,
        "responseKind": {"group": rt.group, "version": rt.version, "kind": rt.kind},
        "scope": "Namespaced" if rt.namespaced else "Cluster",
        "singularResource": rt.singular,
        "verbs": list(rt.verbs),
    }
    if rt.short_names:
        row["shortNames"] = list(rt.short_names)
    if rt.categories:
        row["categories"] = list(rt.categories)
    if rt.subresources:
        row["subresources"] = [_aggregated_subresource(rt, each) for each in rt.subresources]
    return row


def _aggregated_subresource(rt: ResourceType, each: Subresource) -> Object:
    kind = each.kind or rt.kind
    group, version = (each.group, each.version) if each.group else (rt.group, rt.version)
    response = {"group": group, "version": version, "kind": kind}
    return {"subresource": each.name, "responseKind": response, "verbs": list(each.verbs)}
