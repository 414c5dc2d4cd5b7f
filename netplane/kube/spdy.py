"""Speak SPDY/3.1 without any I/O: bytes in, events out; what is to be sent is gathered (SPDY Protocol, Draft 3.1).

As Kubernetes' own implementation does, it neither keeps nor heeds flow control.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN = 1
CANCEL = 5
MOST = (1 << 24) - 1

# Section 2.6.10.1: the words, each behind its length, then text as it comes in headers.
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow"
    " authorization cache-control connection content-base content-encoding content-language content-length"
    " content-location content-md5 content-range content-type date etag expect expires from host if-match"
    " if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma"
    " proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade"
    " user-agent vary via warning www-authenticate method get status|200 OK|version|HTTP/1.1|url|public|set-cookie"
    "|keep-alive|origin"
)
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def dictionary() -> bytes:
    """Return the dictionary that both sides prime their compressors with."""
    first, *rest = _WORDS.split("|")
    words = [*first.split(" "), *rest]
    return b"".join(struct.pack(">I", len(word)) + word.encode() for word in words) + _TEXT.encode()


@dataclass(frozen=True, slots=True)
class Opened:
    """The other side opened a stream."""

    stream: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream."""

    stream: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The other side sends no more on a stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Reset:
    """The other side gave a stream up."""

    stream: int


Event = Opened | Data | Closed | Reset


class Session:
    """One connection, seen from either side."""

    def __init__(self) -> None:
        self._last = -1
        self._received = b""
        self._sending = bytearray()
        self._inflate = zlib.decompressobj(zdict=dictionary())
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, dictionary())

    def receive(self, data: bytes) -> Iterator[Event]:
        """Yield what the bytes, with those before them, tell. Raises ValueError for what is no SPDY."""
        self._received += data
        while len(self._received) >= 8:
            first, word = struct.unpack_from(">II", self._received)
            flags, length = word >> 24, word & MOST
            if len(self._received) < 8 + length:
                return
            payload, self._received = self._received[8 : 8 + length], self._received[8 + length :]
            if first >> 31:
                yield from self._control(first & 0xFFFF, flags, payload)
            else:
                if payload:
                    yield Data(first, payload)
                if flags & FIN:
                    yield Closed(first)

    def take(self) -> bytes:
        """Return what is to be sent now."""
        data = bytes(self._sending)
        self._sending.clear()
        return data

    def open(self, headers: Mapping[str, str]) -> int:
        """Open a stream as the client, and return its number: an odd one."""
        self._last += 2
        self._frame(SYN_STREAM, 0, struct.pack(">IIBB", self._last, 0, 0, 0) + self._pack(headers))
        return self._last

    def reply(self, stream: int, headers: Mapping[str, str] | None = None) -> None:
        """Accept a stream."""
        self._frame(SYN_REPLY, 0, struct.pack(">I", stream) + self._pack(headers or {}))

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Send on a stream; `fin` says that this is all."""
        self._sending += struct.pack(">II", stream, (FIN << 24 if fin else 0) | len(data)) + data

    def reset(self, stream: int) -> None:
        """Give a stream up."""
        self._frame(RST_STREAM, 0, struct.pack(">II", stream, CANCEL))

    def _control(self, kind: int, flags: int, payload: bytes) -> Iterator[Event]:
        if kind == SYN_STREAM:
            stream = struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF
            yield Opened(stream, self._unpack(payload[10:]))
            if flags & FIN:
                yield Closed(stream)
        elif kind in (SYN_REPLY, HEADERS):
            self._unpack(payload[4:])  # The compressor's state runs through all headers.
        elif kind == RST_STREAM:
            yield Reset(struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF)
        elif kind == PING:
            self._frame(PING, 0, payload)

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        self._sending += struct.pack(">HHI", 0x8000 | VERSION, kind, (flags << 24) | len(payload)) + payload

    def _pack(self, headers: Mapping[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in sorted(headers.items()):
            for word in (name.lower().encode(), value.encode()):
                block += struct.pack(">I", len(word)) + word
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def _unpack(self, block: bytes) -> dict[str, str]:
        try:
            data = self._inflate.decompress(block)
            count, position = struct.unpack_from(">I", data)[0], 4
            words = []
            for _ in range(2 * count):
                (length,) = struct.unpack_from(">I", data, position)
                words.append(data[position + 4 : position + 4 + length].decode("utf-8", "replace"))
                position += 4 + length
        except (zlib.error, struct.error) as error:
            raise ValueError(f"headers cannot be read: {error}") from error
        return {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=True)}
