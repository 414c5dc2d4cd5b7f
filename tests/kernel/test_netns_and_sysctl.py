"""Network namespaces, and the parameters in them, on the real kernel."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns, sysctl
from netplane.kernel.errors import KernelError


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "deep" / "ns")
    netns.create(path)
    yield path
    netns.remove_if_present(path)


def test_a_new_namespace_holds_loopback_alone(place: str) -> None:
    assert netns.exists(place)
    assert [name for _, name in netns.run_in(place, socket.if_nameindex)] == ["lo"]


def test_the_callers_thread_stays_where_it_was(place: str) -> None:
    before = os.stat(netns.OWN).st_ino
    with netns.inside(place):
        assert os.stat(netns.OWN).st_ino == netns.identity(place) != before
    assert os.stat(netns.OWN).st_ino == before
    netns.run_in(place, lambda: None)
    assert os.stat(netns.OWN).st_ino == before


def test_the_way_home_is_taken_after_a_failure_too(place: str) -> None:
    before = os.stat(netns.OWN).st_ino
    with pytest.raises(RuntimeError), netns.inside(place):
        raise RuntimeError("inside")
    assert os.stat(netns.OWN).st_ino == before


def test_an_open_file_is_as_good_as_a_path(place: str) -> None:
    fd = os.open(place, os.O_RDONLY)
    try:
        assert netns.run_in(fd, lambda: os.stat(netns.OWN).st_ino) == netns.identity(place)
    finally:
        os.close(fd)


def test_a_second_namespace_at_the_same_path_is_refused(place: str) -> None:
    with pytest.raises(KernelError) as caught:
        netns.create(place)
    assert caught.value.errno == errno.EEXIST
    assert netns.exists(place)


def test_removing_twice_succeeds(place: str) -> None:
    netns.remove_if_present(place)
    netns.remove_if_present(place)
    assert not netns.exists(place)
    assert not Path(place).exists()


def test_entering_what_is_no_namespace_says_so(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(KernelError, match="enter network namespace"), netns.inside(str(file)):
        pass
    with pytest.raises(KernelError, match="ENOENT"):
        netns.run_in(str(tmp_path / "none"), lambda: None)


def test_a_sysctl_is_that_of_the_namespace(place: str) -> None:
    def turn_on() -> tuple[bool, bool, str]:
        name = "net.ipv4.conf.lo.proxy_arp"
        return sysctl.ensure(name, 1), sysctl.ensure(name, 1), sysctl.read("net/ipv4/conf/lo/proxy_arp")

    before = sysctl.read("net.ipv4.conf.lo.proxy_arp")
    assert netns.run_in(place, turn_on) == (True, False, "1")
    assert sysctl.read("net.ipv4.conf.lo.proxy_arp") == before == "0"


def test_an_unknown_sysctl_says_its_name() -> None:
    with pytest.raises(KernelError, match=r"net\.ipv4\.nothing"):
        sysctl.read("net.ipv4.nothing")
    with pytest.raises(ValueError, match="not the name"):
        sysctl.read("../etc/passwd")
