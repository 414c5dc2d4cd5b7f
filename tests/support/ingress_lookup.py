"""Do with compiled tables what the engine's rules and door.lua do, so that meaning can be tested without an engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from netplane.edge.ingress.plan.state import Command
from netplane.edge.ingress.plan.table import Tables
from netplane.model.routing import Host, Match, Path, Route, Value

OWN_PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as far as routes look at it."""

    host: str
    path: str = "/"
    method: str = "GET"
    port: int = 80
    headers: Mapping[str, str] = field(default_factory=dict)
    queries: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)


def find(tables: Tables, asked: Asked) -> str:
    """Return the record that the engine would find, "" for none."""
    fast = _longest(tables.fast, f"{asked.host}{asked.path}/?")
    if fast and asked.port in OWN_PORTS:
        return fast
    door = tables.doors.get(str(asked.port), "")
    near = _longest(tables.near, f"{door}/{asked.host}{asked.path}/?")
    if near:
        return near
    for key in _keys(door, asked.host):
        found = _at(tables, key, asked.path)
        if found:
            return _choose(tables.choices[found], asked) if found.startswith("?") else found
    return ""


def _keys(door: str, host: str) -> list[str]:
    keys, rest = [f"{door}/{host}"], host
    for depth in range(1, 9):
        rest = re.sub(r"^\.?[^.]*", "", rest, count=1)
        if len(rest) > 1:
            keys += [f"{door}/*{rest}"] if depth == 1 else []
            keys.append(f"{door}/**{rest}")
    return [*keys, f"{door}/*"]


def _at(tables: Tables, key: str, path: str) -> str:
    exact = tables.exact.get(key + path)
    if exact:
        return exact
    for pattern, value in tables.regex.items():
        if re.search(pattern, key + path):
            return value
    whole = f"{key}{path}/"
    return _longest(tables.prefix, whole)


def _longest(rows: Mapping[str, str], text: str) -> str:
    fitting = [prefix for prefix in rows if text.startswith(prefix)]
    return rows[max(fitting, key=len)] if fitting else ""


def _choose(text: str, asked: Asked) -> str:
    for row in text.split("|"):
        fields = [[unquote(part) for part in one.split("=")] for one in row.split("&")]
        target = next(parts[0] for name, *parts in fields if name == "to")
        if all(_holds(name, parts, asked) for name, *parts in fields if name != "to"):
            return target
    return ""


def _holds(name: str, parts: list[str], asked: Asked) -> bool:
    if name == "m":
        return parts[0] == asked.method
    values = {"h": asked.headers, "q": asked.queries, "c": asked.cookies}[name.lower()]
    if name.isupper() and not parts[1]:
        return parts[0] in values
    return values.get(parts[0]) == parts[1]


def meant(routes: list[Route], asked: Asked, ranked: object) -> Route | None:
    """Return the route that the model says takes a request: the first by rank of all that match."""
    assert callable(ranked)
    fitting = [one for one in routes if (not one.ports or asked.port in one.ports) and matches(one.match, asked)]
    return min(fitting, key=ranked) if fitting else None


def matches(match: Match, asked: Asked) -> bool:
    """Tell whether all of a match holds."""
    return (
        _is_host(match.host, asked.host)
        and _is_path(match.path, asked.path)
        and match.method in ("", asked.method)
        and _all(match.headers, asked.headers)
        and _all(match.queries, asked.queries)
        and _all(match.cookies, asked.cookies)
    )


def _all(rows: tuple[Value, ...], found: Mapping[str, str]) -> bool:
    return all(found.get(row.name.lower()) == row.value for row in rows)


def _is_host(host: Host, name: str) -> bool:
    if host.kind == "exact":
        return name == host.name
    if host.kind == "any":
        return True
    labels = name.removesuffix(f".{host.name}")
    return labels != name and bool(labels) and (host.kind == "suffix" or "." not in labels)


def _is_path(path: Path, asked: str) -> bool:
    if path.kind == "exact":
        return asked == path.value
    if path.kind == "regex":
        return re.fullmatch(path.value, asked) is not None
    root = path.value.rstrip("/")
    return asked == root or asked.startswith(f"{root}/")


@dataclass(slots=True)
class PaperEngine:
    """Holds what commands would make an engine hold, and notices what a real one would refuse."""

    maps: dict[str, dict[str, str]] = field(default_factory=dict)
    servers: dict[str, bool] = field(default_factory=dict)
    """`slot/name` to whether it takes requests."""
    certificates: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    authorities: set[str] = field(default_factory=set)

    def run(self, commands: list[Command]) -> None:
        """Carry out all."""
        for command in commands:
            assert len(command.wire()) < 16_000
            assert "\n" not in command.line
            self._one(command)

    def _one(self, command: Command) -> None:
        words = re.split(r"(?<!\\) ", command.line)
        match words[:3]:
            case ["add", "map", path]:
                rows = self.maps.setdefault(path.rsplit("/", 1)[1].removesuffix(".map"), {})
                for line in command.payload.splitlines():
                    key, _, value = line.partition(" ")
                    assert key not in rows
                    rows[key] = value
            case ["set", "map", path]:
                rows = self.maps[path.rsplit("/", 1)[1].removesuffix(".map")]
                assert _plain(words[3]) in rows
                rows[_plain(words[3])] = _plain(words[4])
            case ["del", "map", path]:
                del self.maps[path.rsplit("/", 1)[1].removesuffix(".map")][_plain(words[3])]
            case ["add", "server", name]:
                assert name not in self.servers
                self.servers[name] = False
            case ["set", "server", name]:
                assert name in self.servers
                self.servers[name] = words[4] == "ready"
            case ["del", "server", name]:
                assert not self.servers.pop(name)
            case ["new", "ssl", kind]:
                (self.certificates if kind == "cert" else self.authorities).add(words[3])
            case ["add", "ssl", "crt-list"]:
                path = command.payload.split(" ")[0]
                assert path in self.certificates
                self.listed.add(path)
            case ["del", "ssl", "crt-list"]:
                self.listed.discard(words[4])
            case ["del", "ssl", kind]:
                assert words[3] not in self.listed
                (self.certificates if kind == "cert" else self.authorities).discard(words[3])
            case _:
                assert words[0] in ("set", "commit", "enable"), command.line


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
