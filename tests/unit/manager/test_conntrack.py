# SPDX-License-Identifier: GPL-3.0-or-later
# What a standby does for its connections, and that a node which has begun to serve does nothing.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from zclustermanager import conntrack, processes
from zclustermanager.conntrack import Conntrackd, Link, StandbyCommits, Traffic

Standby = Callable[..., StandbyCommits]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Every command the node was given; conntrackd knows of 200 foreign connections."""
    given: list[list[str]] = []

    def run(arguments: list[str], **_: object) -> processes.Outcome:
        given.append(arguments)
        return processes.Outcome(0, "cache:external\tactive objects:\t200\n", "")

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr(conntrack, "COMMIT_LOCK", tmp_path / "commit.lock")
    return given


def standby(roles: list[bool], *, complete: bool = True) -> StandbyCommits:
    """One that tracks far too much; whether it stands by, at each time it is asked."""
    commits = StandbyCommits(
        ["198.18.10.100"],
        standing_by=lambda: roles.pop(0),
        tracked=lambda: 5000,
        complete=lambda _: complete,
    )
    commits._weeded_at = float("-inf")
    return commits


def words(given: list[list[str]]) -> list[str]:
    """The program and its first option, of each command."""
    return [f"{command[0]} {command[-1]}" for command in given]


def test_standby_holds_back_weeds_and_commits(done: list[list[str]]) -> None:
    standby([True, True, True]).once()
    assert words(done) == [
        "nft -",
        "conntrackd cache",
        "conntrack 198.18.10.100",
        "conntrackd -c",
    ]


def test_node_promoted_while_it_waited_for_the_lock_touches_nothing(
    done: list[list[str]],
) -> None:
    standby([True, False]).once()
    assert done == []


def test_node_promoted_before_it_weeds_keeps_its_connections(done: list[list[str]]) -> None:
    standby([True, True, False]).once()
    assert not any(command[0] == "conntrack" for command in done)


def test_standby_that_has_not_been_told_all_keeps_its_connections(done: list[list[str]]) -> None:
    standby([True, True, True], complete=False).once()
    assert not any(command[0] == "conntrack" for command in done)


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
