"""Call the agents on the nodes: where they listen, how we trust them, how they know us."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import orjson

from netplane.controlplane.api import access, status
from netplane.kube.types import Object
from netplane.lib import clock, sockets

_TOKEN_SECONDS = 200.0
_FRAME_LIMIT = 16 << 20
_CONNECT_SECONDS = 5.0


class Agents:
    """The connections to the node agents; made when first needed, closed with the server."""

    def __init__(
        self, *, node: Callable[[str], Object | None], keys: access.Keys, ca_pem: str, clock: clock.Clock
    ) -> None:
        self._node = node
        self._keys = keys
        self._ca_pem = ca_pem
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._token_until = 0.0

    def session(self) -> aiohttp.ClientSession:
        """Return the session; it trusts certificates of the cluster's CA alone."""
        if self._session is None:
            trust = ssl.create_default_context(cadata=self._ca_pem)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust, limit=0, socket_factory=sockets.lent),
                timeout=timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def url(self, node_name: str) -> str:
        """Return the root of a node's agent; raise 503 when the node has not said where it listens."""
        node = self._node(node_name)
        if node is None:
            raise status.unavailable(f'no agent to call: node "{node_name}" is not registered')
        shown = node.get("status") or {}
        address = next((a["address"] for a in shown.get("addresses") or () if a["type"] == "InternalIP"), "")
        port = ((shown.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port", 10250)
        if not address:
            raise status.unavailable(f'no agent to call: node "{node_name}" has no InternalIP')
        host = f"[{address}]" if ":" in address else address
        return f"https://{host}:{port}"

    def headers(self) -> dict[str, str]:
        """Return the credentials with which we call an agent."""
        if self._clock.monotonic() >= self._token_until:
            self._token = self._keys.agent_token(now=self._clock.now())
            self._token_until = self._clock.monotonic() + _TOKEN_SECONDS
        return {"Authorization": f"Bearer {self._token}"}

    async def connect(
        self, url: str, query: Sequence[tuple[str, str]], protocols: Sequence[str]
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket to an agent; raise what it refused with, 503 when it cannot be reached."""
        try:
            return await self.session().ws_connect(
                url,
                params=list(query),
                protocols=tuple(protocols),
                headers=self.headers(),
                max_msg_size=_FRAME_LIMIT,
                compress=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise await self._refusal(url, query, error) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(url, error) from error

    async def _refusal(
        self, url: str, query: Sequence[tuple[str, str]], error: aiohttp.WSServerHandshakeError
    ) -> status.ApiStatus:
        # A refused handshake carries no body in aiohttp; the code alone is told.
        reasons = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}
        code = error.status if error.status in reasons else 500
        message = f"the node's agent refused: {error.status} {error.message}"
        return status.ApiStatus(code, reasons.get(code, "InternalError"), message)

    async def open(
        self, method: str, url: str, *, query: Sequence[tuple[str, str]] = (), headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request to an agent or a pod and return its answer, the body still to come; raise 503."""
        try:
            return await self.session().request(
                method, url, params=list(query), headers=headers, data=body or None, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(url, error) from error


def unreachable(url: str, error: BaseException) -> status.ApiStatus:
    """Return the 503 for a node or pod that cannot be called."""
    host = url.partition("://")[2].partition("/")[0]
    return status.unavailable(f"error dialing backend: {host}: {error or type(error).__name__}")


def refusal(code: int, body: bytes) -> status.ApiStatus:
    """Return what an agent refused with as our own refusal."""
    text = body.decode("utf-8", "replace").strip()
    try:
        obj: Object = orjson.loads(body)
        text = str(obj.get("message") or text)
    except (orjson.JSONDecodeError, AttributeError):
        pass
    reason = {400: "BadRequest", 403: "Forbidden", 404: "NotFound"}.get(code, "InternalError")
    return status.ApiStatus(code, reason, text or f"the node's agent answered {code}")
