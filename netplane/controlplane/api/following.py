"""Tell many watches the same at once: bytes made once, written straight to connections. What is told is watching's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence

from netplane.controlplane.api import transport
from netplane.controlplane.store import feed, history

Make = Callable[[Sequence[history.Event]], bytes]
"""Events to the lines that tell of them; the same for all of one group."""
_SLICE = 500


class Follower:
    """A watch that has told all there was, and is told news without a turn of its task.

    The task is woken for what cannot be done at once: a client that reads too slowly, a window that has moved past it,
    more news than one slice, a bookmark that is due, the server's end (`is_due`). `position` is always where the
    client stands.
    """

    __slots__ = ("_group", "_is_due", "_line", "_make", "_window", "_woken", "position")

    def __init__(
        self,
        window: history.Window,
        line: transport.Line,
        *,
        position: int,
        group: Hashable,
        make: Make | None,
        is_due: Callable[[], bool],
    ) -> None:
        self._window = window
        self._line = line
        self.position = position
        self._group = group
        self._make = make
        self._is_due = is_due
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self, news: feed.Feed) -> None:
        """Be told until the task's own turn is needed."""
        news.follow(self)
        try:
            await self._woken
        finally:
            news.unfollow(self)

    def tell(self) -> None:
        """Tell what is new, or wake the task."""
        if self._woken.done():
            return
        try:
            is_told = self._told()
        except Exception:  # the task meets the same in its turn, and answers it; the others must be told
            is_told = False
        if not is_told:
            self._woken.set_result(None)

    def _told(self) -> bool:
        if not self._line.is_clear or self._is_due():
            return False
        window = self._window
        if self.position != window.end:
            end, text = window.lines(self.position, limit=_SLICE, group=self._group, make=self._make)
            if text:
                self._line.write(text)
            self.position = end
        return self.position == window.end
