"""What a store makes of single events and lists."""

from typing import Any

from netplane.kube import store, watch
from netplane.kube.types import SERVICES, EventType, Object

KEY = ("ns", "a")


def obj(version: int, value: str = "x") -> Object:
    return {"metadata": {"namespace": "ns", "name": "a", "resourceVersion": str(version)}, "v": value}


def event(kind: EventType, version: int, value: str = "x") -> watch.Event:
    return watch.Event(kind, obj(version, value))


def value_of(content: Object) -> str | None:
    if content["v"] == "broken":
        raise ValueError("v: broken")
    return str(content["v"]) if content["v"] != "hidden" else None


def applied(*events: watch.Event, transform: Any = value_of) -> tuple[store.Store, list[tuple[Any, Any]]]:
    kept = store.Store(SERVICES, transform)
    changes = [change for one in events if (change := kept.apply(one))]
    return kept, [(change.old, change.new) for change in changes]


def test_added_changed_and_removed_are_told_with_old_and_new() -> None:
    _, told = applied(event("ADDED", 1, "x"), event("MODIFIED", 2, "y"), event("DELETED", 3))
    assert told == [(None, "x"), ("x", "y"), ("y", None)]


def test_a_change_that_the_transform_does_not_see_is_not_told() -> None:
    _, told = applied(event("ADDED", 1), event("MODIFIED", 2))
    assert told == [(None, "x")]


def test_an_older_event_changes_nothing() -> None:
    kept, told = applied(event("ADDED", 5, "new"), event("MODIFIED", 4, "old"), event("DELETED", 3))
    assert (dict(kept.values), len(told)) == ({KEY: "new"}, 1)


def test_a_late_event_does_not_bring_back_what_was_deleted() -> None:
    kept, _ = applied(event("ADDED", 1), event("DELETED", 5), event("MODIFIED", 4))
    assert not kept.values
    assert kept.apply(event("ADDED", 6)) is not None


def test_what_the_transform_leaves_out_is_absent() -> None:
    kept, told = applied(event("ADDED", 1), event("MODIFIED", 2, "hidden"), event("DELETED", 3))
    assert (dict(kept.values), told) == ({}, [(None, "x"), ("x", None)])


def test_what_the_transform_refuses_is_absent_and_said() -> None:
    kept, _ = applied(event("ADDED", 1), event("MODIFIED", 2, "broken"))
    assert not kept.values
    assert kept.rejected == [store.Rejected(SERVICES, KEY, "v: broken")]


def test_a_list_is_taken_as_the_difference() -> None:
    kept, _ = applied(event("ADDED", 1, "x"))
    staged = store.Staged()
    kept.stage(staged, [obj(1, "x"), {**obj(4, "z"), "metadata": {"name": "b", "resourceVersion": "4"}}])
    assert [(change.key, change.old, change.new) for change in kept.replace(staged)] == [(("", "b"), None, "z")]
    assert [change.key for change in kept.replace(store.Staged())] == [KEY, ("", "b")]


def test_a_list_from_a_server_that_lost_revisions_is_believed() -> None:
    kept, _ = applied(event("ADDED", 900, "new"))
    staged = store.Staged()
    kept.stage(staged, [obj(3, "restored")])
    kept.replace(staged)
    assert dict(kept.values) == {KEY: "restored"}
    assert kept.apply(event("MODIFIED", 4, "later")) is not None


def test_pending_changes_to_one_object_become_one() -> None:
    pending = store.Pending()
    for number, (old, new) in enumerate([(None, "a"), ("a", "b"), ("b", "c")]):
        pending.add([store.Change(SERVICES, KEY, old, new)], float(number))
    (change,), received = pending.take()
    assert (change.old, change.new, received) == (None, "c", 0.0)
    assert not pending


def test_a_change_and_its_undoing_leave_nothing_pending() -> None:
    pending = store.Pending()
    pending.add([store.Change(SERVICES, KEY, None, "a")], 1.0)
    pending.add([store.Change(SERVICES, KEY, "a", None)], 2.0)
    assert not pending
