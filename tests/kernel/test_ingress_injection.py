"""A corpus of hostile hosts, paths, annotations, Secrets, routes and requests: each is refused or inert.

Everything is thrown at one door at once. Then the good host answers as before, by an engine that never reloaded, no
answer carries what was smuggled, and not a byte of it stands in the engine's configuration.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.edge.gateway import crds
from netplane.edge.ingress.plan import options
from netplane.kube.types import Object
from tests.support import gateway_objects as g
from tests.support import ingress
from tests.support import ingress_objects as o
from tests.support.ingress_api import Refused

MARK = "smuggled"
HEADER = f"x-{MARK}"
TOLD = {"nginx.ingress.kubernetes.io/configuration-snippet": "x", f"{options.OURS}limit-rps": "many"}

# What breaks out of configuration lines, quotes, maps, socket commands, Lua, logs, headers and shells.
PAYLOADS = [
    f"\n  http-response set-header {HEADER} 1",
    f"\r\n{HEADER}: 1",
    f" }} http-request deny # {MARK}",
    f'"; http-response set-header {HEADER} 1; "',
    f"' {MARK} '",
    f"%[env(HOME)]{MARK}",
    f"%0d%0a{HEADER}:%201",
    f"${{HOME}}{MARK}",
    f"$(touch /tmp/{MARK})",
    f"`touch /tmp/{MARK}`",
    f"; disable frontend door {MARK}",
    f"\n\nshutdown frontend door\n{MARK}",
    f"<<\n{MARK}\n\n",
    f"|d/*/={MARK}|",
    f"&path=full=/{MARK}&",
    f"?{MARK}",
    f"]]os.execute('touch /tmp/{MARK}')--[[",
    f"\\{MARK}\\",
    f"\x00{MARK}",
    f"\x1b[2J{MARK}",
    f"{MARK}\u2028{MARK}",
    f"é{MARK}",
    "../../../../etc/passwd",
    f"{MARK}" * 2000,
    "(" * 200 + MARK,
    "(a+)+$" + MARK,
    "-1",
    "1e999",
    "99999999999999999999999999",
    "NaN",
    "",
    " ",
    "*",
    "**.example",
    "*.*.example",
    "[::1]",
    "0.0.0.0/0,;",
]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ingress.Door]:
    """A door with one good host, and the whole corpus thrown at it."""
    with ingress.door(tmp_path_factory.mktemp("door"), starts=False) as made:
        for definition in crds.definitions():
            made.api.apply(definition)
        made.api.apply(o.ingress_class())
        made.until(lambda: made.api.apply(g.gateway_class()))
        made.service("good")
        made.api.apply(o.tls_secret("good", "good.example"))
        rule = o.rule("good.example", o.path("/", "good"))
        made.api.apply(o.ingress("good", rule, tls=[("good", ["good.example"])]))
        made.start()
        made.answers("http://good.example/", "good")
        made.answers("https://good.example/", "good", trust=o.key_pair("good.example")[0])
        made.api.apply(o.ingress("told", o.rule("told.example", o.path("/", "good")), annotations=TOLD))
        _throw(made)
        yield made


def _throw(door: ingress.Door) -> None:
    """Create the corpus; what the API refuses cannot do harm. A last good Ingress tells when all has been read."""
    accepted = sum(_is_taken(door, obj) for obj in _corpus())
    assert accepted > 300, "the API takes too little of it to tell anything of the door"
    door.api.apply(o.ingress("last", o.rule("last.example", o.path("/", "good"))))
    door.answers(
        "http://last.example/",
        "good",
    )


def _is_taken(door: ingress.Door, obj: Object) -> bool:
    try:
        door.api.create(obj)
    except Refused as refused:
        if refused.code not in (400, 409, 422):
            raise
        return False
    return True


def _corpus() -> Iterator[Object]:
    number = itertools.count()
    good = o.path("/", "good")
    for text in PAYLOADS:
        # No host at all is every host, and nothing wrong.
        yield o.ingress(f"bad-{next(number)}", o.rule(text or " ", good))
        yield o.ingress(f"bad-{next(number)}", o.rule(f"{text}.example", good))
        for kind in ("Exact", "Prefix", "ImplementationSpecific"):
            yield o.ingress(f"bad-{next(number)}", o.rule("paths.example", o.path(f"/{text}", "good", kind=kind)))
        yield o.ingress(f"bad-{next(number)}", o.rule("tls.example", good), tls=[(text, [text, "tls.example"])])
        yield o.ingress(f"bad-{next(number)}", o.rule("backends.example", o.path("/", text)))
    yield from _annotated(number)
    yield from _slices(number)
    yield from _secrets(number)
    yield from _gateways(number)


def _annotated(number: Iterator[int]) -> Iterator[Object]:
    names = [f"{options.OURS}{name}" for name in (*options._SHARED, *options._OURS_ALONE)]
    names += ["nginx.ingress.kubernetes.io/configuration-snippet", "nginx.ingress.kubernetes.io/server-snippet"]
    for at, name in enumerate(names):
        # Neighbours meet different payloads: each payload meets many annotations, each annotation several payloads.
        for text in PAYLOADS[at % 7 :: 7]:
            at_host = f"annotated-{next(number)}"
            rule = o.rule(f"{at_host}.example", o.path("/", "good"))
            yield o.ingress(at_host, rule, annotations={name: text, f"{options.OURS}enable-cors": "true"})


def _slices(number: Iterator[int]) -> Iterator[Object]:
    """What is said of endpoints, each beside what is as it should be."""
    ports = [{"name": "http", "port": 8080, "targetPort": 8080}]
    for text in PAYLOADS:
        name = f"sliced-{next(number)}"
        yield o.service(name, ports=ports)
        yield o.ingress(name, o.rule(f"{name}.example", o.path("/", name)))
        changes: list[Object] = [
            {"targetRef": {"kind": "Pod", "namespace": "default", "name": text}},
            {"targetRef": {"kind": "Pod", "namespace": text, "name": f"pod{text}"}},
            {"addresses": [text]},
            {"nodeName": text},
            {"zone": text, "hints": {"forZones": [{"name": text}]}},
        ]
        for at, change in enumerate(changes):
            made = o.endpoint_slice(name, [f"10.244.99.{at + 1}"], ports=ports, name=f"{name}-{at}")
            made["endpoints"][0] |= change
            yield made
        made = o.endpoint_slice(name, ["10.244.99.9"], ports=ports, name=f"{name}-named")
        made["ports"] = [{"name": text, "port": 8080, "protocol": "TCP"}]
        yield made


def _secrets(number: Iterator[int]) -> Iterator[Object]:
    certificate, key = o.key_pair("secret.example")
    _, other = o.key_pair("other.example")
    smuggler, smugglers_key = o.key_pair("*", f"{MARK} .example", f"a\n{MARK}", "good.example")
    found = [{"tls.crt": text + certificate, "tls.key": key + text} for text in PAYLOADS]
    found += [{"tls.crt": text, "tls.key": text} for text in PAYLOADS]
    found += [
        {"tls.crt": certificate, "tls.key": other},
        {"tls.crt": key, "tls.key": certificate},
        {"tls.crt": certificate * 200, "tls.key": key},
        {"tls.crt": certificate + f"\nset ssl cert x\n{MARK}\n" + key, "tls.key": key},
        {"tls.crt": smuggler, "tls.key": smugglers_key},
    ]
    for data in found:
        name = f"secret-{next(number)}"
        yield o.secret(name, data, kind="kubernetes.io/tls")
        hosts = [f"{name}.example"]
        yield o.ingress(name, o.rule(hosts[0], o.path("/", "good")), tls=[(name, hosts)])
    for text in PAYLOADS:
        name = f"users-{next(number)}"
        yield o.secret(name, {"auth": f"{text}:{text}\nuser{text}:$6${text}"})
        annotations = {f"{options.OURS}auth-type": "basic", f"{options.OURS}auth-secret": name}
        yield o.ingress(name, o.rule(f"{name}.example", o.path("/", "good")), annotations=annotations)


def _gateways(number: Iterator[int]) -> Iterator[Object]:
    yield g.gateway("door", g.listener(hostname="*.gateway.example"))
    for text in PAYLOADS:
        rules = [
            g.rule("good", matches=[g.match(f"/{text}")]),
            g.rule("good", matches=[g.match(f"/{text}", "RegularExpression")]),
            g.rule("good", matches=[g.match(headers={text: "1"})]),
            g.rule("good", matches=[g.match(headers={"x": text})]),
            g.rule("good", matches=[g.match(queries={"x": text})]),
            g.rule("good", filters=[g.set_headers("request", set={text: "1"})]),
            g.rule("good", filters=[g.set_headers("response", set={"x-a": text})]),
            g.rule("good", filters=[g.set_headers("response", remove=[text])]),
            g.rule("good", filters=[g.rewrite(full=f"/{text}")]),
            g.rule("good", filters=[g.rewrite(hostname=text)]),
            g.rule(filters=[g.redirect(hostname=text)]),
        ]
        for rule in rules:
            name = f"route-{next(number)}"
            yield g.route(name, rule, hostnames=[f"{name}.gateway.example"])


def test_the_good_host_is_served_as_before_by_the_same_engine(door: ingress.Door) -> None:
    answer = door.ask("https://good.example/", trust=o.key_pair("good.example")[0])
    assert door.backend(answer) == "default/good"
    assert HEADER not in answer.headers
    assert door.metric("netplane_ingress_reloads_total") == 0
    door.alive()


def test_no_byte_of_it_is_in_the_configuration(door: ingress.Door) -> None:
    text = (door.folder / "run" / "haproxy.cfg").read_text(errors="replace")
    assert MARK not in text
    assert "etc/passwd" not in text
    assert not Path(f"/tmp/{MARK}").exists()


def test_no_answer_carries_what_was_smuggled(door: ingress.Door) -> None:
    hosts = [each["spec"]["rules"][0].get("host", "") for each in door.api.items(_INGRESSES)]
    hosts += [each["spec"]["hostnames"][0] for each in door.api.items(_ROUTES)]
    assert len(hosts) > 300
    for host in sorted(set(hosts)):
        answer = door.ask("http://good.example/", host=host.replace("*", "any"))
        assert HEADER not in answer.headers, host
        if answer.said:
            assert HEADER not in answer.said["headers"], host


_INGRESSES = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
_ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes"


def test_who_wrote_a_wrong_annotation_is_told_which(door: ingress.Door) -> None:

    def messages() -> str:
        return "\n".join(each["message"] for each in door.events("told"))

    for name in TOLD:
        door.until(lambda name=name: f"metadata.annotations[{name}]" in messages())  # type: ignore[misc]


@pytest.mark.parametrize("name", ["rewrite-target", "whitelist-source-range", "auth-type"])
def test_a_guard_that_cannot_be_read_lets_nobody_in(door: ingress.Door, name: str) -> None:
    rule = o.rule(f"guarded-{name}.example", o.path("/", "good"))
    value = {"whitelist-source-range": "10.0.0.0/8,nonsense", "auth-type": "digest", "rewrite-target": "/ok"}[name]
    door.api.apply(o.ingress(f"guarded-{name}", rule, annotations={f"{options.OURS}{name}": value}))
    if name == "rewrite-target":
        door.answers(f"http://guarded-{name}.example/", "good")
    else:
        door.refuses(f"http://guarded-{name}.example/", 503)


def _sent(raw: bytes, *, closes: bool = True) -> bytes:
    """Send bytes as they are and return all that comes back."""
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((ingress.DOOR, 80), timeout=ingress.PATIENCE) as client:
        client.sendall(raw)
        if closes:
            client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: good.example\r\nHost: other.example\r\n\r\n",
        b'GET / HTTP/1.1\r\nHost: good.example,x","status":1\r\n\r\n',
        b"GET / HTTP/1.1\r\nHost: good.example/x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x/y,good.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: good.example\r\nX\x00: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: good.example\r\nX : 1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: good.example\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: good.example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"GET / HTTP/1.1\r\nHost: good.example\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_a_request_that_is_none_reaches_no_pod(door: ingress.Door, raw: bytes) -> None:
    answer = _sent(raw)
    assert b'"pod"' not in answer
    assert not answer or answer.split(b" ")[1][:1] in (b"4", b"5"), answer[:100]


def test_a_smuggled_second_request_is_not_answered(door: ingress.Door) -> None:
    raw = (
        b"POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close"
        b"\r\n\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: good.example\r\n\r\n"
    )
    answer = _sent(raw, closes=False)
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"/second" not in answer


def test_a_client_cannot_choose_a_slot_or_pretend_to_be_the_engine(door: ingress.Door) -> None:
    headers = {"x-netplane-slot": "h0", "X-Forwarded-For": "1.2.3.4", "x-original-url": "http://x/"}
    assert door.ask("http://nobody.elsewhere/", headers=headers).status == 404
    answer = door.ask("http://good.example/", headers=headers)
    assert door.backend(answer) == "default/good"
    assert answer.sent("x-forwarded-for")[-1] == ingress.DOOR


def test_the_log_stays_one_json_object_a_line(door: ingress.Door) -> None:
    door.ask("http://good.example/%22%7D%0A%7Bx?y=%22", headers={"User-Agent": 'x"}\\n{"a":1'})
    for host in ('good.example,x"}', 'good.example"}', "\\" * 300, 'x/"y,good.example'):
        door.ask("http://good.example/", host=host)
    assert door.controller is not None
    log = door.controller.log
    door.until(lambda: b"%7Bx" in log.read_bytes())
    # Its last line may be in the middle of being written.
    lines = log.read_text(errors="replace").rpartition("\n")[0].splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines if line.startswith("{"))
