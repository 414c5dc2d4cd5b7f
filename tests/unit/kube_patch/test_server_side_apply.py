"""Server-side apply: who owns what, who is in whose way."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from netplane.controlplane.registry import schema
from netplane.kube import apply
from netplane.kube.apply import managed
from tests.support.registry_objects import type_of

SHAPE = schema.shape_of(type_of("deployments.apps"))
DAY = "2026-01-0{}T00:00:00Z".format


def config(*, replicas: int | None = None, labels: dict[str, str] | None = None, **container: Any) -> dict[str, Any]:
    obj: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
    }
    obj["spec"] = {"template": {"spec": {"containers": [{"name": "c", "image": "i:1", **container}]}}}
    if replicas is not None:
        obj["spec"]["replicas"] = replicas
    if labels is not None:
        obj["metadata"]["labels"] = labels
    return obj


def applied(live: Any, wanted: Any, manager: str = "one", *, force: bool = False, day: int = 1) -> dict[str, Any]:
    return apply.apply(live, copy.deepcopy(wanted), shape=SHAPE, manager=manager, force=force, now=DAY(day))


def written(live: Any, manager: str, day: int = 2, **spec: Any) -> dict[str, Any]:
    new: dict[str, Any] = copy.deepcopy(live)
    new["spec"] |= spec
    new["metadata"]["managedFields"] = apply.track(live, new, shape=SHAPE, manager=manager, now=DAY(day))
    return new


def managers(obj: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["manager"], each["operation"]) for each in obj["metadata"]["managedFields"]]


def test_the_entry_names_the_fields_that_were_applied() -> None:
    (entry,) = applied(None, config(replicas=1, labels={"a": "b"}))["metadata"]["managedFields"]
    assert entry == {
        "manager": "one",
        "operation": "Apply",
        "apiVersion": "apps/v1",
        "time": DAY(1),
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:template": {"f:spec": {"f:containers": {'k:{"name":"c"}': {".": {}, "f:image": {}, "f:name": {}}}}},
            },
        },
    }


def test_what_is_applied_no_more_goes() -> None:
    live = applied(None, config(replicas=3, labels={"a": "b", "c": "d"}))
    new = applied(live, config(labels={"a": "b"}), day=2)
    assert new["metadata"]["labels"] == {"a": "b"}
    assert "replicas" not in new["spec"]


def test_another_value_of_anothers_field_is_a_conflict_with_name_and_path() -> None:
    live = written(applied(None, config(replicas=1)), "kubectl-edit", replicas=5)
    with pytest.raises(apply.ConflictError) as raised:
        applied(live, config(replicas=2))
    text = 'Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas'
    assert str(raised.value) == text
    assert raised.value.conflicts[0].cause() == {
        "reason": "FieldManagerConflict",
        "message": 'conflict with "kubectl-edit" using apps/v1',
        "field": ".spec.replicas",
    }


def test_many_conflicts_are_listed_by_manager() -> None:
    live = applied(None, config(replicas=1, tty=True), "one")
    with pytest.raises(apply.ConflictError) as raised:
        applied(live, config(replicas=2, tty=False), "two")
    assert str(raised.value) == (
        'Apply failed with 2 conflicts: conflicts with "one":\n- .spec.replicas\n'
        '- .spec.template.spec.containers[name="c"].tty'
    )


def test_force_takes_the_field() -> None:
    live = written(applied(None, config(replicas=1)), "kubectl-edit", replicas=5)
    new = applied(live, config(replicas=2), force=True, day=3)
    assert new["spec"]["replicas"] == 2
    assert managers(new) == [("one", "Apply")]


def test_the_same_value_is_owned_by_both() -> None:
    new = applied(applied(None, config(replicas=1)), config(replicas=1), "two")
    assert managers(new) == [("one", "Apply"), ("two", "Apply")]
    kept = applied(new, config(), "one", day=3)
    assert kept["spec"]["replicas"] == 1


def test_a_writer_owns_what_it_changed_and_the_applier_loses_it() -> None:
    new = written(applied(None, config(replicas=1)), "hpa", replicas=4)
    assert managers(new) == [("one", "Apply"), ("hpa", "Update")]
    assert new["metadata"]["managedFields"][1]["fieldsV1"] == {"f:spec": {"f:replicas": {}}}


def test_a_write_that_changes_nothing_owns_nothing_and_keeps_the_times() -> None:
    live = written(applied(None, config(replicas=1)), "hpa", replicas=4)
    assert written(live, "other", day=5) == live


def test_an_object_without_entries_belongs_to_nobody_known() -> None:
    live = config(replicas=1)
    with pytest.raises(apply.ConflictError, match="before-first-apply"):
        applied(live, config(replicas=2))


def test_kubectl_may_change_what_it_had_applied_at_the_client() -> None:
    live = config(replicas=1)
    live["metadata"]["annotations"] = {managed.LAST_APPLIED: orjson.dumps(config(replicas=1)).decode()}
    live["metadata"]["managedFields"] = apply.track(
        None, live, shape=SHAPE, manager="kubectl-client-side-apply", now=DAY(1)
    )
    new = applied(live, config(replicas=2), "kubectl")
    assert new["spec"]["replicas"] == 2
    assert orjson.loads(new["metadata"]["annotations"][managed.LAST_APPLIED])["spec"]["replicas"] == 2


def test_what_changed_since_it_was_applied_at_the_client_is_a_conflict() -> None:
    live = config(replicas=1)
    live["metadata"]["annotations"] = {managed.LAST_APPLIED: orjson.dumps(config(replicas=1)).decode()}
    live["metadata"]["managedFields"] = apply.track(
        None, live, shape=SHAPE, manager="kubectl-client-side-apply", now=DAY(1)
    )
    with pytest.raises(apply.ConflictError, match="hpa"):
        applied(written(live, "hpa", replicas=5), config(replicas=2), "kubectl")


def test_a_subresource_has_an_entry_of_its_own() -> None:
    live = applied(None, config(replicas=1))
    new = {**copy.deepcopy(live), "status": {"readyReplicas": 1}}
    entries = apply.track(live, new, shape=SHAPE, manager="one", now=DAY(2), subresource="status", ignored=("spec",))
    assert entries[1]["subresource"] == "status"
    assert entries[1]["fieldsV1"] == {"f:status": {"f:readyReplicas": {}}}


def test_ports_are_told_apart_by_number_and_protocol() -> None:
    live = applied(None, config(ports=[{"containerPort": 53, "protocol": "UDP"}]), "one")
    new = applied(live, config(ports=[{"containerPort": 53}]), "two")
    assert new["spec"]["template"]["spec"]["containers"][0]["ports"] == [
        {"containerPort": 53, "protocol": "UDP"},
        {"containerPort": 53},
    ]


def test_entries_can_be_forgotten() -> None:
    live = applied(None, config(replicas=1))
    new = copy.deepcopy(live)
    new["metadata"]["managedFields"] = [{}]
    assert apply.track(live, new, shape=SHAPE, manager="me", now=DAY(2)) == []


def test_there_are_never_more_than_ten_updaters() -> None:
    live = applied(None, config(replicas=0))
    for number in range(1, 16):
        live = written(
            live,
            f"writer-{number:02}",
            day=2,
            **{"replicas": number, "paused": bool(number % 2), "minReadySeconds": number},
        )
    names = [name for name, operation in managers(live) if operation == "Update"]
    assert len(names) <= 10
