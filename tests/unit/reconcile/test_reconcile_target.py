"""A target ends as the facts want it, from whatever there was, and the proof is an empty plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.lib import keyed
from netplane.reconcile.loop import Cause
from netplane.reconcile.target import Reconciler, Unsettled

State = dict[str, int]
Plan = list[tuple[str, int | None]]


class World:
    """A dictionary as a part of the world; facts are the wanted dictionary as pairs."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.looks = 0
        self.commits: list[Plan] = []
        self.fails = False
        self.is_contested = False

    def want(self, facts: tuple[tuple[str, int], ...], /) -> State:
        return dict(facts)

    async def observe(self) -> State:
        self.looks += 1
        return dict(self.state)

    def plan(self, want: State, have: State, /) -> Plan:
        delta = keyed.diff(want, have)
        return [*(delta.add | delta.change).items(), *((key, None) for key in delta.remove)]

    async def commit(self, plan: Plan, /) -> None:
        if self.fails:
            raise OSError("EBUSY")
        self.commits.append(plan)
        for key, value in plan:
            if value is None:
                self.state.pop(key)
            else:
                self.state[key] = value
        if self.is_contested:
            self.state["foreign"] = 1


STATES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


@given(have=STATES, wishes=st.lists(STATES, min_size=1, max_size=4))
async def test_any_world_ends_as_the_last_wish(have: State, wishes: list[State]) -> None:
    world = World(dict(have))
    reconciler = Reconciler(world)
    for number, wish in enumerate(wishes):
        reconciler.offer(tuple(wish.items()), str(number))
        outcome = await reconciler.act("change")
        assert world.state == wish
        assert outcome.revision == str(number)
    assert (await reconciler.act("resync")).operations == 0


async def test_only_the_first_act_and_a_resync_look_at_the_world() -> None:
    world = World({})
    reconciler = Reconciler(world)
    looks = []
    causes: list[Cause] = ["start", "change", "resync"]
    for number, cause in enumerate(causes):
        reconciler.offer((("a", number % 2),), str(number))
        outcome = await reconciler.act(cause)
        looks.append((world.looks, outcome.is_verified))
    assert looks == [(2, True), (2, False), (4, True)]


async def test_after_a_failed_commit_the_world_is_looked_at_before_the_next() -> None:
    world = World({})
    reconciler = Reconciler(world)
    reconciler.offer((("a", 1),), "1")
    await reconciler.act("start")
    world.fails = True
    reconciler.offer((("a", 2),), "2")
    with pytest.raises(OSError, match="EBUSY"):
        await reconciler.act("change")
    world.fails, world.state = False, {"other": 9}
    assert (await reconciler.act("change")).is_verified
    assert world.state == {"a": 2}


async def test_somebody_else_writing_is_noticed() -> None:
    world = World({})
    world.is_contested = True
    reconciler = Reconciler(world)
    reconciler.offer((("a", 1),), "1")
    with pytest.raises(Unsettled, match="does somebody else write here"):
        await reconciler.act("start")


async def test_nothing_wanted_yet_does_nothing() -> None:
    world = World({"a": 1})
    assert (await Reconciler(world).act("start")).operations == 0
    assert world.looks == 0
