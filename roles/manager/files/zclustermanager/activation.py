# SPDX-License-Identifier: GPL-3.0-or-later
"""Command replication: what is synchronized is validated and activated, in order, within limits.

Outcomes are kept over a reboot; how a service is now, is always looked at (see `present`).
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import durable, journal, processes, units
from .settings import RUNTIME_DIR, STATE_DIR, Cluster, Service
from .sync import tree
from .units import Unit

OUTCOMES = STATE_DIR / "services.json"
# Written by the daemon's keeper: what it cannot keep alive, what it has started, and ended.
LIVE = RUNTIME_DIR / "services.json"
# Written by the daemon's teller: which services know that this node serves, and which do not.
TOLD = RUNTIME_DIR / "told.json"
LOCK = RUNTIME_DIR / "activation.lock"


class State(enum.Enum):
    """What a service of a node is, in the words of `zcluster services`."""

    ACTIVE = "active"
    STANDBY = "standby"
    STARTING = "starting"
    REJECTED = "rejected"
    FAILED = "failed"
    STOPPED = "stopped by operator"


BAD = (State.REJECTED, State.FAILED, State.STOPPED)


@dataclass(frozen=True)
class Result:
    """What validating and activating a service came to; why: the program's own words."""

    state: State
    why: str = ""

    def words(self, name: str) -> str:
        """For a message."""
        if self.state is State.REJECTED:
            return f"rejected by {name}: {self.why}"
        if self.state is State.STOPPED:
            return f"{name} is stopped by operator"
        return f"{name} {self.state.value}" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True)
class Live:
    """What the keeper knows: services that are not well (and why), those it has started.

    ended: those that are down because it killed their start.
    """

    failing: dict[str, str] = field(default_factory=dict)
    started: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()


def depending(services: Iterable[Service], changed: Iterable[str]) -> list[Service]:
    """The services that read one of the changed paths, in the order in which they start."""
    paths = list(changed)
    return [
        service
        for service in services
        if any(
            path == mine or path.startswith(mine.rstrip("/") + "/")
            for path in paths
            for mine in service.paths
        )
    ]


def validate(service: Service) -> Result | None:
    """Ask the service's program about its configuration; None when it has nothing against it."""
    if not service.validate:
        return None
    checked = processes.bounded(shlex.split(service.validate), service.validate_seconds)
    return None if checked.ok else Result(State.REJECTED, checked.finding)


def activate(service: Service, *, master: bool) -> Result:
    """Validate, then tell the service; what runs goes on running when it rejects its new files."""
    if rejected := validate(service):
        return rejected
    ready = Result(State.ACTIVE if master else State.STANDBY)
    if service.cold and not master:
        return ready
    if service.unit:
        unit = units.look([service.unit])[service.unit]
        if service.heartbeat and not unit.runs:
            return ready
        if unit.stopped:
            # The keeper starts what it has ended itself, and then it reads the new files.
            return ready if service.name in live().ended else Result(State.STOPPED)
    done = processes.bounded(_telling(service), service.change_seconds)
    if done.code == processes.OUT_OF_TIME:
        return overdue(service)
    return ready if done.ok else Result(State.FAILED, units.complaint(done))


def overdue(service: Service) -> Result:
    """Told in vain within its limit; where systemd was to do it, that goes on."""
    return Result(
        State.FAILED, f"{service.on_change} took longer than {service.change_seconds:g} s"
    )


def _telling(service: Service) -> list[str]:
    if service.on_change == "command":
        return shlex.split(service.command or "true")
    if service.on_change == "nothing":
        return ["true"]
    if service.heartbeat:
        return ["systemctl", "reload", "--", service.unit]
    verb = "reload-or-restart" if service.on_change == "reload" else "restart"
    return ["systemctl", verb, "--", service.unit]


def alone() -> contextlib.AbstractContextManager[None]:
    """One activation at a time on this node, whoever asks for it."""
    return durable.locked(LOCK)


def run(cluster: Cluster, services: Iterable[Service], *, master: bool) -> dict[str, Result]:
    """Activate services in order and keep the outcomes; call it `alone`."""
    results = {}
    for service in services:
        began, before = time.monotonic(), outcomes().get(service.name)
        # Before it is validated: what is written meanwhile is another content.
        content = digest(cluster, service) if master or service.auto_apply else ""
        results[service.name] = result = activate(service, master=master)
        if result.state is State.FAILED:
            content = content or digest(cluster, service)
        keep({service.name: result})
        _note("declared", {service.name: declaration(service)})
        _note("contents", {service.name: content})
        # What is bad is tried again and again: said once.
        if result.state not in BAD or result != before:
            journal.record(
                "service",
                name=service.name,
                state=result.state.value,
                why=result.why,
                seconds=round(time.monotonic() - began, 3),
            )
    return results


def digest(cluster: Cluster, service: Service) -> str:
    """One digest of all that a service reads; empty while it changes too fast to be read."""
    try:
        return tree.digest(tree.Scanner(service.paths, cluster.sync_excludes).scan())
    except tree.UnstableError:
        return ""


def declaration(service: Service) -> str:
    """Changes with everything that is declared of a service."""
    return hashlib.sha256(repr(service).encode()).hexdigest()[:16]


def unknown(services: Iterable[Service]) -> list[Service]:
    """The services that were never activated here as they are declared now."""
    declared = _kept().get("declared", {})
    return [s for s in services if declared.get(s.name) != declaration(s)]


def patience(services: Iterable[Service]) -> float:
    """Seconds that activating these services may take."""
    return sum(s.validate_seconds + s.change_seconds for s in services)


def passive(
    cluster: Cluster, changed: Iterable[str], *, generation: str | None = None
) -> dict[str, Any]:
    """Activate all services that depend on the changed paths; the outcome of each, as data.

    Only then is the generation noted as activated: whatever ends this early, the activator goes on.
    """
    services = depending(cluster.services, changed)
    if not services and not generation:
        return {}
    with alone():
        results = run(cluster, services, master=False)
        if generation:
            note_activated(generation)
    return {name: _plain(result) for name, result in results.items()}


def activated() -> str | None:
    """The generation whose services were activated here last."""
    return _kept().get("generation")


def note_activated(generation: str) -> None:
    """Remember it durably."""
    _update(lambda kept: kept | {"generation": generation})


def been_here() -> bool:
    """Whether the daemon ran on this node before: a node that is new has lost nothing by a boot."""
    return bool(_kept().get("been_here"))


def note_been_here() -> None:
    """Remember it durably."""
    _update(lambda kept: kept | {"been_here": True})


def keep(results: dict[str, Result]) -> None:
    """Make outcomes durable."""
    _note("services", {name: _plain(result) for name, result in results.items()})


def contents() -> dict[str, str]:
    """The digest of what each service was told of last, where it is known."""
    found: dict[str, str] = _kept().get("contents", {})
    return found


def note_content(service: Service, content: str) -> None:
    """Take this content for the one it was told of."""
    _note("contents", {service.name: content})


def outcomes() -> dict[str, Result]:
    """The outcome of each service's last activation."""
    found: dict[str, Any] = _kept().get("services", {})
    return {name: Result(State(kept["state"]), kept["why"]) for name, kept in found.items()}


def live() -> Live:
    """What the keeper knows; nothing where it does not run."""
    kept = durable.read_json(LIVE) or {}
    told = durable.read_json(TOLD) or {}
    return Live(
        told.get("failing", {}) | kept.get("failing", {}),
        frozenset(kept.get("started", [])),
        frozenset(kept.get("ended", [])),
    )


def present(
    service: Service, unit: Unit | None, kept: Result | None, known: Live, *, master: bool
) -> Result:
    """What a service is now: its unit as it was just seen, what was found out about it before."""
    ready = Result(State.ACTIVE if master else State.STANDBY)
    idle = service.cold and not master
    down = unit is not None and not unit.runs and not idle
    stopped = (
        not service.cold or service.name in known.started
    ) and service.name not in known.ended
    # The first that applies: what does not run comes before what it runs with.
    table: tuple[tuple[object, Result | None], ...] = (
        (service.name in known.failing, Result(State.FAILED, known.failing.get(service.name, ""))),
        (idle and unit and unit.runs, Result(State.FAILED, "runs on the node that does not serve")),
        (down and unit and unit.died, Result(State.FAILED, unit.words if unit else "")),
        (down and unit and unit.stopped and stopped, Result(State.STOPPED)),
        (kept and kept.state is State.REJECTED, kept),
        (down, Result(State.STARTING, unit.words if unit else "")),
        (kept and kept.state is State.FAILED and not idle, kept),
    )
    return next((result for applies, result in table if applies and result), ready)


def report(cluster: Cluster, *, master: bool) -> list[dict[str, Any]]:
    """All services of this node as they are now, in the order in which they start."""
    seen, kept, known = units.look(s.unit for s in cluster.services), outcomes(), live()
    return [
        {
            "name": service.name,
            "standby": service.standby,
            "critical": service.critical,
            "unit": service.unit,
            "runs": bool(service.unit) and seen[service.unit].runs,
            **_plain(
                present(
                    service,
                    seen.get(service.unit),
                    kept.get(service.name),
                    known,
                    master=master,
                )
            ),
        }
        for service in cluster.services
    ]


def troubles(services: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The services of a report that are not as they should be: name -> words."""
    return {
        told["name"]: Result(State(told["state"]), told["why"]).words(told["name"])
        for told in services
        if is_bad(told)
    }


def is_bad(plain: dict[str, Any]) -> bool:
    """True for an outcome, as data, that is not as it should be."""
    return State(plain["state"]) in BAD


def _plain(result: Result) -> dict[str, Any]:
    return {"state": result.state.value, "why": result.why}


def _kept() -> dict[str, Any]:
    kept: dict[str, Any] = durable.read_json(OUTCOMES) or {}
    return kept


def _note(what: str, by_service: dict[str, Any]) -> None:
    _update(lambda kept: kept | {what: kept.get(what, {}) | by_service})


def _update(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    # Only a look: a full disk must not stop an activation.
    with contextlib.suppress(OSError), durable.locked(RUNTIME_DIR / "services.lock"):
        before = _kept()
        if (after := change(before)) != before:
            durable.write_json(OUTCOMES, after)
