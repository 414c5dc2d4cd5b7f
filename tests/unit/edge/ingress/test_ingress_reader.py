"""What Ingress objects mean, and what is told of those that are wrong."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from netplane.edge.ingress.plan import ingress, policy, tls
from netplane.edge.ingress.plan.ingress import Reading
from netplane.edge.ingress.plan.view import Door, View
from netplane.kube.types import Object, key_of
from netplane.model.routing import (
    Backend,
    Certificate,
    ClientAuthority,
    Host,
    Path,
    Redirect,
    Route,
    Routing,
    Value,
    merge,
)
from netplane.model.routing import ServicePort as Port
from netplane.model.service import Protocol, Service, ServicePort, ServiceType
from tests.support.ingress_objects import key_pair

CLASS = {"metadata": {"name": "np"}, "spec": {"controller": "netplane.io/ingress"}}
OTHER = {"metadata": {"name": "other"}, "spec": {"controller": "example.com/other"}}


def path(text: str, service: str = "web", *, kind: str = "Prefix", port: int | str = 80) -> Object:
    """A path of a rule."""
    wanted = {"number": port} if isinstance(port, int) else {"name": port}
    return {"path": text, "pathType": kind, "backend": {"service": {"name": service, "port": wanted}}}


def obj(name: str, *paths: Object, host: str = "a.example", born: str = "2024-01-01T00:00:00Z", **spec: Any) -> Object:
    """An Ingress with one rule."""
    annotations, namespace = spec.pop("annotations", {}), spec.pop("namespace", "ns")
    whole = {"ingressClassName": "np", **spec}
    if paths:
        whole["rules"] = [{"host": host, "http": {"paths": list(paths)}}]
    metadata = {"namespace": namespace, "name": name, "creationTimestamp": born, "annotations": annotations}
    return {"metadata": metadata, "spec": whole}


def service(name: str, kind: ServiceType = "ClusterIP", *, namespace: str = "ns") -> Service:
    """A Service with port 80, named http."""
    return Service(namespace, name, type=kind, ports=(ServicePort("http", Protocol.TCP, 80),))


def read(
    *objects: Object,
    classes: tuple[Object, ...] = (CLASS, OTHER),
    secrets: Mapping[str, Object] | None = None,
    passes: bool = False,
) -> Reading:
    """Read the Ingresses with Services web, v2 and outside in namespace ns, and web in evil too."""
    services = [service("web"), service("v2"), service("outside", "ExternalName"), service("web", namespace="evil")]
    view = View(
        {key_of(one): one for one in objects},
        {("", one["metadata"]["name"]): one for one in classes},
        {one.key: one for one in services},
        {(namespace, name): one for name, one in (secrets or {}).items() for namespace in ("ns", "evil")},
    )
    return ingress.read(view, Door(has_passthrough=passes))


def only(reading: Reading) -> Route:
    """The one route."""
    (route,) = reading.routing.routes
    return route


def told(reading: Reading) -> list[tuple[str, str]]:
    """Reason and message of every finding."""
    return [(one.reason, one.message) for one in reading.findings]


def annotated(**texts: str) -> Reading:
    """An Ingress with netplane.io annotations; `_` stands for `-`."""
    return read(obj("web", path("/"), annotations={f"netplane.io/{k.replace('_', '-')}": v for k, v in texts.items()}))


def test_a_rule_becomes_a_route_to_the_service() -> None:
    route = only(read(obj("web", path("/shop/", port="http"), host="*.A.example")))
    assert route.match.host == Host("label", "a.example")
    assert route.match.path == Path("prefix", "/shop")
    assert route.backends == (Backend(Port("ns", "web", 80)),)


def test_only_ingresses_of_our_classes_are_read() -> None:
    mine = obj("web", path("/"))
    theirs = obj("theirs", path("/t"), ingressClassName="other")
    assert read(mine, theirs).mine == (("ns", "web"),)


def test_without_a_class_the_default_class_counts() -> None:
    default = {**CLASS, "metadata": {"name": "np", "annotations": {ingress.DEFAULT_CLASS: "true"}}}
    assert read(obj("web", path("/"), ingressClassName=None)).mine == ()
    assert read(obj("web", path("/"), ingressClassName=None), classes=(default,)).mine == (("ns", "web"),)


def test_the_old_annotation_names_a_class_too() -> None:
    old = obj("web", path("/"), ingressClassName=None, annotations={ingress.CLASS_ANNOTATION: "np"})
    assert read(old).mine == (("ns", "web"),)


def test_of_two_that_claim_a_path_the_older_wins_and_the_other_is_told() -> None:
    reading = read(obj("a", path("/", "v2"), born="2024-02-01T00:00:00Z"), obj("b", path("/")))
    assert only(reading).owner.name == "b"
    assert told(reading) == [
        ("PathClaimed", "spec.rules[0].http.paths[0]: prefix path a.example/ is served by Ingress/ns/b, which is older")
    ]


def test_a_default_backend_takes_what_no_rule_does() -> None:
    spec: dict[str, Any] = {"defaultBackend": {"service": {"name": "v2", "port": {"number": 80}}}}
    reading = read(obj("web", path("/"), **spec))
    assert [(one.match.host, one.backends[0].service) for one in reading.routing.routes] == [
        (Host("exact", "a.example"), Port("ns", "web", 80)),
        (Host(), Port("ns", "v2", 80)),
    ]


def test_what_is_wrong_is_told_by_field_and_the_rest_is_served() -> None:
    resource = {"path": "/r", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "b"}}}
    reading = read(
        obj("web", path("/a b"), resource, path("/o", "outside"), path("/n", "nope"), path("/p", port=81), path("/ok"))
    )
    assert [reason for reason, _ in told(reading)] == [
        "BadPath", "ResourceBackend", "ExternalName", "ServiceNotFound", "PortNotFound",
    ]  # fmt: skip
    assert told(reading)[0][1].startswith("spec.rules[0].http.paths[0].path: '/a b'")
    served = {one.match.path.value: one.backends[0].service for one in reading.routing.routes}
    assert served == {"/r": None, "/o": None, "/n": None, "/p": None, "/ok": Port("ns", "web", 80)}


def test_annotations_become_policy() -> None:
    policy = only(
        annotated(proxy_read_timeout="5s", proxy_body_size="8m", allowlist_source_range="10.1.2.3/8", limit_rps="5",
                  hsts_max_age="10", affinity="cookie", backend_protocol="GRPC")
    ).policy  # fmt: skip
    assert (policy.server_timeout, policy.body_size, policy.allow) == (5000, 8 << 20, ("10.0.0.0/8",))
    assert (policy.limits.per_second, policy.hsts, policy.protocol) == (5, "max-age=10", "h2c")
    assert policy.sticky is not None
    assert policy.sticky.cookie == "INGRESSCOOKIE"


def test_nginx_names_are_read_and_ours_win() -> None:
    names = {"nginx.ingress.kubernetes.io/proxy-body-size": "1k", "netplane.io/proxy-body-size": "2k"}
    assert only(read(obj("web", path("/"), annotations=names))).policy.body_size == 2048
    del names["netplane.io/proxy-body-size"]
    assert only(read(obj("web", path("/"), annotations=names))).policy.body_size == 1024


def test_a_wrong_annotation_is_told_by_name_and_the_route_stands() -> None:
    reading = annotated(proxy_read_timeout="soon", rewrite_targett="/")
    assert only(reading).backends[0].service is not None
    assert [message for _, message in told(reading)] == [
        "metadata.annotations[netplane.io/proxy-read-timeout]: 'soon' is no time from 1ms to 24h; "
        "write it as 500ms, 30s or 5m",
        "metadata.annotations[netplane.io/rewrite-targett]: is not supported; did you mean rewrite-target?",
    ]


def test_a_wrong_guard_closes_the_ingress() -> None:
    for name, text in (("allowlist_source_range", "10.0.0.0/99"), ("auth_secret", "nope"), ("auth_url", "http://x/$y")):
        reading = annotated(**{name: text})
        assert only(reading).backends == (Backend(None),)
        assert told(reading)[0][0] == "BadAnnotation"


def test_a_snippet_is_refused() -> None:
    reading = read(
        obj("web", path("/"), annotations={"nginx.ingress.kubernetes.io/configuration-snippet": "deny all;"})
    )
    assert "snippets of configuration are never taken" in told(reading)[0][1]


def test_a_canary_takes_its_share_and_its_header() -> None:
    trial = obj("trial", path("/", "v2"), annotations={
        "netplane.io/canary": "true", "netplane.io/canary-weight": "30", "netplane.io/canary-by-header": "X-Trial",
    })  # fmt: skip
    main, *by_header = read(obj("web", path("/")), trial).routing.routes
    assert [(one.service.name if one.service else "", one.weight) for one in main.backends] == [("web", 70), ("v2", 30)]
    chosen = {one.match.headers[0].value: [b.service.name for b in one.backends if b.service] for one in by_header}
    assert chosen == {"always": ["v2"], "never": ["web"]}


def test_of_two_canaries_for_a_path_the_older_wins_and_the_other_is_told() -> None:
    names = {"netplane.io/canary": "true", "netplane.io/canary-weight": "30"}
    old = obj("old", path("/", "v2"), annotations=names, born="2024-02-01T00:00:00Z")
    young = obj("young", path("/", "web"), path("/more", "web"), annotations=names, born="2024-03-01T00:00:00Z")
    reading = read(young, old, obj("web", path("/")))
    assert [(one.service.name if one.service else "", one.weight) for one in only(reading).backends] == [
        ("web", 70), ("v2", 30),
    ]  # fmt: skip
    assert told(reading) == [
        (
            "PathClaimed",
            "spec.rules[0].http.paths[0]: prefix path a.example/ has the canary Ingress/ns/old, which is older",
        ),
        (
            "NotServed",
            "spec.rules[0].http.paths[1]: no Ingress that is not a canary serves prefix path a.example/more",
        ),
    ]


def test_all_paths_of_an_ingress_count_for_its_limits_and_those_of_no_other() -> None:
    names = {"netplane.io/limit-rps": "1"}
    routes = read(
        obj("a", path("/x"), path("/y"), annotations=names), obj("b", path("/"), annotations=names, host="b.example")
    ).routing.routes
    assert [one.policy.limits.scope for one in routes] == ["ns/a", "ns/a", "ns/b"]
    texts = [policy.text(one, str) for one in routes]
    assert texts[0] == texts[1] != texts[2]
    assert only(annotated(proxy_body_size="1k")).policy.limits.scope == ""


def test_redirects_lead_to_the_very_text_and_the_passing_one_comes_first() -> None:
    url = "https://new.example:8443/a?b=c&d=%20#e"
    redirect = only(annotated(permanent_redirect=url, permanent_redirect_code="308")).redirect
    assert redirect is not None
    assert (redirect.location, redirect.status) == (url, 308)
    redirect = only(annotated(permanent_redirect=url, temporal_redirect="http://b.example")).redirect
    assert redirect is not None
    assert (redirect.location, redirect.status) == ("http://b.example", 302)


@pytest.mark.parametrize(
    "url", ["https://$host/x", "/x", "gopher://a.example/", "https://a.example/ b", "https://u@a.example/", "https://"]
)
def test_a_redirect_to_what_is_no_url_is_told(url: str) -> None:
    reading = annotated(permanent_redirect=url)
    assert only(reading).redirect is None
    assert "is no URL like https://host/path" in told(reading)[0][1]


@pytest.mark.parametrize("code", ["300", "304", "305", "306", "309", "200"])
def test_only_statuses_that_redirect_are_taken(code: str) -> None:
    reading = annotated(permanent_redirect="https://a.example/", permanent_redirect_code=code)
    assert only(reading).redirect == Redirect(location="https://a.example/", status=301)
    assert "is none of 301, 302, 303, 307, 308" in told(reading)[0][1]


def test_times_that_the_engine_cannot_keep_are_told() -> None:
    good = annotated(proxy_read_timeout="90", proxy_send_timeout="90s", proxy_connect_timeout="5")
    assert (told(good), only(good).policy.server_timeout) == ([], 90_000)
    assert told(annotated(proxy_send_timeout="60")) == []
    wrong = annotated(proxy_send_timeout="90s", proxy_connect_timeout="30")
    assert [message for _, message in told(wrong)] == [
        "metadata.annotations[netplane.io/proxy-send-timeout]: "
        "is one time with proxy-read-timeout (60s unless said): say the same for both",
        "metadata.annotations[netplane.io/proxy-connect-timeout]: is 5s for all and cannot be changed",
    ]
    assert only(wrong).backends[0].service is not None


def test_what_annotations_say_of_https_and_browsers_becomes_policy() -> None:
    found = only(
        annotated(force_ssl_redirect="true", hsts_max_age="10", hsts_include_subdomains="true", hsts_preload="true",
                  tunnel_timeout="2h", proxy_read_timeout="5s", enable_cors="true", cors_expose_headers="X-A, X-B",
                  cors_max_age="60")
    ).policy  # fmt: skip
    assert (found.ssl_redirect, found.hsts) == (308, "max-age=10; includeSubDomains; preload")
    assert (found.server_timeout, found.tunnel_timeout) == (5000, 7_200_000)
    assert found.cors is not None
    assert (found.cors.expose, found.cors.max_age) == (("X-A", "X-B"), 60)


def test_passwords_come_from_a_secret_of_the_same_namespace() -> None:
    lines = base64.b64encode(b"ann:$apr1$abcdefgh$0123456789012345678901\n").decode()
    names = {"netplane.io/auth-type": "basic", "netplane.io/auth-secret": "users"}
    reading = read(obj("web", path("/"), annotations=names), secrets={"users": {"data": {"auth": lines}}})
    basic = only(reading).policy.basic_auth
    assert basic is not None
    assert [user for user, _ in basic.users] == ["ann"]
    names["netplane.io/auth-secret"] = "elsewhere/users"
    assert "is of another namespace" in told(read(obj("web", path("/"), annotations=names)))[0][1]


def test_a_missing_certificate_is_told_and_the_host_is_served() -> None:
    reading = read(obj("web", path("/"), tls=[{"hosts": ["a.example"], "secretName": "gone"}]))
    assert told(reading) == [("SecretNotFound", "spec.tls[0].secretName: there is no Secret ns/gone")]
    assert only(reading).backends[0].service is not None


LATER = "2024-02-01T00:00:00Z"


def said(**texts: str) -> dict[str, str]:
    """Annotations of ours; `_` stands for `-`."""
    return {f"netplane.io/{name.replace('_', '-')}": text for name, text in texts.items()}


def authority(name: str) -> Object:
    """A Secret of authorities."""
    return {"data": {"ca.crt": base64.b64encode(key_pair(name)[0].encode()).decode()}}


def test_the_oldest_ingress_says_who_verifies_the_clients_of_a_host_and_another_is_closed_there() -> None:
    secrets = {"mine": authority("mine"), "theirs": authority("theirs")}
    mine = obj("web", path("/"), annotations=said(auth_tls_secret="mine"))
    thief = obj("thief", path("/x"), namespace="evil", born=LATER, annotations=said(auth_tls_secret="theirs"))
    reading = read(thief, mine, secrets=secrets)
    bundle = key_pair("mine")[0]
    assert [one for one in reading.routing.client_authorities if one.names] == [
        ClientAuthority("ns_web", ("a.example",), bundle)
    ]
    responds = {one.owner.name: (one.respond, one.policy.client_authorities) for one in reading.routing.routes}
    assert responds == {"web": (0, bundle), "thief": (503, "")}
    assert told(reading) == [
        ("HostClaimed", "spec.rules: clients of a.example are verified by Ingress ns/web, which is older")
    ]


def test_clients_may_be_asked_for_certificates_without_having_to() -> None:
    names = said(auth_tls_secret="mine", auth_tls_verify_client="optional")
    reading = read(obj("web", path("/"), annotations=names), secrets={"mine": authority("mine")})
    assert only(reading).policy.client_certificate == "optional"
    assert annotated(auth_tls_secret="gone").routing.routes[0].respond == 503


def test_a_closed_ingress_stays_closed_for_its_canaries() -> None:
    main = obj("web", path("/"), annotations=said(auth_type="basic", auth_secret="gone"))
    by_header = said(canary="true", canary_by_header="X-C", canary_weight="50")
    route = only(read(main, obj("trial", path("/", "v2"), annotations=by_header)))
    assert (route.respond, route.backends) == (503, (Backend(None),))


def test_a_canary_of_another_namespace_takes_nothing() -> None:
    names = said(canary="true", canary_weight="100")
    reading = read(obj("web", path("/")), obj("trial", path("/"), namespace="evil", annotations=names))
    assert only(reading).backends == (Backend(Port("ns", "web", 80)),)
    assert [reason for reason, _ in told(reading)] == ["PathClaimed"]


def test_a_canary_by_the_value_of_a_header_has_no_other_words() -> None:
    names = said(canary="true", canary_by_header="X-C", canary_by_header_value="blue")
    _, chosen = read(obj("web", path("/")), obj("trial", path("/", "v2"), annotations=names)).routing.routes
    assert chosen.match.headers == (Value("X-C", "blue"),)


def test_tls_is_passed_through_for_who_came_first_to_a_host() -> None:
    names = said(ssl_passthrough="true")
    for hosts in (("a.example", "a.example"), ("a.example", "*.example")):
        for own in ({}, names):
            first = obj("web", path("/"), host=hosts[0], annotations=own)
            thief = obj("web", path("/"), host=hosts[1], namespace="evil", born=LATER, annotations=names)
            reading = read(thief, first, passes=True)
            assert [one.owner.namespace for one in reading.routing.passthroughs] == ["ns"] * bool(own)
            assert [(one.key, one.reason) for one in reading.findings] == [(("evil", "web"), "HostClaimed")]


def test_a_backend_is_verified_by_a_name_or_not_at_all() -> None:
    reading = annotated(backend_protocol="HTTPS", proxy_ssl_verify="on")
    assert only(reading).respond == 503
    assert "netplane.io/proxy-ssl-name]: is missing" in told(reading)[0][1]
    named = annotated(backend_protocol="HTTPS", proxy_ssl_verify="on", proxy_ssl_name="in.example")
    assert only(named).policy.backend_tls.server_name == "in.example"


def test_passwords_may_stand_in_a_secret_by_name() -> None:
    hashed = "$apr1$abcdefgh$0123456789012345678901"
    data = {name: base64.b64encode(hashed.encode()).decode() for name in ("bob", "ann")}
    names = said(auth_type="basic", auth_secret="users", auth_secret_type="auth-map")
    basic = only(read(obj("web", path("/"), annotations=names), secrets={"users": {"data": data}})).policy.basic_auth
    assert basic is not None
    assert basic.users == (("ann", hashed), ("bob", hashed))


def test_paths_that_say_the_same_are_one() -> None:
    found = [only(read(obj("web", path(text)))).match.path.value for text in ("//%61dmin/", "/a%2f%7E", "/%20%c3")]
    assert found == ["/admin", "/a/~", "/%20%c3"]


def test_a_name_that_an_ingress_and_a_gateway_certify_goes_to_the_older() -> None:
    ours = Certificate("ns_web", ("a.example", "b.example"), "OURS", (("2024", "ns", "web"), ("2022", "ns", "old")))
    theirs = Certificate("gateway_g", ("a.example", "b.example"), "THEIRS", (("2023", "g", "door"),) * 2)
    merged = merge(Routing(certificates=(ours,)), Routing(certificates=(theirs,)))
    assert [(one.name, one.names) for one in merged.certificates] == [
        ("ns_web", ("b.example",)), ("gateway_g", ("a.example",)),
    ]  # fmt: skip
    assert [(one.key, one.reason, one.message) for one in tls.outlived([ours], [theirs])] == [
        (("ns", "web"), "HostClaimed", "spec.tls: a.example has the certificate of Gateway g/door, which is older")
    ]
