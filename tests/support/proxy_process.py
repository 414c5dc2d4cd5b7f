"""`netplane proxy` as a process on a topology's node, against a plain API, and clients that never stop asking.

Everything the clients do is counted: a connection that stays open and talks, and new ones all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netplane.kernel import netns
from netplane.model.service import Protocol
from tests.support import static_api
from tests.support.topology import Topology

ECHO_PORT = 9000
PATIENCE = 120.0
_PACE = 0.1
PACE_IN_A_MACHINE = 0.4
"""How long clients pause between questions, in seconds; where the processor is emulated, it is short of time."""
ROOT = Path(__file__).resolve().parents[2]

Nursery = Callable[[str, Path, Sequence[str]], int]
"""Starts a proxy in a namespace, with a file for what it says and its options, and returns its process id."""


@dataclass(slots=True)
class Proxies:
    """Processes on the node, one after another, and the API that they follow."""

    lab: Topology
    folder: Path
    api: static_api.StaticApi
    loop: asyncio.AbstractEventLoop
    nursery: Nursery
    running: list[Running] = field(default_factory=list)

    def put(self, obj: static_api.Object) -> None:
        """Add or replace an object."""
        asyncio.run_coroutine_threadsafe(_call(lambda: self.api.put(obj)), self.loop).result(10)

    def answers(self, *, is_up: bool) -> None:
        """Let the API go away, or come back."""
        turn = self.api.start if is_up else self.api.stop
        asyncio.run_coroutine_threadsafe(turn(), self.loop).result(10)

    def start(self, mode: str, *options: str) -> Running:
        """Start a proxy, and wait until it forwards."""
        made = self._live("--mode", mode, *self._usual(), *options)
        made.until("forwarding")
        return made

    def command(self, *words: str) -> str:
        """Run a subcommand to its end, and return what it printed."""
        made = self._live("--state-dir", str(self.folder), *words)
        made.ended(seconds=120)
        return made.log.read_text()

    def _usual(self) -> list[str]:
        return [
            "--kubeconfig", str(self.folder / "kubeconfig"), "--node-name", "node-1", "--state-dir", str(self.folder),
            "--cluster-cidr", "10.244.0.0/16,fd00:244::/48", "--service-cidr", "10.96.0.0/16,fd00:96::/112",
            "--healthz-bind-address", "", "--metrics-bind-address", "",
        ]  # fmt: skip

    def _live(self, *options: str) -> Running:
        log = self.folder / f"proxy-{len(self.running)}.log"
        log.touch()
        made = Running(self.nursery(self.lab.places["node"], log, options), log)
        self.running.append(made)
        return made


@dataclass(slots=True)
class Running:
    """A proxy's process, and what it says."""

    pid: int
    log: Path

    @property
    def is_alive(self) -> bool:
        """Tell whether it has not ended."""
        return Path(f"/proc/{self.pid}").exists()

    def until(self, word: str) -> None:
        """Wait until it says something."""
        wait(lambda: word in self.log.read_text() or not self.is_alive)
        assert word in self.log.read_text(), self.log.read_text()

    def ended(self, *, seconds: float = PATIENCE) -> None:
        """Wait until it has ended well."""
        code = self.log.with_suffix(".code")
        wait(lambda: code.exists() and bool(code.read_text()), seconds=seconds)
        assert code.read_text() == "0", self.log.read_text()

    def kill(self) -> None:
        """End it without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        wait(lambda: not self.is_alive)

    def stop(self) -> None:
        """Ask it to end."""
        os.kill(self.pid, signal.SIGTERM)
        self.ended()


NURSERY = sys.executable, "-m", "tests.support.proxy_nursery"


@contextlib.contextmanager
def nursery(argv: Sequence[str] = NURSERY, *, place: str = "") -> Iterator[Nursery]:
    """Run what forks proxies (proxy_nursery); in a namespace that it has no right to enter by itself, if one is given.

    It has loaded the proxy once, which takes the most of a start.
    """

    def run() -> subprocess.Popen[str]:
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    with netns.run_in(place, run) if place else run() as made:
        asking, answers = made.stdin, made.stdout
        assert asking is not None
        assert answers is not None
        assert answers.readline() == "ready\n"

        def start(where: str, log: Path, options: Sequence[str]) -> int:
            assert place in ("", where)
            asked = {"place": "" if place else where, "log": str(log), "options": options}
            print(json.dumps(asked), file=asking, flush=True)
            return int(answers.readline())

        yield start


@contextlib.contextmanager
def proxies(lab: Topology, folder: Path, start: Nursery) -> Iterator[Proxies]:
    """Serve an API on the node and echoes on the pods and the node; end everything that was started."""
    api, loop = static_api.StaticApi(), asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: _serve(lab.places["node"], loop), daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(api.start(), loop).result(10)
    (folder / "kubeconfig").write_text(static_api.kubeconfig(api.port))
    made = Proxies(lab, folder, api, loop, start)
    try:
        with contextlib.ExitStack() as stack:
            for place in ("pod1", "pod2", "node"):
                stack.enter_context(echo(lab.places[place], place))
            yield made
    finally:
        for one in made.running:
            if one.is_alive:
                one.kill()
        asyncio.run_coroutine_threadsafe(api.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Steady:
    """Talks all the time: over one connection that stays, or over a new one each time. Every failure is kept."""

    def __init__(
        self,
        lab: Topology,
        place: str,
        where: tuple[str, int],
        *,
        stays: bool,
        protocol: Protocol = Protocol.TCP,
        pace: float = _PACE,
    ) -> None:
        """Say who asks whom, and how long it pauses between two questions."""
        self._pace = pace
        self._place = lab.places[place]
        self._where = where
        self._stays = stays
        self._kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.name = f"{'one connection' if stays else 'new connections'} by {protocol} from {place} to {where}"
        self.answers = 0
        self.answered: set[str] = set()
        self.failures: list[str] = []

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(2 * PATIENCE)

    def more(self, count: int, *, seconds: float = 2 * PATIENCE) -> None:
        """Wait until so many more were answered."""
        goal = self.answers + count
        wait(lambda: self.answers >= goal or bool(self.failures), seconds=seconds)
        assert self.failures == [], (self.name, self.failures)
        assert self.answers >= goal, (self.name, self.answers)

    def _work(self) -> None:
        while not self._done.is_set():
            try:
                with self._opened() as one:
                    while True:
                        self._ask(one)
                        if self._done.wait(self._pace) or not self._stays:
                            break
            except OSError as error:
                self.failures.append(f"after {self.answers}: {error!r}")

    def _opened(self) -> socket.socket:
        with netns.inside(self._place):
            made = socket.socket(socket.AF_INET6 if ":" in self._where[0] else socket.AF_INET, self._kind)
        made.settimeout(PATIENCE)  # what is lost never arrives, and a machine that is emulated is slow
        if self._kind == socket.SOCK_STREAM:
            # Ends by a reset, which IPVS remembers for ten seconds alone, and an orderly end for two minutes.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.connect(self._where)
        return made

    def _ask(self, one: socket.socket) -> None:
        one.send(b"?\n")
        answer = one.recv(100)
        if not answer:
            raise ConnectionError("closed by the other end")
        self.answered.add(answer.decode().strip())
        self.answers += 1


TRACES = {
    "nftables": (("nft list tables",), r" netplane(_next)?$"),
    "ipvs": (("nft list tables", "ip -br link", "ipvsadm -Sn"), r"netplane.ipvs|^-A"),
    "iptables": (
        (
            *(f"{tool}-{variant}-save" for tool in ("iptables", "ip6tables") for variant in ("legacy", "nft")),
            "nft list tables",
        ),
        r"NETPLANE-|netplane_localhost",
    ),
}
"""What shows that something of a mode is on a node: what is asked, and an expression for what is answered then."""


def traces(lab: Topology, mode: str) -> list[str]:
    """Return what is on the node of a mode."""
    commands, shows = TRACES[mode]
    said = "".join(lab.run("node", *command.split()) for command in commands)
    return [line for line in said.splitlines() if re.search(shows, line)]


def wait(is_so: Callable[[], bool], *, seconds: float = PATIENCE, pause: float = 0.02) -> None:
    """Wait until something is so, or long enough; `pause` is how long between two looks, some of which cost a lot."""
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(pause)


@contextlib.contextmanager
def echo(place: str, name: str) -> Iterator[None]:
    """Answer every line with a name, for as long as the client likes, by TCP and UDP, in both families."""

    class Stream(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                for _ in self.rfile:
                    self.wfile.write(f"{name}\n".encode())

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request[1].sendto(f"{name}\n".encode(), self.client_address)

    with contextlib.ExitStack() as stack:
        for kind, handler in ((_Tcp, Stream), (_Udp, Datagram)):
            with netns.inside(place):
                server = stack.enter_context(kind(("::", ECHO_PORT), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
            stack.callback(server.shutdown)
        yield


class _Udp(socketserver.UDPServer):
    address_family = socket.AF_INET6  # and of IPv4


class _Tcp(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


def _serve(place: str, loop: asyncio.AbstractEventLoop) -> None:
    def run() -> None:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    netns.run_in(place, run)


async def _call(act: Callable[[], int]) -> int:
    return act()
