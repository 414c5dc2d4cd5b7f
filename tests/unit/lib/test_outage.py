"""What is away is asked for ever more seldom, and told of once when it goes and once when it is back."""

from __future__ import annotations

import logging
import random

import pytest

from netplane.lib import log
from netplane.lib.clock import Fake
from netplane.lib.outage import Backoff, Outage

LEASE = (0.2, 7.0)
WHOLE = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 7.0, 7.0]


def test_waits_double_up_to_the_longest_and_are_shortened_by_a_fifth_at_most() -> None:
    for seed in range(50):
        backoff = Backoff(*LEASE, random.Random(seed))
        for whole in WHOLE:
            assert 0.8 * whole <= backoff.failed() <= whole


def test_two_that_failed_together_do_not_ask_again_together() -> None:
    one, other = Backoff(*LEASE, random.Random(1)), Backoff(*LEASE, random.Random(2))
    assert [one.failed() for _ in WHOLE] != [other.failed() for _ in WHOLE]


def test_after_a_success_the_first_wait_is_short_again() -> None:
    backoff = Backoff(*LEASE, random.Random(0))
    assert backoff.ended() == 0
    for _ in range(1000):
        last = backoff.failed()
    assert last > 5
    assert backoff.ended() == 1000
    assert backoff.failed() <= LEASE[0]


async def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock = Fake()
    outage = Outage(log.get("test"), clock, lost="door shut", back="door open", backoff=Backoff(*LEASE))
    with caplog.at_level(logging.INFO, "netplane.test"):
        outage.ended()
        assert caplog.messages == []
        for turn in range(2):
            caplog.clear()
            for number in range(5):
                outage.failed(OSError(f"reason {number}"))
                await clock.advance(2)
            outage.ended()
            outage.ended()
            assert [(one.levelname, one.message) for one in caplog.records] == [
                ("WARNING", "door shut"),
                ("INFO", "door open"),
            ], turn
