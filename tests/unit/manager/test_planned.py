# SPDX-License-Identifier: GPL-3.0-or-later
# Planned actions and readiness: each decision, without a node.
from __future__ import annotations

from dataclasses import replace

import pytest
from zclustermanager import (
    conntrack,
    keepalived,
    observe,
    processes,
    readiness,
    switchover,
    takeover,
    timing,
)
from zclustermanager.keepalived import Instance, Keepalived, State
from zclustermanager.readiness import Look, Standing
from zclustermanager.settings import Cluster
from zclustermanager.switchover import Order

MASTER = Standing("n2", master=True, generation="g7", sync="in sync", connections=1000)
CAUGHT_UP = Look(
    serving=False,
    maintenance=False,
    peer=MASTER,
    peer_name="n2",
    generation="g7",
    synchronizes=True,
    connections=1000,
)


def test_node_that_has_everything_is_ready() -> None:
    assert readiness.reasons(CAUGHT_UP) == ()


def test_what_ends_while_the_peer_is_asked_leaves_a_node_ready() -> None:
    # 300 connections end and a pass is adopted between the peer's answer and a look at this node.
    assert readiness.while_asked(("g7", 1000), ("g8", 700), MASTER) == ("g7", 1000)
    assert readiness.while_asked(("g6", 700), ("g7", 1000), MASTER) == ("g7", 1000)
    assert readiness.while_asked(("g6", None), ("g6", 900), MASTER) == ("g6", 900)
    assert readiness.while_asked((None, None), (None, None), None) == (None, None)


def test_master_is_ready_by_definition() -> None:
    bare = Look(True, True, None, "n2", None, True, None, ("service haproxy has failed",))
    assert readiness.reasons(bare) == ()


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(CAUGHT_UP, maintenance=True), "in maintenance"),
        (replace(CAUGHT_UP, peer=None), "n2 cannot be asked"),
        (replace(CAUGHT_UP, peer=replace(MASTER, master=False)), "n2 is not master"),
        (replace(CAUGHT_UP, generation="g6"), "configuration not caught up"),
        (replace(CAUGHT_UP, generation=None), "configuration not caught up"),
        (replace(CAUGHT_UP, peer=replace(MASTER, sync="diverged")), "synchronization diverged"),
        (replace(CAUGHT_UP, connections=900), "900 of 1000 connections"),
        (replace(CAUGHT_UP, connections=None), "connection tracking does not answer"),
        (replace(CAUGHT_UP, peer=replace(MASTER, connections=None)), "connection tracking of n2"),
        (replace(CAUGHT_UP, failed=("service haproxy has failed",)), "haproxy has failed"),
    ],
)
def test_whatever_is_missing_is_said(seen: Look, words: str) -> None:
    assert any(words in reason for reason in readiness.reasons(seen))


def test_cluster_that_synchronizes_nothing_needs_no_generation() -> None:
    assert readiness.reasons(replace(CAUGHT_UP, generation=None, synchronizes=False)) == ()


def asked(looks: list[tuple[float, Look]]) -> list[tuple[float, str]]:
    """When a standby with these looks asks for its peer's connections again, and why."""
    mirror = readiness.Mirror()
    return [(at, why) for at, seen in looks if (why := mirror.step(at, seen))]


RESTARTED = replace(MASTER, conntrackd="another run")


@pytest.mark.parametrize(
    ("looks", "at", "words"),
    [
        ([(float(n), CAUGHT_UP) for n in range(100)], None, ""),
        ([(0, CAUGHT_UP), (1, replace(CAUGHT_UP, peer=RESTARTED))], 1, "n2 was started anew"),
        ([(0, CAUGHT_UP), (9, replace(CAUGHT_UP, peer=None)), (20, CAUGHT_UP)], 20, "not be asked"),
        ([(float(n), replace(CAUGHT_UP, connections=700)) for n in range(7)], 5, "700 of 1000"),
        ([(float(n), replace(CAUGHT_UP, connections=997)) for n in range(40)], 30, "997 of 1000"),
        # As long as they come, however slowly, asking again would only begin anew.
        (
            [(float(4 * n), replace(CAUGHT_UP, connections=1000 - int(1000 * 0.8**n)))
             for n in range(20)],
            None,
            "",
        ),
        # What is on its way is there at the next look.
        (
            [(float(n), replace(CAUGHT_UP, connections=990 + n % 20)) for n in range(99)],
            None,
            "",
        ),
        # The first look after a start, or after service, has nothing to compare with.
        ([(0, replace(CAUGHT_UP, peer=None)), (1, CAUGHT_UP)], None, ""),
        (
            [(0, CAUGHT_UP), (1, replace(CAUGHT_UP, serving=True)),
             (9, replace(CAUGHT_UP, peer=RESTARTED))],
            None,
            "",
        ),
    ],
)  # fmt: skip
def test_standby_asks_again_for_connections_that_nobody_would_send(
    looks: list[tuple[float, Look]], at: float | None, words: str
) -> None:
    found = asked(looks)
    assert [when for when, _ in found] == ([] if at is None else [at])
    assert at is None or words in found[0][1]


def test_standby_whose_questions_do_not_help_asks_ever_more_seldom() -> None:
    found = asked([(float(n), replace(CAUGHT_UP, connections=0)) for n in range(300)])
    moments = [at for at, _ in found]
    assert moments == [5.0, 16.0, 37.0, 78.0, 159.0]


@pytest.mark.parametrize(
    ("ready_for", "delay", "promotions", "calm", "words"),
    [
        (0.0, 0.0, 0, 0.0, ""),
        (5.0, 60.0, 0, 5.0, "failback in 55 s"),
        (60.0, 60.0, 2, 60.0, ""),
        (60.0, 0.0, 3, 60.0, "master 3 times in short order: 540 s of calm to go"),
        (600.0, 0.0, 3, 600.0, ""),
    ],
)
def test_failback_waits_out_its_delay_and_a_to_and_fro(
    ready_for: float, delay: float, promotions: int, calm: float, words: str
) -> None:
    said = readiness.hold(ready_for, delay, promotions, calm)
    assert words in said
    assert bool(said) is bool(words)


@pytest.mark.parametrize(
    ("mine", "theirs", "enough"),
    [
        (0, 0, True),
        (0, 5, True),
        (0, 6, False),
        (990, 1000, True),
        (989, 1000, False),
        (9, 1, True),
    ],
)
def test_tables_may_differ_by_what_is_on_its_way(mine: int, theirs: int, enough: bool) -> None:
    assert readiness.enough(mine, theirs) is enough


def test_conntrackds_caches_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "cache:internal\tactive objects:\t\t          51\n\tactive/total entries:\t 51/ 51\n\n"
        "cache:external\tactive objects:\t\t           7\n"
    )
    monkeypatch.setattr(conntrack, "command", lambda *_, **__: processes.Outcome(0, said, ""))
    assert conntrack.entries("internal") == 51
    assert conntrack.entries("external") == 7
    monkeypatch.setattr(conntrack, "command", lambda *_, **__: processes.Outcome(1, "", "dead"))
    assert conntrack.entries("internal") is None


@pytest.mark.parametrize(
    ("node", "not_ready", "expected"),
    [
        ({"role": "backup", "status": "ok"}, (), []),
        ({"role": "maintenance", "status": "maintenance"}, (), ["n2 is in maintenance"]),
        (
            {"role": "backup", "status": "failure", "message": "Failed services: conntrackd"},
            ("connection tracking does not answer",),
            ["n2: Failed services: conntrackd", "n2: connection tracking does not answer"],
        ),
        ({"role": "master", "status": "ok"}, (), ["n2: it is master"]),
        ({"role": "backup", "status": "ok"}, ("3 of 9 connections",), ["n2: 3 of 9 connections"]),
    ],
)
def test_obstacles_to_a_takeover_are_named(
    node: dict[str, str], not_ready: tuple[str, ...], expected: list[str]
) -> None:
    assert takeover.obstacles({"hostname": "n2", "message": "", **node}, not_ready) == expected


@pytest.mark.parametrize(
    ("reason", "passes"),
    [
        ("n2: 3 of 9 connections", True),
        ("synchronization pending: n2 is unreachable", True),
        ("n2 cannot be asked (connection refused)", False),
        ("n2 is in maintenance", False),
        ("synchronization paused: paused by alice@ops: moving racks", False),
    ],
)
def test_only_what_waiting_may_help_is_waited_for(reason: str, passes: bool) -> None:
    assert takeover.passes(reason) is passes


@pytest.mark.parametrize(
    ("now", "peer_master", "ends"),
    [
        (1.0, False, None),
        (1.0, True, "the peer is master"),
        (1.0, None, "the peer has fallen silent"),
        (5.0, False, "deadline"),
        (9.0, True, "the peer is master"),
    ],
)
def test_fault_of_a_switchover_always_ends(
    now: float, peer_master: bool | None, ends: str | None
) -> None:
    assert switchover.over(Order("a", until=5.0), now, peer_master) == ends


@pytest.mark.parametrize(
    ("now", "peer_master", "ends"),
    [
        (1.0, True, None),
        (1.0, False, "the peer does not serve"),
        (1.0, None, "the peer has fallen silent"),
        (5.0, True, "deadline"),
    ],
)
def test_hold_of_a_backup_ends_when_it_is_needed(
    now: float, peer_master: bool | None, ends: str | None
) -> None:
    assert switchover.over(Order("a", until=5.0, hold=True), now, peer_master) == ends


def heartbeat(*states: State) -> Keepalived:
    """keepalived as it says of itself; without a state it is not running."""
    return Keepalived(bool(states), tuple(Instance("eth0", state, 254) for state in states))


@pytest.mark.parametrize(
    ("here", "peer", "words"),
    [
        (heartbeat(), None, "keepalived is not running"),
        (heartbeat(State.MASTER), None, "the heartbeat here is MASTER"),
        (heartbeat(State.FAULT), None, "the heartbeat here is FAULT"),
        (heartbeat(State.BACKUP), replace(MASTER, master=False), "n2 does not serve"),
    ],
)
def test_node_that_could_not_take_over_anyway_needs_no_hold(
    monkeypatch: pytest.MonkeyPatch,
    cluster: Cluster,
    here: Keepalived,
    peer: Standing | None,
    words: str,
) -> None:
    monkeypatch.setattr(keepalived, "ask", lambda: here)
    monkeypatch.setattr(readiness, "ask_peer", lambda _: peer)
    assert switchover.hold(cluster) == f"nothing to hold: {words}"


@pytest.mark.parametrize(
    ("peer", "daemon", "words"),
    [
        (None, {}, "n2 does not say whether it serves"),
        (MASTER, None, "zclustermanager does not answer"),
        (MASTER, {}, "keepalived does not follow"),
    ],
)
def test_backup_that_cannot_be_held_is_told_before_anything_changes(
    monkeypatch: pytest.MonkeyPatch,
    cluster: Cluster,
    peer: Standing | None,
    daemon: dict[str, object] | None,
    words: str,
) -> None:
    monkeypatch.setattr(keepalived, "ask", lambda: heartbeat(State.BACKUP))
    monkeypatch.setattr(readiness, "ask_peer", lambda _: peer)
    monkeypatch.setattr(observe, "ask_daemon", lambda _: daemon)
    monkeypatch.setattr(takeover, "TAKE_OVER", 0.0)
    with pytest.raises(takeover.RefusedError, match=f"n1 is not held: {words}"):
        switchover.hold(cluster)


def test_echo_has_the_checksum_that_makes_all_of_it_nothing() -> None:
    assert timing.checksum(timing.echo(0x1234, 7)) == 0


def test_one_late_sample_in_twenty_is_forgiven() -> None:
    assert timing.nearly_worst([0.001] * 19 + [9.0]) == 0.001
    assert timing.nearly_worst([]) == 0.0
