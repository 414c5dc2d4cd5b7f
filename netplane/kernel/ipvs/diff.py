"""Say which changes turn the virtual servers that are there into those wanted. Never a flush, and nothing cut off.

What is no longer wanted loses its weight first, and goes when its connections are gone: the kernel itself remembers
this, by the weight of 0, so a restart goes on with it. Where waiting has no sense (`lingers`), it goes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from netplane.kernel.ipvs.objects import Change, Destination, Held, Load, Server, Virtual


@dataclass(frozen=True, slots=True)
class Delta:
    """The changes, in order: `grow` lets nobody down who is served now, `shrink` comes when nothing leads there."""

    grow: list[Change] = field(default_factory=list)
    shrink: list[Change] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.grow) + len(self.shrink)


def servers(
    want: Mapping[Virtual, Server | None], have: Mapping[Virtual, Held], *, lingers: Callable[[Virtual], bool]
) -> Delta:
    """Compare the virtual servers named in `want`; None means that it is to go."""
    delta = Delta()
    for virtual in sorted(want):
        _server(virtual, want[virtual], have.get(virtual), delta, is_lingering=lingers(virtual))
    return delta


def everything(want: Mapping[Virtual, Server], have: Mapping[Virtual, Held]) -> dict[Virtual, Server | None]:
    """Return what `servers` takes to make the kernel hold nothing but `want`."""
    return {**dict.fromkeys(have), **want}


def idle(want: Mapping[Virtual, Server], have: Mapping[Virtual, Held]) -> list[Change]:
    """Return what removes the destinations that have neither weight nor connections, and servers nobody wants."""
    found: list[Change] = []
    for virtual in sorted(have):
        server, held = want.get(virtual), have[virtual]
        weights: Mapping[Destination, int] = server.weights if server else {}
        gone = [one for one, load in held.loads.items() if not any(load) and not weights.get(one)]
        found += [Change("remove", virtual, one) for one in sorted(gone)]
        if server is None and len(gone) == len(held.loads):
            found.append(Change("remove", virtual))
    return found


def draining(have: Mapping[Virtual, Held]) -> set[Virtual]:
    """Return the virtual servers with a destination that waits for its connections to go."""
    return {virtual for virtual, held in have.items() if any(not load.weight for load in held.loads.values())}


def apply(changes: list[Change], have: dict[Virtual, Held]) -> None:
    """Bring up to date what is known of the kernel."""
    for change in changes:
        if change.destination is None:
            if change.verb == "remove":
                have.pop(change.virtual, None)
            else:
                have.setdefault(change.virtual, Held(change.scheduling)).scheduling = change.scheduling
        elif change.virtual in have:
            loads = have[change.virtual].loads
            if change.verb == "remove":
                loads.pop(change.destination, None)
            else:
                former = loads.get(change.destination, Load(0))
                loads[change.destination] = former._replace(weight=change.weight)


def _server(virtual: Virtual, server: Server | None, held: Held | None, delta: Delta, *, is_lingering: bool) -> None:
    loads = held.loads if held else {}
    weights: Mapping[Destination, int] = server.weights if server else {}
    if server and (held is None or held.scheduling != server.scheduling):
        delta.grow.append(Change("add" if held is None else "set", virtual, scheduling=server.scheduling))
    for one in sorted(weights):
        weight = weights[one]
        if one not in loads and weight:
            delta.grow.append(Change("add", virtual, one, weight))
        elif one in loads and loads[one].weight != weight:
            (delta.grow if weight else delta.shrink).append(Change("set", virtual, one, weight))
    leaving = [one for one in sorted(loads) if one not in weights]
    for one in leaving:
        if not is_lingering:
            delta.shrink.append(Change("remove", virtual, one))
        elif loads[one].weight:
            delta.shrink.append(Change("set", virtual, one, 0))
    if server is None and held is not None and (not leaving or not is_lingering):
        delta.shrink.append(Change("remove", virtual))
