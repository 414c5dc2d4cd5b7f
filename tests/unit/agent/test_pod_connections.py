"""Connections into a pod's network."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import threading

import uvloop

from netplane.agent.runtime.embedded import machine
from netplane.agent.runtime.protocol import RuntimeFailure


def test_pods_that_reset_connections_cost_no_descriptor_of_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=_reset_all, args=(door,), daemon=True).start()
        gone, left = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_knock(door.getsockname()[1]))
        door.shutdown(socket.SHUT_RDWR)
    assert not gone
    assert left < 20, "of 200 connections"


def _reset_all(door: socket.socket) -> None:
    while True:
        try:
            one, _ = door.accept()
        except OSError:
            return
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()


async def _knock(port: int) -> tuple[list[int], int]:
    """Be reset many times; return the descriptors that went away though somebody else had them, and how many stay."""
    gone: list[int] = []
    await _one(port)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await asyncio.gather(*(_one(port) for _ in range(10)))
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        gc.collect()
        for each in held:
            try:
                os.close(each)
            except OSError:
                gone.append(each)
    return gone, len(os.listdir("/proc/self/fd")) - before


async def _one(port: int) -> None:
    with contextlib.suppress(RuntimeFailure):
        _, writer = await machine.connect_within("", port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
