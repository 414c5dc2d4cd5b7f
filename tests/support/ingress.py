"""A front door for tests: an API server, `netplane ingress` with a real HAProxy, and pods that say who they are.

All of it lives in one network namespace, which the calling thread is in as well for as long as the door stands, so a
test asks through plain sockets. Pods are addresses of 10.244.0.0/16, all answered by `echo_backends`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from netplane.kernel import netns
from netplane.kube.types import Object
from tests.support import apiserver, echo_backends, ingress_objects, tls
from tests.support.ingress_api import Api, Refused

DOOR = "203.0.113.10"
"""The address under which the door is published and asked."""
PATIENCE = 20.0
_REPOSITORY = Path(__file__).resolve().parents[2]
_NETWORK = """
link set lo up
addr add 10.244.0.1/16 dev lo
addr add 203.0.113.10/32 dev lo
addr add 203.0.113.20/32 dev lo
"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the door answered. `said` is the echo's JSON, empty when the answer came from someone else."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    certificate: bytes = b""
    headers_all: tuple[tuple[str, str], ...] = ()

    @property
    def said(self) -> dict[str, Any]:
        """The echo's words."""
        try:
            decoded = json.loads(self.body)
        except ValueError:
            return {}
        return decoded if isinstance(decoded, dict) and "pod" in decoded else {}

    def sent(self, name: str) -> list[str]:
        """Return the values of a header as the pod got it."""
        found: list[str] = self.said["headers"].get(name.lower(), [])
        return found


@dataclass(slots=True)
class Controller:
    """The running `netplane ingress`."""

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; return its exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@dataclass(slots=True)
class Door:
    """Everything that stands, and the ways to ask it."""

    folder: Path
    server: apiserver.Server
    api: Api
    echo: subprocess.Popen[bytes]
    options: Sequence[str] = ()
    controller: Controller | None = None
    service_of: dict[str, str] = field(default_factory=dict)
    _next_pod: int = 256

    # --- the cluster ---

    def service(
        self,
        name: str,
        *,
        namespace: str = "default",
        pods: int = 1,
        ports: Sequence[Mapping[str, Any]] = (),
        target: int = echo_backends.HTTP,
        **spec: Any,
    ) -> list[str]:
        """Make a Service with an EndpointSlice of so many new pods; return the pods' addresses."""
        addresses = [self.new_pod(f"{namespace}/{name}") for _ in range(pods)]
        named = list(ports) or [{"name": "http", "port": 8080, "targetPort": target}]
        self.api.apply(ingress_objects.service(name, namespace=namespace, ports=named, **spec))
        self.api.apply(ingress_objects.endpoint_slice(name, addresses, namespace=namespace, ports=named))
        return addresses

    def new_pod(self, of: str) -> str:
        """Return an address nobody has had yet, and remember of which Service (namespace/name) it is."""
        self._next_pod += 1
        address = f"10.244.{self._next_pod // 256}.{self._next_pod % 256}"
        self.service_of[address] = of
        return address

    def start_pod(self, address: str, port: int) -> None:
        """Let a pod listen on a further port of its own."""
        self._command("start", address, port)

    def stop_pod(self, address: str, port: int) -> None:
        """Let it listen there no longer."""
        self._command("stop", address, port)

    def _command(self, verb: str, address: str, port: int) -> None:
        assert self.echo.stdin is not None
        assert self.echo.stdout is not None
        self.echo.stdin.write(f"{verb} {address} {port}\n".encode())
        self.echo.stdin.flush()
        assert self.echo.stdout.readline() == b"ok\n"

    def backend(self, answer: Answer) -> str:
        """Return the Service (namespace/name) whose pod answered, "" when none did."""
        return self.service_of.get(answer.said.get("pod", ""), "")

    # --- asking ---

    def ask(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        host: str | None = None,
        sni: str | None = None,
        trust: str | None = None,
        address: str = DOOR,
        port: int = 0,
        version: str = "HTTP/1.1",
    ) -> Answer:
        """Send one request. The URL names scheme, host and path; the connection goes to the door's address.

        `host` replaces the Host header, `sni` the server name ("" for none). With `trust` (a CA as PEM) the
        certificate is verified for the name, else it is only noted.
        """
        parts = urlsplit(url)
        where = (address, port or parts.port or (443 if parts.scheme == "https" else 80))
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        name = parts.netloc if host is None else host
        request = _request(f"{method} {path} {version}", name, headers, body)
        with socket.create_connection(where, timeout=PATIENCE) as plain:
            stream, certificate = plain, b""
            if parts.scheme == "https":
                stream = _secured(plain, (parts.hostname or "") if sni is None else sni, trust)
                certificate = stream.getpeercert(binary_form=True) or b""
            stream.sendall(request)
            answer = http.client.HTTPResponse(stream, method=method)
            answer.begin()
            pairs_back = answer.getheaders()
            content = answer.read()
            if stream is not plain:
                stream.close()
        folded = {k.lower(): v for k, v in pairs_back}
        return Answer(answer.status, folded, content, certificate, tuple(pairs_back))

    def until(self, claim: Callable[[], T], *, limit: float = PATIENCE) -> T:
        """Ask again until the claim holds (is true and raises nothing) and return it; fail with its last word."""
        deadline, last = time.monotonic() + limit, "never asked"
        while time.monotonic() < deadline:
            self.alive()
            try:
                found = claim()
                if found:
                    return found
                last = repr(found)
            except (AssertionError, OSError, http.client.HTTPException, LookupError, ValueError, Refused) as error:
                last = repr(error)
            time.sleep(0.02)
        raise AssertionError(f"not within {limit} s: {last}\n{self.log_tail()}")

    def answers(self, url: str, by: str, **asked: Any) -> Answer:
        """Wait until a Service (namespace/name, or name in `default`) answers a request, and return the answer."""
        wanted = by if "/" in by else f"default/{by}"

        def is_served() -> Answer | None:
            answer = self.ask(url, **asked)
            assert self.backend(answer) == wanted, f"{answer.status} by {self.backend(answer)!r}: {answer.body[:200]!r}"
            return answer

        found = self.until(is_served)
        assert found is not None
        return found

    def refuses(self, url: str, status: int = 404, **asked: Any) -> Answer:
        """Wait until a request is answered with this status, and return the answer."""

        def is_refused() -> Answer | None:
            answer = self.ask(url, **asked)
            assert answer.status == status, f"{answer.status} by {self.backend(answer)!r}: {answer.body[:200]!r}"
            return answer

        found = self.until(is_refused)
        assert found is not None
        return found

    # --- the controller ---

    def start(self, *more: str) -> Controller:
        """Start the controller and wait until it is ready."""
        options = [*self.options, *more]
        command = [*apiserver.program(), "ingress", "--kubeconfig", str(self.server.kubeconfig), *options]
        log = self.folder / "ingress.log"
        environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY)}
        with open(log, "ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=self.folder)
        self.controller = Controller(command, log, process)
        self.until(self.is_ready, limit=3 * PATIENCE)
        return self.controller

    def is_ready(self) -> bool:
        """Tell whether the controller says that it serves all that was there when it started."""
        return self.management("/readyz").status == 200

    def management(self, path: str) -> Answer:
        """Ask the controller itself: /readyz, /metrics, /status."""
        return self.ask(f"http://127.0.0.1:{ingress_objects.MANAGEMENT_PORT}{path}", address="127.0.0.1")

    def metric(self, name: str, /, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.management("/metrics").body.decode().splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def alive(self) -> None:
        """Fail with its log when the controller has ended."""
        if self.controller and self.controller.process.poll() is not None:
            raise AssertionError(f"the controller ended\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the controller's last words."""
        return self.controller.log.read_text()[-4000:] if self.controller else ""

    def events(self, name: str, *, namespace: str = "default") -> list[Object]:
        """Return the Events about an object of this name."""
        found = self.api.items(f"/api/v1/namespaces/{namespace}/events")
        return [each for each in found if each["involvedObject"]["name"] == name]


def _request(line: str, host: str, headers: Mapping[str, str] | Sequence[tuple[str, str]], body: bytes | None) -> bytes:
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    lines = [line, f"Host: {host}", *(f"{k}: {v}" for k, v in pairs)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if not any(k.lower() == "connection" for k, _ in pairs):
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def _secured(plain: socket.socket, name: str, trust: str | None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=trust) if trust else ssl._create_unverified_context()
    return context.wrap_socket(plain, server_hostname=name or None)


@contextlib.contextmanager
def door(folder: Path, *, options: Sequence[str] = (), starts: bool = True) -> Iterator[Door]:
    """Stand a door up in a namespace of its own, be in it until the block ends, and remove everything."""
    place = str(folder / "netns")
    netns.create(place)
    with contextlib.ExitStack() as stack:
        stack.callback(netns.remove_if_present, place)
        stack.enter_context(netns.inside(place))
        subprocess.run(["ip", "-batch", "-"], input=_NETWORK, text=True, check=True)
        echo = stack.enter_context(_echo(folder))
        server = stack.enter_context(apiserver.running(folder / "api"))
        made = Door(folder, server, Api(server), echo, [*ingress_objects.options(folder, DOOR), *options])
        stack.callback(_end, made)
        if starts:
            made.start()
        yield made


def _end(made: Door) -> None:
    if made.controller and made.controller.process.poll() is None:
        made.controller.stop()
    _end_engines(str(made.folder))


def _end_engines(folder: str) -> None:
    """End what controllers left running for this folder: engines, which drop nothing, and who checks passwords."""
    for pid in (int(each) for each in os.listdir("/proc") if each.isdigit()):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            if ("haproxy" in line or "ingress.run.passwords" in line) and folder in line:
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _echo(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    tls.authority(folder)
    command = [sys.executable, "-m", "tests.support.echo_backends", str(folder / "server-127.0.0.1.pem")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=_REPOSITORY) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()
