"""How long claims and volumes stay that were deleted."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.controlplane.controllers import protection, writes
from netplane.controlplane.controllers.view import Change
from netplane.kube.types import PODS, Object
from tests.support.simulated_cluster import World

GONE = "2026-01-01T00:00:00Z"
CLAIM, VOLUME = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"
NAMED = {"name": "v", "persistentVolumeClaim": {"claimName": "p-data"}}
OWN = {"name": "data", "ephemeral": {}}
OTHER = {"name": "v", "persistentVolumeClaim": {"claimName": "other"}}


def held(name: str, *finalizers: str, is_going: bool = False, **more: Any) -> Object:
    going = {"deletionTimestamp": GONE} if is_going else {}
    return {"metadata": {"name": name, "finalizers": [*finalizers], **going}, **more}


def pod(volume: Object, node: str = "n") -> Object:
    return {"metadata": {"name": "p"}, "spec": {"nodeName": node, "volumes": [volume]}}


def decided(claim: Object, *pods: Object) -> list[Any]:
    world = World()
    world.seed(protection.CLAIMS, claim)
    for each in pods:
        world.seed(PODS, each)
    world.deliver_all()
    return list(protection.decide_claim(world.view, ("default", claim["metadata"]["name"]), world.now))


def decided_volume(volume: Object) -> list[Any]:
    world = World()
    world.seed(protection.VOLUMES, volume)
    world.deliver_all()
    return list(protection.decide_volume(world.view, ("", volume["metadata"]["name"]), world.now))


@pytest.mark.parametrize("volume", [NAMED, OWN])
def test_a_deleted_claim_stays_while_a_bound_pod_uses_it(volume: Object) -> None:
    assert not decided(held("p-data", CLAIM, is_going=True), pod(volume))


@pytest.mark.parametrize("user", [pod(NAMED, node=""), pod(OTHER), pod({"name": "e", "emptyDir": {}})])
def test_a_deleted_claim_that_no_bound_pod_uses_is_let_go_if_the_api_lists_none_either(user: Object) -> None:
    (gone,) = decided(held("p-data", "example.org/mine", CLAIM, is_going=True), user)
    assert isinstance(gone, writes.Release)
    assert gone.patch.patch["metadata"]["finalizers"] == ["example.org/mine"]
    assert (gone.uses(pod(NAMED)), gone.uses(pod(OWN)), gone.uses(user)) == (True, True, False)


def test_what_is_not_protected_yet_is() -> None:
    (claim,), (volume,) = decided(held("p-data")), decided_volume(held("v"))
    assert claim.patch["metadata"]["finalizers"] == [CLAIM]
    assert volume.patch["metadata"]["finalizers"] == [VOLUME]
    assert not decided(held("p-data", CLAIM)) + decided_volume(held("v", VOLUME))


def test_a_deleted_volume_stays_while_it_is_bound() -> None:
    assert not decided_volume(held("v", VOLUME, is_going=True, status={"phase": "Bound"}))
    (gone,) = decided_volume(held("v", VOLUME, is_going=True, status={"phase": "Released"}))
    assert gone.patch["metadata"]["finalizers"] == []


def test_claims_that_wait_are_looked_at_when_their_pod_is_gone() -> None:
    world = World()
    world.seed(protection.CLAIMS, held("p-data", CLAIM, is_going=True))
    world.seed(protection.CLAIMS, held("other", CLAIM))
    user = world.seed(PODS, {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "volumes": [NAMED, OTHER]}})
    world.deliver_all()
    key = ("default", "p")
    assert list(protection.of_pod(world.view, Change(PODS, key, user, None))) == [("default", "p-data")]
    assert not list(protection.of_pod(world.view, Change(PODS, key, user, user)))
    assert not list(protection.of_pod(world.view, Change(PODS, key, None, user)))
