"""Say how far the world has followed: which revision is wanted, which was committed, which was seen to be there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one act did. `is_verified` says that afterwards the world was read and nothing differed."""

    revision: str
    operations: int = 0
    is_verified: bool = False


class Report(NamedTuple):
    """The state of one loop, as a user may ask for it. A NamedTuple, for each act makes two."""

    name: str
    wanted: str = ""
    committed: str = ""
    verified: str = ""
    failure: str = ""
    """Why the last act failed; "" when it did not."""
    failures: int = 0
    """How many acts failed one after another up to now."""
    acts: int = 0
    repairs: int = 0
    """How many times a resync found the world different from what was committed."""
    seconds: float = 0.0
    """How long the last act took."""

    @property
    def is_settled(self) -> bool:
        """Whether the newest wish is in the world."""
        return bool(self.wanted) and self.committed == self.wanted and not self.failure

    def lines(self) -> list[tuple[str, str]]:
        """Return name and value pairs for a person."""
        state = "settled" if self.is_settled else ("failing" if self.failure else "working")
        told = [("state", state), ("wanted", self.wanted), ("committed", self.committed), ("verified", self.verified)]
        if self.failure:
            told += [("failure", self.failure), ("failures", str(self.failures))]
        return [
            *told,
            ("acts", str(self.acts)),
            ("repairs", str(self.repairs)),
            ("last", f"{self.seconds * 1e3:.1f} ms"),
        ]
