"""Be the clients of a front door: requests at a steady rate over kept-alive connections, WebSockets, long downloads.

Run inside the door's namespace: python -m tests.support.ingress_load ADDRESS HOST RATE CLIENTS SOCKETS DOWNLOADS.
It prints `going` once everything is connected and has been answered, goes on until its standard input ends, and
prints one JSON object: what it did and everything that went wrong. Nothing is tried twice.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_PATIENCE = 20.0


@dataclass
class Tally:
    """What became of it all."""

    requests: int = 0
    messages: int = 0
    downloads: int = 0
    pods: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    reconnects: int = 0


class Client:
    """One kept-alive connection, and requests over it one after the other."""

    def __init__(self, address: str, host: str, *, secure: bool) -> None:
        self._address, self._host, self._secure = address, host, secure
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, tally: Tally) -> None:
        """Make one request and read the whole answer; a connection that the door closed before is opened anew."""
        if self._streams is None:
            tally.reconnects += 1
            self._streams = await _connect(self._address, self._host, secure=self._secure)
        reader, writer = self._streams
        writer.write(f"GET /load HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        status, headers = await _head(reader)
        body = await reader.readexactly(int(headers["content-length"]))
        if status != 200:
            raise ConnectionError(f"status {status}: {body[:60]!r}")
        tally.pods[json.loads(body)["pod"]] += 1
        tally.requests += 1
        if headers.get("connection", "").lower() == "close":
            self.close()

    def close(self) -> None:
        """Forget the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _connect(address: str, host: str, *, secure: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not secure:
        return await asyncio.open_connection(address, 80)
    context = ssl._create_unverified_context()
    return await asyncio.open_connection(address, 443, ssl=context, server_hostname=host)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in raw[1:] if line)
    return int(raw[0].split(" ")[1]), headers


async def _requests(tally: Tally, client: Client, every: float, stop: asyncio.Event) -> None:
    due = time.monotonic()
    while not stop.is_set():
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE):
                await client.ask(tally)
        except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
            tally.failures[f"request: {type(error).__name__}: {error}"] += 1
            client.close()
        tally.slowest = max(tally.slowest, time.monotonic() - began)
        due += every
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _socket(tally: Tally, session: aiohttp.ClientSession, address: str, host: str, stop: asyncio.Event) -> None:
    """Hold one WebSocket for all the time and have each message echoed; its end is a failure."""
    try:
        headers = {"Host": host}
        async with session.ws_connect(f"http://{address}/-/socket", headers=headers, autoclose=False) as socket:
            await socket.receive_json(timeout=_PATIENCE)
            number = 0
            while not stop.is_set():
                number += 1
                await socket.send_str(f"message {number}")
                echoed = await socket.receive_str(timeout=_PATIENCE)
                if echoed != f"message {number}":
                    raise ConnectionError(f"echoed {echoed!r}")
                tally.messages += 1
                await asyncio.sleep(0.1)
    except (OSError, TimeoutError, TypeError, ValueError, aiohttp.ClientError) as error:
        tally.failures[f"WebSocket: {type(error).__name__}: {error}"] += 1


async def _downloads(tally: Tally, address: str, host: str, stop: asyncio.Event) -> None:
    """Download for several seconds at a time, each to the last byte."""
    while not stop.is_set():
        try:
            reader, writer = await _connect(address, host, secure=False)
            request = f"GET /-/download?pieces=40&every=0.1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            async with asyncio.timeout(30):
                status, headers = await _head(reader)
                await reader.readexactly(int(headers["content-length"]))
            writer.close()
            if status != 200:
                raise ConnectionError(f"status {status}")
            tally.downloads += 1
        except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
            tally.failures[f"download: {type(error).__name__}: {error}"] += 1
            await asyncio.sleep(0.1)


async def _run(address: str, host: str, rate: float, clients: int, sockets: int, downloads: int) -> dict[str, Any]:
    tally, stop = Tally(), asyncio.Event()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            client = Client(address, host, secure=bool(number % 2))
            group.create_task(_requests(tally, client, clients / rate, stop))
        for _ in range(sockets):
            group.create_task(_socket(tally, session, address, host, stop))
        for _ in range(downloads):
            group.create_task(_downloads(tally, address, host, stop))
        began = time.monotonic()
        while tally.requests < clients or tally.messages < sockets:
            if time.monotonic() - began > _PATIENCE:
                break
            await asyncio.sleep(0.05)
        print("going", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        seconds = time.monotonic() - began
        stop.set()
    return {
        "seconds": round(seconds, 1),
        "requests": tally.requests,
        "messages": tally.messages,
        "downloads": tally.downloads,
        "pods": len(tally.pods),
        "connections": tally.reconnects,
        "slowest": round(tally.slowest, 3),
        "failures": tally.failures,
    }


if __name__ == "__main__":
    place, name, per_second, *counts = sys.argv[1:]
    print(json.dumps(asyncio.run(_run(place, name, float(per_second), *map(int, counts)))))
