"""The life of ServiceCIDRs: finalizer, conditions, and what one waits for that is deleted."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.controlplane.controllers import servicecidrs, writes
from netplane.controlplane.controllers.addresses import IPADDRESSES, SERVICECIDRS
from netplane.controlplane.controllers.view import Change
from netplane.controlplane.registry.services.ranges import FINALIZER
from netplane.kube.types import SERVICES, Object
from tests.support.simulated_cluster import World

GONE = "2026-01-01T00:00:00Z"


def cidr(name: str, *cidrs: str, is_going: bool = False, finalizers: tuple[str, ...] = (FINALIZER,)) -> Object:
    metadata: Object = {"name": name, "finalizers": [*finalizers]}
    return {"metadata": {**metadata, **({"deletionTimestamp": GONE} if is_going else {})}, "spec": {"cidrs": [*cidrs]}}


def service(*held: str) -> Object:
    return {"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIPs": [*held]}}


def shown(address: str, by: str = "ipallocator.k8s.io") -> Object:
    return {"metadata": {"name": address, "labels": {"ipaddress.kubernetes.io/managed-by": by}}}


def decided(*objects: tuple[Any, Object], name: str = "mine") -> list[Any]:
    world = World()
    for resource, obj in objects:
        world.seed(resource, obj)
    world.deliver_all()
    return list(servicecidrs.decide(world.view, ("", name), world.now))


def ready(write: Any) -> tuple[str, str]:
    assert isinstance(write, writes.UpdateStatus)
    (condition,) = write.obj["status"]["conditions"]
    return condition["status"], condition["reason"]


def test_a_range_is_guarded_and_then_ready() -> None:
    (guarded,) = decided((SERVICECIDRS, cidr("mine", "10.1.0.0/24", finalizers=("example.org/mine",))))
    assert guarded.patch["metadata"]["finalizers"] == ["example.org/mine", FINALIZER]
    (told,) = decided((SERVICECIDRS, cidr("mine", "10.1.0.0/24")))
    assert ready(told) == ("True", "")
    assert told.obj["status"]["conditions"][0]["message"] == "Kubernetes Service CIDR is ready"
    assert not decided((SERVICECIDRS, {**cidr("mine", "10.1.0.0/24"), "status": told.obj["status"]}))


@pytest.mark.parametrize(
    "holder",
    [(SERVICES, service("10.1.0.9")), (IPADDRESSES, shown("10.1.0.9"))],
    ids=["service", "address"],
)
def test_a_deleted_range_stays_as_long_as_something_is_in_it(holder: tuple[Any, Object]) -> None:
    going = (SERVICECIDRS, cidr("mine", "10.1.0.0/24", is_going=True))
    (told,) = decided(going, holder)
    assert ready(told) == ("False", "Terminating")
    assert "There are still IPAddresses referencing the ServiceCIDR" in told.obj["status"]["conditions"][0]["message"]
    assert not decided((SERVICECIDRS, {**going[1], "status": told.obj["status"]}), holder)


def test_a_range_that_is_left_is_let_go_if_the_api_lists_nothing_in_it_either() -> None:
    elsewhere = ((SERVICES, service("10.2.0.9", "None")), (IPADDRESSES, shown("10.1.0.9", by="somebody else")))
    going = cidr("mine", "10.1.0.0/24", is_going=True, finalizers=("example.org/mine", FINALIZER))
    (gone,) = decided((SERVICECIDRS, going), *elsewhere)
    assert isinstance(gone, writes.Vacate)
    assert gone.patch.patch["metadata"]["finalizers"] == ["example.org/mine"]
    assert gone.patch.patch["metadata"]["resourceVersion"]
    assert [gone.keeps([each]) for each in ("10.1.0.9", "10.2.0.9", "fd00::9")] == [True, False, False]
    assert not decided((SERVICECIDRS, cidr("mine", "10.1.0.0/24", is_going=True, finalizers=("example.org/mine",))))


def test_what_another_range_covers_may_stay() -> None:
    going, held = (SERVICECIDRS, cidr("mine", "10.1.0.0/24", is_going=True)), (SERVICES, service("10.1.0.9"))
    (gone,) = decided(going, held, (SERVICECIDRS, cidr("wide", "10.0.0.0/8", "fd00::/112")))
    assert isinstance(gone, writes.Vacate)
    assert not gone.keeps(["10.1.0.9"])


def test_of_two_ranges_that_both_go_neither_covers_the_other() -> None:
    two = [(SERVICECIDRS, cidr(name, "10.1.0.0/24", is_going=True)) for name in ("mine", "other")]
    found = [decided(*two, (SERVICES, service("10.1.0.9")), name=name) for name in ("mine", "other")]
    assert [ready(told) for (told,) in found] == [("False", "Terminating")] * 2


def test_ranges_that_wait_for_their_end_are_looked_at_when_addresses_or_ranges_come_and_go() -> None:
    world = World()
    for each in (cidr("mine", "10.1.0.0/24", is_going=True), cidr("other", "10.2.0.0/24")):
        world.seed(SERVICECIDRS, each)
    world.deliver_all()
    waiting, key = [("", "mine")], ("default", "web")
    changes = [(None, service("10.1.0.9")), (service("10.1.0.9"), service()), (service("10.1.0.9"), None)]
    for old, new in changes:
        assert list(servicecidrs.of_service(world.view, Change(SERVICES, key, old, new))) == waiting
    same = Change(SERVICES, key, service("10.1.0.9"), service("10.1.0.9"))
    assert not list(servicecidrs.of_service(world.view, same))
    gone = Change(IPADDRESSES, ("", "10.1.0.9"), shown("10.1.0.9"), None)
    assert list(servicecidrs.of_address(world.view, gone)) == waiting
    wide = Change(SERVICECIDRS, ("", "wide"), None, cidr("wide", "10.0.0.0/8"))
    assert list(servicecidrs.of_range(world.view, wide)) == [("", "mine"), ("", "wide")]
