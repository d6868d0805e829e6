# SPDX-License-Identifier: GPL-3.0-or-later
# What a standby does for its connections, and that a node which has begun to serve does nothing.
from __future__ import annotations

import contextlib
import socket
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from zclustermanager import conntrack, durable, journal, processes, zombies
from zclustermanager.conntrack import Commits, Conntrackd, Link, Traffic
from zclustermanager.zombies import Flow

LISTED = """\
tcp      6 431999 ESTABLISHED src=192.0.2.1 dst=198.18.10.100 sport=40000 dport=80 \
src=198.18.20.61 dst=198.18.20.100 sport=80 dport=40000 [ASSURED] mark=0 use=1
tcp      6 431990 ESTABLISHED src=192.0.2.2 dst=198.18.10.100 sport=40000 dport=80 \
src=198.18.20.61 dst=198.18.20.100 sport=80 dport=1024 [ASSURED] mark=0 use=1
udp      17 100 src=2001:db8::5 dst=2001:db8:10::100 sport=5 dport=53 [UNREPLIED] \
src=2001:db8:10::100 dst=2001:db8::5 sport=53 dport=5 mark=0 use=1
tcp      6 431990 ESTABLISHED src=192.0.2.2 dst=198.18.10.11 sport=50000 dport=22 \
src=198.18.10.11 dst=192.0.2.2 sport=22 dport=50000 [ASSURED] mark=0 use=1
icmp     1 29 src=192.0.2.2 dst=198.18.10.100 type=8 code=0 id=7 \
src=198.18.10.100 dst=192.0.2.2 type=0 code=0 id=7 mark=0 use=1
"""
TOLD = """\
tcp      6 ESTABLISHED src=192.0.2.2 dst=198.18.10.100 sport=40000 dport=80 \
src=198.18.20.61 dst=198.18.20.100 sport=80 dport=40000 [ASSURED] [active since 7s]
"""
VIPS = ("198.18.10.100", "2001:db8:10::100")
ENDED = {
    Flow(6, "192.0.2.1", "198.18.10.100", 40000, 80),
    Flow(17, "2001:db8::5", "2001:db8:10::100", 5, 53),
}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Every command the node was given, a deletion with what was deleted."""
    given: list[list[str]] = []
    answers = {
        "conntrack -L": LISTED,
        "conntrackd -e": TOLD,
        "conntrackd cache": "cache:external\tactive objects:\t1\n",
    }

    def run(arguments: list[str], **_: object) -> processes.Outcome:
        given.append(arguments)
        return processes.Outcome(0, answers.get(f"{arguments[0]} {arguments[-1]}", ""), "")

    def delete(found: set[Flow]) -> int:
        assert found == ENDED
        given.append(["delete", "what has ended"])
        return len(found)

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr(zombies, "delete", delete)
    monkeypatch.setattr(conntrack, "COMMIT_LOCK", tmp_path / "commit.lock")
    return given


def standby(roles: list[bool], *, complete: bool = True, serving: bool = False) -> Commits:
    """One that tracks far too much; whether it stands by, at each time it is asked."""
    commits = Commits(
        VIPS,
        standing_by=lambda: roles.pop(0),
        serving=lambda: serving,
        tracked=lambda: 5000,
        complete=lambda _: complete,
        share=lambda: None,
    )
    commits._weed_at = 0.0
    return commits


def words(given: list[list[str]]) -> list[str]:
    """The program and its first option, of each command."""
    return [f"{command[0]} {command[-1]}" for command in given]


def test_standby_holds_back_weeds_and_commits(done: list[list[str]]) -> None:
    standby([True, True, True]).once()
    assert words(done) == [
        "nft -",
        "nft -",
        "conntrackd cache",
        "conntrack -L",
        "conntrackd -e",
        "delete what has ended",
        "conntrackd -c",
    ]


def test_tables_are_read_without_the_lock_that_a_takeover_waits_for(
    done: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, free = processes.run, []

    def looking(arguments: list[str], **given: object) -> processes.Outcome:
        with contextlib.suppress(TimeoutError), durable.locked(conntrack.COMMIT_LOCK, 0.0):
            free.append(arguments[-1])
        return run(arguments, **given)

    monkeypatch.setattr(processes, "run", looking)
    standby([True, True, True]).once()
    assert free == ["cache", "-L", "-e"]


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.1, 3.0, 5.0])
def test_table_that_takes_long_to_commit_is_held_back_without_a_break(
    done: list[list[str]], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    now = [1000.0]
    monkeypatch.setattr(conntrack.time, "monotonic", lambda: now[0])
    commits, held, committed = standby([True] * 999), [], []

    def command(*arguments: str, **_: object) -> processes.Outcome:
        committed.append(now[0])
        now[0] += seconds
        return processes.Outcome(0, "", "")

    monkeypatch.setattr(conntrack, "command", command)
    monkeypatch.setattr(conntrack, "hold", lambda: held.append(now[0]) or "")
    commits._weed_at = 1e9
    while now[0] < 1100:
        now[0] += commits.once()
    assert 3 < max(b - a for a, b in pairwise(held)) < conntrack.HOLD
    # No oftener for that.
    every = seconds + max(conntrack.COMMIT_EVERY, seconds / conntrack.COMMIT_SHARE)
    assert min(b - a for a, b in pairwise(committed)) == pytest.approx(every)


def test_node_promoted_while_it_waited_for_the_lock_touches_nothing(
    done: list[list[str]],
) -> None:
    standby([True, False]).once()
    assert done == []


def test_node_promoted_before_it_weeds_keeps_its_connections(done: list[list[str]]) -> None:
    standby([True, True, False]).once()
    assert not any(command[0] == "delete" for command in done)


def test_standby_that_has_not_been_told_all_keeps_its_connections(done: list[list[str]]) -> None:
    standby([True, True, True], complete=False).once()
    assert not any(command[0] == "delete" for command in done)


def test_new_master_brings_in_what_its_peer_tells_late_and_passes_it_on(
    done: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "STRAGGLERS", (0.0, 0.0, 0.0))
    late = [0, 2, 0]
    monkeypatch.setattr(conntrack, "entries", lambda _: late.pop(0))
    commits = standby([], serving=True)
    commits._share = lambda: done.append(["share", "all"])
    commits.collect()
    assert words(done) == ["conntrackd -c", "conntrackd external", "share all"]
    assert commits._weed_at > 0


def test_new_master_that_stands_by_again_brings_in_nothing(
    done: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "STRAGGLERS", (0.0,))
    standby([]).collect()
    assert done == []


@pytest.fixture
def old_table(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to a table that has only the first set: what nft refuses, it does not begin."""
    changes: list[str] = []

    def run(arguments: list[str], *, given: str = "", **_: object) -> processes.Outcome:
        if arguments[0] == "nft" and "hold_ended" in given:
            return processes.Outcome(1, "", "/dev/stdin:1:2-3: Error: No such set\nflush\n^^^\n")
        changes.extend(given.splitlines())
        return processes.Outcome(0, "", "")

    monkeypatch.setattr(processes, "run", run)
    return changes


def test_set_that_an_older_table_lacks_keeps_no_other_from_being_held_and_released(
    old_table: list[str],
) -> None:
    said = "inet zcluster hold_ended: /dev/stdin:1:2-3: Error: No such set"
    assert conntrack.hold() == said
    assert conntrack.release() == said
    held = "inet zcluster hold"
    assert old_table == [
        f"flush set {held}",
        f"add element {held} {{ udp timeout 10s }}",
        f"flush set {held}",
    ]


def test_what_cannot_be_held_is_said_once_and_again_after_it_went_well(
    done: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []
    answers = ["no such set", "no such set", "", "no such set", "no such table"]
    monkeypatch.setattr(conntrack, "hold", lambda: answers.pop(0))
    monkeypatch.setattr(conntrack, "HOLD_AGAIN", 0.0)
    monkeypatch.setattr(journal, "record", lambda event, **said: recorded.append((event, said)))
    commits = standby([True] * 15)
    for _ in range(5):
        commits.once()
    assert recorded == [
        ("guard-failed", {"step": "hold", "why": why})
        for why in ("no such set", "no such set", "no such table")
    ]


def test_deletion_names_the_connection_as_the_kernel_wants_it() -> None:
    message = zombies.request(Flow(6, "192.0.2.1", "198.18.10.100", 40000, 80))
    assert len(message) == int.from_bytes(message[:4], sys.byteorder)
    assert socket.inet_aton("192.0.2.1") + bytes.fromhex("08000200") in message
    assert (40000).to_bytes(2, "big") in message
    assert (
        len(zombies.request(Flow(17, "2001:db8::5", "2001:db8:10::100", 5, 53)))
        == len(message) + 24
    )


def test_standby_that_knows_of_no_connection_keeps_what_it_tracks(
    done: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "entries", lambda _: 0)
    standby([True, True, True]).once()
    assert not any(command[0] == "delete" for command in done)


def test_what_is_to_be_sent_anew_is_in_the_kernel_before_it_goes(done: list[list[str]]) -> None:
    conntrack.ask_again()
    assert words(done) == ["conntrackd -c", "conntrackd external", "conntrackd -n"]


@pytest.mark.parametrize(
    ("looks", "anew"),
    [
        ([100, 200], [False, False]),
        ([100, 20], [False, True]),
        ([100, None, 150, 160], [False, False, True, False]),
    ],
)
def test_restart_of_conntrackd_is_noticed(
    monkeypatch: pytest.MonkeyPatch, looks: list[int | None], anew: list[bool]
) -> None:
    link = Link()
    said = []
    for received in looks:
        traffic = None if received is None else Traffic(received, received)
        monkeypatch.setattr(conntrack, "look", lambda told=traffic: (told, ""))
        state: Conntrackd = link.sample()
        said.append(state.anew)
    assert said == anew


def test_kernel_settings_that_the_guard_needs_are_looked_at(tmp_path: Path) -> None:
    for name, value in conntrack.KERNEL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    assert conntrack.kernel_settings(tmp_path) == ()
    loose = tmp_path / "net/netfilter/nf_conntrack_tcp_loose"
    loose.write_text("1\n")
    assert conntrack.kernel_settings(tmp_path) == ("nf_conntrack_tcp_loose is 1, not 0",)
    loose.unlink()
    assert conntrack.kernel_settings(tmp_path) == ("nf_conntrack_tcp_loose is missing, not 0",)
