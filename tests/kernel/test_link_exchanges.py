"""Commands and a look in one exchange, cables of one queue, and changes that the kernel keeps from a listener."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.kernel.errors import KernelError
from netplane.kernel.link import events, hearing, run
from netplane.kernel.link.objects import Bridge, LinkChange, LinkName, Route, Veth, add, change, remove

OURS, THEIRS = 110, 111
SIOCETHTOOL, ETHTOOL_GCHANNELS = 0x8946, 0x3C


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[str, str]]:
    made = str(tmp_path / "host"), str(tmp_path / "pod")
    for path in made:
        netns.create(path)
    yield made
    for path in made:
        netns.remove_if_present(path)


def test_a_cable_is_made_and_both_ends_found_in_one_exchange(places: tuple[str, str]) -> None:
    host, pod = places
    opened = os.open(pod, os.O_RDONLY)
    with run.Socket(host) as outside, run.Socket(pod) as inside:
        inside.commit([add(Bridge("other"))])  # so that the ends' indexes differ
        index, peer = outside.commit_and_look([add(Veth("np1", "eth0", opened))], "np1")
        assert (index, peer) == (outside.index("np1"), inside.index("eth0"))
        with pytest.raises(KernelError) as refused:
            outside.commit_and_look([remove(LinkName("none")), add(Veth("np1", "eth1", opened))], "np1")
        assert (refused.value.errno, refused.value.tried) == (errno.EEXIST, "add link np1 type veth peer eth1")
        with pytest.raises(KernelError, match="look at link none: ENODEV"):
            outside.commit_and_look([], "none")
        assert outside.index("np1") == index, "an exchange that failed left answers behind"
    os.close(opened)


def test_a_cable_has_one_queue_at_each_end(places: tuple[str, str]) -> None:
    host, _ = places

    def queues() -> list[int]:
        with run.Socket() as links:
            links.commit([add(Veth("np1", "np2"))])
        return [_most_queues(name) for name in ("np1", "np2")]

    assert netns.run_in(host, queues) == [1, 1]


def _most_queues(name: str) -> int:
    # struct ethtool_channels: the command, then the most of received, sent, other and combined, then as they are.
    asked = ctypes.create_string_buffer(struct.pack("=9I", ETHTOOL_GCHANNELS, *[0] * 8), 36)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(asked)))
    received, sent = struct.unpack("=9I", asked.raw)[1:3]
    return int(max(received, sent))


def test_pods_cables_and_others_routes_are_not_heard_of(places: tuple[str, str]) -> None:
    unheard = hearing.Unheard(b"np", but=b".", protocols=(OURS,))

    def heard() -> list[events.Event]:
        monitor = events.Monitor(unheard)
        with run.Socket() as links:
            links.commit([add(Bridge("np12")), add(Bridge("np.tunnel")), add(Bridge("nx")), add(Bridge("n"))])
            index = links.index("np.tunnel")
            assert index is not None
            links.commit([change(LinkChange(index=index, is_up=True))])
            for last, protocol in ((1, OURS), (2, THEIRS)):
                links.commit([add(Route(bytes((10, 0, 0, last)), 32, index, protocol=protocol))])
            links.commit([remove(LinkName("np12")), remove(LinkName("np.tunnel"))])
        found = monitor.take()
        monitor.close()
        return found

    found = netns.run_in(places[0], heard)
    assert {event.name for event in found if event.kind == "link"} == {"np.tunnel", "nx", "n"}
    assert {event.protocol for event in found if event.kind == "route"} == {OURS}
    assert any(event.is_removal and event.name == "np.tunnel" for event in found)
