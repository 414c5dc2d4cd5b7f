"""The dummy link with the addresses of the Services, and the kernel parameters that IPVS needs on a node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from netplane.kernel import sysctl
from netplane.kernel.link.objects import Address, Dummy, LinkChange, LinkName, add, change, remove, replace
from netplane.kernel.link.run import Links
from netplane.model.address import Packed

LINK = "netplane-ipvs"

SYSCTLS = {
    # Translated connections stay with connection tracking, which masquerades them.
    "net.ipv4.vs.conntrack": 1,
    # A flow whose destination is gone, and a client bound to one that takes nothing new, are free to go elsewhere.
    "net.ipv4.vs.expire_nodest_conn": 1,
    "net.ipv4.vs.expire_quiescent_template": 1,
    # Strict ARP: the addresses on the dummy link are nobody's business outside.
    "net.ipv4.conf.all.arp_ignore": 1,
    "net.ipv4.conf.all.arp_announce": 2,
}


class Parameters(Protocol):
    """The kernel's parameters; `sysctl` is the kernel's."""

    def read(self, name: str) -> str:
        """Return a value."""

    def ensure(self, name: str, value: str | int) -> bool:
        """Set a parameter unless it has the value already."""


class Sysctls:
    """The parameters of the network namespace that the calling thread is in."""

    def read(self, name: str) -> str:
        """Return a value."""
        return sysctl.read(name)

    def ensure(self, name: str, value: str | int) -> bool:
        """Set a parameter unless it has the value already."""
        return sysctl.ensure(name, value)


class Host:
    """One node's link and parameters. What the parameters were before stands in the link's alias, for `cleanup`."""

    def __init__(self, links: Links, parameters: Parameters) -> None:
        """Take what speaks to the kernel."""
        self._links = links
        self._parameters = parameters
        self._index = 0
        self.addresses: set[Packed] = set()

    def prepare(self) -> int:
        """Make the link and set the parameters, as far as they are not so; read the addresses. Return what was done."""
        done = 0
        link = self._links.link(LINK)
        if link is None:
            former = " ".join(f"{name}={self._parameters.read(name)}" for name in SYSCTLS)
            quiet = LinkChange(name=LINK, alias=former, addr_gen_none=True)
            # In one message the link would come up first, and get its IPv6 link-local address.
            self._links.commit([add(Dummy(LINK)), change(quiet), change(LinkChange(name=LINK, is_up=True))])
            link = self._links.link(LINK)
            done += 1
        elif not link.is_up:
            self._links.commit([change(LinkChange(name=LINK, is_up=True))])
            done += 1
        self._index = link.index if link else 0
        found = self._links.addresses(self._index)
        self.addresses = {one.address for one in found if one.length == len(one.address) * 8}
        return done + sum(self._parameters.ensure(name, value) for name, value in SYSCTLS.items())

    def gain(self, addresses: Iterable[Packed]) -> int:
        """Add addresses that are not there; return how many."""
        new = sorted(set(addresses) - self.addresses)
        self._links.commit([replace(Address(self._index, one, len(one) * 8)) for one in new])
        self.addresses.update(new)
        return len(new)

    def lose(self, addresses: Iterable[Packed]) -> int:
        """Remove addresses that are there; return how many."""
        gone = sorted(self.addresses.intersection(addresses))
        self._links.commit([remove(Address(self._index, one, len(one) * 8)) for one in gone])
        self.addresses.difference_update(gone)
        return len(gone)

    def cleanup(self) -> None:
        """Remove the link, and set the parameters to what they were before it was made."""
        link = self._links.link(LINK)
        if link is None:
            return
        for word in link.alias.split():
            name, _, value = word.partition("=")
            if name in SYSCTLS and self._parameters.read(name) == str(SYSCTLS[name]):
                self._parameters.ensure(name, value)
        self._links.commit([remove(LinkName(LINK))])
        self.addresses.clear()
