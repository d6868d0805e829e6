# SPDX-License-Identifier: GPL-3.0-or-later
# What an operator asks of synchronization, on a real disk.
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from zclustermanager.settings import Cluster
from zclustermanager.sync import operate, tree
from zclustermanager.sync import stage as stages
from zclustermanager.sync.disk import LocalDisk
from zclustermanager.sync.generation import Generation
from zclustermanager.sync.operate import Asked, OperateError
from zclustermanager.sync.replica import Replica
from zclustermanager.sync.store import REPLACED, Store
from zclustermanager.sync.tree import Scanner


@dataclasses.dataclass
class Master:
    """The node that serves: its root, its store, its settings."""

    root: Path
    store: Store
    cluster: Cluster
    disk: LocalDisk

    def passes_over(self, *paths: str) -> str:
        """A pass keeps these paths before it replaces them; the version."""
        live = self.disk.scan()
        version = self.disk.version(REPLACED)
        entries = {p: live[p] for p in (f"{self.root}/{name}" for name in paths)}
        for entry in entries.values():
            self.disk.keep(version, entry)
        self.disk.record(version, entries, [])
        return version


@pytest.fixture
def master(
    disk: Callable[[str], tuple[Path, Store, Scanner]],
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> Master:
    root, store, scanner = disk("n1")
    (root / "d").mkdir()
    (root / "d/a.cfg").write_text("first")
    (root / "d/a.cfg").chmod(0o640)
    store.save(Generation("1" * 32, (), tree.digest(scanner.scan()), term=True))
    for name, value in {
        "Store": lambda **_: store,
        "_serves": lambda _: True,
        "wake": lambda: True,
        "PAUSED": store.state / "sync-paused.json",
    }.items():
        monkeypatch.setattr(operate, name, value)
    monkeypatch.setattr(operate.journal, "record", lambda *_, **__: None)
    return Master(
        root,
        store,
        dataclasses.replace(cluster, sync_paths=(str(root),)),
        LocalDisk(store, scanner),
    )


def test_restore_brings_back_content_owner_and_mode(master: Master) -> None:
    version = master.passes_over("d/a.cfg")
    (master.root / "d/a.cfg").write_text("second")
    (master.root / "d/a.cfg").chmod(0o600)
    asked = Asked(path=f"{master.root}/d/a.cfg", version=version)
    Replica(master.disk, lambda: "2" * 32).observe()
    answer = operate.run(master.cluster, "restore", asked)
    assert answer["restored"] == [f"{master.root}/d/a.cfg"]
    assert (master.root / "d/a.cfg").read_text() == "first"
    assert (master.root / "d/a.cfg").stat().st_mode & 0o777 == 0o640
    assert master.store.generation().id not in ("1" * 32, "2" * 32)
    assert not operate.run(master.cluster, "restore", asked)["changed"]


def test_restore_is_not_hurt_by_the_daemon_that_tidies_up(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = master.passes_over("d/a.cfg")
    (master.root / "d/a.cfg").write_text("second")
    real = operate.freeze_kept

    def freeze_kept(*arguments: object) -> tree.Manifest:
        found = real(*arguments)  # type: ignore[arg-type]
        stages.recover(master.disk)
        return found

    monkeypatch.setattr(operate, "freeze_kept", freeze_kept)
    asked = Asked(path=f"{master.root}/d/a.cfg", version=version)
    operate.run(master.cluster, "restore", asked)
    assert (master.root / "d/a.cfg").read_text() == "first"


def test_restore_keeps_what_it_replaces(master: Master) -> None:
    version = master.passes_over("d/a.cfg")
    (master.root / "d/a.cfg").write_text("second")
    operate.run(master.cluster, "restore", Asked(path=f"{master.root}/d/a.cfg", version=version))
    kept = [p.read_text() for p in master.store.versions.rglob("a.cfg")]
    assert sorted(kept) == ["first", "second"]


def test_what_cannot_be_restored_is_said_in_words(master: Master) -> None:
    version = master.passes_over("d/a.cfg")
    (master.root / "d/a.cfg").unlink()
    (master.root / "d/a.cfg").mkdir()
    (master.root / "d/a.cfg/inside").write_text("x")
    with pytest.raises(OperateError, match="holds files"):
        operate.run(
            master.cluster, "restore", Asked(path=f"{master.root}/d/a.cfg", version=version)
        )


def test_nothing_is_restored_to_where_a_link_leads(master: Master, tmp_path: Path) -> None:
    version = master.passes_over("d/a.cfg")
    outside = tmp_path / "outside"
    (master.root / "d").rename(outside)
    (outside / "a.cfg").write_text("theirs")
    (master.root / "d").symlink_to(outside)
    asked = Asked(path=f"{master.root}/d/a.cfg", version=version)
    with pytest.raises(OperateError, match=f"Not a directory: '{master.root}/d/a.cfg'"):
        operate.run(master.cluster, "restore", asked)
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("a.cfg", "theirs")]
    assert [p.name for p in master.root.iterdir()] == ["d"]


@pytest.mark.parametrize("version", ["", "/etc/haproxy", "../x"])
def test_restore_needs_a_path_and_a_version(master: Master, version: str) -> None:
    with pytest.raises(OperateError, match="PATH@VERSION"):
        operate.run(master.cluster, "restore", Asked(path=str(master.root), version=version))


def test_what_is_not_synchronized_any_more_is_not_restored(master: Master) -> None:
    version = master.passes_over("d/a.cfg")
    elsewhere = dataclasses.replace(master.cluster, sync_paths=("/etc/haproxy",))
    asked = Asked(path=f"{master.root}/d/a.cfg", version=version)
    with pytest.raises(OperateError, match="not synchronized any more"):
        operate.run(elsewhere, "restore", asked)


def test_pause_says_who_and_why_and_ends_with_resume(master: Master) -> None:
    with pytest.raises(OperateError, match="say why"):
        operate.run(master.cluster, "pause", Asked(who="ann"))
    answer = operate.run(master.cluster, "pause", Asked(who="ann", why="a big change"))
    assert answer["changed"]
    found = operate.paused()
    assert found is not None
    assert operate.pause_words(found) == "paused by ann: a big change"
    assert operate.run(master.cluster, "resume", Asked())["changed"]
    assert not operate.run(master.cluster, "resume", Asked())["changed"]


def test_versions_are_listed_by_path(master: Master) -> None:
    version = master.passes_over("d/a.cfg")
    path = f"{master.root}/d/a.cfg"
    (listed,) = operate.run(master.cluster, "versions", Asked(path=str(master.root)))["versions"]
    assert (listed["version"], listed["path"], listed["size"]) == (version, path, 5)
    assert operate.run(master.cluster, "versions", Asked(path="/elsewhere"))["versions"] == []
