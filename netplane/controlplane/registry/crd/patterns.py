"""The patterns of schemas: Go's regular expressions (RE2), which take time in line with the text, whatever they say."""

from __future__ import annotations

import re
from functools import lru_cache

from netplane.controlplane.registry.cel import engine

_PARTS = re.compile(r"\\.|\[(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\$", re.DOTALL)
_IN_PYTHON = {"$": r"\Z", r"\z": r"\Z"}
_POSIX = {
    "[:alnum:]": "0-9A-Za-z",
    "[:alpha:]": "A-Za-z",
    "[:digit:]": "0-9",
    "[:lower:]": "a-z",
    "[:upper:]": "A-Z",
    "[:word:]": r"\w",
    "[:xdigit:]": "0-9A-Fa-f",
    "[:space:]": r"\s",
}
_ONLY_IN_PYTHON = re.compile(r"\\\\|\\[1-9]|\(\?(?:[=!#(]|<[=!]|P[=>])")
_ONLY_IN_GO = re.compile(r"\\[pPQC]|\(\?[a-zA-Z]*[Us]|\(\?<[a-zA-Z]")
_REPEATED_GROUP = re.compile(r"\)[+*{]")


def problem(text: str) -> str:
    """Return why a text is no pattern, "" when it is one."""
    beyond = next((each.group() for each in _ONLY_IN_PYTHON.finditer(text) if each.group() != r"\\"), "")
    if beyond:
        return f"error parsing regexp: invalid or unsupported Perl syntax: `{beyond}`"
    try:
        _in_python(text)
    except re.error as error:
        return "" if _ONLY_IN_GO.search(text) else f"error parsing regexp: {error.msg}"
    return ""


def matches(text: str, value: str) -> bool:
    """Whether a pattern is found in a value; one that is none forbids nothing.

    Python tries groups that repeat in every way there is, which may take for ever: those are for who does not.
    """
    if not _REPEATED_GROUP.search(text):
        pattern = _pattern(text)
        if pattern is not None:
            return pattern.search(value) is not None
    program = _program(text)
    if program is None:
        return True
    try:
        return program.evaluate({"self": value}, engine.Budget(), engine.Size()) is not False
    except engine.EvaluationError:
        return True


def _in_python(text: str) -> re.Pattern[str]:
    """Compile a pattern to what it means to Go: classes are of ASCII letters, and `$` is the very end."""
    return re.compile(_PARTS.sub(lambda part: _part(part.group()), text), re.ASCII)


def _part(text: str) -> str:
    if text.startswith("["):
        for name, meant in _POSIX.items():
            text = text.replace(name, meant)
        return text
    return _IN_PYTHON.get(text, text)


@lru_cache(512)
def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        return _in_python(text)
    except re.error:
        return None


@lru_cache(512)
def _program(text: str) -> engine.Program | None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    try:
        return engine.Program(f'self.matches("{quoted}")', ("self",))
    except engine.CompileError:
        return None
