"""Run real etcd members on loopback for tests: one or three, with TLS or without, killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = shutil.which("etcd") or ""
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files that TLS members need; clients must show a certificate of the same CA."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(slots=True)
class Member:
    """One member: its ports stay the same while it is down."""

    name: str
    directory: Path
    client_port: int
    peer_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients speak with it."""
        return f"127.0.0.1:{self.client_port}"


@dataclass(slots=True)
class Etcds:
    """The members of one cluster."""

    members: list[Member]
    certificates: Certificates | None = None
    _log: list[Path] = field(default_factory=list)

    @property
    def addresses(self) -> list[str]:
        """Where clients speak with the members."""
        return [member.address for member in self.members]

    def start(self, member: Member) -> None:
        """Start a member that is down; it takes up where it was."""
        assert PROGRAM, "no etcd on this machine: install Debian's etcd-server"
        scheme = "https" if self.certificates else "http"
        cluster = ",".join(f"{each.name}=http://127.0.0.1:{each.peer_port}" for each in self.members)
        options = {
            "name": member.name,
            "data-dir": str(member.directory),
            "listen-client-urls": f"{scheme}://{member.address}",
            "advertise-client-urls": f"{scheme}://{member.address}",
            "listen-peer-urls": f"http://127.0.0.1:{member.peer_port}",
            "initial-advertise-peer-urls": f"http://127.0.0.1:{member.peer_port}",
            "initial-cluster": cluster,
            "heartbeat-interval": "50",
            "election-timeout": "500",
            "log-level": "error",
        }
        if self.certificates:
            options |= {
                "cert-file": str(self.certificates.certificate),
                "key-file": str(self.certificates.key),
                "trusted-ca-file": str(self.certificates.ca),
                "client-cert-auth": "true",
            }
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
        with open(member.directory.with_suffix(".log"), "ab") as log:
            member.process = subprocess.Popen(
                [PROGRAM, *(f"--{name}={value}" for name, value in options.items())],
                stdout=log, stderr=log, env={**environment, "ETCD_UNSUPPORTED_ARCH": "arm64"},
            )  # fmt: skip

    def kill(self, member: Member, number: int = signal.SIGKILL) -> None:
        """Kill a member and wait for its end."""
        if member.process is not None:
            member.process.send_signal(number)
            member.process.wait()
            member.process = None

    def wait(self) -> None:
        """Wait until a quorum answers; without TLS by asking, else by the ports."""
        deadline = time.monotonic() + _START_SECONDS
        while not all(self._answers(member) for member in self.members if member.process):
            assert time.monotonic() < deadline, [m.directory.with_suffix(".log").read_text() for m in self.members]
            time.sleep(0.02)

    def _answers(self, member: Member) -> bool:
        with contextlib.suppress(OSError):
            if self.certificates:
                socket.create_connection(("127.0.0.1", member.client_port), timeout=1).close()
                return True
            with urllib.request.urlopen(f"http://{member.address}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
        return False


@contextlib.contextmanager
def running(directory: Path, *, count: int = 1, certificates: Certificates | None = None) -> Iterator[Etcds]:
    """Run a cluster for as long as the block lasts."""
    ports = _ports(2 * count)
    members = [Member(f"m{n}", directory / f"m{n}", ports[2 * n], ports[2 * n + 1]) for n in range(count)]
    cluster = Etcds(members, certificates)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        for member in members:
            cluster.start(member)
        cluster.wait()
        yield cluster
    finally:
        for member in members:
            cluster.kill(member)
        shutil.rmtree(directory, ignore_errors=True)


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
