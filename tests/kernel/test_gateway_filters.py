"""Gateway API conformance, filters and weights, asked of a real door.

Each test is named for the row of the conformance suite whose claim it makes, written anew from the specification.
A test has a namespace of its own and takes its Gateways down at the end: all Gateways share one address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from netplane.kube.types import Object
from tests.support import gateway_objects as g
from tests.support import ingress
from tests.support.gateway_door import Place, door, place, routed

__all__ = ["door", "place"]


# --- filters ---


def _changes_requests(path: str, **changes: Any) -> Object:
    """A rule that changes the headers of requests to a path."""
    return g.rule("v1", matches=[g.match(path)], filters=[g.set_headers("request", **changes)])


def test_httproute_request_header_modifier(place: Place) -> None:
    routed(
        place,
        _changes_requests("/set", set={"X-Header-Set": "set-overwrites-values"}),
        _changes_requests("/add", add={"X-Header-Add": "add-appends-values"}),
        _changes_requests("/remove", remove=["X-Header-Remove"]),
        _changes_requests(
            "/multiple",
            set={"X-Header-Set-1": "header-set-1", "X-Header-Set-2": "header-set-2"},
            add={"X-Header-Add-1": "header-add-1", "X-Header-Add-2": "header-add-2"},
            remove=["X-Header-Remove-1", "X-Header-Remove-2"],
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
    given = {"X_Header_Set_2": "set-val-2", "X_Header_Add_2": "add-val-2", "X_Header_Remove_2": "remove-val-2"}
    many = sent("multiple", **given, Another="a")
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
    assert {url: located(place, url) for url in found} == found


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
    place.expect("any/", "v2")
    found = Counter(place.ask("any/") for _ in range(400))
    assert sum(found.values()) == 400
    assert set(found) == {"v1", "v2"}
    # Far outside of chance (5 sigma), were the choice random.
    assert abs(found["v1"] / 400 - 0.7) < 0.12


def test_an_invalid_backend_answers_500_for_its_share_only(place: Place) -> None:
    routed(place, g.rule(g.backend("v1", weight=1), g.backend("nowhere", weight=1)), refs="False BackendNotFound")
    place.expect("any/", "v1")
    found = Counter(place.ask("any/") for _ in range(200))
    assert set(found) == {"v1", "500"}
    assert 50 < found["500"] < 150


def test_httproute_request_mirror(place: Place) -> None:
    routed(place, g.rule("v1", matches=[g.match("/mirror")], filters=[g.mirror("v2"), g.mirror("v3")]))
    place.expect("any/mirror", "v1")
    place.told(lambda: _is_copied(place, "v2"))
    place.told(lambda: _is_copied(place, "v3"))
    for method, body in (("PATCH", b"hello"), ("OPTIONS", None), ("PUT", b"x" * 10_000)):
        place.told(lambda method=method, body=body: _is_copied(place, "v2", method, body))  # type: ignore[misc]
    place.services("v4")
    place.apply(g.route("large", g.rule("v1", matches=[g.match("/large")], filters=[g.mirror("v4")])))
    place.told(lambda: _is_copied(place, "v4", at="/large/first"))
    # What does not fit whole is not copied.
    before, asked = int(_seen(place, "v4").headers["x-seen"]), 0
    for _ in range(3):
        assert place.of(place.door.ask("http://any/large", method="POST", body=b"x" * 60_000)) == "v1"

    def is_next() -> bool:
        nonlocal asked
        asked += 1
        return _is_copied(place, "v4", at="/large/next")

    place.told(is_next)
    assert int(_seen(place, "v4").headers["x-seen"]) <= before + asked


def _is_copied(
    place: Place, service: str, method: str = "POST", body: bytes | None = b"hello", at: str = "/mirror/me?x=1"
) -> bool:
    """Tell whether a Service's pod has got the copy of a request that `v1` answered."""
    answer = place.door.ask(f"http://any{at}", method=method, body=body)
    assert place.of(answer) == "v1"
    last = _seen(place, service).said
    return (last["method"], last["path"], last["body"]) == (method, at, (body or b"").decode())


def _seen(place: Place, service: str) -> ingress.Answer:
    """Ask a Service's pod what it has got last."""
    pod = next(pod for pod, of in place.door.service_of.items() if of == f"{place.namespace}/{service}")
    return place.door.ask("http://pod/-/seen", address=pod, port=8080)


def test_httproute_timeout_request(place: Place) -> None:
    routed(place, g.rule("v1", timeouts={"request": "500ms"}))
    place.expect("any/", "v1")
    place.expect("any/", "v1", headers={"x-echo-delay": "0.01"})
    place.expect("any/", "504", headers={"x-echo-delay": "9"})
