"""Be the plugin `loopback`, which containerd asks for beside ours and which not every node has."""

from __future__ import annotations

import asyncio

from netplane.kernel.errors import KernelError
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import LinkChange, change
from netplane.model import address
from netplane_cni import spec
from netplane_cni.plan.attach import LOOPBACK_INDEX
from netplane_cni.spec import CniError, Request

NAME = "loopback"
ADDRESSES = ((address.parse("127.0.0.1"), 8), (address.parse("::1"), 128))


async def call(request: Request, namespace: int | None) -> bytes:
    """Do what is asked of a container's loopback interface and return the answer; raises CniError.

    Nothing is kept and nothing needs undoing: the interface ends with its namespace.
    """
    if request.command == "VERSION":
        return spec.encode_version()
    if request.command not in ("ADD", "CHECK"):
        return b""
    place = request.netns if namespace is None else namespace
    try:
        if request.command == "ADD":
            await asyncio.to_thread(_raise, place)
        elif not await asyncio.to_thread(_is_up, place):
            raise CniError(spec.MISMATCH, "lo is down in the container")
    except KernelError as error:
        raise CniError(spec.TRY_AGAIN_LATER, f"lo was not brought up: {error}") from error
    return spec.encode_result(_result(request), request) if request.command == "ADD" else b""


def _raise(place: str | int) -> None:
    with link.Socket(place) as socket:
        socket.commit([change(LinkChange(LOOPBACK_INDEX, is_up=True))])


def _is_up(place: str | int) -> bool:
    with link.Socket(place) as socket:
        there = socket.link("lo")
        return there is not None and there.is_up


def _result(request: Request) -> spec.Result:
    ips = tuple(spec.IpConfig(ip, length, interface=0) for ip, length in ADDRESSES)
    return spec.Result((spec.Interface("lo", "00:00:00:00:00:00", request.netns),), ips)
