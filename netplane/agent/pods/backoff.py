"""Say how long a failing thing waits before its next try: 10 s, doubling to 5 min (client-go's Backoff)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

FIRST = timedelta(seconds=10)
LONGEST = timedelta(seconds=300)


@dataclass(frozen=True, slots=True)
class Entry:
    """The delay after the last try, which was allowed at `since`."""

    delay: timedelta
    since: datetime


Table = Mapping[str, Entry]
"""What is backing off, by its key."""


def until(entry: Entry | None, failed: datetime) -> datetime | None:
    """Return when the next try may be, after a failure at `failed`; None for at once.

    A failure more than twice the longest delay after the last try is a new story (the kubelet's doBackOff).
    """
    if entry is None or failed - entry.since > 2 * LONGEST:
        return None
    return failed + entry.delay


def advance(entry: Entry | None, failed: datetime, now: datetime) -> Entry:
    """Return the entry after a try is made, at `now`, that follows a failure at `failed`."""
    if entry is None or failed - entry.since > 2 * LONGEST:
        return Entry(FIRST, now)
    return Entry(min(entry.delay * 2, LONGEST), now)


def spoken(delay: timedelta) -> str:
    """Return a delay as Go prints it: `10s`, `2m40s`."""
    minutes, seconds = divmod(int(delay.total_seconds()), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
