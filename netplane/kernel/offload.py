"""Read and set whether a link leaves transport checksums to its hardware (ethtool(8), tx). When is for the caller."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from netplane.kernel.errors import from_os

SIOCETHTOOL = 0x8946
GET_TX_CHECKSUM, SET_TX_CHECKSUM = 0x16, 0x17
REQUEST = struct.Struct("16sP16x")


def has_checksum(name: str) -> bool:
    """Tell whether the link, in the caller's namespace, leaves checksums to its hardware or to who is below it."""
    return bool(_ask(name, GET_TX_CHECKSUM, 0, f"read checksum offload of {name}"))


def ensure_checksum(name: str, *, is_on: bool) -> bool:
    """Turn it on or off unless it is so already; tell whether it was changed."""
    if has_checksum(name) is is_on:
        return False
    _ask(name, SET_TX_CHECKSUM, int(is_on), f"turn checksum offload of {name} {'on' if is_on else 'off'}")
    return True


def _ask(name: str, command: int, value: int, tried: str) -> int:
    question = array.array("I", [command, value])
    request = REQUEST.pack(name.encode(), question.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)
    except OSError as error:
        raise from_os(error, tried) from error
    return question[1]
