"""Which listeners are served, and what their conditions say of the others."""

from __future__ import annotations

import pytest

from netplane.edge.gateway.listeners import Pair
from netplane.kube.types import Object
from tests.support import gateway_objects as g
from tests.support.gateway_reader import Cluster, of_gateway, of_listener

PAIR = Pair("PEM", ("a.example",))


def settled(*listeners: Object, secrets: dict[str, Pair | str] | None = None, more: tuple[Object, ...] = ()) -> Cluster:
    """Return a cluster with one Gateway of these listeners, its statuses written."""
    cluster = Cluster([g.gateway_class(), g.gateway("door", *listeners), *more], secrets=secrets or {})
    cluster.settle()
    return cluster


def test_listeners_of_one_port_with_two_protocols_are_both_in_conflict() -> None:
    cluster = settled(
        g.listener("one", 9000), g.listener("two", 9000, "HTTPS", secrets=[{"name": "s"}]), secrets={"s": PAIR}
    )
    assert of_listener(cluster, "one")["Conflicted"] == "True ProtocolConflict"
    assert of_listener(cluster, "two")["Conflicted"] == "True ProtocolConflict"
    assert of_gateway(cluster) == {"Accepted": "False ListenersNotValid", "Programmed": "False Invalid"}


def test_listeners_of_one_port_and_host_are_both_in_conflict_and_others_are_served() -> None:
    cluster = settled(g.listener("one", hostname="a.b"), g.listener("two", hostname="a.b"), g.listener("ok"))
    assert of_listener(cluster, "two")["Conflicted"] == "True HostnameConflict"
    assert of_listener(cluster, "ok") == {
        "Conflicted": "False NoConflicts",
        "Accepted": "True",
        "ResolvedRefs": "True",
        "Programmed": "True",
    }
    assert of_gateway(cluster) == {"Accepted": "True ListenersNotValid", "Programmed": "True"}


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "TLS", "example.com/own"])
def test_other_protocols_are_not_supported(protocol: str) -> None:
    cluster = settled(g.listener(protocol=protocol), g.listener("ok", 81))
    assert of_listener(cluster, "http")["Accepted"] == "False UnsupportedProtocol"
    assert cluster.object("Gateway", "door")["status"]["listeners"][0]["supportedKinds"] == []


def test_core_protocols_are_read_in_any_case() -> None:
    assert of_listener(settled(g.listener(protocol="hTtP")), "http")["Accepted"] == "True"


def test_kinds_that_are_not_supported_are_named_and_the_good_ones_stay() -> None:
    bad, good = {"group": "gateway.networking.k8s.io", "kind": "TCPRoute"}, {"kind": "HTTPRoute"}
    cluster = settled(g.listener("bad", kinds=[bad]), g.listener("mixed", 81, kinds=[bad, good]))
    assert of_listener(cluster, "bad")["ResolvedRefs"] == "False InvalidRouteKinds"
    assert of_listener(cluster, "mixed")["ResolvedRefs"] == "False InvalidRouteKinds"
    kinds = [each["supportedKinds"] for each in cluster.object("Gateway", "door")["status"]["listeners"]]
    assert kinds == [[], [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]]


def test_ports_of_the_door_itself_and_of_another_protocol_are_unavailable() -> None:
    tls = [{"name": "s"}]
    cluster = settled(
        g.listener("own", 10254),
        g.listener("http", 80, "HTTPS", secrets=tls),
        g.listener("ok", 81),
        secrets={"s": PAIR},
    )
    assert of_listener(cluster, "own")["Accepted"] == "False PortUnavailable"
    assert of_listener(cluster, "http")["Accepted"] == "False PortUnavailable"


def test_of_two_gateways_that_want_a_port_for_different_protocols_the_older_has_it() -> None:
    older = g.gateway("older", g.listener("a", 9000), created="2023-01-01T00:00:00Z")
    younger = g.gateway("younger", g.listener("b", 9000, "HTTPS", secrets=[{"name": "s"}]))
    cluster = Cluster([g.gateway_class(), younger, older], secrets={"s": PAIR})
    cluster.settle()
    assert of_listener(cluster, "a", "older")["Accepted"] == "True"
    assert of_listener(cluster, "b", "younger")["Accepted"] == "False PortUnavailable"


@pytest.mark.parametrize(
    ("reference", "secrets", "verdict"),
    [
        ({"name": "s"}, {"s": PAIR}, "True"),
        ({"name": "s"}, {}, "False InvalidCertificateRef"),
        ({"name": "s"}, {"s": "tls.key: no key"}, "False InvalidCertificateRef"),
        ({"name": "s", "kind": "ConfigMap"}, {"s": PAIR}, "False InvalidCertificateRef"),
        ({"name": "s", "group": "wrong.io"}, {"s": PAIR}, "False InvalidCertificateRef"),
        ({"name": "s", "namespace": "other"}, {"other/s": PAIR}, "False RefNotPermitted"),
    ],
)
def test_a_certificate_must_be_there_and_allowed(
    reference: dict[str, str], secrets: dict[str, Pair | str], verdict: str
) -> None:
    cluster = settled(g.listener("tls", 443, "HTTPS", secrets=[reference]), secrets=secrets)
    assert of_listener(cluster, "tls")["ResolvedRefs"] == verdict
    assert of_listener(cluster, "tls")["Programmed"] == ("True" if verdict == "True" else "False Invalid")


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        (("Gateway", "default"), ("Secret", ""), "True"),
        (("Gateway", "default"), ("Secret", "s"), "True"),
        (("Gateway", "default"), ("Secret", "another"), "False RefNotPermitted"),
        (("HTTPRoute", "default"), ("Secret", ""), "False RefNotPermitted"),
        (("Gateway", "elsewhere"), ("Secret", ""), "False RefNotPermitted"),
        (("Gateway", "default"), ("Service", ""), "False RefNotPermitted"),
    ],
)
def test_a_grant_allows_exactly_what_it_names(source: tuple[str, str], target: tuple[str, str], verdict: str) -> None:
    grant = g.grant("g", namespace="other", source=source, target=target)
    cluster = settled(
        g.listener("tls", 443, "HTTPS", secrets=[{"name": "s", "namespace": "other"}]),
        secrets={"other/s": PAIR},
        more=(grant,),
    )
    assert of_listener(cluster, "tls")["ResolvedRefs"] == verdict


def test_a_certificate_is_shown_for_the_listeners_name_and_of_two_the_older_gateways() -> None:
    one = g.gateway("one", g.listener("a", 443, "HTTPS", hostname="a.example", secrets=[{"name": "s"}]))
    two = g.gateway(
        "two",
        g.listener("a", 443, "HTTPS", hostname="a.example", secrets=[{"name": "t"}]),
        g.listener("b", 8443, "HTTPS", secrets=[{"name": "t"}]),
        created="2025-01-01T00:00:00Z",
    )
    cluster = Cluster([g.gateway_class(), one, two], secrets={"s": PAIR, "t": Pair("T", ("b.example", "*.b.example"))})
    shown = {each.name: each.names for each in cluster.settle().routing.certificates}
    assert shown == {"gateway_default_s": ("a.example",), "gateway_default_t": ("*.b.example", "b.example")}


@pytest.mark.parametrize(
    ("addresses", "accepted", "programmed"),
    [
        ([{"type": "IPAddress", "value": "203.0.113.10"}], "True", "True"),
        ([{"type": "IPAddress"}], "True", "True"),
        ([{"type": "IPAddress", "value": "198.51.100.1"}], "True", "False AddressNotUsable"),
        ([{"type": "IPAddress", "value": "nonsense"}], "False UnsupportedAddress", "False Invalid"),
        ([{"type": "example.com/named", "value": "x"}], "False UnsupportedAddress", "False Invalid"),
    ],
)
def test_addresses_asked_for_must_be_the_doors(addresses: list[Object], accepted: str, programmed: str) -> None:
    cluster = Cluster([g.gateway_class(), g.gateway(addresses=addresses)])
    cluster.settle()
    assert of_gateway(cluster) == {"Accepted": accepted, "Programmed": programmed}


def test_parameters_are_refused_for_there_are_none() -> None:
    reference = {"group": "", "kind": "ConfigMap", "name": "x", "namespace": "default"}
    cluster = Cluster([g.gateway_class(parametersRef=reference), g.gateway()])
    cluster.settle()
    assert "status" not in cluster.object("Gateway", "door")
    (condition,) = cluster.object("GatewayClass", "netplane")["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Accepted", "False", "InvalidParameters")
