"""Selectors mean what Kubernetes' own do."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kube import select

LABELS = {"app": "web", "tier": "front", "size": "7"}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app = web , tier!=back", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("app in (web, api)", True),
        ("app in(api)", False),
        ("app notin (api),tier", True),
        ("missing notin (x)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("! missing", True),
        ("size>6,size<8", True),
        ("size>7", False),
        ("app>1", False),
        ("app=", False),
        ("in in (in)", False),
        ("example.com/role=a", False),
    ],
)
def test_label_selectors(text: str, selected: bool) -> None:
    assert select.parse(text).matches(LABELS) is selected


@pytest.mark.parametrize("text", ["=web", "app=a=b", "app in web", "app,", "a b", "x>y", "(a)", "app in (a", ",app"])
def test_broken_label_selectors_are_refused(text: str) -> None:
    with pytest.raises(select.SelectorError):
        select.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "-a=b",
        "a/b/c=d",
        "A.com/b=c",
        "!a-",
        "a in (b,-c)",
        "a=b!",
        "a=-b",
        f"{'a' * 64}=b",
        f"a={'b' * 64}",
        "/a",
        "a/",
    ],
)
def test_selectors_that_no_label_could_meet_are_refused(text: str) -> None:
    with pytest.raises(select.SelectorError):
        select.parse(text)


@pytest.mark.parametrize("text", [f"{'a' * 63}=b", f"{'d' * 250}/a", "a.b-c.d/E_f.g=H.i_j-k", "a in (b,)", "a="])
def test_selectors_that_some_label_could_meet_are_taken(text: str) -> None:
    assert len(select.parse(text).requirements) == 1


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "api"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}, False),
    ],
)
def test_selector_objects(selector: dict[str, Any] | None, selected: bool) -> None:
    assert select.matches(selector, LABELS) is selected


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Like", "values": ["x"]},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"operator": "Exists"},
    ],
)
def test_broken_expressions_are_refused(expression: dict[str, Any]) -> None:
    with pytest.raises(select.SelectorError):
        select.from_object({"matchExpressions": [expression]})


WORDS = st.from_regex(r"[a-z][a-z0-9._-]{0,6}[a-z]", fullmatch=True)
REQUIREMENTS = st.one_of(
    st.builds(select.Requirement, WORDS, st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(
        select.Requirement,
        WORDS,
        st.sampled_from(["In", "NotIn"]),
        st.lists(WORDS, min_size=1, max_size=3, unique=True).map(lambda values: tuple(sorted(values))),
    ),
)


@given(st.lists(REQUIREMENTS, max_size=4).map(tuple))
def test_a_selector_reads_back_what_it_prints(requirements: tuple[select.Requirement, ...]) -> None:
    selector = select.Selector(requirements)
    assert select.parse(str(selector)) == selector


POD = {"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "hostNetwork": True}, "status": {}}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1,metadata.name!=b", True),
        ("spec.nodeName=", False),
        ("status.phase=", True),
        ("status.phase!=Failed", True),
        ("spec.hostNetwork=true", True),
    ],
)
def test_field_selectors(text: str, selected: bool) -> None:
    assert select.parse_fields(text).matches(POD) is selected


@pytest.mark.parametrize(
    ("text", "value"),
    [(r"a=b\,c", "b,c"), (r"a=b\=c", "b=c"), (r"a!=b\\", "b\\"), (r"a=b\\\,c,", "b\\,c")],
)
def test_a_backslash_takes_the_meaning_of_what_follows_it(text: str, value: str) -> None:
    (found,) = select.parse_fields(text).requirements
    assert (found.path, found.value) == ("a", value)


@pytest.mark.parametrize("text", ["spec.nodeName", "=x", "a=b=c", "a=b\\", r"a=\b", "a=b,c"])
def test_broken_field_selectors_are_refused(text: str) -> None:
    with pytest.raises(select.SelectorError):
        select.parse_fields(text)
