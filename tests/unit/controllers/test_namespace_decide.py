"""How a namespace is emptied, and what every namespace has."""

from __future__ import annotations

from netplane.controlplane.controllers import namespace, serviceaccount, writes
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.kube.types import CONFIGMAPS, EVENTS, NAMESPACES, PODS, SERVICEACCOUNTS, Object
from tests.support.simulated_cluster import World

KEY = ("", "shop")


def _world(*, deleting: bool = True) -> World:
    world = World()
    world.view.resources = (CONFIGMAPS, NAMESPACES, PODS, SERVICEACCOUNTS)
    metadata: Object = {"name": "shop"}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.seed(NAMESPACES, {"metadata": metadata, "spec": {"finalizers": ["kubernetes"]}})
    world.deliver_all()
    return world


def _in_shop(name: str, **metadata: object) -> Object:
    return {"metadata": {"namespace": "shop", "name": name, **metadata}, "spec": {}}


def _decide(world: World) -> list[writes.Write]:
    world.deliver_all()
    return list(namespace.decide(world.view, KEY, world.now))


def test_pods_go_before_all_else() -> None:
    world = _world()
    world.seed(PODS, _in_shop("p"))
    world.seed(CONFIGMAPS, _in_shop("c"))
    assert [write.resource for write in _decide(world) if isinstance(write, writes.Delete)] == [PODS]
    world.remove(PODS, ("shop", "p"))
    assert [write.resource for write in _decide(world) if isinstance(write, writes.Delete)] == [CONFIGMAPS]


def test_an_empty_namespace_is_released_after_its_events() -> None:
    world = _world()
    found = _decide(world)
    assert found[0] == writes.DeleteAll(EVENTS, "shop")
    assert isinstance(found[1], writes.Finalize)
    assert found[1].resources == (CONFIGMAPS, PODS, SERVICEACCOUNTS)


def test_it_says_what_it_waits_for() -> None:
    world = _world()
    held = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.org/wait"]}
    world.seed(CONFIGMAPS, _in_shop("c", **held))
    (write,) = _decide(world)
    assert isinstance(write, writes.UpdateStatus)
    told = {found["type"]: found["message"] for found in write.obj["status"]["conditions"]}
    assert told["NamespaceContentRemaining"] == "Some resources are remaining: configmaps has 1 resource instances"
    assert told["NamespaceFinalizersRemaining"].endswith("example.org/wait in 1 resource instances")


def test_a_namespace_that_stays_is_left_alone() -> None:
    world = _world(deleting=False)
    world.seed(CONFIGMAPS, _in_shop("c"))
    assert _decide(world) == []


def test_every_namespace_gets_an_account_and_the_ca() -> None:
    world = _world(deleting=False)
    config = ControllerConfig(ca_pem="PEM")
    todo = serviceaccount.decide(world.view, KEY, world.now, config=config)
    made = {write.resource: write.obj for write in todo if isinstance(write, writes.Create)}
    assert made[SERVICEACCOUNTS]["metadata"] == {"name": "default", "namespace": "shop"}
    assert made[CONFIGMAPS]["data"] == {"ca.crt": "PEM"}


def test_a_changed_ca_is_put_right() -> None:
    world = _world(deleting=False)
    world.seed(SERVICEACCOUNTS, _in_shop("default"))
    world.seed(CONFIGMAPS, {**_in_shop(serviceaccount.ROOT_CA), "data": {"ca.crt": "OTHER"}})
    world.deliver_all()
    (write,) = serviceaccount.decide(world.view, KEY, world.now, config=ControllerConfig(ca_pem="PEM"))
    assert isinstance(write, writes.Update)
    assert write.obj["data"] == {"ca.crt": "PEM"}
