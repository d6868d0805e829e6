# SPDX-License-Identifier: GPL-3.0-or-later
"""Where synchronization keeps its durable state: generation, stages, kept versions, one lock."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from .. import durable
from ..settings import RUNTIME_DIR, STATE_DIR
from . import generation as generations
from .generation import Generation

KEPT_VERSIONS = 50
RECORD = ".replaced.json"
LAID_OUT = ("candidate-*", "diff-*", "dropped-*")


def new_id() -> str:
    """A generation id nobody else has."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Store:
    """Paths of one node's synchronization state; tests give it a directory of their own."""

    state: Path = STATE_DIR
    runtime: Path = RUNTIME_DIR

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

    def thaw(self) -> None:
        """The peer has it all: the frozen copies are of no use any more."""
        for copy in self.frozen.glob("*"):
            copy.unlink(missing_ok=True)

    @property
    def versions(self) -> Path:
        """What was overwritten or removed here by a pass."""
        return self.state / "versions"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """One judge at a time on this node."""
        return durable.locked(self.runtime / "sync.lock")

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
        self.retire()

    def new_version(self, why: str) -> str:
        """A new directory under versions/ for what a pass replaces; its name."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        number = 0
        while True:
            name = f"{stamp}-{number:03d}-{why[:8]}"
            try:
                (self.versions / name).mkdir(parents=True, mode=0o700)
            except FileExistsError:
                number += 1
                continue
            return name

    def retire(self) -> None:
        """Remove the oldest versions beyond the limit."""
        kept = sorted(self.versions.iterdir()) if self.versions.is_dir() else []
        for old in kept[:-KEPT_VERSIONS]:
            shutil.rmtree(old, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a kill or a power loss left of copies that are laid out to be looked at.

        Keys may be among them. For the daemon, when it starts.
        """
        left = [p for pattern in LAID_OUT for p in self.outgoing.glob(pattern)]
        for directory in (*left, *self.runtime.glob("try-*")):
            shutil.rmtree(directory, ignore_errors=True)

    def ensure(self) -> None:
        """Create the directories (0700: they hold copies of configuration, keys included)."""
        for directory in (self.incoming, self.outgoing, self.frozen, self.versions):
            directory.mkdir(parents=True, exist_ok=True)
            os.chmod(directory, 0o700)
