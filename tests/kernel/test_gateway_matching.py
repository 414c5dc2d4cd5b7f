"""Gateway API conformance, matches and hostnames, asked of a real door.

Each test is named for the row of the conformance suite whose claim it makes, written anew from the specification.
A test has a namespace of its own and takes its Gateways down at the end: all Gateways share one address.
"""

from __future__ import annotations

import time

from tests.support import gateway_objects as g
from tests.support import ingress_objects as o
from tests.support.gateway_door import Place, door, place, routed

__all__ = ["door", "place"]


# --- matching ---


def test_httproute_matching(place: Place) -> None:
    version = {"version": "two"}
    routed(
        place,
        g.rule("v1", matches=[g.match("/"), g.match("/", headers={"version": "one"})]),
        g.rule("v2", matches=[g.match("/v2"), g.match("/", headers=version)]),
    )
    place.table(
        ("any/", "v1"),
        ("any/example", "v1"),
        ("any/", "v1", {"headers": {"Version": "one"}}),
        ("any/v2", "v2"),
        ("any/v2example", "v1"),
        ("any/foo/v2/example", "v1"),
        ("any/", "v2", {"headers": version}),
        ("any/v2/", "v2"),
        ("any/v2/example", "v2"),
    )


def test_a_rule_that_is_wrong_answers_500_and_lets_nothing_through_to_a_wider_one(place: Place) -> None:
    odd = [{"type": "RegularExpression", "name": "X-Who", "value": "a.*"}]
    wrong = [g.match("/admin"), {**g.match("/admin"), "headers": odd}, {**g.match("/part"), "headers": odd}]
    place.apply(g.gateway("door"))
    place.apply(g.route("route", g.rule("v1", matches=wrong), g.rule("v2")))
    place.table(
        ("any/", "v2"),
        ("any/admin", "500"),
        ("any/admin/x", "500", {"headers": {"X-Who": "b"}}),
        ("any/part", "v2"),
        ("any/part", "500", {"headers": {"X-Who": "ab"}}),
        ("any/part", "500", {"headers": {"X-Who": ""}}),
    )


def test_httproute_service_types(place: Place) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    place.door.service("headless", namespace=place.namespace, ports=ports, clusterIP="None")
    place.door.service("manual", namespace=place.namespace, ports=ports, selector=None)
    place.door.service("manual-headless", namespace=place.namespace, ports=ports, selector=None, clusterIP="None")
    names = ("headless", "manual", "manual-headless")
    routed(place, *(g.rule(g.backend(name, 80), matches=[g.match(f"/{name}")]) for name in names))
    place.table(*((f"any/{name}", name) for name in names))


def test_httproute_matching_across_routes(place: Place) -> None:
    place.apply(g.gateway("door"))
    headers = {"version": "two"}
    place.apply(g.route("one", g.rule("v1"), hostnames=["example.com", "example.net"]))
    place.apply(
        g.route("two", g.rule("v2", matches=[g.match("/v2"), g.match("/", headers=headers)]), hostnames=["example.com"])
    )
    place.table(
        ("example.com/", "v1"),
        ("example.net/example", "v1"),
        ("example.net/v2", "v1"),
        ("example.net/", "v1", {"headers": headers}),
        ("example.com/v2", "v2"),
        ("example.com/v2/example", "v2"),
        ("example.com/v2example", "v1"),
        ("example.com/", "v2", {"headers": headers}),
        ("elsewhere.com/", "404"),
    )


def test_httproute_exact_path_matching(place: Place) -> None:
    routed(place, g.rule("v1", matches=[g.match("/one", "Exact")]), g.rule("v2", matches=[g.match("/two", "Exact")]))
    place.table(
        ("any/one", "v1"),
        ("any/two", "v2"),
        ("any/", "404"),
        ("any/one/", "404"),
        ("any/one/example", "404"),
        ("any/Two", "404"),
        ("any/one?x=1", "v1"),
    )


def test_httproute_path_match_order(place: Place) -> None:
    routed(
        place,
        g.rule("v3", matches=[g.match("/match/exact/one"), g.match("/match/")]),
        g.rule("v2", matches=[g.match("/match/prefix/")]),
        g.rule("v1", matches=[g.match("/match/prefix/one")]),
        g.rule("v2", matches=[g.match("/match/exact/one", "Exact")]),
        g.rule("v1", matches=[g.match("/match/exact", "Exact")]),
    )
    place.table(
        ("any/match/exact/one", "v2"),
        ("any/match/exact/one/any", "v3"),
        ("any/match/exact", "v1"),
        ("any/match", "v3"),
        ("any/match/prefix", "v2"),
        ("any/match/prefix/one/any", "v1"),
        ("any/match/prefix/any", "v2"),
        ("any/match/any", "v3"),
    )


def test_httproute_header_matching(place: Place) -> None:
    routed(
        place,
        g.rule("v1", matches=[g.match(headers={"version": "one"})]),
        g.rule("v2", matches=[g.match(headers={"version": "two"})]),
        g.rule("v1", matches=[g.match(headers={"version": "two", "color": "orange"})]),
        g.rule("v3", matches=[g.match(headers={"color": each}) for each in ("blue", "yellow")]),
    )
    place.table(
        ("any/", "v1", {"headers": {"version": "one"}}),
        ("any/", "v2", {"headers": {"Version": "two"}}),
        ("any/", "v1", {"headers": {"version": "two", "color": "orange"}}),
        ("any/", "v3", {"headers": {"color": "blue"}}),
        ("any/", "v3", {"headers": {"Color": "yellow"}}),
        ("any/", "404", {"headers": {"color": "purple"}}),
        ("any/", "404", {"headers": {"version": "ONE"}}),
        ("any/", "404"),
    )


def test_httproute_method_matching(place: Place) -> None:
    routed(
        place,
        g.rule("v1", matches=[g.match(method="POST")]),
        g.rule("v2", matches=[g.match(method="GET")]),
        g.rule("v3", matches=[g.match("/path", method="GET"), g.match(method="PUT", headers={"version": "four"})]),
        g.rule("v3", matches=[g.match(method="PATCH")]),
    )
    place.table(
        ("any/", "v1", {"method": "POST"}),
        ("any/", "v2"),
        ("any/path", "v3"),
        ("any/", "404", {"method": "HEAD"}),
        ("any/", "404", {"method": "DELETE"}),
        ("any/", "v3", {"method": "PUT", "headers": {"version": "four"}}),
        ("any/", "404", {"method": "PUT"}),
        ("any/", "v3", {"method": "PATCH"}),
    )


def test_httproute_query_param_matching(place: Place) -> None:
    routed(
        place,
        g.rule("v1", matches=[g.match(queries={"animal": "whale"})]),
        g.rule("v2", matches=[g.match(queries={"animal": "dolphin"})]),
        g.rule(
            "v3",
            matches=[g.match(queries={"animal": "dolphin", "color": "blue"}), g.match(queries={"ANIMAL": "Whale"})],
        ),
        g.rule("v3", matches=[g.match("/path", queries={"animal": "whale"})]),
    )
    place.table(
        ("any/?animal=whale", "v1"),
        ("any/?animal=dolphin", "v2"),
        ("any/?animal=whale&otherparam=irrelevant", "v1"),
        ("any/?animal=dolphin&color=blue", "v3"),
        ("any/?color=blue&animal=dolphin", "v3"),
        ("any/?ANIMAL=Whale", "v3"),
        ("any/path?animal=whale", "v3"),
        ("any/?animal=shark", "404"),
        ("any/?animal=whalesong", "404"),
        ("any/", "404"),
    )


def test_httproute_match_precedence_is_path_then_method_then_headers_then_queries(place: Place) -> None:
    routed(
        place,
        g.rule("v1", matches=[g.match("/a", headers={"one": "1", "two": "2"}, queries={"q": "1"})]),
        g.rule("v2", matches=[g.match("/a", method="GET")]),
        g.rule("v3", matches=[g.match("/a/b")]),
    )
    everything = {"headers": {"one": "1", "two": "2"}}
    place.table(
        ("any/a/b?q=1", "v3", everything),
        ("any/a/c?q=1", "v2", everything),
        ("any/a/c?q=1", "v1", {**everything, "method": "POST"}),
    )


def test_the_older_route_wins_what_two_claim(place: Place) -> None:
    place.apply(g.gateway("door"))
    place.apply(g.route("b-older", g.rule("v1")))
    place.expect("any/", "v1")
    # Creation times have whole seconds.
    time.sleep(1.05)
    place.apply(g.route("a-younger", g.rule("v2", matches=[g.match("/"), g.match("/younger")])))
    place.expect("any/younger", "v2")
    place.expect("any/", "v1")
    place.door.api.delete("HTTPRoute", "b-older", namespace=place.namespace)
    place.expect("any/", "v2")


# --- hostnames ---


def test_httproute_listener_hostname_matching(place: Place) -> None:
    listeners = [
        g.listener("one", hostname="bar.com"),
        g.listener("two", hostname="foo.bar.com"),
        g.listener("three", hostname="*.bar.com"),
        g.listener("four", hostname="*.foo.com"),
    ]
    place.apply(g.gateway("door", *listeners))
    place.apply(g.route("one", g.rule("v1"), parents=[g.parent(section="one")]))
    place.apply(g.route("two", g.rule("v2"), parents=[g.parent(section="two")]))
    place.apply(g.route("three", g.rule("v3"), parents=[g.parent(section="three"), g.parent(section="four")]))
    place.table(
        ("bar.com/", "v1"),
        ("foo.bar.com/", "v2"),
        ("baz.bar.com/", "v3"),
        ("boo.bar.com/", "v3"),
        ("multiple.prefixes.bar.com/", "v3"),
        ("multiple.prefixes.foo.com/", "v3"),
        ("foo.com/", "404"),
        ("no.matching.host/", "404"),
    )


def test_httproute_hostname_intersection(place: Place) -> None:
    listeners = [
        g.listener("one", hostname="very.specific.com"),
        g.listener("two", hostname="*.wildcard.io"),
        g.listener("three", hostname="*.anotherwildcard.io"),
    ]
    place.apply(g.gateway("door", *listeners))
    place.apply(
        g.route(
            "specific",
            g.rule("v1", matches=[g.match("/s1")]),
            hostnames=["non.matching.com", "*.nonmatchingwildcard.io", "very.specific.com"],
        )
    )
    place.apply(
        g.route(
            "wild",
            g.rule("v2", matches=[g.match("/s2")]),
            hostnames=["non.matching.com", "wildcard.io", "foo.wildcard.io", "foo.bar.wildcard.io"],
        )
    )
    place.apply(g.route("another", g.rule("v3", matches=[g.match("/s3")]), hostnames=["*.anotherwildcard.io"]))
    place.apply(g.route("none", g.rule("v1"), hostnames=["specific.but.wrong.com", "wildcard.io"]))
    place.told(lambda: place.route_status("none")["Accepted"] == "False NoMatchingListenerHostname")
    place.table(
        ("very.specific.com/s1", "v1"),
        ("non.matching.com/s1", "404"),
        ("foo.nonmatchingwildcard.io/s1", "404"),
        ("foo.wildcard.io/s2", "v2"),
        ("foo.bar.wildcard.io/s2", "v2"),
        ("non.matching.com/s2", "404"),
        ("wildcard.io/s2", "404"),
        ("very.specific.com/s2", "404"),
        ("one.anotherwildcard.io/s3", "v3"),
        ("one.two.three.anotherwildcard.io/s3", "v3"),
        ("anotherwildcard.io/s3", "404"),
        ("very.specific.com:1234/s1", "v1", {"port": 80}),
        ("VERY.specific.com/s1", "v1"),
    )


def test_httproute_https_listener(place: Place) -> None:
    for number, host in enumerate(("one.example", "two.example"), 1):
        place.apply(o.tls_secret(f"s{number}", host, serial=number))
    listeners = (
        g.listener("one", 443, "HTTPS", hostname="one.example", secrets=[{"name": "s1"}]),
        g.listener("two", 443, "HTTPS", hostname="two.example", secrets=[{"name": "s2"}]),
    )
    place.apply(g.gateway("door", *listeners))
    place.apply(g.route("one", g.rule("v1"), parents=[g.parent(section="one")]))
    place.apply(g.route("two", g.rule("v2"), parents=[g.parent(section="two")]))

    def served(host: str, serial: int) -> str:
        answer = place.door.ask(f"https://{host}/", trust=o.key_pair(host, serial=serial)[0])
        assert o.serial_of(answer.certificate) == serial
        return place.of(answer)

    place.door.until(lambda: served("one.example", 1) == "v1" and served("two.example", 2) == "v2")
    # A Secret that changes is served anew.
    place.door.api.apply(o.tls_secret("s2", "two.example", serial=7, namespace=place.namespace))
    place.door.until(lambda: served("two.example", 7) == "v2")
