"""Connections into a pod's network."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os

import uvloop

from netplane.agent.runtime.embedded import machine
from netplane.agent.runtime.protocol import RuntimeFailure
from tests.support import resetting


def test_pods_that_reset_connections_cost_no_descriptor_of_others() -> None:
    with resetting.door() as port:
        gone, left = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_knock(port))
    assert not gone
    assert left < 20, "of 200 connections"


async def _knock(port: int) -> tuple[list[int], int]:
    """Be reset many times; return the descriptors that went away though somebody else had them, and how many stay."""
    gone: list[int] = []
    await _one(port)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await asyncio.gather(*(_one(port) for _ in range(10)))
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        gc.collect()
        gone += resetting.closed_of(held)
    return gone, len(os.listdir("/proc/self/fd")) - before


async def _one(port: int) -> None:
    with contextlib.suppress(RuntimeFailure):
        _, writer = await machine.connect_within("", port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
