"""Ask the other nodes by each of this node's addresses. Which to take is plan/underlay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from netplane.kernel.echo import SMALLEST, Echo
from netplane.kernel.errors import KernelError
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.model import address
from netplane_cni.plan.underlay import Question

ATTEMPTS = 3
PATIENCE = 0.3
"""Seconds: no answer by then is none. Paths between nodes of one cluster are shorter."""
INTERVAL = 5.0


class Reach:
    """Who answers to what. It asks in the namespace where it was made, and only nodes that have a choice ask."""

    def __init__(self, clock: clocks.Clock, changed: Callable[[], None]) -> None:
        """`changed` is called whenever `answered` has, but not for the answers that `offer` waits for."""
        self._clock = clock
        self._changed = changed
        self._questions: Mapping[Question, int] = {}
        self._answered: frozenset[Question] = frozenset()
        self._news = asyncio.Event()
        self._log = log.get("cni")

    @property
    def answered(self) -> frozenset[Question]:
        """Which questions had an answer when they were asked last."""
        return self._answered

    async def offer(self, questions: Mapping[Question, int]) -> None:
        """Say what to ask, with the index of the link by which; return once those that are new have their answer."""
        if questions.keys() == self._questions.keys():
            return
        fresh = {question: link for question, link in questions.items() if question not in self._questions}
        self._questions = questions
        known = {question for question in self._answered if question in questions}
        self._answered = frozenset(known | await self._ask(fresh))
        self._news.set()

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            if self._questions:
                await self._clock.sleep(INTERVAL)
                await self._look()
            else:
                self._news.clear()
                await self._news.wait()

    async def _look(self) -> None:
        asked = self._questions
        found = await self._ask(asked)
        if self._questions is not asked or found == self._answered:
            return
        for by, to in sorted(found ^ self._answered):
            is_heard = (by, to) in found
            self._log.info("a node by an address", by=address.text(by), to=address.text(to), answers=is_heard)
        self._answered = found
        self._changed()

    async def _ask(self, questions: Mapping[Question, int]) -> frozenset[Question]:
        """Ask all at once, those that do not answer a few times."""
        found: set[Question] = set()
        by_source: dict[tuple[address.Packed, int], list[address.Packed]] = {}
        for (by, to), index in questions.items():
            by_source.setdefault((by, index), []).append(to)

        async def ask(source: address.Packed, index: int, to: list[address.Packed]) -> None:
            try:
                with contextlib.closing(Echo(len(source), source=source, link=index)) as echo:
                    found.update((source, one) for one in await _heard(echo, to))
            except KernelError as error:
                self._log.warning("no node was asked by an address", address=address.text(source), why=str(error))

        async with asyncio.TaskGroup() as group:
            for (source, index), others in by_source.items():
                group.create_task(ask(source, index, others))
        return frozenset(found)


async def _heard(echo: Echo, addresses: list[address.Packed]) -> set[address.Packed]:
    """Return the addresses that answer."""
    loop, silent, news = asyncio.get_running_loop(), dict(enumerate(addresses)), asyncio.Event()

    def hear() -> None:
        for number in echo.answers():
            silent.pop(number, None)
        if not silent:
            news.set()

    loop.add_reader(echo.fileno(), hear)
    try:
        for _ in range(ATTEMPTS):
            for number, ip in list(silent.items()):
                echo.ask(ip, SMALLEST[len(ip)], number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await news.wait()
            if not silent:
                break
    finally:
        loop.remove_reader(echo.fileno())
    return set(addresses) - set(silent.values())
