"""Compile routes to what the engine looks up: for each host and path one record, or a list of candidates.

A record is `slot|owner|policy`. Where host and path alone decide, a lookup finds it; where headers, queries, methods
or cookies matter too, it finds `?` and the name of a list that is walked in order of precedence. The list holds also
what less specific paths and hosts would offer, so that walking it once is enough.

Most hosts need nothing of that: their routes are plain, each to one Service without a policy. These stand a second time
by host and path together, where a single lookup decides: in the map `fast` where that holds at all of the door's own
ports, else in the map `near`, by port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from netplane.edge.ingress.plan.encode import field_text, list_text
from netplane.edge.ingress.plan.state import digest
from netplane.model.routing import Host, Listener, Path, Route

_HOST_RANK: Final = {"exact": 0, "label": 1, "suffix": 2, "any": 3}
_PATH_RANK: Final = {"exact": 0, "regex": 1, "prefix": 2}
_DOOR: Final = "d"

Target = Callable[[Route], str]
"""Gives the record of a route: `slot|owner|policy`; for the maps `fast` and `near`, "" when it needs more than that."""


@dataclass(slots=True)
class Tables:
    """Rows of the maps that decide."""

    exact: dict[str, str] = field(default_factory=dict)
    prefix: dict[str, str] = field(default_factory=dict)
    regex: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    doors: dict[str, str] = field(default_factory=dict)
    fast: dict[str, str] = field(default_factory=dict)
    near: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    host: Host
    path: Path


def compile_tables(
    routes: Sequence[Route],
    listeners: Iterable[Listener],
    record: Target,
    *,
    fast: Target,
    own_ports: frozenset[int],
    addresses: int = 1,
) -> Tables:
    """Return the rows for all routes; each listener's port is told which door, that is which set of rows, is its.

    The map `fast` counts at `own_ports` alone.
    """
    everywhere = _everywhere(routes, fast, own_ports)
    tables = Tables(fast={key: value for rows in everywhere.values() for key, value in rows.items()})
    doors: dict[str, list[Route]] = {}
    shared: dict[frozenset[frozenset[int]], str] = {}
    sets = {route.ports for route in routes}
    for listener in listeners:
        # Ports that the same routes name are one door, so that HTTP and HTTPS need no rows of their own.
        signature = frozenset(ports for ports in sets if not ports or listener.port in ports)
        door = shared.setdefault(signature, f"{_DOOR}{listener.port}")
        if door not in doors:
            doors[door] = [route for route in routes if route.ports in signature]
        for at in range(addresses):
            tables.doors[str(listener.port + 100000 * at)] = door + _features(doors[door])
    for door, mine in doors.items():
        name = door + _features(mine)
        _compile_door(tables, name, mine, record)
        for host, rows in _simple(mine, fast).items():
            if host not in everywhere:
                tables.near.update({f"{name}/{key}": value for key, value in rows.items()})
    return tables


def _everywhere(routes: Iterable[Route], record: Target, own: frozenset[int]) -> dict[str, dict[str, str]]:
    """Return the rows of the hosts that are simple, and the same, at all of the door's own ports."""
    here = [one for one in routes if not one.ports or one.ports & own]
    different = {one.match.host.name for one in here if one.ports and not one.ports >= own}
    return {host: rows for host, rows in _simple(here, record).items() if host not in different}


def _simple(routes: Iterable[Route], record: Target) -> dict[str, dict[str, str]]:
    """Return the rows of hosts all of whose routes are simple: one that is not could stand behind a longer path.

    A lookup is for the host, the path and `/?`, which no path holds, so that an exact path is the longest beginning.
    """
    by_host: dict[str, list[Route]] = {}
    for route in routes:
        if route.match.host.kind == "exact":
            by_host.setdefault(route.match.host.name, []).append(route)
    found: dict[str, dict[str, str]] = {}
    for host, mine in by_host.items():
        if not all(one.match.is_plain and one.match.path.kind != "regex" for one in mine):
            continue
        rows: dict[str, str] = {}
        for one in sorted(mine, key=rank):
            path = one.match.path
            key = f"{host}{path.value}/?" if path.kind == "exact" else f"{host}{path.value.rstrip('/')}/"
            rows.setdefault(key, record(one))
        if all(rows.values()):
            found[host] = rows
    return found


def _features(routes: Iterable[Route]) -> str:
    """Say in the door's name which costly lookups it needs: `+` wildcards of a label, `~` suffixes, `^` regexes."""
    kinds = {route.match.host.kind for route in routes}
    regex = any(route.match.path.kind == "regex" for route in routes)
    return ("+" if "label" in kinds else "") + ("~" if "suffix" in kinds else "") + ("^" if regex else "")


def rank(route: Route) -> tuple[object, ...]:
    """Return what routes are sorted by: of two that match a request the lower one takes it."""
    match = route.match
    return (
        (_HOST_RANK[match.host.kind] if match.host.kind in ("exact", "any") else 1, -match.host.name.count("."),
         -len(match.host.name), _HOST_RANK[match.host.kind]),
        (_PATH_RANK[match.path.kind], -len(match.path.value)),
        not match.method, -len(match.headers), -len(match.queries), -len(match.cookies), route.order,
    )  # fmt: skip


def _compile_door(tables: Tables, door: str, routes: Iterable[Route], record: Target) -> None:
    by_place: dict[_Place, list[Route]] = {}
    for route in sorted(routes, key=rank):
        by_place.setdefault(_Place(route.match.host, route.match.path), []).append(route)
    for place in _crossings(by_place):
        by_place.setdefault(place, [])
    conditional_only = {place: all(not one.match.is_plain for one in mine) for place, mine in by_place.items()}
    for place, mine in by_place.items():
        if mine and mine[0].match.is_plain:
            value = record(mine[0])
        else:
            candidates = list(_until_plain(mine))
            if conditional_only[place]:
                candidates += _until_plain(_beyond(place, by_place))
            value = _choice(tables, candidates, record)
        table, key = _row(tables, door, place)
        table[key] = value


def _crossings(by_place: dict[_Place, list[Route]]) -> list[_Place]:
    """Return the places at which a request leaves conditions of its host for a narrower path of a wider host."""
    return [
        _Place(place.host, other.path)
        for place, mine in by_place.items()
        if not any(one.match.is_plain for one in mine)
        for other in by_place
        if other.path != place.path and _host_holds(other.host, place.host) and _path_holds(place.path, other.path)
    ]


def _until_plain(routes: Iterable[Route]) -> Iterator[Route]:
    for route in routes:
        yield route
        if route.match.is_plain:
            return


def _beyond(place: _Place, by_place: dict[_Place, list[Route]]) -> Iterator[Route]:
    """Yield, best first, the routes of other places that every request of this place reaches too."""
    others = [other for other in by_place if other != place and _holds(other, place)]
    for other in others:  # by_place is in order of rank already
        yield from by_place[other]


def _holds(other: _Place, place: _Place) -> bool:
    return _host_holds(other.host, place.host) and _path_holds(other.path, place.path)


def _host_holds(outer: Host, inner: Host) -> bool:
    if outer == inner or outer.kind == "any":
        return True
    if inner.kind == "any" or outer.kind == "exact":
        return False
    if not inner.name.endswith(f".{outer.name}"):
        return outer.kind == "suffix" and inner.kind == "label" and inner.name == outer.name
    return outer.kind == "suffix" or (inner.kind == "exact" and "." not in inner.name[: -len(outer.name) - 1])


def _path_holds(outer: Path, inner: Path) -> bool:
    if outer == inner:
        return True
    if outer.kind != "prefix" or inner.kind == "regex":
        return outer == Path("prefix", "/")
    root = outer.value.rstrip("/")
    return inner.value == root or inner.value.startswith(f"{root}/")


def _choice(tables: Tables, candidates: Sequence[Route], record: Target) -> str:
    rows = [_candidate(route, record(route)) for route in candidates]
    text = list_text(rows)
    name = f"?{digest(text, 16)}"
    tables.choices[name] = text
    return name


def _candidate(route: Route, target: str) -> str:
    match = route.match
    fields = [field_text("to", target)]
    if match.method:
        fields.append(field_text("m", match.method))
    for letter, rows in (("h", match.headers), ("q", match.queries), ("c", match.cookies)):
        for row in rows:
            name = row.name.lower() if letter == "h" else row.name
            fields.append(field_text(letter.upper() if row.is_regex else letter, name, row.value))
    return "&".join(fields)


def _row(tables: Tables, door: str, place: _Place) -> tuple[dict[str, str], str]:
    host, path = place.host, place.path
    start = f"{door}/{ {'exact': '', 'label': '*.', 'suffix': '**.', 'any': '*'}[host.kind] }{host.name}"
    if path.kind == "exact":
        return tables.exact, start + path.value
    if path.kind == "prefix":
        return tables.prefix, f"{start}{path.value.rstrip('/')}/"
    literal = "".join(f"[{one}]" if one in ".+*^~" else one for one in start).replace("[^]", r"\^")
    return tables.regex, f"^{literal}(?:{path.value})$"
