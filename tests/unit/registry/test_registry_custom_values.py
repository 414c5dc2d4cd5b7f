"""Custom resources: what a schema that became stricter leaves alone, patterns as Go reads them, what stands inside."""

from __future__ import annotations

import copy
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from netplane.controlplane.registry import strategy
from netplane.controlplane.registry.crd import columns, patterns, rules, structural
from tests.support.registry_objects import created, made, type_of
from tests.unit.registry.test_registry_custom import definition, serving


def with_schema(spec: dict[str, Any], **version: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": spec}}
    return definition(schema={"openAPIV3Schema": schema}, subresources={}, **version)


STRICT = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "maximum": 5},
        "note": {"type": "string"},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "maximum": 5}},
            },
        },
        "numbers": {"type": "array", "items": {"type": "integer", "maximum": 5}},
    },
}


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        ({"size": 9}, {"size": 9, "note": "n"}, []),
        ({"size": 9}, {"size": 8}, ["spec.size"]),
        ({"parts": [{"name": "a", "weight": 9}]}, {"parts": [{"name": "b"}, {"name": "a", "weight": 9}]}, []),
        ({"parts": [{"name": "a", "weight": 9}]}, {"parts": [{"name": "b", "weight": 9}]}, ["spec.parts[0].weight"]),
        ({"numbers": [9]}, {"numbers": [9], "note": "n"}, []),
        ({"numbers": [9]}, {"numbers": [9, 1]}, ["spec.numbers[0]"]),
        ({"size": 1}, {"size": True}, ["spec.size"]),
    ],
)
def test_what_did_not_change_is_not_judged_by_a_schema_that_became_stricter(
    before: dict[str, Any], after: dict[str, Any], fields: list[str]
) -> None:
    rt = serving(with_schema(STRICT))
    old, _ = made(rt, {"metadata": {"name": "w"}, "spec": before})
    new = {**copy.deepcopy(old), "spec": after}
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"] = "1"
    found = strategy.update(rt, new, old)
    assert [each.field for each in found] == fields


def test_rules_are_asked_beside_a_bad_value_but_not_of_one_of_another_type() -> None:
    rule = {"rule": "self.size < 3", "message": "too large"}
    rt = serving(with_schema({**STRICT, "x-kubernetes-validations": [rule]}))
    _, found = made(rt, {"metadata": {"name": "w"}, "spec": {"size": 9}})
    assert [each.field for each in found] == ["spec.size", "spec"]
    _, found = made(rt, {"metadata": {"name": "w"}, "spec": {"size": "x"}})
    assert [each.field for each in found] == ["spec.size", "<nil>"]
    assert "some validation rules were not checked because the object was invalid" in found[1].message


@pytest.mark.parametrize(
    ("pattern", "value", "is_found"),
    [
        ("^a$", "a\n", False),
        (r"^\d$", "٣", False),
        (r"^\p{L}+$", "é", True),
        ("^[[:alpha:]]{2}$", "ab", True),
        ("^([[:alnum:]]|-)+$", "a-1", True),
        (r"^[$]a\.$", "$a.", True),
        (r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", "a.b-c", True),
        (r'^"(\\)+$', '"\\', True),
    ],
)
def test_patterns_mean_what_they_mean_to_go(pattern: str, value: str, is_found: bool) -> None:
    assert patterns.matches(pattern, value) == is_found


def test_no_pattern_takes_for_ever() -> None:
    began = time.thread_time()
    assert not patterns.matches("^(a+)+$", "a" * 5000 + "!")
    assert time.thread_time() - began < 10


@pytest.mark.parametrize("pattern", ["a(", "(?=a)", r"(a)\1", "a**"])
def test_a_definition_with_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    crd = with_schema({"type": "object"})
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        "type": "string",
        "pattern": pattern,
    }
    _, found = made(type_of("customresourcedefinitions.apiextensions.k8s.io"), crd)
    assert "must be a valid regular expression, but isn't" in found[0].message


EMBEDDED = {
    "type": "object",
    "properties": {
        "template": {
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}},
        }
    },
}


def test_what_stands_inside_says_of_what_kind_it_is() -> None:
    rt = serving(with_schema(EMBEDDED))
    assert rt.read is not None
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": "b", "c": 1}}
    obj = {"metadata": {"name": "w"}, "spec": {"template": template}}
    assert rt.read(obj).unknown == ['unknown field "spec.template.spec.c"']
    _, found = made(rt, obj)
    assert not found
    _, found = made(rt, {"metadata": {"name": "w"}, "spec": {"template": {"kind": "Pod", "metadata": 1}}})
    assert [each.field for each in found] == ["spec.template.apiVersion", "spec.template.metadata"]


def test_nulls_of_a_map_that_may_have_none_go() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "string"}}
    value: dict[str, Any] = {"a": None, "b": "x"}
    structural.default(value, schema)
    assert value == {"b": "x"}


def test_null_is_no_int_or_string() -> None:
    (found,) = rules.schema_faults(None, {"x-kubernetes-int-or-string": True}, "x")
    assert found.message.endswith('x in body must be of type integer,string: "null"')


def test_a_column_shows_the_first_of_what_its_path_finds() -> None:
    declared = [{"name": "Address", "type": "string", "jsonPath": ".status.addresses[*].value"}]
    obj = {"metadata": {"name": "w"}, "status": {"addresses": [{"value": "10.0.0.1"}, {"value": "10.0.0.2"}]}}
    assert columns.cells(declared)(obj, datetime(2026, 1, 1, tzinfo=UTC)) == ["w", "10.0.0.1"]


def test_a_version_that_is_to_go_names_the_one_to_take() -> None:
    crd = created("customresourcedefinitions.apiextensions.k8s.io", definition())
    (v1,) = crd["spec"]["versions"]
    old = {**v1, "name": "v1beta1", "storage": False, "deprecated": True}
    crd["spec"]["versions"] = [v1, old]
    assert serving(crd, "v1beta1").deprecation == "example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget"
    old["deprecationWarning"] = "go away"
    assert (serving(crd, "v1beta1").deprecation, serving(crd).deprecation) == ("go away", "")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"selectableFields": [{"jsonPath": ".spec.gone"}]}, "selectableFields[0].jsonPath"),
        ({"selectableFields": [{"jsonPath": ".spec.tags"}]}, "selectableFields[0].jsonPath"),
        ({"selectableFields": [{"jsonPath": ".metadata.name"}]}, "selectableFields[0].jsonPath"),
        ({"selectableFields": [{"jsonPath": ".spec.color"}] * 2}, "selectableFields[1].jsonPath"),
        ({"deprecationWarning": "gone soon"}, "deprecationWarning"),
        (
            {"subresources": {"scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size",
                                        "labelSelectorPath": ".metadata.labels"}}},
            "subresources.scale.labelSelectorPath",
        ),
        (
            {"schema": {"openAPIV3Schema": {"type": "object", "properties": {"metadata": {
                "type": "object", "properties": {"labels": {"type": "object"}}}}}}},
            "schema.openAPIV3Schema.properties[metadata]",
        ),
    ],
)  # fmt: skip
def test_a_version_of_a_definition_says_what_can_be(change: dict[str, Any], field: str) -> None:
    crd = definition()
    crd["spec"]["versions"][0].update(change)
    _, found = made(type_of("customresourcedefinitions.apiextensions.k8s.io"), crd)
    assert [each.field for each in found] == [f"spec.versions[0].{field}"]


def test_fields_of_every_plain_type_can_be_selected_by() -> None:
    crd = definition(selectableFields=[{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.size"}])
    assert set(serving(crd).field_labels) == {"spec.color", "spec.size"}
