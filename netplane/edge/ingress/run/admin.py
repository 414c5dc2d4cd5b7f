"""Speak to the engine's runtime socket: one connection that stays, many commands in flight, answers in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from netplane.edge.ingress.plan.state import Command

_PROMPT = b"\n> "
_TIMEOUT = 30.0
_AT_ONCE = 64


class EngineError(OSError):
    """The engine is not there, or answered a command with something else than success."""


class Admin:
    """A connection to the engine. Commands of one caller are not mixed with those of another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, command: Command | str) -> str:
        """Return the answer to one command; a text is a question, any answer to which will do."""
        (answer,) = await self.run([Command(command, is_optional=True) if isinstance(command, str) else command])
        return answer

    async def run(self, commands: Sequence[Command]) -> list[str]:
        """Send all, some ahead of the answers; EngineError names the first that was refused and that all depends on."""
        async with self._lock:
            try:
                async with asyncio.timeout(_TIMEOUT + len(commands) / 1000):
                    return await self._run(commands)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.close()
                if isinstance(error, EngineError):
                    raise
                raise EngineError(f"engine at {self.path}: {error or type(error).__name__}") from error
            except asyncio.CancelledError:
                self.close()
                raise

    def close(self) -> None:
        """End the connection; the next command opens one."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _run(self, commands: Sequence[Command]) -> list[str]:
        reader, writer = await self._connection()
        for command in commands:
            if not command.is_one:
                raise EngineError(f"engine: {command.line!r} is not one command; nothing was sent")
        answers, sent = [], 0
        for at, command in enumerate(commands):
            while sent < min(len(commands), at + _AT_ONCE):
                writer.write(commands[sent].wire())
                sent += 1
            answer = _clean(await reader.readuntil(_PROMPT))
            if command.is_refused(answer) and not (command.is_optional or command.subject):
                await self._drain(reader, sent - at - 1)
                raise EngineError(f"engine: {command.line}: {' '.join(answer.split()) or 'no answer'}")
            answers.append(answer)
        return answers

    async def _drain(self, reader: asyncio.StreamReader, count: int) -> None:
        for _ in range(count):
            await reader.readuntil(_PROMPT)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 28)
            self._writer.write(b"prompt\n")
            await self._reader.readuntil(_PROMPT)
        return self._reader, self._writer


def _clean(answer: bytes) -> str:
    """Return an answer without the prompts for more lines that a payload brings about."""
    text = answer.removesuffix(_PROMPT).decode(errors="replace")
    while text.startswith("+ "):
        text = text[2:]
    return text.strip()
