"""Who is collected when owners go, and how owners wait."""

from __future__ import annotations

from netplane.controlplane.controllers import garbage, writes
from netplane.controlplane.controllers.view import Change
from netplane.kube.types import CONFIGMAPS, PODS, REPLICASETS, Object
from tests.support.simulated_cluster import BEGIN, World


def _world() -> World:
    world = World()
    world.view.resources = (CONFIGMAPS, PODS, REPLICASETS)
    return world


def _owned(name: str, *owners: Object, blocks: bool = True) -> Object:
    references = [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": blocks,
        }
        for owner in owners
    ]
    return {"metadata": {"namespace": "default", "name": name, "ownerReferences": references}}


def _replica_set(name: str = "rs", **metadata: object) -> Object:
    return {"metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}", **metadata}}


def _decide(world: World, obj: Object) -> list[writes.Write]:
    world.deliver_all()
    resource = PODS if obj["kind"] == "Pod" else REPLICASETS
    return list(garbage.decide(world.view, garbage.path(resource, obj), world.now))


def test_what_lost_its_only_owner_goes_once_the_api_confirms_the_loss() -> None:
    world = _world()
    pod = world.seed(PODS, _owned("p", _replica_set()))
    (write,) = _decide(world, pod)
    assert isinstance(write, writes.Delete)
    assert write.propagation == "Background"
    assert write.unless == (writes.Owner(REPLICASETS, ("default", "rs"), "uid-rs"),)


def test_what_still_has_an_owner_only_loses_the_reference_to_the_absent_one() -> None:
    world = _world()
    here = world.seed(REPLICASETS, _replica_set("here"))
    pod = world.seed(PODS, _owned("p", here, _replica_set("gone")))
    (write,) = _decide(world, pod)
    assert isinstance(write, writes.Patch)
    assert [found["uid"] for found in write.patch["metadata"]["ownerReferences"]] == ["uid-here"]


def test_an_owner_of_a_type_nobody_watches_is_not_taken_for_absent() -> None:
    world = _world()
    pod = _owned("p", _replica_set())
    pod["metadata"]["ownerReferences"][0] |= {"apiVersion": "example.org/v1", "kind": "Thing"}
    assert _decide(world, world.seed(PODS, pod)) == []


def test_in_the_foreground_dependents_go_first_and_then_the_owner() -> None:
    world = _world()
    owner = _replica_set(deletionTimestamp="2026-01-01T00:00:00Z", finalizers=[garbage.FOREGROUND])
    owner = world.seed(REPLICASETS, owner)
    pod = world.seed(PODS, _owned("p", owner))
    assert _decide(world, owner) == []
    (write,) = _decide(world, pod)
    assert isinstance(write, writes.Delete)
    world.remove(PODS, ("default", "p"))
    (last,) = _decide(world, owner)
    assert isinstance(last, writes.Patch)
    assert last.patch["metadata"]["finalizers"] == []


def test_dependents_that_do_not_block_do_not_hold_their_owner() -> None:
    world = _world()
    owner = _replica_set(deletionTimestamp="2026-01-01T00:00:00Z", finalizers=[garbage.FOREGROUND])
    owner = world.seed(REPLICASETS, owner)
    world.seed(PODS, _owned("p", owner, blocks=False))
    (write,) = _decide(world, owner)
    assert isinstance(write, writes.Patch)


def test_orphaned_dependents_lose_the_reference_before_the_owner_goes() -> None:
    world = _world()
    owner = _replica_set(deletionTimestamp="2026-01-01T00:00:00Z", finalizers=[garbage.ORPHAN])
    owner = world.seed(REPLICASETS, owner)
    world.seed(PODS, _owned("p", owner))
    (write,) = _decide(world, owner)
    assert isinstance(write, writes.Patch)
    assert (write.resource, write.patch["metadata"]["ownerReferences"]) == (PODS, [])


def test_the_end_of_an_owner_wakes_its_dependents_and_theirs_a_waiting_owner() -> None:
    world = _world()
    owner = world.seed(REPLICASETS, _replica_set())
    pod = world.seed(PODS, _owned("p", owner))
    world.deliver_all()
    gone = Change(REPLICASETS, ("default", "rs"), owner, None)
    assert list(garbage.touched(world.view, gone)) == [garbage.path(PODS, pod)]
    waiting = {**owner, "metadata": {**owner["metadata"], "deletionTimestamp": "x", "finalizers": [garbage.FOREGROUND]}}
    world.view.apply(Change(REPLICASETS, ("default", "rs"), owner, waiting), BEGIN)
    left = Change(PODS, ("default", "p"), pod, None)
    assert list(garbage.touched(world.view, left)) == [garbage.path(REPLICASETS, owner)]
