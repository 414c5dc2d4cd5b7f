"""Repeat a probe at its times and tell when its verdict changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Never

from netplane.agent.pods.spec import Probe
from netplane.agent.probes.checks import CheckFailed, Checks, Target
from netplane.agent.probes.tally import Tally, count
from netplane.lib.clock import Clock

EAGER = 0.1


async def watch(
    checks: Checks,
    probe: Probe,
    target: Target,
    *,
    started_at: datetime,
    clock: Clock,
    verdict: Callable[[bool], None],
    failed: Callable[[str], None],
    is_eager: bool = False,
) -> Never:
    """Check for ever: first after the initial delay, then every period. `failed` hears of failures, once a period.

    An eager one, which readiness is, checks sooner until the first success: after 0.1 s, 0.2 s, and so on up to the
    period. The API allows it, and pods are ready as soon as they can be.
    """
    await clock.sleep(probe.initial_delay - (clock.now() - started_at).total_seconds())
    tally = Tally()
    pause = EAGER if is_eager else probe.period
    told_at = clock.monotonic() - (0 if is_eager else probe.period)
    while True:
        began = clock.monotonic()
        is_success = True
        try:
            await checks.check(probe.handler, target, probe.limit)
        except CheckFailed as error:
            is_success = False
            if began - told_at >= probe.period:
                told_at = began
                failed(str(error))
        after = count(tally, is_success, probe)
        if after.verdict is not None and after.verdict is not tally.verdict:
            verdict(after.verdict)
        tally = after
        pause = probe.period if is_success else min(pause, probe.period)
        await clock.sleep(max(pause - (clock.monotonic() - began), 0))
        pause *= 2
