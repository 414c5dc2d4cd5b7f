"""What every object has."""

from datetime import UTC, datetime

from netplane.kube import meta

NOW, LATER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


def test_a_condition_keeps_its_transition_time_while_its_status_does() -> None:
    first = meta.with_condition([], "Ready", False, now=NOW, reason="Starting")
    second = meta.with_condition(first, "Ready", False, now=LATER, reason="StillStarting")
    third = meta.with_condition(second, "Ready", True, now=LATER)
    assert second == [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "StillStarting"}
    ]
    assert third == [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T00:00:00Z"}]


def test_setting_a_condition_leaves_the_others_and_their_order() -> None:
    before = [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]
    after = meta.with_condition(before, "A", False, now=NOW)
    assert [entry["type"] for entry in after] == ["A", "B"]
    assert before[0]["status"] == "True"


def test_the_controller_among_the_owners_is_found() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "uid": "u1"}}
    other = meta.owner_reference({**owner, "metadata": {"name": "x", "uid": "u2"}}, is_controller=False)
    obj = {"metadata": {"ownerReferences": [other, meta.owner_reference(owner)]}}
    assert meta.is_controlled_by(obj, owner)
    assert not meta.is_controlled_by({"metadata": {"ownerReferences": [other]}}, owner)


def test_an_object_reference_has_no_empty_fields() -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
    assert meta.object_reference(node) == {"apiVersion": "v1", "kind": "Node", "name": "n1"}
