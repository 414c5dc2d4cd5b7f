"""Make resource types of a CustomResourceDefinition, one for each served version."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from netplane.controlplane.registry import schema as builtin_schema
from netplane.controlplane.registry.crd import columns, rules, structural, validations
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.schema import decode
from netplane.controlplane.registry.types import Conversion, Reading, ResourceType, ScalePaths, Subresource
from netplane.kube.types import Object, Resource

STATUS = Subresource("status", ("get", "patch", "update"))
SCALE = Subresource("scale", ("get", "patch", "update"), kind="Scale", group="autoscaling", version="v1")
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def types(crd: Object) -> list[ResourceType]:
    """Return the types which the definition serves."""
    return [_type(crd, each) for each in crd["spec"]["versions"] if each.get("served")]


def _type(crd: Object, version: Object) -> ResourceType:
    spec = crd["spec"]
    names = spec["names"]
    stored = next((v["name"] for v in spec["versions"] if v.get("storage")), version["name"])
    resource = _resource(spec, version["name"])
    subresources = version.get("subresources") or {}
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    declared = version.get("additionalPrinterColumns") or []
    validate = _validator(schema)
    create, update = _rules(schema)
    return ResourceType(
        resource=resource,
        singular=names.get("singular") or names["kind"].lower(),
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
        validate=validate,
        validate_create=create,
        validate_update=update,
        validate_status=lambda new, old: validate(new) + update(new, old),
        conversion=_conversion(crd, resource, _resource(spec, stored)),
        crd=crd,
        deprecation=_deprecation(resource, version) if version.get("deprecated") else "",
    )


def _deprecation(of: Resource, version: Object) -> str:
    return str(version.get("deprecationWarning") or f"{of.api_version} {of.kind} is deprecated")


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


def _validator(schema: Object) -> Callable[[Object], list[Fault]]:
    """Metadata is judged elsewhere; a schema may restrict its name."""

    def validate(obj: Object) -> list[Fault]:
        return rules.schema_faults(obj, schema)

    return validate


def _rules(schema: Object) -> tuple[Callable[[Object], list[Fault]], Callable[[Object, Object], list[Fault]]]:
    """Return what judges new and changed objects by the schema's CEL; compiled when the first of them comes."""
    if not validations.has_rules(schema):
        return (lambda _: [], lambda _new, _old: [])
    compiled = functools.cache(lambda: validations.compiled(schema))

    def create(obj: Object) -> list[Fault]:
        node = compiled()
        return validations.judge(node, obj) if node is not None else []

    def update(new: Object, old: Object) -> list[Fault]:
        node = compiled()
        if node is None or rules.schema_faults(new, schema):
            return []
        return validations.judge(node, new, old)

    return create, update


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
    kept = {stored.version, *((crd.get("status") or {}).get("storedVersions") or ())}
    if kept == {served.version}:
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
