"""Which hosts a route has at a listener. `*.a.b` stands for every name below `a.b`, however deep, and "" for any."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.model.routing import Host


def intersect(listener: str, route: str) -> str | None:
    """Return the hosts that both have, as one of the two patterns; None when they have none in common."""
    if covers(listener, route):
        return route
    return listener if covers(route, listener) else None


def covers(wide: str, narrow: str) -> bool:
    """Tell whether every name of `narrow` is one of `wide`."""
    if wide == narrow or not wide:
        return True
    return wide.startswith("*.") and narrow.endswith(wide[1:]) and narrow != wide[1:]


def attached(listener: str, hostnames: Iterable[str]) -> tuple[str, ...]:
    """Return the hosts of a route at a listener; empty when the route has hostnames and none fits."""
    found = [intersect(listener, each) for each in tuple(hostnames) or ("",)]
    return tuple(dict.fromkeys(each for each in found if each is not None))


def is_elsewhere(host: str, listener: str, others: Iterable[str]) -> bool:
    """Tell whether all requests for a host at this listener's port belong to a more specific listener (isolation)."""
    return any(other != listener and covers(listener, other) and covers(other, host) for other in others)


def host(pattern: str) -> Host:
    """Return a pattern as the routing model has it."""
    if not pattern:
        return Host()
    return Host("suffix", pattern[2:]) if pattern.startswith("*.") else Host("exact", pattern)
