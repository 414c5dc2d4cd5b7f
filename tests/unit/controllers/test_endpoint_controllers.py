"""What Services tell of the Pods behind them."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.controllers import endpoints, endpointslice, mirroring, slices, writes
from netplane.kube import meta
from netplane.kube.types import ENDPOINTS, ENDPOINTSLICES, NODES, PODS, SERVICES, Object
from tests.support import workloads
from tests.support.simulated_cluster import World

KEY = ("default", "web")
STEPS = ((endpointslice.decide, SERVICES),)


def _world(*pods: Object, nodes: tuple[Object, ...] = (workloads.node(),), **service: Any) -> World:
    world = World()
    for node in nodes:
        world.seed(NODES, node)
    for pod in pods:
        world.seed(PODS, pod)
    world.seed(SERVICES, workloads.service(**service))
    world.settle(STEPS)
    return world


def _endpoints(world: World) -> list[Object]:
    return [endpoint for found in world.all(ENDPOINTSLICES) for endpoint in found["endpoints"]]


def test_a_slice_is_labelled_and_owned_by_its_service() -> None:
    (found,) = _world(workloads.pod("a", "10.244.0.2")).all(ENDPOINTSLICES)
    assert meta.labels(found) == {"kubernetes.io/service-name": "web", slices.MANAGED_BY: endpointslice.MANAGER}
    assert found["metadata"]["ownerReferences"][0]["uid"] == "uid-svc"
    assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]


def test_an_endpoint_names_its_pod_node_and_zone() -> None:
    world = _world(workloads.pod("a", "10.244.0.2"), nodes=(workloads.node(zone="z1"),))
    (endpoint,) = _endpoints(world)
    assert endpoint == {
        "addresses": ["10.244.0.2"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "node-1",
        "targetRef": {"kind": "Pod", "name": "a", "namespace": "default", "uid": "uid-a"},
        "zone": "z1",
    }


def test_a_terminating_pod_that_is_still_ready_serves_but_is_not_ready() -> None:
    (endpoint,) = _endpoints(_world(workloads.pod("a", "10.244.0.2", deleting=True)))
    assert endpoint["conditions"] == {"ready": False, "serving": True, "terminating": True}


def test_published_not_ready_addresses_are_ready_whatever_their_pods_are() -> None:
    (endpoint,) = _endpoints(_world(workloads.pod("a", "10.244.0.2", ready=False), publishNotReadyAddresses=True))
    assert endpoint["conditions"]["ready"] is True
    assert endpoint["conditions"]["serving"] is False


def test_ended_pods_and_pods_without_address_are_no_endpoints() -> None:
    world = _world(workloads.pod("a", "10.244.0.2", phase="Succeeded"), workloads.pod("b"))
    assert _endpoints(world) == []


def test_a_dual_stack_service_has_a_slice_for_each_family() -> None:
    world = _world(workloads.pod("a", "10.244.0.2", "fd00:244::2"), ipFamilies=["IPv4", "IPv6"])
    told = {found["addressType"]: found["endpoints"][0]["addresses"] for found in world.all(ENDPOINTSLICES)}
    assert told == {"IPv4": ["10.244.0.2"], "IPv6": ["fd00:244::2"]}


def test_a_port_name_may_mean_another_number_in_every_pod() -> None:
    other = workloads.pod(
        "b", "10.244.0.3", containers=[{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]
    )
    world = _world(workloads.pod("a", "10.244.0.2"), other)
    told = {found["ports"][0]["port"]: found["endpoints"][0]["addresses"][0] for found in world.all(ENDPOINTSLICES)}
    assert told == {8080: "10.244.0.2", 9090: "10.244.0.3"}


def test_a_service_without_pods_keeps_one_empty_slice_which_the_first_pod_fills() -> None:
    world = _world()
    (empty,) = world.all(ENDPOINTSLICES)
    assert empty["endpoints"] == []
    world.seed(PODS, workloads.pod("a", "10.244.0.2"))
    world.settle(STEPS)
    (filled,) = world.all(ENDPOINTSLICES)
    assert filled["metadata"]["name"] == empty["metadata"]["name"]
    assert len(filled["endpoints"]) == 1


def test_a_slice_holds_a_hundred_and_one_change_writes_one_slice() -> None:
    pods = [workloads.pod(f"p{number}", f"10.244.{number // 250}.{number % 250 + 2}") for number in range(250)]
    world = _world(*pods)
    assert sorted(len(found["endpoints"]) for found in world.all(ENDPOINTSLICES)) == [50, 100, 100]
    world.change(PODS, ("default", "p7"), {"status": {"conditions": [workloads.condition("Ready", "False")]}})
    world.deliver_all()
    todo = list(endpointslice.decide(world.view, KEY, world.now))
    assert [type(write) for write in todo] == [writes.Update]


def test_a_new_pod_goes_into_the_slice_that_has_room() -> None:
    pods = [workloads.pod(f"p{number}", f"10.244.0.{number + 2}") for number in range(101)]
    world = _world(*pods)
    world.seed(PODS, workloads.pod("new", "10.244.9.9"))
    world.deliver_all()
    (write,) = endpointslice.decide(world.view, KEY, world.now)
    assert isinstance(write, writes.Update)
    assert len(write.obj["endpoints"]) == 2


def test_a_settled_service_writes_nothing() -> None:
    world = _world(workloads.pod("a", "10.244.0.2"))
    assert list(endpointslice.decide(world.view, KEY, world.now)) == []


def test_traffic_distribution_hints_the_zone_and_for_the_same_node_the_node() -> None:
    pod, node = workloads.pod("a", "10.244.0.2"), workloads.node(zone="z1")
    (close,) = _endpoints(_world(pod, nodes=(node,), trafficDistribution="PreferClose"))
    assert close["hints"] == {"forZones": [{"name": "z1"}]}
    (same,) = _endpoints(_world(pod, nodes=(node,), trafficDistribution="PreferSameNode"))
    assert same["hints"] == {"forZones": [{"name": "z1"}], "forNodes": [{"name": "node-1"}]}


def test_a_headless_service_is_marked_and_its_pods_are_named() -> None:
    pod = workloads.pod("a", "10.244.0.2", hostname="a", subdomain="web")
    world = _world(pod, clusterIP="None")
    (found,) = world.all(ENDPOINTSLICES)
    assert meta.labels(found)["service.kubernetes.io/headless"] == ""
    assert found["endpoints"][0]["hostname"] == "a"


def _old_style(world: World) -> Object:
    world.settle([(endpoints.decide, SERVICES)])
    return dict(world.objects[ENDPOINTS, KEY])


def test_endpoints_part_ready_from_not_ready_and_leave_terminating_out() -> None:
    world = _world(
        workloads.pod("a", "10.244.0.2"),
        workloads.pod("b", "10.244.0.3", ready=False),
        workloads.pod("c", "10.244.0.4", deleting=True),
    )
    (subset,) = _old_style(world)["subsets"]
    assert [address["ip"] for address in subset["addresses"]] == ["10.244.0.2"]
    assert [address["ip"] for address in subset["notReadyAddresses"]] == ["10.244.0.3"]
    assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]


def test_endpoints_beyond_a_thousand_are_cut_and_say_so() -> None:
    pods = [workloads.pod(f"p{number}", f"10.244.{number // 250}.{number % 250 + 2}") for number in range(1001)]
    found = _old_style(_world(*pods))
    assert sum(len(subset["addresses"]) for subset in found["subsets"]) == 1000
    assert found["metadata"]["annotations"][endpoints.OVER_CAPACITY] == "truncated"


def test_endpoints_go_with_their_service_and_hand_made_ones_stay() -> None:
    world = _world(workloads.pod("a", "10.244.0.2"))
    _old_style(world)
    world.remove(SERVICES, KEY)
    world.seed(ENDPOINTS, {"metadata": {"name": "mine"}})
    world.deliver_all()
    world.act(endpoints.decide, KEY)
    world.act(endpoints.decide, ("default", "mine"))
    assert [found["metadata"]["name"] for found in world.all(ENDPOINTS)] == ["mine"]


def test_hand_made_endpoints_are_mirrored_into_slices_of_both_families() -> None:
    world = World()
    world.seed(SERVICES, workloads.service(selector=None))
    subset = {"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [{"port": 80, "protocol": "TCP"}]}
    world.seed(ENDPOINTS, {"metadata": {"name": "web"}, "subsets": [subset]})
    world.settle([(mirroring.decide, SERVICES)])
    told = {found["addressType"]: found["endpoints"] for found in world.all(ENDPOINTSLICES)}
    assert told["IPv4"] == [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}]
    assert told["IPv6"] == [{"addresses": ["2001:db8::1"], "conditions": {"ready": True}}]
