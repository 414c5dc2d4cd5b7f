"""The core HTTP rows of Gateway API conformance (and the extended ones we claim), asked of a real door.

Each test is named for the row of the conformance suite whose claim it makes, written anew from the specification.
A test has a namespace of its own and takes its Gateways down at the end: all Gateways share one address.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from netplane.edge.gateway import crds
from netplane.kube.types import Object
from tests.support import gateway_objects as g
from tests.support import gateway_reader, ingress
from tests.support import ingress_objects as o

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ingress.Door]:
    """A door that follows the Gateway API, and a class of ours."""
    with ingress.door(tmp_path_factory.mktemp("door"), starts=False) as made:
        for definition in crds.definitions():
            made.api.apply(definition)
        made.until(lambda: made.api.apply(g.gateway_class()))
        made.start()
        yield made


class Place:
    """A namespace of a test, and what the test asks there."""

    def __init__(self, door: ingress.Door, namespace: str) -> None:
        self.door = door
        self.namespace = namespace
        self._made: list[Object] = []

    def apply(self, obj: Object, *, namespace: str = "") -> Object:
        """Put an object into the namespace."""
        obj["metadata"].setdefault("namespace", self.namespace)
        obj["metadata"]["namespace"] = namespace or self.namespace
        self._made.append(obj)
        return self.door.api.apply(obj)

    def services(self, *names: str) -> None:
        """Make Services with a pod each."""
        for name in names:
            self.door.service(name, namespace=self.namespace)

    def of(self, answer: ingress.Answer) -> str:
        """Return the Service that answered, without our namespace; the status when it was none."""
        return self.door.backend(answer).removeprefix(f"{self.namespace}/") or str(answer.status)

    def ask(self, url: str, **asked: Any) -> str:
        """Return which Service answers now."""
        return self.of(self.door.ask(f"http://{url}", **asked))

    def expect(self, url: str, by: str, **asked: Any) -> ingress.Answer:
        """Wait until a Service, or a status, answers."""

        def is_so() -> ingress.Answer:
            answer = self.door.ask(f"http://{url}", **asked)
            assert self.of(answer) == by, f"{url}: {self.of(answer)} and not {by}"
            return answer

        return self.door.until(is_so)

    def table(self, *rows: tuple[str, str] | tuple[str, str, Mapping[str, Any]]) -> None:
        """Wait for the first row, and hold the door to all: URL, who answers, how it is asked."""
        self.expect(rows[0][0], rows[0][1], **(rows[0][2] if len(rows[0]) == 3 else {}))
        found = [(row[0], self.ask(row[0], **(row[2] if len(row) == 3 else {}))) for row in rows]
        assert found == [row[:2] for row in rows]

    def route_status(self, name: str, *, namespace: str = "") -> dict[str, str]:
        """Return the conditions of a route's only parent, in short."""
        status = self.door.api.get("HTTPRoute", name, namespace=namespace or self.namespace).get("status", {})
        parents = status.get("parents") or []
        assert len(parents) == 1, parents
        return gateway_reader.conditions(parents[0]["conditions"])

    def listener(self, name: str, gateway: str = "door") -> Object:
        """Return a listener's status."""
        status = self.door.api.get("Gateway", gateway, namespace=self.namespace)["status"]
        return next(each for each in status["listeners"] if each["name"] == name)

    def listener_status(self, name: str, gateway: str = "door") -> dict[str, str]:
        """Return a listener's conditions, in short."""
        return gateway_reader.conditions(self.listener(name, gateway)["conditions"])

    def gateway_status(self, gateway: str = "door") -> dict[str, str]:
        """Return a Gateway's conditions, in short."""
        status = self.door.api.get("Gateway", gateway, namespace=self.namespace)["status"]
        return gateway_reader.conditions(status["conditions"])

    def close(self) -> None:
        """Take down what was made, the newest first."""
        for obj in reversed(self._made):
            self.door.api.delete(obj["kind"], obj["metadata"]["name"], namespace=obj["metadata"]["namespace"])


@pytest.fixture
def place(door: ingress.Door) -> Iterator[Place]:
    """A namespace with a Gateway `door` that listens for HTTP on port 80, and three Services."""
    number = next(_NUMBERS)
    door.api.apply(o.namespace(f"test-{number}", purpose="test"))
    made = Place(door, f"test-{number}")
    made.services("v1", "v2", "v3")
    try:
        yield made
    finally:
        made.close()


def routed(place: Place, *rules: Object, listeners: tuple[Object, ...] = (), **route: Any) -> None:
    """Make the Gateway and a route of these rules, and wait until the route is accepted."""
    place.apply(g.gateway("door", *listeners))
    place.apply(g.route("route", *rules, **route))
    place.door.until(lambda: place.route_status("route")["Accepted"] == "True")


# --- statuses of classes and Gateways ---


def test_gatewayclass_observed_generation_bump(door: ingress.Door) -> None:
    door.api.apply(g.gateway_class("bump"))

    def observed() -> list[tuple[str, int]]:
        (condition,) = door.api.get("GatewayClass", "bump")["status"]["conditions"]
        return [(condition["status"], condition.get("observedGeneration", 0))]

    door.until(lambda: observed() == [("True", 1)])
    door.api.patch(g.gateway_class("bump"), {"spec": {"description": "new"}})
    door.until(lambda: observed() == [("True", 2)])
    door.api.delete("GatewayClass", "bump")


def test_gateway_observed_generation_bump(place: Place) -> None:
    place.apply(g.gateway("door"))
    place.door.until(lambda: place.gateway_status() == {"Accepted": "True", "Programmed": "True"})
    before = place.door.api.get("Gateway", "door", namespace=place.namespace)
    before["spec"]["listeners"].append(g.listener("more", 8081))
    place.door.api.replace(before)

    def generations() -> set[int]:
        status = place.door.api.get("Gateway", "door", namespace=place.namespace)["status"]
        return {each["observedGeneration"] for part in (status, *status["listeners"]) for each in part["conditions"]}

    place.door.until(lambda: generations() == {2} and len(place.listener("more")["conditions"]) == 4)


def test_gateway_modify_listeners(place: Place) -> None:
    routed(place, g.rule("v1"), listeners=(g.listener("one"), g.listener("two", 8081)))
    place.expect("any:8081/", "v1")
    assert place.ask("any/") == "v1"
    gateway = place.door.api.get("Gateway", "door", namespace=place.namespace)
    gateway["spec"]["listeners"] = [g.listener("one"), g.listener("three", 8082)]
    place.door.api.replace(gateway)
    place.expect("any:8082/", "v1")
    place.door.until(lambda: _is_closed(place.door, 8081))

    def names() -> list[str]:
        status = place.door.api.get("Gateway", "door", namespace=place.namespace)["status"]
        return [each["name"] for each in status["listeners"]]

    place.door.until(lambda: names() == ["one", "three"])


def _is_closed(door: ingress.Door, port: int) -> bool:
    try:
        return door.ask(f"http://any:{port}/").status == 404
    except ConnectionError:
        return True


def test_gateway_with_attached_routes(place: Place) -> None:
    listeners = (g.listener("one"), g.listener("tls", 443, "HTTPS", secrets=[{"name": "gone"}]))
    place.apply(g.gateway("door", *listeners))
    place.apply(g.route("a", g.rule("v1"), parents=[g.parent(section="one")]))
    place.apply(g.route("b", g.rule("v1")))
    place.apply(g.route("c", g.rule("v1"), parents=[g.parent(section="tls")]))
    place.apply(g.route("d", g.rule("v1"), parents=[g.parent(section="nowhere")]))
    place.door.until(lambda: [place.listener(each)["attachedRoutes"] for each in ("one", "tls")] == [2, 2])


@pytest.mark.parametrize("what", ["nonexistent", "wrong group", "wrong kind", "malformed"])
def test_gateway_invalid_tls_configuration(place: Place, what: str) -> None:
    reference = {
        "nonexistent": {"name": "nowhere"},
        "wrong group": {"name": "secret", "group": "wrong.group"},
        "wrong kind": {"name": "secret", "kind": "WrongKind"},
        "malformed": {"name": "secret"},
    }[what]
    broken = {"tls.crt": "nonsense", "tls.key": "nonsense"}
    place.apply(o.secret("secret", broken, kind="kubernetes.io/tls"))
    place.apply(g.gateway("door", g.listener("https", 443, "HTTPS", secrets=[reference]), g.listener("ok")))
    place.door.until(lambda: place.listener_status("https")["ResolvedRefs"] == "False InvalidCertificateRef")
    assert place.listener_status("https")["Programmed"] == "False Invalid"
    assert place.listener("https")["supportedKinds"] == [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]
    assert place.listener_status("ok")["Programmed"] == "True"


def test_gateway_invalid_route_kind(place: Place) -> None:
    bad, good = {"group": "gateway.networking.k8s.io", "kind": "InvalidRoute"}, {"kind": "HTTPRoute"}
    place.apply(g.gateway("door", g.listener("bad", kinds=[bad]), g.listener("mixed", 8081, kinds=[bad, good])))
    place.door.until(lambda: place.listener_status("bad")["ResolvedRefs"] == "False InvalidRouteKinds")
    assert place.listener_status("mixed")["ResolvedRefs"] == "False InvalidRouteKinds"
    assert place.listener("bad")["supportedKinds"] == []
    assert [each["kind"] for each in place.listener("mixed")["supportedKinds"]] == ["HTTPRoute"]


def test_gateway_secret_reference_grants(place: Place) -> None:
    other = f"{place.namespace}-certs"
    place.door.api.apply(o.namespace(other))
    place.apply(o.tls_secret("certificate", "secret.example"), namespace=other)
    reference = {"name": "certificate", "namespace": other}
    listener = g.listener("https", 443, "HTTPS", hostname="secret.example", secrets=[reference])
    routed(place, g.rule("v1"), listeners=(listener,))
    place.door.until(lambda: place.listener_status("https")["ResolvedRefs"] == "False RefNotPermitted")
    place.apply(
        g.grant("g", namespace=other, source=("Gateway", place.namespace), target=("Secret", "certificate")),
        namespace=other,
    )
    place.door.until(lambda: place.listener_status("https")["ResolvedRefs"] == "True")
    trust = o.key_pair("secret.example")[0]
    place.door.until(lambda: place.of(place.door.ask("https://secret.example/", trust=trust)) == "v1")
    place.door.api.delete("ReferenceGrant", "g", namespace=other)
    place.door.until(lambda: place.listener_status("https")["ResolvedRefs"] == "False RefNotPermitted")


def test_gateway_http_listener_isolation(place: Place) -> None:
    hosts = {"any": "", "com": "*.example.com", "foo": "*.foo.example.com", "abc": "abc.foo.example.com"}
    place.apply(g.gateway("door", *(g.listener(name, hostname=host) for name, host in hosts.items())))
    for name in hosts:
        place.apply(g.route(name, g.rule("v1", matches=[g.match(f"/{name}")]), parents=[g.parent(section=name)]))
    asked = {"any": "bar.com", "com": "bar.example.com", "foo": "bar.foo.example.com", "abc": "abc.foo.example.com"}
    rows = [(f"{host}/{path}", "v1" if path == name else "404") for name, host in asked.items() for path in hosts]
    for name, host in asked.items():
        place.expect(f"{host}/{name}", "v1")
    place.table(*rows)


# --- attachment ---


def test_httproute_simple_same_namespace(place: Place) -> None:
    routed(place, g.rule("v1"))
    place.expect("any/", "v1")
    assert place.route_status("route") == {"Accepted": "True", "ResolvedRefs": "True"}


def test_httproute_cross_namespace(place: Place) -> None:
    other = f"{place.namespace}-routes"
    place.door.api.apply(o.namespace(other, purpose="test"))
    place.door.service("web", namespace=other)
    place.apply(g.gateway("door", g.listener(selector={"purpose": "test"})))
    place.apply(g.route("route", g.rule("web"), parents=[g.parent(namespace=place.namespace)]), namespace=other)
    place.expect("any/", f"{other}/web")
    place.door.api.apply(o.namespace(other, purpose="none"))
    place.expect("any/", "404")
    refused = "False NotAllowedByListeners"
    place.door.until(lambda: place.route_status("route", namespace=other)["Accepted"] == refused)


def test_httproute_invalid_cross_namespace_parent_ref(place: Place) -> None:
    other = f"{place.namespace}-routes"
    place.door.api.apply(o.namespace(other))
    place.door.service("web", namespace=other)
    place.apply(g.gateway("door"))
    place.apply(g.route("route", g.rule("web"), parents=[g.parent(namespace=place.namespace)]), namespace=other)

    def verdict() -> bool:
        return place.route_status("route", namespace=other)["Accepted"] == "False NotAllowedByListeners"

    place.door.until(verdict)
    assert place.ask("any/") == "404"
    assert place.listener("http")["attachedRoutes"] == 0


def test_httproute_invalid_parent_ref_not_matching_section_name(place: Place) -> None:
    place.apply(g.gateway("door"))
    place.apply(g.route("route", g.rule("v1"), parents=[g.parent(section="nowhere")]))
    place.door.until(lambda: place.route_status("route")["Accepted"] == "False NoMatchingParent")


def test_httproute_observed_generation_bump(place: Place) -> None:
    routed(place, g.rule("v1"))
    route = place.door.api.get("HTTPRoute", "route", namespace=place.namespace)
    route["spec"]["rules"][0]["backendRefs"][0]["name"] = "v2"
    place.door.api.replace(route)
    place.expect("any/", "v2")

    def generations() -> set[int]:
        status = place.door.api.get("HTTPRoute", "route", namespace=place.namespace)["status"]
        return {each["observedGeneration"] for each in status["parents"][0]["conditions"]}

    place.door.until(lambda: generations() == {2})


def test_httproute_reference_grant(place: Place) -> None:
    other = f"{place.namespace}-backends"
    place.door.api.apply(o.namespace(other))
    place.door.service("web", namespace=other)
    routed(place, g.rule(g.backend("web", namespace=other)))
    place.expect("any/", "500")
    assert place.route_status("route")["ResolvedRefs"] == "False RefNotPermitted"
    grant = g.grant("g", namespace=other, source=("HTTPRoute", place.namespace), target=("Service", "web"))
    place.apply(grant, namespace=other)
    place.expect("any/", f"{other}/web")
    place.door.until(lambda: place.route_status("route")["ResolvedRefs"] == "True")
    place.door.api.delete("ReferenceGrant", "g", namespace=other)
    place.expect("any/", "500")


def test_httproute_partially_invalid_via_invalid_reference_grant(place: Place) -> None:
    other = f"{place.namespace}-backends"
    place.door.api.apply(o.namespace(other))
    place.door.service("web", namespace=other)
    routed(
        place,
        g.rule("v1", matches=[g.match("/v1")]),
        g.rule(g.backend("web", namespace=other), matches=[g.match("/v2")]),
    )
    place.table(("any/v1", "v1"), ("any/v2", "500"))
    assert place.route_status("route") == {"Accepted": "True", "ResolvedRefs": "False RefNotPermitted"}


def test_httproute_invalid_nonexistent_backend_ref(place: Place) -> None:
    routed(place, g.rule("nowhere"))
    place.expect("any/", "500")
    place.door.until(lambda: place.route_status("route")["ResolvedRefs"] == "False BackendNotFound")


def test_httproute_invalid_backend_ref_unknown_kind(place: Place) -> None:
    routed(place, g.rule(g.backend("v1", kind="NonExistent", group="gateway.networking.k8s.io")))
    place.expect("any/", "500")
    assert place.route_status("route")["ResolvedRefs"] == "False InvalidKind"


def test_httproute_service_without_endpoints_answers_503(place: Place) -> None:
    place.door.service("empty", namespace=place.namespace, pods=0)
    routed(place, g.rule("empty"))
    place.expect("any/", "503")


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


def test_httproute_matching_across_routes(place: Place) -> None:
    place.apply(g.gateway("door"))
    headers = {"version": "two"}
    place.apply(g.route("one", g.rule("v1"), hostnames=["example.com", "example.net"]))
    place.apply(
        g.route("two", g.rule("v2", matches=[g.match("/v2"), g.match("/", headers=headers)]), hostnames=["example.com"])
    )
    place.expect("example.com/v2", "v2")
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
    assert place.ask("any/") == "v1"
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
    place.expect("baz.bar.com/", "v3")
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
    place.expect("one.anotherwildcard.io/s3", "v3")
    place.door.until(lambda: place.route_status("none")["Accepted"] == "False NoMatchingListenerHostname")
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


# --- filters ---


def test_httproute_request_header_modifier(place: Place) -> None:
    routed(
        place,
        g.rule(
            "v1",
            matches=[g.match("/set")],
            filters=[g.set_headers("request", set={"X-Header-Set": "set-overwrites-values"})],
        ),
        g.rule(
            "v1",
            matches=[g.match("/add")],
            filters=[g.set_headers("request", add={"X-Header-Add": "add-appends-values"})],
        ),
        g.rule("v1", matches=[g.match("/remove")], filters=[g.set_headers("request", remove=["X-Header-Remove"])]),
        g.rule(
            "v1",
            matches=[g.match("/multiple")],
            filters=[
                g.set_headers(
                    "request",
                    set={"X-Header-Set-1": "header-set-1", "X-Header-Set-2": "header-set-2"},
                    add={"X-Header-Add-1": "header-add-1", "X-Header-Add-2": "header-add-2"},
                    remove=["X-Header-Remove-1", "X-Header-Remove-2"],
                )
            ],
        ),
    )
    place.expect("any/set", "v1")

    def sent(path: str, **headers: str) -> Mapping[str, list[str]]:
        answer = place.door.ask(f"http://any/{path}", headers={k.replace("_", "-"): v for k, v in headers.items()})
        found: Mapping[str, list[str]] = answer.said["headers"]
        return found

    assert sent("set", Some_Other="val")["some-other"] == ["val"]
    assert sent("set")["x-header-set"] == ["set-overwrites-values"]
    assert sent("set", X_Header_Set="some-other-value")["x-header-set"] == ["set-overwrites-values"]
    assert sent("add")["x-header-add"] == ["add-appends-values"]
    added = sent("add", X_Header_Add="some-other-value")["x-header-add"]
    assert [part.strip() for each in added for part in each.split(",")] == ["some-other-value", "add-appends-values"]
    assert "x-header-remove" not in sent("remove", X_Header_Remove="val")
    many = sent(
        "multiple",
        X_Header_Set_2="set-val-2",
        X_Header_Add_2="add-val-2",
        X_Header_Remove_2="remove-val-2",
        Another="a",
    )
    assert many["x-header-set-1"] == ["header-set-1"]
    assert many["x-header-set-2"] == ["header-set-2"]
    assert many["x-header-add-1"] == ["header-add-1"]
    assert "header-add-2" in ",".join(many["x-header-add-2"])
    assert "x-header-remove-2" not in many
    assert many["another"] == ["a"]


def test_httproute_response_header_modifier(place: Place) -> None:
    routed(
        place,
        g.rule("v1", matches=[g.match("/set")], filters=[g.set_headers("response", set={"X-Set": "new"})]),
        g.rule("v1", matches=[g.match("/add")], filters=[g.set_headers("response", add={"X-Add": "more"})]),
        g.rule("v1", matches=[g.match("/remove")], filters=[g.set_headers("response", remove=["X-Remove"])]),
    )
    place.expect("any/set", "v1")

    def back(path: str, *headers: str) -> dict[str, list[str]]:
        answer = place.door.ask(f"http://any/{path}", headers=[("x-echo-header", each) for each in headers])
        found: dict[str, list[str]] = {}
        for name, value in answer.headers_all:
            found.setdefault(name.lower(), []).append(value)
        return found

    assert back("set", "X-Set=old", "X-Other=1")["x-set"] == ["new"]
    assert back("set", "X-Other=1")["x-other"] == ["1"]
    assert back("add", "X-Add=first")["x-add"] == ["first", "more"]
    assert "x-remove" not in back("remove", "X-Remove=1")


def test_httproute_redirect_host_and_status(place: Place) -> None:
    routed(
        place,
        g.rule(matches=[g.match("/hostname-redirect")], filters=[g.redirect(hostname="example.org")]),
        g.rule(matches=[g.match("/status-code-301")], filters=[g.redirect(hostname="example.org", statusCode=301)]),
    )
    place.expect("any/hostname-redirect", "302")
    assert located(place, "any/hostname-redirect") == (302, "http://example.org/hostname-redirect")
    assert located(place, "any/status-code-301") == (301, "http://example.org/status-code-301")


def located(place: Place, url: str, scheme: str = "http") -> tuple[int, str]:
    """Return status and Location."""
    answer = place.door.ask(f"{scheme}://{url}")
    return answer.status, answer.headers.get("location", "")


def test_httproute_redirect_scheme_port_and_path(place: Place) -> None:
    full = {"type": "ReplaceFullPath", "replaceFullPath": "/full"}
    prefix = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}
    empty = {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}
    rules = {
        "/scheme": g.redirect(scheme="https"),
        "/port": g.redirect(port=8083),
        "/port80": g.redirect(port=80),
        "/both": g.redirect(scheme="https", port=8443),
        "/https443": g.redirect(scheme="https", port=443),
        "/full": g.redirect(path=full, statusCode=301),
        "/prefix": g.redirect(path=prefix),
        "/empty": g.redirect(path=empty),
    }
    listeners = (g.listener("http"), g.listener("odd", 8081))
    routed(
        place, *(g.rule(matches=[g.match(path)], filters=[each]) for path, each in rules.items()), listeners=listeners
    )
    place.expect("any/scheme", "302")
    place.expect("any:8081/scheme", "302")
    found = {
        "any/scheme": (302, "https://any/scheme"),
        "any/port": (302, "http://any:8083/port"),
        "any/port80": (302, "http://any/port80"),
        "any/both": (302, "https://any:8443/both"),
        "any/https443": (302, "https://any/https443"),
        "any/full/x?q=1": (301, "http://any/full?q=1"),
        "any/prefix/x": (302, "http://any/new/x"),
        "any/prefix": (302, "http://any/new"),
        "any/empty/x": (302, "http://any/x"),
        "any/empty": (302, "http://any/"),
        "any:8081/prefix": (302, "http://any:8081/new"),
        "any:8081/scheme": (302, "https://any/scheme"),
    }
    assert {
        url: (status, place_of.replace("?q=1", "?q=1"))
        for url, (status, place_of) in ((u, located(place, u)) for u in found)
    } == found


def test_httproute_rewrite_host(place: Place) -> None:
    routed(
        place,
        g.rule("v1", matches=[g.match("/one")], filters=[g.rewrite(hostname="one.example.org")]),
        g.rule("v2"),
        hostnames=["rewrite.example"],
    )
    assert place.expect("rewrite.example/one", "v1").said["host"] == "one.example.org"
    assert place.expect("rewrite.example/two", "v2").said["host"] == "rewrite.example"


def test_httproute_rewrite_path(place: Place) -> None:
    routed(
        place,
        g.rule("v1", matches=[g.match("/prefix/one")], filters=[g.rewrite(prefix="/one")]),
        g.rule("v1", matches=[g.match("/slash")], filters=[g.rewrite(prefix="/xyz/")]),
        g.rule("v1", matches=[g.match("/strip-prefix")], filters=[g.rewrite(prefix="/")]),
        g.rule("v1", matches=[g.match("/full/one")], filters=[g.rewrite(full="/one")]),
        g.rule("v1", matches=[g.match("/")], filters=[g.rewrite(prefix="/below")]),
    )
    place.expect("any/prefix/one", "v1")
    asked = {
        "/prefix/one/two": "/one/two",
        "/prefix/one": "/one",
        "/prefix/one/": "/one/",
        "/prefix/one?q=/prefix/one": "/one?q=/prefix/one",
        "/slash/bar": "/xyz/bar",
        "/strip-prefix": "/",
        "/strip-prefix/": "/",
        "/strip-prefix/three": "/three",
        "/full/one/two": "/one",
        "/full/one?q=1": "/one?q=1",
        "/else": "/below/else",
    }
    found = {path: place.door.ask(f"http://any{path}").said["path"] for path in asked}
    assert found == asked


def test_httproute_weight(place: Place) -> None:
    backends = [g.backend("v1", weight=70), g.backend("v2", weight=30), g.backend("v3", weight=0)]
    routed(place, g.rule(*backends))
    place.expect("any/", "v1")
    with ThreadPoolExecutor(1) as pool:
        found = Counter(pool.map(lambda _: place.ask("any/"), range(400)))
    assert sum(found.values()) == 400
    assert set(found) == {"v1", "v2"}
    # Far outside of chance (5 sigma), were the choice random.
    assert abs(found["v1"] / 400 - 0.7) < 0.12


def test_an_invalid_backend_answers_500_for_its_share_only(place: Place) -> None:
    routed(place, g.rule(g.backend("v1", weight=1), g.backend("nowhere", weight=1)))
    place.expect("any/", "v1")
    found = Counter(place.ask("any/") for _ in range(200))
    assert set(found) == {"v1", "500"}
    assert 50 < found["500"] < 150


def test_httproute_request_mirror(place: Place) -> None:
    routed(place, g.rule("v1", matches=[g.match("/mirror")], filters=[g.mirror("v2"), g.mirror("v3")]))
    place.expect("any/mirror", "v1")
    before = _counted(place, "v2"), _counted(place, "v3")
    answer = place.door.ask("http://any/mirror/me?x=1", method="POST", body=b"hello")
    assert place.of(answer) == "v1"
    place.door.until(lambda: (_counted(place, "v2") > before[0]) and (_counted(place, "v3") > before[1]))
    last = _last(place, "v2")
    assert (last["method"], last["path"], last["body"]) == ("POST", "/mirror/me?x=1", "hello")


def _pod(place: Place, service: str) -> str:
    return next(pod for pod, of in place.door.service_of.items() if of == f"{place.namespace}/{service}")


def _counted(place: Place, service: str) -> int:
    """Ask a pod itself how many requests it had."""
    answer = place.door.ask("http://pod/-/seen", address=_pod(place, service), port=8080)
    return int(answer.headers["x-seen"])


def _last(place: Place, service: str) -> dict[str, Any]:
    return place.door.ask("http://pod/-/seen", address=_pod(place, service), port=8080).said


def test_httproute_timeout_request(place: Place) -> None:
    routed(place, g.rule("v1", timeouts={"request": "500ms"}))
    place.expect("any/", "v1")
    assert place.ask("any/", headers={"x-echo-delay": "0.01"}) == "v1"
    assert place.ask("any/", headers={"x-echo-delay": "2"}) == "504"


# --- beside each other ---


def test_an_ingress_and_a_gateway_share_the_door(place: Place) -> None:
    place.door.api.apply(o.ingress_class())
    routed(place, g.rule("v1", matches=[g.match("/gateway")]), hostnames=["shared.example"])
    ingress_object = o.ingress("shared", o.rule("shared.example", o.path("/", "v2")), namespace=place.namespace)
    place.apply(ingress_object)
    place.expect("shared.example/", "v2")
    place.table(("shared.example/gateway", "v1"), ("shared.example/x", "v2"), ("other.example/gateway", "404"))


def test_a_gateway_that_is_wrong_does_not_disturb_the_others(place: Place) -> None:
    routed(place, g.rule("v1"))
    place.apply(
        g.gateway("bad", g.listener("tcp", 9999, "TCP"), g.listener("https", 80, "HTTPS", secrets=[{"name": "x"}]))
    )
    place.door.until(lambda: place.gateway_status("bad")["Accepted"] == "False ListenersNotValid")
    assert place.ask("any/") == "v1"
