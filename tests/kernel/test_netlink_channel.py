"""Channels to the real kernel: who is asked, how long is waited, what a family that is not there answers."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import channel, generic, wire

GETLINK, NEWLINK = 18, 16
EVERY_LINK = wire.Message(GETLINK, wire.REQUEST | wire.DUMP, bytes(16))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "ns")
    netns.create(made)
    try:
        yield made
    finally:
        netns.remove_if_present(made)


def test_a_channel_asks_the_namespace_where_it_was_made(place: str) -> None:
    with netns.inside(place):
        made = channel.Channel(channel.ROUTE, "open a socket")
    with contextlib.closing(made):
        spots = [wire.find(body, 16, len(body), 3) for body in made.dump(EVERY_LINK, "list links")]
        assert len(spots) == 1
        assert made.port


def test_a_kernel_that_does_not_answer_is_waited_for_so_long_and_no_longer(place: str) -> None:
    with netns.inside(place), contextlib.closing(channel.Channel(channel.ROUTE, "open a socket", timeout=1)) as made:
        with pytest.raises(KernelError, match=r"wait for nothing: ETIMEDOUT .*no answer within 1 s") as caught:
            made.receive("wait for nothing")
        assert caught.value.errno == errno.ETIMEDOUT


def test_a_family_that_is_not_there_names_its_module(place: str) -> None:
    wanted = r"look for NOTHING in the kernel: ENOENT .*the kernel module no_such is missing"
    with netns.inside(place), pytest.raises(KernelError, match=wanted):
        generic.Family("NOTHING", module="no_such")


def test_a_family_lists_what_it_has(place: str) -> None:
    with netns.inside(place), contextlib.closing(generic.Family("nlctrl", module="none")) as made:
        bodies = made.dump(generic.GET_FAMILY, b"", "list families")
    names = {wire.string(body, *spot) for body in bodies if (spot := wire.find(body, 4, len(body), 2))}
    assert "nlctrl" in names


def test_one_command_is_waited_for_and_its_refusal_told(place: str) -> None:
    with netns.inside(place), contextlib.closing(generic.Family("nlctrl", module="none")) as made:
        made.ask(generic.GET_FAMILY, wire.text(generic.FAMILY_NAME, "nlctrl"), "look it up")
        with pytest.raises(KernelError, match="look for nothing: ENOENT"):
            made.ask(generic.GET_FAMILY, wire.text(generic.FAMILY_NAME, "NOTHING"), "look for nothing")
