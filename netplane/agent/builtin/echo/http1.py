"""Read HTTP/1.1 requests and write answers (RFC 9112). What to answer is `server`'s."""

from __future__ import annotations

import asyncio
import http
import urllib.parse
from dataclasses import dataclass

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 64 * 1024 * 1024


class Malformed(Exception):
    """What came is no request; carries the status to answer with."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case; of the body only the length is kept, and its first bytes."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    wants_close: bool
    length: int
    start: bytes

    def number(self, name: str, default: float, most: float) -> float:
        """Return a number from the query, kept within 0 and `most`; raises Malformed when it is none."""
        try:
            return min(max(float(self.query.get(name, default)), 0.0), most)
        except ValueError as error:
            raise Malformed(400, f"{name}={self.query[name]!r} is not a number") from error


async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Return the next request, None when the client closed the connection before one began."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise Malformed(400, "the request ended in its head") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise Malformed(431, "the request's head is too long") from error
    method, target, version, headers = _head(head)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length, start = await _body(reader, headers)
    parts = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    connection = headers.get("connection", "").lower()
    wants_close = "close" in connection or (version == "HTTP/1.0" and "keep-alive" not in connection)
    return Request(method, urllib.parse.unquote(parts.path), query, headers, wants_close, length, start)


def _head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").strip("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise Malformed(400, f"no request line: {first[:100]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Malformed(400, f"no header: {line[:100]!r}")
        key = name.lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return words[0], words[1], words[2], headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> tuple[int, bytes]:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _chunks(reader)
    text = headers.get("content-length", "0")
    if not text.isdigit():
        raise Malformed(400, f"content-length {text!r} is not a number")
    length = int(text)
    if length > BODY_LIMIT:
        raise Malformed(413, f"the body is longer than {BODY_LIMIT} bytes")
    return length, await _take(reader, length)


async def _chunks(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    total, start = 0, b""
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            length = int(line.split(b";")[0], 16)
        except ValueError as error:
            raise Malformed(400, "a chunk has no length") from error
        if total + length > BODY_LIMIT:
            raise Malformed(413, f"the body is longer than {BODY_LIMIT} bytes")
        if length == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
                continue
            return total, start
        piece = await _take(reader, length)
        start = (start + piece)[:1024]
        total += length
        await reader.readexactly(2)


async def _take(reader: asyncio.StreamReader, length: int) -> bytes:
    """Read past `length` bytes and return the first of them."""
    start, left = b"", length
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise Malformed(400, "the request ended in its body")
        start = (start + piece)[:1024]
        left -= len(piece)
    return start


def answer(
    status: int, body: bytes, *, close: bool, with_body: bool = True, content_type: str = "application/json"
) -> bytes:
    """Return a whole answer as bytes."""
    length = f"Content-Length: {len(body)}\r\n"
    return head(status, length, close=close, content_type=content_type) + (body if with_body else b"")


def head(status: int, framing: str, *, close: bool, content_type: str) -> bytes:
    """Return an answer's head; `framing` is the header line, with its end, that tells where the body ends."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    connection = "Connection: close\r\n" if close else ""
    return f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n{framing}{connection}\r\n".encode()
