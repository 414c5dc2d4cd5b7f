"""Remove what kube-proxy left on this host, on request. What is its own is plan/kube_proxy's to tell."""

from __future__ import annotations

import contextlib
import shutil
import time

from netplane.kernel import process
from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.ipvs import run as ipvs
from netplane.kernel.link import run as link
from netplane.kernel.nft.objects import Table
from netplane.kernel.nft.run import Socket, load_sync
from netplane.lib import log
from netplane.model.address import Packed
from netplane_proxy.plan import kube_proxy
from netplane_proxy.plan.ipvs import book
from netplane_proxy.plan.ipvs.tables import LAYOUTS
from netplane_proxy.run.ipvs import host, leave, table
from netplane_proxy.run.ipvs.drain import drain

_LOG = log.get("proxy")
_TOOLS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
_WAIT = ("-w", "30")
_LIMIT = 60.0


async def remove(*, limit: float = 900.0) -> list[str]:
    """Remove it in the network namespace of this thread, and return what was there. KernelError when that is refused.

    Connections that kube-proxy had translated live on in connection tracking. Those that its virtual servers carry are
    waited for, up to `limit` seconds, except where our IPVS mode has made these servers its own.
    """
    # The sets tell which NodePorts were its own, the chains refer to the sets, and packets need the link to the end.
    found = [*_tables(), *_chains(), *await _servers(limit), *_sets(), *_link()]
    for what in found:
        _LOG.info("removed of kube-proxy", what=what)
    return found


def _tables() -> list[str]:
    with contextlib.closing(Socket()) as kernel:
        found = [table for table in kernel.tables() if table.name == kube_proxy.NFT_TABLE]
    if found:
        load_sync("".join(_removal(table) for table in found))
    return [f"table {table}" for table in found]


def _removal(table: Table) -> str:
    return f"delete table {table}\n"


def _chains() -> list[str]:
    """Each table's removal is one transaction, and so is each family's and variant's."""
    found = []
    for tool in _TOOLS:
        if not shutil.which(f"{tool}-save"):
            continue
        try:
            listing = process.run_sync((f"{tool}-save",), timeout=_LIMIT).text
        except CommandFailed:
            continue  # A kernel without this variant has none of its rules.
        text = kube_proxy.removal(listing)
        if text:
            process.run_sync((f"{tool}-restore", *_WAIT, "--noflush"), stdin=text, timeout=_LIMIT)
            found.append(f"{text.count('-X ')} chains of {tool}")
    return found


async def _servers(limit: float) -> list[str]:
    addresses, kept = _addresses(kube_proxy.LINK), _addresses(host.LINK) or frozenset()
    if addresses is None:
        return []
    listing = _listed("save")
    try:
        kernel = ipvs.Socket()
    except KernelError:
        return []  # A kernel without IPVS has none of its servers.
    with contextlib.closing(kernel), contextlib.closing(Socket()) as tables:
        its = kube_proxy.servers(kernel.servers(), addresses, kube_proxy.node_ports(listing))
        seen = table.observe(tables)
        ours = {(sets.owned, element) for sets in LAYOUTS.values() for element in seen.get(sets.owned, ())}
        gone = sorted(one for one in its if book.owned(one) not in ours)
        if gone:
            _LOG.info("waiting for connections through kube-proxy's virtual servers", servers=len(gone))
        end = time.monotonic() + limit
        if not addresses <= kept:
            leave.prefer_other_sources(kube_proxy.LINK)
        await drain(kernel, gone, limit=limit)
    await leave.until_unused(addresses - kept, limit=max(0.0, end - time.monotonic()))
    return [f"virtual server {one}" for one in gone]


def _addresses(name: str) -> frozenset[Packed] | None:
    """Return the addresses of a link; None where it is not."""
    with link.Socket() as links:
        found = links.link(name)
        return None if found is None else frozenset(one.address for one in links.addresses(found.index))


def _listed(*words: str) -> str:
    """Ask ipset(8); "" where it is not, or knows nothing."""
    if not shutil.which("ipset"):
        return ""
    try:
        return process.run_sync(("ipset", *words), timeout=_LIMIT).text
    except CommandFailed:
        return ""


def _sets() -> list[str]:
    found = kube_proxy.sets(_listed("list", "-name").split())
    if found:
        process.run_sync(("ipset", "restore"), stdin="".join(f"destroy {name}\n" for name in found), timeout=_LIMIT)
    return [f"ipset {name}" for name in found]


def _link() -> list[str]:
    with link.Socket() as links:
        if links.link(kube_proxy.LINK) is None:
            return []
    process.run_sync(("ip", "link", "delete", kube_proxy.LINK))
    return [f"link {kube_proxy.LINK}"]
