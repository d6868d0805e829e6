# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator asks of synchronization on a node: each verb gives plain data to show.

`changed` in it says whether the verb changed something; with `check` it says what would be.
"""

from __future__ import annotations

import contextlib
import difflib
import getpass
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import addresses, durable, journal, observe, peer, processes
from ..settings import STATE_DIR, Cluster
from . import generation as generations
from . import tree
from .disk import DiskError, LocalDisk
from .farend import FarEnd
from .generation import Relation
from .replica import Replica
from .stage import Late, StageError, bring
from .store import RESTORED, Store, kind, new_id
from .tree import Entry, Manifest

PAUSED = STATE_DIR / "sync-paused.json"
VERSION = re.compile(r"[0-9A-Za-z-]+")
PATIENCE = 120.0
# What a version holds (store.kind), in words.
WORDS = {
    "replaced": "replaced by the master",
    "drift": "edited here, replaced by the master",
    "gaveway": "written here alone, gave way",
    "late": "written while a pass replaced it",
    "restored": "replaced by a restore",
}
# Larger files, and more of them, are named and not shown.
SHOWN_BYTES, SHOWN_FILES = 1 << 16, 50


class OperateError(Exception):
    """The verb cannot do this here and now; the text says why, and what to do."""


@dataclass(frozen=True)
class Asked:
    """What the operator said."""

    path: str = ""
    version: str = ""
    keep: str = ""
    why: str = ""
    who: str = ""
    check: bool = False


def paused() -> dict[str, Any] | None:
    """Who paused synchronization, when and why; None while it is not paused."""
    found: dict[str, Any] | None = durable.read_json(PAUSED)
    return found


def pause_words(found: dict[str, Any]) -> str:
    """A pause in words."""
    return f"paused by {found['who']}: {found['why']}"


def _local(cluster: Cluster) -> tuple[Store, LocalDisk, Replica]:
    store = Store(limits=cluster.sync_keep)
    disk = LocalDisk(store, tree.Scanner(cluster.sync_paths, cluster.sync_excludes))
    return store, disk, Replica(disk, new_id)


def wake() -> bool:
    """Have the daemon look again, at everything (it listens to SIGUSR1)."""
    return processes.run(
        ["systemctl", "kill", "--kill-whom=main", "--signal=USR1", "zcluster.service"]
    ).ok


def _serves(cluster: Cluster) -> bool:
    return bool(addresses.held(cluster))


def status(cluster: Cluster, _: Asked) -> dict[str, Any]:
    """State, lag, last pass, generation of both, differences by path."""
    daemon = observe.ask_daemon()
    told = daemon["sync"] if daemon else {"state": "unknown", "why": "the daemon does not answer"}
    mine = Store().generation()
    theirs: dict[str, Any] | None = None
    with contextlib.suppress(peer.PeerError):
        theirs = peer.ask(cluster, "generation", timeout=4.0)["generation"]
    relation = generations.compare(mine, generations.undump(theirs)).value if theirs else "unknown"
    return {
        "changed": False,
        "hostname": cluster.local.hostname,
        "role": "master" if _serves(cluster) else "backup",
        **told,
        "paused": paused(),
        "generation": {"id": mine.id, "number": mine.number, "digest": mine.digest},
        "peer_generation": {"id": theirs["id"], "number": len(theirs["ancestors"])}
        if theirs
        else None,
        "relation": relation,
        "versions": len(records := Store().records()),
        "versions_bytes": sum(record.get("bytes", 0) for record in records.values()),
        "paths": list(cluster.sync_paths),
        "excludes": list(cluster.sync_excludes),
    }


def now(cluster: Cluster, asked: Asked) -> dict[str, Any]:
    """A full pass at once, every byte read again; waits for its end. Only a master sends."""
    if not _serves(cluster):
        return {"changed": False, "state": "backup", "why": "only the master sends"}
    if found := paused():
        raise OperateError(f"synchronization is {pause_words(found)}; resume it first")
    before = observe.ask_daemon()
    if before is None:
        raise OperateError("zclustermanager does not answer; see systemctl status zcluster")
    if asked.check:
        return {"changed": False, **before["sync"]}
    wake()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        after = observe.ask_daemon()
        if after and after["sync"]["full_passes"] > before["sync"]["full_passes"]:
            if after["sync"]["state"] != "in sync":
                raise OperateError(f"{after['sync']['state']}: {after['sync']['why']}")
            changed = after["sync"]["passes"] > before["sync"]["passes"]
            return {"changed": changed, **after["sync"]}
        time.sleep(0.1)
    raise OperateError(f"the pass did not end within {PATIENCE:g} s")


def pause(_: Cluster, asked: Asked) -> dict[str, Any]:
    """Stop synchronization, durably; with who and why."""
    if not asked.why.strip():
        raise OperateError("say why: a pause is shown on both nodes until somebody resumes")
    before = paused()
    if before is not None and before["why"] == asked.why:
        return {"changed": False, "paused": before}
    found = {"who": asked.who or getpass.getuser(), "why": asked.why, "at": round(time.time())}
    if not asked.check:
        durable.write_json(PAUSED, found, mode=0o644)
        journal.record("sync-paused", who=found["who"], why=found["why"])
        wake()
    return {"changed": True, "paused": found}


def resume(_: Cluster, asked: Asked) -> dict[str, Any]:
    """End a pause."""
    before = paused()
    if before is not None and not asked.check:
        PAUSED.unlink(missing_ok=True)
        durable.fsync_directory(PAUSED.parent)
        journal.record("sync-resumed", who=asked.who or getpass.getuser())
        wake()
    return {"changed": before is not None, "paused": None}


def _inside(path: str, below: str) -> bool:
    return not below or path == below or path.startswith(below.rstrip("/") + "/")


def versions(cluster: Cluster, asked: Asked) -> dict[str, Any]:
    """What passes overwrote or removed on this node: version, path, size, digest."""
    listed = [
        {
            "version": name,
            "path": entry["path"],
            "why": WORDS.get(kind(name), kind(name)),
            "kind": entry["kind"],
            "size": entry["size"],
            "sha256": entry["sha256"][:12],
        }
        for name, record in Store().records().items()
        for entry in record["replaced"]
        if entry["kind"] != "directory" and _inside(entry["path"], asked.path)
    ]
    return {"changed": False, "hostname": cluster.local.hostname, "versions": listed}


def kept(store: Store, version: str, path: str) -> Manifest:
    """What a version keeps of a path, and below it; OperateError when it keeps nothing of it."""
    record = store.records().get(version) if VERSION.fullmatch(version) else None
    if record is None:
        raise OperateError(f"there is no version {version!r}")
    found = {p: e for p, e in tree.undump(record["replaced"]).items() if _inside(p, path)}
    if not found:
        raise OperateError(f"version {version} keeps nothing of {path}")
    return found


def freeze_kept(store: Store, version: str, path: str, directory: Path) -> Manifest:
    """Copy what a version keeps of a path into a directory, each content under its SHA-256.

    As it is now: who had a file open when it was replaced may have written to it since.
    """
    found = {**kept(store, version, path)}
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, entry in found.items():
        if entry.kind == "file":
            with tempfile.NamedTemporaryFile(dir=directory, delete=False) as copy:
                sha256, info = tree.digest_file(f"{store.versions / version}{name}", copy.fileno())
            os.rename(copy.name, directory / sha256)
            found[name] = replace(entry, sha256=sha256, size=info.st_size)
    return found


def restore(cluster: Cluster, asked: Asked) -> dict[str, Any]:
    """Bring PATH back as VERSION keeps it, on the master; from there it is replicated."""
    if not _serves(cluster):
        raise OperateError(
            f"{cluster.local.hostname} is backup: restore on the master, {cluster.peer.hostname}"
        )
    if not asked.path or not VERSION.fullmatch(asked.version):
        raise OperateError("say what, and which of it: PATH@VERSION, as `sync versions` lists it")
    store, disk, replica = _local(cluster)
    # Not among the stages: to them, what has no mark is what a crash left.
    with _scratch(store, "restore") as contents:
        try:
            entries = freeze_kept(store, asked.version, asked.path, contents)
        except OperateError:
            entries = FarEnd(cluster, store).take_kept(asked.version, asked.path, contents)
        if gone := [p for p in entries if not any(_inside(p, r) for r in cluster.sync_paths)]:
            raise OperateError(f"{gone[0]} is not synchronized any more: copy it by hand")
        with disk.lock():
            live = disk.scan()
            paths = [p for p in sorted(entries) if not tree.same(live.get(p), entries[p])]
            if paths and not asked.check:
                _write(disk, contents, live, entries, paths)
    if paths and not asked.check:
        replica.observe()
        journal.record("sync-restored", version=asked.version, paths=paths[:20])
        wake()
    return {"changed": bool(paths), "restored": paths, "version": asked.version}


def _write(
    disk: LocalDisk, contents: Path, live: Manifest, entries: Manifest, paths: list[str]
) -> None:
    replaced = {p: live[p] for p in paths if p in live}
    disk.make_room(replaced)
    version = disk.version(RESTORED)
    for entry in replaced.values():
        disk.keep(version, entry)
    disk.record(version, replaced, [p for p in paths if p not in live])
    token = uuid.uuid4().hex
    target = {p: replace(e, link="") for p, e in {**live, **entries}.items()}
    try:
        for path in paths:
            disk.make(target[path], contents, token)
        disk.settle()
        bring(disk, token, paths, live, target, Late(disk, token))
    finally:
        for path in paths:
            disk.forget(token, path)


def resolve(cluster: Cluster, asked: Asked) -> dict[str, Any]:
    """After divergence: show what differs; with `keep` this node's content is that of both.

    What gives way is kept on the other node, under versions.
    """
    store, disk, replica = _local(cluster)
    far = FarEnd(cluster, store)
    known = (cluster.local.hostname, cluster.peer.hostname)
    if asked.keep and asked.keep not in known:
        raise OperateError(f"keep is {asked.keep!r}; it must be one of {', '.join(known)}")
    relation, theirs = far.fetch(store.generation())
    differing = _difference(cluster, disk, far, theirs.manifest)
    answer: dict[str, Any] = {
        "changed": False,
        "hostname": cluster.local.hostname,
        "peer": cluster.peer.hostname,
        "relation": relation.value,
        "differing": differing,
    }
    if relation is not Relation.DIVERGED or asked.keep != cluster.local.hostname:
        return answer
    if asked.check:
        return answer | {"changed": True}
    try:
        generation = replica.keep_mine(theirs.generation)
    except StageError as error:
        raise OperateError(str(error)) from error
    journal.record("sync-resolved", keep=asked.keep, generation=generation.id)
    wake()
    gives_way = cluster.peer.hostname
    return answer | {"changed": True, "gives_way": gives_way, "relation": _until_one(cluster)}


def _until_one(cluster: Cluster) -> str:
    """Wait until both nodes have one generation; how they stand then."""
    deadline = time.monotonic() + PATIENCE / 2
    relation = generations.Relation.AHEAD
    while time.monotonic() < deadline and relation is not Relation.SAME:
        time.sleep(0.2)
        with contextlib.suppress(peer.PeerError):
            theirs = peer.ask(cluster, "generation", timeout=4.0)["generation"]
            relation = generations.compare(Store().generation(), generations.undump(theirs))
    return relation.value


def _difference(
    cluster: Cluster, disk: LocalDisk, far: FarEnd, theirs: Manifest
) -> list[dict[str, str]]:
    """Each differing path, with a diff where everybody may read it, else with digests."""
    ours = disk.scan()
    paths = tree.differing(ours, theirs)
    readable = [
        p
        for p in paths[:SHOWN_FILES]
        if _public(p, ours)
        and _public(p, theirs)
        and all(
            e is None or (e.kind == "file" and e.mode & 0o004 and e.size <= SHOWN_BYTES)
            for e in (ours.get(p), theirs.get(p))
        )
    ]
    need = sorted({theirs[p].sha256 for p in readable if p in theirs})
    shown = []
    with _scratch(disk.store, "diff") as directory:
        if need:
            far.take(need, directory)
        for path in paths:
            mine, other = ours.get(path), theirs.get(path)
            text = ""
            if path in readable:
                text = _diff(
                    _lines(Path(path)) if mine else [],
                    _lines(directory / other.sha256) if other else [],
                    f"{path} on {cluster.local.hostname}",
                    f"{path} on {cluster.peer.hostname}",
                )
            shown.append({"path": path, "here": _words(mine), "there": _words(other), "diff": text})
    return shown


def _public(path: str, manifest: Manifest) -> bool:
    """Whether everybody may pass through the directories above a path."""
    while (path := os.path.dirname(path)) in manifest:
        if not manifest[path].mode & 0o001:
            return False
    return True


@contextlib.contextmanager
def _scratch(store: Store, use: str) -> Iterator[Path]:
    directory = store.outgoing / f"{use}-{uuid.uuid4().hex}"
    directory.mkdir(parents=True, mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ["(not text)"]


def _diff(ours: list[str], theirs: list[str], here: str, there: str) -> str:
    return "\n".join(difflib.unified_diff(ours, theirs, here, there, lineterm="", n=2))


def _words(entry: Entry | None) -> str:
    if entry is None:
        return "absent"
    content = f"sha256 {entry.sha256[:12]}, {entry.size} bytes" if entry.kind == "file" else ""
    target = f"to {entry.target}" if entry.kind == "symlink" else ""
    owner = f"{entry.owner}:{entry.group} {entry.mode:04o}"
    return " ".join(part for part in (entry.kind, content, target, owner) if part)


VERBS: dict[str, Callable[[Cluster, Asked], dict[str, Any]]] = {
    "status": status,
    "now": now,
    "pause": pause,
    "resume": resume,
    "versions": versions,
    "restore": restore,
    "resolve": resolve,
}


def text(verb: str, answer: dict[str, Any]) -> str:
    """An answer for a person on the node itself."""
    if verb == "versions":
        rows = [
            f"{v['path']}@{v['version']}  {v['size']} bytes  {v['why']}" for v in answer["versions"]
        ]
        return "\n".join(rows) or "nothing is kept"
    if verb == "resolve":
        rows = [
            f"{d['path']}: {d['here']} here, {d['there']} there"
            + (f"\n{d['diff']}" if d["diff"] else "")
            for d in answer["differing"]
        ]
        gave = answer.get("gives_way")
        kept = [f"what {gave} had is kept there: zcluster sync versions"] if gave else []
        return "\n".join([f"this node is {answer['relation']}", *rows, *kept])
    if verb == "restore":
        return "\n".join(answer["restored"]) or "nothing to restore: it is what is live"
    if verb in ("pause", "resume"):
        return pause_words(answer["paused"]) if answer["paused"] else "not paused"
    return f"{answer['state']}{': ' if answer['why'] else ''}{answer['why']}"


def run(cluster: Cluster, verb: str, asked: Asked) -> dict[str, Any]:
    """One verb; OperateError in words for whatever is in its way."""
    path = asked.path
    if path and (os.path.normpath(path) != path or not path.startswith("/")):
        raise OperateError(f"path is {path!r}; it must be absolute and in its plain form")
    try:
        return VERBS[verb](cluster, asked)
    except (peer.PeerError, StageError, DiskError, OSError) as error:
        raise OperateError(str(error)) from error
