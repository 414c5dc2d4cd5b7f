"""What the agent does next for a pod, as data."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netplane.agent.pods import backoff
from netplane.agent.pods.decide import (
    FINISH,
    SANDBOX,
    VOLUMES,
    Decision,
    Finish,
    Forget,
    PrepareVolumes,
    Release,
    Remove,
    RunSandbox,
    Start,
    Stop,
    StopSandbox,
    decide,
)
from netplane.agent.pods.observed import Waiting
from tests.support.agent_pods import NOW, at, container, pod, sandbox, seen

DELETED = {"deletionTimestamp": "2026-01-01T12:00:30Z", "deletionGracePeriodSeconds": 30}
PROBE = {"exec": {"command": ["true"]}}


def acts(decision: Decision) -> tuple[object, ...]:
    return decision.actions


def test_a_new_pod_gets_its_volumes_and_its_sandbox_side_by_side() -> None:
    decision = decide(seen(pod(), sandboxes=(), volumes_ready=False))
    assert decision.actions == (PrepareVolumes(), RunSandbox(0))


def test_nothing_starts_before_the_volumes_are_ready() -> None:
    assert decide(seen(pod(), volumes_ready=False, busy={VOLUMES: "prepare"})).actions == ()


def test_containers_start_one_after_the_other_in_the_order_of_the_spec() -> None:
    two = pod({"name": "a"}, {"name": "b"})
    assert decide(seen(two)).actions == (Start("a", 0),)
    assert decide(seen(two, busy={"a": "start"})).actions == ()
    assert decide(seen(two, container("a"))).actions == (Start("b", 0),)
    assert decide(seen(two, container("a"), container("b"))).actions == ()


def test_a_container_that_cannot_start_does_not_hold_up_the_next() -> None:
    two = pod({"name": "a"}, {"name": "b"})
    decision = decide(seen(two, holds={"a": at(10)}))
    assert decision.actions == (Start("b", 0),)
    assert decision.wake_at == at(10)


def test_init_containers_run_one_by_one_to_success() -> None:
    one = pod(initContainers=[{"name": "i"}, {"name": "j"}])
    assert decide(seen(one)).actions == (Start("i", 0),)
    assert decide(seen(one, container("i"))).actions == ()
    assert decide(seen(one, container("i", "exited"))).actions == (Start("j", 0),)
    done = (container("i", "exited"), container("j", "exited"))
    assert decide(seen(one, *done)).actions == (Start("main", 0),)


def test_an_init_container_that_fails_is_tried_again_unless_never() -> None:
    failed = container("i", "exited", code=1)
    again = pod(initContainers=[{"name": "i"}], restartPolicy="OnFailure")
    assert decide(seen(again, failed)).actions == (Start("i", 1),)
    never = pod(initContainers=[{"name": "i"}], restartPolicy="Never")
    assert decide(seen(never, failed)).actions == (StopSandbox("s0"),)


def test_a_container_for_debugging_starts_first_whatever_the_others_do_and_only_once() -> None:
    added = {"name": "look", "image": "busybox:1", "targetContainerName": "main"}
    one = pod(initContainers=[{"name": "i"}], ephemeralContainers=[added])
    assert decide(seen(one)).actions == (Start("look", 0),)
    assert decide(seen(one, container("i"), busy={"look": "start"})).actions == ()
    assert decide(seen(one, container("look"))).actions == (Start("i", 0),)
    done = (container("look", "exited", code=1), container("i"))
    assert decide(seen(one, *done)).actions == ()
    one.obj["status"] = {"ephemeralContainerStatuses": [{"name": "look", "containerID": "x://1"}]}
    assert decide(seen(one, container("i"))).actions == ()


def test_a_pod_is_done_when_only_a_container_for_debugging_still_runs() -> None:
    one = pod(ephemeralContainers=[{"name": "look", "image": "busybox:1"}], restartPolicy="Never")
    decision = decide(seen(one, container("main", "exited"), container("look")))
    assert decision.finished
    assert [(each.name, type(each)) for each in decision.actions if isinstance(each, Stop)] == [("look", Stop)]


def test_a_sidecar_must_be_started_before_what_follows() -> None:
    sidecar = {"name": "side", "restartPolicy": "Always", "startupProbe": PROBE}
    one = pod(initContainers=[sidecar])
    assert decide(seen(one, container("side"))).actions == ()
    started = seen(one, container("side"), probes={("side-0", "startup"): True})
    assert decide(started).actions == (Start("main", 0),)


def test_a_sidecar_that_ends_is_started_again_while_the_others_run() -> None:
    one = pod(initContainers=[{"name": "side", "restartPolicy": "Always"}], restartPolicy="Never")
    assert decide(seen(one, container("side", "exited"), container("main"))).actions == (Start("side", 1),)


def test_the_first_restart_is_at_once_and_the_second_waits_ten_seconds() -> None:
    ended = container("main", "exited", code=1, finished=0)
    assert decide(seen(pod(), ended)).actions == (Start("main", 1),)
    entry = backoff.Entry(timedelta(seconds=10), at(-1))
    waits = decide(seen(pod(), ended, backoff={"main": entry}))
    text = "back-off 10s restarting failed container=main pod=web_default(u1)"
    assert (waits.actions, waits.wake_at) == ((), at(10))
    assert waits.waiting == {"main": Waiting("CrashLoopBackOff", text)}
    later = decide(seen(pod(), ended, backoff={"main": entry}, now=at(10)))
    assert later.actions == (Start("main", 1),)


def test_restart_policy_decides_which_ends_are_final() -> None:
    for policy, code, restarts in (
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 1, False),
    ):
        decision = decide(seen(pod(restartPolicy=policy), container("main", "exited", code=code)))
        assert (decision.actions == (Start("main", 1),)) is restarts, policy
        assert decision.finished is not restarts


def test_a_finished_pod_gives_back_its_network_then_its_volumes() -> None:
    one, ended = pod(restartPolicy="Never"), container("main", "exited")
    assert decide(seen(one, ended)).actions == (StopSandbox("s0"),)
    stopped = (sandbox(state="notready"),)
    assert decide(seen(one, ended, sandboxes=stopped)).actions == (Release(),)
    assert decide(seen(one, ended, sandboxes=stopped, volumes_ready=False)).actions == ()


def test_a_failed_liveness_probe_stops_the_container_with_the_probes_own_grace() -> None:
    one = pod({"name": "main", "livenessProbe": {**PROBE, "terminationGracePeriodSeconds": 7}})
    bad = seen(one, container("main"), probes={("main-0", "liveness"): False})
    message = "Container main failed liveness probe, will be restarted"
    assert decide(bad).actions == (Stop("main-0", "main", message, 7),)
    assert decide(seen(one, container("main"))).actions == ()


def test_a_lost_sandbox_is_replaced_after_what_ran_in_it_is_stopped() -> None:
    lost = (sandbox(state="notready"),)
    (stop,) = decide(seen(pod(), container("main"), sandboxes=lost)).actions
    assert isinstance(stop, Stop)
    assert decide(seen(pod(), container("main", "exited", code=137), sandboxes=lost)).actions == (RunSandbox(1),)


def test_a_container_of_a_lost_sandbox_counts_on() -> None:
    again = (sandbox(1), sandbox(0, "notready"))
    decision = decide(seen(pod(), container("main", "exited", code=137, attempt=4), sandboxes=again))
    assert decision.actions == (Start("main", 5),)


def test_when_the_node_forgot_a_container_the_api_still_counts() -> None:
    one = pod()
    one.obj["status"] = {
        "containerStatuses": [{"name": "main", "restartCount": 3, "containerID": "x://1", "state": {}}]
    }
    assert decide(seen(one)).actions == (Start("main", 4),)


def test_deletion_stops_containers_then_sidecars_backwards_then_the_network_then_the_pod() -> None:
    sidecars = [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}]
    one = pod(initContainers=sidecars, metadata=DELETED)
    s1, s2, main = container("s1"), container("s2"), container("main")
    gone = container("main", "exited")
    assert decide(seen(one, s1, s2, main)).actions == (Stop("main-0", "main", "Stopping container main", 30),)
    assert decide(seen(one, s1, s2, gone)).actions == (Stop("s2-0", "s2", "Stopping container s2", 30),)
    ended = (container("s1", "exited"), container("s2", "exited"), gone)
    assert decide(seen(one, *ended)).actions == (StopSandbox("s0"),)
    assert decide(seen(one, *ended, sandboxes=(sandbox(state="notready"),))).actions == (Finish(),)


def test_deletion_gives_up_what_is_being_started() -> None:
    decision = decide(seen(pod(metadata=DELETED), busy={"main": "start", SANDBOX: "run"}))
    assert (decision.actions, decision.cancel) == ((), frozenset({"main", SANDBOX}))


def test_what_the_api_forgot_is_stopped_and_forgotten() -> None:
    assert decide(seen(pod(), container("main"), gone=True)).actions[0].__class__ is Stop
    assert decide(seen(pod(), gone=True)).actions == (StopSandbox("s0"),)
    assert decide(seen(pod(), gone=True, sandboxes=())).actions == (Forget(),)


def test_a_pod_past_its_deadline_is_stopped() -> None:
    one = pod(activeDeadlineSeconds=60)
    assert decide(seen(one, container("main"))).wake_at == at(60)
    late = decide(seen(one, container("main"), now=at(60)))
    assert late.finished
    assert isinstance(late.actions[0], Stop)


def test_only_the_two_newest_containers_of_a_name_are_kept() -> None:
    ended = [container("main", "exited", code=1, attempt=n) for n in range(3)]
    entry = backoff.Entry(timedelta(seconds=300), NOW)
    decision = decide(seen(pod(), *ended, backoff={"main": entry}))
    assert decision.actions == (Remove("main-0"),)


def test_what_is_held_is_not_tried_and_looked_at_again() -> None:
    decision = decide(seen(pod(), sandboxes=(), holds={SANDBOX: at(3)}))
    assert (decision.actions, decision.wake_at) == ((), at(3))
    finishing = seen(pod(metadata=DELETED), sandboxes=(), holds={FINISH: at(2)})
    assert decide(finishing).wake_at == at(2)


STATES = st.sampled_from(["running", "exited", "created", "unknown"])


@given(
    states=st.dictionaries(st.sampled_from(["i", "a", "b"]), st.tuples(STATES, st.integers(0, 2)), max_size=3),
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    deleted=st.booleans(),
    ready=st.booleans(),
    volumes=st.booleans(),
    busy=st.dictionaries(st.sampled_from(["i", "a", "b", SANDBOX, VOLUMES]), st.sampled_from(["start", "stop"])),
)
def test_no_decision_touches_what_is_busy_or_starts_what_runs(
    states: dict[str, tuple[Any, int]], policy: str, deleted: bool, ready: bool, volumes: bool, busy: dict[str, str]
) -> None:
    metadata = DELETED if deleted else {}
    one = pod({"name": "a"}, {"name": "b"}, initContainers=[{"name": "i"}], restartPolicy=policy, metadata=metadata)
    statuses = [container(name, state, code=code) for name, (state, code) in states.items()]
    boxes = (sandbox(state="ready" if ready else "notready"),)
    decision = decide(seen(one, *statuses, sandboxes=boxes, volumes_ready=volumes, busy=busy))
    running = {status.name for status in statuses if status.state == "running"}
    for action in decision.actions:
        if isinstance(action, Start | Stop):
            assert action.name not in busy
        if isinstance(action, Start):
            assert action.name not in running
            assert not deleted
            assert volumes
            assert ready
