"""The window of events: positions, expiry, and the past it can still show."""

from __future__ import annotations

import pytest

from netplane.controlplane.store import cache, history


def record(name: str, revision: int, *, namespace: str = "default", **labels: str) -> history.Record:
    value = b'{"metadata":{"name":"%s","resourceVersion":"%d"}}' % (name.encode(), revision)
    return history.Record((namespace, name), revision, value, history.Index(labels, {}))


def put(to: cache.Cache, one: history.Record) -> history.Event:
    return to.apply(revision=one.revision, record=one, last=one)


def drop(from_: cache.Cache, one: history.Record) -> history.Event:
    return from_.apply(revision=one.revision, record=None, last=one)


def test_a_watcher_that_starts_at_a_revision_sees_only_what_came_after_it() -> None:
    kept = cache.Cache(floor=0)
    for revision in (3, 5, 9):
        put(kept, record(f"p{revision}", revision))
    events = kept.window.since(kept.window.position(5), limit=10)
    assert [event.revision for event in events] == [9]


def test_a_revision_below_the_floor_has_expired() -> None:
    with pytest.raises(history.Expired):
        history.Window(floor=7).position(6)


def test_a_full_window_drops_its_oldest_and_expires_those_who_lag() -> None:
    window = history.Window(floor=0, limit=8)
    for revision in range(1, 20):
        one = record("p", revision)
        window.append(history.Event(revision=revision, old=None, new=one, last=one))
    with pytest.raises(history.Expired):
        window.since(0, limit=10)
    assert window.floor > 0
    assert window.since(window.position(window.floor), limit=1)[0].revision == window.floor + 1


def test_the_bytes_of_an_event_line_are_made_once_for_all_watchers() -> None:
    event = put(cache.Cache(floor=0), record("a", 1))
    assert event.frame("ADDED") is event.frame("ADDED")


def test_a_snapshot_shows_created_changed_and_deleted_objects_as_they_were() -> None:
    kept = cache.Cache(floor=0)
    put(kept, record("a", 1))
    put(kept, record("b", 2))
    put(kept, record("a", 3))
    drop(kept, record("b", 4))
    put(kept, record("c", 5))
    assert [(r.key[1], r.revision) for r in kept.snapshot(revision=2)] == [("a", 1), ("b", 2)]
    assert [(r.key[1], r.revision) for r in kept.snapshot()] == [("a", 3), ("c", 5)]


def test_a_range_holds_one_namespace_in_the_order_of_names() -> None:
    kept = cache.Cache(floor=0)
    for revision, (namespace, name) in enumerate([("b", "x"), ("a", "z"), ("a", "y"), ("ab", "w")], start=1):
        put(kept, record(name, revision, namespace=namespace))
    assert [r.key for r in kept.range(namespace="a")] == [("a", "y"), ("a", "z")]
    assert [r.key for r in kept.range(after=("a", "z"))] == [("ab", "w"), ("b", "x")]


def test_a_continue_token_survives_its_way_through_the_client() -> None:
    token = history.Continue(41, ("ns", "näme")).encode()
    assert history.decode_continue(token) == history.Continue(41, ("ns", "näme"))


@pytest.mark.parametrize("token", ["", "!", "e30", "eyJ2IjoieCIsInJ2IjoxLCJhZnRlciI6WyIiLCIiXX0", "W10"])
def test_a_foreign_continue_token_is_refused(token: str) -> None:
    with pytest.raises(history.InvalidToken):
        history.decode_continue(token)


def test_lines_are_joined_once_for_all_who_stand_at_one_place() -> None:
    kept = cache.Cache(floor=0)
    for revision in (1, 2, 3):
        put(kept, record(f"p{revision}", revision))
    end, text = kept.window.lines(1, limit=10)
    assert (end, text.count(b"\n")) == (3, 2)
    assert kept.window.lines(1, limit=10)[1] is text


def test_lines_joined_for_one_are_not_told_to_who_stands_elsewhere() -> None:
    kept = cache.Cache(floor=0)
    put(kept, record("a", 1, namespace="one"))
    put(kept, record("b", 2, namespace="two"))
    assert b'"name":"b"' not in kept.window.lines(0, limit=10, group="one")[1]
    assert b'"name":"b"' in kept.window.lines(0, limit=10, group="two")[1]
    assert kept.window.lines(0, limit=10)[1].count(b"\n") == 2
    assert kept.window.lines(0, limit=1)[1].count(b"\n") == 1
    drop(kept, record("a", 3, namespace="one"))
    end, text = kept.window.lines(0, limit=10, group="one")
    assert (end, text.count(b"\n"), b"DELETED" in text) == (3, 2, True)


def test_a_page_counts_what_it_leaves_out_now_and_at_a_revision() -> None:
    kept = cache.Cache(floor=0)
    for number in range(1, 8):
        put(kept, record(f"p{number}", number, namespace="two" if number == 7 else "one"))
    found, left = kept.first(2, namespace="one", after=("one", "p1"))
    assert ([each.key[1] for each in found], left) == (["p2", "p3"], 3)
    drop(kept, record("p2", 8, namespace="one"))
    found, left = kept.first(2, revision=7, namespace="one", after=("one", "p1"))
    assert ([each.key[1] for each in found], left) == (["p2", "p3"], 3)
    assert [each.key[1] for each in kept.first(0)[0]] == ["p1", "p3", "p4", "p5", "p6", "p7"]
