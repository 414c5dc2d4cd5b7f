"""Sockets whose descriptors the event loop closes."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl

import aiohttp
import uvloop

from netplane.lib import sockets
from tests.support import resetting

_ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 0))


def test_a_lent_socket_that_is_collected_closes_nothing() -> None:
    made = sockets.lent(_ADDRESS)
    number = made.fileno()
    del made
    gc.collect()
    os.fstat(number)
    os.close(number)


def test_a_lent_socket_closes_when_it_is_told_to() -> None:
    made = sockets.lent(_ADDRESS)
    made.close()
    assert made.fileno() == -1


def test_connections_that_are_reset_close_no_descriptor_of_others() -> None:
    with resetting.door() as port:
        assert asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_knock(port)) == []


async def _knock(port: int) -> list[int]:
    """Be reset many times, and return the descriptors that went away though somebody else had them."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(), limit=0, socket_factory=sockets.lent)
    gone: list[int] = []
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(20):
            await asyncio.gather(*(_one(session, port) for _ in range(20)))
            held = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
            gc.collect()
            gone += resetting.closed_of(held)
    return gone


async def _one(session: aiohttp.ClientSession, port: int) -> None:
    try:
        async with session.get(f"https://127.0.0.1:{port}/"):
            pass
    except aiohttp.ClientError:
        pass
