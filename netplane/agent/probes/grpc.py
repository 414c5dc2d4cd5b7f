"""Ask a gRPC health service (grpc.health.v1.Health/Check): one unary call over HTTP/2, by hand, without TLS."""

from __future__ import annotations

import asyncio
import struct

SERVING = "SERVING"
STATUSES = ("UNKNOWN", SERVING, "NOT_SERVING", "SERVICE_UNKNOWN")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MOST_FRAMES = 100


class Refused(Exception):
    """The other side speaks no gRPC, or gave no health."""


async def health(host: str, port: int, service: str) -> str:
    """Return the health that the server tells of a service. Raises OSError and Refused; the caller limits the time."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(PREFACE + _frame(SETTINGS, 0, 0, b"") + _request(f"{host}:{port}", service))
        await writer.drain()
        return _status(await _answer(reader, writer))
    finally:
        writer.close()


def _request(authority: str, service: str) -> bytes:
    headers = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "kube-probe/1.33"),
    )
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)
    name = service.encode()
    message = b"\x0a" + bytes([len(name)]) + name if name else b""
    body = b"\x00" + struct.pack(">I", len(message)) + message
    return _frame(HEADERS, END_HEADERS, 1, block) + _frame(DATA, END_STREAM, 1, body)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    body = b""
    for _ in range(MOST_FRAMES):
        try:
            head = await reader.readexactly(9)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            payload = await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise Refused("the server closed the connection") from error
        if kind == SETTINGS and not flags & ACK:
            writer.write(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            writer.write(_frame(PING, ACK, 0, payload))
        elif kind == DATA:
            body += payload
        elif kind in (RESET, GOAWAY):
            raise Refused("the server refused the call")
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            return body
    raise Refused("the server did not finish its answer")


def _status(body: bytes) -> str:
    """Read field 1 of HealthCheckResponse behind the five bytes of gRPC's own framing."""
    if len(body) < 5:
        raise Refused("the server does not implement the gRPC health protocol (grpc.health.v1.Health)")
    message = body[5:]
    number = message[1] if len(message) >= 2 and message[0] == 0x08 else 0
    return STATUSES[number] if number < len(STATUSES) else str(number)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _text(word: str) -> bytes:
    """A string of HPACK without Huffman coding; the words here are shorter than 127 bytes (RFC 7541, 5.2)."""
    data = word.encode()
    return bytes([len(data)]) + data
