"""Keep which Service port holds which place, so that two Services that claim the same one end the same way always.

The API hands out cluster IPs and NodePorts once, but nothing keeps two Services from the same externalIP or balancer
address and port. A cluster IP wins over anything (else one could take over a Service by an externalIP), then the
smaller key wins; the loser gets the place when the winner leaves. The order of events plays no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netplane.model.address import Family
from netplane.model.service import Key
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import forwarding
from netplane_proxy.plan.forwarding import Forwarding, Frontend, Kind, NodeFacts, Place, PortForwarding, PortKey

Changes = dict[PortKey, PortForwarding | None]
"""What became of each Service port that changed; None when it is gone."""


class Step(NamedTuple):
    """One Service port before and after; None where it was or is not."""

    former: PortForwarding | None
    now: PortForwarding | None


Steps = dict[PortKey, Step]


def merge(first: Steps, then: Steps) -> Steps:
    """Return both as one: from before the first to after the last, without those that lead back."""
    if not first:
        return then
    later = {key: Step(first[key].former, step.now) if key in first else step for key, step in then.items()}
    merged = {**first, **later}
    return {key: step for key, step in merged.items() if step.former != step.now}


_Claim = tuple[bool, PortKey]
_Spot = tuple[Family, Place]


class Ledger:
    """All rows of all Services, without conflicts. `ports` is what compilers take."""

    def __init__(self) -> None:
        """Start empty."""
        self._wanted: dict[Key, tuple[PortForwarding, ...]] = {}
        self._claims: dict[_Spot, tuple[_Claim, ...]] = {}
        self._contested: set[_Spot] = set()
        self.ports: dict[PortKey, PortForwarding] = {}

    def replace(self, service: Key, rows: tuple[PortForwarding, ...]) -> Steps:
        """Take the rows of one Service in place of its former ones. Return what changed, other Services included."""
        former = self._wanted.get(service, ())
        if former == rows:
            return {}
        if not self._contested and _stand_alike(former, rows):
            return self._exchange(service, former, rows)
        touched = {row.key: None for row in (*former, *rows)}
        touched |= self._claimants(former, rows)
        for row in former:
            self._release(row)
        self._take(service, rows)
        for row in rows:
            self._claim(row)
        return self._settle(touched | self._claimants(former, rows))

    def _exchange(self, service: Key, former: tuple[PortForwarding, ...], rows: tuple[PortForwarding, ...]) -> Steps:
        """Put rows in place of others that hold the same places, none of them contested."""
        self._wanted[service] = rows
        steps: Steps = {}
        for one, two in zip(former, rows, strict=True):
            if one != two:
                steps[two.key] = Step(one, two)
                self.ports[two.key] = two
        return steps

    def _take(self, service: Key, rows: tuple[PortForwarding, ...]) -> None:
        if rows:
            self._wanted[service] = rows
        else:
            self._wanted.pop(service, None)

    def wanted(self, service: Key) -> tuple[PortForwarding, ...]:
        """Return the rows of one Service as they were taken."""
        return self._wanted.get(service, ())

    def services(self) -> Iterable[Key]:
        """List the Services that have rows."""
        return self._wanted.keys()

    def _settle(self, keys: Mapping[PortKey, None]) -> Steps:
        steps: Steps = {}
        for key in keys if len(keys) == 1 else sorted(keys):
            row = None
            for wanted in self._wanted.get((key.namespace, key.service), ()):
                if wanted.key == key:
                    row = wanted
            effective = None if row is None else self._without_lost(row)
            former = self.ports.get(key)
            if effective == former:
                continue
            steps[key] = Step(former, effective)
            if effective is None:
                del self.ports[key]
            else:
                self.ports[key] = effective
        return steps

    def _without_lost(self, row: PortForwarding) -> PortForwarding:
        if not self._contested:
            return row
        kept = tuple(frontend for spot, frontend in _spots(row) if self._claims[spot][0][1] == row.key)
        return row if len(kept) == len(row.frontends) else row._replace(frontends=kept)

    def _claimants(self, *of: tuple[PortForwarding, ...]) -> dict[PortKey, None]:
        if not self._contested:
            return {}
        contested = self._contested.intersection(spot for rows in of for row in rows for spot, _ in _spots(row))
        return {key: None for spot in contested for _, key in self._claims.get(spot, ())}

    def _claim(self, row: PortForwarding) -> None:
        for spot, frontend in _spots(row):
            claim = (frontend.kind not in (Kind.INTERNAL, Kind.INTERNAL_LOCAL), row.key)
            others = self._claims.get(spot)
            if others:
                self._claims[spot] = tuple(sorted((*others, claim)))
                self._contested.add(spot)
            else:
                self._claims[spot] = (claim,)

    def _release(self, row: PortForwarding) -> None:
        for spot, _ in _spots(row):
            rest = tuple(claim for claim in self._claims[spot] if claim[1] != row.key)
            if rest:
                self._claims[spot] = rest
            else:
                del self._claims[spot]
            if len(rest) < 2:
                self._contested.discard(spot)


def of_snapshot(snapshot: Snapshot, node: NodeFacts) -> Forwarding:
    """Decide everything at once: what any order of single changes ends in."""
    ledger = Ledger()
    slices = snapshot.slices_by_service()
    for key, service in snapshot.services.items():
        ledger.replace(key, forwarding.of_service(service, slices.get(key, ()), node))
    return Forwarding(snapshot.revision, dict(sorted(ledger.ports.items())), node)


def by_place(ports: Mapping[PortKey, PortForwarding]) -> dict[_Spot, tuple[PortForwarding, Frontend]]:
    """Index rows by the places they hold."""
    return {spot: (row, frontend) for row in ports.values() for spot, frontend in _spots(row)}


def _stand_alike(former: tuple[PortForwarding, ...], rows: tuple[PortForwarding, ...]) -> bool:
    """Tell whether only the backends differ: the common change, which no other Service can notice."""
    if len(former) != len(rows):
        return False
    for one, two in zip(former, rows, strict=True):
        if one.key != two.key or one.frontends != two.frontends:
            return False
    return True


def _spots(row: PortForwarding) -> Iterable[tuple[_Spot, Frontend]]:
    family = row.key.family
    return [((family, frontend.place), frontend) for frontend in row.frontends]
