# SPDX-License-Identifier: GPL-3.0-or-later
"""keepalived's own state: asked from the running process, never from a file it once wrote."""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import durable, processes
from .settings import RUNTIME_DIR

UNIT = "keepalived.service"
PID_FILE = Path("/run/keepalived.pid")


class State(enum.Enum):
    """VRRP states (RFC 5798 section 6.4) and keepalived's FAULT; numbers are keepalived's."""

    INIT = 0
    BACKUP = 1
    MASTER = 2
    FAULT = 3


@dataclass(frozen=True)
class Instance:
    """One VRRP instance as keepalived reports it."""

    name: str
    state: State
    priority: int


@dataclass(frozen=True)
class Keepalived:
    """The process and its instances. `why` is set when it could not be asked.

    realtime: whether what advertises runs before everything else; None: not known.
    """

    running: bool
    instances: tuple[Instance, ...] = ()
    why: str = ""
    realtime: bool | None = None

    @property
    def state(self) -> State | None:
        """The state of the sync group: the one all instances share, FAULT if any has it."""
        states = {instance.state for instance in self.instances}
        if not states:
            return None
        if State.FAULT in states:
            return State.FAULT
        return states.pop() if len(states) == 1 else State.INIT


def parse(text: str) -> tuple[Instance, ...]:
    """Read keepalived's JSON dump (both layouts: a list, or an object with `vrrp`)."""
    document = json.loads(text)
    entries: list[dict[str, Any]] = (
        document.get("vrrp", []) if isinstance(document, dict) else document
    )
    instances = []
    for entry in entries:
        data = entry.get("data", entry)
        number = int(data["state"])
        instances.append(
            Instance(
                name=data["iname"],
                # Higher numbers are keepalived's passing states while it starts or stops.
                state=State(number) if number in State._value2member_map_ else State.INIT,
                priority=int(data.get("effective_priority", 0)),
            )
        )
    return tuple(instances)


def runs(pid_file: Path = PID_FILE) -> bool:
    """Whether keepalived lives and is not stopped, from /proc alone (proc(5), state of a process).

    Its children are looked at too: the one that advertises is one of them.
    """
    try:
        parent = int(pid_file.read_text(encoding="ascii"))
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
        for pid in (str(parent), *children.split()):
            state = (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            )
            if state in "TtZX":
                return False
    except (OSError, ValueError, IndexError):
        return False
    return bool(children)


def realtime(pid: int, proc: Path = Path("/proc")) -> bool | None:
    """Whether a child of this keepalived has a real-time priority (proc(5), field 40 of stat).

    It asks for one at its start, and says only in the log that it was refused.
    """
    try:
        children = (proc / f"{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        fields = [
            (proc / child / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            for child in children
        ]
        return any(int(after[37]) > 0 for after in fields) if fields else None
    except (OSError, ValueError, IndexError):
        return None


def main_pid(pid_file: Path = PID_FILE, proc: Path = Path("/proc")) -> int:
    """The pid of keepalived's parent process; 0 when systemd has none.

    Its own file says it, but outlives a kill, after which the number may be another process's.
    """
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text(encoding="ascii"))
        if (proc / str(pid) / "cgroup").read_text(encoding="utf-8").strip().endswith(f"/{UNIT}"):
            return pid
    outcome = processes.run(["systemctl", "show", "--property=MainPID", "--value", UNIT])
    return int(outcome.out.strip() or 0) if outcome.ok else 0


@functools.cache
def signal_number() -> int:
    """The signal that asks for the JSON dump (keepalived(8), --signum)."""
    outcome = processes.run(["keepalived", "--signum=JSON"])
    return int(outcome.out.strip()) if outcome.ok else int(signal.SIGRTMIN) + 2


def listens(pid: int, number: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process waits for a signal, blocked (signalfd(2)) or caught (proc(5), SigBlk).

    One that is just starting does neither yet, and the signal would end it.
    """
    try:
        text = (proc / str(pid) / "status").read_text(encoding="utf-8")
    except OSError:
        return False
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s*([0-9a-f]+)$", text, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def ask(timeout: float = 2.0) -> Keepalived:
    """Ask the running keepalived for its state; at most `timeout` seconds."""
    pid = main_pid()
    if not pid:
        return Keepalived(False, why="keepalived is not running")
    # The unit has a private /tmp: only root and keepalived itself can write there.
    dump = Path(f"/proc/{pid}/root/tmp/keepalived.json")
    with durable.locked(RUNTIME_DIR / "keepalived-dump.lock"):
        deadline = time.monotonic() + timeout
        while not listens(pid, signal_number()):
            if not os.path.exists(f"/proc/{pid}"):
                return Keepalived(False, why="keepalived is not running")
            if time.monotonic() > deadline:
                return Keepalived(False, why="keepalived is starting")
            time.sleep(0.01)
        with contextlib.suppress(FileNotFoundError):
            dump.unlink()
        try:
            os.kill(pid, signal_number())
        except ProcessLookupError:
            return Keepalived(False, why="keepalived is not running")
        while time.monotonic() < deadline:
            # keepalived does not write the file in one piece: parse until it is whole.
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                instances = parse(dump.read_text(encoding="utf-8"))
                return Keepalived(True, instances, realtime=realtime(pid))
            time.sleep(0.01)
    return Keepalived(True, why=f"keepalived does not answer within {timeout:g} s")
