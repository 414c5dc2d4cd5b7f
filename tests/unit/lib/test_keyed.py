"""The one diff: what it says turns one mapping into the other, and touches no more."""

from hypothesis import given
from hypothesis import strategies as st

from netplane.lib import keyed

MAPPINGS = st.dictionaries(st.integers(0, 9), st.integers(0, 3))


@given(MAPPINGS, MAPPINGS)
def test_the_diff_turns_have_into_want(want: dict[int, int], have: dict[int, int]) -> None:
    delta = keyed.diff(want, have)
    after = {key: value for key, value in have.items() if key not in delta.remove} | delta.add | delta.change
    assert after == want


@given(MAPPINGS, MAPPINGS)
def test_the_diff_touches_only_what_differs(want: dict[int, int], have: dict[int, int]) -> None:
    delta = keyed.diff(want, have)
    touched = {*delta.add, *delta.change, *delta.remove}
    assert touched == {key for key in want.keys() | have.keys() if want.get(key) != have.get(key)}


@given(MAPPINGS)
def test_nothing_differs_from_itself(same: dict[int, int]) -> None:
    assert not keyed.diff(same, dict(same))
