"""Leave the addresses of Services, which stand on a link here, without cutting what the node itself began there.

Who connects to an address of the node itself gets that very address as source. Translated by another backend, such a
connection is none of IPVS's, but it needs the address as long as it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from netplane.kernel import process
from netplane.kernel.errors import CommandFailed
from netplane.lib import log
from netplane.model import address
from netplane.model.address import Family, Packed

TICK = 1.0
_LIMIT = 60.0
_LOG = log.get("proxy")

_ELSEWHERE = {Family.V4: "198.18.0.1", Family.V6: "2001:2::1"}
"""Addresses that nobody has (RFC 2544, RFC 5180): the way there says what the node's own address is."""

_AT_REST = frozenset(("06", "07", "0A"))
"""TIME_WAIT, CLOSE and LISTEN (include/net/tcp_states.h): these sockets lose nothing."""


def prefer_other_sources(link: str) -> None:
    """Let connections from here to the link's addresses begin from the node's own address from now on."""
    for family, elsewhere in _ELSEWHERE.items():
        own = _source(elsewhere, family)
        lines = list(_routes(link, own, family)) if own else []
        if not lines:
            continue
        try:
            process.run_sync((*_tool(family), "-force", "-batch", "-"), stdin="".join(lines), timeout=_LIMIT)
        except CommandFailed as error:
            _LOG.warning("connections of this node may be cut when IPVS goes", reason=error)


async def until_unused(addresses: Collection[Packed], *, limit: float) -> None:
    """Wait until no connection of this node has one of these addresses as its own, `limit` seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while await asyncio.to_thread(_users, frozenset(addresses)):  # noqa: ASYNC110 - sockets tell nobody that they end
                await asyncio.sleep(TICK)


def _routes(link: str, own: str, family: Family) -> Iterator[str]:
    """Yield what exchanges the kernel's routes to the link's addresses for such with another source."""
    try:
        listing = process.run_sync((*_tool(family), "route", "show", "table", "local", "dev", link)).text
    except CommandFailed:
        return
    for words in map(str.split, listing.splitlines()):
        if words[0] != "local" or f"src {own}" in " ".join(words):
            continue
        route = f"local {words[1]} dev {link} table local proto kernel"
        if family is Family.V4:
            yield f"route replace {route} scope host src {own}\n"
        else:
            # The kernel's has a metric that no request can name: another stands beside it, and the first goes.
            yield f"route add {route} src {own}\n"
            yield f"route del {route}\n"


def _tool(family: Family) -> tuple[str, ...]:
    return ("ip", "-4") if family is Family.V4 else ("ip", "-6")


def _source(elsewhere: str, family: Family) -> str:
    """Return the address from which the node speaks to others; "" when it has no way out."""
    kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as asking:
            asking.connect((elsewhere, 9))  # by UDP, so nothing is sent
            return str(asking.getsockname()[0])
    except OSError:
        return ""


def _users(addresses: frozenset[Packed]) -> int:
    """Count the TCP sockets of this network namespace with one of these addresses."""
    count = 0
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), Path(f"/proc/thread-self/net/{name}").open() as listing:
            next(listing, "")
            for line in listing:
                words = line.split(None, 4)
                count += words[3] not in _AT_REST and _read(words[1].partition(":")[0]) in addresses
    return count


def _read(text: str) -> Packed:
    """Read an address as it is listed there: words of 32 bits, each in the machine's order."""
    packed = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return packed[12:] if packed.startswith(_MAPPED) and len(packed) == 16 else packed


_MAPPED = address.parse("::ffff:0:0")[:12]
