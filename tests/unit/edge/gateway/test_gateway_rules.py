"""What rules compile to: matches, filters, backends; and what of them is refused, rule by rule."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.kube.types import Object
from netplane.model import routing
from tests.support import gateway_objects as g
from tests.support.gateway_reader import Cluster, of_route


def compiled(*rules: Object, services: dict[str, int] | None = None, more: tuple[Object, ...] = ()) -> Cluster:
    """Return a cluster with one route of these rules."""
    known = {"web": 8080, "api": 8080} if services is None else services
    return Cluster([g.gateway_class(), g.gateway(), g.route("web", *rules), *more], known)


def route_of(rule: Object) -> routing.Route:
    """Return the only route that a rule compiles to."""
    found: tuple[routing.Route, ...] = compiled(rule).settle().routing.routes
    assert len(found) == 1
    return found[0]


def test_every_match_of_every_rule_becomes_a_route_in_order() -> None:
    first = g.rule("web", matches=[g.match("/a/"), g.match("/b", "Exact", method="POST", headers={"X-One": "1"})])
    second = g.rule("api", matches=[g.match("/", queries={"q": "1"})])
    found = compiled(first, second).settle().routing.routes
    assert [each.match for each in found] == [
        routing.Match(path=routing.Path("prefix", "/a")),
        routing.Match(path=routing.Path("exact", "/b"), method="POST", headers=(routing.Value("x-one", "1"),)),
        routing.Match(queries=(routing.Value("q", "1"),)),
    ]
    assert [each.order[3:] for each in found] == [(0, 0), (0, 1), (1, 0)]
    assert [each.backends[0].service for each in found] == [
        routing.ServicePort("default", "web", 8080),
        routing.ServicePort("default", "web", 8080),
        routing.ServicePort("default", "api", 8080),
    ]


def test_of_equal_header_names_the_first_counts() -> None:
    match = g.match()
    match["headers"] = [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}]
    assert route_of(g.rule("web", matches=[match])).match.headers == (routing.Value("x-a", "1"),)


def test_filters_become_what_the_model_calls_them() -> None:
    filters = [
        g.set_headers("request", set={"X-Set": "1"}, add={"X-Add": "2"}, remove=["X-Gone"]),
        g.set_headers("response", add={"X-Back": "3"}),
        g.rewrite(hostname="in.example", prefix="/new"),
        g.mirror("api", percent=20),
        g.mirror("web", fraction={"numerator": 1, "denominator": 4}),
    ]
    found = route_of(g.rule("web", matches=[g.match("/old")], filters=filters, timeouts={"request": "1m500ms"}))
    assert found.request_headers == routing.Headers((("X-Set", "1"),), (("X-Add", "2"),), ("X-Gone",))
    assert found.response_headers == routing.Headers(add=(("X-Back", "3"),))
    assert (found.rewrite_host, found.rewrite_path) == ("in.example", routing.PathChange("prefix", "/new"))
    assert [(each.service.name, each.percent) for each in found.mirrors] == [("api", 20.0), ("web", 25.0)]
    assert found.policy.server_timeout == 60_500


def test_a_redirect_needs_no_backend() -> None:
    found = route_of(g.rule(filters=[g.redirect(scheme="https", hostname="b.example", port=8443, statusCode=301)]))
    assert found.redirect == routing.Redirect("https", "b.example", 8443, None, 301)
    assert not found.respond


def test_filters_of_the_only_backend_are_the_rules() -> None:
    backend = g.backend("web", filters=[g.set_headers("request", set={"X": "1"})])
    assert route_of(g.rule(backend)).request_headers.set == (("X", "1"),)


def test_filters_of_a_rule_and_of_its_backend_are_done_one_after_the_other() -> None:
    first = [
        g.set_headers("request", set={"X-A": "1", "X-B": "1"}, add={"X-C": "1", "X-D": "1"}, remove=["X-E", "X-F"]),
        g.rewrite(hostname="one.example"),
        g.mirror("api"),
    ]
    then = [
        g.set_headers("request", set={"x-a": "2", "x-e": "2"}, add={"x-b": "2", "x-f": "2"}, remove=["x-c"]),
        g.rewrite(hostname="two.example", full="/x"),
        g.mirror("web"),
    ]
    found = route_of(g.rule(g.backend("web", filters=then), filters=first))
    assert found.request_headers == routing.Headers(
        set=(("X-B", "1"), ("x-a", "2"), ("x-e", "2")),
        add=(("X-D", "1"), ("x-b", "2"), ("x-f", "2")),
        remove=("X-F", "x-c"),
    )
    assert (found.rewrite_host, found.rewrite_path) == ("two.example", routing.PathChange("full", "/x"))
    assert [each.service.name for each in found.mirrors] == ["api", "web"]
    twice = g.rule(g.backend("web", filters=[g.rewrite(prefix="/b")]), filters=[g.rewrite(full="/a")])
    assert refused(twice) == "True IncompatibleFilters"


@pytest.mark.parametrize(
    ("timeouts", "milliseconds"),
    [
        ({}, 0),
        ({"request": "0s"}, 86_400_000),
        ({"request": "0s", "backendRequest": "2s"}, 2000),
        ({"request": "99999h"}, 86_400_000),
        ({"request": "3s", "backendRequest": "2s"}, 2000),
    ],
)
def test_of_the_timeouts_the_shorter_counts_and_zero_is_none(timeouts: Object, milliseconds: int) -> None:
    assert route_of(g.rule("web", timeouts=timeouts)).policy.server_timeout == milliseconds


@pytest.mark.parametrize(
    ("backends", "services", "verdict", "answers"),
    [
        (["gone"], {}, "False BackendNotFound", 0),
        ([g.backend("web", 81)], {"web": 8080}, "False BackendNotFound", 0),
        ([g.backend("x", kind="Other")], {}, "False InvalidKind", 0),
        ([g.backend("x", group="example.com")], {}, "False InvalidKind", 0),
        ([g.backend("web", namespace="other")], {"other/web": 8080}, "False RefNotPermitted", 0),
        ([], {}, "True", 500),
        ([g.backend("web", weight=0)], {"web": 8080}, "True", 500),
    ],
)
def test_a_backend_that_is_not_there_answers_500_for_its_share(
    backends: list[Any], services: dict[str, int], verdict: str, answers: int
) -> None:
    cluster = compiled(g.rule(*backends), services=services)
    (route,) = cluster.settle().routing.routes
    assert of_route(cluster, "web") == {"Accepted": "True", "ResolvedRefs": verdict}
    assert route.respond == answers
    if not answers:
        assert [(each.service, each.missing_status) for each in route.backends] == [(None, 500)]


def test_a_grant_lets_a_route_refer_to_another_namespace_until_it_goes() -> None:
    grant = g.grant("g", namespace="other", source=("HTTPRoute", "default"), target=("Service", "web"))
    cluster = compiled(g.rule(g.backend("web", namespace="other")), services={"other/web": 8080}, more=(grant,))
    (route,) = cluster.settle().routing.routes
    assert route.backends[0].service == routing.ServicePort("other", "web", 8080)
    cluster.objects.remove(grant)
    (route,) = cluster.settle().routing.routes
    assert route.backends[0].service is None
    assert of_route(cluster, "web")["ResolvedRefs"] == "False RefNotPermitted"


_HOSTILE = [
    "a\nb", "a\rb", "a\x00b", "/\n  http-request deny", "/a b", "/a//b", "/../etc", "/a/..", "/%2fx", "/é", "a",
    "/a#b", "/{", '/"', "/a\\b", "/%zz", "/" + "x" * 1024,
]  # fmt: skip
_BAD_TOKENS = ["", "a b", "a:b", "a\n", "x\r\ny: 1", "é", "a" * 300, "(", "Connection", "Host", "Transfer-Encoding"]
_BAD_VALUES = ["", " a", "a ", "a\r\nx: 1", "a\nb", "a\x00", "\x7f", "x" * 5000]


def refused(rule: Object) -> str:
    """Settle a route of a good rule and this one; return the reason of PartiallyInvalid."""
    cluster = compiled(g.rule("api", matches=[g.match("/good")]), rule)
    reading = cluster.settle()
    assert reading.routing.routes[0].match.path.value == "/good"
    assert all(each.respond == 500 for each in reading.routing.routes[1:])
    verdict = of_route(cluster, "web")
    assert verdict["Accepted"] == "True"
    return verdict["PartiallyInvalid"]


@pytest.mark.parametrize("path", _HOSTILE)
def test_a_path_that_is_none_costs_only_its_rule(path: str) -> None:
    assert refused(g.rule("web", matches=[g.match(path)])) == "True UnsupportedValue"
    assert refused(g.rule("web", filters=[g.rewrite(full=path)])) == "True UnsupportedValue"


@pytest.mark.parametrize("name", _BAD_TOKENS)
def test_a_header_name_that_is_none_costs_only_its_rule(name: str) -> None:
    assert refused(g.rule("web", filters=[g.set_headers("request", set={name: "1"})])) == "True UnsupportedValue"
    assert refused(g.rule("web", filters=[g.set_headers("response", remove=[name])])) == "True UnsupportedValue"


@pytest.mark.parametrize("value", _BAD_VALUES)
def test_a_header_value_that_is_none_costs_only_its_rule(value: str) -> None:
    assert refused(g.rule("web", filters=[g.set_headers("request", set={"X": value})])) == "True UnsupportedValue"
    assert refused(g.rule("web", matches=[g.match(headers={"X": value})])) == "True UnsupportedValue"


def test_a_match_that_is_wrong_takes_what_it_may_have_meant_and_the_good_ones_beside_it_stay() -> None:
    odd = {"type": "RegularExpression", "name": "X-Who", "value": "a.*"}
    matches = [
        g.match("/admin"),
        {**g.match("/admin", method="GET"), "headers": [odd, {"name": "X-Two", "value": "2"}]},
        {**g.match("/ask"), "queryParams": [odd]},
        {**g.match("/named"), "headers": [{"name": "a b", "value": "1"}]},
        g.match("/.*", "RegularExpression"),
        g.match("/verb", method="get"),
    ]
    found = compiled(g.rule("web", matches=matches), g.rule("api")).settle().routing.routes
    every = routing.Value("x-who", "", is_regex=True)
    assert [(each.match, each.respond) for each in found[:-1]] == [
        (routing.Match(path=routing.Path("prefix", "/admin")), 500),
        (
            routing.Match(
                path=routing.Path("prefix", "/admin"), method="GET", headers=(every, routing.Value("x-two", "2"))
            ),
            500,
        ),
        (
            routing.Match(path=routing.Path("prefix", "/ask"), queries=(routing.Value("X-Who", "", is_regex=True),)),
            500,
        ),
        (routing.Match(path=routing.Path("prefix", "/named")), 500),
        (routing.Match(path=routing.Path("prefix", "/verb")), 500),
    ]
    assert found[-1].backends[0].service == routing.ServicePort("default", "api", 8080)


@pytest.mark.parametrize(
    "rule",
    [
        g.rule("web", matches=[{"path": {"type": "Fuzzy", "value": "/"}}]),
        g.rule("web", matches=[g.match(method="get")]),
        g.rule("web", matches=[g.match("/a.*", "RegularExpression")]),
        g.rule("web", matches=[{"headers": [{"type": "RegularExpression", "name": "x", "value": "(a+)+"}]}]),
        g.rule("web", filters=[g.rewrite(hostname="Not A Host")]),
        g.rule("web", filters=[g.rewrite(hostname="*.wild.example")]),
        g.rule("web", matches=[g.match("/a", "Exact")], filters=[g.rewrite(prefix="/b")]),
        g.rule("web", matches=[g.match("/a"), g.match("/b")], filters=[g.rewrite(prefix="/b")]),
        g.rule("web", filters=[{"type": "ExtensionRef", "extensionRef": {"group": "a.b", "kind": "C", "name": "d"}}]),
        g.rule("web", filters=[{"type": "RequestMirror"}]),
        g.rule("web", timeouts={"request": "soon"}),
        g.rule(filters=[g.redirect(statusCode=200)]),
        g.rule(filters=[g.redirect(scheme="gopher")]),
        g.rule(g.backend("web", filters=[g.set_headers("request", set={"X": "1"})]), "api"),
        g.rule("web", filters=[g.set_headers("request", set={"X": "1"}, add={"x": "2"})]),
    ],
)
def test_what_is_not_supported_costs_only_its_rule(rule: Object) -> None:
    assert refused(rule) == "True UnsupportedValue"


@pytest.mark.parametrize(
    "rule",
    [
        g.rule(filters=[g.redirect(), g.rewrite(full="/x")]),
        g.rule("web", filters=[g.redirect()]),
        g.rule("web", filters=[g.rewrite(full="/x"), g.rewrite(full="/y")]),
    ],
)
def test_filters_that_exclude_each_other_cost_only_their_rule(rule: Object) -> None:
    assert refused(rule) == "True IncompatibleFilters"


def test_a_route_of_bad_rules_alone_is_not_accepted_and_takes_no_requests() -> None:
    cluster = compiled(g.rule("web", matches=[g.match("nowhere")]))
    assert not cluster.settle().routing.routes
    assert of_route(cluster, "web") == {"Accepted": "False UnsupportedValue", "ResolvedRefs": "True"}


@pytest.mark.parametrize("name", ["a b", "x\nset", "*", "a.*.example", "-a.example", "10.0.0.0/8"])
def test_a_hostname_that_is_none_is_not_accepted_and_takes_no_requests(name: str) -> None:
    cluster = Cluster([g.gateway_class(), g.gateway(), g.route("web", g.rule("web"), hostnames=["a.example", name])],
                      {"web": 8080})  # fmt: skip
    assert cluster.settle().routing.routes == ()
    assert of_route(cluster, "web")["Accepted"] == "False UnsupportedValue"
