"""Bytes in, events out, however they are cut."""

import itertools

import orjson
from hypothesis import given
from hypothesis import strategies as st

from netplane.kube import errors, watch
from netplane.kube.types import EventType


def line(kind: str, name: str, version: int) -> bytes:
    return orjson.dumps({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}}}) + b"\n"


STREAM = line("ADDED", "ä", 1) + b"\n" + line("MODIFIED", "b", 2) + line("DELETED", "ä", 3)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    decoder, events = watch.Decoder(), list[tuple[EventType, str]]()
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        events += [(event.type, event.resource_version) for event in decoder.feed(STREAM[start:end])]
    assert events == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "3")]
    assert decoder.error is None


def test_what_came_before_an_error_is_kept_and_what_comes_after_ignored() -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (9)"}
    error = orjson.dumps({"type": "ERROR", "object": status}) + b"\n"
    decoder = watch.Decoder()
    events = decoder.feed(line("ADDED", "a", 1) + error + line("ADDED", "b", 2))
    assert [event.resource_version for event in events] == ["1"]
    assert isinstance(decoder.error, errors.Gone)
    assert str(decoder.error) == "too old resource version: 1 (9)"


def test_a_broken_line_is_an_error_that_quotes_it() -> None:
    decoder = watch.Decoder()
    assert decoder.feed(b"<html>\n") == []
    assert "b'<html>'" in str(decoder.error)


def test_the_end_of_initial_events_is_a_bookmark_with_an_annotation() -> None:
    metadata = {"resourceVersion": "5", "annotations": {"k8s.io/initial-events-end": "true"}}
    (end,) = watch.Decoder().feed(orjson.dumps({"type": "BOOKMARK", "object": {"metadata": metadata}}) + b"\n")
    (plain,) = watch.Decoder().feed(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"5"}}}\n')
    assert end.ends_initial_events
    assert not plain.ends_initial_events
