"""Check passwords for the engine: a small process of its own, so that it outlives the controller as the engine does.

The controller writes who may come in to a file; the checker reads it when it changes, and answers the engine over a
socket: 204 or 401. It is asked once for each new pair of name and password, for the engine remembers those it let in.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ctypes
import ctypes.util
import hashlib
import hmac
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
from aiohttp import web

from netplane.edge.ingress.plan import apr1
from netplane.kernel.process import environment
from netplane.lib import log

_LOG = log.get("ingress")
_LOOK_SECONDS = 2.0
_MISSED_MOST = 10
Users = Mapping[str, tuple[tuple[str, str], ...]]


class Passwords:
    """The controller's side: keeps the file and the checker's process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._users: Users | None = None
        self._needed = asyncio.Event()

    def offer(self, users: Users) -> None:
        """Take who may come in where, as realms by name."""
        if users == self._users:
            return
        self._users = users
        path = self._directory / "users.json"
        fresh = path.with_name(".users.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps({realm: dict(rows) for realm, rows in users.items()}))
        fresh.replace(path)
        if users:
            self._needed.set()

    async def run(self) -> None:
        """Keep a checker running for as long as anybody needs one."""
        await self._needed.wait()
        while True:
            if not await _answers(self._directory / "passwords.sock"):
                await self._start()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _start(self) -> None:
        argv = [sys.executable, "-m", "netplane.edge.ingress.run.passwords", str(self._directory)]
        await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, env=environment(), start_new_session=True
        )
        _LOG.info("started the checker of passwords")
        for _ in range(100):
            if await _answers(self._directory / "passwords.sock"):
                return
            await asyncio.sleep(0.1)


class Checker:
    """The checker's side."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "users.json"
        self._seen: tuple[int, int] = (0, 0)
        self._users: dict[str, dict[str, str]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one question of the engine."""
        realm = request.match_info["realm"]
        given = _credentials(request.headers.get("Authorization", ""))
        hashed = self._realm(realm).get(given[0]) if given else None
        if given is None or hashed is None:
            return web.Response(status=401)
        is_right = await asyncio.to_thread(matches, given[1], hashed)
        return web.Response(status=204 if is_right else 401)

    def _realm(self, realm: str) -> dict[str, str]:
        try:
            about = self._path.stat()
            if (about.st_mtime_ns, about.st_ino) != self._seen:
                self._users = orjson.loads(self._path.read_bytes())
                self._seen = about.st_mtime_ns, about.st_ino
        except (OSError, ValueError):
            self._users = {}
        return self._users.get(realm, {})


def matches(password: str, hashed: str) -> bool:
    """Tell whether a password belongs to a hash as htpasswd writes them: bcrypt, apr1, SHA, and those of crypt(3)."""
    if hashed.startswith("{SHA}"):
        made = "{SHA}" + base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
    elif hashed.startswith("$apr1$"):
        made = apr1.crypt(password, hashed)
    else:
        made = _crypt(password, hashed)
    return hmac.compare_digest(made.encode(), hashed.encode())


def _crypt(password: str, hashed: str) -> str:
    """Ask libcrypt: Python's own module for it is going away."""
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt_r.restype = ctypes.c_char_p
    room = ctypes.create_string_buffer(32768)
    if "\0" in password:
        return ""
    made = library.crypt_r(password.encode(), hashed.encode(), room)
    return made.decode() if made else ""


def _credentials(header: str) -> tuple[str, str] | None:
    kind, _, rest = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


async def _answers(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    writer.close()
    return True


async def serve(directory: Path) -> None:
    """Answer for ever."""
    app = web.Application()
    app.router.add_get("/{realm}", Checker(directory).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    path = directory / "passwords.sock"
    os.umask(0o077)
    await web.UnixSite(runner, str(path)).start()
    missed = 0
    while missed < _MISSED_MOST:  # Without an engine nobody asks; the controller starts another with the next one.
        await asyncio.sleep(_LOOK_SECONDS)
        missed = 0 if await _answers(directory / "admin.sock") else missed + 1
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
