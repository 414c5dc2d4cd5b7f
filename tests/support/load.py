"""Ask a URL at a steady rate from a place of the lab, and report every answer that was not one.

Run inside a namespace: python load.py URL RATE SECONDS [PORT_FILE]. Prints one JSON object. Every request is a
connection of its own, as a client without keep-alive makes it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from urllib.parse import urlsplit


async def once(host: str, port: int, path: str) -> str:
    """Make one request; return the answering pod's name."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            raise ConnectionError(f"status {head[:40]!r}")
        return str(json.loads(body)["pod"])
    finally:
        writer.close()


async def load(url: str, rate: float, seconds: float) -> dict[str, object]:
    """Make rate x seconds requests and gather what became of them."""
    parts = urlsplit(url)
    pods: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    slowest = 0.0
    start = time.monotonic()

    async def one(number: int) -> None:
        nonlocal slowest
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        began = time.monotonic()
        try:
            async with asyncio.timeout(5):
                pods[await once(parts.hostname or "", parts.port or 80, parts.path or "/")] += 1
        except (OSError, TimeoutError, ValueError, IndexError) as error:
            failures[f"{type(error).__name__}: {error} at {began - start:.2f} s"] += 1
        slowest = max(slowest, time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            group.create_task(one(number))
    return {"requests": int(rate * seconds), "pods": pods, "failures": failures, "slowest": round(slowest, 3)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))))
