"""Search the largest packet that a path takes, one question after the other. Asking is run/probes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from netplane.model import address

FLOOR = {address.Family.V4: 576, address.Family.V6: 1280}
"""What every path takes (RFC 1122, RFC 8200): one that does not carry even that answers no questions."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is known of a path: it takes `fits` bytes (0: nothing known yet) and not `fails`."""

    full: int
    floor: int
    fits: int = 0
    fails: int = 0

    @property
    def size(self) -> int:
        """The size to ask about next, 0 when all is known: first the whole, then the least, then between."""
        if self.fits == self.full or self.fails == self.floor:
            return 0
        if not self.fails:
            return self.full
        if not self.fits:
            return self.floor
        return (self.fits + self.fails) // 2 if self.fails - self.fits > 1 else 0

    @property
    def found(self) -> int | None:
        """The path's MTU; None while unknown, and when it answers nothing at all."""
        return self.fits if self.fits and not self.size else None


def begin(family: address.Family, full: int) -> Search:
    """Return the search on a path whose first link takes `full` bytes."""
    return Search(full, min(FLOOR[family], full))


def learn(search: Search, *, is_answered: bool) -> Search:
    """Return the search after the question it had next."""
    return replace(search, fits=search.size) if is_answered else replace(search, fails=search.size)
