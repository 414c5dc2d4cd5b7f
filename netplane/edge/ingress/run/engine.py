"""The engine's process: write its files, start it, adopt one that runs, replace it without a gap, talk to it.

It is a process of its own and outlives us: whoever starts next finds it by its socket and goes on with it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import orjson

from netplane.edge.ingress.plan import base, observe
from netplane.edge.ingress.plan.state import MAPS, Command, Paths, State, digest, forget, is_line, list_line, row
from netplane.edge.ingress.plan.state import diff as difference
from netplane.edge.ingress.run import selfsigned
from netplane.edge.ingress.run.admin import Admin, EngineError
from netplane.kernel.process import environment
from netplane.lib import log

_LOG = log.get("ingress")
_START_SECONDS = 20.0
_LOOK_SECONDS = 0.2
_MARK = re.compile(r"netplane-([0-9a-f]+)")


@dataclass(slots=True)
class Counts:
    """What was done to the engine, for metrics."""

    starts: int = 0
    reloads: int = 0
    adoptions: int = 0
    commands: int = 0


class Engine:
    """One HAProxy of this door."""

    def __init__(self, settings: base.Settings, *, state: Path, binary: str = "/usr/sbin/haproxy") -> None:
        """`state` is where what must survive a restart of the machine is kept."""
        self._state = state
        self._directory = Path(settings.directory)
        self.settings = self._grown(settings)
        self.counts = Counts()
        self.pid = 0
        self._marked: tuple[base.Settings | None, str] = (None, "")
        self._binary = binary
        self._default_pem = ""
        self._own = ""
        self._paths = Paths(settings.directory)
        self.admin = Admin(self._directory / "admin.sock")
        self._children: set[asyncio.subprocess.Process] = set()
        self._has_ended = asyncio.Event()

    async def running(self) -> str:
        """Return the mark of the configuration that a running engine has, "" when none runs."""
        try:
            about = await self.admin.ask("show info")
        except EngineError:
            return ""
        pid = re.search(r"^Pid: (\d+)", about, re.MULTILINE)
        self.pid = int(pid.group(1)) if pid else 0
        mark = _MARK.search(about)
        return mark.group(1) if mark else "unknown"

    def mark(self) -> str:
        """Name the configuration without what changes at run time."""
        settings, mark = self._marked
        if settings is not self.settings:
            text = base.config(self.settings, {}, mark="", cookie_key=self._cookie_key())
            mark = digest(text + _program(Path(self.settings.lua)), 16)
            self._marked = (self.settings, mark)
        return mark

    async def start(self, state: State, *, default_pem: str = "") -> None:
        """Write all files and start a process; one that runs hands its sockets over and ends with its connections."""
        old = self.pid if await self.running() else 0
        self._default_pem = default_pem or await asyncio.to_thread(self._own_certificate)
        self._write(state)
        argv = [self._binary, "-db", "-f", str(self._directory / "haproxy.cfg")]
        if old:
            argv += ["-x", str(self.admin.path), "-sf", str(old)]
        self.admin.close()
        # Its standard error repeats every command of ours; its standard output is the access log.
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        self._children.add(child)
        await self._until_up(child)
        self._has_ended.set()  # Who waits for the end of the former one has another to wait for.
        self.counts.starts += not old
        self.counts.reloads += bool(old)
        _LOG.info("engine reloaded" if old else "engine started", pid=self.pid, routes=_routes(state))

    async def observe(self) -> State:
        """Read back all that the engine holds."""
        maps = await self.admin.run([Command(f"show map {self._paths.map(name)}", accepts=("", "0x")) for name in MAPS])
        servers = await self.admin.ask(Command("show servers state", accepts=("1",)))
        listed = await self.admin.ask(
            Command(f"show ssl crt-list {self._paths.certificate_list}", accepts=("", "#", "/"))
        )
        authorities = await self.admin.ask(Command("show ssl ca-file", accepts=("", "#")))
        return observe.state(dict(zip(MAPS, maps, strict=True)), servers, listed, authorities, self._paths)

    async def apply(self, want: State, have: State) -> int:
        """Bring the engine from `have` to `want`; return how many commands it took."""
        commands = difference(want, have, self._paths)
        answers = await self.admin.run(commands)
        for command, answer in zip(commands, answers, strict=True):
            if command.subject and command.is_refused(answer):
                reason = " ".join(answer.split())
                _LOG.warning("the engine refused", what=command.subject, command=command.line, reason=reason)
        self.counts.commands += len(commands)
        return len(commands)

    async def forget(self, leaving: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        """Remove servers that nothing is connected to any more; return those that have to wait."""
        commands = forget(leaving)
        answers = await self.admin.run(commands)
        gone = {at for at, answer in enumerate(answers) if any(text in answer for text in commands[at].accepts)}
        return frozenset(one for at, one in enumerate(sorted(leaving)) if at not in gone)

    async def set_default_certificate(self, pem: str) -> int:
        """Serve this for names that have no certificate ("": one of our own); return how many commands it took."""
        self._own = self._own or await asyncio.to_thread(self._own_certificate)
        pem = pem or self._own
        path = self._paths.certificate("default")
        if not self._default_pem and Path(path).exists():
            self._default_pem = Path(path).read_text()
        if pem == self._default_pem:
            return 0
        await self.admin.run([
            Command(f"set ssl cert {path}", pem.strip(), accepts=("ransaction",)),
            Command(f"commit ssl cert {path}", accepts=("Committing",)),
        ])  # fmt: skip
        _write(Path(path), pem, secret=True)
        self._default_pem = pem
        return 2

    async def ended(self) -> None:
        """Wait until the engine's process ends, or another one has taken its place.

        It is the process that is watched: a connection to it would keep one that was replaced from ending.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            await asyncio.sleep(_LOOK_SECONDS)
            return
        loop, self._has_ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, self._has_ended.set)
        try:
            await self._has_ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def stop(self) -> None:
        """End the engine and its connections."""
        if await self.running() and self.pid:
            os.kill(self.pid, 15)
            await self.ended()
        self.admin.close()

    async def _until_up(self, child: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(_START_SECONDS):
            while not (await self.running() and self.pid == child.pid):
                if child.returncode is not None:
                    raise EngineError(f"{self._binary} ended at once with code {child.returncode}: {await self._why()}")
                self.admin.close()  # It may have been to the process that is being replaced.
                await asyncio.sleep(0.01)

    async def _why(self) -> str:
        config = str(self._directory / "haproxy.cfg")
        checker = await asyncio.create_subprocess_exec(
            self._binary, "-c", "-f", config, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await checker.communicate()
        alerts = [line for line in out.decode(errors="replace").splitlines() if "ALERT" in line]
        return " ".join((alerts or ["its configuration is valid; is the port taken?"])[:3])

    def _write(self, state: State) -> None:
        for name in ("maps", "certs", "authorities"):
            (self._directory / name).mkdir(exist_ok=True, mode=0o700)
        for name in MAPS:
            rows = state.maps.get(name, {})
            lines = [line for line in (row(key, value) for key, value in rows.items()) if line]
            _write(Path(self._paths.map(name)), "".join(f"{line}\n" for line in lines))
        _write(Path(self._paths.certificate("default")), self._default_pem, secret=True)
        for name, certificate in state.certificates.items():
            _write(Path(self._paths.certificate(name)), certificate.pem, secret=True)
        for name, pem in state.authorities.items():
            _write(Path(self._paths.authority(name)), pem)
        lines = [list_line(name, one, self._paths) for name, one in sorted(state.certificates.items())]
        _write(Path(self._paths.certificate_list), "".join(f"{line}\n" for line in lines if is_line(line)))
        servers = state.servers
        text = base.config(self.settings, servers, mark=self.mark(), cookie_key=self._cookie_key())
        _write(self._directory / "haproxy.cfg", text, secret=True)
        _write(self._directory / "slots.json", orjson.dumps(dict(self.settings.slots)).decode())
        self._remove_strangers(state)

    def _remove_strangers(self, state: State) -> None:
        keep = {self._paths.certificate(name) for name in (*state.certificates, "default")}
        keep |= {self._paths.authority(name) for name in state.authorities}
        for folder in ("certs", "authorities"):
            for path in (self._directory / folder).glob("*.pem"):
                if str(path) not in keep:
                    path.unlink(missing_ok=True)

    def _own_certificate(self) -> str:
        path = self._state / "default.pem"
        if not path.exists():
            _write(path, selfsigned.make("netplane-ingress"), secret=True)
        return path.read_text()

    def _grown(self, settings: base.Settings) -> base.Settings:
        """Return the settings with the slots that the engine was last started with, when these are more."""
        try:
            kept: dict[str, int] = orjson.loads((self._directory / "slots.json").read_bytes())
        except (OSError, ValueError):
            return settings
        grown = {kind: max(number, int(kept.get(kind, 0))) for kind, number in settings.slots.items()}
        return dataclasses.replace(settings, slots=grown)

    def _cookie_key(self) -> str:
        """Return what sticky cookies are made with; it stays for as long as the directory."""
        path = self._state / "cookie.key"
        if not path.exists():
            _write(path, secrets.token_hex(16), secret=True)
        return path.read_text().strip()


def _program(entry: Path) -> str:
    """Return the text of door.lua and its parts."""
    return "".join(path.read_text() for path in (entry, *sorted(entry.with_suffix("").glob("*.lua"))))


def _routes(state: State) -> int:
    return sum(len(state.maps.get(name, {})) for name in ("exact", "prefix", "regex"))


def _write(path: Path, text: str, *, secret: bool = False) -> None:
    """Replace a file whole; a reader sees the old or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if secret else 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)
