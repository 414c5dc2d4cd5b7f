"""Find what the paths to the other nodes take, by asking them: no router's word is needed, which firewalls may drop."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Callable, Collection, Mapping, Set
from pathlib import Path

from netplane.kernel.echo import Echo
from netplane.kernel.errors import KernelError
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.model import address
from netplane_cni.plan import probes

ATTEMPTS = 3
PATIENCE = 0.3
"""Seconds: no answer by then is none. Paths between nodes of one cluster are shorter."""
AT_ONCE = 32
NARROW_INTERVAL = 60.0
FILE = "paths.json"


class Paths:
    """The paths that are narrower than the node's own link. It asks in the namespace where it was made."""

    def __init__(self, clock: clocks.Clock, changed: Callable[[], None], *, interval: float, folder: Path) -> None:
        """`changed` is called whenever `limits` has; `interval` seconds pass until a path is looked at again.

        What is known is kept in `folder`, so that routes say it from the first moment after a restart, too.
        """
        self._kept = folder / FILE
        self._clock = clock
        self._changed = changed
        self._interval = interval
        self._echoes: dict[int, Echo] = {}
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._sequence = 0
        self._full = 0
        self._due: dict[address.Packed, float] = {}
        self._queue: list[tuple[float, address.Packed]] = []
        self._fresh: dict[address.Packed, int | None] = {}
        self._news = asyncio.Event()
        self._limits = _load(self._kept)
        self._log = log.get("cni")

    @property
    def limits(self) -> Mapping[address.Packed, int]:
        """The largest packet to an address, where it is less than the node's own link takes."""
        return self._limits

    def take(self) -> dict[address.Packed, int | None]:
        """Return what is newly known since it was asked last; None for as much as the link takes."""
        taken, self._fresh = self._fresh, {}
        return taken

    def offer(self, addresses: Collection[address.Packed], full: int) -> None:
        """Say which addresses matter now, and what the link to them takes."""
        now = self._clock.monotonic()
        if full != self._full:
            self._due.clear()
            self._full = full
        if self._due.keys() == set(addresses):
            return
        self._due = {ip: self._due.get(ip, now) for ip in addresses}
        self._queue = [(due, ip) for ip, due in self._due.items()]
        heapq.heapify(self._queue)
        for ip in [ip for ip, limit in self._limits.items() if ip not in self._due or limit >= full]:
            self._limit(ip, None)
        self._news.set()

    def change(self, come: Set[address.Packed], gone: Set[address.Packed]) -> None:
        """Say which addresses matter now, too, and which do no more."""
        for ip in gone:
            self._due.pop(ip, None)
            self._limit(ip, None)
        now = self._clock.monotonic()
        for ip in come - self._due.keys():
            self._plan(ip, now)
        if come:
            self._news.set()

    def _plan(self, ip: address.Packed, due: float) -> None:
        self._due[ip] = due
        heapq.heappush(self._queue, (due, ip))

    def _limit(self, ip: address.Packed, limit: int | None) -> bool:
        if self._limits.get(ip) == limit:
            return False
        self._limits.pop(ip, None)
        self._limits |= {ip: limit} if limit is not None else {}
        self._fresh[ip] = limit
        return True

    def _late(self) -> list[address.Packed]:
        """Take the addresses whose time has come off the queue, a few at once."""
        now, found = self._clock.monotonic(), dict[address.Packed, None]()
        while self._queue and len(found) < AT_ONCE:
            due, ip = self._queue[0]
            if self._due.get(ip) == due:
                if due > now:
                    break
                found[ip] = None
            heapq.heappop(self._queue)
        return list(found)

    async def run(self) -> None:
        """Look at each path when it is new, and again now and then, until cancelled."""
        try:
            while True:
                self._news.clear()
                if late := self._late():
                    await self._look(late)
                    continue
                left = self._queue[0][0] - self._clock.monotonic() if self._queue else self._interval
                await clocks.wait(self._news, max(left, 0.01), self._clock)
        finally:
            loop = asyncio.get_running_loop()
            for echo in self._echoes.values():
                loop.remove_reader(echo.fileno())
                echo.close()
            self._echoes.clear()

    async def _look(self, addresses: Collection[address.Packed]) -> None:
        full, is_news = self._full, False
        found = await asyncio.gather(*(self._measure(ip, full) for ip in addresses))
        now = self._clock.monotonic()
        for ip, size in zip(addresses, found, strict=True):
            if ip not in self._due or full != self._full:
                continue
            if size is not None and self._limit(ip, size if size < full else None):
                is_news = True
                self._log.info("path measured", node=address.text(ip), mtu=size, link=full)
            wait = min(self._interval, NARROW_INTERVAL) if size is None or size < full else self._interval
            self._plan(ip, now + wait)
        if is_news:
            self._save()
            self._changed()

    def _save(self) -> None:
        content = {address.text(ip): limit for ip, limit in sorted(self._limits.items())}
        beside = self._kept.with_name(f".{FILE}.new")
        try:
            beside.write_text(json.dumps(content))
            beside.rename(self._kept)
        except OSError as error:  # then it is measured again after a restart
            self._log.warning("what paths take was not kept", file=str(self._kept), why=error.strerror)

    async def _measure(self, ip: address.Packed, full: int) -> int | None:
        search = probes.begin(address.family(ip), full)
        while size := search.size:
            search = probes.learn(search, is_answered=await self._is_answered(ip, size))
        return search.found

    async def _is_answered(self, ip: address.Packed, size: int) -> bool:
        try:
            for _ in range(ATTEMPTS):
                if await self._ask(ip, size):
                    return True
        except KernelError as error:
            self._log.warning("a path was not measured", node=address.text(ip), why=str(error))
        return False

    async def _ask(self, ip: address.Packed, size: int) -> bool:
        self._sequence = (self._sequence + 1) & 0xFFFF
        sequence, loop = self._sequence, asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()
        self._waiting[sequence] = answer
        try:
            if not self._echo(len(ip)).ask(ip, size, sequence):
                return False
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            return False
        finally:
            del self._waiting[sequence]

    def _echo(self, width: int) -> Echo:
        if width not in self._echoes:
            made = self._echoes[width] = Echo(width)
            asyncio.get_running_loop().add_reader(made.fileno(), self._hear, made)
        return self._echoes[width]

    def _hear(self, echo: Echo) -> None:
        for sequence in echo.answers():
            waiting = self._waiting.get(sequence)
            if waiting is not None and not waiting.done():
                waiting.set_result(True)


def _load(path: Path) -> dict[address.Packed, int]:
    try:
        return {address.parse(text): int(limit) for text, limit in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # nothing kept, or nothing of use: all paths are measured at the start
