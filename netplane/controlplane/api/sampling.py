"""Sample what nodes use by asking their agents: nothing is asked of them before somebody wants to know.

A usage lies between two samples. The last ones are kept, so that only the first who asks waits a second for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from netplane.controlplane.api import agents, status, usage
from netplane.lib import clock
from netplane.lib import log as logs

_LOG = logs.get("api")
_FIRST_WINDOW = 1.0
_FRESH_SECONDS = 5.0
"""So long a sample serves all who ask."""
_STALE_SECONDS = 90.0
_ASK_SECONDS = 5.0
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Pair:
    older: usage.Sample
    newer: usage.Sample


class Meter:
    """The last two samples of every node that somebody asked about."""

    def __init__(self, ask: agents.Agents, time: clock.Clock) -> None:
        self._agents = ask
        self._clock = time
        self._pairs: dict[str, _Pair] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def measure(self, nodes: Iterable[str]) -> dict[str, usage.Measured]:
        """Return what the nodes use; those whose agent does not answer are missing."""
        wanted = sorted(set(nodes))
        async with asyncio.TaskGroup() as group:
            asked = {name: group.create_task(self._pair(name)) for name in wanted}
        found = {name: pair for name, task in asked.items() if (pair := task.result()) is not None}
        return {name: usage.between(pair.older, pair.newer) for name, pair in found.items()}

    def forget(self, alive: Iterable[str]) -> None:
        """Drop what is known of nodes that are no more."""
        kept = set(alive)
        self._pairs = {name: pair for name, pair in self._pairs.items() if name in kept}

    async def _pair(self, node: str) -> _Pair | None:
        known = self._pairs.get(node)
        age = self._clock.monotonic() - known.newer.taken if known is not None else _STALE_SECONDS
        if known is not None and age < _FRESH_SECONDS:
            return known
        try:
            older = known.newer if known is not None and age < _STALE_SECONDS else await self._sample(node)
            if older.taken > self._clock.monotonic() - _FIRST_WINDOW:
                await self._clock.sleep(_FIRST_WINDOW)
            made = self._pairs[node] = _Pair(older, await self._sample(node))
        except (status.ApiStatus, OSError, TimeoutError, ValueError, LookupError, TypeError) as error:
            _LOG.info("no metrics of a node", node=node, why=error)
            return None
        return made

    async def _sample(self, node: str) -> usage.Sample:
        async with self._turns, asyncio.timeout(_ASK_SECONDS):
            url = f"{self._agents.url(node)}/stats/summary"
            async with await self._agents.open("GET", url, headers=self._agents.headers(), body=b"") as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise agents.refusal(answer.status, body)
        return usage.sample(orjson.loads(body), taken=self._clock.monotonic())
