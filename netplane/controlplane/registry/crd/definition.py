"""What a CustomResourceDefinition must fulfil (pkg/apis/apiextensions/validation)."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.cluster import hooks
from netplane.controlplane.registry.crd import fields, jsonpath, naming, patterns, rules, validations
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_LIST_TYPES = ("atomic", "map", "set")
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_UNDEPRECATED = "can only be set for deprecated versions"


def validate(obj: Object) -> list[Fault]:
    """Return every fault of a CustomResourceDefinition."""
    spec = obj["spec"]
    group, naming = spec.get("group", ""), spec["names"]
    found = _naming(obj, group, naming)
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        found.append(faults.not_supported("spec.scope", spec.get("scope", ""), ("Cluster", "Namespaced")))
    if spec.get("preserveUnknownFields"):
        detail = "must be false in order to use defaults in the schema"
        found.append(faults.invalid("spec.preserveUnknownFields", True, detail))
    return found + _versions(spec.get("versions") or []) + _conversion(spec["conversion"])


def _naming(obj: Object, group: str, naming: Object) -> list[Fault]:
    found: list[Fault] = []
    name, expected = obj["metadata"].get("name", ""), f"{naming.get('plural', '')}.{group}"
    if name != expected:
        found.append(faults.invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if not group:
        found.append(faults.required("spec.group"))
    else:
        found += [faults.invalid("spec.group", group, each) for each in names.subdomain(group)]
        if "." not in group:
            found.append(faults.invalid("spec.group", group, "should be a domain with at least one dot"))
    for field in ("plural", "singular", "kind", "listKind"):
        value = naming.get(field, "")
        if not value:
            found.append(faults.required(f"spec.names.{field}"))
        else:
            at = f"spec.names.{field}"
            found += [faults.invalid(at, value, each) for each in names.dns1035_label(value.lower())]
    for field in ("shortNames", "categories"):
        for index, each in enumerate(naming.get(field) or ()):
            at = f"spec.names.{field}[{index}]"
            found += [faults.invalid(at, each, reason) for reason in names.dns1035_label(each)]
    if naming.get("kind") == naming.get("listKind"):
        found.append(
            faults.invalid("spec.names.listKind", naming.get("listKind"), "kind and listKind may not be the same")
        )
    return found


def _versions(versions: list[Object]) -> list[Fault]:
    found: list[Fault] = []
    stored = sum(bool(each.get("storage")) for each in versions)
    if stored != 1:
        detail = "must have exactly one version marked as storage version"
        found.append(faults.invalid("spec.versions", versions, detail))
    seen: set[str] = set()
    for index, version in enumerate(versions):
        at = f"spec.versions[{index}]"
        name = version.get("name", "")
        found += [faults.invalid(f"{at}.name", name, each) for each in names.dns1035_label(name)]
        if name in seen:
            found.append(faults.invalid("spec.versions", versions, "must contain unique version names"))
        seen.add(name)
        found += _version(version, at)
    return found


def _version(version: Object, path: str) -> list[Fault]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    at = f"{path}.schema.openAPIV3Schema"
    found: list[Fault] = []
    if schema is None:
        found.append(faults.required(at, "schemas are required"))
    else:
        if schema.get("type") != "object":
            found.append(faults.invalid(f"{at}.type", schema.get("type", ""), "must be object at the root"))
        _schema(schema, at, found, is_root=True)
        found += fields.of_metadata(schema, at)
        if not found:
            found += validations.definition_faults(schema, at)
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        found += _column(column, f"{path}.additionalPrinterColumns[{index}]")
    found += fields.selectable(version, schema or {}, path)
    if version.get("deprecationWarning") is not None and not version.get("deprecated"):
        found.append(faults.invalid(f"{path}.deprecationWarning", version["deprecationWarning"], _UNDEPRECATED))
    scale = (version.get("subresources") or {}).get("scale")
    if scale is not None:
        for name, top in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
            value = scale.get(name, "")
            if not value:
                found.append(faults.required(f"{path}.subresources.scale.{name}"))
            elif not value.startswith(top):
                detail = f"should be a json path under {top[:-1]}"
                found.append(faults.invalid(f"{path}.subresources.scale.{name}", value, detail))
        selector = scale.get("labelSelectorPath") or ".spec."
        if not selector.startswith((".spec.", ".status.")):
            detail = "should be a json path under either .spec or .status"
            found.append(faults.invalid(f"{path}.subresources.scale.labelSelectorPath", selector, detail))
    return found


def _column(column: Object, path: str) -> list[Fault]:
    found = [faults.required(f"{path}.{each}") for each in ("name", "type", "jsonPath") if not column.get(each)]
    if column.get("type") and column["type"] not in _COLUMN_TYPES:
        found.append(faults.invalid(f"{path}.type", column["type"], f"must be one of {','.join(_COLUMN_TYPES)}"))
    text = column.get("jsonPath", "")
    try:
        jsonpath.steps(text)
    except jsonpath.JsonPathError as error:
        found.append(faults.invalid(f"{path}.jsonPath", text, str(error)))
    return found


def _schema(schema: Object, path: str, found: list[Fault], *, is_root: bool = False) -> None:
    kind = schema.get("type", "")
    if kind and kind not in _TYPES:
        found.append(faults.not_supported(f"{path}.type", kind, _TYPES))
    if not kind and not is_root and not (schema.get("x-kubernetes-int-or-string") or schema.get(_PRESERVE)):
        found.append(faults.required(f"{path}.type", "must not be empty for specified object fields"))
    if schema.get("uniqueItems"):
        detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        found.append(faults.forbidden(f"{path}.uniqueItems", detail))
    if "properties" in schema and "additionalProperties" in schema:
        found.append(
            faults.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
        )
    if schema.get("additionalProperties") is False:
        found.append(faults.forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false"))
    if "$ref" in schema:
        found.append(faults.forbidden(f"{path}.$ref", "$ref is not supported"))
    if schema.get("pattern") and (why := patterns.problem(schema["pattern"])):
        detail = f"must be a valid regular expression, but isn't: {why}"
        found.append(faults.invalid(f"{path}.pattern", schema["pattern"], detail))
    if schema.get("x-kubernetes-embedded-resource"):
        _embedded(schema, path, found)
    if kind == "array":
        _array(schema, path, found)
    if "default" in schema:
        found += _default(schema, path)
    for name, each in (schema.get("properties") or {}).items():
        _schema(each, f"{path}.properties[{name}]", found)
    if isinstance(schema.get("additionalProperties"), dict):
        _schema(schema["additionalProperties"], f"{path}.additionalProperties", found)


def _embedded(schema: Object, path: str, found: list[Fault]) -> None:
    if schema.get("type") != "object":
        found.append(faults.invalid(f"{path}.type", schema.get("type", ""), "must be object if it is embedded"))
    if not schema.get("properties") and not schema.get(_PRESERVE):
        detail = f"must not be empty if x-kubernetes-embedded-resource is true without {_PRESERVE}"
        found.append(faults.required(f"{path}.properties", detail))


def _default(schema: Object, path: str) -> list[Fault]:
    """A default must fulfil its own schema."""
    problems = rules.schema_faults(schema["default"], {k: v for k, v in schema.items() if k != "default"})
    return [faults.invalid(f"{path}.default", schema["default"], each.message) for each in problems]


def _array(schema: Object, path: str, found: list[Fault]) -> None:
    items: Any = schema.get("items")
    if items is None:
        found.append(faults.required(f"{path}.items", "must be specified"))
    elif isinstance(items, dict):
        _schema(items, f"{path}.items", found)
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or []
    at = f"{path}.x-kubernetes-list-map-keys"
    if kind is not None and kind not in _LIST_TYPES:
        found.append(faults.not_supported(f"{path}.x-kubernetes-list-type", kind, _LIST_TYPES))
    if kind == "map" and not keys:
        found.append(faults.required(at, "must not be empty if x-kubernetes-list-type is map"))
    if kind != "map" and keys:
        found.append(faults.forbidden(at, "must be used only if x-kubernetes-list-type is map"))
    properties = (items or {}).get("properties") or {}
    needed = (items or {}).get("required") or []
    for key in keys:
        if key not in properties:
            found.append(faults.invalid(at, key, "entries must all be names of item properties"))
        elif key not in needed and "default" not in properties[key]:
            where = f"{path}.items.properties[{key}].default"
            detail = (
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            )
            found.append(faults.required(where, detail))


def _conversion(conversion: Object) -> list[Fault]:
    strategy = conversion.get("strategy", "")
    if strategy not in ("None", "Webhook"):
        return [faults.not_supported("spec.conversion.strategy", strategy, ("None", "Webhook"))]
    webhook: Object | None = conversion.get("webhook")
    at = "spec.conversion.webhook"
    if strategy != "Webhook":
        detail = "should not be set when strategy is not set to Webhook"
        return [faults.forbidden(at, detail)] if webhook is not None else []
    if not webhook or not webhook.get("clientConfig"):
        return [faults.required(f"{at}.clientConfig", "required when strategy is set to Webhook")]
    found = hooks.client_config(webhook["clientConfig"], f"{at}.clientConfig")
    versions = webhook.get("conversionReviewVersions") or ()
    if not versions:
        found.append(faults.required(f"{at}.conversionReviewVersions"))
    elif not {"v1", "v1beta1"} & set(versions):
        detail = "must include at least one of v1, v1beta1"
        found.append(faults.invalid(f"{at}.conversionReviewVersions", versions, detail))
    return found


def validate_update(new: Object, old: Object) -> list[Fault]:
    """Return every fault of a change: names are fixed once they are accepted."""
    spec, before = new["spec"], old["spec"]
    found: list[Fault] = []
    for field in ("group", "scope"):
        if spec.get(field) != before.get(field):
            found.append(faults.invalid(f"spec.{field}", spec.get(field), "field is immutable"))
    for field in ("kind", "plural"):
        value = spec["names"].get(field)
        if value != before["names"].get(field):
            found.append(faults.invalid(f"spec.names.{field}", value, "field is immutable"))
    if naming.approval(new)[0] != naming.approval(old)[0]:
        found += _approval(new)
    return found + _stored_versions(new)


def validate_create(obj: Object) -> list[Fault]:
    """Return every fault that a definition may have only if it had it before."""
    return _approval(obj)


def validate_status(new: Object, _old: Object) -> list[Fault]:
    """Return every fault of a definition's status."""
    return _stored_versions(new)


def prepare(obj: Object) -> None:
    """Note the version in which objects will be stored among those in which they may be."""
    stored = next((each.get("name") for each in obj["spec"].get("versions") or () if each.get("storage")), None)
    known = obj.setdefault("status", {}).setdefault("storedVersions", [])
    if stored and stored not in known:
        obj["status"]["storedVersions"] = [*known, stored]


def prepare_update(new: Object, _old: Object) -> None:
    """The same for a change."""
    if "status" in new:
        new["status"] = dict(new["status"])
    prepare(new)


def _approval(crd: Object) -> list[Fault]:
    if not naming.is_protected(crd["spec"].get("group", "")):
        return []
    at, (state, why) = f"metadata.annotations[{naming.APPROVED}]", naming.approval(crd)
    if state == "Missing":
        return [faults.required(at, why)]
    return [faults.invalid(at, crd["metadata"]["annotations"][naming.APPROVED], why)] if state == "Invalid" else []


def _stored_versions(crd: Object) -> list[Fault]:
    """Objects may be kept in every version that is named here: none of them may go, nor the one in use be left out."""
    at, told = "status.storedVersions", (crd.get("status") or {}).get("storedVersions") or ()
    versions = crd["spec"].get("versions") or ()
    if not told:
        return [faults.invalid(at, [], "must have at least one stored version")]
    present = {each.get("name") for each in versions}
    stored = [each.get("name", "") for each in versions if each.get("storage") and each.get("name") not in told]
    found = [faults.invalid(at, list(told), f"must have the storage version {name}") for name in stored]
    for index, name in enumerate(told):
        if name not in present:
            found.append(faults.invalid(f"{at}[{index}]", name, "must appear in spec.versions"))
    return found
