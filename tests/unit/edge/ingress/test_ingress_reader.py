"""What Ingress objects mean, and what is told of those that are wrong."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from netplane.edge.ingress.plan import ingress, policy
from netplane.edge.ingress.plan.ingress import Reading
from netplane.edge.ingress.plan.view import Door, View
from netplane.kube.types import Object, key_of
from netplane.model.routing import Backend, Host, Path, Redirect, Route
from netplane.model.routing import ServicePort as Port
from netplane.model.service import Protocol, Service, ServicePort, ServiceType

CLASS = {"metadata": {"name": "np"}, "spec": {"controller": "netplane.io/ingress"}}
OTHER = {"metadata": {"name": "other"}, "spec": {"controller": "example.com/other"}}


def path(text: str, service: str = "web", *, kind: str = "Prefix", port: int | str = 80) -> Object:
    """A path of a rule."""
    wanted = {"number": port} if isinstance(port, int) else {"name": port}
    return {"path": text, "pathType": kind, "backend": {"service": {"name": service, "port": wanted}}}


def obj(name: str, *paths: Object, host: str = "a.example", born: str = "2024-01-01T00:00:00Z", **spec: Any) -> Object:
    """An Ingress with one rule."""
    annotations = spec.pop("annotations", {})
    whole = {"ingressClassName": "np", **spec}
    if paths:
        whole["rules"] = [{"host": host, "http": {"paths": list(paths)}}]
    metadata = {"namespace": "ns", "name": name, "creationTimestamp": born, "annotations": annotations}
    return {"metadata": metadata, "spec": whole}


def service(name: str, kind: ServiceType = "ClusterIP") -> Service:
    """A Service with port 80, named http."""
    return Service("ns", name, type=kind, ports=(ServicePort("http", Protocol.TCP, 80),))


def read(
    *objects: Object, classes: tuple[Object, ...] = (CLASS, OTHER), secrets: Mapping[str, Object] | None = None
) -> Reading:
    """Read the Ingresses with Services web, v2 and outside."""
    services = [service("web"), service("v2"), service("outside", "ExternalName")]
    view = View(
        {key_of(one): one for one in objects},
        {("", one["metadata"]["name"]): one for one in classes},
        {one.key: one for one in services},
        {("ns", name): one for name, one in (secrets or {}).items()},
    )
    return ingress.read(view, Door())


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
