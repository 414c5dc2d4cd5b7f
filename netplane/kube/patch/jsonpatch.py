"""JSON patch (RFC 6902) with JSON pointers (RFC 6901)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from netplane.kube.patch.errors import PatchError
from netplane.kube.patch.merge import equal

_MAX_OPERATIONS = 10000


def apply(document: Any, operations: Any) -> Any:
    """Return the document after all operations, in order; one that fails fails the whole patch.

    Raises PatchError, worded like the library of the real API server, with the operation and its path.
    """
    if not isinstance(operations, list):
        raise PatchError("json: cannot unmarshal object into Go value of type jsonpatch.Patch", is_malformed=True)
    if len(operations) > _MAX_OPERATIONS:
        text = f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(operations)}"
        raise PatchError(text)
    root = [copy.deepcopy(document)]
    for operation in operations:
        if not isinstance(operation, dict) or operation.get("op") not in _OPERATIONS:
            kind = operation.get("op") if isinstance(operation, dict) else operation
            raise PatchError(f"Unexpected kind: {kind}")
        _OPERATIONS[operation["op"]](root, operation)
    return root[0]


def _pointer(operation: dict[str, Any], name: str = "path") -> list[str]:
    text = operation.get(name)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise PatchError(f"{operation['op']} operation has no valid {name}: {text!r}")
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _container(root: list[Any], steps: list[str], what: str) -> tuple[Any, str | int]:
    """Return the container of a pointer's last step and the step; the root itself is item 0 of a list of one."""
    container: Any = root
    key: str | int = 0
    for step in steps:
        try:
            container = container[key]
        except (KeyError, IndexError, TypeError):
            raise _missing(what, steps) from None
        key = _step(container, step, what, steps)
    return container, key


def _step(container: Any, step: str, what: str, steps: list[str]) -> str | int:
    if isinstance(container, dict):
        return step
    if not isinstance(container, list):
        raise _missing(what, steps)
    if step == "-":
        return len(container)
    if not step.isascii() or not step.isdigit() or (step[0] == "0" and step != "0"):
        raise PatchError(f'{what} operation does not apply: doc is missing path: "{_text(steps)}": bad index {step!r}')
    return int(step)


def _text(steps: list[str]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def _missing(what: str, steps: list[str]) -> PatchError:
    return PatchError(f'{what} operation does not apply: doc is missing path: "{_text(steps)}": missing value')


def _get(root: list[Any], steps: list[str], what: str) -> Any:
    container, key = _container(root, steps, what)
    try:
        return container[key]
    except (KeyError, IndexError):
        raise _missing(what, steps) from None


def _put(root: list[Any], steps: list[str], value: Any, what: str) -> None:
    container, key = _container(root, steps, what)
    if container is root:
        root[0] = value
    elif isinstance(container, list):
        if not isinstance(key, int) or key > len(container):
            raise PatchError(f"{what} operation does not apply: Unable to access invalid index: {key}: invalid index")
        container.insert(key, value)
    else:
        container[key] = value


def _drop(root: list[Any], steps: list[str], what: str) -> Any:
    container, key = _container(root, steps, what)
    try:
        return container.pop(key)
    except (KeyError, IndexError):
        last = steps[-1] if steps else ""
        text = f"{what} operation does not apply: Unable to {what} nonexistent key: {last}: missing value"
        raise PatchError(text) from None


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError(f"{operation['op']} operation at {operation.get('path')} has no value")
    return copy.deepcopy(operation["value"])


def _add(root: list[Any], operation: dict[str, Any]) -> None:
    _put(root, _pointer(operation), _value(operation), "add")


def _remove(root: list[Any], operation: dict[str, Any]) -> None:
    _drop(root, _pointer(operation), "remove")


def _replace(root: list[Any], operation: dict[str, Any]) -> None:
    steps = _pointer(operation)
    _get(root, steps, "replace")
    container, key = _container(root, steps, "replace")
    container[key] = _value(operation)


def _move(root: list[Any], operation: dict[str, Any]) -> None:
    source, target = _pointer(operation, "from"), _pointer(operation)
    if target[: len(source)] == source and len(target) > len(source):
        raise PatchError(f"move operation does not apply: {_text(source)} cannot move into itself")
    value = _get(root, source, "move")
    _drop(root, source, "move")
    _put(root, target, value, "move")


def _copy(root: list[Any], operation: dict[str, Any]) -> None:
    value = copy.deepcopy(_get(root, _pointer(operation, "from"), "copy"))
    _put(root, _pointer(operation), value, "copy")


def _test(root: list[Any], operation: dict[str, Any]) -> None:
    steps = _pointer(operation)
    if not equal(_get(root, steps, "test"), operation.get("value")):
        raise PatchError(f"testing value {_text(steps)} failed: test failed")


_OPERATIONS: dict[str, Callable[[list[Any], dict[str, Any]], None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}
