"""Which routes are attached to which listeners, and what the statuses say of it."""

from __future__ import annotations

from tests.support import gateway_objects as g
from tests.support.gateway_reader import Cluster, attached, of_gateway, of_listener, of_route, where


def test_a_route_is_attached_to_its_gateway_and_served_at_the_listeners_port() -> None:
    cluster = Cluster([g.gateway_class(), g.gateway(), g.route("web", g.rule("web"))], {"web": 8080})
    reading = cluster.settle()
    assert where(reading) == [("web", "*", "/", (80,))]
    assert of_route(cluster, "web") == {"Accepted": "True", "ResolvedRefs": "True"}
    assert of_gateway(cluster) == {"Accepted": "True", "Programmed": "True"}
    assert attached(cluster, "http") == 1
    assert cluster.object("Gateway", "door")["status"]["addresses"] == [{"type": "IPAddress", "value": "203.0.113.10"}]


def test_gateways_of_other_controllers_and_their_routes_are_left_alone() -> None:
    theirs = [
        g.gateway_class("x", controller="example.com/x"),
        g.gateway(class_name="x"),
        g.route("web", g.rule("web")),
    ]
    cluster = Cluster(theirs, {"web": 8080})
    reading = cluster.settle()
    assert not reading.statuses
    assert not reading.routing.routes


def test_a_listener_takes_routes_of_its_own_namespace_unless_it_says_otherwise() -> None:
    foreign = g.route("web", g.rule("web"), namespace="other", parents=[g.parent(namespace="default")])
    for listener, verdict in (
        (g.listener(), "False NotAllowedByListeners"),
        (g.listener(from_="All"), "True"),
        (g.listener(selector={"team": "a"}), "True"),
        (g.listener(selector={"team": "b"}), "False NotAllowedByListeners"),
    ):
        cluster = Cluster(
            [g.gateway_class(), g.gateway("door", listener), foreign | {"status": {}}],
            {"other/web": 8080},
            namespaces={"other": {"team": "a"}},
        )
        cluster.settle()
        assert of_route(cluster, "other/web")["Accepted"] == verdict
        assert attached(cluster, "http") == (verdict == "True")


def test_a_section_that_is_not_there_is_no_matching_parent() -> None:
    route = g.route("web", g.rule("web"), parents=[g.parent(section="nowhere")])
    cluster = Cluster([g.gateway_class(), g.gateway(), route], {"web": 8080})
    assert not cluster.settle().routing.routes
    assert of_route(cluster, "web")["Accepted"] == "False NoMatchingParent"


def test_hostnames_that_have_nothing_in_common_are_not_attached() -> None:
    gateway = g.gateway("door", g.listener(hostname="very.specific.com"))
    cluster = Cluster([g.gateway_class(), gateway, g.route("web", g.rule("web"), hostnames=["a.com"])], {"web": 8080})
    cluster.settle()
    assert of_route(cluster, "web")["Accepted"] == "False NoMatchingListenerHostname"


def test_a_route_is_served_for_the_hosts_it_shares_with_the_listener() -> None:
    gateway = g.gateway("door", g.listener(hostname="*.wild.io"))
    names = ["a.wild.io", "wild.io", "*.deep.wild.io", "other.io", "*.io"]
    cluster = Cluster([g.gateway_class(), gateway, g.route("web", g.rule("web"), hostnames=names)], {"web": 8080})
    hosts = {host for owner, host, _, _ in where(cluster.settle()) if owner == "web"}
    assert hosts == {"a.wild.io", "*.deep.wild.io", "*.wild.io"}


def test_requests_for_a_listener_never_reach_routes_of_a_wider_one() -> None:
    listeners = [g.listener("wide", hostname="*.example.com"), g.listener("narrow", hostname="bar.example.com")]
    wide = g.route(
        "wide", g.rule("web"), parents=[g.parent(section="wide")], hostnames=["bar.example.com", "foo.example.com"]
    )
    narrow = g.route("narrow", g.rule("web", matches=[g.match("/narrow")]), parents=[g.parent(section="narrow")])
    cluster = Cluster([g.gateway_class(), g.gateway("door", *listeners), wide, narrow], {"web": 8080})
    reading = cluster.settle()
    assert where(reading) == [
        ("narrow", "bar.example.com", "/narrow", (80,)),
        ("wide", "foo.example.com", "/", (80,)),
        ("door", "*.example.com", "/", (80,)),
        ("door", "bar.example.com", "/", (80,)),
    ]
    held = [each.respond for each in reading.routing.routes if each.owner.kind == "Gateway"]
    assert held == [404, 404]


def test_every_listener_counts_the_routes_attached_to_it_once() -> None:
    listeners = [g.listener("one"), g.listener("two", 8080)]
    both = g.route("both", g.rule("web"))
    doubled = g.route("doubled", g.rule("web"), parents=[g.parent(section="one"), g.parent(section="two")])
    single = g.route("single", g.rule("web"), parents=[g.parent(section="two")])
    objects = [g.gateway_class(), g.gateway("door", *listeners), both, doubled, single]
    cluster = Cluster(objects, {"web": 8080})
    cluster.settle()
    assert (attached(cluster, "one"), attached(cluster, "two")) == (2, 3)


def test_routes_count_also_for_a_listener_that_is_not_served() -> None:
    listener = g.listener("tls", 443, "HTTPS", secrets=[{"name": "nowhere"}])
    cluster = Cluster([g.gateway_class(), g.gateway("door", listener), g.route("web", g.rule("web"))], {"web": 8080})
    assert not cluster.settle().routing.routes
    assert attached(cluster, "tls") == 1
    assert of_route(cluster, "web")["Accepted"] == "True"
    assert of_listener(cluster, "tls")["Programmed"] == "False Invalid"


def test_several_gateways_are_several_parents() -> None:
    route = g.route("web", g.rule("web"), parents=[g.parent(), g.parent("side"), g.parent("gone")])
    cluster = Cluster([g.gateway_class(), g.gateway(), g.gateway("side", g.listener(port=8080)), route], {"web": 8080})
    reading = cluster.settle()
    assert where(reading) == [("web", "*", "/", (80, 8080))]
    parents = cluster.object("HTTPRoute", "web")["status"]["parents"]
    assert [each["parentRef"]["name"] for each in parents] == ["door", "side"]
