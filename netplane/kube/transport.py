"""Carry requests to the API server: TLS, credentials, kept-open connections, and what went wrong in words.

What to ask is `client`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import aiohttp
import yarl

from netplane.kube import errors
from netplane.kube.api import Response
from netplane.kube.kubeconfig import Config
from netplane.lib import cli, metrics, sockets
from netplane.lib import clock as clocks

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
_TOKEN_SECONDS = 60.0
_ATTEMPTS = 4
_LONGEST_WAIT = 10.0
_BUFFER = 256 * 1024
_MUCH = 256 * 1024

_REQUESTS = metrics.counter(
    "rest_client_requests",
    "Requests to the API server by the code of the answer, or <error> when none came.",
    ["code", "method", "host"],
)
_REQUEST_SECONDS = metrics.histogram(
    "rest_client_request_duration_seconds",
    "From a request to the API server until its answer begins.",
    ["verb", "host"],
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0),
)

Params = Mapping[str, str] | list[tuple[str, str]]


class Transport:
    """One session with one server; an async context manager."""

    def __init__(self, config: Config, *, user_agent: str, clock: clocks.Clock) -> None:
        self._config = config
        self._agent = user_agent
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._earlier: list[aiohttp.ClientSession] = []
        self._token = config.token
        self._token_read = float("-inf")

    async def __aenter__(self) -> Transport:
        self._session = self._opened()
        return self

    async def adopt(self, config: Config) -> None:
        """Go on with other credentials for the same server. Requests under way end on the connections they have."""
        earlier, self._config = self._session, config
        self._token, self._token_read = config.token, float("-inf")
        self._session = self._opened()
        if earlier is not None:
            self._earlier.append(earlier)

    def _opened(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=_tls(self._config), limit=0, keepalive_timeout=75.0, ttl_dns_cache=30, socket_factory=_socket
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent, "Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=_CONNECT_SECONDS, sock_read=None),
            read_bufsize=_BUFFER,
        )

    async def __aexit__(self, *_: object) -> None:
        for session in (*self._earlier, *([self._session] if self._session else [])):
            await session.close()
        self._session = None
        self._earlier.clear()

    async def request(
        self, method: str, path: str, *, params: Params | None = None, body: bytes | None = None, content_type: str = ""
    ) -> Response:
        """Send one request and return the whole answer of success; raises the `ApiError` of a refusal.

        Only what surely was not carried out, or does no harm twice, is sent again: 429 with Retry-After, and reads
        that the server answered 5xx with Retry-After, or cut off.
        """
        is_read = method in ("GET", "HEAD")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._once(method, path, params, body, content_type)
            except errors.ApiError as error:
                wait = _retry_delay(error, attempt, is_read=is_read)
                if wait is None or attempt == _ATTEMPTS:
                    raise
            await self._clock.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _once(
        self, method: str, path: str, params: Params | None, body: bytes | None, content_type: str
    ) -> Response:
        headers = {"Content-Type": content_type} if content_type else {}
        try:
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                self.open(method, path, params=params, body=body, headers=headers) as answer,
            ):
                content = await answer.read()
        except TimeoutError as error:
            raise self._unreachable(f"{method} {path}: no answer in {_ANSWER_SECONDS:.0f} s") from error
        if answer.status >= 400:
            raise errors.from_response(answer.status, content, retry_after=retry_after(answer))
        return Response(answer.status, answer.headers, content)

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and yield the answer as it begins, whatever its status; the body is the caller's to read."""
        session = self._open_session()
        url = yarl.URL(self._config.server + path, encoded=True)
        with self.failures(f"{method} {path}"), _counted(method, url.authority) as told:
            async with session.request(
                method,
                url,
                params=params,
                data=body,
                headers={**self.credentials(), **(headers or {})},
                allow_redirects=False,
                server_hostname=self._config.tls_server_name or None,
            ) as answer:
                told(answer.status)
                yield answer

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, params: Params, protocols: tuple[str, ...]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket; raises the `ApiError` of a refused upgrade."""
        url = yarl.URL(self._config.server + path, encoded=True).extend_query(params)
        with self.failures(f"connect {path}"):
            try:
                async with self._open_session().ws_connect(
                    url, protocols=protocols, headers=self.credentials(), max_msg_size=0, autoping=True
                ) as connection:
                    yield connection
            except aiohttp.WSServerHandshakeError as error:
                raise errors.of(error.status, "", f"connect {path}: {error.message}") from error

    def credentials(self) -> dict[str, str]:
        """Return the headers that say who we are."""
        path, moment = self._config.token_file, self._clock.monotonic()
        if path and moment - self._token_read > _TOKEN_SECONDS:
            try:
                self._token = Path(path).read_text().strip()
            except OSError as error:
                raise self._unreachable(f"cannot read token file {path}: {error.strerror}") from error
            self._token_read = moment
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @contextlib.contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn what the transport raises into `Unreachable` that names the server and the cause."""
        try:
            yield
        except aiohttp.ClientConnectorCertificateError as error:
            raise self._unreachable(f"its certificate is not trusted: {error.certificate_error}") from error
        except (aiohttp.ServerTimeoutError, aiohttp.ConnectionTimeoutError) as error:
            raise self._unreachable(f"{what}: no connection in {_CONNECT_SECONDS:.0f} s") from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(_reason(error.os_error)) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self._unreachable(f"{what}: {error or type(error).__name__}") from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client inside `async with`")
        return self._session

    def _unreachable(self, cause: str) -> errors.Unreachable:
        return errors.Unreachable(self._config.server, cause)


@contextlib.contextmanager
def _counted(method: str, host: str) -> Iterator[Callable[[int], None]]:
    """Count and time a request under client-go's names; what is yielded is to be called with the answer's code."""
    began, codes = time.perf_counter(), []

    def tell(code: int) -> None:
        codes.append(code)
        _REQUESTS.labels(str(code), method, host).inc()
        _REQUEST_SECONDS.labels(method, host).observe(time.perf_counter() - began)

    try:
        yield tell
    finally:
        if not codes:
            _REQUESTS.labels("<error>", method, host).inc()


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return f"its name does not resolve: {error.strerror}"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def hold(stream: asyncio.Transport, *, is_held: bool) -> None:
    """Let the kernel keep what comes until it is much, or give out whatever is there as soon as it comes.

    Each reading costs tens of microseconds, however little there is to read. The end of a connection is told at once.
    """
    opened = stream.get_extra_info("socket")
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _MUCH if is_held else 1)


def retry_after(answer: aiohttp.ClientResponse) -> float | None:
    """Return the seconds that an answer asks to wait, if it does."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _retry_delay(error: errors.ApiError, attempt: int, *, is_read: bool) -> float | None:
    if isinstance(error, errors.TooManyRequests) or (is_read and error.code >= 500):
        wait = error.retry_after
        return None if wait is None else min(wait, _LONGEST_WAIT)
    was_cut_off = isinstance(error, errors.Unreachable) and isinstance(error.__cause__, aiohttp.ServerDisconnectedError)
    return 0.05 * attempt if is_read and was_cut_off else None


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Open a socket that notices within half a minute that its peer is gone: a watch never sends, so never learns."""
    opened = sockets.lent(address)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
    return opened


def _tls(config: Config) -> ssl.SSLContext | bool:
    if not config.server.startswith("https://"):
        return True
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None, cadata=config.ca_data or None)
        if config.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.client_cert_file:
            context.load_cert_chain(config.client_cert_file, config.client_key_file or None)
        elif config.client_cert_data:
            _load_certificate(context, config.client_cert_data + "\n" + config.client_key_data)
    except (OSError, ValueError) as error:
        raise cli.UserError(f"TLS credentials for {config.server} do not load: {error}") from error
    return context


def _load_certificate(context: ssl.SSLContext, pem: str) -> None:
    """Load certificate and key from memory; OpenSSL wants a path, and a key does not belong on disk."""
    descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
