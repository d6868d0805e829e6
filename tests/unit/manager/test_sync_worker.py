# SPDX-License-Identifier: GPL-3.0-or-later
# What synchronization says of itself is true while a pass is under way and when it is refused.
from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import peer, processes, session
from zclustermanager.settings import Cluster
from zclustermanager.sync import operate, tree, worker
from zclustermanager.sync.generation import Generation
from zclustermanager.sync.replica import Offer
from zclustermanager.sync.sender import Pass
from zclustermanager.sync.store import Store
from zclustermanager.sync.tree import Scanner


@pytest.fixture
def node(
    disk: Callable[[str], tuple[Path, Store, Scanner]],
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> worker.SyncWorker:
    root, store, scanner = disk("n1")
    (root / "a.cfg").write_text("one")
    store.save(Generation("1" * 32, (), tree.digest(scanner.scan()), known="1" * 32))
    monkeypatch.setattr(worker.journal, "record", lambda *_, **__: None)
    monkeypatch.setattr(worker.addresses, "held", lambda _: ["198.18.10.100"])
    monkeypatch.setattr(operate, "PAUSED", store.state / "sync-paused.json")
    return worker.SyncWorker(dataclasses.replace(cluster, sync_paths=(str(root),)), store)


def root(node: worker.SyncWorker) -> Path:
    return Path(node.cluster.sync_paths[0])


def test_while_something_is_sent_the_nodes_are_not_in_sync(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def ask(request: str, *_: Any) -> dict[str, Any]:
        said.append((request, node.report()["state"]))
        return {"answer": "equal"}

    monkeypatch.setattr(node.far.channel, "ask", ask)
    node.start_sending()
    node.result, node.behind_since = Pass("in sync"), None
    node.result = node._look(full=False, force=False)
    assert said == [("generation", "pending"), ("offer", "pending")]
    assert node.result.state == "in sync"


def test_what_the_peer_refuses_is_failed_and_a_pause_of_it_is_not(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(
        ('{"error": "No space left on device"}', '{"error": "paused by ann", "passing": true}')
    )
    monkeypatch.setattr(processes, "run", lambda *_, **__: processes.Outcome(0, next(answers), ""))
    with pytest.raises(peer.RefusedError, match="n2: No space left"):
        peer.ask(cluster, "commit")
    with pytest.raises(peer.PeerError) as passing:
        peer.ask(cluster, "offer")
    assert not isinstance(passing.value, peer.RefusedError)


FULL = """\
rsync: [receiver] write failed on "/x": No space left on device (28)
rsync error: error in file IO (code 11) at receiver.c(381) [receiver=3.2.7]
"""
LOST = """\
rsync: connection unexpectedly closed (0 bytes received so far) [sender]
rsync error: unexplained error (code 255) at io.c(232) [sender=3.2.7]
"""


@pytest.mark.parametrize(("err", "kind"), [(FULL, peer.RefusedError), (LOST, peer.PeerError)])
def test_rsync_says_what_is_full_and_a_lost_connection_is_no_refusal(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, err: str, kind: type
) -> None:
    monkeypatch.setattr(processes, "bounded", lambda *_, **__: processes.Outcome(11, "", err))
    with pytest.raises(peer.PeerError) as raised:
        peer.send_contents(cluster, Path("/nowhere"), "0" * 32)
    assert type(raised.value) is kind
    assert ("No space left" in str(raised.value)) == (kind is peer.RefusedError)


@pytest.mark.parametrize("code", [1, 23, 24])
def test_part_of_a_transfer_is_none(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(processes, "bounded", lambda *_, **__: processes.Outcome(code, "", ""))
    with pytest.raises(peer.PeerError):
        peer.send_contents(cluster, Path("/nowhere"), "0" * 32)


@pytest.mark.parametrize("act", ["send", "receive"])
def test_large_file_takes_as_long_as_it_takes_and_ends_with_the_service(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    held = iter([["198.18.10.100"], []])
    run, bounded = [], processes.bounded

    def rsync(words: list[str], timeout: float, cancelled: Callable[[], bool]) -> processes.Outcome:
        run.append((words, timeout))
        return bounded(["sleep", "600"], timeout, cancelled)

    monkeypatch.setattr(processes, "bounded", rsync)
    monkeypatch.setattr(worker.addresses, "held", lambda _: next(held))
    monkeypatch.setattr(peer, "ask", lambda *_, **__: {})
    far = worker.farend.FarEnd(node.cluster, node.store)
    acts = {
        "send": lambda: far.send(Path("/nowhere"), "0" * 32),
        "receive": lambda: far.receive(["0" * 64], Offer(Generation(), {}), "0" * 32),
    }
    with pytest.raises(peer.PeerError, match="was cancelled"):
        acts[act]()
    ((words, timeout),) = run
    assert f"--timeout={peer.STALLED}" in words
    assert timeout == float("inf")


def test_edit_on_a_backup_is_pending_and_named(node: worker.SyncWorker) -> None:
    assert node._look(full=False, force=False) == Pass("in sync")
    (root(node) / "a.cfg").write_text("by hand")
    found = node._look(full=False, force=False)
    assert found.state == "pending"
    assert f"edited here ({root(node)}/a.cfg)" in found.why


def test_backup_that_diverged_says_so_until_it_has_another_generation(
    node: worker.SyncWorker,
) -> None:
    assert node.store.tell_verdict(["/etc/a"], "1" * 32)
    assert not node.store.tell_verdict(["/etc/a"], "1" * 32)
    found = node._look(full=False, force=False)
    assert (found.state, found.differing) == ("diverged", ("/etc/a",))
    node.store.save(dataclasses.replace(node.store.generation(), id="2" * 32))
    assert node._look(full=False, force=False).state == "in sync"
    assert node.store.tell_verdict([], "2" * 32)


def test_peer_that_comes_back_is_asked_what_it_has(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(request: str, *_: Any) -> dict[str, Any]:
        asked.append(request)
        return {"answer": "equal"}

    monkeypatch.setattr(node.far.channel, "ask", ask)
    node.start_sending()
    node._look(full=False, force=False)
    node._look(full=False, force=False)
    assert asked == ["generation", "offer"]
    node.peer_is_back()
    node._look(full=False, force=False)
    assert asked == ["generation", "offer", "offer"]


def test_session_whose_far_end_has_gone_says_that_what_the_peer_has_is_not_known(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A far end that answers once, and is gone when its input ends.
    gate = ["sh", "-c", "echo '{}'; read -r _; echo '{}'; sleep 0.3"]
    monkeypatch.setattr(session, "ssh_to", lambda _: gate)
    node.start_sending()
    node.far.reach()
    node.sender.acknowledged = "1" * 32
    began = time.monotonic()
    node._sleep(60.0, deaf=False)  # start_sending has woken it
    assert node.sender.acknowledged
    node._sleep(60.0, deaf=False)
    assert time.monotonic() - began < 30
    assert node.sender.acknowledged is None
    assert node.far.channel.session is None


class SleptError(Exception):
    """The end of a turn of the worker."""


def turn(node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch) -> float:
    """One look of the worker; how long it would have slept then."""
    slept = []

    def sleep(seconds: float, *, deaf: bool) -> None:
        slept.append(seconds)
        raise SleptError

    monkeypatch.setattr(node, "_sleep", sleep)
    node.cpu_seconds = worker.time.thread_time()
    with pytest.raises(SleptError):
        node.run()
    return slept[0]


def test_inotify_that_was_refused_is_said_and_had_as_soon_as_there_is_room(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError("too many instances")

    node.watcher = node.scanner.watch = None
    with monkeypatch.context() as patched:
        patched.setattr(worker.inotify, "Watcher", full)
        assert turn(node, monkeypatch) <= worker.UNHEARD_PASS
    assert node.result.state == "in sync"
    assert "fs.inotify.max_user_instances" in node.result.why
    turn(node, monkeypatch)
    assert not node.result.why
    (root(node) / "a.cfg").write_text("changed")
    assert "edited here" in node._look(full=False, force=False).why


def test_what_is_kept_is_not_beyond_its_limits_for_long(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A look that had much to read is not repeated for long; the limits are.
    monkeypatch.setattr(worker.time, "thread_time", iter(range(0, 1000, 5)).__next__)
    assert turn(node, monkeypatch) <= worker.SLOW_PASS


def test_limits_that_cannot_be_held_are_said_and_end_nothing(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.store.versions / "00000001-x-replaced").mkdir()
    (node.store.versions / "00000001-x-replaced/.replaced.json").write_text("damaged")
    turn(node, monkeypatch)
    assert node.result.state == "failed"


def test_file_that_is_written_for_long_is_said_and_at_a_start_is_waited_for(
    node: worker.SyncWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest_file(*_: Any) -> Any:
        raise tree.UnstableError(f"{root(node)}/a.cfg changes while it is read")

    with monkeypatch.context() as patched:
        patched.setattr(tree, "digest_file", digest_file)
        turn(node, monkeypatch)
        # Whether the peer has it is not known: it is neither taken for new nor for gone.
        assert node.result == Pass("pending", f"{root(node)}/a.cfg changes while it is read")
    turn(node, monkeypatch)
    assert node.result == Pass("in sync")
    (root(node) / "a.cfg").write_text("is written")
    with monkeypatch.context() as patched:
        patched.setattr(tree, "digest_file", digest_file)
        turn(node, monkeypatch)
        assert node.result == Pass("in sync")
        patched.setattr(worker, "LONG_WRITTEN", 0.0)
        turn(node, monkeypatch)
        assert node.result == Pass("in sync", f"still being written: {root(node)}/a.cfg")
    node.scanner.doubt()
    turn(node, monkeypatch)
    assert "edited here" in node.result.why
    assert "being written" not in node.result.why
