"""Logs, SPDY frames, channels, probes' tallies and node objects: formats without I/O."""

from __future__ import annotations

import struct
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.agent.node import objects
from netplane.agent.node.objects import Identity, Machine, Pressure
from netplane.agent.pods import backoff
from netplane.agent.pods.spec import Exec, Probe
from netplane.agent.probes.tally import Tally, count
from netplane.agent.runtime.protocol import Condition, RuntimeStatus
from netplane.agent.server import channels, logs
from netplane.agent.server.logs import Wanted
from netplane.kube import quantity, spdy
from netplane.kube.spdy import Closed, Data, Opened
from netplane.lib import clock
from tests.support.agent_pods import NOW, at

LINES = [
    "2026-01-01T12:00:00.1Z stdout F one",
    "2026-01-01T12:00:01.1Z stderr F two",
    "2026-01-01T12:00:02.1Z stdout P thr",
    "2026-01-01T12:00:02.2Z stdout F ee",
    "2026-01-01T12:00:03.1Z stdout F four",
]


async def read(path: Path, **wanted: object) -> str:
    shown = logs.read(path, Wanted(**wanted), clock=clock.SYSTEM, is_running=lambda: False)  # type: ignore[arg-type]
    return b"".join([part async for part in shown]).decode()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    path.write_text("\n".join(LINES) + "\n")
    return path


async def test_a_log_is_shown_as_it_was_printed(log: Path) -> None:
    assert await read(log) == "one\ntwo\nthree\nfour\n"
    assert await read(log, stream="Stderr") == "two\n"
    assert await read(log, limit=6) == "one\ntw"
    assert await read(log, since=at(2)) == "three\nfour\n"
    stamped = await read(log, timestamps=True, tail=2)
    assert stamped == "2026-01-01T12:00:02.1Z three\n2026-01-01T12:00:03.1Z four\n"


async def test_a_time_in_utc_ends_with_z(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("2026-01-01T12:00:00.1+00:00 stdout F one\n2026-01-01T14:00:00.1+02:00 stdout F two\n")
    assert await read(path, timestamps=True) == "2026-01-01T12:00:00.1Z one\n2026-01-01T14:00:00.1+02:00 two\n"


@pytest.mark.parametrize(
    ("tail", "expected"), [(0, ""), (1, "four\n"), (2, "three\nfour\n"), (9, "one\ntwo\nthree\nfour\n")]
)
async def test_tail_counts_whole_lines(log: Path, tail: int, expected: str) -> None:
    assert await read(log, tail=tail) == expected


async def test_tail_of_a_log_longer_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("".join(f"2026-01-01T12:00:00Z stdout F {n:0100}\n" for n in range(2000)))
    assert await read(path, tail=3) == "".join(f"{n:0100}\n" for n in range(1997, 2000))


async def test_a_followed_log_goes_on_through_its_rotation_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text(LINES[0] + "\n")
    fake, runs = clock.Fake(), [True]
    shown = logs.read(path, Wanted(follow=True), clock=fake, is_running=lambda: runs[0])
    got = [await anext(shown)]
    path.rename(tmp_path / "0.log.1")
    path.write_text(LINES[1] + "\n")
    got.append(await anext(shown))
    runs[0] = False
    got += [part async for part in shown]
    assert got == [b"one\n", b"two\n"]


def frame(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload


def block(compressor: zlib._Compress, headers: dict[str, str]) -> bytes:
    data = struct.pack(">I", len(headers))
    for name, value in headers.items():
        for word in (name.encode(), value.encode()):
            data += struct.pack(">I", len(word)) + word
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def test_the_spdy_dictionary_is_the_specifications() -> None:
    assert (len(spdy.dictionary()), zlib.adler32(spdy.dictionary())) == (1423, 0xE3C6A7C2)


@given(cut=st.integers(1, 40))
def test_spdy_frames_are_understood_however_they_are_cut(cut: int) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, spdy.dictionary())
    opening = struct.pack(">IIH", 1, 0, 0) + block(compressor, {"streamtype": "error", "port": "80"})
    second = struct.pack(">IIH", 3, 0, 0) + block(compressor, {"streamtype": "data", "port": "80"})
    wire = frame(1, opening, 1) + frame(1, second) + struct.pack(">II", 3, 2) + b"hi" + frame(6, b"\0\0\0\1")
    wire += struct.pack(">II", 3, 1 << 24)
    session, events = spdy.Session(), []
    for start in range(0, len(wire), cut):
        events += list(session.receive(wire[start : start + cut]))
    assert events == [
        Opened(1, {"streamtype": "error", "port": "80"}),
        Closed(1),
        Opened(3, {"streamtype": "data", "port": "80"}),
        Data(3, b"hi"),
        Closed(3),
    ]
    assert session.take() == frame(6, b"\0\0\0\1")


def test_spdy_answers_can_be_read_by_the_other_side() -> None:
    session = spdy.Session()
    session.reply(1, {"a": "b"})
    session.send(1, b"xy", fin=True)
    sent = session.take()
    inflater = zlib.decompressobj(zdict=spdy.dictionary())
    length = struct.unpack_from(">I", sent, 4)[0] & 0xFFFFFF
    assert inflater.decompress(sent[12 : 8 + length]) == struct.pack(">II", 1, 1) + b"a" + struct.pack(">I", 1) + b"b"
    assert sent[8 + length :] == struct.pack(">II", 1, 1 << 24 | 2) + b"xy"


def test_what_is_no_spdy_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        list(spdy.Session().receive(frame(1, b"\0" * 20)))


def test_an_exit_code_is_a_cause_of_the_status() -> None:
    assert channels.outcome(0) == {"metadata": {}, "status": "Success"}
    found = channels.outcome(7)
    assert found["reason"] == "NonZeroExitCode"
    assert found["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


def test_the_newest_common_protocol_is_spoken() -> None:
    assert channels.chosen(["v4.channel.k8s.io", "v5.channel.k8s.io"]) == "v5.channel.k8s.io"
    assert channels.chosen(["v4.channel.k8s.io"]) == "v4.channel.k8s.io"
    assert channels.chosen(["base64.channel.k8s.io"]) is None


@given(results=st.lists(st.booleans(), max_size=20), good=st.integers(1, 3), bad=st.integers(1, 3))
def test_a_verdict_needs_its_threshold_in_a_row(results: list[bool], good: int, bad: int) -> None:
    probe = Probe(Exec(("true",)), success_threshold=good, failure_threshold=bad)
    tally, expected = Tally(), None
    for index, result in enumerate(results):
        tally = count(tally, result, probe)
        needed = good if result else bad
        if index + 1 >= needed and all(r is result for r in results[index + 1 - needed : index + 1]):
            expected = result
    assert tally.verdict is expected


def test_back_off_doubles_to_five_minutes_and_forgets_after_ten() -> None:
    entry, delays = None, []
    for _ in range(8):
        entry = backoff.advance(entry, NOW, NOW)
        delays.append(int(entry.delay.total_seconds()))
    assert delays == [10, 20, 40, 80, 160, 300, 300, 300]
    assert backoff.until(entry, NOW) == at(300)
    assert backoff.until(entry, at(601)) is None
    assert backoff.until(None, NOW) is None
    assert [backoff.spoken(timedelta(seconds=n)) for n in (10, 160, 300)] == ["10s", "2m40s", "5m0s"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500m", "0.5"), ("64Mi", "67108864"), ("1e3", "1000"), ("2k", "2000"), ("0.5", "0.5"), ("1E", "1e18")],
)
def test_quantities_are_exact(text: str, expected: str) -> None:
    assert quantity.parse(text) == quantity.parse(expected)


@pytest.mark.parametrize("text", ["", "x", "1Q", "Mi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantit"):
        quantity.parse(text)


MACHINE = Machine("m", "b", "6.1", "Debian", "amd64", 4, 8 << 30, 100 << 30)
IDENTITY = Identity("node-1", ("172.30.0.11", "fd00::11"), 10250, labels={"zone": "a"})
WELL = Pressure(4 << 30, 0.5, 0.9)
READY = RuntimeStatus(Condition(True), Condition(True))
NO_NETWORK = RuntimeStatus(
    Condition(True),
    Condition(False, "NetworkPluginNotReady", "Network plugin returns error: cni plugin not initialized"),
)


def test_a_node_tells_its_addresses_capacity_and_port() -> None:
    found = objects.status(IDENTITY, MACHINE, WELL, READY, before=[], now=NOW)
    assert found["addresses"][0] == {"type": "InternalIP", "address": "172.30.0.11"}
    assert found["addresses"][-1] == {"type": "Hostname", "address": "node-1"}
    assert found["capacity"] == {"cpu": "4", "ephemeral-storage": "104857600Ki", "memory": "8388608Ki", "pods": "110"}
    assert found["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert {c["type"]: c["status"] for c in found["conditions"]} == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }
    assert objects.labels(IDENTITY, MACHINE)["kubernetes.io/hostname"] == "node-1"


def test_without_a_network_the_node_is_not_ready_and_says_why() -> None:
    found = objects.status(IDENTITY, MACHINE, WELL, NO_NETWORK, before=[], now=NOW)
    ready = found["conditions"][-1]
    assert (ready["status"], ready["reason"]) == ("False", "KubeletNotReady")
    assert ready["message"] == (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
        "message:Network plugin returns error: cni plugin not initialized"
    )


def test_a_heartbeat_alone_is_no_difference() -> None:
    first = objects.status(IDENTITY, MACHINE, WELL, READY, before=[], now=NOW)
    second = objects.status(IDENTITY, MACHINE, WELL, READY, before=first["conditions"], now=at(10))
    assert not objects.differs(first, second)
    short = objects.status(IDENTITY, MACHINE, Pressure(1, 0.01, 0.01), READY, before=first["conditions"], now=at(10))
    assert objects.differs(first, short)
    assert [c["lastTransitionTime"] for c in short["conditions"]] == ["2026-01-01T12:00:10Z"] * 3 + [
        "2026-01-01T12:00:00Z"
    ]
