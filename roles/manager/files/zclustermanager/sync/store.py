# SPDX-License-Identifier: GPL-3.0-or-later
"""Where synchronization keeps its durable state: generation, stages, kept versions, one lock."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import durable
from ..settings import KEEP, RUNTIME_DIR, STATE_DIR, Keep
from . import generation as generations
from .generation import Generation

RECORD = ".replaced.json"
LAID_OUT = ("candidate-*", "diff-*", "dropped-*", "sending-*")
NEW = ".new-"
# Seconds after which copies for the peer are nobody's any more: no request takes longer.
FORGOTTEN = 86_400
NUMBER = re.compile(r"(\d{8})-")
# What a version holds: content that the master had too, and has replaced; or what exists nowhere
# else. The second is not given up for the first.
REPLACED, DRIFT, GAVE_WAY, LATE, RESTORED = "replaced", "drift", "gaveway", "late", "restored"


def new_id() -> str:
    """A generation id nobody else has."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Store:
    """Paths of one node's synchronization state; tests give it a directory of their own."""

    state: Path = STATE_DIR
    runtime: Path = RUNTIME_DIR
    limits: Keep = KEEP

    @property
    def incoming(self) -> Path:
        """Stages of passes from the peer."""
        return self.state / "incoming"

    @property
    def outgoing(self) -> Path:
        """Frozen copies of changed files, on their way to the peer."""
        return self.state / "outgoing"

    @property
    def frozen(self) -> Path:
        """Copies of what changed since the last pass, made while it was read."""
        return self.state / "outgoing" / "frozen"

    def thaw(self, wanted: Container[str] = ()) -> None:
        """Remove the frozen copies, but for contents that may still have to be sent."""
        for copy in self.frozen.glob("*"):
            if copy.name not in wanted:
                copy.unlink(missing_ok=True)

    def forget_old(self) -> None:
        """Remove copies that somebody who was killed left on their way to the peer."""
        for old in self.outgoing.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if old != self.frozen and old.stat().st_mtime < time.time() - FORGOTTEN:
                    shutil.rmtree(old, ignore_errors=True)

    @property
    def versions(self) -> Path:
        """What was overwritten or removed here by a pass."""
        return self.state / "versions"

    def lock(self, patience: float | None = None) -> contextlib.AbstractContextManager[None]:
        """One judge at a time on this node; TimeoutError after so many seconds, or never."""
        return durable.locked(self.runtime / "sync.lock", patience)

    def generation(self) -> Generation:
        """This node's generation (an empty one for a new or wiped node)."""
        return generations.undump(durable.read_json(self.state / "generation.json"))

    def save(self, generation: Generation) -> None:
        """Make a generation durable."""
        durable.write_json(self.state / "generation.json", generations.dump(generation))

    def drop(self, token: str) -> None:
        """Forget a stage, durably and at once: a half-forgotten one would be applied again."""
        stage = self.incoming / token
        gone = self.outgoing / f"dropped-{token}"
        with contextlib.suppress(FileNotFoundError):
            stage.rename(gone)
            durable.fsync_directory(self.incoming)
        shutil.rmtree(gone, ignore_errors=True)

    def new_version(self, kind: str) -> str:
        """A directory under versions/ for what a pass replaces, new until `record`; its name.

        Numbered, for a clock may be wrong; the time in the name is for people.
        """
        numbers = [int(n[1]) for p in self._all() if (n := NUMBER.match(p.name.removeprefix(NEW)))]
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = f"{max(numbers, default=0) + 1:08d}-{stamp}-{kind}"
        (self.versions / f"{NEW}{name}").mkdir(parents=True, mode=0o700)
        return name

    def version(self, name: str) -> Path:
        """Where a version is, or is being made."""
        made = self.versions / name
        return made if made.exists() else self.versions / f"{NEW}{name}"

    def record(self, name: str, replaced: list[dict[str, Any]], added: list[str]) -> None:
        """Note durably what a version is about: from now on it is one."""
        where = self.version(name)
        size = sum(entry["size"] for entry in replaced)
        document = {"replaced": replaced, "added": added, "bytes": size}
        durable.write_json(where / RECORD, document)
        if where.name != name:
            where.rename(self.versions / name)
            durable.fsync_directory(self.versions)

    def discard(self, name: str) -> None:
        """Forget a version whose pass was not begun."""
        new = self.versions / f"{NEW}{name}"
        with contextlib.suppress(FileNotFoundError):
            (self.versions / name).rename(new)
        shutil.rmtree(new, ignore_errors=True)

    def records(self) -> dict[str, dict[str, Any]]:
        """Kept versions, oldest first, with what each is about."""
        found = {kept.name: durable.read_json(kept / RECORD) for kept in self._all()}
        return {n: record for n, record in found.items() if record and not n.startswith(NEW)}

    def unfinished(self) -> list[Path]:
        """Versions whose making ended half-way."""
        return [kept for kept in self._all() if kept.name.startswith(NEW)]

    def _all(self) -> list[Path]:
        # What somebody copied out beside them is none.
        found = self.versions.iterdir() if self.versions.is_dir() else ()
        return sorted(kept for kept in found if kept.is_dir())

    def retire(self) -> None:
        """Remove the oldest versions beyond the limits; the newest of either sort stays."""
        for old in beyond(self.records(), self.limits):
            shutil.rmtree(self.versions / old, ignore_errors=True)

    def make_room(self, size: int, files: int) -> str:
        """Give up what the master has replaced, oldest first, for so much; in words what lacks."""
        versions: list[str] | None = None
        while True:
            room = os.statvfs(self.state)
            free = room.f_bavail * room.f_frsize
            # A file system without a table of inodes says that it has none at all.
            inodes = room.f_favail if room.f_files else files
            if free >= size and inodes >= files:
                return ""
            if versions is None:
                versions = [name for name in self.records() if kind(name) == REPLACED]
            if not versions:
                return f"{size} bytes and {files} inodes are needed, {free} and {inodes} are free"
            shutil.rmtree(self.versions / versions.pop(0), ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a kill or a power loss left of copies laid out to be looked at, or sent.

        Keys may be among them. For the daemon, when it starts.
        """
        left = [p for pattern in LAID_OUT for p in self.outgoing.glob(pattern)]
        for directory in (*left, *self.runtime.glob("try-*")):
            shutil.rmtree(directory, ignore_errors=True)

    def tell_verdict(self, differing: list[str], mine: str | None) -> bool:
        """Note that the peer's content and generation `mine` diverged; no paths: they did not.

        True when that is news.
        """
        verdict = {"mine": mine, "differing": differing} if differing else None
        file = self.runtime / "sync-verdict.json"
        if durable.read_json(file) == verdict:
            return False
        if verdict is None:
            file.unlink(missing_ok=True)
        else:
            durable.write_json(file, verdict)
        return True

    def verdict(self) -> list[str]:
        """Paths in which this node diverged from its peer, as far as both still have that."""
        found = durable.read_json(self.runtime / "sync-verdict.json")
        return found["differing"] if found and found["mine"] == self.generation().id else []

    def ensure(self) -> None:
        """Create the directories (0700: they hold copies of configuration, keys included)."""
        for directory in (self.incoming, self.outgoing, self.frozen, self.versions):
            directory.mkdir(parents=True, exist_ok=True)
            os.chmod(directory, 0o700)
        self.forget_old()
        self.thaw()


def kind(version: str) -> str:
    """What a version holds, by its name."""
    return version.rpartition("-")[2]


def beyond(records: dict[str, dict[str, Any]], limits: Keep) -> list[str]:
    """Versions that are too many, or too large together: counted apart for either sort."""
    gone = []
    for replaced in (True, False):
        size = 0
        mine = [name for name in sorted(records) if (kind(name) == REPLACED) == replaced]
        for number, name in enumerate(reversed(mine)):
            size += records[name].get("bytes", 0)
            if number and (number >= limits.count or size > limits.bytes):
                gone.append(name)
    return gone
