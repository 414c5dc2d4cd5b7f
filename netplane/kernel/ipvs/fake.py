"""Stand in for IPVS in memory."""

from __future__ import annotations

import copy
import errno
from collections.abc import Sequence

from netplane.kernel.errors import KernelError
from netplane.kernel.ipvs.objects import Change, Connection, Destination, Held, Load, Virtual


class Kernel:
    """An IPVS of its own, empty at first. `commits` are what was asked; tests set `connections` of destinations."""

    def __init__(self) -> None:
        """Begin without servers."""
        self._servers: dict[Virtual, Held] = {}
        self.commits: list[list[Change]] = []
        self.carried: list[Connection] = []

    def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes in order. All are tried; the first refusal is raised afterwards."""
        if changes:
            self.commits.append(list(changes))
        failure: KernelError | None = None
        for change in changes:
            number = self._server(change) if change.destination is None else self._destination(change)
            if number and failure is None and change.verb != "remove":
                failure = KernelError(number, str(change))
        if failure is not None:
            raise failure

    def servers(self) -> dict[Virtual, Held]:
        """Return all virtual servers with their destinations."""
        return copy.deepcopy(self._servers)

    def loads(self, virtual: Virtual) -> dict[Destination, Load]:
        """Return the destinations of one virtual server; none when there is no such server."""
        held = self._servers.get(virtual)
        return dict(held.loads) if held else {}

    def listing(self) -> dict[Virtual, dict[Destination, Load]]:
        """Return the destinations of all virtual servers, those known by mark only if they have any."""
        return {one: dict(held.loads) for one, held in self._servers.items() if held.loads or not one.mark}

    def stamp(self) -> int:
        """Return a number that differs when servers or destinations do, connections apart."""
        weights = [
            (one, where, load.weight) for one, held in self._servers.items() for where, load in held.loads.items()
        ]
        return hash((*self._servers, *weights))

    def connections(self, protocol: int) -> list[Connection]:
        """Return the connections there are of a protocol: `carried`, which tests set."""
        return [one for one in self.carried if one.protocol == protocol]

    def connect(self, virtual: Virtual, destination: Destination, connections: int) -> None:
        """Say how many connections a destination has."""
        loads = self._servers[virtual].loads
        loads[destination] = loads[destination]._replace(connections=connections)

    def _server(self, change: Change) -> int:
        held = self._servers.get(change.virtual)
        if change.verb == "add":
            if held is not None:
                return errno.EEXIST
            self._servers[change.virtual] = Held(change.scheduling)
            return 0
        if held is None:
            return errno.ESRCH
        if change.verb == "remove":
            del self._servers[change.virtual]
        else:
            held.scheduling = change.scheduling
        return 0

    def _destination(self, change: Change) -> int:
        held = self._servers.get(change.virtual)
        if held is None or change.destination is None:
            return errno.ESRCH
        former = held.loads.get(change.destination)
        if change.verb == "add":
            if former is not None:
                return errno.EEXIST
            held.loads[change.destination] = Load(change.weight)
            return 0
        if former is None:
            return errno.ENOENT
        if change.verb == "remove":
            del held.loads[change.destination]
        else:
            held.loads[change.destination] = former._replace(weight=change.weight)
        return 0
