"""Make resource types of a CustomResourceDefinition, one for each served version."""

from __future__ import annotations

from netplane.controlplane.registry.types import Conversion, ResourceType, Subresource
from netplane.kube.types import Object, Resource

STATUS = Subresource("status", ("get", "patch", "update"))
SCALE = Subresource("scale", ("get", "patch", "update"), kind="Scale", group="autoscaling", version="v1")


def types(crd: Object) -> list[ResourceType]:
    """Return the types which the definition serves; the preferred version first."""
    spec = crd["spec"]
    served = [each for each in spec["versions"] if each.get("served")]
    return [_type(crd, each) for each in served]


def _type(crd: Object, version: Object) -> ResourceType:
    spec = crd["spec"]
    names = spec["names"]
    stored = next((v["name"] for v in spec["versions"] if v.get("storage")), version["name"])
    resource = _resource(spec, version["name"])
    subresources = version.get("subresources") or {}
    offered = [each for each in (STATUS, SCALE) if each.name in subresources]
    conversion = None if stored == version["name"] else _conversion(resource, _resource(spec, stored))
    return ResourceType(
        resource=resource,
        singular=names.get("singular") or names["kind"].lower(),
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(offered),
        has_generation=True,
        conversion=conversion,
        crd=crd,
    )


def _resource(spec: Object, version: str) -> Resource:
    names = spec["names"]
    return Resource(spec["group"], version, names["plural"], names["kind"], namespaced=spec["scope"] == "Namespaced")


def _conversion(served: Resource, stored: Resource) -> Conversion:
    return Conversion(
        stored,
        to_stored=lambda obj: {**obj, "apiVersion": stored.api_version},
        from_stored=lambda obj: {**obj, "apiVersion": served.api_version},
    )
