# SPDX-License-Identifier: GPL-3.0-or-later
# Managed services: what they need in which role, and what is said of them.
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import (
    activation,
    activator,
    addresses,
    apply,
    firewall,
    journal,
    keeper,
    peer,
    processes,
    stepdown,
    units,
)
from zclustermanager.activation import Live, Result, State
from zclustermanager.activator import Activator, Trouble
from zclustermanager.keeper import WITHIN, Keeper, Memory, Step
from zclustermanager.processes import Outcome
from zclustermanager.promotion import Telling
from zclustermanager.reconcile import Role
from zclustermanager.settings import Cluster, Service
from zclustermanager.stepdown import FLAP_GUARD, Health
from zclustermanager.sync.generation import Generation
from zclustermanager.sync.store import Store
from zclustermanager.sync.worker import SyncWorker
from zclustermanager.units import Unit

HOT = Service("haproxy", "haproxy.service", ("/etc/haproxy",))
COLD = Service("batch", "batch.service", standby="cold", critical=True)
UP = Unit("x", "loaded", "active", "running", enabled="enabled")
NEVER_STARTED = Unit("x", "loaded", enabled="enabled")
STOPPED = replace(NEVER_STARTED, ran=True)
HEARTBEAT = Service("ipvs", "keepalived.service", ("/etc/ipvs",))
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
        # What was killed because it hung at its start was stopped by nobody.
        (HOT, STOPPED, Memory(ended=True), Role.MASTER, Step.START),
        (COLD, STOPPED, Memory(started=True, ended=True), Role.MASTER, Step.START),
        # keepalived starts in its own order, and stays down where its settings are old.
        (HEARTBEAT, NEVER_STARTED, Memory(), Role.BACKUP, Step.NONE),
        (HEARTBEAT, DEAD, Memory(), Role.MASTER, Step.NONE),
        (HEARTBEAT, UP, Memory(bad_checks=2), Role.MASTER, Step.NONE),
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


def test_service_that_comes_up_is_forgiven_what_kept_it_from_starting() -> None:
    rejected = Memory().failed(10.0, "rejected by haproxy: line 3").failed(11.0, "the same")
    assert keeper.failing(rejected, 12.0)
    assert keeper.failing(keeper.noticed(rejected, UP, 12.0), 12.0) == ""
    # One that dies over and over comes up each time: that is no sign of health.
    memory = Memory()
    for now in (10.0, 12.0, 14.0):
        memory = keeper.noticed(memory.died(now, "it died"), UP, now + 1)
    assert memory.exhausted(15.0)
    assert keeper.failing(memory, 15.0) == "it died (3 times in a row)"


def test_start_that_was_killed_is_the_keepers_doing_until_the_service_runs() -> None:
    memory = keeper.noticed(Memory(ended=True), STOPPED, 10.0)
    assert memory.ended
    assert not keeper.noticed(memory, UP, 11.0).ended


def test_what_fails_is_told_again_ever_less_and_what_is_rejected_asked_again_steadily() -> None:
    def tries(state: State) -> list[float]:
        trouble, times = Trouble(Result(state), 0.0), []
        for now in range(1000):
            if trouble.due(now):
                times.append(now - trouble.since)
                trouble = replace(trouble, since=float(now), tries=trouble.tries + 1)
        return times

    assert tries(State.FAILED) == [10.0, 30.0, 60.0, 300.0, 300.0]
    assert set(tries(State.REJECTED)) == {10.0}


def test_service_is_told_of_a_promotion_until_it_knows_and_then_not_again() -> None:
    telling, now, times = Telling(), 0.0, []
    while now < 70.0:
        if telling.due(now):
            times.append(now)
            telling = telling.after(Outcome(1, "", "no"), now)
        now += 0.5
    assert times == [0.0, 1.0, 3.0, 33.0, 63.0]
    assert telling.why == "no"
    known = telling.after(Outcome(0, "", ""), now)
    assert known == Telling(told=True)
    assert not known.due(now + 1000)


def test_only_a_critical_service_of_the_master_moves_the_cluster_and_not_again_soon() -> None:
    assert Memory(failures=(1.0, 2.0, 3.0)).exhausted(4.0)
    assert not Memory(failures=(1.0, 2.0)).exhausted(4.0)
    for service, role, exhausted, gave_up, gives in (
        (COLD, Role.MASTER, True, None, True),
        (COLD, Role.BACKUP, True, None, False),
        (replace(COLD, critical=False), Role.MASTER, True, None, False),
        (COLD, Role.MASTER, False, None, False),
        (COLD, Role.MASTER, True, FLAP_GUARD - 1, False),
        (COLD, Role.MASTER, True, FLAP_GUARD + 1, True),
    ):
        assert stepdown.gives_up(service, role, exhausted=exhausted, gave_up=gave_up) is gives


def test_mastership_is_left_only_to_a_peer_with_which_the_service_is_better_off() -> None:
    ready = Health(True, True, False, {"batch": {"state": "standby"}, "haproxy": {"runs": True}})
    assert ready.can_take(COLD)
    # It runs there with the files it had before those that it rejects, and that killed it here.
    broken = {"state": "rejected", "runs": True}
    assert replace(ready, services={"haproxy": broken}).can_take(HOT)
    assert not replace(ready, services={"haproxy": {**broken, "runs": False}}).can_take(HOT)
    for worse in (
        Health(),
        replace(ready, able=False),  # in maintenance, say: then nobody would serve
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
            stepdown.fault_ends(0.0, after, peer_master=peer_master, returns_at_once=returns)
            is ends
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
        (HOT, STOPPED, None, Live(ended=frozenset({"haproxy"})), False, State.STARTING),
        (HOT, DEAD, Result(State.STANDBY), Live(), False, State.FAILED),
        (HOT, DEAD, Result(State.REJECTED, "line 3"), Live(), True, State.FAILED),
        (COLD, STOPPED, Result(State.REJECTED, "line 3"), Live(), False, State.REJECTED),
        (HOT, UP, None, Live({"haproxy": "check: no"}), True, State.FAILED),
        (HOT, NEVER_STARTED, None, Live(), False, State.STARTING),
        (COLD, NEVER_STARTED, Result(State.STANDBY), Live(), False, State.STANDBY),
        (COLD, STOPPED, Result(State.STANDBY), Live(), True, State.STARTING),
        (COLD, UP, Result(State.STANDBY), Live(), False, State.FAILED),
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


def test_a_warning_is_not_taken_for_the_error_it_comes_before() -> None:
    haproxy = Outcome(
        1,
        "",
        "[NOTICE]   (7) : haproxy version is 2.6.12\n"
        "[WARNING]  (7) : config : parsing [/etc/haproxy/haproxy.cfg:12] : 'x' is deprecated.\n"
        "[ALERT]    (7) : config : parsing [/etc/haproxy/haproxy.cfg:40] : unknown keyword 'y'.\n",
    )
    assert "haproxy.cfg:40" in haproxy.finding
    nginx = Outcome(
        1,
        "",
        "nginx: [warn] conflicting name in /etc/nginx/conf.d/a.conf:3\n"
        "nginx: [emerg] unknown directive in /etc/nginx/conf.d/b.conf:9\n",
    )
    assert "b.conf:9" in nginx.finding
    only = "nginx: [warn] could not build the hash in /etc/nginx/nginx.conf:3"
    assert Outcome(1, "", only).finding == only


def test_an_address_in_a_url_is_no_place_in_a_file() -> None:
    said = "trying http://192.0.2.1:80\nno answer of //192.0.2.1:80\ngiven up"
    assert Outcome(1, "", said).finding == "given up"


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
    assert apply.code(rows("active", "starting")) == 1


def test_service_that_is_not_managed_is_refused_by_name(cluster: Cluster) -> None:
    with pytest.raises(apply.ApplyError, match="squid is not managed; managed are: haproxy"):
        apply.chosen(cluster, ["squid"])
    assert [s.name for s in apply.chosen(cluster, [])] == ["haproxy", "nftables"]


@pytest.fixture
def node(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Cluster]:
    """A node whose state lies in a directory of its own; its cluster with these services."""
    for module, name in (
        (activation, "OUTCOMES"),
        (activation, "LIVE"),
        (activation, "TOLD"),
        (activation, "LOCK"),
        (activator, "LOADED"),
    ):
        monkeypatch.setattr(module, name, tmp_path / name.lower())
    monkeypatch.setattr(activation, "RUNTIME_DIR", tmp_path)
    monkeypatch.setattr(apply, "RUNTIME_DIR", tmp_path)
    monkeypatch.setattr(journal, "record", lambda *_, **__: None)
    activator.LOADED.touch()

    def make(*services: Service, **more: object) -> Cluster:
        return replace(cluster, services=services, **more)

    return make


class Units:
    """Units of one node, in the place of systemd: how each is, and all that was asked for."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.now: dict[str, Unit] = {}
        self.asked: list[str] = []
        self.hangs = hangs

    def look(self, names: Iterable[str]) -> dict[str, Unit]:
        """How they are."""
        return {name: self.now.get(name, NEVER_STARTED) for name in names}

    def start(self, name: str, limit: float, *_: object, **__: object) -> Outcome:
        """It is up; or killed at its limit, which looks like a clean stop."""
        self.asked.append(f"start {name}")
        self.now[name] = STOPPED if self.hangs else UP
        if self.hangs:
            return Outcome(processes.OUT_OF_TIME, "", f"{name} did not start within {limit:g} s")
        return Outcome(0, "", "")

    def stop(self, name: str, _: float) -> Outcome:
        """It is down."""
        self.asked.append(f"stop {name}")
        self.now[name] = STOPPED
        return Outcome(0, "", "")


@pytest.fixture
def keeping(
    node: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Keeper]:
    """A keeper of these services, in a role, with these units."""
    monkeypatch.setattr(keeper, "SERVING", tmp_path / "serving")
    monkeypatch.setattr(stepdown, "GAVE_UP", tmp_path / "gave-up")

    def make(seen: Units, role: Role, *services: Service) -> Keeper:
        for name in ("look", "start", "stop"):
            monkeypatch.setattr(units, name, getattr(seen, name))
        made = Keeper(node(*services), peer_able=lambda: False)
        made.become(role)
        return made

    return make


def test_service_that_hung_at_its_start_is_tried_again_in_the_next_term_too(
    keeping: Callable[..., Keeper],
) -> None:
    seen = Units(hangs=True)
    one = keeping(seen, Role.BACKUP, HOT)
    one.look()
    assert seen.asked == ["start haproxy.service"]
    assert activation.live().ended == {"haproxy"}
    assert "did not start within 30 s" in activation.live().failing["haproxy"]
    seen.hangs = False
    one.become(Role.MASTER)
    one.look()
    assert seen.asked[1:] == ["start haproxy.service"]
    one.look()
    assert activation.live() == Live(started=frozenset({"haproxy"}))


def test_bad_check_stops_nothing_that_could_not_start_again(
    keeping: Callable[..., Keeper],
) -> None:
    seen = Units()
    seen.now["haproxy.service"] = UP
    sick = replace(HOT, check="false", validate="sh -c 'echo no such keyword; false'")
    one = keeping(seen, Role.MASTER, sick)
    for _ in range(keeper.BAD_CHECKS):
        one.memories["haproxy"] = replace(one.memories.get("haproxy", Memory()), checked_at=-10.0)
        one.look()
    assert seen.asked == []
    assert activation.live().failing["haproxy"] == "rejected by haproxy: no such keyword"
    accepting = keeping(seen, Role.MASTER, replace(sick, validate=None))
    accepting.memories["haproxy"] = Memory(bad_checks=keeper.BAD_CHECKS, checked_at=-10.0)
    accepting.look()
    assert seen.asked == ["stop haproxy.service", "start haproxy.service"]


def test_cold_services_start_in_order_and_stop_in_the_other(
    keeping: Callable[..., Keeper],
) -> None:
    seen = Units()
    two = replace(COLD, name="late", unit="late.service")
    one = keeping(seen, Role.MASTER, COLD, two)
    one.look()
    one.become(Role.BACKUP)
    one.look()
    assert seen.asked == [
        "start batch.service",
        "start late.service",
        "stop late.service",
        "stop batch.service",
    ]
    one.look()
    assert len(seen.asked) == 4


@pytest.fixture
def table(tmp_path: Path) -> Service:
    """A service without a unit: its command notes each time it was run, and with what."""
    (tmp_path / "table").write_text("good\n", encoding="utf-8")
    return Service(
        "table",
        paths=(f"{tmp_path}/table",),
        validate=f"grep -q good {tmp_path}/table",
        on_change="command",
        command=f"sh -c 'cat {tmp_path}/table >> {tmp_path}/ran'",
    )


def ran(tmp_path: Path) -> list[str]:
    """What the service's command was run with, each time."""
    path = tmp_path / "ran"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def test_automatic_change_is_applied_though_the_daemon_was_away_when_it_was_made(
    node: Callable[..., Cluster], table: Service, tmp_path: Path
) -> None:
    def daemon() -> Activator:
        started = Activator(node(replace(table, auto_apply=True)), Store(tmp_path, tmp_path))
        started.role = Role.MASTER
        return started

    daemon().look()
    assert ran(tmp_path) == []  # what is there when it is declared is taken for what is live
    (tmp_path / "table").write_text("good-2\n", encoding="utf-8")
    daemon().look()
    daemon().look()
    assert ran(tmp_path) == ["good-2"]
    # What is rejected is not run, and is live as soon as nothing is wrong with it.
    (tmp_path / "table").write_text("bad\n", encoding="utf-8")
    one = daemon()
    one.look()
    assert activation.outcomes()["table"].state is State.REJECTED
    (tmp_path / "table").write_text("good-3\n", encoding="utf-8")
    one.look()
    assert ran(tmp_path) == ["good-2", "good-3"]


def test_master_tries_again_what_failed_but_never_with_other_files_than_it_was_told(
    node: Callable[..., Cluster], table: Service, tmp_path: Path
) -> None:
    def tries_again(role: Role) -> list[str]:
        one = Activator(node(table), Store(tmp_path, tmp_path))
        one.role = role
        one.look()
        one.troubles["table"] = replace(one.troubles["table"], since=-1000.0)
        one.look()
        return ran(tmp_path)

    failing = replace(table, command="false")

    def fails() -> None:
        with activation.alone():
            done = activation.run(node(failing), [failing], master=True)
        assert done["table"].state is State.FAILED

    fails()
    assert tries_again(Role.MASTER) == ["good"]
    fails()
    # Somebody is editing: a person says when that is to go live.
    (tmp_path / "table").write_text("good-2\n", encoding="utf-8")
    assert tries_again(Role.MASTER) == ["good"]
    assert tries_again(Role.BACKUP) == ["good", "good-2"]


def test_restart_that_only_took_long_is_not_asked_for_again(
    node: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(HOT, on_change="restart", paths=(str(tmp_path),))
    seen = Units()
    seen.now["haproxy.service"] = replace(UP, active="activating")
    monkeypatch.setattr(units, "look", seen.look)
    cluster = node(slow)
    activation.keep({"haproxy": activation.overdue(slow)})
    one = Activator(cluster, Store(tmp_path, tmp_path))
    one.role = Role.BACKUP
    for active, state in (("activating", State.FAILED), ("active", State.ACTIVE)):
        seen.now["haproxy.service"] = replace(UP, active=active)
        one.look()
        one.troubles["haproxy"] = replace(one.troubles["haproxy"], since=-1000.0)
        one.look()
        assert activation.outcomes()["haproxy"].state is state


def test_backup_activates_a_service_that_is_new_or_declared_otherwise(
    node: Callable[..., Cluster], table: Service, tmp_path: Path
) -> None:
    store = Store(tmp_path / "state", tmp_path)
    store.save(Generation(id="g1", digest="d"))
    activation.note_activated("g1")

    def looks(service: Service) -> None:
        one = Activator(node(service), store)
        one.role = Role.BACKUP
        one.look()
        one.look()

    looks(table)
    assert ran(tmp_path) == ["good"]
    looks(replace(table, start_seconds=3.0))
    assert ran(tmp_path) == ["good", "good"]


@pytest.mark.parametrize("role", [Role.BACKUP, Role.MASTER])
def test_boot_takes_away_what_only_a_command_has_put_into_the_kernel_and_it_is_put_back(
    node: Callable[..., Cluster], table: Service, tmp_path: Path, role: Role
) -> None:
    one = Activator(node(table, HOT), Store(tmp_path, tmp_path))
    one.role = role
    activator.LOADED.unlink()
    one.look()
    assert ran(tmp_path) == []  # the first time here: nothing was lost
    activator.LOADED.unlink()
    one.look()
    one.look()
    assert ran(tmp_path) == ["good"]


def test_what_a_promotion_finished_is_activated_on_the_new_master(
    node: Callable[..., Cluster], table: Service, tmp_path: Path
) -> None:
    one = Activator(node(table), Store(tmp_path, tmp_path))
    one.changed([f"{tmp_path}/table"])
    one.role = Role.MASTER
    one.look()
    one.look()
    assert ran(tmp_path) == ["good"]


@pytest.fixture
def backup(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A peer that has what it is asked for; all that it was asked."""
    asked: list[dict[str, Any]] = []

    def ask(_: Cluster, request: str, document: Any, **__: object) -> dict[str, Any]:
        asked.append({"request": request, **document})
        state = "standby" if request == "activate" else "accepted"
        return {"services": {n: {"state": state, "why": ""} for n in document["services"]}}

    monkeypatch.setattr(peer, "ask", ask)
    monkeypatch.setattr(addresses, "held", lambda *_: ["198.18.10.100"])
    return asked


def test_apply_says_changed_only_where_something_is_new(
    node: Callable[..., Cluster], table: Service, tmp_path: Path, backup: list[dict[str, Any]]
) -> None:
    cluster = node(table)
    first = apply.apply(cluster, [])
    assert first["changed"] == ["table"]
    assert [(row["node"], row["state"]) for row in first["services"]] == [
        ("n1", "active"),
        ("n2", "standby"),
    ]
    assert apply.apply(cluster, [])["changed"] == []
    (tmp_path / "table").write_text("good-2\n", encoding="utf-8")
    assert apply.apply(cluster, ["table"])["changed"] == ["table"]
    # What the nodes compare are the files of these services, not all that is synchronized.
    assert len({asked["content"] for asked in backup}) == 2


def test_apply_is_all_or_nothing_and_says_how_the_others_are(
    node: Callable[..., Cluster], table: Service, tmp_path: Path, backup: list[dict[str, Any]]
) -> None:
    other = replace(table, name="other", validate="false")
    said = apply.apply(node(table, other), [])
    assert [(row["node"], row["service"], row["state"]) for row in said["services"]] == [
        ("n1", "table", "active"),
        ("n1", "other", "rejected"),
        ("n2", "table", "unknown"),
        ("n2", "other", "unknown"),
    ]
    assert said["services"][0]["why"] == "not applied"
    assert said["changed"] == []
    assert (ran(tmp_path), backup) == ([], [])


def test_check_activates_nothing(
    node: Callable[..., Cluster], table: Service, tmp_path: Path, backup: list[dict[str, Any]]
) -> None:
    said = apply.check(node(table), [])
    assert [row["state"] for row in said["services"]] == ["accepted", "accepted"]
    assert (said["changed"], ran(tmp_path)) == ([], [])
    assert [asked["request"] for asked in backup] == ["try"]


def test_candidate_leaves_out_what_stays_on_each_node(
    node: Callable[..., Cluster], tmp_path: Path
) -> None:
    new = tmp_path / "new" / "etc" / "haproxy"
    new.mkdir(parents=True)
    for name in ("haproxy.cfg", "local.cfg"):
        (new / name).write_text(name, encoding="utf-8")
    manifest, contents = apply.pack({"/etc/haproxy": str(new)}, ["/etc/haproxy/local*"])
    assert sorted(manifest) == ["/etc/haproxy", "/etc/haproxy/haproxy.cfg"]
    assert len(contents) == 1


def test_scratch_copy_is_the_candidate_with_this_nodes_own_files_and_nothing_stays(
    node: Callable[..., Cluster], tmp_path: Path
) -> None:
    node()
    live, new = tmp_path / "live", tmp_path / "new"
    for directory in (live, new):
        directory.mkdir()
        (directory / "haproxy.cfg").write_text(directory.name, encoding="utf-8")
        (directory / "local.cfg").write_text(directory.name, encoding="utf-8")
    excludes = [f"{live}/local*"]
    manifest, contents = apply.pack({str(live): str(new)}, excludes)
    with apply.scratch(manifest, contents, [str(live)], excludes) as binds:
        ((laid_out, place),) = binds.items()
        assert place == str(live)
        assert Path(laid_out, "haproxy.cfg").read_text(encoding="utf-8") == "new"
        assert Path(laid_out, "local.cfg").read_text(encoding="utf-8") == "live"
        assert Path(laid_out).parent.parent.exists()
    assert list(tmp_path.glob("try-*")) == []


def test_path_that_is_new_with_the_candidate_is_not_called_rejected(table: Service) -> None:
    missing = replace(table, paths=("/no/such/place",))
    said = apply.verdict(missing, {"/tmp/try": "/no/such/place"})
    assert said["state"] == "unknown"
    assert "is not there yet" in said["why"]


def test_copies_that_a_power_loss_left_are_removed_when_the_daemon_starts(tmp_path: Path) -> None:
    store = Store(tmp_path / "state", tmp_path / "run")
    store.ensure()
    frozen = store.outgoing / ("a" * 32)
    left = [store.outgoing / name for name in ("candidate-1", "diff-2", "dropped-3", "sending-4")]
    left.append(store.runtime / "try-4")
    for directory in (frozen, *left):
        directory.mkdir(parents=True)
        (directory / "site.key").write_text("secret", encoding="utf-8")
    store.sweep()
    assert [d for d in left if d.exists()] == []
    assert frozen.exists()
    assert store.frozen.exists()


def test_master_remembers_what_the_backup_rejected_also_when_that_one_is_gone(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr(journal, "record", lambda _, **said: told.append(said))
    worker = SyncWorker(cluster, Store(tmp_path, tmp_path))
    rejected = {"haproxy": {"state": "rejected", "why": "line 3"}}
    for services in (
        rejected,
        {},
        rejected,
        {"haproxy": {"state": "standby", "why": ""}},
        rejected,
    ):
        worker.hear(services)
    assert [said["why"] for said in told] == ["line 3", "line 3"]
    assert told[0] == {"name": "haproxy", "node": "n2", "state": "rejected", "why": "line 3"}
