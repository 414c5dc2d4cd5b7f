"""Laws of server-side apply."""

from __future__ import annotations

import copy
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.registry import builtin, schema
from netplane.kube import apply
from netplane.kube.apply import fields
from tests.property.test_patch_laws import PODS


def _shape() -> Any:
    rt = builtin().find("", "v1", "pods")
    assert rt is not None
    return schema.shape_of(rt)


def _applied(live: Any, config: Any, manager: str, *, force: bool = False, now: str = "2026-01-01T00:00:00Z") -> Any:
    config = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(config)}
    return apply.apply(live, config, shape=_shape(), manager=manager, force=force, now=now)


def _owned(obj: Any, manager: str) -> fields.Fields:
    entries = [each for each in obj["metadata"]["managedFields"] if each["manager"] == manager]
    return fields.load(entries[0]["fieldsV1"]) if entries else frozenset()


def _bare(obj: Any) -> Any:
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


@settings(max_examples=50)
@given(PODS)
def test_applying_the_same_again_changes_nothing(config: Any) -> None:
    once = _applied(None, config, "me")
    assert _applied(once, config, "me", now="2026-02-02T00:00:00Z") == once


@settings(max_examples=50)
@given(PODS, PODS)
def test_the_only_manager_gets_exactly_what_it_applies_last(first: Any, second: Any) -> None:
    live = _applied(_applied(None, first, "me"), second, "me")
    want = fields.of(_bare(_applied(None, second, "me")), _shape())
    have = fields.of(_bare(live), _shape())
    assert {p: v for p, v in have.items() if v not in ({}, [])} == {p: v for p, v in want.items() if v not in ({}, [])}


@settings(max_examples=50)
@given(PODS, PODS)
def test_with_force_every_applied_field_has_the_applied_value(first: Any, second: Any) -> None:
    live = _applied(_applied(None, first, "one"), second, "two", force=True)
    have = fields.of(_bare(live), _shape())
    for path, value in fields.of(_bare(_applied(None, second, "two")), _shape()).items():
        assert value in ({}, []) or have[path] == value


@settings(max_examples=50)
@given(PODS, PODS)
def test_without_force_a_conflict_is_told_or_nothing_of_the_other_changes(first: Any, second: Any) -> None:
    live = _applied(None, first, "one")
    before = fields.of(_bare(live), _shape())
    told: tuple[apply.Conflict, ...] = ()
    after = before
    try:
        after = fields.of(_bare(_applied(live, second, "two")), _shape())
    except apply.ConflictError as error:
        told = error.conflicts
    assert all(each.manager.name == "one" for each in told)
    assert all(before[path] in ({}, []) or after[path] == before[path] for path in _owned(live, "one"))


@settings(max_examples=50)
@given(PODS, PODS)
def test_what_both_applied_stays_when_one_lets_go(shared: Any, other: Any) -> None:
    live = _applied(_applied(None, shared, "one"), shared, "two")
    let_go = _applied(live, {"metadata": {"name": "p"}}, "one", force=True)
    assert fields.of(_bare(let_go), _shape()) == fields.of(_bare(live), _shape())
    assert not _owned(let_go, "one")


@settings(max_examples=50)
@given(PODS, PODS)
def test_an_update_takes_the_fields_it_changed(config: Any, changed: Any) -> None:
    live = _applied(None, config, "applier")
    new = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(changed)}
    new["metadata"]["managedFields"] = apply.track(
        live, new, shape=_shape(), manager="writer", now="2026-01-02T00:00:00Z"
    )
    before, after = fields.of(_bare(live), _shape()), fields.of(_bare(new), _shape())
    for path in _owned(new, "writer"):
        assert path not in before or before[path] != after[path]
    for path in _owned(new, "applier"):
        assert path in after


@settings(max_examples=50)
@given(st.sets(st.lists(st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"']), min_size=1, max_size=4).map(tuple)))
def test_a_set_of_fields_survives_its_json(paths: set[fields.Path]) -> None:
    assert fields.load(fields.dump(paths)) == paths


@settings(max_examples=50)
@given(PODS)
def test_the_first_writer_owns_what_the_long_way_finds(obj: Any) -> None:
    made = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(obj)}
    made["metadata"] |= {"name": "a", "uid": "u", "labels": {"x": "y"}, "finalizers": ["f", "f"]}
    (entry,) = apply.track(None, made, shape=_shape(), manager="me", now="n", ignored=("status",))
    counted = {path: value for path, value in fields.of(made, _shape()).items() if path[0] != "f:status"}
    unowned = {"name", "uid", "namespace"}
    long = fields.dump(
        path
        for path in counted
        if path[0] not in ("f:apiVersion", "f:kind")
        and not (path[0] == "f:metadata" and len(path) > 1 and path[1][2:] in unowned)
    )
    assert orjson.dumps(entry["fieldsV1"]) == orjson.dumps(long)
