"""The view: informers' objects overlaid by our own writes."""

from __future__ import annotations

from datetime import timedelta

from netplane.controlplane.controllers.view import Change, View
from netplane.kube import meta
from netplane.kube.types import NODES, PODS, Object
from tests.support import workloads
from tests.support.simulated_cluster import BEGIN

KEY = ("default", "a")


def _pod(revision: int, **given: object) -> Object:
    pod = workloads.pod("a", **given)  # type: ignore[arg-type]  # the builder checks
    pod["metadata"]["resourceVersion"] = str(revision)
    return pod


def _view(*pods: Object) -> View:
    return View(((PODS, pod) for pod in pods), now=BEGIN)


def test_an_answer_of_the_api_is_seen_before_its_event_and_older_events_do_not_undo_it() -> None:
    view = _view(_pod(5, node=""))
    view.assume(PODS, _pod(9), BEGIN)
    assert view.apply(Change(PODS, KEY, _pod(5, node=""), _pod(7, node="")), BEGIN) is None
    assert [pod["metadata"]["resourceVersion"] for pod in view.on_node("node-1")] == ["9"]


def test_a_deleted_object_is_terminating_at_once_whatever_older_events_say() -> None:
    view = _view(_pod(5))
    view.doom(PODS, KEY, "uid-a", BEGIN)
    view.apply(Change(PODS, KEY, _pod(5), _pod(7)), BEGIN)
    found = view.get(PODS, KEY)
    assert found is not None
    assert meta.is_deleting(found)


def test_a_new_object_of_the_same_name_is_not_doomed() -> None:
    view = _view(_pod(5))
    view.doom(PODS, KEY, "uid-a", BEGIN)
    reborn = _pod(8)
    reborn["metadata"]["uid"] = "uid-b"
    view.apply(Change(PODS, KEY, _pod(5), reborn), BEGIN)
    found = view.get(PODS, KEY)
    assert found is not None
    assert not meta.is_deleting(found)


def test_an_assumed_object_that_the_informer_read_past_without_seeing_is_dropped() -> None:
    view = _view()
    view.assume(PODS, _pod(9), BEGIN)
    assert view.settle({PODS: 8}, {PODS: {}}, BEGIN) == []
    (change,) = view.settle({PODS: 9}, {PODS: {}}, BEGIN)
    assert change.new is None
    assert view.all(PODS) == []


def test_an_assumed_object_is_dropped_after_minutes_in_any_case() -> None:
    view = _view()
    view.assume(PODS, _pod(9), BEGIN)
    assert view.settle({}, {}, BEGIN + timedelta(seconds=299)) == []
    assert len(view.settle({}, {}, BEGIN + timedelta(seconds=300))) == 1


def test_indexes_follow_their_objects() -> None:
    owner = {"uid": "rs", "kind": "ReplicaSet", "name": "rs", "controller": True}
    owned = _pod(6)
    owned["metadata"]["ownerReferences"] = [owner]
    view = _view(_pod(5))
    assert len(view.uncontrolled(PODS, "default")) == 1
    view.apply(Change(PODS, KEY, _pod(5), owned), BEGIN)
    assert (len(view.uncontrolled(PODS, "default")), len(view.controlled(PODS, "rs")), len(view.owned("rs"))) == (
        0,
        1,
        1,
    )
    view.apply(Change(PODS, KEY, owned, None), BEGIN)
    assert [view.controlled(PODS, "rs"), view.owned("rs"), view.on_node("node-1")] == [[], [], []]
    assert view.row_of("uid-a") is None


def test_it_remembers_when_it_saw_nodes_change_and_go() -> None:
    view = View(((NODES, workloads.node()),), now=BEGIN)
    later = BEGIN + timedelta(seconds=5)
    view.apply(Change(NODES, ("", "node-1"), workloads.node(), None), later)
    assert view.gone_since(NODES, ("", "node-1")) == later
    assert view.gone_since(NODES, ("", "never")) == BEGIN
