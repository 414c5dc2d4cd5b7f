"""Make maps and load programs by bpf(2). What they do is written elsewhere; where they run is said by kernel/link."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Literal

from netplane.kernel.errors import KernelError, from_os

_NUMBERS = {"x86_64": 321, "aarch64": 280, "armv7l": 386, "ppc64le": 361, "s390x": 351, "riscv64": 280}
_SIZE = 144
_MAP_CREATE, _PROGRAM_LOAD = 0, 5
_CLASSIFIER = 3
_LOG = 1 << 16
_KINDS = {"hash": 1, "array": 2, "recent": 9}
_MAP = struct.Struct("=IIIIIII16s")
_PROGRAM = struct.Struct("=IIQQIIQII16sII")
_LIBRARY = ctypes.CDLL(None, use_errno=True)


def make_map(kind: Literal["hash", "array", "recent"], *, key: int, value: int, entries: int, name: str) -> int:
    """Return a map as an open file, sizes in bytes. A `recent` one forgets the least used when it is full."""
    return _ask(_MAP_CREATE, _MAP.pack(_KINDS[kind], key, value, entries, 0, 0, 0, name.encode()), f"make map {name}")


def load(code: bytes, name: str) -> int:
    """Return a program for packets at a link (tc-bpf(8)) as an open file; the error carries what the kernel found."""
    text, words, log = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL"), b""
    places = len(code) // 8, ctypes.addressof(text), ctypes.addressof(words)
    try:
        return _ask(_PROGRAM_LOAD, _PROGRAM.pack(_CLASSIFIER, *places, 0, 0, 0, 0, 0, name.encode(), 0, 0), "load")
    except KernelError as error:
        room = ctypes.create_string_buffer(_LOG)
        request = _PROGRAM.pack(_CLASSIFIER, *places, 1, _LOG, ctypes.addressof(room), 0, 0, name.encode(), 0, 0)
        try:
            return _ask(_PROGRAM_LOAD, request, f"load program {name}")
        except KernelError:
            log = room.value
        raise KernelError(error.errno or 0, f"load program {name}", log.decode(errors="replace")[-2000:]) from error


def _ask(command: int, attributes: bytes, tried: str) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise KernelError(38, tried, f"bpf(2) has no known number on {platform.machine()}")
    request = ctypes.create_string_buffer(attributes.ljust(_SIZE, b"\0"), _SIZE)
    answer = int(_LIBRARY.syscall(number, command, request, _SIZE))
    if answer < 0:
        error = ctypes.get_errno()
        raise from_os(OSError(error, os.strerror(error)), tried)
    return answer
