"""Make resource types of a CustomResourceDefinition, one for each served version."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry import schema as builtin_schema
from netplane.controlplane.registry.crd import columns, rules, structural, validations
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import versions
from netplane.controlplane.registry.schema import decode
from netplane.controlplane.registry.types import Conversion, Reading, ResourceType, ScalePaths, Subresource
from netplane.kube.types import Object, Resource

STATUS = Subresource("status", ("get", "patch", "update"))
SCALE = Subresource("scale", ("get", "patch", "update"), kind="Scale", group="autoscaling", version="v1")
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_BLOCKING = frozenset(
    {"FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid"}
)
_UNCHECKED = faults.invalid(
    "<nil>",
    "null",
    "some validation rules were not checked because the object was invalid; correct the existing errors to complete"
    " validation",
)


def types(crd: Object) -> list[ResourceType]:
    """Return the types which the definition serves."""
    return [_type(crd, each) for each in crd["spec"]["versions"] if each.get("served")]


def stored_type(crd: Object) -> ResourceType:
    """Return the type by which the objects of a definition are kept, whether it is served or not."""
    return _type(crd, next(each for each in crd["spec"]["versions"] if each.get("storage")))


def form(crd: Object) -> object:
    """Return what decides how objects of a definition read: its spec, and the versions in which they may be kept."""
    return crd["spec"], _kept(crd)


def _kept(crd: Object) -> set[str]:
    stored = {each["name"] for each in crd["spec"]["versions"] if each.get("storage")}
    return stored | set((crd.get("status") or {}).get("storedVersions") or ())


def _type(crd: Object, version: Object) -> ResourceType:
    spec = crd["spec"]
    names = (crd.get("status") or {}).get("acceptedNames") or spec["names"]
    stored = next((v["name"] for v in spec["versions"] if v.get("storage")), version["name"])
    resource = _resource(spec, version["name"])
    subresources = version.get("subresources") or {}
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    declared = version.get("additionalPrinterColumns") or []
    create, update = _judges(schema)
    return ResourceType(
        resource=resource,
        singular=names.get("singular") or resource.kind.lower(),
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(each for each in (SCALE, STATUS) if each.name in subresources),
        scale=_scale(subresources["scale"]) if "scale" in subresources else None,
        columns=columns.columns(declared),
        cells=columns.cells(declared),
        field_labels={each["jsonPath"][1:]: _field(each["jsonPath"]) for each in version.get("selectableFields") or ()},
        has_generation=True,
        allows_unconditional_update=False,
        shape=structural.shape(schema, metadata=builtin_schema.shapes().of(_META)),
        read=_reader(schema),
        default=lambda obj: structural.default(obj, schema),
        validate_create=create,
        validate_update=update,
        validate_status=update,
        conversion=_conversion(crd, resource, _resource(spec, stored)),
        deprecation=_deprecation(spec, version),
        crd=crd,
    )


def _deprecation(spec: Object, version: Object) -> str:
    """Return what is told with every answer in a version that is to go, "" for the others."""
    if not version.get("deprecated"):
        return ""
    if version.get("deprecationWarning"):
        return str(version["deprecationWarning"])
    kind, group = spec["names"]["kind"], spec["group"]
    rank = versions.priority(version["name"])
    lasting = [each["name"] for each in spec["versions"] if each.get("served") and not each.get("deprecated")]
    newer = sorted((each for each in lasting if versions.priority(each) < rank), key=versions.priority)
    told = f"{group}/{version['name']} {kind} is deprecated"
    return f"{told}; use {group}/{newer[0]} {kind}" if newer else told


def _resource(spec: Object, version: str) -> Resource:
    names = spec["names"]
    return Resource(spec["group"], version, names["plural"], names["kind"], namespaced=spec["scope"] == "Namespaced")


def _reader(schema: Object) -> Callable[[Object], Reading]:
    """Read metadata as every object's; drop what the schema does not name; types are judged by `validate`."""

    def read(obj: Object) -> Reading:
        reading = Reading()
        metadata = obj.get("metadata")
        if metadata is None:
            obj.pop("metadata", None)
        else:
            decode.reader(builtin_schema.shapes().of(_META))(metadata, (None, "metadata"), "", reading)
        if not reading.errors:
            reading.unknown += structural.prune(obj, schema)
        return reading

    return read


def _judges(schema: Object) -> tuple[Callable[[Object], list[Fault]], Callable[[Object, Object], list[Fault]]]:
    """Return what judges new and changed objects by the schema and its CEL, which is compiled for the first of them.

    Metadata is judged elsewhere; a schema may restrict its name.
    """
    has_rules = validations.has_rules(schema)
    compiled = functools.cache(lambda: validations.compiled(schema) if has_rules else None)

    def create(obj: Object) -> list[Fault]:
        found = rules.schema_faults(obj, schema)
        return found + _broken(compiled(), obj, None, found)

    def update(new: Object, old: Object) -> list[Fault]:
        found = rules.schema_faults(new, schema, old=old)
        return found + _broken(compiled(), new, old, found)

    return create, update


def _broken(node: validations.Node | None, obj: Object, old: Object | None, found: list[Fault]) -> list[Fault]:
    """Return the rules that an object breaks; rules cannot be asked about what is of another type than they expect."""
    if node is None:
        return []
    if any(each.reason in _BLOCKING for each in found):
        return [_UNCHECKED]
    return validations.judge(node, obj, old)


def _field(path: str) -> Callable[[Object], str]:
    steps = path.removeprefix(".").split(".")

    def read(obj: Object) -> str:
        value: Any = obj
        for step in steps:
            value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return read


def _scale(declared: Object) -> ScalePaths:
    return ScalePaths(
        replicas=_steps(declared["specReplicasPath"]),
        status_replicas=_steps(declared["statusReplicasPath"]),
        selector=_steps(declared.get("labelSelectorPath") or ""),
    )


def _steps(path: str) -> tuple[str, ...]:
    return tuple(each for each in path.split(".") if each)


def _conversion(crd: Object, served: Resource, stored: Resource) -> Conversion | None:
    """Return how the objects are kept; None when all of them are kept in the served version."""
    if _kept(crd) == {served.version}:
        return None
    declared = crd["spec"].get("conversion") or {}
    if declared.get("strategy") == "Webhook":
        return Conversion(stored, _converted_to(stored), _converted_to(served), webhook=declared["webhook"])
    return Conversion(
        stored,
        to_stored=lambda obj: {**obj, "apiVersion": stored.api_version},
        from_stored=lambda obj: {**obj, "apiVersion": served.api_version},
    )


def _converted_to(wanted: Resource) -> Callable[[Object], Object]:
    def check(obj: Object) -> Object:
        if obj.get("apiVersion") != wanted.api_version:
            raise ValueError(f"{obj.get('apiVersion')} has not been converted to {wanted.api_version}")
        return obj

    return check
