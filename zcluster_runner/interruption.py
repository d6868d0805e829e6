# SPDX-License-Identifier: GPL-3.0-or-later
"""Stopping a run: Ctrl-C, SIGTERM, a closed terminal; and leaving no process behind.

ansible-runner stops by SIGKILL to one process group. Ansible's workers are sessions of their own
(ansible/executor/process/worker.py: ``_detach``), so that would leave them, and their ssh, running.
We ask Ansible first, which tells its workers; what is left after a while is killed by session.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from zcluster_runner.environment import RUN_ID_VARIABLE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

GRACE = 10.0
"""Seconds Ansible gets to stop by itself."""

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process of a run, as /proc shows it."""

    pid: int
    parent: int
    session: int
    command: str

    @property
    def is_ansible(self) -> bool:
        """Ansible itself or one of its workers (a fork, with the same command line)."""
        return "ansible-playbook" in self.command

    @property
    def is_shared_connection(self) -> bool:
        """An ssh ControlPersist master, which is meant to stay for the next run."""
        return self.command.startswith("ssh: ") and "[mux]" in self.command


def look_at(pid: int, marker: bytes) -> Process | None:
    """Return process ``pid`` if its environment holds ``marker``."""
    try:
        if marker not in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            return None
        # proc(5): the command in the middle may hold blanks and parentheses
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        command = (
            (PROC / str(pid) / "cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode("utf-8", "replace")
        )
    except (OSError, ValueError):
        return None
    return Process(pid, int(fields[1]), int(fields[3]), command)


def processes_of(run_id: str) -> list[Process]:
    """Return the processes that carry the mark of this run (none where there is no /proc)."""
    if not (PROC / "self" / "environ").exists():
        return []
    marker = f"{RUN_ID_VARIABLE}={run_id}".encode()
    found = (look_at(int(entry.name), marker) for entry in PROC.iterdir() if entry.name.isdigit())
    return [process for process in found if process and process.pid != os.getpid()]


def sessions_of(marked: list[Process]) -> set[int]:
    """Return the sessions in which Ansible and its workers run."""
    return {process.session for process in marked if process.is_ansible}


def left_over(run_id: str, known: AbstractSet[int] = frozenset()) -> list[Process]:
    """Return Ansible's processes of this run, and what runs in their sessions.

    ``known`` are sessions that were Ansible's while it ran: a worker may have ended before what it
    had started.

    A daemon that the playbook started on this machine (a lab container's monitor) has a session of
    its own and is none of our business.
    """
    marked = processes_of(run_id)
    sessions = sessions_of(marked) | known
    return [p for p in marked if p.session in sessions and not p.is_shared_connection]


def send(processes: list[Process], number: signal.Signals) -> None:
    """Send a signal to each of ``processes``; one that has ended is fine."""
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue


def clear_away(run_id: str, known: AbstractSet[int] = frozenset(), patience: float = 2.0) -> None:
    """End what is left of a run: politely, then not."""
    remaining = left_over(run_id, known)
    if not remaining:
        return
    send(remaining, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while remaining and time.monotonic() < deadline:
        time.sleep(0.05)
        remaining = left_over(run_id, known)
    send(remaining, signal.SIGKILL)


class Interruption:
    """Notices a wish to stop, and carries it out step by step each time it is polled."""

    def __init__(self, run_id: str, wanted: Callable[[], bool] | None = None) -> None:
        """Watch signals (in the main thread) and ``wanted``, the caller's own way to cancel."""
        self.run_id = run_id
        self.requests = 0
        self.sessions: set[int] = set()
        """The sessions of Ansible and its workers, seen while the run was stopped."""
        self._wanted = wanted
        self._asked_at: float | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.getsignal(number)
                if self._previous[number] is not signal.SIG_IGN:  # nohup stays nohup
                    signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.requests += 1

    def request(self) -> None:
        """Ask for the run to stop."""
        self.requests += 1

    @property
    def requested(self) -> bool:
        """Whether the run is to stop, or has been stopped."""
        return self.requests > 0

    def poll(self) -> bool:
        """Carry on with stopping, if asked; true when only force is left."""
        if self._wanted is not None and not self.requested and self._wanted():
            self.request()
        if not self.requested:
            return False
        self.sessions |= sessions_of(processes_of(self.run_id))
        if self._asked_at is None:
            main = [p for p in processes_of(self.run_id) if p.parent == os.getpid()]
            send(main, signal.SIGINT)
            self._asked_at = time.monotonic()
            return not main
        impatient = self.requests > 1
        return impatient or time.monotonic() - self._asked_at > GRACE
