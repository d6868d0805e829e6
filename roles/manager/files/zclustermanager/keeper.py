# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the services as the role wants them: cold ones on the master only, hot ones on both.

A thread of the daemon, level-triggered: it compares what is with what should be, again and again.
"""

from __future__ import annotations

import enum
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import activation, durable, journal, processes, units
from .reconcile import Role
from .settings import RUNTIME_DIR, Cluster, Service
from .stepdown import StepDown
from .units import Unit

PERIOD = 1.0
# So many failures, each within so many seconds of the last: it cannot be kept alive here.
FAILURES, WITHIN = 3, 60.0
BACKOFF = (0.0, 1.0, 2.0)
SLOW_RETRY = 30.0
CHECK_EVERY, CHECK_LIMIT, BAD_CHECKS = 2.0, 5.0, 2
# Cold units start only where it is (ConditionPathExists= in their drop-in).
SERVING = RUNTIME_DIR / "serving"


class Step(enum.Enum):
    """What a service needs now."""

    NONE = "none"
    START = "start"
    STOP = "stop"
    RESTART = "restart"


@dataclass(frozen=True)
class Memory:
    """What is known of a service in this term, beside what can be looked at (monotonic times).

    ended: that it is down is the keeper's doing, nobody else's. deaths: those of the failures in
    which it ran before.
    """

    started: bool = False
    up: bool = False
    ended: bool = False
    restarts: int | None = None
    failures: tuple[float, ...] = ()
    deaths: tuple[float, ...] = ()
    bad_checks: int = 0
    checked_at: float = 0.0
    why: str = ""

    def recent(self, now: float) -> tuple[float, ...]:
        """Failures that still count: a minute without one, and all is forgiven."""
        return self.failures if self.failures and now - self.failures[-1] < WITHIN else ()

    def exhausted(self, now: float) -> bool:
        """True when it failed so often that it cannot be kept alive here."""
        return len(self.recent(now)) >= FAILURES

    def may_try(self, now: float) -> bool:
        """True when the next start is due: soon at first, then slowly and for ever."""
        recent = self.recent(now)
        if not recent:
            return True
        wait = SLOW_RETRY if self.exhausted(now) else BACKOFF[len(recent)]
        return now - recent[-1] >= wait

    def failed(self, now: float, why: str) -> Memory:
        """One more failure: it could not be started."""
        failures = (*self.recent(now), now)[-FAILURES:]
        return replace(self, up=False, failures=failures, why=why)

    def died(self, now: float, why: str) -> Memory:
        """One more failure: it ran, and does not, or not well."""
        deaths = (*self.deaths, now)[-FAILURES:]
        return replace(self.failed(now, why), deaths=deaths)

    def well(self, now: float) -> Memory:
        """It runs: what only kept it from starting is forgiven; one that dies again is not well."""
        return replace(self, failures=tuple(f for f in self.recent(now) if f in self.deaths))


def noticed(memory: Memory, unit: Unit, now: float) -> Memory:
    """The memory after a look at the unit: what died since the last one, and why."""
    if memory.restarts is not None and unit.restarts > memory.restarts:
        for _ in range(unit.restarts - memory.restarts):
            memory = memory.died(now, f"it died and systemd restarted it, {unit.restarts} times")
    elif memory.up and unit.died:
        memory = memory.died(now, f"it died: {unit.words}")
    if unit.active == "active" and not memory.bad_checks:
        memory = memory.well(now)
    return replace(
        memory,
        restarts=unit.restarts,
        up=unit.runs,
        started=memory.started or unit.runs,
        ended=memory.ended and not unit.runs,
    )


def step(service: Service, unit: Unit, memory: Memory, role: Role, now: float) -> Step:
    """What the service needs in this role."""
    if service.heartbeat:
        return Step.NONE
    if service.cold and role is not Role.MASTER:
        up = unit.active in ("active", "activating", "reloading")
        return Step.STOP if up and role is Role.BACKUP else Step.NONE
    if unit.active == "deactivating" or unit.sub == "auto-restart":
        return Step.NONE
    if unit.runs:
        broken = memory.bad_checks >= BAD_CHECKS and memory.may_try(now)
        return Step.RESTART if broken else Step.NONE
    # A unit that ended cleanly after it ran in this term was ended by somebody.
    if unit.stopped and not memory.ended and (not service.cold or memory.started):
        return Step.NONE
    return Step.START if memory.may_try(now) else Step.NONE


def failing(memory: Memory, now: float) -> str:
    """Why a service is not well; empty when it is, as far as its record says."""
    if memory.exhausted(now):
        return f"{memory.why} ({FAILURES} times in a row)"
    bad = (memory.failures and not memory.up) or memory.bad_checks >= BAD_CHECKS
    return memory.why if bad else ""


class Keeper(threading.Thread):
    """One look and at most one step for each service, again and again."""

    def __init__(self, cluster: Cluster, peer_able: Callable[[], bool]) -> None:
        super().__init__(name="keeper", daemon=True)
        self.cluster = cluster
        self.role = Role.UNKNOWN
        self.memories: dict[str, Memory] = {}
        self.stepdown = StepDown(cluster, peer_able)
        self._wake = threading.Event()
        self._told: dict[str, object] | None = None
        self._recorded: dict[str, tuple[Step, bool, str]] = {}

    def become(self, role: Role) -> None:
        """The role is this from now on; a cold start for another one is given up."""
        self.role = role
        self._wake.set()

    def close(self) -> None:
        """The daemon ends."""
        self.stepdown.end()

    def run(self) -> None:
        """For ever."""
        self.stepdown.end()
        known = activation.live()
        self.memories = {
            s.name: Memory(started=s.name in known.started, ended=s.name in known.ended)
            for s in self.cluster.services
        }
        while True:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any service
                journal.record("keeper-failed", why=f"{type(error).__name__}: {error}")
            self._wake.wait(PERIOD)
            self._wake.clear()

    def look(self) -> None:
        """One look at all services, and what follows from it."""
        role = self.role
        if role is Role.UNKNOWN:
            return
        self._turn(role)
        # What starts last is stopped first.
        services = self.cluster.services if role is Role.MASTER else self.cluster.services[::-1]
        for service in services:
            if self.role is not role:
                return
            self._keep(service, role)
        self._tell()
        now = time.monotonic()
        exhausted = {n: memory.why for n, memory in self.memories.items() if memory.exhausted(now)}
        self.stepdown.step(role, exhausted, lambda: self.role is role)

    def _turn(self, role: Role) -> None:
        """Note the role for the cold units; each term begins with a clean record."""
        if SERVING.exists() is (role is Role.MASTER):
            return
        if role is Role.MASTER:
            SERVING.touch()
        else:
            SERVING.unlink()
        self.memories = {n: Memory(ended=memory.ended) for n, memory in self.memories.items()}

    def _keep(self, service: Service, role: Role) -> None:
        now = time.monotonic()
        memory = self.memories.get(service.name, Memory())
        if not service.unit:
            self.memories[service.name] = self._watched(service, memory, now)
            return
        unit = units.look([service.unit])[service.unit]
        if service.check and unit.active == "active" and now - memory.checked_at >= CHECK_EVERY:
            memory = self._check(service, memory)
        memory = noticed(memory, unit, now)
        self.memories[service.name] = memory
        wanted = step(service, unit, memory, role, time.monotonic())
        if wanted is Step.NONE:
            return
        began = time.monotonic()
        if wanted is Step.STOP:
            done = units.stop(service.unit, service.stop_seconds)
            self.memories[service.name] = Memory()
        elif rejected := activation.validate(service):
            # What runs goes on, badly as it may: with these files it would not come up again.
            done = processes.Outcome(1, "", rejected.words(service.name))
            self.memories[service.name] = memory.failed(time.monotonic(), done.err)
        else:
            done = self._bring_up(service, memory, role, again=wanted is Step.RESTART)
        self._record(service, wanted, done, time.monotonic() - began)
        self._tell()

    def _bring_up(
        self, service: Service, memory: Memory, role: Role, *, again: bool
    ) -> processes.Outcome:
        """Start it, or stop and start it; what became of it is remembered."""
        if again:
            memory = replace(memory.died(time.monotonic(), memory.why), bad_checks=0)
        # Told before it is so: should the daemon end in between, nobody else has stopped it.
        self.memories[service.name] = replace(memory, ended=True)
        self._tell()
        if again:
            units.stop(service.unit, service.stop_seconds)
        done = units.start(
            service.unit, service.start_seconds, lambda: self.role is not role, ends=service.cold
        )
        if done.ok and not units.look([service.unit])[service.unit].runs:
            # A condition of the unit was not met: systemd calls that a success.
            done = processes.Outcome(1, "", f"{service.unit} was not started by systemd")
        if done.ok:
            memory = replace(memory, up=True, started=True, restarts=0)
        elif done.code == processes.CANCELLED:
            memory = replace(memory, ended=True)
        else:
            memory = memory.failed(time.monotonic(), units.complaint(done))
            memory = replace(memory, ended=done.code == processes.OUT_OF_TIME)
        self.memories[service.name] = memory
        return done

    def _record(self, service: Service, step: Step, done: processes.Outcome, took: float) -> None:
        """An event, unless it only says again what the latest one of this service said."""
        why = "" if done.ok else units.complaint(done)
        if self._recorded.get(service.name) == (step, done.ok, why) and not done.ok:
            return
        self._recorded[service.name] = (step, done.ok, why)
        details = {"name": service.name, "ok": done.ok, "why": why, "seconds": round(took, 3)}
        if step is Step.START:
            journal.record("service-start", **details)
        elif step is Step.STOP:
            journal.record("service-stop", **details)
        else:
            journal.record("service-restart", **details)

    def _watched(self, service: Service, memory: Memory, now: float) -> Memory:
        """A service without a unit after a look: nothing can be started, only noticed."""
        if not service.check or now - memory.checked_at < CHECK_EVERY:
            return memory
        memory = self._check(service, memory)
        if memory.bad_checks and memory.bad_checks % BAD_CHECKS == 0:
            memory = memory.died(now, memory.why)
        return replace(memory, up=memory.bad_checks == 0)

    def _check(self, service: Service, memory: Memory) -> Memory:
        done = processes.bounded(shlex.split(service.check or ""), CHECK_LIMIT)
        return replace(
            memory,
            checked_at=time.monotonic(),
            bad_checks=0 if done.ok else memory.bad_checks + 1,
            why=memory.why if done.ok else f"check: {done.finding}",
        )

    def _tell(self) -> None:
        """Write down what `activation.present` cannot see by looking."""
        now = time.monotonic()
        told: dict[str, object] = {
            "failing": {n: why for n, m in self.memories.items() if (why := failing(m, now))},
            "started": sorted(name for name, memory in self.memories.items() if memory.started),
            "ended": sorted(name for name, memory in self.memories.items() if memory.ended),
        }
        if told != self._told:
            self._told = told
            durable.write_json(activation.LIVE, told)
