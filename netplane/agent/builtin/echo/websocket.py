"""Echo WebSocket messages (RFC 6455)."""

from __future__ import annotations

import asyncio
import struct

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _CLOSE, _PING, _PONG = 0x0, 0x8, 0x9, 0xA
_FIN = 0x80
_LONGEST = 1024 * 1024


def accept(key: str) -> bytes:
    """Return the answer's head that agrees to the upgrade."""
    import base64  # Few connections come here, and every container pays for imports at start.
    import hashlib

    digest = base64.b64encode(hashlib.sha1((key + _MAGIC).encode()).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {digest}\r\n\r\n"
    ).encode()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back every message, whole and of its own kind, until the client closes."""
    message, kind = b"", 0
    while True:
        first, payload = await _frame(reader)
        code = first & 0x0F
        if code == _CLOSE:
            writer.write(frame(_CLOSE, payload[:2]))
            return
        if code == _PING:
            writer.write(frame(_PONG, payload))
        elif code != _PONG:
            kind = kind if code == _CONTINUATION else code
            message += payload
            if len(message) > _LONGEST:
                writer.write(frame(_CLOSE, struct.pack("!H", 1009)))
                return
            if first & _FIN:
                writer.write(frame(kind, message))
                message = b""
        await writer.drain()


def frame(code: int, payload: bytes) -> bytes:
    """Return one whole frame as a server sends it: not masked."""
    if len(payload) < 126:
        return struct.pack("!BB", _FIN | code, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack("!BBH", _FIN | code, 126, len(payload)) + payload
    return struct.pack("!BBQ", _FIN | code, 127, len(payload)) + payload


def going_away() -> bytes:
    """Return the frame that says the server stops."""
    return frame(_CLOSE, struct.pack("!H", 1001))


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", await reader.readexactly(8))
    if length > _LONGEST:
        raise asyncio.IncompleteReadError(b"", length)
    mask = await reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
    payload = await reader.readexactly(length)
    key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    return first, (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")
