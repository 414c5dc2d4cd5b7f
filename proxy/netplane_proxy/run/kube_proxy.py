"""Remove what kube-proxy left on this host, on request. What is its own is plan/kube_proxy's to tell."""

from __future__ import annotations

import contextlib
import shutil

from netplane.kernel import process
from netplane.kernel.errors import CommandFailed
from netplane.kernel.link import run as link
from netplane.kernel.nft.objects import Table
from netplane.kernel.nft.run import Socket, load_sync
from netplane.lib import log
from netplane_proxy.plan import kube_proxy

_LOG = log.get("proxy")
_TOOLS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
_WAIT = ("-w", "30")
_LIMIT = 60.0


def remove() -> list[str]:
    """Remove it in the network namespace of this thread, and return what was there. KernelError when that is refused.

    Connections that kube-proxy had translated live on in connection tracking.
    """
    found = [*_tables(), *_chains(), *_sets(), *_link()]
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


def _sets() -> list[str]:
    if not shutil.which("ipset"):
        return []
    try:
        names = process.run_sync(("ipset", "list", "-name"), timeout=_LIMIT).text.split()
    except CommandFailed:
        return []
    found = kube_proxy.sets(names)
    if found:
        process.run_sync(("ipset", "restore"), stdin="".join(f"destroy {name}\n" for name in found), timeout=_LIMIT)
    return [f"ipset {name}" for name in found]


def _link() -> list[str]:
    with link.Socket() as links:
        if links.link(kube_proxy.LINK) is None:
            return []
    process.run_sync(("ip", "link", "delete", kube_proxy.LINK))
    return [f"link {kube_proxy.LINK}"]
