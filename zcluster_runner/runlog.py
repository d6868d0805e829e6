# SPDX-License-Identifier: GPL-3.0-or-later
"""The kept log of each run: 0600, without secrets; the last twenty, and five of mere looks."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from zcluster_runner import actions
from zcluster_runner.secret import Redactor

KEPT = 20
"""Logs of finished runs that stay."""

KEPT_OF_LOOKS = 5
"""Of verbs that change nothing, counted apart: a look each minute must not wipe out what a failed
create had to say."""

NAME = re.compile(r"\d{8}T\d{6}-(?P<verb>.+?)-\d+(-\d+)?\.log")

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def log_directory(environment: Mapping[str, str]) -> Path:
    """Return where logs are kept (XDG Base Directory Specification: state)."""
    home = Path(environment.get("HOME") or Path.home())
    return Path(environment.get("XDG_STATE_HOME") or home / ".local/state") / "zcluster" / "logs"


def only_looks(path: Path) -> bool:
    """Return whether a log is that of a verb that changes nothing."""
    name = NAME.fullmatch(path.name)
    action = actions.find(name["verb"].replace("-", " ")) if name else None
    return action is not None and not action.writes


def remove_old(directory: Path) -> None:
    """Remove the oldest logs; one that a run is still writing is locked, and stays."""
    logs = sorted(directory.glob("*.log"), reverse=True)  # the name begins with the time
    looks = [path for path in logs if only_looks(path)]
    others = [path for path in logs if path not in looks]
    for path in others[KEPT:] + looks[KEPT_OF_LOOKS:]:
        try:
            with path.open("rb") as log:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:
            continue


class RunLog:
    """One log file. A machine where it cannot be written runs without."""

    def __init__(self, verb: str, redactor: Redactor, environment: Mapping[str, str]) -> None:
        """Open the log of a run of ``verb``; whatever is written passes ``redactor``."""
        self.path: Path | None = None
        self._redactor = redactor
        self._directory = log_directory(environment)
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{verb.replace(' ', '-')}-{os.getpid()}.log"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # O_EXCL: never into a file, or through a link, that somebody put there
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            path = next(p for p in self._free(name) if not p.exists())
            self._stream = os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")
            fcntl.flock(self._stream, fcntl.LOCK_EX)
            self.path = path
        except OSError:
            self.path = None

    def _free(self, name: str) -> list[Path]:
        stem = name.removesuffix(".log")
        return [
            self._directory / name,
            *(self._directory / f"{stem}-{n}.log" for n in range(2, 99)),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            self._stream.close()
            remove_old(self._directory)

    def write(self, text: str) -> None:
        """Add lines; they are on their way to the disk when this returns."""
        if self.path is None or not text:
            return
        try:
            self._stream.write(self._redactor.text(COLOUR.sub("", text)).rstrip("\n") + "\n")
            self._stream.flush()
        except OSError:
            return  # a full disk must not stop a run
