"""Batches and dumps of nf_tables as netlink bytes (include/uapi/linux/netfilter/nf_tables.h). Sending is run's."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from netplane.kernel.netlink.wire import (
    ACK,
    APPEND,
    ATTRIBUTE,
    CREATE,
    DUMP,
    KIND,
    NESTED,
    REQUEST,
    Message,
    attribute,
    attributes,
    find,
    nested,
    packed,
    string,
    text,
)
from netplane.kernel.nft.objects import Among, Batch, Chain, Element, Set, Table, Verdict

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = range(9)
NEWSET, GETSET, DELSET, NEWSETELEM, GETSETELEM, DELSETELEM, NEWGEN, GETGEN = range(9, 17)
SUBSYSTEM = 10 << 8
BATCH_BEGIN, BATCH_END = 0x10, 0x11

NFGEN = struct.Struct("=BBH")
U32 = struct.Struct(">I")
S32 = struct.Struct(">i")

LIST_ELEM = 1
ELEM_LIST_TABLE, ELEM_LIST_SET, ELEM_LIST_ELEMENTS = 1, 2, 3
ELEM_KEY, ELEM_DATA, ELEM_FLAGS, ELEM_USERDATA, ELEM_KEY_END = 1, 2, 3, 6, 10
DATA_VALUE, DATA_VERDICT = 1, 2
VERDICT_CODE, VERDICT_CHAIN = 1, 2
INTERVAL_END = 1
UDATA_COMMENT = 0
ANONYMOUS, CONSTANT = 1, 2
UNNAMED = "__set%d"

# An attribute's length is 16 bits, and the list of a message's elements is one attribute.
MESSAGE_LIMIT = 60_000


class Place(NamedTuple):
    """Where in a batch a message came from: the run, and the first and the one past the last of its elements.

    For a message that belongs to a chain, `run` is -1 and `start` the chain's index.
    """

    run: int
    start: int
    stop: int


def request(kind: int, flags: int, family: int = 0, *attributes: bytes) -> Message:
    """Return a message of the nf_tables subsystem."""
    return Message(SUBSYSTEM | kind, REQUEST | flags, NFGEN.pack(family, 0, 0) + b"".join(attributes))


def register(kind: int, index: int) -> bytes:
    """Return an attribute that names a 32-bit register, counted from 0, as nft does.

    Those that start a 16-byte one have their old numbers, 1 to 4, and the others count from 8.
    """
    return attribute(kind, U32.pack(index // 4 + 1 if index % 4 == 0 else 8 + index))


def among(wanted: Among, name: str, set_id: int) -> bytes:
    """Return the expression that matches a register against a set of the same transaction, known by its id."""
    parts = text(1, name), register(2, wanted.register), attribute(4, U32.pack(set_id))
    return nested(LIST_ELEM, text(1, "lookup"), nested(2, *parts))


def messages(batch: Batch) -> tuple[list[Message], list[Place]]:
    """Return a batch's messages without begin and end, and where each came from."""
    found: list[Message] = []
    places: list[Place] = []
    for index, chain in enumerate(batch.chains):
        found += _chain(chain, first_id=len(found) + 1)
        places += [Place(-1, index, index)] * (len(found) - len(places))
    for index, (verb, target, elements) in enumerate(batch.runs):
        kind, flags = (NEWSETELEM, CREATE) if verb == "add" else (DELSETELEM, 0)
        packer = _packer(target, with_data=verb == "add")
        start, size = 0, 0
        parts: list[bytes] = []
        for position, piece in enumerate(map(packer, elements)):
            if size + len(piece) > MESSAGE_LIMIT:
                found.append(_elements(kind, flags, target, parts))
                places.append(Place(index, start, position))
                start, size, parts = position, 0, []
            parts.append(piece)
            size += len(piece)
        found.append(_elements(kind, flags, target, parts))
        places.append(Place(index, start, len(elements)))
    return found, places


def transaction(found: list[Message], sequence: int) -> bytes:
    """Return begin (with `sequence`), the messages and end as one buffer. Only the last message asks for an ack."""
    parts = [_bound(BATCH_BEGIN, sequence)]
    last = len(found) - 1
    for index, message in enumerate(found):
        if index == last:
            message = message._replace(flags=message.flags | ACK)
        parts.append(packed(message, sequence + 1 + index))
    parts.append(_bound(BATCH_END, sequence + 1 + len(found)))
    return b"".join(parts)


def _bound(kind: int, sequence: int) -> bytes:
    # The subsystem stands in nfgenmsg.res_id, in network order.
    return packed(Message(kind, REQUEST, b"\0\0" + (SUBSYSTEM >> 8).to_bytes(2, "big")), sequence)


@functools.cache
def _address(table: Table, name: str) -> bytes:
    return NFGEN.pack(table.family, 0, 0) + text(ELEM_LIST_TABLE, table.name) + text(ELEM_LIST_SET, name)


def elements_request(target: Set) -> Message:
    """Return the request to dump a set's elements."""
    return Message(SUBSYSTEM | GETSETELEM, REQUEST | DUMP, _address(target.table, target.name))


def _elements(kind: int, flags: int, target: Set, parts: list[bytes]) -> Message:
    body = _address(target.table, target.name) + nested(ELEM_LIST_ELEMENTS, *parts)
    return Message(SUBSYSTEM | kind, REQUEST | flags, body)


def _chain(chain: Chain, *, first_id: int) -> Iterator[Message]:
    """Yield what gives a chain its rules; unnamed sets get ids from `first_id` on, which must be theirs alone."""
    family, table = chain.table.family, text(1, chain.table.name)
    yield request(NEWCHAIN, CREATE, family, table, text(3, chain.name))
    yield request(DELRULE, 0, family, table, text(2, chain.name))
    for rule in chain.rules:
        expressions: list[bytes] = []
        for expression in rule.expressions:
            if isinstance(expression, Among):
                yield from _unnamed_set(expression, family, table, first_id)
                expression = among(expression, UNNAMED, first_id)
                first_id += 1
            expressions.append(expression)
        yield request(NEWRULE, CREATE | APPEND, family, table, text(2, chain.name), nested(4, *expressions))


def _unnamed_set(wanted: Among, family: int, table: bytes, set_id: int) -> Iterator[Message]:
    name = text(2, UNNAMED)
    kind, width = attribute(4, U32.pack(wanted.type)), attribute(5, U32.pack(wanted.width))
    flags, number = attribute(3, U32.pack(ANONYMOUS | CONSTANT)), attribute(10, U32.pack(set_id))
    size = nested(9, attribute(1, U32.pack(len(wanted.values))))
    yield request(NEWSET, CREATE, family, table, name, flags, kind, width, size, number)
    members = (nested(LIST_ELEM, _value(ELEM_KEY, value)) for value in wanted.values)
    by_id = attribute(4, U32.pack(set_id))
    yield request(NEWSETELEM, CREATE, family, table, name, by_id, nested(ELEM_LIST_ELEMENTS, *members))


class _Packer:
    """Packs elements of one set: the headers of the common form are made once."""

    __slots__ = ("_data_width", "_head", "_key_head", "_key_width", "_middle", "_size", "_target", "_with_data")

    def __init__(self, target: Set, *, with_data: bool) -> None:
        self._target = target
        self._with_data = with_data and target.is_map
        key, data = target.key_width, target.data_width if self._with_data else 0
        self._key_width, self._data_width = key, data
        padded = (data + 3) & ~3
        self._middle = ATTRIBUTE.pack(data + 8, ELEM_DATA | NESTED) + ATTRIBUTE.pack(data + 4, DATA_VALUE)
        size = 12 + key + (padded + 8 if self._with_data else 0)
        self._size = size
        self._key_head = ATTRIBUTE.pack(key + 8, ELEM_KEY | NESTED) + ATTRIBUTE.pack(key + 4, DATA_VALUE)
        self._head = ATTRIBUTE.pack(size, LIST_ELEM | NESTED) + self._key_head

    def __call__(self, element: Element) -> bytes:
        key, data, comment, key_end = element
        if key_end is not None or len(key) != self._key_width or isinstance(data, Verdict):
            return _element(self._target, element, with_data=self._with_data)
        if not self._with_data:
            if comment and not self._target.is_map:
                return _element(self._target, element, with_data=False)
            return self._head + key
        if data is None or len(data) != self._data_width or len(data) & 3:
            return _element(self._target, element, with_data=True)
        if not comment:
            return self._head + key + self._middle + data
        said = _comment(comment)
        size = ATTRIBUTE.pack(self._size + len(said), LIST_ELEM | NESTED)
        return size + self._key_head + key + self._middle + data + said


@functools.lru_cache(maxsize=256)
def _packer(target: Set, *, with_data: bool) -> _Packer:
    return _Packer(target, with_data=with_data)


def _element(target: Set, element: Element, *, with_data: bool) -> bytes:
    parts = [_value(ELEM_KEY, element.key)]
    if target.is_interval and target.is_concatenated:
        parts.append(_value(ELEM_KEY_END, element.key if element.key_end is None else element.key_end))
    if with_data and element.data is not None:
        parts.append(_data(element.data))
    if with_data or not target.is_map:
        parts.append(_comment(element.comment))
    whole = nested(LIST_ELEM, *parts)
    if target.is_interval and not target.is_concatenated:
        whole += _interval_end(element.key if element.key_end is None else element.key_end)
    return whole


def _interval_end(last: bytes) -> bytes:
    """Return the element that ends an interval: it has the first key after it, and there is none after the highest."""
    after = int.from_bytes(last, "big") + 1
    if after >> len(last) * 8:
        return b""
    key = _value(ELEM_KEY, after.to_bytes(len(last), "big"))
    return nested(LIST_ELEM, key, attribute(ELEM_FLAGS, U32.pack(INTERVAL_END)))


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(DATA_VALUE, value))


def _data(data: bytes | Verdict) -> bytes:
    if not isinstance(data, Verdict):
        return _value(ELEM_DATA, data)
    chain = text(VERDICT_CHAIN, data.chain) if data.chain else b""
    return nested(ELEM_DATA, nested(DATA_VERDICT, attribute(VERDICT_CODE, S32.pack(data.code)), chain))


def _comment(comment: str) -> bytes:
    if not comment:
        return b""
    value = comment.encode() + b"\0"
    return attribute(ELEM_USERDATA, bytes((UDATA_COMMENT, len(value))) + value)


def comment_of(userdata: bytes) -> str:
    """Read the comment out of an object's user data: a list of (type, length, value)."""
    at = 0
    while at + 2 <= len(userdata):
        kind, size = userdata[at], userdata[at + 1]
        if kind == UDATA_COMMENT:
            return userdata[at + 2 : at + 2 + size].rstrip(b"\0").decode(errors="replace")
        at += 2 + size
    return ""


def elements(target: Set, bodies: Iterable[bytes]) -> list[Element]:
    """Read the messages of a dump, each without its netlink header but with nfgenmsg. Intervals are put together."""
    found: list[Element] = []
    ends: set[bytes] = set()
    for body in bodies:
        spot = find(body, NFGEN.size, len(body), ELEM_LIST_ELEMENTS)
        if spot is not None:
            _read(target, body, *spot, found, ends)
    if target.is_interval and not target.is_concatenated:
        return _intervals(found, ends)
    return found


def _read(target: Set, body: bytes, start: int, stop: int, found: list[Element], ends: set[bytes]) -> None:
    """Read a list of elements. Those with key and data alone are most, and have one fixed form."""
    key_width, data_width = target.key_width, target.data_width
    padded = (data_width + 3) & ~3
    plain = 12 + key_width + (8 + padded if target.is_map else 0)
    # The kernel of today does not set the flag of nested attributes here, so only the lengths tell.
    is_quick = not target.has_verdicts and not target.timeout
    while start + 4 <= stop:
        size = ATTRIBUTE.unpack_from(body, start)[0]
        key_at = start + 12
        if is_quick and size == plain and body[start + 8] == key_width + 4:
            data_at = key_at + key_width + 8
            data = body[data_at : data_at + data_width] if target.is_map else None
            found.append(Element(body[key_at : key_at + key_width], data))
        else:
            element, is_end = _read_slowly(body, start + 4, start + size)
            if is_end:
                ends.add(element.key)
            else:
                found.append(element)
        start += (size + 3) & ~3


def _read_slowly(body: bytes, start: int, stop: int) -> tuple[Element, bool]:
    key, key_end, data, comment, flags = b"", None, None, "", 0
    for kind, a, b in attributes(body, start, stop):
        if kind == ELEM_KEY:
            key = body[a + 4 : b]
        elif kind == ELEM_KEY_END:
            key_end = body[a + 4 : b]
        elif kind == ELEM_DATA:
            data = _read_data(body, a)
        elif kind == ELEM_USERDATA:
            comment = comment_of(body[a:b])
        elif kind == ELEM_FLAGS:
            flags = U32.unpack_from(body, a)[0]
    return Element(key, data, comment, key_end), bool(flags & INTERVAL_END)


def _read_data(body: bytes, at: int) -> bytes | Verdict:
    size, kind = ATTRIBUTE.unpack_from(body, at)
    if kind & KIND == DATA_VALUE:
        return body[at + 4 : at + size]
    code, chain = 0, ""
    for which, a, b in attributes(body, at + 4, at + size):
        if which == VERDICT_CODE:
            code = S32.unpack_from(body, a)[0]
        elif which == VERDICT_CHAIN:
            chain = string(body, a, b)
    return Verdict(code, chain)


def _intervals(starts: list[Element], ends: set[bytes]) -> list[Element]:
    """Join starts and ends: an interval reaches to the next end after its start, or to the highest key."""
    found: list[Element] = []
    after = sorted(ends)
    for element in sorted(starts):
        end = next((end for end in after if end > element.key), None)
        width = len(element.key)
        last = (1 << width * 8) - 1 if end is None else int.from_bytes(end, "big") - 1
        found.append(element._replace(key_end=last.to_bytes(width, "big")))
    return found
