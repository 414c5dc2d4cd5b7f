"""Laws of reading, filling in and amounts."""

from __future__ import annotations

import copy
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.registry import builtin, schema, strategy, tables
from netplane.controlplane.registry.rules import times
from netplane.kube import quantity
from tests.property.test_patch_laws import PODS, VALUES
from tests.support import shape_objects
from tests.support.registry_objects import NOW

_NUMBERS = st.decimals(min_value=0, max_value=10**6, places=3).map(lambda each: format(each, "f"))
_NAMES = [rt.resource.group_resource for rt in builtin().all()]
_SUFFIXES = st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"])


@given(_NUMBERS, _SUFFIXES)
def test_the_canonical_amount_is_the_same_amount_and_stays(number: str, suffix: str) -> None:
    canonical = quantity.canonical(number + suffix)
    assert quantity.canonical(canonical) == canonical
    assert quantity.parse(canonical) - quantity.parse(number + suffix) < Decimal(1)


@settings(max_examples=60)
@given(PODS)
def test_filling_in_twice_is_filling_in_once(obj: Any) -> None:
    rt = builtin().find("", "v1", "pods")
    assert rt is not None
    made = copy.deepcopy(obj)
    strategy.read(rt, made)
    strategy.create(rt, made, namespace="default", now=NOW, uid="u")
    again = copy.deepcopy(made)
    assert not strategy.read(rt, again).error
    rt.default(again)
    assert again == made


@settings(max_examples=150)
@given(
    st.sampled_from(_NAMES),
    st.dictionaries(st.sampled_from(["spec", "data", "rules", "metadata", "status"]), VALUES),
)
def test_any_json_is_read_or_refused_but_never_breaks(name: str, obj: Any) -> None:
    rt = next(each for each in builtin().all() if each.resource.group_resource == name)
    strategy.read(rt, obj)


@pytest.mark.parametrize("name", _NAMES)
def test_no_object_that_can_be_read_breaks_what_judges_or_prints_it(name: str) -> None:
    rt = next(each for each in builtin().all() if each.resource.group_resource == name)
    shape, namespace = schema.shape_of(rt), "default" if rt.namespaced else ""
    for seed in range(300):
        obj = shape_objects.objects(shape, seed)
        assert not strategy.read(rt, obj).error
        strategy.create(rt, obj, namespace=namespace, now=NOW, uid="u")
        obj["metadata"]["name"] = "x"
        other = shape_objects.objects(shape, seed + 1000)
        strategy.read(rt, other)
        strategy.update_status(rt, copy.deepcopy(other), obj)
        strategy.update(rt, other, obj)
        tables.row(rt, obj, include_object="None", now=times.parse(NOW))


@given(st.integers(0, 10**9))
def test_ages_are_short(seconds: int) -> None:
    assert 2 <= len(times.human(timedelta(seconds=seconds))) <= 6
