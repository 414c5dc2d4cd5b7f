"""Wait out what is away: ever longer between two tries, and one line of log when it goes and one when it is back."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from netplane.lib.clock import Clock
from netplane.lib.log import Logger


@dataclass(slots=True)
class Backoff:
    """Waits that double from `first` to `longest` seconds.

    Each is shortened by up to a fifth, so that many who lost the same thing at once do not ask for it in step.
    """

    first: float
    longest: float
    rng: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def failed(self) -> float:
        """Note that a try failed; return how long to wait before the next one."""
        whole: float = min(self.first * 2 ** min(self.failures, 20), self.longest)
        self.failures += 1
        return whole * self.rng.uniform(0.8, 1.0)

    def ended(self) -> int:
        """Begin anew; return how many tries had failed."""
        failures, self.failures = self.failures, 0
        return failures


class Outage:
    """What may be away and is asked for again and again: `lost` and `back` are what the log says of it."""

    def __init__(self, log: Logger, clock: Clock, *, lost: str, back: str, backoff: Backoff) -> None:
        self._log = log
        self._clock = clock
        self._lost = lost
        self._back = back
        self._backoff = backoff
        self._since = 0.0

    def failed(self, error: Exception) -> float:
        """Note that a try failed; return how long to wait before the next one. Only the first of them is told."""
        if not self._backoff.failures:
            self._since = self._clock.monotonic()
            self._log.warning(self._lost, error=str(error))
        else:
            self._log.debug(self._lost, error=str(error))
        return self._backoff.failed()

    def ended(self) -> None:
        """Note that a try succeeded."""
        tries = self._backoff.ended()
        if tries:
            self._log.info(self._back, failed_tries=tries, seconds=round(self._clock.monotonic() - self._since, 1))
