"""The seam between the daemon and a kernel backend: what each backend (run/nftables, later ipvs and iptables) offers.

The daemon decides what is wanted and when; the target makes it true, knows what the kernel holds, and repairs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from netplane_proxy.plan.forwarding import Forwarding
from netplane_proxy.plan.ledger import Changes


@dataclass(frozen=True, slots=True)
class Result:
    """What one commit or comparison did: how many operations the kernel took, and how long it all was in seconds."""

    operations: int = 0
    seconds: float = 0.0


class Target(Protocol):
    """A kernel backend. One writer per table: only one process may hold a target at a time.

    Every method raises `netplane.kernel.errors.KernelError` and then has changed nothing of that transaction; calling
    `replace` afterwards is always a way back.
    """

    async def replace(self, forwarding: Forwarding) -> Result:
        """Make the kernel hold exactly this, from whatever it holds: load what is missing, observe, diff, commit.

        It adopts what a former run left: established connections and affinity survive, and at every moment the Services
        that were there and still are forward. Called at start, after an error, when the
        node's facts change, and for the periodic comparison: an answer of no operations is the proof that the kernel
        holds what is wanted.
        """

    async def commit(self, changes: Changes, revision: str) -> Result:
        """Make these changes in one transaction, after `replace` succeeded once. The fast path."""

    def drift(self) -> AsyncIterator[str]:
        """Yield a line for each change of our objects by somebody else ("pid 812 (nft) changed table ip netplane").

        The daemon answers with `replace`.
        """

    async def cleanup(self) -> None:
        """Remove every trace of this backend, also of former runs. Nothing there is no failure."""

    def close(self) -> None:
        """Let go of the kernel and leave everything in place."""
