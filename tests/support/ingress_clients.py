"""Clients of a door: some that go on (`ingress_load`) while something happens to it, others that ask once."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import ingress


@contextlib.contextmanager
def loaded(host: str, *, rate: int, clients: int, sockets: int, downloads: int) -> Iterator[list[str]]:
    """Run the clients for as long as the block lasts; what they say in the end is in the list."""
    numbers = [str(each) for each in (rate, clients, sockets, downloads)]
    command = [sys.executable, "-m", "tests.support.ingress_load", ingress.DOOR, host, *numbers]
    said: list[str] = []
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as going:
        assert going.stdout is not None
        try:
            assert going.stdout.readline() == "going\n"
            yield said
            said.append(going.communicate(timeout=60)[0])
        finally:
            going.kill()


def engines(door: ingress.Door) -> set[int]:
    """Return the process ids of this door's HAProxy."""
    found = set()
    for pid in (int(each) for each in os.listdir("/proc") if each.isdigit()):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if line.split(b"\0")[0].endswith(b"haproxy") and str(door.folder).encode() in line:
                found.add(pid)
    return found


def over_http2(host: str, *options: str, body: bytes = b"") -> None:
    """Ask; what the door answers before it has the whole body may be lost on its way, but it is logged."""
    command = ["curl", "-sk", "--http2", "-m", "60", "-o", "/dev/null", *options]
    command += ["--connect-to", f"{host}:443:{ingress.DOOR}:443", f"https://{host}/"]
    subprocess.run(command, input=body, check=False)


def statuses_over_http2(door: ingress.Door, host: str) -> list[int]:
    """Return what the log says of such requests."""
    return [row["status"] for row in logged(door, host) if row["protocol"] == "HTTP/2.0"]


def answer_all(listener: ssl.SSLSocket) -> None:
    """Answer each connection once, until the listener is closed."""
    while True:
        try:
            stream, _ = listener.accept()
            stream.recv(65536)
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            stream.close()
        except ssl.SSLError:
            continue
        except OSError:
            if listener.fileno() < 0:
                return


def status_with(door: ingress.Door, host: str, pem: str) -> int:
    """Ask over TLS with a client's certificate."""
    context = ssl._create_unverified_context()
    context.load_cert_chain(pem)
    with secured(context, host) as stream:
        stream.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(stream.recv(4096).split(b" ")[1])


def secured(context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Connect to the door over TLS."""
    return context.wrap_socket(
        socket.create_connection((ingress.DOOR, 443), timeout=ingress.PATIENCE), server_hostname=host
    )


def logged(door: ingress.Door, host: str) -> list[dict[str, Any]]:
    """Return what the access log says of a host, without a line that is being written."""
    whole = [line for line in door.log_tail().splitlines() if line.endswith("}") and line.startswith("{")]
    return [json.loads(line) for line in whole if f'"host":"{host}"' in line]


def proxied(port: int, host: str) -> dict[str, Any]:
    """Ask with a PROXY protocol header in front; return what the pod said."""
    with socket.create_connection((ingress.DOOR, port), timeout=ingress.PATIENCE) as plain:
        plain.sendall(b"PROXY TCP4 198.51.100.7 203.0.113.10 4000 80\r\n")
        stream = plain if port == 80 else ssl._create_unverified_context().wrap_socket(plain, server_hostname=host)
        stream.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        whole = b""
        while piece := stream.recv(65536):
            whole += piece
        stream.close()
    said: dict[str, Any] = json.loads(whole.partition(b"\r\n\r\n")[2])
    return said
