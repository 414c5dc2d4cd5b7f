"""The features of Ingress conformance (default backend, host rules, path rules, class, load balancing), asked of a real
door: API server, controller, HAProxy and pods. Source: the Ingress API's own words (networking/v1) and the features of
kubernetes-sigs/ingress-controller-conformance, whose scenarios each have their test here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import ingress
from tests.support import ingress_objects as o


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ingress.Door]:
    """A door with the class `netplane`."""
    with ingress.door(tmp_path_factory.mktemp("door")) as made:
        made.api.apply(o.ingress_class())
        yield made


def is_exposed(door: ingress.Door, name: str, *, namespace: str = "default") -> bool:
    """Tell whether an Ingress says where it is exposed."""
    status = door.api.get("Ingress", name, namespace=namespace).get("status", {})
    return [each.get("ip") for each in status.get("loadBalancer", {}).get("ingress") or ()] == [ingress.DOOR]


# --- default backend: an Ingress with no rules sends all traffic to it ---


@pytest.fixture
def default_backend(door: ingress.Door) -> Iterator[None]:
    """The Ingress of the feature, gone afterwards: it would answer for everything else here."""
    door.service("echo-service")
    door.api.apply(o.ingress("default-backend", default=o.backend("echo-service")))
    door.answers("http://any-host/", "echo-service")
    door.until(lambda: is_exposed(door, "default-backend"))
    yield
    door.api.delete("Ingress", "default-backend")
    door.refuses("http://any-host/")


def test_an_ingress_without_rules_sends_all_requests_to_the_default_backend(
    door: ingress.Door, default_backend: None
) -> None:
    asked = (
        ("GET", "my-host", ""),
        ("GET", "my-host", "sub-path"),
        ("POST", "some-host", ""),
        ("PUT", "", "resource"),
        ("DELETE", "some-host", "resource"),
        ("PATCH", "my-host", "resource"),
    )
    for method, host, path in asked:
        agent = {"User-Agent": "conformance"}
        answer = door.ask(f"http://{ingress.DOOR}/{path}", method=method, host=host or ingress.DOOR, headers=agent)
        assert answer.status == 200
        assert door.backend(answer) == "default/echo-service"
        assert (answer.said["method"], answer.said["path"], answer.said["proto"]) == (method, f"/{path}", "HTTP/1.1")
        assert answer.sent("User-Agent") == ["conformance"]
        assert {"content-length", "content-type", "date", "server"} <= set(answer.headers)


# --- host rules ---


@pytest.fixture(scope="module")
def host_rules(door: ingress.Door) -> None:
    """The Ingress of the feature."""
    door.service("wildcard-foo-com")
    door.service("foo-bar-com")
    door.api.apply(o.tls_secret("conformance-tls", "foo.bar.com"))
    door.api.apply(
        o.ingress(
            "host-rules",
            o.rule("*.foo.com", o.path("/", "wildcard-foo-com")),
            o.rule("foo.bar.com", o.path("/", "foo-bar-com", port="http")),
            tls=[("conformance-tls", ["foo.bar.com"])],
        )
    )
    door.answers("http://foo.bar.com/", "foo-bar-com")
    door.answers("https://foo.bar.com/", "foo-bar-com", trust=o.key_pair("foo.bar.com")[0])
    door.answers("http://bar.foo.com/", "wildcard-foo-com")
    door.until(lambda: is_exposed(door, "host-rules"))


def test_a_host_rule_sends_tls_traffic_to_its_backend_with_a_certificate_that_verifies(
    door: ingress.Door, host_rules: None
) -> None:
    answer = door.ask("https://foo.bar.com/", trust=o.key_pair("foo.bar.com")[0])
    assert (answer.status, door.backend(answer)) == (200, "default/foo-bar-com")
    assert answer.said["host"] == "foo.bar.com"


def test_a_host_rule_sends_traffic_to_its_backend(door: ingress.Door, host_rules: None) -> None:
    answer = door.ask("http://foo.bar.com/")
    assert (answer.status, door.backend(answer)) == (200, "default/foo-bar-com")
    assert answer.said["host"] == "foo.bar.com"


def test_a_host_rule_takes_no_other_host(door: ingress.Door, host_rules: None) -> None:
    assert door.ask("http://subdomain.bar.com/").status == 404


def test_a_wildcard_host_rule_takes_hosts_of_its_suffix(door: ingress.Door, host_rules: None) -> None:
    answer = door.ask("http://bar.foo.com/")
    assert (answer.status, door.backend(answer)) == (200, "default/wildcard-foo-com")
    assert answer.said["host"] == "bar.foo.com"


def test_a_wildcard_host_rule_covers_one_label_only(door: ingress.Door, host_rules: None) -> None:
    assert door.ask("http://baz.bar.foo.com/").status == 404


def test_a_wildcard_host_rule_covers_not_the_suffix_itself(door: ingress.Door, host_rules: None) -> None:
    assert door.ask("http://foo.com/").status == 404


# --- ingress class ---


def test_an_ingress_of_a_class_that_is_not_there_is_not_served(door: ingress.Door) -> None:
    door.service("ingress-class-prefix")
    rule = o.rule("ingress-class", o.path("/", "ingress-class-prefix"))
    door.api.apply(o.ingress("test-ingress-class", rule, class_name="some-invalid-class-name"))
    door.service("later")
    door.api.apply(o.ingress("later", o.rule("later", o.path("/", "later"))))
    # What came after it is served, so it has been seen.
    door.answers("http://later/", "later")
    assert door.ask("http://ingress-class/").status == 404
    status = door.api.get("Ingress", "test-ingress-class").get("status", {})
    assert not status.get("loadBalancer", {}).get("ingress")


# --- load balancing ---


def test_all_pods_of_a_service_are_used(door: ingress.Door) -> None:
    pods = door.service("balanced", pods=10)
    door.api.apply(o.ingress("load-balancing", o.rule("load-balancing", o.path("/", "balanced"))))
    door.answers("http://load-balancing/", "balanced")
    # Pods reach the engine one after the other.
    door.until(lambda: {door.ask("http://load-balancing/").said["pod"] for _ in range(20)} == set(pods))
    answers = [door.ask("http://load-balancing/") for _ in range(100)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.said["pod"] for answer in answers} == set(pods)


# --- path rules ---


@pytest.fixture(scope="module")
def path_rules(door: ingress.Door) -> None:
    """The Ingress of the feature."""
    services = "foo-exact foo-prefix aaa-slash-bbb-prefix aaa-prefix aaa-slash-bbb-slash-prefix foo-slash-exact"
    for name in services.split():
        door.service(name)
    door.api.apply(
        o.ingress(
            "path-rules",
            o.rule("exact-path-rules", o.path("/foo", "foo-exact", kind="Exact")),
            o.rule(
                "prefix-path-rules",
                o.path("/foo", "foo-prefix"),
                o.path("/aaa/bbb", "aaa-slash-bbb-prefix"),
                o.path("/aaa", "aaa-prefix"),
            ),
            o.rule("mixed-path-rules", o.path("/foo", "foo-prefix"), o.path("/foo", "foo-exact", kind="Exact")),
            o.rule(
                "trailing-slash-path-rules",
                o.path("/aaa/bbb/", "aaa-slash-bbb-slash-prefix"),
                o.path("/foo/", "foo-slash-exact", kind="Exact"),
            ),
        )
    )
    door.answers("http://exact-path-rules/foo", "foo-exact")
    for path, service in (("foo", "foo-prefix"), ("aaa/bbb", "aaa-slash-bbb-prefix"), ("aaa", "aaa-prefix")):
        door.answers(f"http://prefix-path-rules/{path}", service)
    for path, service in (("aaa/bbb", "aaa-slash-bbb-slash-prefix"), ("foo/", "foo-slash-exact")):
        door.answers(f"http://trailing-slash-path-rules/{path}", service)
    door.until(lambda: is_exposed(door, "path-rules"))


@pytest.mark.parametrize(
    ("url", "service"),
    [
        pytest.param("exact-path-rules/foo", "foo-exact", id="exact-foo-takes-foo"),
        pytest.param("exact-path-rules/foo/", "", id="exact-foo-takes-no-trailing-slash"),
        pytest.param("exact-path-rules/FOO", "", id="exact-foo-is-case-sensitive"),
        pytest.param("exact-path-rules/bar", "", id="exact-foo-takes-no-other-label"),
        pytest.param("prefix-path-rules/foo", "foo-prefix", id="prefix-foo-takes-foo"),
        pytest.param("prefix-path-rules/foo/", "foo-prefix", id="prefix-foo-takes-a-trailing-slash"),
        pytest.param("prefix-path-rules/FOO", "", id="prefix-foo-is-case-sensitive"),
        pytest.param("prefix-path-rules/aaa/bbb", "aaa-slash-bbb-prefix", id="the-longest-prefix-wins"),
        pytest.param("prefix-path-rules/aaa/bbb/ccc", "aaa-slash-bbb-prefix", id="the-longest-prefix-takes-subpaths"),
        pytest.param("prefix-path-rules/aaa/ccc", "aaa-prefix", id="the-shorter-prefix-takes-the-rest"),
        pytest.param("prefix-path-rules/aaaccc", "", id="a-prefix-counts-whole-labels"),
        pytest.param("prefix-path-rules/aaa/", "aaa-prefix", id="a-prefix-ignores-the-requests-trailing-slash"),
        pytest.param("mixed-path-rules/foo", "foo-exact", id="exact-is-preferred-to-prefix"),
        pytest.param("trailing-slash-path-rules/aaa/bbb", "aaa-slash-bbb-slash-prefix", id="a-rules-slash-is-ignored"),
        pytest.param("trailing-slash-path-rules/aaa/bbb/", "aaa-slash-bbb-slash-prefix", id="both-slashes-are-ignored"),
        pytest.param("trailing-slash-path-rules/foo", "", id="exact-foo-slash-takes-no-foo"),
    ],
)
def test_path_rules(door: ingress.Door, path_rules: None, url: str, service: str) -> None:
    answer = door.ask(f"http://{url}")
    assert door.backend(answer) == (f"default/{service}" if service else "")
    assert answer.status == (200 if service else 404)
    if service:
        assert answer.said["path"] == "/" + url.partition("/")[2]


def test_paths_are_cut_at_elements_also_beside_other_rules(door: ingress.Door, path_rules: None) -> None:
    for path, service in (("foo/bar", "foo-prefix"), ("foo?x=/aaa", "foo-prefix"), ("aaa/bbbb", "aaa-prefix")):
        assert door.backend(door.ask(f"http://prefix-path-rules/{path}")) == f"default/{service}"
