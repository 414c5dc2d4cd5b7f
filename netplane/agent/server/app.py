"""Route the kubelet's paths to what answers them. Who may ask is `authentic`'s."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from netplane.agent.lifecycle.roster import Roster
from netplane.agent.lifecycle.worker import Worker
from netplane.agent.node.objects import Identity
from netplane.agent.runtime.protocol import ContainerStatus, Runtime, RuntimeFailure, Stream
from netplane.agent.server import channels, forwarding, logs, summary, tunnel
from netplane.agent.server.authentic import Gate, Refused
from netplane.agent.server.logs import Wanted
from netplane.lib import clock as clocks
from netplane.lib import metrics

OPEN = ("/healthz",)


class NotHere(Exception):
    """No such pod or container on this node; `code` as HTTP has it."""

    def __init__(self, message: str, code: int = 404) -> None:
        super().__init__(message)
        self.code = code


def build(roster: Roster, runtime: Runtime, identity: Identity, gate: Gate, clock: clocks.Clock) -> ASGIApp:
    """Return the application."""
    answers = _Answers(roster, runtime, identity, clock)
    app = Starlette(
        routes=[
            Route("/healthz", answers.healthz),
            Route("/pods", answers.pods),
            Route("/metrics", answers.metrics),
            Route("/stats/summary", answers.summary),
            Route("/containerLogs/{namespace}/{pod}/{container}", answers.logs),
            WebSocketRoute("/exec/{namespace}/{pod}/{container}", answers.exec),
            WebSocketRoute("/attach/{namespace}/{pod}/{container}", answers.attach),
            WebSocketRoute("/portForward/{namespace}/{pod}", answers.port_forward),
            WebSocketRoute(tunnel.PATH, answers.tunnel),
        ],
        exception_handlers={NotHere: _not_here, RuntimeFailure: _failed},
    )
    return _Guarded(app, gate)


class _Guarded:
    """Lets nobody in whom the gate refuses."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in OPEN:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            try:
                await self._gate.check(headers)
            except Refused as error:
                await _refuse(scope, receive, send, str(error))
                return
        await self._app(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": "Unauthorized"})
    else:
        await PlainTextResponse(f"Unauthorized: {why}\n", status_code=401)(scope, receive, send)


async def _not_here(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=getattr(error, "code", 404))


async def _failed(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=500)


class _Answers:
    def __init__(self, roster: Roster, runtime: Runtime, identity: Identity, clock: clocks.Clock) -> None:
        self._roster = roster
        self._runtime = runtime
        self._identity = identity
        self._clock = clock

    async def healthz(self, _: Request) -> Response:
        return PlainTextResponse("ok")

    async def pods(self, _: Request) -> Response:
        items = [worker.status for worker in self._roster]
        return JSONResponse({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def metrics(self, _: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def summary(self, _: Request) -> Response:
        pods = [worker.pod for worker in self._roster]
        return JSONResponse(summary.summary(self._identity.name, pods, self._runtime, self._clock.now()))

    async def logs(self, request: Request) -> Response:
        worker = self._worker(request.path_params)
        name = request.path_params["container"]
        status = self._logged(worker, name, channels.truth(request.query_params, "previous"))
        wanted = self._wanted(request)
        path = self._runtime.log_file(status.id)
        body = logs.read(path, wanted, clock=self._clock, is_running=lambda: self._runs(worker, status.id))
        return StreamingResponse(body, media_type="text/plain")

    async def exec(self, socket: WebSocket) -> None:
        query = socket.query_params
        argv = query.getlist("command")
        tty, stdin = channels.truth(query, "tty"), channels.truth(query, "stdin", "input")

        async def open_stream() -> Stream:
            if not argv:
                raise RuntimeFailure("you must specify at least one command for the container")
            return await self._runtime.exec(self._running(socket).id, argv, tty=tty, stdin=stdin)

        await self._session(socket, open_stream)

    async def attach(self, socket: WebSocket) -> None:
        stdin = channels.truth(socket.query_params, "stdin", "input")
        await self._session(socket, lambda: self._runtime.attach(self._running(socket).id, stdin=stdin))

    async def port_forward(self, socket: WebSocket) -> None:
        try:
            worker = self._worker(socket.path_params)
        except NotHere:
            await socket.close()
            return
        sandbox = next((s for s in self._runtime.sandboxes(worker.pod.uid) if s.state == "ready"), None)
        if sandbox is None:
            await socket.close()
            return
        await forwarding.serve(socket, lambda port: self._runtime.connect(sandbox.id, port))

    async def tunnel(self, socket: WebSocket) -> None:
        try:
            worker = self._worker(socket.path_params)
            sandbox = next(s for s in self._runtime.sandboxes(worker.pod.uid) if s.state == "ready")
            reader, writer = await self._runtime.connect(sandbox.id, socket.path_params["port"])
        except (NotHere, StopIteration, RuntimeFailure, OSError):
            await socket.close()
            return
        await tunnel.join(socket, reader, writer)

    async def _session(self, socket: WebSocket, open_stream: Callable[[], Awaitable[Stream]]) -> None:
        protocol = channels.chosen(socket.scope.get("subprotocols") or [])
        if protocol is None:
            await socket.close(code=1002, reason="no subprotocol in common")
            return
        await socket.accept(subprotocol=protocol)
        try:
            stream = await open_stream()
        except (RuntimeFailure, NotHere) as error:
            await channels.finish(socket, channels.internal_error(str(error)))
            return
        await channels.join(socket, stream)

    def _worker(self, params: dict[str, str]) -> Worker:
        worker = self._roster.find(params["namespace"], params["pod"])
        if worker is None:
            raise NotHere(f'pod "{params["pod"]}" is not on node {self._identity.name}')
        return worker

    def _running(self, socket: WebSocket) -> ContainerStatus:
        worker, name = self._worker(socket.path_params), socket.path_params["container"]
        for status in self._runtime.containers(worker.pod.uid):
            if status.name == name and status.state == "running":
                return status
        if worker.pod.container(name) is None:
            raise NotHere(f"container {name} is not valid for pod {worker.pod.name}", 400)
        raise RuntimeFailure(f'unable to upgrade connection: container not found ("{name}")')

    def _logged(self, worker: Worker, name: str, previous: bool) -> ContainerStatus:
        found = [s for s in self._runtime.containers(worker.pod.uid) if s.name == name]
        if worker.pod.container(name) is None and not found:
            raise NotHere(f"container {name} is not valid for pod {worker.pod.name}", 400)
        if previous:
            ended = [status for status in found if status.state == "exited"]
            if not ended:
                raise NotHere(f'previous terminated container "{name}" in pod "{worker.pod.name}" not found', 400)
            return ended[0]
        if not found:
            waiting = f'container "{name}" in pod "{worker.pod.name}" is waiting to start: {_reason(worker, name)}'
            raise NotHere(waiting, 400)
        return found[0]

    def _runs(self, worker: Worker, container_id: str) -> bool:
        return any(s.id == container_id and s.state != "exited" for s in self._runtime.containers(worker.pod.uid))

    def _wanted(self, request: Request) -> Wanted:
        query = request.query_params
        since = None
        try:
            if seconds := query.get("sinceSeconds"):
                since = self._clock.now() - timedelta(seconds=int(seconds))
            elif moment := query.get("sinceTime"):
                since = clocks.parse(moment)
            return Wanted(
                tail=int(query["tailLines"]) if query.get("tailLines") else None,
                limit=int(query["limitBytes"]) if query.get("limitBytes") else None,
                since=since,
                timestamps=channels.truth(query, "timestamps"),
                follow=channels.truth(query, "follow"),
                stream=query.get("stream") or "All",
            )
        except ValueError as error:
            raise NotHere(f"log options make no sense: {error}", 400) from error


def _reason(worker: Worker, name: str) -> str:
    status = worker.status["status"]
    assert isinstance(status, dict)
    for group in ("containerStatuses", "initContainerStatuses"):
        for entry in status.get(group) or ():
            if entry["name"] == name:
                return str((entry["state"].get("waiting") or {}).get("reason") or "ContainerCreating")
    return "ContainerCreating"
