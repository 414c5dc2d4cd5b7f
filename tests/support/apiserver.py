"""Start a real API server process on loopback, for tests and benchmarks. What is asked of it is theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

START_SECONDS = 120.0
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Server:
    """A running server process."""

    data_dir: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.data_dir / "admin.kubeconfig"

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The administrator's token."""
        return str(yaml.safe_load(self.kubeconfig.read_text())["users"][0]["user"]["token"])

    def context(self) -> ssl.SSLContext:
        """A TLS context that trusts it."""
        return ssl.create_default_context(cafile=str(self.data_dir / "pki" / "ca.crt"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; return its exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program() -> list[str]:
    """Return the command `netplane`, of this very checkout."""
    return [sys.executable, "-c", "from netplane.cli import main; main()"]


def command(data_dir: Path, port: int, options: Sequence[str] = ("--no-controllers",)) -> list[str]:
    """Return the command line of a server on loopback."""
    listen = ["--listen", f"127.0.0.1:{port}"]
    return [*program(), "server", "--data-dir", str(data_dir), *listen, *options]


def start(data_dir: Path, *, port: int = 0, options: Sequence[str] = ("--no-controllers",)) -> Server:
    """Start a server and wait until it is ready; its log goes to `server.log` in the data directory."""
    port = port or free_port()
    data_dir.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY)}
    with open(data_dir / "server.log", "ab") as log:
        process = subprocess.Popen(command(data_dir, port, options), stdout=log, stderr=log, env=environment)
    server = Server(data_dir, port, process)
    try:
        wait(server)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return server


def wait(server: Server) -> None:
    """Wait until the server is ready; fail with its log when it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended: {(server.data_dir / 'server.log').read_text()}")
        # The CA is not there before the server has made it: OSError covers that as well.
        with contextlib.suppress(OSError):
            answer = urllib.request.urlopen(f"{server.url}/readyz", context=server.context(), timeout=2)
            answer.close()
            return
        time.sleep(0.02)
    raise AssertionError(f"the server is not ready: {(server.data_dir / 'server.log').read_text()}")


@contextlib.contextmanager
def running(data_dir: Path, *, options: Sequence[str] = ("--no-controllers",)) -> Iterator[Server]:
    """Run a server for as long as the block lasts."""
    server = start(data_dir, options=options)
    try:
        yield server
    finally:
        server.stop()
