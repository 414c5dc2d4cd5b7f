"""How statuses are written: once, by generation, and never over what is someone else's."""

from __future__ import annotations

import copy
import itertools
from datetime import timedelta

from tests.support import gateway_objects as g
from tests.support.gateway_reader import NOW, Cluster, of_gateway

LATER = NOW + timedelta(hours=1)


def small() -> Cluster:
    """A class, a Gateway and a route."""
    return Cluster([g.gateway_class(), g.gateway(), g.route("web", g.rule("web"))], {"web": 8080})


def test_a_status_that_stands_is_not_written_again() -> None:
    cluster = small()
    assert len(cluster.settle().statuses) == 3
    assert not cluster.settle(LATER).statuses


def test_a_new_generation_is_observed_without_moving_transition_times() -> None:
    cluster = small()
    cluster.settle()
    for kind, name in (("Gateway", "door"), ("HTTPRoute", "web"), ("GatewayClass", "netplane")):
        cluster.object(kind, name)["metadata"]["generation"] = 7
    assert len(cluster.settle(LATER).statuses) == 3
    status = cluster.object("Gateway", "door")["status"]
    every = [*status["conditions"], *status["listeners"][0]["conditions"]]
    every += cluster.object("HTTPRoute", "web")["status"]["parents"][0]["conditions"]
    assert {each["observedGeneration"] for each in every} == {7}
    assert {each["lastTransitionTime"] for each in every} == {"2026-01-01T00:00:00Z"}


def test_a_condition_that_turns_has_a_new_transition_time() -> None:
    cluster = small()
    cluster.settle()
    cluster.services = {}
    cluster.settle(LATER)
    found = cluster.object("HTTPRoute", "web")["status"]["parents"][0]["conditions"]
    times = {each["type"]: each["lastTransitionTime"] for each in found}
    assert times == {"Accepted": "2026-01-01T00:00:00Z", "ResolvedRefs": "2026-01-01T01:00:00Z"}


def test_what_others_wrote_stays_where_it_is() -> None:
    cluster = small()
    theirs = {
        "type": "example.com/Checked",
        "status": "True",
        "reason": "Fine",
        "message": "",
        "lastTransitionTime": "x",
    }
    entry = {"parentRef": {"name": "else"}, "controllerName": "example.com/x", "conditions": [theirs]}
    cluster.object("Gateway", "door")["status"] = {"conditions": [copy.deepcopy(theirs)]}
    cluster.object("HTTPRoute", "web")["status"] = {"parents": [copy.deepcopy(entry)]}
    cluster.settle()
    assert cluster.object("Gateway", "door")["status"]["conditions"][0] == theirs
    parents = cluster.object("HTTPRoute", "web")["status"]["parents"]
    assert parents[0] == entry
    assert parents[1]["controllerName"] == "netplane.io/gateway"


def test_entries_of_ours_go_with_the_parent() -> None:
    cluster = small()
    cluster.settle()
    cluster.object("HTTPRoute", "web")["spec"]["parentRefs"] = [g.parent("gone")]
    cluster.settle()
    assert cluster.object("HTTPRoute", "web")["status"]["parents"] == []


def test_a_stale_copy_is_not_judged() -> None:
    cluster = small()
    cluster.object("Gateway", "door")["metadata"]["generation"] = 9
    cluster.settle()
    cluster.object("Gateway", "door")["metadata"]["generation"] = 8
    assert not [each for each in cluster.settle(LATER).statuses if each.resource.kind == "Gateway"]


def test_the_first_status_replaces_the_pending_conditions_of_the_definition() -> None:
    cluster = small()
    pending = {"status": "Unknown", "reason": "Pending", "message": "Waiting for controller", "lastTransitionTime": "x"}
    cluster.object("Gateway", "door")["status"] = {
        "conditions": [{"type": each, **pending} for each in ("Accepted", "Programmed")]
    }
    cluster.settle()
    assert of_gateway(cluster) == {"Accepted": "True", "Programmed": "True"}


def test_the_order_of_objects_does_not_matter() -> None:
    objects = [
        g.gateway_class(),
        g.gateway("one", g.listener(hostname="*.a.io")),
        g.gateway("two", g.listener(hostname="x.a.io")),
        g.route("r", g.rule("web"), parents=[g.parent("one"), g.parent("two")]),
        g.route("s", g.rule("web"), parents=[g.parent("two")]),
    ]
    readings = {repr(Cluster(list(order), {"web": 8080}).read().routing) for order in itertools.permutations(objects)}
    assert len(readings) == 1


def test_without_an_address_nothing_is_programmed() -> None:
    cluster = small()
    cluster.door = type(cluster.door)(())
    cluster.settle()
    assert of_gateway(cluster) == {"Accepted": "True", "Programmed": "False AddressNotAssigned"}


def test_a_door_that_is_published_by_name_is_told_by_name() -> None:
    cluster = small()
    cluster.door = type(cluster.door)(("203.0.113.10", "door.example.com"))
    cluster.settle()
    assert cluster.object("Gateway", "door")["status"]["addresses"] == [
        {"type": "IPAddress", "value": "203.0.113.10"},
        {"type": "Hostname", "value": "door.example.com"},
    ]
    cluster.object("Gateway", "door")["spec"]["addresses"] = [{"type": "Hostname", "value": "Door.example.com"}]
    cluster.settle()
    assert cluster.object("Gateway", "door")["status"]["addresses"] == [
        {"type": "Hostname", "value": "door.example.com"}
    ]
    assert of_gateway(cluster) == {"Accepted": "True", "Programmed": "True"}
