"""When CronJobs run: their schedules, as github.com/robfig/cron reads them, and their time zones.

Source: validateScheduleFormat and validateTimeZone of k8s.io/kubernetes/pkg/apis/batch/validation.
"""

from __future__ import annotations

import re
import zoneinfo
from functools import lru_cache

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.kube.types import Object

_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11,
    "dec": 12,
}  # fmt: skip
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = (
    (0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, _MONTHS), (0, 6, _DAYS),
)  # fmt: skip
_DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = "@every "
_duration = re.compile(r"[-+]?(0|([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+").fullmatch
_zone_part = re.compile(r"[A-Za-z._0-9+][A-Za-z.\-_0-9+]{0,13}").fullmatch
_ZONES = "https://www.iana.org/time-zones"


class _Unreadable(Exception):
    """A schedule that says no times; the message is the parser's."""


def times(obj: Object) -> list[Fault]:
    """Return what is wrong with when a new CronJob runs."""
    return _schedule(obj["spec"], may_name_zone=False) + _zone(obj["spec"].get("timeZone"))


def times_update(new: Object, old: Object) -> list[Fault]:
    """Return what is wrong with when a CronJob runs from now on: a zone that was taken before may stay."""
    spec, before = new["spec"], old["spec"]
    found = _schedule(spec, may_name_zone="TZ" in before.get("schedule", ""))
    return found if spec.get("timeZone") == before.get("timeZone") else found + _zone(spec.get("timeZone"))


def _schedule(spec: Object, *, may_name_zone: bool) -> list[Fault]:
    text, at = spec.get("schedule", ""), "spec.schedule"
    if not text:
        return [faults.required(at)]
    found: list[Fault] = []
    try:
        _parse(text)
    except _Unreadable as error:
        found.append(faults.invalid(at, text, str(error)))
    if "TZ" in text and not may_name_zone:
        detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        found.append(faults.invalid(at, text, detail))
    elif "TZ" in text and spec.get("timeZone") is not None:
        detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        found.append(faults.invalid(at, text, detail))
    return found


def _parse(text: str) -> None:
    if text.startswith(("TZ=", "CRON_TZ=")):
        zone, _, text = text.partition(" ")
        name = zone.partition("=")[2]
        if not _is_zone(name):
            raise _Unreadable(f"provided bad location {name}: unknown time zone {name}")
        text = text.strip()
    if text.startswith("@"):
        _descriptor(text)
        return
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise _Unreadable(f"expected exactly {len(_FIELDS)} fields, found {len(fields)}: [{' '.join(fields)}]")
    for field, (least, most, names) in zip(fields, _FIELDS, strict=True):
        for each in field.split(","):
            if each:
                _range(each, least, most, names)


def _descriptor(text: str) -> None:
    if text in _DESCRIPTORS:
        return
    if not text.startswith(_EVERY):
        raise _Unreadable(f"unrecognized descriptor: {text}")
    amount = text.removeprefix(_EVERY)
    if not _duration(amount):
        raise _Unreadable(f'failed to parse duration {text}: time: invalid duration "{amount}"')


def _range(text: str, least: int, most: int, names: dict[str, int]) -> None:
    span, *steps = text.split("/")
    low, *highs = span.split("-")
    if low in ("*", "?"):
        start, end = least, most
    else:
        start = _number(low, names)
        end = _number(highs[0], names) if highs else start
        if len(highs) > 1:
            raise _Unreadable(f"too many hyphens: {text}")
    if len(steps) > 1:
        raise _Unreadable(f"too many slashes: {text}")
    step = _number(steps[0], {}) if steps else 1
    if steps and not highs:
        end = most
    if start < least:
        raise _Unreadable(f"beginning of range ({start}) below minimum ({least}): {text}")
    if end > most:
        raise _Unreadable(f"end of range ({end}) above maximum ({most}): {text}")
    if start > end:
        raise _Unreadable(f"beginning of range ({start}) beyond end of range ({end}): {text}")
    if step == 0:
        raise _Unreadable(f"step of range should be a positive number: {text}")


def _number(text: str, names: dict[str, int]) -> int:
    known = names.get(text.lower())
    if known is not None:
        return known
    if not re.fullmatch(r"[-+]?[0-9]+", text):
        raise _Unreadable(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    if int(text) < 0:
        raise _Unreadable(f"negative number ({text}) not allowed: {text}")
    return int(text)


def _zone(name: str | None) -> list[Fault]:
    at = "spec.timeZone"
    if name is None:
        return []
    if not name:
        return [faults.invalid(at, name, "timeZone must be nil or non-empty string")]
    if name.lower() == "local":
        return [faults.invalid(at, name, f"timeZone must be an explicit time zone as defined in {_ZONES}")]
    return [] if _is_zone(name) else [faults.invalid(at, name, f"unknown time zone {name}")]


@lru_cache(256)
def _is_zone(name: str) -> bool:
    """True for a zone that the machine's database has; where there is none, for any that could be one."""
    if not all(part not in (".", "..") and _zone_part(part) for part in name.split("/")):
        return False
    return _is_known(name) or not _is_known("UTC")


def _is_known(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
