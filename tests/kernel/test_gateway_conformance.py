"""Gateway API conformance, statuses, attachment and listeners, asked of a real door.

Each test is named for the row of the conformance suite whose claim it makes, written anew from the specification.
A test has a namespace of its own and takes its Gateways down at the end: all Gateways share one address.
"""

from __future__ import annotations

import pytest

from tests.support import gateway_objects as g
from tests.support import ingress
from tests.support import ingress_objects as o
from tests.support.gateway_door import Place, door, place, routed

__all__ = ["door", "place"]


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
    place.told(lambda: place.gateway_status() == {"Accepted": "True", "Programmed": "True"})
    before = place.door.api.get("Gateway", "door", namespace=place.namespace)
    listeners = [*before["spec"]["listeners"], g.listener("more", 8081)]
    place.door.api.patch(before, {"spec": {"listeners": listeners}})

    def generations() -> set[int]:
        status = place.door.api.get("Gateway", "door", namespace=place.namespace)["status"]
        return {each["observedGeneration"] for part in (status, *status["listeners"]) for each in part["conditions"]}

    place.door.until(lambda: generations() == {2} and len(place.listener("more")["conditions"]) == 4)


def test_gateway_modify_listeners(place: Place) -> None:
    routed(place, g.rule("v1"), listeners=(g.listener("one"), g.listener("two", 8081)))
    place.table(("any:8081/", "v1"), ("any/", "v1"))
    gateway = place.door.api.get("Gateway", "door", namespace=place.namespace)
    # A patch, as a status may be written between reading and replacing.
    place.door.api.patch(gateway, {"spec": {"listeners": [g.listener("one"), g.listener("three", 8082)]}})
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
    place.told(lambda: place.listener_status("https")["ResolvedRefs"] == "False InvalidCertificateRef")
    place.told(lambda: place.listener_status("https")["Programmed"] == "False Invalid")
    kinds = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]
    place.told(lambda: place.listener("https")["supportedKinds"] == kinds)
    place.told(lambda: place.listener_status("ok")["Programmed"] == "True")


def test_gateway_invalid_route_kind(place: Place) -> None:
    bad, good = {"group": "gateway.networking.k8s.io", "kind": "InvalidRoute"}, {"kind": "HTTPRoute"}
    place.apply(g.gateway("door", g.listener("bad", kinds=[bad]), g.listener("mixed", 8081, kinds=[bad, good])))
    place.told(lambda: place.listener_status("bad")["ResolvedRefs"] == "False InvalidRouteKinds")
    place.told(lambda: place.listener_status("mixed")["ResolvedRefs"] == "False InvalidRouteKinds")
    place.told(lambda: place.listener("bad")["supportedKinds"] == [])
    place.told(lambda: [each["kind"] for each in place.listener("mixed")["supportedKinds"]] == ["HTTPRoute"])


def test_gateway_secret_reference_grants(place: Place) -> None:
    other = f"{place.namespace}-certs"
    place.door.api.apply(o.namespace(other))
    place.apply(o.tls_secret("certificate", "secret.example"), namespace=other)
    reference = {"name": "certificate", "namespace": other}
    listener = g.listener("https", 443, "HTTPS", hostname="secret.example", secrets=[reference])
    routed(place, g.rule("v1"), listeners=(listener,))
    place.told(lambda: place.listener_status("https")["ResolvedRefs"] == "False RefNotPermitted")
    place.apply(
        g.grant("g", namespace=other, source=("Gateway", place.namespace), target=("Secret", "certificate")),
        namespace=other,
    )
    place.told(lambda: place.listener_status("https")["ResolvedRefs"] == "True")
    trust = o.key_pair("secret.example")[0]
    place.told(lambda: place.of(place.door.ask("https://secret.example/", trust=trust)) == "v1")
    place.door.api.delete("ReferenceGrant", "g", namespace=other)
    place.told(lambda: place.listener_status("https")["ResolvedRefs"] == "False RefNotPermitted")


def test_gateway_http_listener_isolation(place: Place) -> None:
    hosts = {"any": "", "com": "*.example.com", "foo": "*.foo.example.com", "abc": "abc.foo.example.com"}
    place.apply(g.gateway("door", *(g.listener(name, hostname=host) for name, host in hosts.items())))
    for name in hosts:
        place.apply(g.route(name, g.rule("v1", matches=[g.match(f"/{name}")]), parents=[g.parent(section=name)]))
    asked = {"any": "bar.com", "com": "bar.example.com", "foo": "bar.foo.example.com", "abc": "abc.foo.example.com"}
    rows = [(f"{host}/{path}", "v1" if path == name else "404") for name, host in asked.items() for path in hosts]
    place.table(*rows)


# --- attachment ---


def test_httproute_simple_same_namespace(place: Place) -> None:
    routed(place, g.rule("v1"))
    place.expect("any/", "v1")


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
    place.told(lambda: place.route_status("route", namespace=other)["Accepted"] == refused)


def test_httproute_invalid_cross_namespace_parent_ref(place: Place) -> None:
    other = f"{place.namespace}-routes"
    place.door.api.apply(o.namespace(other))
    place.door.service("web", namespace=other)
    place.apply(g.gateway("door"))
    place.apply(g.route("route", g.rule("web"), parents=[g.parent(namespace=place.namespace)]), namespace=other)

    def verdict() -> bool:
        return place.route_status("route", namespace=other)["Accepted"] == "False NotAllowedByListeners"

    place.told(verdict)
    place.expect("any/", "404")
    place.told(lambda: place.listener("http")["attachedRoutes"] == 0)


def test_httproute_invalid_parent_ref_not_matching_section_name(place: Place) -> None:
    place.apply(g.gateway("door"))
    place.apply(g.route("route", g.rule("v1"), parents=[g.parent(section="nowhere")]))
    place.told(lambda: place.route_status("route")["Accepted"] == "False NoMatchingParent")


def test_httproute_observed_generation_bump(place: Place) -> None:
    routed(place, g.rule("v1"))
    route = place.door.api.get("HTTPRoute", "route", namespace=place.namespace)
    route["spec"]["rules"][0]["backendRefs"][0]["name"] = "v2"
    # A patch, as a status may be written between reading and replacing.
    place.door.api.patch(route, {"spec": {"rules": route["spec"]["rules"]}})
    place.expect("any/", "v2")

    def generations() -> set[int]:
        status = place.door.api.get("HTTPRoute", "route", namespace=place.namespace)["status"]
        return {each["observedGeneration"] for each in status["parents"][0]["conditions"]}

    place.door.until(lambda: generations() == {2})


def test_httproute_reference_grant(place: Place) -> None:
    other = f"{place.namespace}-backends"
    place.door.api.apply(o.namespace(other))
    place.door.service("web", namespace=other)
    routed(place, g.rule(g.backend("web", namespace=other)), refs="False RefNotPermitted")
    place.expect("any/", "500")
    grant = g.grant("g", namespace=other, source=("HTTPRoute", place.namespace), target=("Service", "web"))
    place.apply(grant, namespace=other)
    place.expect("any/", f"{other}/web")
    place.told(lambda: place.route_status("route")["ResolvedRefs"] == "True")
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
        refs="False RefNotPermitted",
    )
    place.table(("any/v1", "v1"), ("any/v2", "500"))


def test_httproute_invalid_nonexistent_backend_ref(place: Place) -> None:
    routed(place, g.rule("nowhere"), refs="False BackendNotFound")
    place.expect("any/", "500")


def test_httproute_invalid_backend_ref_unknown_kind(place: Place) -> None:
    routed(
        place, g.rule(g.backend("v1", kind="NonExistent", group="gateway.networking.k8s.io")), refs="False InvalidKind"
    )
    place.expect("any/", "500")


def test_httproute_service_without_endpoints_answers_503(place: Place) -> None:
    place.door.service("empty", namespace=place.namespace, pods=0)
    routed(place, g.rule("empty"))
    place.expect("any/", "503")


# --- beside each other ---


def test_an_ingress_and_a_gateway_share_the_door(place: Place) -> None:
    place.door.api.apply(o.ingress_class())
    routed(place, g.rule("v1", matches=[g.match("/gateway")]), hostnames=["shared.example"])
    ingress_object = o.ingress("shared", o.rule("shared.example", o.path("/", "v2")), namespace=place.namespace)
    place.apply(ingress_object)
    place.table(("shared.example/gateway", "v1"), ("shared.example/x", "v2"), ("other.example/gateway", "404"))


def test_a_gateway_that_is_wrong_does_not_disturb_the_others(place: Place) -> None:
    routed(place, g.rule("v1"))
    place.apply(
        g.gateway("bad", g.listener("tcp", 9999, "TCP"), g.listener("https", 80, "HTTPS", secrets=[{"name": "x"}]))
    )
    place.told(lambda: place.gateway_status("bad")["Accepted"] == "False ListenersNotValid")
    place.expect("any/", "v1")
