"""Log facts with fields, to standard error, as text or JSON. The standard library's logging carries them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

Format = Literal["text", "json"]

_ROOT = "netplane"


def setup(level: str = "info", *, fmt: Format = "text") -> None:
    """Send our logs from `level` on, and other libraries' warnings, to standard error. Calling it again replaces."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if fmt == "json" else _Text())
    # What no format of ours prints, a record need not find out (library/logging.html, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())


def get(name: str) -> Logger:
    """Return the logger of a part: `log.get("agent")`."""
    return Logger(logging.getLogger(f"{_ROOT}.{name}"), {})


class Logger:
    """A part's logger. Each call takes a message and the facts as keywords: `log.info("pod started", pod="a/b")`."""

    __slots__ = ("_fields", "_logger")

    def __init__(self, logger: logging.Logger, fields: dict[str, object]) -> None:
        self._logger = logger
        self._fields = fields

    def bind(self, **fields: object) -> Logger:
        """Return a logger that adds these fields to every line."""
        return Logger(self._logger, {**self._fields, **fields})

    def debug(self, message: str, /, **fields: object) -> None:
        """Log what only a developer asks for."""
        self._log(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        """Log a change of state."""
        self._log(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        """Log what went wrong and is being handled."""
        self._log(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: object) -> None:
        """Log what went wrong and needs someone."""
        self._log(logging.ERROR, message, fields)

    def exception(self, message: str, /, **fields: object) -> None:
        """Log an unexpected failure with the traceback of the exception being handled."""
        self._log(logging.ERROR, message, fields, trace=True)

    def _log(self, level: int, message: str, fields: dict[str, object], *, trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            # Not by `Logger.log`, which looks for the calling line, that nothing prints: a third of a record's price.
            failure = sys.exc_info() if trace else None
            record = logging.LogRecord(self._logger.name, level, "", 0, message, (), failure)
            record.fields = {**self._fields, **fields} if self._fields else fields
            self._logger.handle(record)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _part(record: logging.LogRecord) -> str:
    return record.name.removeprefix(_ROOT + ".")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


def _quoted(value: object) -> str:
    text = str(value)
    needs_quotes = not text or any(c in ' "=' or not c.isprintable() for c in text)
    return json.dumps(text, ensure_ascii=False) if needs_quotes else text


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [_moment(record), record.levelname, _part(record), record.getMessage().replace("\n", "\\n")]
        words += [f"{key}={_quoted(value)}" for key, value in _fields(record).items()]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"time": _moment(record), "level": record.levelname.lower(), "part": _part(record)}
        line |= {"message": record.getMessage(), **_fields(record)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=_PLAIN).decode()
        except TypeError:  # A number or a text that it does not know how to write.
            return json.dumps(line, default=str, ensure_ascii=False)


_PLAIN = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
