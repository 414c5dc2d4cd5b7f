"""The IPAddresses of Services, as data."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.controllers import addresses, writes
from netplane.controlplane.controllers.addresses import IPADDRESSES
from netplane.controlplane.controllers.view import Change
from netplane.kube.types import SERVICES, Object
from tests.support.simulated_cluster import World


def service(*held: str, name: str = "web") -> Object:
    return {"metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}"}, "spec": {"clusterIPs": [*held]}}


def shown(address: str, name: str = "web") -> Object:
    parent = {"group": "", "resource": "services", "namespace": "default", "name": name}
    return {"metadata": {"name": address, "uid": f"uid-{address}"}, "spec": {"parentRef": parent}}


def world(*objects: tuple[Any, Object]) -> World:
    made = World()
    for resource, obj in objects:
        made.seed(resource, obj)
    made.deliver_all()
    return made


def decided(one: World, address: str = "10.96.0.9", name: str = "web") -> list[Any]:
    return list(addresses.decide(one.view, (address, "default", name), one.now))


def test_an_address_that_a_service_holds_is_shown() -> None:
    (made,) = decided(world((SERVICES, service("10.96.0.9"))))
    assert isinstance(made, writes.Create)
    assert made.obj["metadata"]["name"] == "10.96.0.9"
    assert made.obj["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"] == "IPv4"
    assert made.obj["spec"]["parentRef"]["name"] == "web"
    assert not decided(world((SERVICES, service("10.96.0.9")), (IPADDRESSES, shown("10.96.0.9"))))


def test_an_address_that_nobody_holds_any_more_goes() -> None:
    (gone,) = decided(world((IPADDRESSES, shown("10.96.0.9"))))
    assert isinstance(gone, writes.Delete)
    assert gone.uid == "uid-10.96.0.9"


def test_an_address_that_changed_hands_is_shown_anew() -> None:
    one = world((SERVICES, service("10.96.0.9", name="new")), (IPADDRESSES, shown("10.96.0.9", "old")))
    gone, again = decided(one, name="new")
    assert isinstance(gone, writes.Delete)
    assert isinstance(again, writes.Requeue)


def test_what_others_show_is_left_alone() -> None:
    foreign = shown("10.96.0.9")
    foreign["spec"]["parentRef"] |= {"group": "gateway.networking.k8s.io", "resource": "gateways"}
    assert not decided(world((IPADDRESSES, foreign)))


def test_only_changed_addresses_are_looked_at() -> None:
    one, key = World(), ("default", "web")
    old, new = service("10.96.0.9"), service("10.96.0.9", "fd00::9")
    assert not list(addresses.of_service(one.view, Change(SERVICES, key, old, old)))
    found = list(addresses.of_service(one.view, Change(SERVICES, key, old, new)))
    assert found == [("10.96.0.9", *key), ("fd00::9", *key)]
    assert not list(addresses.of_service(one.view, Change(SERVICES, key, None, service("None"))))
