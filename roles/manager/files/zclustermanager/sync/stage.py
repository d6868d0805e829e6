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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from . import generation as generations
from . import tree
from .disk import Disk, DiskError
from .generation import Answer, Generation
from .store import DRIFT, GAVE_WAY, LATE, REPLACED, Store
from .tree import Entry, Manifest, Scanner

FINISHED = (Answer.ACCEPT, Answer.JOIN, Answer.EQUAL)
SHA256 = re.compile(r"[0-9a-f]{64}")


class StageError(Exception):
    """The stage cannot be applied; the text says why."""


@dataclass(frozen=True)
class Stage:
    """One pass: the generation it brings and its manifest. pulled: this node asked for it.

    paths: what it is about; then the manifest has these alone, with the directories they are in.
    """

    token: str
    generation: Generation
    target: Manifest
    pulled: bool = False
    paths: tuple[str, ...] | None = None

    def differing(self, live: Manifest) -> list[str]:
        """What it would change."""
        if self.paths is None:
            return tree.differing(live, self.target)
        return [p for p in self.paths if not tree.same(live.get(p), self.target.get(p))]


def create(
    disk: Disk,
    token: str,
    generation: Generation,
    target: Manifest,
    *,
    live: Manifest | None = None,
    pulled: bool = False,
) -> Stage:
    """Begin a stage; earlier incomplete ones are dropped (there is one sender).

    With `live` it is about what differs from that: so that it costs what changes, not the tree.
    """
    for old in disk.tokens():
        if not _verified(disk, old):
            disk.drop(old)
    paths = None if live is None else tuple(tree.differing(live, target))
    if paths is not None:
        target = _around(paths, target)
    offer = {
        "generation": generations.dump(generation),
        "manifest": tree.dump(target),
        "pulled": pulled,
        "paths": paths,
    }
    disk.mark(token, "offer", offer)
    return Stage(token, generation, target, pulled, paths)


def _around(paths: Iterable[str], target: Manifest) -> Manifest:
    """These entries, and those of the directories that they are in."""
    around: set[str] = set()
    for path in paths:
        step = path
        while step not in around and len(step) > 1:
            around.add(step)
            step = os.path.dirname(step)
    return {path: target[path] for path in around if path in target}


def load(disk: Disk, token: str) -> Stage:
    """Find a stage again; StageError when it is not there."""
    offer = disk.marked(token, "offer")
    if offer is None:
        raise StageError(f"there is no stage {token}")
    paths = offer.get("paths")
    return Stage(
        token,
        generations.undump(offer["generation"]),
        tree.undump(offer["manifest"]),
        bool(offer.get("pulled")),
        None if paths is None else tuple(paths),
    )


def needed(live: Manifest, target: Manifest, paths: Iterable[str] | None = None) -> list[str]:
    """Contents of the target that the live tree does not have at the same path."""
    return sorted(
        {
            target[path].sha256
            for path in (tree.differing(live, target) if paths is None else paths)
            if path in target
            and target[path].kind == "file"
            and (path not in live or live[path].sha256 != target[path].sha256)
        }
    )


def outside(target: Manifest, scanner: Scanner, suspects: Manifest | None = None) -> list[str]:
    """Paths of a manifest that are not below a synchronized path of this node, or are excluded.

    `suspects`: the entries that need a look.
    """
    return [
        path
        for path, entry in (target if suspects is None else suspects).items()
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
    if not _typed(entry):
        return False
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


def _typed(entry: Entry) -> bool:
    """True when every field can be written to a disk: that is no time to find out."""
    texts = (entry.path, entry.kind, entry.owner, entry.group, entry.sha256, entry.target)
    numbers = (entry.mode, entry.size, entry.mtime_ns)
    return (
        all(isinstance(text, str) and "\0" not in text for text in (*texts, entry.link))
        and all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        and 0 <= entry.mode <= 0o7777
        and abs(entry.mtime_ns) < 1 << 63
        and isinstance(entry.xattrs, dict)
        and all(tree.sound_xattr(name, value) for name, value in entry.xattrs.items())
        and not any("\0" in name or "." not in name for name in entry.xattrs)
    )


def verify(disk: Disk, stage: Stage, live: Manifest) -> None:
    """Check every staged content against the manifest and make it durable; mark the stage."""
    paths = stage.differing(live)
    for sha256 in needed(live, stage.target, paths):
        found = disk.arrived(stage.token, sha256)
        if not found:
            raise StageError(f"content {sha256[:12]} did not arrive")
        if found != sha256:
            raise StageError(f"content {sha256[:12]} arrived damaged (it is {found[:12]})")
    for path in paths:
        old, new = live.get(path), stage.target.get(path)
        goes = _is_directory(old) and not _is_directory(new)
        if goes and (own := disk.own(path, live)):
            raise StageError(f"{path} was removed on the master but holds {own} of this node")
    for path in sorted(disk.mounts() & set(paths)):
        one, other = live.get(path), stage.target.get(path)
        # Owner and mode can be changed in place.
        if one is None or other is None or (one.kind, one.sha256) != (other.kind, other.sha256):
            raise StageError(f"{path} is a mount point of this node; unmount it, or exclude it")
    if missing := disk.unknown_owners(stage.target):
        raise StageError(f"this node lacks {', '.join(missing)}; create them on both nodes")
    disk.settle()
    disk.mark(stage.token, "complete" if stage.paths is None else "verified", True)


def _verified(disk: Disk, token: str) -> bool:
    """Whether all of a stage is here.

    One that has only what changes is "complete" once it is begun, no earlier: programs from before
    there were any take every complete one for the whole tree.
    """
    return any(disk.marked(token, mark) is not None for mark in ("complete", "verified"))


def begin(disk: Disk, stage: Stage, live: Manifest) -> None:
    """Keep what will be replaced, make what is new, then note durably what this pass is about.

    From here on only `redo` helps; what a disk cannot take is found before, and nothing is begun.
    Call it with the lock held and `live` just scanned and judged.
    """
    paths, version = stage.differing(live), ""
    try:
        if paths:
            replaced = {path: live[path] for path in paths if path in live}
            disk.make_room(replaced)
            _prepare(disk, stage, paths)
            version = disk.version(_kind(disk.generation(), live))
            for path, entry in replaced.items():
                disk.keep(version, entry, goes=later(entry, None, stage.target.get(path)))
            disk.record(version, replaced, [path for path in paths if path not in live])
            disk.settle()
        _log(disk, stage, paths, live)
    except (OSError, DiskError):
        disk.drop(stage.token)
        _sweep(disk)
        if version:
            disk.discard(version)
        raise


def _kind(mine: Generation, live: Manifest) -> str:
    """What a pass replaces: what the other node had too, or what is nowhere else."""
    if tree.digest(live) != mine.digest:
        return DRIFT
    return REPLACED if mine.id is not None and mine.id == mine.known else GAVE_WAY


def _prepare(disk: Disk, stage: Stage, paths: list[str]) -> None:
    for path in paths:
        entry = stage.target.get(path)
        if entry is not None and not entry.link:
            disk.prepare(entry, stage.token)


def _log(disk: Disk, stage: Stage, paths: Iterable[str], old: Manifest) -> None:
    """What a crash needs to know: the paths, and what is about to be replaced there."""
    paths = sorted(paths)
    was = tree.dump({p: old[p] for p in paths if p in old})
    disk.mark(stage.token, "applying", {"paths": paths, "old": was})
    if disk.marked(stage.token, "complete") is None:
        disk.mark(stage.token, "complete", True)


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == "directory"


def later(found: Entry | None, old: Entry | None, new: Entry | None) -> bool:
    """True for a live path that is neither what the pass replaces nor what it brings.

    Somebody wrote it since: a change of its own. (A path that is gone is half-way between kinds.)
    """
    contents = {(e.kind, e.sha256, e.target) for e in (old, new) if e is not None}
    return found is not None and (found.kind, found.sha256, found.target) not in contents


def redo(disk: Disk, stage: Stage, *, begun_now: bool = False) -> list[str]:
    """Bring every path of the redo log to its new state; returns the paths. Can be repeated.

    begun_now: `begin` prepared everything a moment ago; else it is looked at again.
    """
    log = disk.marked(stage.token, "applying")
    old, target = tree.undump(log["old"]), stage.target
    late = Late(disk, stage.token)
    if not begun_now:
        for path in log["paths"]:
            late.let_go(path, old.get(path), target.get(path), spare=target.get(path))
    live = disk.scan()
    mine = {p for p in log["paths"] if not later(live.get(p), old.get(p), target.get(p))}
    mine = _possible(disk, stage, mine, live, begun_now=begun_now)
    paths = sorted(p for p in mine if not tree.same(live.get(p), target.get(p)))
    if extra := _in_the_way(paths, live, target, log["paths"]):
        late.keep_live([live[path] for path in extra])
        paths, old = sorted({*paths, *extra}), old | {p: live[p] for p in extra}
        _log(disk, stage, {*log["paths"], *extra}, old)
    if not begun_now:
        _prepare(disk, stage, [p for p in paths if disk.beside(stage.token, p) is None])
        disk.settle()
    bring(disk, stage.token, paths, live, target, late)
    for path in log["paths"]:
        disk.forget(stage.token, path)
    return list(log["paths"])


def bring(
    disk: Disk, token: str, paths: list[str], live: Manifest, target: Manifest, late: Late
) -> None:
    """Give paths their new state, from what was prepared and is durable; then make that durable.

    Whatever stands at a path in the moment of the exchange is looked at once it is out of the way:
    what is not what `live` says was written since, and is kept.
    """
    for path in sorted(paths, reverse=True):
        if path in live and path not in target:
            if live[path].kind == "directory":
                disk.remove_directory(path)
            else:
                disk.take_away(token, path)
                late.let_go(path, live[path], None)
    for path in paths:
        entry = target.get(path)
        if entry is None or entry.link:
            continue
        if disk.put(token, path):
            late.let_go(path, live.get(path), entry)
        elif entry.kind != "directory":
            disk.dress(entry)
    for path in paths:
        if (entry := target.get(path)) is not None and entry.link:
            disk.link(token, entry)
            disk.put(token, path)
            late.let_go(path, live.get(path), entry)
    for path in sorted(paths, reverse=True):
        entry = target.get(path)
        if entry is not None and entry.kind == "directory":
            disk.dress(entry)
    disk.settle(paths)


class Late:
    """What somebody wrote between the last look and the exchange: kept, in one version."""

    def __init__(self, disk: Disk, token: str) -> None:
        self.disk = disk
        self.token = token
        self.version = ""
        self.kept: tree.Entries = {}

    def let_go(
        self, path: str, seen: Entry | None, new: Entry | None, spare: Entry | None = None
    ) -> None:
        """Forget what stood at a path, if it is what was seen there; `spare`: not put yet."""
        found = self.disk.beside(self.token, path)
        if found is None or (spare is not None and not later(found, spare, spare)):
            return
        if later(found, seen, new) or self.disk.held(self.token, path):
            self._keep(lambda version: self.disk.keep_beside(version, self.token, path))
        self.disk.forget(self.token, path)

    def keep_live(self, entries: list[Entry]) -> None:
        """Keep what is about to be taken away and has no place in the new tree."""

        def copy(version: str) -> Manifest:
            for entry in entries:
                self.disk.keep(version, entry)
            return {entry.path: entry for entry in entries}

        self._keep(copy)

    def _keep(self, bring: Callable[[str], Manifest]) -> None:
        self.version = self.version or self.disk.version(LATE)
        self.kept.update(bring(self.version))
        self.disk.record(self.version, self.kept, [])
        self.disk.settle()


def _possible(
    disk: Disk, stage: Stage, mine: set[str], live: Manifest, *, begun_now: bool
) -> set[str]:
    """The paths that can still have their new state: the others would be in the way for ever.

    Somebody removed since, or made something else of, what a path is in, or has its content from.
    """
    target, found = stage.target, set[str]()

    def has_place(path: str) -> bool:
        parent = os.path.dirname(path)
        if parent in found:
            return True
        # What is in no new directory is a root, or goes with all that it is in.
        return live[parent].kind == "directory" if parent in live else parent not in target

    def has_content(entry: Entry) -> bool:
        if entry.link:
            other = live.get(entry.link)
            return entry.link in found or (other is not None and other.kind == "file")
        if begun_now or entry.kind != "file" or disk.beside(stage.token, entry.path) is not None:
            return True
        # What arrived may be what was put, and written to since.
        arrived = disk.arrived(stage.token, entry.sha256)
        return arrived == entry.sha256 or (not arrived and entry.path in live)

    # What is above comes first, and what is one more name of a file last.
    for path in sorted(mine, key=lambda p: (p in target and target[p].link != "", p)):
        if has_place(path) and (path not in target or has_content(target[path])):
            found.add(path)
    return found


def _in_the_way(paths: list[str], live: Manifest, target: Manifest, log: list[str]) -> list[str]:
    """What somebody wrote meanwhile into directories that go, deepest first."""
    going = {
        p
        for p in paths
        if p in live
        and live[p].kind == "directory"
        and (p not in target or target[p].kind != "directory")
    }
    if not going:
        return []
    extra = live.keys() - set(log)
    return sorted(
        (p for p in extra if any(p.startswith(f"{directory}/") for directory in going)),
        reverse=True,
    )


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
    disk.tidy()
    tokens = disk.tokens()
    if tokens:
        _sweep(disk)
    for token in tokens:
        if not _verified(disk, token):
            disk.drop(token)
            continue
        stage = load(disk, token)
        begun = disk.marked(token, "applying") is not None
        if not begun:
            mine = disk.generation()
            answer = generations.judge(mine, stage.generation, i_am_master=mine.term)
            if stage.pulled or answer not in FINISHED:
                disk.drop(token)
                continue
            try:
                begin(disk, stage, disk.scan())
            except (OSError, DiskError):
                continue  # dropped; the next pass says why
        try:
            changed += redo(disk, stage, begun_now=not begun)
        except OSError as error:
            raise StageError(
                f"a pass is half applied, and cannot be finished yet: {error}; see to what is in "
                "the way, it goes on by itself"
            ) from error
        finish(disk, stage)
    return changed


def _sweep(disk: Disk) -> None:
    """Remove what was prepared and not begun; what a begun pass moved aside is all there is."""
    logs = {token: disk.marked(token, "applying") for token in disk.tokens()}
    disk.sweep((token, path) for token, log in logs.items() if log for path in log["paths"])


def undo(store: Store) -> list[str]:
    """Bring back what all kept passes replaced on this node, newest first (under the lock).

    For a cluster that did not come about: the node is to be as it was before.
    """
    restored: list[str] = []
    for version, record in reversed(store.records().items()):
        kept = store.versions / version
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
    directory = os.path.isdir(entry.path) and not os.path.islink(entry.path)
    if entry.kind == "directory":
        if not directory:
            # What is in it must not be put back where a symbolic link leads.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
            os.mkdir(entry.path, 0o700)
        return
    if directory:
        os.rmdir(entry.path)
    temporary = os.path.join(
        os.path.dirname(entry.path), f"{tree.TEMPORARY_PREFIX}{os.urandom(16).hex()}"
    )
    shutil.copy2(copy, temporary, follow_symlinks=False)
    os.rename(temporary, entry.path)
