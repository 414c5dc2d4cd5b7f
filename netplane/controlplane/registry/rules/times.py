"""Points in time as the API writes them, and how long ago they were as tables print it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache


@lru_cache(1024)
def parse(text: str) -> datetime:
    """Return the point in time that RFC 3339 text names. Raises ValueError."""
    if "T" not in text and "t" not in text:
        raise ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}"')
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": {error}') from error
    if value.tzinfo is None:
        raise ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00"')
    return value.astimezone(UTC)


def seconds(text: str) -> str:
    """Return the canonical text of a metav1.Time: UTC, whole seconds."""
    if len(text) == 20 and text[19] == "Z" and text[10] == "T":
        parse(text)
        return text
    return parse(text).strftime("%Y-%m-%dT%H:%M:%SZ")


def micros(text: str) -> str:
    """Return the canonical text of a metav1.MicroTime: UTC, six digits."""
    return parse(text).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def age(text: str | None, now: datetime) -> str:
    """Return how long ago that was, as tables print it; `<unknown>` without a time."""
    return human(now - parse(text)) if text else "<unknown>"


def human(elapsed: timedelta) -> str:
    """Return a duration with two or three significant digits, as k8s.io/apimachinery's HumanDuration does."""
    total = int(elapsed.total_seconds())
    if total < -1:
        return "<invalid>"
    if total < 120:
        return f"{max(total, 0)}s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
