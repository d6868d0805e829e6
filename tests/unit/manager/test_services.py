# SPDX-License-Identifier: GPL-3.0-or-later
# Managed services: what they need in which role, and what is said of them.
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from zclustermanager import activation, apply, firewall, keeper, processes, units
from zclustermanager.activation import Live, Result, State
from zclustermanager.keeper import FLAP_GUARD, WITHIN, Health, Memory, Step
from zclustermanager.processes import Outcome
from zclustermanager.reconcile import Role
from zclustermanager.settings import Cluster, Service
from zclustermanager.units import Unit

HOT = Service("haproxy", "haproxy.service", ("/etc/haproxy",))
COLD = Service("batch", "batch.service", standby="cold", critical=True)
UP = Unit("x", "loaded", "active", "running", enabled="enabled")
NEVER_STARTED = Unit("x", "loaded", enabled="enabled")
STOPPED = replace(NEVER_STARTED, ran=True)
DEAD = Unit("x", "loaded", "failed", "failed", "signal", "enabled", ran=True)
RULESETS = Path(__file__).parents[1] / "plugins/rulesets"


@pytest.mark.parametrize(
    ("service", "unit", "memory", "role", "wanted"),
    [
        (COLD, NEVER_STARTED, Memory(), Role.MASTER, Step.START),
        (COLD, STOPPED, Memory(), Role.MASTER, Step.START),
        (COLD, STOPPED, Memory(started=True), Role.MASTER, Step.NONE),
        (COLD, DEAD, Memory(started=True), Role.MASTER, Step.START),
        (COLD, UP, Memory(), Role.MASTER, Step.NONE),
        (COLD, UP, Memory(), Role.BACKUP, Step.STOP),
        (COLD, replace(UP, active="activating"), Memory(), Role.BACKUP, Step.STOP),
        (COLD, replace(UP, active="deactivating"), Memory(), Role.MASTER, Step.NONE),
        (COLD, UP, Memory(), Role.UNKNOWN, Step.NONE),
        (COLD, DEAD, Memory(), Role.BACKUP, Step.NONE),
        (HOT, UP, Memory(), Role.BACKUP, Step.NONE),
        (HOT, NEVER_STARTED, Memory(), Role.BACKUP, Step.START),
        (HOT, replace(NEVER_STARTED, enabled="disabled"), Memory(), Role.BACKUP, Step.NONE),
        (HOT, STOPPED, Memory(), Role.MASTER, Step.NONE),
        (HOT, DEAD, Memory(), Role.BACKUP, Step.START),
        (HOT, UP, Memory(bad_checks=1), Role.MASTER, Step.NONE),
        (HOT, UP, Memory(bad_checks=2), Role.MASTER, Step.RESTART),
    ],
)
def test_what_a_service_needs_follows_from_how_it_is(
    service: Service, unit: Unit, memory: Memory, role: Role, wanted: Step
) -> None:
    assert keeper.step(service, unit, memory, role, now=1000.0) is wanted


def test_failing_start_is_retried_soon_and_then_slowly_and_for_ever() -> None:
    memory, now, tries = Memory(), 1000.0, []
    while now < 1200.0:
        if keeper.step(COLD, DEAD, memory, Role.MASTER, now) is Step.START:
            tries.append(now - 1000.0)
            memory = memory.failed(now, "exit code 1")
        now += 0.5
    assert tries[:3] == [0.0, 1.0, 3.0]
    assert tries[2:] == [3.0 + 30.0 * n for n in range(7)]


def test_deaths_are_counted_however_systemd_tells_of_them() -> None:
    memory = keeper.noticed(Memory(), replace(UP, restarts=4), 10.0)
    assert memory.failures == ()  # restarts of an earlier time
    memory = keeper.noticed(memory, replace(UP, restarts=6), 11.0)
    assert len(memory.failures) == 2
    memory = keeper.noticed(memory, replace(DEAD, restarts=6), 12.0)
    assert memory.exhausted(12.0)
    assert not memory.exhausted(12.0 + WITHIN)
    # Stopped by somebody is no death.
    assert keeper.noticed(Memory(up=True), STOPPED, 5.0).failures == ()


def test_only_a_critical_service_of_the_master_moves_the_cluster_and_not_again_soon() -> None:
    dead = Memory(failures=(1.0, 2.0, 3.0))
    assert keeper.gives_up(COLD, dead, Role.MASTER, 4.0, None)
    assert not keeper.gives_up(COLD, dead, Role.BACKUP, 4.0, None)
    assert not keeper.gives_up(replace(COLD, critical=False), dead, Role.MASTER, 4.0, None)
    assert not keeper.gives_up(COLD, Memory(failures=(1.0, 2.0)), Role.MASTER, 4.0, None)
    assert not keeper.gives_up(COLD, dead, Role.MASTER, 4.0, FLAP_GUARD - 1)
    assert keeper.gives_up(COLD, dead, Role.MASTER, 4.0, FLAP_GUARD + 1)


def test_mastership_is_left_only_to_a_peer_with_which_the_service_is_better_off() -> None:
    ready = Health(True, False, {"batch": {"state": "standby"}, "haproxy": {"runs": True}})
    assert ready.can_take(COLD)
    # It runs there with the files it had before those that it rejects, and that killed it here.
    broken = {"state": "rejected", "runs": True}
    assert replace(ready, services={"haproxy": broken}).can_take(HOT)
    assert not replace(ready, services={"haproxy": {**broken, "runs": False}}).can_take(HOT)
    for worse in (
        Health(),
        replace(ready, master=True),
        replace(ready, services={"batch": {"state": "failed"}}),
        replace(ready, services={}),
        replace(ready, gave_up=1.0),
    ):
        assert not worse.can_take(COLD)


def test_fault_ends_as_soon_as_it_has_served_its_purpose() -> None:
    for peer_master, after, returns, ends in (
        (True, 1.0, False, True),
        (None, 1.0, False, True),
        (False, 1.0, False, False),
        (False, 11.0, False, True),
        (True, 1.0, True, False),
        (None, 1.0, True, True),
    ):
        assert (
            keeper.fault_ends(0.0, after, peer_master=peer_master, returns_at_once=returns) is ends
        )


@pytest.mark.parametrize(
    ("service", "unit", "kept", "live", "master", "state"),
    [
        (HOT, UP, None, Live(), True, State.ACTIVE),
        (HOT, UP, Result(State.STANDBY), Live(), True, State.ACTIVE),
        (HOT, UP, Result(State.ACTIVE), Live(), False, State.STANDBY),
        (HOT, UP, Result(State.REJECTED, "line 3"), Live(), False, State.REJECTED),
        (HOT, UP, Result(State.FAILED, "no reload"), Live(), False, State.FAILED),
        (HOT, STOPPED, Result(State.STANDBY), Live(), False, State.STOPPED),
        (HOT, DEAD, Result(State.STANDBY), Live(), False, State.FAILED),
        (HOT, DEAD, Result(State.REJECTED, "line 3"), Live(), True, State.FAILED),
        (COLD, STOPPED, Result(State.REJECTED, "line 3"), Live(), False, State.REJECTED),
        (HOT, UP, None, Live({"haproxy": "check: no"}), True, State.FAILED),
        (HOT, NEVER_STARTED, None, Live(), False, State.STARTING),
        (COLD, NEVER_STARTED, Result(State.STANDBY), Live(), False, State.STANDBY),
        (COLD, STOPPED, Result(State.STANDBY), Live(), True, State.STARTING),
        (COLD, STOPPED, None, Live(started=frozenset({"batch"})), True, State.STOPPED),
        (Service("rules"), None, None, Live(), True, State.ACTIVE),
    ],
)
def test_state_of_a_service_is_what_is_seen_not_what_was_once_noted(
    service: Service, unit: Unit | None, kept: Result | None, live: Live, master: bool, state: State
) -> None:
    assert activation.present(service, unit, kept, live, master=master).state is state


def test_the_words_of_a_program_name_file_and_line() -> None:
    said = Outcome(
        1,
        "",
        "[NOTICE]   (7) : haproxy version is 2.6.12\n"
        "[ALERT]    (7) : config : parsing [/etc/haproxy/haproxy.cfg:28] : unknown keyword 'x'.\n"
        "[ALERT]    (7) : config : Fatal errors found in configuration.\n",
    )
    assert said.finding.endswith("[/etc/haproxy/haproxy.cfg:28] : unknown keyword 'x'.")
    assert Outcome(1, "", "nginx: [emerg] x in /etc/nginx/nginx.conf:3\ntest failed").finding == (
        "nginx: [emerg] x in /etc/nginx/nginx.conf:3"
    )
    mismatch = "nginx: [emerg] SSL_CTX_use_PrivateKey() failed (key values mismatch)"
    assert Outcome(1, "", f"{mismatch}\nnginx: test failed").finding == mismatch
    assert Outcome(1, "", "no such thing\n").finding == "no such thing"


def test_command_of_a_user_ends_at_its_limit_with_all_it_started() -> None:
    done = processes.bounded(["sh", "-c", "sleep 300 & sleep 300"], 0.3)
    assert done.code == processes.OUT_OF_TIME
    assert processes.bounded(["sleep", "300"], 30.0, lambda: True).code == processes.CANCELLED
    assert processes.bounded(["/no/such"], 1.0).code == processes.NOT_THERE
    assert processes.bounded(["sh", "-c", "echo out; echo err >&2; exit 3"], 5.0) == Outcome(
        3, "out\n", "err\n"
    )


def test_units_are_read_from_systemctl() -> None:
    text = (
        "Id=a.service\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\n"
        "Result=signal\nUnitFileState=enabled\nNRestarts=3\nInactiveEnterTimestampMonotonic=17\n\n"
        "Id=b.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nResult=success\n"
        "UnitFileState=\nNRestarts=0\nInactiveEnterTimestampMonotonic=0\n"
    )
    found = units.parse(text)
    assert found["a.service"].restarts == 3
    assert not found["a.service"].runs
    assert not found["b.service"].stopped


@pytest.mark.parametrize(
    ("name", "drops"),
    [("accept_by_policy", False), ("nat_only", False), ("drop_by_policy", True), ("ours", False)],
)
def test_node_judges_a_ruleset_as_preflight_does(cluster: Cluster, name: str, drops: bool) -> None:
    objects = json.loads((RULESETS / f"{name}.json").read_text(encoding="utf-8"))
    assert bool(firewall.dropped(cluster, objects)) is drops


def test_apply_says_red_for_what_is_bad_and_grey_for_what_is_not_known() -> None:
    def rows(*states: str) -> list[dict[str, str]]:
        return [{"service": "x", "node": "n", "state": state, "why": ""} for state in states]

    assert apply.code(rows("active", "standby")) == 0
    assert apply.code(rows("active", "unknown")) == 3
    assert apply.code(rows("rejected", "unknown")) == 2


def test_service_that_is_not_managed_is_refused_by_name(cluster: Cluster) -> None:
    with pytest.raises(apply.ApplyError, match="squid is not managed; managed are: haproxy"):
        apply.chosen(cluster, ["squid"])
    assert [s.name for s in apply.chosen(cluster, [])] == ["haproxy", "nftables"]
