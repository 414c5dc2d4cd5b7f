"""Look whether somebody else on this host uses the bit of the packet mark by which we ask for masquerading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from netplane.kernel import marks
from netplane.kernel.nft.marks import Use
from netplane.lib import cli, log
from netplane_proxy.plan.nftables.layout import TABLE
from netplane_proxy.run import telemetry

_LOG = log.get("proxy")
_SAME_MEANING = ("KUBE-", "NETPLANE-")
"""Chains in which the bit means what it means for us: kube-proxy's and the kubelet's, and our own of iptables."""

Answer = Literal["warn", "refuse", "ignore"]


def clashes(uses: Iterable[Use], bit: int) -> list[Use]:
    """Return who has to do with the bit and means something else by it, each chain once."""
    found: dict[tuple[str, str, str], Use] = {}
    for use in uses:
        name = use.table.split()[-1]
        is_same = name == "kube-proxy" or name.startswith(TABLE) or use.chain.startswith(_SAME_MEANING)
        if use.bits >> bit & 1 and not is_same:
            found.setdefault((use.tool, use.table, use.chain), use)
    return [found[place] for place in sorted(found)]


def check(bit: int, *, on_clash: Answer) -> None:
    """Warn of each clash, count them, and refuse to go on where that was asked for (UserError)."""
    if on_clash == "ignore":
        return
    found = clashes(marks.users(), bit)
    telemetry.MARK_CLASHES.set(len(found))
    for use in found:
        _LOG.warning("the masquerade bit is used by somebody else", bit=bit, who=str(use))
    if found and on_clash == "refuse":
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise cli.UserError(
            f"--masquerade-bit {bit} ({1 << bit:#x}) is used by somebody else: {found[0]}{others}; choose another bit"
        )
