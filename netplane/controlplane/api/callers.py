"""Call a webhook over HTTPS at the place that its `clientConfig` names: a URL, or a Service of the cluster.

What is sent and what the answer means is for who calls: `webhooks` for admission, `converting` for versions.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from netplane.controlplane.api import hooks, places
from netplane.lib import sockets

_ANSWER_LIMIT = 8 << 20

Place = Callable[[str, str, int], places.Endpoint | None]
"""(namespace, Service name, port) to an endpoint, None when none is ready."""

Way = Callable[[places.Endpoint], contextlib.AbstractAsyncContextManager[aiohttp.ClientSession]]
"""An endpoint to a session that reaches it."""


class Caller:
    """Sends to webhooks; keeps connections, and the authorities that were read."""

    def __init__(self, *, place: Place, way: Way) -> None:
        self._place = place
        self._way = way
        self._session: aiohttp.ClientSession | None = None
        self._trusts: dict[str, ssl.SSLContext] = {}

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    async def post(self, config: Mapping[str, Any], body: bytes, *, seconds: float) -> bytes:
        """Send JSON to the place that a webhook's `clientConfig` names and return what it answered.

        Raises BadAnswer, and aiohttp's and the system's errors.
        """
        if config.get("url"):
            return await self._send(self._own_session(), str(config["url"]), "", config, body, seconds)
        service = config["service"]
        namespace, name, port = str(service["namespace"]), str(service["name"]), int(service.get("port") or 443)
        found = self._place(namespace, name, port)
        if found is None:
            raise hooks.BadAnswer(f'no endpoints available for service "{name}" in namespace "{namespace}"')
        host = f"[{found.address}]" if ":" in found.address else found.address
        url = f"https://{host}:{found.port}/{str(service.get('path') or '').lstrip('/')}"
        async with self._way(found) as session:
            return await self._send(session, url, f"{name}.{namespace}.svc", config, body, seconds)

    def _own_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(socket_factory=sockets.lent)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def _send(
        self,
        session: aiohttp.ClientSession,
        url: str,
        name: str,
        config: Mapping[str, Any],
        body: bytes,
        seconds: float,
    ) -> bytes:
        """POST to a URL; `name` is what the certificate of a Service must be for."""
        request = session.post(
            url,
            data=body,
            headers={"Content-Type": "application/json", **({"Host": name} if name else {})},
            timeout=aiohttp.ClientTimeout(total=seconds),
            allow_redirects=False,
            ssl=self._trust(str(config.get("caBundle") or "")),
            server_hostname=name or None,
        )
        async with request as answer:
            told = b""
            async for part in answer.content.iter_any():
                told += part
                if len(told) > _ANSWER_LIMIT:
                    raise hooks.BadAnswer(f"the answer has more than {_ANSWER_LIMIT} bytes")
            if answer.status != 200:
                raise hooks.BadAnswer(f"the webhook answered {answer.status} {answer.reason}")
            return told

    def _trust(self, bundle: str) -> ssl.SSLContext:
        known = self._trusts.get(bundle)
        if known is None:
            try:
                text = base64.b64decode(bundle, validate=True).decode() if bundle else None
                known = ssl.create_default_context(cadata=text)
            except (binascii.Error, ValueError, ssl.SSLError) as error:
                raise hooks.BadAnswer(f"the caBundle cannot be read: {error}") from error
            if len(self._trusts) > 64:
                self._trusts.clear()
            self._trusts[bundle] = known
        return known
