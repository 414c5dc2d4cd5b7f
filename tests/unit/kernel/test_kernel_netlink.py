"""Netlink messages and attributes as bytes, and what a channel makes of the kernel's answers."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import channel, wire

LIST = wire.Message(0x100, wire.REQUEST | wire.DUMP, b"all")
ROW = 0x101

kinds = st.integers(1, 0x3FFF)
payloads = st.binary(max_size=20)


@given(st.lists(st.tuples(kinds, payloads, st.booleans())))
def test_attributes_are_walked_as_they_were_packed(rows: list[tuple[int, bytes, bool]]) -> None:
    packed = b"".join((wire.nested if is_nested else wire.attribute)(kind, data) for kind, data, is_nested in rows)
    found = [(kind, packed[start:stop]) for kind, start, stop in wire.attributes(packed, 0, len(packed))]
    assert found == [(kind, payload) for kind, payload, _ in rows]


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), payloads)))
def test_messages_are_split_as_they_were_packed(rows: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(aligned(wire.packed(wire.Message(*row), number)) for number, row in enumerate(rows))
    assert list(wire.split(data)) == [(kind, flags, at, body) for at, (kind, flags, body) in enumerate(rows)]


@given(st.binary(max_size=200))
def test_any_bytes_come_to_an_end(data: bytes) -> None:
    assert len(list(wire.split(data))) <= len(data) // wire.HEADER.size
    assert len(list(wire.attributes(data, 0, len(data)))) <= len(data) // 4


def test_an_attribute_is_padded_to_four_bytes_and_does_not_count_them() -> None:
    assert wire.text(3, "veth") == struct.pack("=HH", 9, 3) + b"veth\0\0\0\0"
    assert wire.nested(1, b"") == struct.pack("=HH", 4, 0x8001)


def test_the_first_attribute_of_a_type_is_found() -> None:
    packed = wire.text(1, "a") + wire.text(2, "bc") + wire.text(2, "d")
    spot = wire.find(packed, 0, len(packed), 2)
    assert spot is not None
    assert wire.string(packed, *spot) == "bc"
    assert wire.find(packed, 0, len(packed), 4) is None


class Told(channel.Channel):
    """A channel to a kernel that answers by a script: each entry makes one receive, given the last request's number."""

    def __init__(self, *script: Callable[[int], bytes]) -> None:
        self._last = 0
        self._script = list(script)
        self.asked: list[int] = []

    def send(self, data: bytes, tried: str) -> None:
        self.asked += [number for _, _, number, _ in wire.split(data)]

    def receive(self, tried: str) -> bytes:
        return self._script.pop(0)(self.asked[-1])


def rows(*bodies: bytes, flags: int = 0) -> Callable[[int], bytes]:
    messages = [wire.Message(ROW, flags, body) for body in bodies]
    return lambda number: b"".join(aligned(wire.packed(one, number)) for one in messages)


def end(code: int = 0, kind: int = wire.DONE) -> Callable[[int], bytes]:
    return lambda number: wire.packed(wire.Message(kind, 0, struct.pack("=i", -code)), number)


def aligned(message: bytes) -> bytes:
    return message + bytes(-len(message) & 3)


def test_a_dump_is_read_to_its_end_over_many_receives() -> None:
    assert Told(rows(b"a", b"b"), rows(b"c"), end()).dump(LIST, "list") == [b"a", b"b", b"c"]


def test_what_answers_another_request_is_passed_over() -> None:
    late = rows(b"late")
    told = Told(lambda number: late(number + 7) + rows(b"a")(number) + end(errno.EPERM)(number - 1), end())
    assert told.dump(LIST, "list") == [b"a"]


@pytest.mark.parametrize(
    "torn",
    [(rows(b"a", flags=wire.DUMP_INTERRUPTED), end()), (rows(b"a"), end(errno.EINTR)), (end(errno.EINTR, wire.ERROR),)],
)
def test_a_dump_that_others_tore_is_asked_for_again(torn: tuple[Callable[[int], bytes], ...]) -> None:
    told = Told(*torn, rows(b"a", b"b"), end())
    assert told.dump_of(LIST, "list", bytes.decode) == ["a", "b"]
    assert told.asked == [1, 2]


def test_a_dump_that_is_always_torn_is_given_up() -> None:
    told = Told(*[end(errno.EINTR)] * channel.DUMP_ATTEMPTS)
    with pytest.raises(KernelError, match=r"list rows: EINTR .*others changed it"):
        told.dump(LIST, "list rows")


@pytest.mark.parametrize("kind", [wire.DONE, wire.ERROR])
def test_a_refused_dump_says_what_was_tried(kind: int) -> None:
    with pytest.raises(KernelError, match=r"list rows: ENOENT"):
        Told(end(errno.ENOENT, kind)).dump(LIST, "list rows")


def test_numbers_follow_one_another_and_begin_again_before_they_end() -> None:
    told = Told()
    assert [told.numbers(), told.numbers(3), told.numbers()] == [1, 2, 5]
    told._last = channel.LAST_NUMBER - 2
    assert told.numbers(2) == channel.LAST_NUMBER - 1
    assert told.numbers(2) == 1
