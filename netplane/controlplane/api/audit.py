"""Write down who asked for what, and what became of it: audit.k8s.io/v1 Events, one JSON line each.

What an Event says is auditevents', of which requests there are any auditrules'.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from netplane.controlplane.api import auditevents, auditrules, http
from netplane.lib import clock, log

_LOG = log.get("audit")
_HEADER = b"audit-id"
_BEGINNINGS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_SWITCHED = 101
Application = Callable[[http.Scope, http.Receive, http.Send], Awaitable[None]]


class Audit:
    """An audit log in a file. Lines are appended whole; a disk that refuses is told once and the server goes on."""

    def __init__(self, path: Path, policy: auditrules.Policy) -> None:
        self.policy = policy
        self._is_failing = False
        self._path = path
        kept = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._file: BinaryIO = open(kept, "ab", buffering=0)  # noqa: SIM115  # held open as long as the server runs

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, event: dict[str, Any]) -> None:
        """Append an event."""
        try:
            self._file.write(orjson.dumps(event) + b"\n")
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                _LOG.error("audit log cannot be written", path=self._path, why=error.strerror)
            self._is_failing = True


class Recorder:
    """An application in front of another that writes down what passes."""

    def __init__(self, inner: Application, audit: Audit, *, clock: clock.Clock, new_id: Callable[[], str]) -> None:
        self._inner = inner
        self._audit = audit
        self._clock = clock
        self._new_id = new_id

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Serve one connection's request (ASGI 3) and note it when it comes, when it is answered, and when it ends."""
        if scope["type"] not in ("http", "websocket"):
            await self._inner(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        passing = scope[http.KEPT] = _Passing(self._audit, self._clock, given.decode("latin-1") or self._new_id())
        try:
            await self._inner(scope, passing.receiving(receive), passing.sending(send))
        except Exception:
            passing.has_failed = True
            raise
        finally:
            passing.end()


class _Passing:
    """One request on its way: what was seen of it and its answer, bodies up to what the log keeps."""

    def __init__(self, audit: Audit, time: clock.Clock, audit_id: str) -> None:
        self._audit = audit
        self._clock = time
        self._id = audit_id
        self._received = clock.rfc3339_micro(time.now())
        self._rule = auditrules.Rule("None")
        self._level = "None"
        self._code = 0
        self._body = bytearray()
        self._answer = bytearray()
        self._is_told_late = False
        self.request: http.Request | None = None
        self.has_failed = False

    def known(self) -> None:
        """Note that the request has come, and from whom."""
        if self._judged():
            self._tell("RequestReceived", at=self._received)

    def _judged(self) -> bool:
        """Whether anything is written of the request, by the rule for it."""
        request = self.request
        assert request is not None
        verb = auditevents.verb(request)
        self._rule = self._audit.policy.rule_for(request.asker, verb, request.path, request.target)
        self._level = auditevents.level(request, self._rule.level)
        self._is_told_late = auditevents.is_long_running(request)
        return self._level != "None"

    def receiving(self, receive: http.Receive) -> http.Receive:
        """Return what to receive from, to see what comes."""

        async def received() -> http.Message:
            message = await receive()
            if message["type"] == "http.request" and len(self._body) <= auditevents.LONGEST_BODY:
                self._body += message.get("body", b"")
            return message

        return received

    def sending(self, send: http.Send) -> http.Send:
        """Return what to send with, to see what goes and to tell the client under which ID it is noted."""

        async def sent(message: http.Message) -> None:
            kind = message["type"]
            if kind in _BEGINNINGS:
                told = (_HEADER, self._id.encode("latin-1"))
                message = {**message, "headers": [*(message.get("headers") or ()), told]}
                self._begun(message.get("status") or _SWITCHED)
            elif kind == "http.response.body" and self._keeps_answer():
                self._answer += message.get("body", b"")
            await send(message)

        return sent

    def _keeps_answer(self) -> bool:
        is_short = self._code >= 400 or not self._is_told_late
        return is_short and len(self._answer) <= auditevents.LONGEST_BODY

    def _begun(self, code: int) -> None:
        self._code = code
        if self._is_told_late and self._level != "None":
            self._tell("ResponseStarted", outcome={"metadata": {}, "code": code})

    def end(self) -> None:
        """Note that the request is over."""
        request = self.request
        if request is None:
            return
        if request.asker is None:  # nobody could be made out who asks
            if self._judged():
                attempted = "attempted: bearer" if b"authorization" in request.headers else "no credentials provided"
                told = {"metadata": {}, "message": f"Authentication failed, {attempted}", "code": self._code}
                self._tell("ResponseStarted", outcome=told)
        elif self._level != "None":
            self._tell_end(request)
        self.request = None  # the two would hold each other, and the connection with them

    def _tell_end(self, request: http.Request) -> None:
        if self.has_failed:
            failed = {"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500}
            self._tell("Panic", outcome=failed)
            return
        answer = bytes(self._answer)
        outcome = auditevents.outcome(request, self._code, answer)
        if self._is_told_late and not self._code:
            self._tell("ResponseStarted", outcome=outcome)
        self._tell("ResponseComplete", outcome=outcome, body=bytes(self._body), answer=answer)

    def _tell(
        self, stage: str, *, outcome: dict[str, Any] | None = None, body: bytes = b"", answer: bytes = b"", at: str = ""
    ) -> None:
        if stage in self._rule.omitted:
            return
        request, rule = self.request, self._rule
        assert request is not None
        now = at or clock.rfc3339_micro(self._clock.now())
        told = auditevents.event(
            request, stage=stage, level=self._level, audit_id=self._id, received=self._received, now=now
        )
        if outcome is not None:
            told["responseStatus"] = outcome
            if noted := auditevents.remarks(request):
                told["annotations"] = noted
        auditevents.add_bodies(told, request, body, answer, omits_managed=rule.omits_managed_fields)
        self._audit.write(told)
