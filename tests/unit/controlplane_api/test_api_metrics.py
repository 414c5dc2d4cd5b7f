"""Requests are counted in plain numbers and told under the real server's names."""

from __future__ import annotations

from netplane.controlplane.api import metrics
from netplane.lib import metrics as meters


def _lines(name: str, resource: str) -> list[str]:
    told = meters.text().decode().splitlines()
    return [line for line in told if line.startswith(name) and f'resource="{resource}"' in line]


def test_answers_are_told_by_code() -> None:
    of = metrics.of("POST", "", "v1", "countables", "", "namespace", "")
    for code in (201, 201, 409):
        of.done(code, 0.002)
    found = {
        line.partition('code="')[2][:3]: line.rpartition(" ")[2]
        for line in _lines("apiserver_request_total", "countables")
    }
    assert found == {"201": "2.0", "409": "1.0"}


def test_buckets_count_all_that_took_at_most_as_long() -> None:
    of = metrics.of("GET", "", "v1", "measurables", "", "resource", "")
    for seconds in (0.001, 0.02, 100.0):
        of.done(200, seconds)
    found = {
        line.partition('le="')[2].partition('"')[0]: line.rpartition(" ")[2]
        for line in _lines("apiserver_request_duration_seconds_bucket", "measurables")
    }
    assert (found["0.001"], found["0.01"], found["0.025"], found["60.0"], found["+Inf"]) == (
        "1.0",
        "1.0",
        "2.0",
        "2.0",
        "3.0",
    )
    assert _lines("apiserver_request_duration_seconds_count", "measurables")[0].endswith(" 3.0")


def test_writes_in_flight_are_told_apart() -> None:
    of = metrics.of("POST", "", "v1", "countables", "", "namespace", "")
    of.inflight.inc()
    try:
        assert 'apiserver_current_inflight_requests{request_kind="mutating"} 1.0' in meters.text().decode()
    finally:
        of.inflight.dec()


def test_a_watch_is_told_once_whatever_it_asks_for() -> None:
    for dry_run in ("", "All"):
        metrics.of("WATCH", "", "v1", "watchables", "", "namespace", dry_run).watchers.inc()
    (line,) = _lines("apiserver_longrunning_requests", "watchables")
    assert (line.rpartition(" ")[2], 'component="apiserver"' in line, "dry_run" in line) == ("2.0", True, False)
