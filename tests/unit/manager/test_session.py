# SPDX-License-Identifier: GPL-3.0-or-later
# A session with the receiving gate: a change costs what it changes, and nobody notices its end.
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import peer, session
from zclustermanager.settings import Cluster
from zclustermanager.sync import farend, offers, tree, worker
from zclustermanager.sync import stage as stages
from zclustermanager.sync.disk import LocalDisk
from zclustermanager.sync.generation import Generation
from zclustermanager.sync.replica import Offer
from zclustermanager.sync.store import Store
from zclustermanager.sync.tree import Entry, Listing, Manifest, Scanner

Disk = Callable[[str], tuple[Path, Store, Scanner]]
FILES = Path(session.__file__).parents[1]

# The shipped gate, with a node of its own behind it. Its settings: what the peer's directory says.
GATE = """
import functools, json, pathlib, sys
files, node, declared, *without, request = sys.argv[1:]
sys.path.insert(0, files)
from zclustermanager import receive, settings
from zclustermanager.sync.store import Store
node = pathlib.Path(node)
def load():
    return settings.parse(json.loads(pathlib.Path(declared).read_text()))
receive.load, receive.SETTINGS_FILE = load, pathlib.Path(declared)
receive.Store = functools.partial(Store, node / "state", node / "run")
receive._first_line = lambda: json.dumps({"command": request}).encode()
receive.addresses.held = lambda _: []
receive.activation.passive = lambda *_, **__: {}
receive.journal.record = lambda *_, **__: None
receive.operate.PAUSED = node / "paused"
receive.operate.wake = lambda: None
if without == ["without"]:
    receive.PLAIN = tuple(set(receive.PLAIN) - {"session"})
if without == ["short"]:
    receive.session.IDLE = 0.3
with (node / "gates").open("a") as gates:
    print(request.split()[0], file=gates)
receive.main()
"""


@dataclasses.dataclass
class Pair:
    """A sender's side, and the node that its far end is."""

    far: farend.FarEnd
    root: Path
    store: Store
    scanner: Scanner
    declared: Path
    documents: list[Any] = dataclasses.field(default_factory=list)

    def offer(self, change: Callable[[Path], object], frozen: Path | None) -> dict[str, Any]:
        """What the other node answers to this change of what it has."""
        self.documents.clear()
        before = self.store.generation()
        ids = tuple(filter(None, (before.id, *before.ancestors)))
        manifest = dict(self.scanner.scan())
        contents = change_of(manifest, self.root, change)
        if frozen is not None:
            for content in frozen.iterdir():
                content.unlink()
            for name, content in contents.items():
                (frozen / name).write_bytes(content)
        offered = Listing(manifest)
        generation = Generation(f"{random.getrandbits(128):032x}", ids, offered.digest)
        return self.far.offer(Offer(generation, offered), frozen)

    def gates(self) -> list[str]:
        """What was asked of processes, one by one."""
        return (self.store.state.parent / "gates").read_text().split()


def change_of(manifest: Manifest, root: Path, change: Callable[[Path], object]) -> dict[str, bytes]:
    """Let a manifest be that of a changed copy of the root; the contents that are new in it."""
    copy = root.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, symlinks=True)
    change(copy)
    found = Scanner([str(copy)], []).scan()
    text = json.dumps(tree.dump(found)).replace(str(copy), str(root))
    before = {entry.sha256 for entry in manifest.values()}
    manifest.clear()
    manifest.update(tree.undump(json.loads(text)))
    return {
        entry.sha256: Path(path).read_bytes()
        for path, entry in found.items()
        if entry.kind == "file" and entry.sha256 not in before
    }


@pytest.fixture
def make(
    disk: Disk, declared: dict[str, Any], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def pair(*options: str) -> Pair:
        root, store, scanner = disk("n2")
        (root / "conf.d").mkdir()
        (root / "conf.d/a.cfg").write_text("one")
        for number in range(50):
            (root / f"{number}.cfg").write_text(str(number))
        declared["sync"] = {"paths": [str(root)], "excludes": []}
        settings = root.parent / "cluster.json"
        settings.write_text(json.dumps(declared))
        gate = [sys.executable, "-c", GATE, str(FILES), str(root.parent), str(settings), *options]
        monkeypatch.setattr(session, "ssh_to", lambda _: gate)
        monkeypatch.setattr(peer, "ssh_to", lambda _: gate)
        here = dataclasses.replace(cluster, sync_paths=(str(root),))
        found = Pair(farend.FarEnd(here, disk("n1")[1]), root, store, scanner, settings)
        ask = session.Session.ask

        def said(self: session.Session, request: str, payload: Any, timeout: float) -> Any:
            found.documents.append(payload)
            return ask(self, request, payload, timeout)

        monkeypatch.setattr(session.Session, "ask", said)
        made.append(found)
        return found

    yield pair
    for one in made:
        one.far.channel.close()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def test_small_change_is_live_after_one_request_that_carries_what_changed(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair, frozen = make(), tmp_path / "frozen"
    frozen.mkdir()
    changes = (
        (write("conf.d/a.cfg", "two"), ["conf.d/a.cfg"]),
        (write("conf.d/b.cfg", "new"), ["conf.d/b.cfg"]),
        (lambda root: (root / "7.cfg").unlink(), ["7.cfg"]),
    )
    for number, (change, paths) in enumerate(changes):
        answer = pair.offer(change, frozen)
        assert answer["answer"] == "accept"
        assert answer["applied"] >= 1
        (document,) = pair.documents
        assert ("manifest" in document) == (number == 0)
        if number:
            told = [*(e["path"] for e in document["changed"]), *document["gone"]]
            assert [p for p in told if p != str(pair.root)] == [f"{pair.root}/{p}" for p in paths]
    assert (pair.root / "conf.d/a.cfg").read_text() == "two"
    assert (pair.root / "conf.d/b.cfg").read_text() == "new"
    assert not (pair.root / "7.cfg").exists()
    assert pair.gates() == ["session"]


def test_contents_that_do_not_come_along_are_asked_for_as_ever(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair = make()
    answer = pair.offer(write("conf.d/a.cfg", "two"), None)
    assert answer["need"] == [hashlib.sha256(b"two").hexdigest()]
    blobs = pair.store.incoming / answer["stage"] / "blobs"
    (blobs / answer["need"][0]).write_text("two")
    assert pair.far.commit(answer["stage"])["applied"] == 1
    assert (pair.root / "conf.d/a.cfg").read_text() == "two"
    assert pair.gates() == ["session"]


def test_damaged_content_is_not_applied(make: Callable[..., Pair], tmp_path: Path) -> None:
    pair, frozen = make(), tmp_path / "frozen"
    frozen.mkdir()
    damaged = write("conf.d/a.cfg", "two")
    read = Path.read_bytes
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda p: b"other" if p.parent == frozen else read(p))
        with pytest.raises(peer.RefusedError, match="damaged"):
            pair.offer(damaged, frozen)
    assert (pair.root / "conf.d/a.cfg").read_text() == "one"
    # What is refused ends no session.
    assert pair.offer(damaged, frozen)["applied"] == 1
    assert pair.gates() == ["session"]


def test_edit_on_the_backup_is_seen_by_the_session_and_kept(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair, frozen = make(), tmp_path / "frozen"
    frozen.mkdir()
    pair.offer(write("conf.d/a.cfg", "two"), frozen)
    before = dict(pair.scanner.scan())
    (pair.root / "3.cfg").write_text("by hand")
    manifest = Listing(before)
    generation = Generation("9" * 32, (str(pair.store.generation().id),), manifest.digest)
    blob = pair.far.offer(Offer(generation, manifest), None)
    assert blob["need"] == [before[str(pair.root / "3.cfg")].sha256]


def test_session_that_was_killed_is_a_failure_once_and_the_next_begins_anew(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair, frozen = make(), tmp_path / "frozen"
    frozen.mkdir()
    pair.offer(write("conf.d/a.cfg", "two"), frozen)
    opened = pair.far.channel.session
    assert opened is not None
    os.kill(opened._process.pid, signal.SIGKILL)
    with pytest.raises(peer.PeerError):
        pair.offer(write("conf.d/a.cfg", "three"), frozen)
    assert pair.offer(write("conf.d/a.cfg", "three"), frozen)["applied"] == 1
    assert "manifest" in pair.documents[-1]


def test_session_ends_with_the_settings_and_nobody_notices(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair, frozen = make(), tmp_path / "frozen"
    frozen.mkdir()
    pair.offer(write("conf.d/a.cfg", "two"), frozen)
    pair.declared.write_text(pair.declared.read_text() + "\n")
    assert pair.offer(write("conf.d/a.cfg", "three"), frozen)["applied"] == 1
    assert pair.gates() == ["session", "session"]


def test_session_that_was_renewed_in_between_knows_nothing_of_the_one_before(
    make: Callable[..., Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, frozen = make(), tmp_path / "frozen"
    frozen.mkdir()
    pair.offer(write("conf.d/a.cfg", "two"), frozen)
    pair.declared.write_text(pair.declared.read_text() + "\n")
    monkeypatch.setattr(session, "KEPT", -1.0)
    pair.far.channel.keep()
    assert pair.gates() == ["session", "session"]
    assert pair.offer(write("conf.d/a.cfg", "three"), frozen)["applied"] == 1
    assert "manifest" in pair.documents[-1]


def test_edit_on_the_backup_while_contents_travel_is_told_with_the_commit(
    make: Callable[..., Pair],
) -> None:
    pair = make()
    answer = pair.offer(write("conf.d/a.cfg", "two"), None)
    (pair.store.incoming / answer["stage"] / "blobs" / answer["need"][0]).write_text("two")
    (pair.root / "3.cfg").write_text("by hand")
    done = pair.far.commit(answer["stage"])
    assert (done["applied"], done["whole"]) == (1, False)


def test_session_that_nobody_needs_ends_and_nobody_notices(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair, frozen = make("short"), tmp_path / "frozen"
    frozen.mkdir()
    pair.offer(write("conf.d/a.cfg", "two"), frozen)
    opened = pair.far.channel.session
    assert opened is not None
    opened._process.wait(timeout=10)
    assert pair.offer(write("conf.d/a.cfg", "three"), frozen)["applied"] == 1
    assert pair.gates() == ["session", "session"]


def test_session_is_kept_while_nothing_changes(
    make: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make()
    # Who keeps it says so before the far end has left.
    assert session.KEPT + worker.SLOW_PASS < session.IDLE
    pair.far.reach()
    pair.far.channel.keep()
    assert len(pair.documents) == 1
    monkeypatch.setattr(session, "KEPT", -1.0)
    assert pair.far.channel.keep()
    assert len(pair.documents) == 2
    opened = pair.far.channel.session
    assert opened is not None
    os.kill(opened._process.pid, signal.SIGKILL)
    opened._process.wait()
    assert not pair.far.channel.keep()
    pair.far.channel.close()
    assert pair.far.channel.keep()
    assert len(pair.documents) == 3


def test_peer_of_a_version_without_sessions_is_asked_request_by_request(
    make: Callable[..., Pair], tmp_path: Path
) -> None:
    pair, frozen = make("without"), tmp_path / "frozen"
    frozen.mkdir()
    pair.far.reach()
    assert pair.offer(write("conf.d/a.cfg", "two"), frozen)["applied"] == 1
    assert pair.gates() == ["session", "generation", "offer"]


def test_session_is_for_synchronization_alone(make: Callable[..., Pair]) -> None:
    pair = make()
    for request in ("prepare", "ping", "session", "commit x", "id", 7):
        with pytest.raises(peer.RefusedError):
            pair.far.channel.ask(request, lambda _: None, 10.0)  # type: ignore[arg-type]
    pair.far.reach()
    assert pair.gates() == ["session"]


def entry(path: str, kind: str = "file", **more: Any) -> Entry:
    sha256 = f"{random.getrandbits(256):064x}" if kind == "file" else ""
    return Entry(path, kind, 0o644, "root", "root", **({"sha256": sha256} | more))


ROOT = "/etc/haproxy"
BASE = Listing(
    {
        path: entry(path, kind)
        for path, kind in (
            (ROOT, "directory"),
            (f"{ROOT}/d", "directory"),
            (f"{ROOT}/d/x", "file"),
            (f"{ROOT}/a", "file"),
        )
    }
)


def changed(cluster: Cluster, base: Manifest, target: Manifest) -> Offer:
    """A change of a base, as it arrives."""
    generation = Generation("1" * 32, (), tree.digest(target))
    document = offers.dump(Offer(generation, target), cluster, base)
    return offers.undump(json.loads(json.dumps(document)), cluster, base)


@pytest.mark.parametrize("seed", range(50))
def test_change_of_what_was_offered_arrives_as_the_whole_does(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)
    target = dict(BASE)
    for _ in range(chance.randint(1, 6)):
        path = f"{ROOT}/{chance.choice('abc')}"
        target[path] = entry(path)
    if chance.random() < 0.5:
        del target[f"{ROOT}/d/x"]
    if chance.random() < 0.3:
        target[f"{ROOT}/h"] = dataclasses.replace(
            target[f"{ROOT}/a"], path=f"{ROOT}/h", link=f"{ROOT}/a"
        )
    found = changed(cluster, BASE, target).manifest
    assert found == target
    assert tree.digest(found) == tree.digest(target)
    assert isinstance(found, Listing)
    assert found.links == sum(bool(e.link) for e in target.values())
    assert tree.differing(BASE, found) == tree.differing(dict(BASE), target)
    # And the change after it.
    target = {p: e for p, e in target.items() if not e.link}
    assert changed(cluster, found, target).manifest == target


@pytest.mark.parametrize(
    ("gone", "added"),
    [
        ([f"{ROOT}/d"], []),
        ([], [entry(f"{ROOT}/d", "symlink", target="/etc")]),
        ([], [entry("/etc/passwd")]),
        ([], [entry(f"{ROOT}/a/x")]),
        ([], [entry(f"{ROOT}/y", link="/etc/shadow")]),
        ([], [entry(f"{ROOT}/y", sha256="../../x")]),
        ([ROOT], []),
    ],
)
def test_change_that_leaves_what_no_node_has_is_refused(
    cluster: Cluster, gone: list[str], added: list[Entry]
) -> None:
    target = {p: e for p, e in BASE.items() if p not in gone} | {e.path: e for e in added}
    with pytest.raises(offers.OfferError, match="is not synchronized"):
        changed(cluster, BASE, target)


def test_file_whose_other_name_goes_is_judged_again(cluster: Cluster) -> None:
    linked = dict(BASE)
    linked[f"{ROOT}/h"] = dataclasses.replace(
        linked[f"{ROOT}/a"], path=f"{ROOT}/h", link=f"{ROOT}/a"
    )
    target = dict(linked)
    del target[f"{ROOT}/a"]
    with pytest.raises(offers.OfferError, match="is not synchronized"):
        changed(cluster, Listing(linked), target)


@pytest.mark.parametrize("base", [None, {}, {ROOT: BASE[ROOT]}])
def test_change_of_what_was_not_offered_is_refused(cluster: Cluster, base: Any) -> None:
    document = offers.dump(Offer(Generation("1" * 32, (), BASE.digest), BASE), cluster, BASE)
    with pytest.raises(offers.OfferError, match="not offered before"):
        offers.undump(document, cluster, base)


def test_stage_of_a_change_has_what_changes_and_what_that_is_in(disk: Disk) -> None:
    root, store, scanner = disk("n2")
    (root / "d/e").mkdir(parents=True)
    for path in ("d/e/x", "d/y", "z"):
        (root / path).write_text(path)
    live = scanner.scan()
    target = dict(live)
    target[f"{root}/d/e/x"] = dataclasses.replace(live[f"{root}/d/e/x"], sha256="0" * 64)
    del target[f"{root}/z"]
    local = LocalDisk(store, scanner)
    stage = stages.create(local, "0" * 32, Generation("1" * 32), target, live=live)
    assert stage == stages.load(local, "0" * 32)
    # To a program from before there were such stages it is none until it is begun.
    (local.blobs("0" * 32) / ("0" * 64)).write_text("")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local, "arrived", lambda _, sha256: sha256)
        stages.verify(local, stage, live)
    assert local.marked("0" * 32, "complete") is None
    assert local.marked("0" * 32, "verified")
    assert stage.differing(live) == [f"{root}/d/e/x", f"{root}/z"]
    assert sorted(stage.target) == [str(root), f"{root}/d", f"{root}/d/e", f"{root}/d/e/x"]
    assert stages.needed(live, stage.target, stage.differing(live)) == ["0" * 64]
