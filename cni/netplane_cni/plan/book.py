"""Find leases by address, host port and container, at one price however many there are. Keeping them is run/leases."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from netplane.model import address
from netplane_cni.plan import masquerade
from netplane_cni.plan.ipam import Lease, LeaseKey
from netplane_cni.plan.masquerade import Frontend


@dataclass(slots=True)
class Book:
    """Leases, and whose each address, host port and container is."""

    leases: dict[LeaseKey, Lease] = field(default_factory=dict)
    by_address: dict[address.Packed, Lease] = field(default_factory=dict)
    by_port: dict[Frontend, Lease] = field(default_factory=dict)
    by_container: dict[str, dict[LeaseKey, Lease]] = field(default_factory=dict)

    def put(self, lease: Lease) -> None:
        """Write a lease down, in the place of what its key held."""
        self.drop(lease.key)
        self.leases[lease.key] = lease
        self.by_address.update(dict.fromkeys(lease.addresses, lease))
        for port in masquerade.host_ports([lease]):
            self.by_port.setdefault(port.frontend, lease)
        self.by_container.setdefault(lease.container, {})[lease.key] = lease

    def drop(self, key: LeaseKey) -> None:
        """Strike a lease out, if there is one."""
        lease = self.leases.pop(key, None)
        if lease is None:
            return
        for ip in lease.addresses:
            if self.by_address.get(ip) is lease:
                del self.by_address[ip]
        for port in masquerade.host_ports([lease]):
            if self.by_port.get(port.frontend) is lease:
                del self.by_port[port.frontend]
        its = self.by_container[lease.container]
        del its[key]
        if not its:
            del self.by_container[lease.container]


@dataclass(frozen=True, slots=True)
class Both:
    """What is kept, and what is being given: who asks whether something is free must look at both."""

    kept: Book
    given: Book

    @property
    def leases(self) -> list[Lease]:
        """Every lease there is; one that is being given stands for the one of its key that is kept."""
        return [*{**self.kept.leases, **self.given.leases}.values()]

    def of(self, container: str) -> list[Lease]:
        """Return a container's leases."""
        return [*{**self.kept.by_container.get(container, {}), **self.given.by_container.get(container, {})}.values()]

    def by_address(self, ip: address.Packed) -> Lease | None:
        """Return who holds an address."""
        return self.given.by_address.get(ip) or self.kept.by_address.get(ip)

    def by_port(self, frontend: Frontend) -> Lease | None:
        """Return who holds a host port."""
        return self.given.by_port.get(frontend) or self.kept.by_port.get(frontend)

    @property
    def held(self) -> Collection[address.Packed]:
        """Return all addresses that are held."""
        return _Keys((self.kept.by_address, self.given.by_address))


@dataclass(frozen=True, slots=True)
class _Keys(Collection[address.Packed]):
    """The keys of mappings, without a copy; its length counts what is in two of them twice."""

    layers: tuple[Mapping[address.Packed, Lease], ...]

    def __contains__(self, ip: object) -> bool:
        return any(ip in layer for layer in self.layers)

    def __len__(self) -> int:
        return sum(map(len, self.layers))

    def __iter__(self) -> Iterator[address.Packed]:
        return (ip for layer in self.layers for ip in layer)
