"""What the engine holds, as data, and the commands that turn one state into another.

Certificates, authorities and servers are named by their content, so that a state that was read back from the engine
can be compared by names alone, and a changed one is added before the old one goes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from netplane.lib import keyed

DECIDING: Final = ("exact", "regex", "prefix", "near", "doors", "sni", "fast")
"""The maps that send requests somewhere: written after, and erased before, what they name."""
NAMED: Final = ("slots", "policies", "choices", "meta", "authorities")
MAPS: Final = (*NAMED, *DECIDING)

_ONE_COMMAND: Final = re.compile(r"(?:[^;\\]|\\.)+")
_PAYLOAD_MOST: Final = 12_000
"""Bytes of one command, with room in the engine's 16 KiB buffer."""


@dataclass(frozen=True, slots=True)
class EngineServer:
    """Where one server of a slot is, and the engine's keywords for it; `options` are made by `slots`."""

    address: str
    port: int
    options: str = ""

    @property
    def where(self) -> str:
        """Print address and port as the engine reads them."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class EngineCertificate:
    """A certificate in the engine: its PEM ("" when read back), the names it is served for, the bind's options."""

    pem: str
    names: tuple[str, ...]
    options: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All of the engine that changes while it runs."""

    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, EngineServer]] = field(default_factory=dict)
    certificates: Mapping[str, EngineCertificate] = field(default_factory=dict)
    authorities: Mapping[str, str] = field(default_factory=dict)
    leaving: frozenset[tuple[str, str]] = frozenset()
    """(slot, server) of those that take nothing new and wait for their last connections; only in what is observed."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the engine's socket. `accepts` are beginnings of answers that mean success."""

    line: str
    payload: str = ""
    accepts: tuple[str, ...] = ("",)
    is_optional: bool = False
    """Whether a refusal is no failure: the engine refuses to forget what is still in use."""
    subject: str = ""
    """What alone suffers when this is refused; "" when all does."""

    def is_refused(self, answer: str) -> bool:
        """Tell whether the engine's answer means anything else than success."""
        return bool(answer) if self.accepts == ("",) else not any(begin in answer for begin in self.accepts)

    @property
    def is_one(self) -> bool:
        """Whether the engine reads it as this one command, with all of its payload: nothing in it starts another."""
        rows = self.payload.split("\n") if self.payload else []
        return bool(is_line(self.line) and _ONE_COMMAND.fullmatch(self.line)) and all(map(is_line, rows))

    def wire(self) -> bytes:
        """Return the bytes to send."""
        return f"{self.line} <<\n{self.payload}\n\n".encode() if self.payload else f"{self.line}\n".encode()


def is_line(text: str) -> bool:
    """Tell whether a text is one line that says something: no line's end, no control character."""
    return text.isprintable() and not text.isspace() and text != ""


def is_word(text: str) -> bool:
    """Tell whether a text is one word, in a command as in a file of the engine's."""
    return is_line(text) and not any(one in text for one in " ;\\\"'#")


def row(key: str, value: str) -> str:
    """Return a row of a map, "" when it would be read as anything else."""
    text = f"{key} {value}"
    return text if key and " " not in key and is_line(text) else ""


def digest(text: str, length: int = 10) -> str:
    """Return a short name of a text: hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()[:length]


def authority_name(pem: str) -> str:
    """Name a bundle of authorities by its content."""
    return f"ca-{digest(pem, 20)}"


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the engine's files are."""

    directory: str

    def map(self, name: str) -> str:
        """Return the path that names a map."""
        return f"{self.directory}/maps/{name}.map"

    def certificate(self, name: str) -> str:
        """Return the path that names a certificate."""
        return f"{self.directory}/certs/{name}.pem"

    def authority(self, name: str) -> str:
        """Return the path that names a bundle of authorities."""
        return f"{self.directory}/authorities/{name}.pem"

    @property
    def certificate_list(self) -> str:
        """The path that names the list of certificates and what they are for."""
        return f"{self.directory}/certs/list"


def diff(want: State, have: State, paths: Paths) -> list[Command]:
    """Return what turns `have` into `want`, so ordered that at no moment anything names what is not there."""
    commands = [*_add_authorities(want, have, paths), *_add_certificates(want, have, paths), *_add_servers(want, have)]
    for name in MAPS:
        commands += _write(name, want, have, paths)
    for name in reversed(MAPS):
        commands += _erase(name, want, have, paths)
    commands += _retire_servers(want, have)
    commands += _remove_certificates(want, have, paths)
    return commands


def list_line(name: str, certificate: EngineCertificate, paths: Paths) -> str:
    """Return the line of a certificate in the list."""
    options = f" [{certificate.options}]" if certificate.options else ""
    return f"{paths.certificate(name)}{options} {' '.join(certificate.names)}"


def _add_authorities(want: State, have: State, paths: Paths) -> Iterator[Command]:
    for name, pem in want.authorities.items():
        if name not in have.authorities:
            path = paths.authority(name)
            yield Command(f"new ssl ca-file {path}", accepts=("New CA file", "already exists"), subject=name)
            yield Command(f"set ssl ca-file {path}", pem.strip(), accepts=("ransaction",), subject=name)
            yield Command(f"commit ssl ca-file {path}", accepts=("Committing",), subject=name)


def _add_certificates(want: State, have: State, paths: Paths) -> Iterator[Command]:
    for name, certificate in want.certificates.items():
        path = paths.certificate(name)
        if name not in have.certificates:
            yield Command(f"new ssl cert {path}", accepts=("New empty certificate", "already exists"), subject=name)
            yield Command(f"set ssl cert {path}", certificate.pem.strip(), accepts=("ransaction",), subject=name)
            yield Command(f"commit ssl cert {path}", accepts=("Committing",), subject=name)
            line = list_line(name, certificate, paths)
            listed = f"add ssl crt-list {paths.certificate_list}"
            yield Command(listed, line, accepts=("Inserting", "already exists"), subject=name)


def _remove_certificates(want: State, have: State, paths: Paths) -> Iterator[Command]:
    for name in have.certificates:
        if name not in want.certificates:
            path = paths.certificate(name)
            yield Command(f"del ssl crt-list {paths.certificate_list} {path}", accepts=("Entry",), is_optional=True)
            yield Command(f"del ssl cert {path}", accepts=("Certificate",), is_optional=True)
    for name in have.authorities:
        if name not in want.authorities:
            yield Command(f"del ssl ca-file {paths.authority(name)}", accepts=("CA file",), is_optional=True)


KEEPS: Final = "pool-low-conn 16"
"""How servers keep connections: so few are left to the threads that have them. To take one over costs a thread more,
each time, than to open one of its own once."""

# Servers added at runtime have none of the defaults of `default-server`, so that without these every request would cost
# a connection of its own (HAProxy 2.6, measured: three times the CPU).
_KEPT_OPEN: Final = f"pool-max-conn -1 pool-purge-delay 5s {KEEPS}"


def _add_servers(want: State, have: State) -> Iterator[Command]:
    for slot, servers in want.servers.items():
        held = have.servers.get(slot, {})
        if held is servers:  # What did not move is the very same, and there is much of it.
            continue
        added = [name for name in servers if name not in held and is_word(name)]
        for name in added:
            server, subject = servers[name], f"{slot}/{name}"
            if (slot, name) not in have.leaving:
                options = f" {server.options}" if server.options else ""
                line = f"add server {subject} {server.where} {_KEPT_OPEN}{options}"
                yield Command(line, accepts=("New server registered",), subject=subject)
        if added and slot[0] == "c":
            yield Command(f"enable dynamic-cookie backend {slot}")
        for name in added:
            yield Command(f"set server {slot}/{name} state ready", subject=f"{slot}/{name}")


def _retire_servers(want: State, have: State) -> Iterator[Command]:
    """Give them nothing new; those that are idle already are forgotten at once, others by `forget` later."""
    for slot, servers in have.servers.items():
        wanted = want.servers.get(slot, {})
        if wanted is servers:
            continue
        for name in servers:
            if name not in wanted:
                yield Command(f"set server {slot}/{name} state maint")


def forget(leaving: Iterable[tuple[str, str]]) -> list[Command]:
    """Return the commands that remove servers whose last connection may have ended."""
    return [
        Command(f"del server {slot}/{name}", accepts=("Server deleted", "No such server"), is_optional=True)
        for slot, name in sorted(leaving)
    ]


def _write(name: str, want: State, have: State, paths: Paths) -> Iterator[Command]:
    if want.maps is have.maps:
        return
    delta = keyed.diff(want.maps.get(name, {}), have.maps.get(name, {}))
    path, size = paths.map(name), 0
    rows: list[str] = []
    for key, value in delta.add.items():
        text = row(key, value)
        if not text:
            continue
        if size + len(text) + 1 > _PAYLOAD_MOST:
            yield Command(f"add map {path}", "\n".join(rows))
            rows, size = [], 0
        rows.append(text)
        size += len(text) + 1
    if rows:
        yield Command(f"add map {path}", "\n".join(rows))
    for key, value in delta.change.items():
        if not row(key, value):
            continue
        yield Command(f"set map {path} {_escaped(key)} {_escaped(value)}")


def _erase(name: str, want: State, have: State, paths: Paths) -> Iterator[Command]:
    if want.maps is have.maps:
        return
    wanted = want.maps.get(name, {})
    for key in have.maps.get(name, {}):
        if key not in wanted:
            yield Command(f"del map {paths.map(name)} {_escaped(key)}")


def _escaped(text: str) -> str:
    """Keep the characters that mean something to the engine's command line from meaning it."""
    return "".join(f"\\{one}" if one in "\\; " else one for one in text)
