"""Custom resources: structural schemas, defaults, pruning, columns, versions."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from netplane.controlplane.registry import Registry, builtin, schema, strategy, tables
from netplane.controlplane.registry.crd import jsonpath, rules
from netplane.controlplane.registry.types import ResourceType
from netplane.kube import apply, patch
from tests.support.registry_objects import NOW, created, made, type_of, updated

SPEC = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "port": {"x-kubernetes-int-or-string": True},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "note": {"type": "string", "nullable": True},
        "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 1}},
            },
        },
    },
}


def definition(**version: Any) -> dict[str, Any]:
    one = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "spec": SPEC,
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        },
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
        },
        **version,
    }
    names = {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [one]}
    return created(
        "customresourcedefinitions.apiextensions.k8s.io", {"metadata": {"name": "widgets.example.com"}, "spec": spec}
    )


def serving(crd: dict[str, Any], version: str = "v1") -> ResourceType:
    rt = builtin().with_crd(crd).find("example.com", version, "widgets")
    assert rt is not None
    return rt


def widget(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "w"}, "spec": {"size": 1, **spec}}


def test_a_definition_names_what_it_left_unnamed() -> None:
    names = definition()["spec"]["names"]
    assert (names["singular"], names["listKind"]) == ("widget", "WidgetList")


def test_its_types_are_found_and_gone_with_it() -> None:
    registry = builtin().with_crd(definition())
    rt = registry.find("example.com", "v1", "widgets")
    assert rt is not None
    assert rt.short_names == ("wd",)
    assert rt.scale is not None
    assert rt.scale.replicas == ("spec", "size")
    assert registry.without_crd("widgets.example.com").find("example.com", "v1", "widgets") is None


def test_defaults_reach_into_lists() -> None:
    obj, found = made(serving(definition()), widget(parts=[{"name": "a"}]))
    assert not found
    assert obj["spec"] == {"size": 1, "color": "red", "parts": [{"name": "a", "weight": 1}]}


def test_unknown_fields_go_but_where_they_are_kept() -> None:
    rt, obj = serving(definition()), widget(bogus=1, raw={"any": {"thing": 1}}, parts=[{"name": "a", "x": 1}])
    outcome = strategy.read(rt, obj, validation="Warn")
    assert outcome.warnings == ('unknown field "spec.bogus"', 'unknown field "spec.parts[0].x"')
    assert obj["spec"] == {"size": 1, "raw": {"any": {"thing": 1}}, "parts": [{"name": "a"}]}


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"size": 10}, "spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9"),
        ({"size": "x"}, 'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"'),
        ({"color": "green"}, 'spec.color: Unsupported value: "green": supported values: "red", "blue"'),
        ({"tags": ["a", "a"]}, 'spec.tags[1]: Duplicate value: "a"'),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, 'spec.parts[1]: Duplicate value: {"name":"a"}'),
        ({"parts": [{}]}, "spec.parts[0].name: Required value"),
        (
            {"port": True},
            'spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"',
        ),
    ],
)
def test_values_fulfil_their_schema(spec: dict[str, Any], fault: str) -> None:
    _, found = made(serving(definition()), widget(**spec))
    assert [str(each) for each in found] == [fault]


def test_null_stands_where_it_may() -> None:
    obj, found = made(serving(definition()), widget(note=None, color=None))
    assert not found
    assert obj["spec"]["note"] is None
    assert obj["spec"]["color"] == "red"


@pytest.mark.parametrize(
    ("constraint", "value", "fault"),
    [
        ({"type": "string", "pattern": "^a$"}, "b", "x in body should match '^a$'"),
        ({"type": "string", "minLength": 2}, "b", "x in body should be at least 2 chars long"),
        ({"type": "string", "maxLength": 1}, "bb", "Too long: may not be more than 1 bytes"),
        ({"type": "array", "maxItems": 1}, [1, 2], "Too many: 2: must have at most 1 items"),
        ({"type": "array", "minItems": 1}, [], "x in body should have at least 1 items"),
        ({"type": "number", "multipleOf": 5}, 7, "x in body should be a multiple of 5"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, 1, "x in body should be greater than 1"),
        ({"type": "string", "format": "date-time"}, "now", 'x in body must be of type date-time: "now"'),
        ({"anyOf": [{"type": "string"}, {"type": "boolean"}]}, 1, '"x" must validate at least one schema (anyOf)'),
        ({"oneOf": [{"minimum": 0}, {"minimum": 1}]}, 2, "(oneOf). Found 2 valid alternatives"),
        ({"not": {"type": "integer"}}, 1, '"x" must not validate the schema (not)'),
        ({"allOf": [{"minimum": 3}]}, 1, "x in body should be greater than or equal to 3"),
    ],
)
def test_every_constraint_is_judged(constraint: dict[str, Any], value: Any, fault: str) -> None:
    (found,) = rules.schema_faults(value, constraint, "x")
    assert fault in found.message


def test_the_status_is_its_own_subresource_and_counts_no_generation() -> None:
    rt = serving(definition())
    old, _ = made(rt, {**widget(), "status": {"x": 1}})
    assert "status" not in old
    new = {**copy.deepcopy(old), "status": {"x": 1}}
    new["metadata"]["resourceVersion"] = "5"
    assert not strategy.update_status(rt, new, old)
    assert new["metadata"]["generation"] == 1
    changed = copy.deepcopy(new)
    changed["spec"]["size"] = 2
    assert not strategy.update(rt, changed, new)
    assert changed["metadata"]["generation"] == 2


def test_custom_resources_are_only_updated_with_their_version() -> None:
    rt = serving(definition())
    old, _ = made(rt, widget())
    found = strategy.update(rt, copy.deepcopy(old), old)
    assert [each.field for each in found] == ["metadata.resourceVersion"]


def test_columns_are_the_declared_ones() -> None:
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 1},
        {"name": "None", "type": "string", "jsonPath": ".spec.missing"},
    ]
    rt = serving(definition(additionalPrinterColumns=columns))
    obj, _ = made(rt, widget())
    obj["status"] = {"conditions": [{"type": "Old", "status": "x"}, {"type": "Ready", "status": "True"}]}
    table = tables.table(rt, [obj], now=datetime(2026, 1, 2, tzinfo=UTC))
    assert [each["name"] for each in table["columnDefinitions"]] == ["Name", "Size", "Ready", "Since", "None"]
    assert table["rows"][0]["cells"] == ["w", 1, "True", "24h", None]


def test_without_columns_there_are_name_and_age() -> None:
    assert [each.name for each in serving(definition()).columns] == ["Name", "Age"]


def test_apply_goes_by_the_schemas_list_types() -> None:
    shape = schema.shape_of(serving(definition()))
    one = {"apiVersion": "example.com/v1", "kind": "Widget", **widget(parts=[{"name": "a", "weight": 2}], tags=["x"])}
    two = {"apiVersion": "example.com/v1", "kind": "Widget", **widget(parts=[{"name": "b"}], tags=["y"])}
    live = apply.apply(None, one, shape=shape, manager="one", force=False, now=NOW)
    both = apply.apply(live, two, shape=shape, manager="two", force=False, now=NOW)
    assert both["spec"]["parts"] == [{"name": "a", "weight": 2}, {"name": "b"}]
    assert both["spec"]["tags"] == ["x", "y"]


def test_versions_are_kept_as_the_stored_one() -> None:
    crd = definition()
    crd["spec"]["versions"].append({**crd["spec"]["versions"][0], "name": "v2", "storage": False})
    rt = serving(crd, "v2")
    assert rt.stored.version == "v1"
    assert rt.conversion is not None
    assert rt.conversion.to_stored({"apiVersion": "example.com/v2"}) == {"apiVersion": "example.com/v1"}
    assert rt.conversion.from_stored({"apiVersion": "example.com/v1"}) == {"apiVersion": "example.com/v2"}


def test_a_definition_in_itself_can_be_patched_and_updated() -> None:
    crd = definition()
    new = patch.strategic(
        crd,
        {"metadata": {"labels": {"a": "b"}}},
        schema.shape_of(type_of("customresourcedefinitions.apiextensions.k8s.io")),
    )
    new["metadata"]["resourceVersion"] = "1"
    assert not updated("customresourcedefinitions.apiextensions.k8s.io", crd, new)
    moved = copy.deepcopy(new)
    moved["spec"]["scope"] = "Cluster"
    assert updated("customresourcedefinitions.apiextensions.k8s.io", crd, moved) == [
        'spec.scope: Invalid value: "Cluster": field is immutable'
    ]


@pytest.mark.parametrize(
    ("property_", "fault"),
    [
        ({}, "type: Required value: must not be empty for specified object fields"),
        ({"type": "array"}, "items: Required value: must be specified"),
        ({"type": "integer", "default": "x"}, 'default: Invalid value: "x"'),
        (
            {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"},
            "must not be empty if x-kubernetes-list-type is map",
        ),
        ({"type": "string", "uniqueItems": True}, "uniqueItems cannot be set to true"),
        ({"type": "frob"}, 'type: Unsupported value: "frob"'),
    ],
)
def test_a_schema_must_be_structural(property_: dict[str, Any], fault: str) -> None:
    one = {"type": "object", "properties": {"x": property_}}
    spec = copy.deepcopy(definition()["spec"])
    spec["versions"][0]["schema"]["openAPIV3Schema"] = one
    rt = type_of("customresourcedefinitions.apiextensions.k8s.io")
    _, found = made(rt, {"metadata": {"name": "widgets.example.com"}, "spec": spec})
    assert any(str(each).startswith("spec.versions[0].schema.openAPIV3Schema.properties[x]") for each in found)
    assert any(fault in str(each) for each in found)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".a.b", [1]),
        ("{.a.b}", [1]),
        (".list[0].n", ["x"]),
        (".list[-1].n", ["y"]),
        (".list[*].n", ["x", "y"]),
        ('.list[?(@.n=="y")].v', [2]),
        (".list[?(@.v>1)].n", ["y"]),
        (".m.x\\.io/k", ["v"]),
        (".m['x.io/k']", ["v"]),
        (".missing.deep", []),
    ],
)
def test_paths_of_columns(path: str, expected: list[Any]) -> None:
    obj = {"a": {"b": 1}, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "m": {"x.io/k": "v"}}
    assert jsonpath.find(obj, path) == expected


def test_a_path_that_is_none_is_refused() -> None:
    with pytest.raises(jsonpath.JsonPathError, match="unrecognized character"):
        jsonpath.steps("spec.x[")


def test_a_registry_keeps_its_order_and_its_types() -> None:
    registry = builtin().with_crd(definition())
    assert isinstance(registry, Registry)
    assert registry.all()[: len(builtin().all())] == builtin().all()
    assert registry.with_crd(definition()).all()[-1].plural == "widgets"
