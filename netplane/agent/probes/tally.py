"""Count a probe's results until they are a verdict (the kubelet's prober worker)."""

from __future__ import annotations

from dataclasses import dataclass

from netplane.agent.pods.spec import Probe


@dataclass(frozen=True, slots=True)
class Tally:
    """The last result, how often it came in a row, and the verdict so far: None before there is one."""

    last: bool | None = None
    times: int = 0
    verdict: bool | None = None


def count(before: Tally, is_success: bool, probe: Probe) -> Tally:
    """Return the tally after one more result."""
    times = before.times + 1 if before.last is is_success else 1
    needed = probe.success_threshold if is_success else probe.failure_threshold
    return Tally(is_success, times, is_success if times >= needed else before.verdict)
