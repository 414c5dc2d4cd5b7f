"""Tell how old revisions are, roughly, so that objects go by their age. A restart forgets: they live on a little."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from netplane.lib import clock as clocks


class Ages:
    """What the revision was at which moment, as far back as the longest time to live."""

    __slots__ = ("_clock", "_seen", "_ttls")

    def __init__(self, ttls: Mapping[str, int], *, clock: clocks.Clock = clocks.SYSTEM) -> None:
        self._ttls = ttls
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def over(self, revision: int) -> list[tuple[str, int]]:
        """Note the present revision; return for each type the revision up to which its objects are too old."""
        if not self._ttls:
            return []
        now = self._clock.monotonic()
        self._seen.append((now, revision))
        found = []
        for storage, seconds in sorted(self._ttls.items()):
            past = [known for moment, known in self._seen if moment <= now - seconds]
            if past:
                found.append((storage, past[-1]))
        oldest = now - max(self._ttls.values())
        while len(self._seen) > 1 and self._seen[1][0] <= oldest:
            self._seen.popleft()
        return found
