# SPDX-License-Identifier: GPL-3.0-or-later
# When a keepalived that lives is ended, and what counts as a crash loop.
from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from zclustermanager import (
    addresses,
    daemon,
    fence,
    journal,
    keepalived,
    processes,
    restarts,
    revision,
)
from zclustermanager.fence import Fence
from zclustermanager.reconcile import TO_BACKUP, TO_MASTER, Action, Role
from zclustermanager.settings import Cluster


def run(
    guard: Fence, counts: list[int | None], *, peer_serves: bool = True, step: float = 0.1
) -> list[bool]:
    """Look once for each count; the verdicts."""
    return [
        guard.step(100 + n * step, serving=True, peer_serves=peer_serves, sent=lambda c=c: c)
        for n, c in enumerate(counts)
    ]


def test_stopped_keepalived_is_ended_after_three_intervals_while_the_peer_serves() -> None:
    assert run(Fence(0.1), [7, 7, 7, 7, 7], step=0.11) == [False, False, False, True, False]


def test_keepalived_that_advertises_is_left_alone_in_a_split_brain() -> None:
    assert not any(run(Fence(0.1), list(range(50))))


def test_nobody_is_ended_while_the_peer_does_not_serve() -> None:
    assert not any(run(Fence(0.1), [7] * 50, peer_serves=False))


def test_unknown_count_ends_nobody() -> None:
    assert not any(run(Fence(0.1), [None] * 50))


def test_paused_node_counts_from_its_resume() -> None:
    guard = Fence(0.1)
    assert run(guard, [7, 7]) == [False, False]
    # Ten seconds in which nothing of this node ran.
    assert not guard.step(110.0, serving=True, peer_serves=True, sent=lambda: 7)
    assert not guard.step(110.2, serving=True, peer_serves=True, sent=lambda: 8)
    assert not guard.step(110.3, serving=True, peer_serves=True, sent=lambda: 8)


def test_advert_counter_is_read() -> None:
    ruleset = {"nftables": [{"metainfo": {}}, {"counter": {"name": "adverts", "packets": 12}}]}
    assert fence.counter(ruleset, "adverts") == 12
    assert fence.counter(ruleset, "foreign_vrrp") is None


def test_crash_loop_is_three_restarts_within_a_minute(tmp_path: Path) -> None:
    text = "Id=keepalived.service\nNRestarts=4\n\nId=conntrackd.service\nNRestarts=0\n"
    assert restarts.parse(text) == {"keepalived.service": 4, "conntrackd.service": 0}
    seen = restarts.Restarts(tmp_path / "restarts.json")
    for second, count in enumerate([0, 1, 2, 3, 4]):
        seen.sample(float(second), {"keepalived.service": count, "conntrackd.service": 0})
    assert seen.loops() == {"keepalived.service": 4}
    for second in range(5, 80):
        seen.sample(float(second), {"keepalived.service": 4, "conntrackd.service": 0})
    assert seen.loops() == {}


def test_crash_loop_of_the_daemon_itself_is_seen_by_its_next_run(tmp_path: Path) -> None:
    path, unit = tmp_path / "restarts.json", "zcluster.service"
    assert unit in restarts.WATCHED
    restarts.Restarts(path).sample(1.0, {unit: 0})
    again = restarts.Restarts(path)
    assert not again.due(1.0 + restarts.EVERY / 2)
    again.sample(7.0, {unit: 5})
    assert again.loops() == {unit: 5}
    again.sample(70.0, {unit: 5})
    assert again.loops() == {}


@pytest.mark.parametrize("left", ["", "{", "[1]", '[[1e12, {"zcluster.service": 0}]]'])
def test_what_another_run_left_of_its_looks_may_be_anything(tmp_path: Path, left: str) -> None:
    path = tmp_path / "restarts.json"
    path.write_text(left)
    seen = restarts.Restarts(path)
    assert seen.due(0.0)
    seen.sample(0.0, {"zcluster.service": 9})
    assert seen.loops() == {}


@pytest.mark.parametrize(
    ("theirs", "stays_down"), [(4, True), (3, False), (2, False), (None, False)]
)
def test_node_never_starts_keepalived_with_an_older_revision_while_the_peer_answers(
    cluster: Cluster, theirs: int | None, stays_down: bool
) -> None:
    assert cluster.revision == 3
    why = revision.refusal(replace(cluster, revision=3), theirs)
    assert bool(why) is stays_down
    assert not why or ("zcluster create" in why and "n2 has 4" in why)


START = ["systemctl", "start", "--no-block", "keepalived.service"]


@pytest.mark.parametrize(
    ("failed", "enabled", "runs", "theirs", "starts"),
    [
        (True, True, False, 3, True),
        # Nobody is heard: as at any boot without a peer.
        (True, True, False, None, True),
        (True, True, False, 4, False),
        # Stopped, disabled, or none of this: nobody's business here.
        (False, True, False, 3, False),
        (True, False, False, 3, False),
        (True, True, True, 3, False),
    ],
)
def test_keepalived_whose_question_at_boot_failed_is_started_by_the_daemon(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    failed: bool,
    enabled: bool,
    runs: bool,
    theirs: int | None,
    starts: bool,
) -> None:
    given: list[list[str]] = []
    answers = {"is-failed": failed, "is-enabled": enabled}

    def run(arguments: list[str], **_: object) -> processes.Outcome:
        given.append(arguments)
        return processes.Outcome(0 if answers.get(arguments[1], True) else 1, "", "")

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr(journal, "record", lambda *_, **__: None)
    monkeypatch.setattr(keepalived, "runs", lambda: runs)
    monkeypatch.setattr(revision, "STALE", tmp_path / "stale-revision")
    peer = SimpleNamespace(revision=theirs) if theirs is not None else None
    long_ago = time.monotonic() - 60
    mine = daemon.Daemon.__new__(daemon.Daemon)
    vars(mine).update(
        {"cluster": cluster, "prober": SimpleNamespace(peer=lambda: peer), "_peer_away": False}
    )
    mine._peer_seen_at = mine._unasked_at = long_ago
    mine._rejoin()
    assert (START in given) is starts
    # The next look takes its time: a question that fails again and again is no storm.
    given.clear()
    mine._rejoin()
    assert given == []


def test_events_are_read_where_keepalived_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "keepalived.fifo"
    fifo = daemon.open_fifo(path)
    assert not daemon.replaced(fifo, path)
    path.unlink()
    assert daemon.replaced(fifo, path)
    os.mkfifo(path)
    assert daemon.replaced(fifo, path)
    os.close(fifo)


def test_events_only_make_the_daemon_look_whatever_they_say(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, here, done = tmp_path / "keepalived.fifo", [set[str]()], []
    monkeypatch.setattr(addresses, "present", lambda: here[0])
    monkeypatch.setattr(journal, "record", lambda *_, **__: None)
    mine = daemon.Daemon.__new__(daemon.Daemon)
    vars(mine).update(
        cluster=cluster,
        fifo=daemon.open_fifo(path),
        heard=deque(maxlen=50),
        applied=Role.BACKUP,
        store=SimpleNamespace(generation=lambda: SimpleNamespace(number=1)),
        switch=SimpleNamespace(hands_over=False),
        prober=SimpleNamespace(told=lambda: {"out": ""}),
        readiness=SimpleNamespace(role_changed=lambda **_: None),
        herald=SimpleNamespace(turned=lambda *_: None),
        _services=lambda _: None,
        _effects={action: lambda a=action: done.append(a) for action in Action},
    )

    def event(words: bytes) -> None:
        path.write_bytes(words)
        mine._heard()

    # It says master, again and again; another one is cut short, or no text.
    event(b'GROUP "zcluster" MASTER 254\n' * 500)
    event(b'INSTANCE "eth0" MAS')
    event(b"\xff\xfe\n")
    assert (mine.applied, done) == (Role.BACKUP, [])
    # It is master, and all that was heard is that it is not.
    here[0] = {cluster.vips[0].address}
    event(b'GROUP "zcluster" BACKUP 254\n' * 2)
    assert (mine.applied, done) == (Role.MASTER, list(TO_MASTER))
    # Nothing was heard: the slow timer looks, too.
    here[0] = set()
    mine.converge()
    assert (mine.applied, done) == (Role.BACKUP, [*TO_MASTER, *TO_BACKUP])
    os.close(mine.fifo)


def test_node_without_a_link_that_its_heartbeat_needs_is_not_able_to_take_over(
    cluster: Cluster,
) -> None:
    served, link = cluster.networks[0], replace(cluster.networks[0], interface="eth2", kind="link")
    tracked = replace(cluster, networks=(served, link), track_interfaces=("eth9",))
    assert daemon.needed_links(tracked) == {"eth0", "eth9"}
    on_link = replace(tracked, vips=(replace(cluster.vips[0], interface="eth2"),))
    assert "eth2" in daemon.needed_links(on_link)
