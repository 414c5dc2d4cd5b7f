"""When probes are made, and what they say, on a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from netplane.agent.pods.spec import Exec, Handler, Probe
from netplane.agent.probes import grpc, run
from netplane.agent.probes.checks import CheckFailed, Checks, Target
from netplane.agent.runtime.protocol import Completed
from netplane.lib import clock as clocks
from tests.support.agent_pods import FakeRuntime, pod

PROBE = Probe(Exec(("ok",)), period=2, failure_threshold=2)


@dataclass(slots=True)
class Seen:
    """What a running probe did."""

    clock: clocks.Fake
    is_good: bool = True
    times: list[float] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def check(self, handler: Handler, target: Target, limit: float) -> None:
        self.times.append(round(self.clock.monotonic(), 3))
        if not self.is_good:
            raise CheckFailed("no")


@asynccontextmanager
async def probing(probe: Probe, *, is_good: bool, is_eager: bool = False) -> AsyncIterator[Seen]:
    clock = clocks.Fake()
    seen = Seen(clock, is_good)
    one = pod()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run.watch(
                seen,  # type: ignore[arg-type]  # only `check` is asked of it
                probe,
                Target(one, one.containers[0], "c", ("10.0.0.5",)),
                started_at=clock.now(),
                clock=clock,
                verdict=seen.verdicts.append,
                failed=seen.failures.append,
                is_eager=is_eager,
            )
        )
        yield seen
        task.cancel()


async def test_a_probe_waits_for_its_delay_and_keeps_its_period() -> None:
    async with probing(Probe(Exec(()), initial_delay=3, period=2), is_good=True) as seen:
        await seen.clock.advance(8)
    assert seen.times == [3, 5, 7]
    assert seen.verdicts == [True]


async def test_failures_are_told_each_time_and_the_verdict_falls_at_the_threshold() -> None:
    async with probing(PROBE, is_good=False) as seen:
        await seen.clock.advance(1)
        assert (seen.failures, seen.verdicts) == (["no"], [])
        await seen.clock.advance(1.5)
    assert (seen.failures, seen.verdicts) == (["no", "no"], [False])


async def test_an_eager_probe_finds_success_soon_and_then_keeps_its_period() -> None:
    async with probing(PROBE, is_good=False, is_eager=True) as seen:
        await seen.clock.advance(0.5)
        assert seen.times == [0, 0.1, 0.3]
        seen.is_good = True
        await seen.clock.advance(3)
    assert seen.times == [0, 0.1, 0.3, 0.7, 2.7]
    assert (seen.failures, seen.verdicts[-1]) == ([], True)


async def test_a_command_that_fails_or_hangs_is_a_failed_check() -> None:
    runtime = FakeRuntime(clocks.Fake())
    one = pod()
    target = Target(one, one.containers[0], "c", ())
    checks = Checks(runtime)
    for done, said in (
        (Completed(2, b"broken"), "broken"),
        (Completed(-1, b"", timed_out=True), 'command timed out: "ok" timed out after 1s'),
    ):
        runtime.execs["ok"] = done
        with pytest.raises(CheckFailed) as error:
            await checks.check(Exec(("ok",)), target, 1)
        assert str(error.value) == said


async def test_grpc_health_is_asked_in_one_call() -> None:
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(4096))
        message = b"\x00\x00\x00\x00\x02\x08\x01"
        writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")  # SETTINGS
        writer.write(b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88")  # HEADERS
        writer.write(len(message).to_bytes(3, "big") + b"\x00\x00\x00\x00\x00\x01" + message)
        writer.write(b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88")  # trailers, END_STREAM
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await grpc.health("127.0.0.1", port, "db") == grpc.SERVING
    assert b"/grpc.health.v1.Health/Check" in received
    assert received.endswith(b"\x00\x00\x00\x00\x04\x0a\x02db")
