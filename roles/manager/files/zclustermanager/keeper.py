# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the services as the role wants them: cold ones on the master only, hot ones on both.

A thread of the daemon, level-triggered: it compares what is with what should be, again and again.
"""

from __future__ import annotations

import contextlib
import enum
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import activation, durable, journal, peer, processes, units
from .activation import State
from .reconcile import Role
from .settings import RUNTIME_DIR, Cluster, Service
from .units import Unit

PERIOD = 1.0
# So many failures, each within so many seconds of the last: it cannot be kept alive here.
FAILURES, WITHIN = 3, 60.0
BACKOFF = (0.0, 1.0, 2.0)
SLOW_RETRY = 30.0
CHECK_EVERY, CHECK_LIMIT, BAD_CHECKS = 2.0, 5.0, 2
# A node that gave up mastership for a service does not do so again for this long, and is not given
# it for one: two nodes on which the same service dies must not hand the virtual IPs back and forth.
FLAP_GUARD = 300.0
FAULT_LONGEST = 10.0
# Cold units start only where it is (ConditionPathExists= in their drop-in).
SERVING = RUNTIME_DIR / "serving"
# Tracked by keepalived with weight 0: not 0 means this node does not serve.
FAULT = RUNTIME_DIR / "service-fault"
GAVE_UP = RUNTIME_DIR / "gave-up"


class Step(enum.Enum):
    """What a service needs now."""

    NONE = "none"
    START = "start"
    STOP = "stop"
    RESTART = "restart"


@dataclass(frozen=True)
class Memory:
    """What is known of a service in this term, beside what can be looked at (monotonic times)."""

    started: bool = False
    up: bool = False
    restarts: int | None = None
    failures: tuple[float, ...] = ()
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
        """One more failure."""
        failures = (*self.recent(now), now)[-FAILURES:]
        return replace(self, up=False, failures=failures, why=why)


def noticed(memory: Memory, unit: Unit, now: float) -> Memory:
    """The memory after a look at the unit: what died since the last one, and why."""
    if memory.restarts is not None and unit.restarts > memory.restarts:
        for _ in range(unit.restarts - memory.restarts):
            memory = memory.failed(now, f"it died and systemd restarted it, {unit.restarts} times")
    elif memory.up and unit.died:
        memory = memory.failed(now, f"it died: {unit.words}")
    return replace(
        memory, restarts=unit.restarts, up=unit.runs, started=memory.started or unit.runs
    )


def step(service: Service, unit: Unit, memory: Memory, role: Role, now: float) -> Step:
    """What the service needs in this role."""
    if service.cold and role is not Role.MASTER:
        up = unit.active in ("active", "activating", "reloading")
        return Step.STOP if up and role is Role.BACKUP else Step.NONE
    if unit.active == "deactivating" or unit.sub == "auto-restart":
        return Step.NONE
    if unit.runs:
        broken = memory.bad_checks >= BAD_CHECKS and memory.may_try(now)
        return Step.RESTART if broken else Step.NONE
    # A unit that ended cleanly after it ran in this term was ended by somebody.
    if unit.stopped and (not service.cold or memory.started):
        return Step.NONE
    return Step.START if memory.may_try(now) else Step.NONE


def gives_up(
    service: Service, memory: Memory, role: Role, now: float, gave_up: float | None
) -> bool:
    """True when this node should leave mastership for a critical service it cannot keep alive.

    gave_up: seconds since it did so last; None: never.
    """
    guarded = gave_up is not None and gave_up < FLAP_GUARD
    return service.critical and role is Role.MASTER and memory.exhausted(now) and not guarded


def fault_ends(
    since: float, now: float, *, peer_master: bool | None, returns_at_once: bool
) -> bool:
    """Whether the fault is taken away: the peer serves, is silent, or did not take over in time.

    With failback to this node it would be master again at once: then it lasts a good while.
    """
    if peer_master is None:
        return True
    if peer_master:
        return not returns_at_once or now - since >= FLAP_GUARD
    return now - since >= FAULT_LONGEST


@dataclass
class Health:
    """What the peer says before mastership is left to it."""

    reachable: bool = False
    master: bool | None = None
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    gave_up: float | None = None

    def can_take(self, service: Service) -> bool:
        """True when the service has a better chance there.

        A hot one that runs there has, even where it rejects the files that killed it here.
        """
        told = self.services.get(service.name, {})
        hot = service.unit and not service.cold
        well = told.get("runs") if hot else told.get("state") == State.STANDBY.value
        guarded = self.gave_up is not None and self.gave_up < FLAP_GUARD
        return bool(self.reachable and self.master is False and well and not guarded)


def gave_up_ago() -> float | None:
    """Seconds since this node gave up mastership for a service; None: not since it booted."""
    told = durable.read_json(GAVE_UP)
    return None if told is None else max(0.0, time.monotonic() - float(told["at"]))


class Keeper(threading.Thread):
    """One look and at most one step for each service, again and again."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="keeper", daemon=True)
        self.cluster = cluster
        self.role = Role.UNKNOWN
        self.memories: dict[str, Memory] = {}
        self._wake = threading.Event()
        self._fault_since: float | None = None
        self._told: dict[str, object] | None = None

    def become(self, role: Role) -> None:
        """The role is this from now on; what is being started for another one is given up."""
        self.role = role
        self._wake.set()

    def close(self) -> None:
        """The daemon ends: nobody would take the fault away any more."""
        self._set_fault(None)

    def run(self) -> None:
        """For ever."""
        self._set_fault(None)
        known = activation.live()
        self.memories = {
            s.name: Memory(started=s.name in known.started) for s in self.cluster.services
        }
        while True:
            try:
                self._once()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any service
                journal.record("keeper-failed", why=f"{type(error).__name__}: {error}")
            self._wake.wait(PERIOD)
            self._wake.clear()

    def _once(self) -> None:
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
        self._leave_or_stay(role)

    def _turn(self, role: Role) -> None:
        """Note the role for the cold units; at a promotion tell the services that ask for it."""
        if role is Role.BACKUP:
            if SERVING.exists():
                SERVING.unlink()
                self.memories = {s.name: Memory() for s in self.cluster.services}
            return
        if SERVING.exists():
            return
        SERVING.touch()
        self.memories = {s.name: Memory() for s in self.cluster.services}
        for service in self.cluster.services:
            if service.on_promotion and self.role is role:
                done = processes.bounded(
                    shlex.split(service.on_promotion), service.change_seconds, self._not(role)
                )
                if not done.ok:
                    journal.record("on-promotion-failed", name=service.name, why=done.finding)

    def _not(self, role: Role) -> Callable[[], bool]:
        return lambda: self.role is not role

    def _keep(self, service: Service, role: Role) -> None:
        now = time.monotonic()
        if not service.unit:
            self._watch(service, now)
            return
        unit = units.look([service.unit])[service.unit]
        memory = noticed(self.memories.get(service.name, Memory()), unit, now)
        if service.check and unit.runs and now - memory.checked_at >= CHECK_EVERY:
            memory = self._check(service, memory)
        self.memories[service.name] = memory
        wanted = step(service, unit, memory, role, time.monotonic())
        if wanted is Step.NONE:
            return
        began = time.monotonic()
        if wanted is Step.STOP:
            done = units.stop(service.unit, service.stop_seconds)
            memory = Memory()
        else:
            if wanted is Step.RESTART:
                units.stop(service.unit, service.stop_seconds)
                memory = replace(memory.failed(now, memory.why), bad_checks=0)
            done = self._start(service, role)
            if self.role is not role:
                return
            why = "" if done.ok else units.complaint(done)
            now = time.monotonic()
            memory = (
                replace(memory, up=True, started=True, restarts=0)
                if done.ok
                else memory.failed(now, why)
            )
        self.memories[service.name] = memory
        journal.record(
            f"service-{wanted.value}",
            name=service.name,
            ok=done.ok,
            why="" if done.ok else units.complaint(done),
            seconds=round(time.monotonic() - began, 3),
        )
        self._tell()

    def _watch(self, service: Service, now: float) -> None:
        """A service without a unit: nothing can be started, only noticed."""
        memory = self.memories.get(service.name, Memory())
        if service.check and now - memory.checked_at >= CHECK_EVERY:
            memory = self._check(service, memory)
            if memory.bad_checks >= BAD_CHECKS:
                memory = replace(memory.failed(now, memory.why), bad_checks=0)
            self.memories[service.name] = replace(memory, up=memory.bad_checks == 0)

    def _start(self, service: Service, role: Role) -> processes.Outcome:
        if rejected := activation.validate(service):
            return processes.Outcome(1, "", rejected.words(service.name))
        done = units.start(service.unit, service.start_seconds, self._not(role))
        if done.ok and not units.look([service.unit])[service.unit].runs:
            # A condition of the unit was not met: systemd calls that a success.
            return processes.Outcome(1, "", f"{service.unit} was not started by systemd")
        return done

    def _check(self, service: Service, memory: Memory) -> Memory:
        done = processes.bounded(shlex.split(service.check or ""), CHECK_LIMIT)
        return replace(
            memory,
            checked_at=time.monotonic(),
            bad_checks=0 if done.ok else memory.bad_checks + 1,
            why=memory.why if done.ok else f"check: {done.finding}",
        )

    def _failing(self) -> dict[str, str]:
        now = time.monotonic()
        found = {}
        for name, memory in self.memories.items():
            if memory.exhausted(now):
                found[name] = f"{memory.why} ({FAILURES} times in a row)"
            elif (memory.failures and not memory.up) or memory.bad_checks >= BAD_CHECKS:
                found[name] = memory.why
        return found

    def _tell(self) -> None:
        """Write down what `activation.present` cannot see by looking."""
        told: dict[str, object] = {
            "failing": self._failing(),
            "started": sorted(n for n, memory in self.memories.items() if memory.started),
        }
        if told != self._told:
            self._told = told
            durable.write_json(activation.LIVE, told)

    def _look_at_peer(self) -> Health:
        try:
            said = peer.ask(self.cluster, "ping", timeout=3.0)
        except peer.PeerError:
            return Health()
        return Health(
            True,
            bool(said["master"]),
            {told["name"]: told for told in said.get("services", [])},
            said.get("gave_up"),
        )

    def _leave_or_stay(self, role: Role) -> None:
        now = time.monotonic()
        if self._fault_since is not None:
            seen = self._look_at_peer()
            returns = self.cluster.failback == self.cluster.local.hostname
            if fault_ends(self._fault_since, now, peer_master=seen.master, returns_at_once=returns):
                self._set_fault(None)
            return
        for service in self.cluster.services:
            memory = self.memories.get(service.name, Memory())
            if not gives_up(service, memory, role, now, gave_up_ago()):
                continue
            if self._look_at_peer().can_take(service) and self.role is role:
                journal.record("gives-up", service=service.name, why=memory.why)
                durable.write_json(GAVE_UP, {"at": time.monotonic(), "service": service.name})
                self._set_fault(now)
                return

    def _set_fault(self, since: float | None) -> None:
        self._fault_since = since
        # Not renamed into place: keepalived watches the file (inotify(7)).
        with contextlib.suppress(OSError):
            if since is not None or FAULT.exists():
                FAULT.write_text("0\n" if since is None else "1\n", encoding="ascii")
