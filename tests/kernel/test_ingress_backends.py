"""How the door reaches backends and who is let through to them: h2, leastconn, sign-in, limits, listeners, failures."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ingress
from tests.support import ingress_objects as o
from tests.support.ingress_serve import known, serve

_H2_POD, _H2_PORT = "10.244.250.1", 9000
_H2 = (
    "defaults\n    mode http\n    timeout client 9s\n    timeout server 9s\n    timeout connect 9s\n"
    f"frontend pod\n    bind {_H2_POD}:{_H2_PORT} proto h2\n"
    '    http-request return status 200 content-type text/plain lf-string "HTTP/%[req.ver] %[path]"\n'
)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ingress.Door]:
    """A door with Services `web` and `other`, which also listens on an IPv6 address."""
    addresses = [f"--address={ingress.DOOR}", "--address=::1"]
    with ingress.door(tmp_path_factory.mktemp("door"), options=addresses) as made:
        made.api.apply(o.ingress_class())
        made.service("web", pods=2)
        made.service("other")
        known(made, "web", "other")
        yield made


@contextlib.contextmanager
def _h2_pod(folder: Path) -> Iterator[None]:
    path = folder / "pod.cfg"
    path.write_text(_H2)
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(path)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_who_is_not_known_is_sent_to_sign_in(door: ingress.Door) -> None:
    url, page = "http://other.default.svc:8080/check", "https://login.example/start"
    serve(door, "signin.example", auth_url=url, auth_signin=page)
    answer = door.refuses("http://signin.example/x", 302, headers={"x-echo-status": "401"})
    assert answer.headers["location"] == page
    door.refuses("http://signin.example/x", 403, headers={"x-echo-status": "403"})
    door.answers("http://signin.example/x", "web")


def test_requests_are_counted_by_the_minute(door: ingress.Door) -> None:
    serve(door, "minute.example", limit_rpm="60")
    statuses = [door.ask("http://minute.example/").status for _ in range(70)]
    allowed = statuses.index(429)
    assert allowed in range(60, 67)
    assert set(statuses[allowed:]) == {429}


def test_backends_are_spoken_to_over_http2(door: ingress.Door, tmp_path: Path) -> None:
    ports = [{"name": "grpc", "port": 8080, "targetPort": _H2_PORT}]
    door.api.apply(o.service("grpc", ports=ports))
    door.api.apply(o.endpoint_slice("grpc", [_H2_POD], ports=ports))
    serve(door, "grpc.example", "grpc", backend_protocol="GRPC")
    with _h2_pod(tmp_path):
        door.until(lambda: door.ask("http://grpc.example/a").status == 200)
        # A pod whose port is open answers everything from then on.
        assert [door.ask("http://grpc.example/pkg.Api/Call", method="POST", body=b"x").body for _ in range(5)] == [
            b"HTTP/2.0 /pkg.Api/Call"
        ] * 5


def test_a_busy_pod_gets_nothing_while_another_is_idle(door: ingress.Door) -> None:
    serve(door, "least.example", balance="leastconn")

    def asked() -> int:
        return len({door.ask("http://least.example/").said["pod"] for _ in range(4)})

    def one_is_spared() -> bool:
        with socket.create_connection((ingress.DOOR, 80)) as holder:
            holder.sendall(b"GET /slow HTTP/1.1\r\nHost: least.example\r\nx-echo-delay: 8\r\n\r\n")
            pods = asked()
            holder.setblocking(False)
            with pytest.raises(BlockingIOError):
                holder.recv(1)
        return pods == 1

    # With nothing held they take turns.
    door.until(lambda: asked() == 2)
    door.until(one_is_spared, limit=60)
    # The pod works on, although nobody waits for its answer any more.
    door.until(lambda: asked() == 2, limit=60)


def test_the_door_listens_on_ipv6_as_well(door: ingress.Door) -> None:
    serve(door, "six.example")
    assert door.answers("http://six.example/", "web", address="::1").sent("x-forwarded-for") == ["::1"]
    assert door.answers("http://six.example/", "web").sent("x-forwarded-for") == [ingress.DOOR]


def test_what_the_door_itself_fails_with_counts_as_a_server_error(door: ingress.Door) -> None:
    door.service("empty", pods=0)
    serve(door, "empty.example", "empty")
    for _ in range(3):
        door.refuses("http://empty.example/", 503)
    door.until(lambda: door.metric("netplane_ingress_server_errors_total", name="empty") == 3)
