"""The kernel backends by the name of their mode, and how one takes over from another."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from netplane.kernel.errors import KernelError
from netplane.kernel.nft.run import Socket
from netplane.lib import log
from netplane_proxy.plan.nftables.layout import LAYOUTS
from netplane_proxy.run import iptables, ipvs, nftables
from netplane_proxy.run.target import Target

_LOG = log.get("proxy")
_NOT_IN_KERNEL = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)
"""What a kernel answers that was built without a backend."""
_ENTRY = "services"
"""The chain in which the nftables backend takes packets up (plan/nftables/skeleton)."""


class Backend(NamedTuple):
    """How to open a backend in the network namespace of this thread, and how to remove every trace of one.

    `retire` does so for one whose connections would not outlive it: it waits for them. None: `cleanup` cuts nothing.
    """

    open: Callable[[], Target]
    cleanup: Callable[[], Awaitable[None]]
    retire: Callable[[], Awaitable[None]] | None = None


async def _cleanup_nftables() -> None:
    """Let no packet in before the tables go: one under way would find the rules without elements, and be refused."""
    with contextlib.closing(Socket()) as kernel:
        for sets in LAYOUTS.values():
            if _ENTRY in kernel.chains(sets.table):
                await kernel.load(f"flush chain {sets.table} {_ENTRY}\n")
    with contextlib.closing(nftables.open_target()) as target:
        await target.cleanup()


BUILT: Mapping[str, Backend] = {
    "nftables": Backend(nftables.open_target, _cleanup_nftables),
    "iptables": Backend(iptables.open_target, iptables.cleanup),
    "ipvs": Backend(ipvs.open_target, ipvs.cleanup, ipvs.retire),
}
"""Those that this version has."""


async def cleanup() -> None:
    """Remove every trace of all backends; of what the kernel has not there is none."""
    failures = await _done({mode: backend.cleanup for mode, backend in BUILT.items()})
    if failures:
        raise next(iter(failures.values()))


async def retire_others(mode: str) -> None:
    """Remove what other modes left, once this one forwards, and cut no connection.

    Those of nftables and iptables live on in connection tracking; IPVS stays until its own have ended.
    """
    retire = {other: backend.retire or backend.cleanup for other, backend in BUILT.items() if other != mode}
    for other, error in (await _done(retire)).items():
        _LOG.warning("rules of another mode are still there", mode=other, reason=error)


async def _done(deeds: Mapping[str, Callable[[], Awaitable[None]]]) -> dict[str, KernelError]:
    failures: dict[str, KernelError] = {}
    for mode, deed in deeds.items():
        try:
            await deed()
        except KernelError as error:
            if error.errno not in _NOT_IN_KERNEL:
                failures[mode] = error
    return failures
