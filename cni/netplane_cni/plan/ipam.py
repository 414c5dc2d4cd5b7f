"""Choose pod addresses, and know who holds which. Keeping leases over a crash is run/leases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from netplane.model import address
from netplane_cni.spec import NO_LIMIT, Bandwidth, PortMapping

LeaseKey: TypeAlias = tuple[str, str]
"""(container id, interface name): what the CNI specification identifies an attachment by."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Addresses held by one interface of one container, and all that undoing it needs.

    `boot` is the boot in which it was given: no container outlives it. `namespace` is the inode number of the
    container's network namespace, 0 when unknown. `is_leaving` once DEL has begun: the addresses are not free yet.
    """

    container: str
    ifname: str
    link: str
    addresses: tuple[address.Packed, ...]
    mac: bytes
    boot: str
    network: str = ""
    netns: str = ""
    namespace: int = 0
    pod: str = ""
    ports: tuple[PortMapping, ...] = ()
    is_leaving: bool = False
    bandwidth: Bandwidth = NO_LIMIT

    @property
    def key(self) -> LeaseKey:
        """What it is identified by."""
        return self.container, self.ifname


@dataclass(frozen=True, slots=True)
class Pool:
    """The pod network of this node in one family, without what is excluded and its own reserved addresses.

    Reserved are the first address (the tunnel end's, `fabric`), the second (a gateway's, should a bridge be wanted)
    and, for IPv4, the last (a broadcast address for anyone who believes in it). Networks of 2 bits or fewer reserve
    nothing.
    """

    prefix: address.Prefix
    excluded: tuple[address.Prefix, ...] = ()

    def __contains__(self, ip: object) -> bool:
        """Tell whether the address may be given to a pod."""
        if not isinstance(ip, bytes) or ip not in self.prefix:
            return False
        low, high = self.bounds()
        return low <= int.from_bytes(ip, "big") <= high and not address.any_contains(self.excluded, ip)

    def bounds(self) -> tuple[int, int]:
        """Return its lowest and highest address that may be given, as numbers."""
        low, high = int.from_bytes(self.prefix.network, "big"), int.from_bytes(self.prefix.last, "big")
        if high - low < 4:
            return low, high
        return low + 2, high - (1 if self.prefix.family is address.Family.V4 else 0)

    @property
    def size(self) -> int:
        """How many addresses may be given, exclusions not counted."""
        low, high = self.bounds()
        return high - low + 1

    @property
    def capacity(self) -> int:
        """How many addresses may be given."""
        low, high = self.bounds()
        cut, reached = 0, low - 1
        for first, last in sorted(_excluded(self)):
            cut += max(0, min(last, high) - max(first, reached + 1) + 1)
            reached = max(reached, min(last, high))
        return self.size - cut


class Exhausted(Exception):
    """No address can be given now. `until` is when the first cooling one is free, None when all are held."""

    def __init__(self, pool: Pool, until: float | None) -> None:
        super().__init__(f"no address is free in {pool.prefix}")
        self.pool = pool
        self.until = until


def choose(
    pool: Pool, *, held: Collection[address.Packed], cooling: Mapping[address.Packed, float], after: address.Packed
) -> address.Packed:
    """Return the next free address behind `after` (round and round, so that reuse comes late); raises Exhausted.

    `cooling` says until when a given-back address stays unused: peers and conntrack still know its last holder.
    """
    low, high = pool.bounds()
    width = len(pool.prefix.network)
    start = int.from_bytes(after, "big") + 1 if len(after) == width else low
    if not low <= start <= high:
        start = low
    number = start
    for _ in range(min(high - low + 1, len(held) + len(cooling) + _excluded_count(pool) + 1)):
        ip = number.to_bytes(width, "big")
        skip = next((last for first, last in _excluded(pool) if first <= number <= last), None)
        if skip is None and ip not in held and ip not in cooling:
            return ip
        number = number + 1 if skip is None else skip + 1
        if number > high:
            number = low
    soonest = [moment for ip, moment in cooling.items() if ip in pool]
    raise Exhausted(pool, min(soonest, default=None))


def asked(pools: Iterable[Pool], wanted: Iterable[address.Packed]) -> dict[address.Family, address.Packed]:
    """Return the requested addresses by family; ValueError when one lies in no pool or a family is asked for twice."""
    found: dict[address.Family, address.Packed] = {}
    known = tuple(pools)
    for ip in wanted:
        if not any(ip in pool for pool in known):
            raise ValueError(f"{address.text(ip)} is not in {', '.join(str(pool.prefix) for pool in known)}")
        if address.family(ip) in found:
            raise ValueError(f"{address.text(ip)} is a second address of its family")
        found[address.family(ip)] = ip
    return found


def _excluded(pool: Pool) -> list[tuple[int, int]]:
    return [(int.from_bytes(p.network, "big"), int.from_bytes(p.last, "big")) for p in pool.excluded]


def _excluded_count(pool: Pool) -> int:
    # Each excluded range is stepped over at once, and at most twice: before and after the round trip.
    return 2 * len(pool.excluded)
