"""What holds for every test: hypothesis measures meaning, never time, and a second attempt is an exception."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Two cores may be shared with a whole cluster: a slow example is not a wrong one.
settings.register_profile("netplane", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("netplane")

# Lanes on a real kernel give a failed test a second attempt (`--reruns 1`), which the summary lists as a fault to mend:
# more of them in one lane than this fail the lane.
SECOND_ATTEMPTS = 3


def second_attempts(config: pytest.Config) -> int:
    """Return how many tests were run again so far."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("rerun", [])) if reporter else 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if second_attempts(session.config) > SECOND_ATTEMPTS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    again = terminalreporter.stats.get("rerun", [])
    for report in again:
        terminalreporter.section(f"second attempt: {report.nodeid}")
        terminalreporter.line(report.longreprtext)
    if len(again) > SECOND_ATTEMPTS:
        terminalreporter.line(
            f"{len(again)} second attempts, at most {SECOND_ATTEMPTS} are borne: the lane fails", red=True
        )
