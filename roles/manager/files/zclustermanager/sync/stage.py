# SPDX-License-Identifier: GPL-3.0-or-later
"""Applying a generation: a staged pass becomes the live tree, or nothing does.

A stage is verified and durable before the first live file is touched, and from then on it is a
redo log: applying can be killed and repeated, every step moves the tree towards the same manifest.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .. import durable
from . import generation as generations
from . import tree
from .disk import Disk
from .generation import Answer, Generation
from .store import RECORD, Store
from .tree import Entry, Manifest, Scanner

FINISHED = (Answer.ACCEPT, Answer.JOIN, Answer.EQUAL)
SHA256 = re.compile(r"[0-9a-f]{64}")


class StageError(Exception):
    """The stage cannot be applied; the text says why."""


@dataclass(frozen=True)
class Stage:
    """One pass: the generation it brings and its manifest. pulled: this node asked for it."""

    token: str
    generation: Generation
    target: Manifest
    pulled: bool = False


def create(
    disk: Disk, token: str, generation: Generation, target: Manifest, *, pulled: bool = False
) -> Stage:
    """Begin a stage; earlier incomplete ones are dropped (there is one sender)."""
    for old in disk.tokens():
        if disk.marked(old, "complete") is None:
            disk.drop(old)
    offer = {
        "generation": generations.dump(generation),
        "manifest": tree.dump(target),
        "pulled": pulled,
    }
    disk.mark(token, "offer", offer)
    return Stage(token, generation, target, pulled)


def load(disk: Disk, token: str) -> Stage:
    """Find a stage again; StageError when it is not there."""
    offer = disk.marked(token, "offer")
    if offer is None:
        raise StageError(f"there is no stage {token}")
    return Stage(
        token,
        generations.undump(offer["generation"]),
        tree.undump(offer["manifest"]),
        bool(offer.get("pulled")),
    )


def needed(live: Manifest, target: Manifest) -> list[str]:
    """Contents of the target that the live tree does not have at the same path."""
    return sorted(
        {
            entry.sha256
            for path, entry in target.items()
            if entry.kind == "file" and (path not in live or live[path].sha256 != entry.sha256)
        }
    )


def outside(target: Manifest, scanner: Scanner) -> list[str]:
    """Paths of a manifest that are not below a synchronized path of this node, or are excluded."""
    return [
        path
        for path, entry in target.items()
        if os.path.normpath(path) != path
        or not any(path == root or path.startswith(root + "/") for root in scanner.roots)
        or tree.excluded(path, scanner.excludes)
        or not _sound(path, entry, target, scanner.roots)
    ]


def _sound(path: str, entry: Entry, target: Manifest, roots: tuple[str, ...]) -> bool:
    """True for an entry that an honest sender could have read from its disk.

    A parent that is no directory could be a symbolic link out of the root; a hard link could be to
    any file of the file system; a digest could be a path.
    """
    parent = target.get(os.path.dirname(path))
    linked = target.get(entry.link)
    return (
        entry.path == path
        and entry.kind in ("file", "directory", "symlink")
        and (entry.kind == "file") == bool(SHA256.fullmatch(entry.sha256))
        and (path in roots or (parent is not None and parent.kind == "directory"))
        and (
            not entry.link
            or (entry.kind == "file" and linked is not None and linked.sha256 == entry.sha256)
        )
        and (linked is None or not linked.link)
    )


def verify(disk: Disk, stage: Stage, live: Manifest) -> None:
    """Check every staged content against the manifest and make it durable; mark the stage."""
    for sha256 in needed(live, stage.target):
        found = disk.arrived(stage.token, sha256)
        if not found:
            raise StageError(f"content {sha256[:12]} did not arrive")
        if found != sha256:
            raise StageError(f"content {sha256[:12]} arrived damaged (it is {found[:12]})")
    for path, entry in sorted(live.items()):
        new = stage.target.get(path)
        goes = entry.kind == "directory" and (new is None or new.kind != "directory")
        if goes and (own := disk.own(path, live)):
            raise StageError(f"{path} was removed on the master but holds {own} of this node")
    if missing := disk.unknown_owners(stage.target):
        raise StageError(f"this node lacks {', '.join(missing)}; create them on both nodes")
    disk.settle()
    disk.mark(stage.token, "complete", True)


def begin(disk: Disk, stage: Stage, live: Manifest) -> None:
    """Keep what will be replaced, then note durably what this pass is about: the redo log.

    From here on only `redo` helps. Call it with the lock held and `live` just scanned and judged.
    """
    paths = tree.differing(live, stage.target)
    if paths:
        version = disk.version(stage.generation.id or "none")
        replaced = {path: live[path] for path in paths if path in live}
        for entry in replaced.values():
            disk.keep(version, entry)
        disk.record(version, replaced, [path for path in paths if path not in live])
        disk.settle()
    disk.mark(
        stage.token,
        "applying",
        {"paths": paths, "old": tree.dump({p: live[p] for p in paths if p in live})},
    )


def later(found: Entry | None, old: Entry | None, new: Entry | None) -> bool:
    """True for a live path that is neither what the pass replaces nor what it brings.

    Somebody wrote it since: a change of its own. (A path that is gone is half-way between kinds.)
    """
    contents = {(e.kind, e.sha256, e.target) for e in (old, new) if e is not None}
    return found is not None and (found.kind, found.sha256, found.target) not in contents


def redo(disk: Disk, stage: Stage) -> list[str]:
    """Bring every path of the redo log to its new state; returns the paths. Can be repeated."""
    log = disk.marked(stage.token, "applying")
    old, target, live = tree.undump(log["old"]), stage.target, disk.scan()
    mine = {p for p in log["paths"] if not later(live.get(p), old.get(p), target.get(p))}
    mine -= {p for p in mine if _blocked(p, live, mine)}
    paths = sorted(p for p in mine if not tree.same(live.get(p), target.get(p)))
    late = ""
    for path in _in_the_way(paths, live, target, log["paths"]):
        late = late or disk.version("late")
        disk.keep(late, live[path])
        disk.record(late, {p: live[p] for p in _in_the_way(paths, live, target, log["paths"])}, [])
        disk.settle()
        disk.remove(live[path], None)
    for path in sorted(paths, reverse=True):
        there, new = live.get(path), target.get(path)
        if there and (new is None or new.kind != there.kind):
            late = _save_late(disk, path, there, late)
            disk.remove(there, new)
    prepared = [
        (temporary, path)
        for path in paths
        if (entry := target.get(path)) is not None and not entry.link
        if (temporary := disk.prepare(entry, stage.token)) is not None
    ]
    # Durable before it gets its name: after a crash a name has old content or new, never none.
    disk.settle([temporary for temporary, _ in prepared])
    for temporary, path in prepared:
        there, new = live.get(path), target[path]
        if there is None or there.kind == new.kind:
            late = _save_late(disk, path, there, late)
        disk.rename(temporary, path)
    for path in paths:
        if (entry := target.get(path)) is not None and entry.link:
            disk.link(entry)
    for path in sorted(paths, reverse=True):
        entry = target.get(path)
        if entry is not None and entry.kind == "directory":
            disk.dress(entry)
    disk.settle(paths)
    return list(log["paths"])


def _blocked(path: str, live: Manifest, mine: set[str]) -> bool:
    """True below something that was a directory and that somebody made a file since."""
    parent = os.path.dirname(path)
    while parent in live or parent in mine:
        if parent in live and live[parent].kind != "directory" and parent not in mine:
            return True
        parent = os.path.dirname(parent)
    return False


def _in_the_way(paths: list[str], live: Manifest, target: Manifest, log: list[str]) -> list[str]:
    """What somebody wrote meanwhile into directories that go, deepest first."""
    going = {
        p
        for p in paths
        if p in live
        and live[p].kind == "directory"
        and (p not in target or target[p].kind != "directory")
    }
    extra = live.keys() - set(log)
    return sorted(
        (p for p in extra if any(p.startswith(f"{directory}/") for directory in going)),
        reverse=True,
    )


def _save_late(disk: Disk, path: str, seen: Entry | None, version: str) -> str:
    """Keep what somebody wrote between the look and the rename, in a version of its own."""
    if not disk.touched(path, seen):
        return version
    version = version or disk.version("late")
    entry = seen or Entry(path, "file", 0, "", "")
    disk.keep(version, entry)
    disk.record(version, {path: entry}, [])
    disk.settle()
    return version


def finish(disk: Disk, stage: Stage) -> None:
    """Adopt the applied generation, then forget the stage, which is the redo log until then."""
    disk.save(generations.adopt(disk.generation(), stage.generation))
    disk.drop(stage.token)


def recover(disk: Disk) -> list[str]:
    """After a crash: a pass half applied is finished, an incomplete one dropped (under the lock).

    A complete one that was not begun is finished too, unless this node has moved on from it (an
    open term, or a newer generation). Returns every path that the passes were about.
    """
    changed: list[str] = []
    tokens = disk.tokens()
    if tokens:
        disk.sweep()
    for token in tokens:
        if disk.marked(token, "complete") is None:
            disk.drop(token)
            continue
        stage = load(disk, token)
        if disk.marked(token, "applying") is None:
            mine = disk.generation()
            answer = generations.judge(mine, stage.generation, i_am_master=mine.term)
            if stage.pulled or answer not in FINISHED:
                disk.drop(token)
                continue
            begin(disk, stage, disk.scan())
        changed += redo(disk, stage)
        finish(disk, stage)
    return changed


def undo(store: Store) -> list[str]:
    """Bring back what all kept passes replaced on this node, newest first (under the lock).

    For a cluster that did not come about: the node is to be as it was before.
    """
    restored: list[str] = []
    for kept in sorted(store.versions.iterdir(), reverse=True) if store.versions.is_dir() else []:
        record = durable.read_json(kept / RECORD)
        if record is None:
            continue
        for path in sorted(record["added"], reverse=True):
            with contextlib.suppress(OSError):
                if os.path.isdir(path) and not os.path.islink(path):
                    os.rmdir(path)
                else:
                    os.unlink(path)
        replaced = tree.undump(record["replaced"])
        for path in sorted(replaced):
            put_back(replaced[path], kept / path.lstrip("/"))
        for path in sorted(replaced, reverse=True):
            tree.dress(path, replaced[path])
        restored += [*record["added"], *replaced]
        shutil.rmtree(kept)
    return restored


def put_back(entry: Entry, copy: Path) -> None:
    """Make a kept copy live again, whole."""
    os.makedirs(os.path.dirname(entry.path), exist_ok=True)
    if entry.kind == "directory":
        with contextlib.suppress(FileExistsError):
            os.mkdir(entry.path, 0o700)
        return
    if os.path.isdir(entry.path) and not os.path.islink(entry.path):
        os.rmdir(entry.path)
    temporary = os.path.join(
        os.path.dirname(entry.path), f"{tree.TEMPORARY_PREFIX}{os.urandom(16).hex()}"
    )
    shutil.copy2(copy, temporary, follow_symlinks=False)
    os.rename(temporary, entry.path)
