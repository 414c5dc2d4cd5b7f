"""Repeat a probe at its times and tell when its verdict changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Never

from netplane.agent.pods.spec import Probe
from netplane.agent.probes.checks import CheckFailed, Checks, Target
from netplane.agent.probes.tally import Tally, count
from netplane.lib.clock import Clock


async def watch(
    checks: Checks,
    probe: Probe,
    target: Target,
    *,
    started_at: datetime,
    clock: Clock,
    verdict: Callable[[bool], None],
    failed: Callable[[str], None],
) -> Never:
    """Check for ever: first after the initial delay, then every period. `failed` hears of every single failure."""
    await clock.sleep(probe.initial_delay - (clock.now() - started_at).total_seconds())
    tally = Tally()
    while True:
        began = clock.monotonic()
        is_success = True
        try:
            await checks.check(probe.handler, target, probe.limit)
        except CheckFailed as error:
            is_success = False
            failed(str(error))
        after = count(tally, is_success, probe)
        if after.verdict is not None and after.verdict is not tally.verdict:
            verdict(after.verdict)
        tally = after
        await clock.sleep(max(probe.period - (clock.monotonic() - began), 0))
