# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd's units as the managed services need them: how they are, bounded starts and stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import processes
from .processes import Outcome

PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "NRestarts",
    "InactiveEnterTimestampMonotonic", "ExecMainStatus",
)  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """One look at a unit (systemctl(1), show); `result` says how it ended last."""

    name: str
    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    enabled: str = ""
    restarts: int = 0
    ran: bool = False

    @property
    def runs(self) -> bool:
        """True for a unit that is up, or on its way up or through a reload."""
        return self.active in ("active", "activating", "reloading") and self.sub != "auto-restart"

    @property
    def stopped(self) -> bool:
        """True when somebody stopped it: it ended cleanly in this boot, or is switched off."""
        down = self.active == "inactive" and self.result == "success"
        return down and (self.ran or self.enabled == "disabled")

    @property
    def died(self) -> bool:
        """True when it ended by itself and is not coming back by itself."""
        return self.active == "failed"

    @property
    def words(self) -> str:
        """How it is, in systemd's words."""
        why = f", {self.result}" if self.result != "success" else ""
        return f"{self.active} ({self.sub}{why})"


def parse(text: str) -> dict[str, Unit]:
    """Read the output of `systemctl show` for several units: paragraphs of KEY=VALUE."""
    units = {}
    for paragraph in text.split("\n\n"):
        found = dict(line.split("=", 1) for line in paragraph.splitlines() if "=" in line)
        if "Id" not in found:
            continue
        units[found["Id"]] = Unit(
            name=found["Id"],
            load=found.get("LoadState", ""),
            active=found.get("ActiveState", ""),
            sub=found.get("SubState", ""),
            result=found.get("Result", "success"),
            enabled=found.get("UnitFileState", ""),
            restarts=int(found.get("NRestarts") or 0),
            ran=int(found.get("InactiveEnterTimestampMonotonic") or 0) > 0,
        )
    return units


def look(names: Iterable[str]) -> dict[str, Unit]:
    """How these units are now, by one question; a unit systemd does not tell about is not there."""
    wanted = sorted({name for name in names if name})
    if not wanted:
        return {}
    said = processes.run(
        ["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *wanted], timeout=10.0
    )
    found = parse(said.out)
    return {name: found.get(name, Unit(name)) for name in wanted}


def start(
    name: str, limit: float, cancelled: Callable[[], bool] = lambda: False, *, ends: bool = True
) -> Outcome:
    """Start a unit within `limit` seconds. What hangs is killed, so that the next one can start.

    ends: a start that is cancelled ends; else it goes on, and only the wait for it is over.
    """
    processes.run(["systemctl", "reset-failed", "--", name])
    done = processes.bounded(["systemctl", "start", "--", name], limit, cancelled)
    if done.code == processes.CANCELLED and ends:
        end(name)
    elif done.code == processes.OUT_OF_TIME:
        end(name)
        return Outcome(done.code, "", f"{name} did not start within {limit:g} s")
    return done


def stop(name: str, limit: float) -> Outcome:
    """Stop a unit within `limit` seconds, by force in the end."""
    done = processes.run(["systemctl", "stop", "--", name], timeout=limit)
    return end(name) if done.code == processes.OUT_OF_TIME else done


def end(name: str) -> Outcome:
    """Kill all of a unit; the stop cancels a start that is still waiting."""
    processes.run(["systemctl", "stop", "--no-block", "--", name])
    processes.run(["systemctl", "kill", "--signal=SIGKILL", "--", name])
    done = processes.run(["systemctl", "stop", "--", name], timeout=10.0)
    # That it was killed was wanted: it is no failure of the unit.
    processes.run(["systemctl", "reset-failed", "--", name])
    return done


def stopping() -> bool:
    """Whether this node is on its way down: no unit can be told anything any more."""
    return processes.run(["systemctl", "is-system-running"]).out.strip() == "stopping"


def complaint(done: Outcome) -> str:
    """Why systemctl(1) failed: the line that names the unit, not the advice after it."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    return lines[0] if lines and lines[-1].startswith("See ") else done.finding
