# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Managed services as declared in zcluster_services: presets, keys, order; every mistake named."""

from __future__ import annotations

import re
import shlex
import typing as t
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils import _sync_paths

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@\\-]*\.(service|target|socket)")
KEEPALIVED = "keepalived.service"
STANDBY = ("hot", "cold")
ON_CHANGE = ("reload", "restart", "command", "nothing")
LONGEST = 3600.0  # seconds
# Put in place by create itself: not there yet when preflight looks.
OWN_PROGRAMS = ("zclustermanager", "/usr/sbin/zclustermanager", "keepalived")

# Name -> what is set for a service by naming it alone; each key can be said otherwise.
PRESETS: t.Dict[str, t.Dict[str, t.Any]] = {
    "haproxy": {
        "unit": "haproxy.service",
        "paths": ["/etc/haproxy"],
        "validate": "haproxy -c -f /etc/haproxy/haproxy.cfg",
    },
    "nginx": {
        "unit": "nginx.service",
        "paths": ["/etc/nginx"],
        "validate": "nginx -t -q",
    },
    # The unit's reload loads the user's ruleset and our table in one transaction (role keepalived).
    "nftables": {
        "unit": "nftables.service",
        "paths": ["/etc/nftables.conf"],
        "validate": "zclustermanager firewall",
    },
    # Virtual servers, which keepalived.conf includes; `ipvsadm` is for rules by hand.
    "ipvs": {
        "unit": "keepalived.service",
        "paths": ["/etc/ipvs"],
        "validate": "keepalived --config-test",
    },
    # Tried in a network namespace of its own: what is loaded goes on until the new is known good.
    "ipvsadm": {
        "paths": ["/etc/ipvsadm.rules"],
        "validate": "sh -c 'unshare --net ipvsadm --restore < /etc/ipvsadm.rules'",
        "on_change": "command",
        "command": "sh -c 'ipvsadm --clear && ipvsadm --restore < /etc/ipvsadm.rules'",
    },
}


@dataclass(frozen=True)
class Service:
    """A managed service, complete: presets and defaults filled in. Times are in seconds."""

    name: str
    unit: str = ""  # empty: nothing runs all the time, the command does it all
    paths: t.Tuple[str, ...] = ()
    validate: t.Optional[str] = None
    standby: str = "hot"
    on_change: str = "reload"
    command: t.Optional[str] = None
    on_promotion: t.Optional[str] = None
    check: t.Optional[str] = None
    after: t.Tuple[str, ...] = ()
    critical: bool = False
    auto_apply: bool = False
    validate_seconds: float = 30.0
    change_seconds: float = 30.0
    start_seconds: float = 30.0
    stop_seconds: float = 30.0

    @property
    def programs(self) -> t.Tuple[str, ...]:
        """The programs its commands start; those that create itself installs are left out."""
        lines = (self.validate, self.command, self.on_promotion, self.check)
        words = [shlex.split(line)[0] for line in lines if line]
        return tuple(dict.fromkeys(word for word in words if word not in OWN_PROGRAMS))


COMMANDS = ("validate", "command", "on_promotion", "check")
FLAGS = ("critical", "auto_apply")
SECONDS = ("validate_seconds", "change_seconds", "start_seconds", "stop_seconds")
LISTS = ("paths", "after")
KEYS = (
    "name", "preset", "unit", "standby", "on_change", *COMMANDS, *FLAGS, *SECONDS, *LISTS
)  # fmt: skip


class ServiceError(ValueError):
    """One entry is not usable: the field (below zcluster_services), its value, what is allowed."""

    def __init__(self, field: str, found: object, message: str, way_out: str = "") -> None:
        super().__init__(message)
        self.field, self.found, self.message = field, found, message
        self.way_out = way_out or "Correct this entry of zcluster_services."


def read(raw: t.Any, roots: t.Sequence[str]) -> Service:
    """One declared service; ServiceError names the first thing that is wrong with it."""
    said = _with_preset({"name": raw, "preset": raw} if isinstance(raw, str) else raw)
    name = said["name"]
    values: t.Dict[str, t.Any] = {"name": name, "unit": _unit(name, said)}
    for key in LISTS:
        values[key] = _list(name, key, said.get(key))
    for path in values["paths"]:
        if not any(_sync_paths.inside(path, root) for root in roots):
            raise ServiceError(
                "paths",
                path,
                f"Service {name} depends on this path, but it is in none of the synchronized "
                "paths: a change would never reach the other node.",
                "Add it to zcluster_sync_paths, or take it out of the service's paths.",
            )
    for key in COMMANDS:
        values[key] = _command(name, key, said.get(key))
    for key in FLAGS:
        values[key] = _flag(name, key, said.get(key, False))
    for key in SECONDS:
        values[key] = _seconds(name, key, said.get(key, getattr(Service, key)))
    usual = "reload" if values["unit"] else "command"
    values["standby"] = _choice(name, "standby", said.get("standby", "hot"), STANDBY)
    values["on_change"] = _choice(name, "on_change", said.get("on_change", usual), ON_CHANGE)
    service = Service(**values)
    _check_together(service)
    return service


def units(raw: t.Iterable[t.Any]) -> t.Tuple[str, ...]:
    """The systemd units of what is declared, as far as it can be read."""
    return tuple(service.unit for service in _readable(raw) if service.unit)


def programs(raw: t.Iterable[t.Any]) -> t.Tuple[str, ...]:
    """The programs that the commands of what is declared start, as far as it can be read."""
    return tuple(dict.fromkeys(p for service in _readable(raw) for p in service.programs))


def ordered(services: t.Sequence[Service]) -> t.Tuple[Service, ...]:
    """The services in the order in which they start: after what they name, else as declared."""
    known = {service.name: service for service in services}
    for service in services:
        for other in service.after:
            if other not in known:
                raise ServiceError(
                    "after",
                    other,
                    f"Service {service.name} is to start after a service that is not declared; "
                    f"declared are: {', '.join(known)}.",
                )
    done: t.Dict[str, Service] = {}
    while len(done) < len(known):
        ready = [s for n, s in known.items() if n not in done and all(o in done for o in s.after)]
        if not ready:
            cycle = _cycle(known, [name for name in known if name not in done])
            raise ServiceError(
                "after",
                " -> ".join(cycle),
                "These services are each to start after the next: none could ever be first.",
                "Take one of these names out of an `after`.",
            )
        done[ready[0].name] = ready[0]
    return tuple(done.values())


def _readable(raw: t.Iterable[t.Any]) -> t.Iterator[Service]:
    for entry in raw:
        try:
            yield read(entry, ["/"])
        except ServiceError:
            continue


def _with_preset(raw: t.Any) -> t.Dict[str, t.Any]:
    if not isinstance(raw, dict):
        raise ServiceError(
            "name",
            raw,
            "A service is the name of a preset, or a mapping with a name; "
            f"presets are: {', '.join(PRESETS)}.",
        )
    name = raw.get("name")
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ServiceError("name", name, "A service needs a name of letters, digits and - _ . @.")
    unknown = [key for key in raw if key not in KEYS]
    if unknown:
        raise ServiceError(
            str(unknown[0]),
            raw[unknown[0]],
            f"Service {name} has a key nobody knows; allowed are: {', '.join(KEYS)}.",
        )
    preset = raw.get("preset", name if name in PRESETS else None)
    if preset is not None and preset not in PRESETS:
        raise ServiceError(
            "preset",
            preset,
            f"There is no such preset; presets are: {', '.join(PRESETS)}.",
            "Name one of them, or describe the service: name, unit, paths, validate.",
        )
    return {**PRESETS.get(preset or "", {}), **raw}


def _unit(name: str, said: t.Mapping[str, t.Any]) -> str:
    unit = str(said.get("unit") or "")
    if not unit and not said.get("command"):
        unit = name
    if unit and "." not in unit:
        unit = f"{unit}.service"
    if unit and not UNIT.fullmatch(unit):
        raise ServiceError(
            "unit", unit, f"The unit of service {name} is not the name of a systemd unit."
        )
    return unit


def _list(name: str, key: str, found: t.Any) -> t.Tuple[str, ...]:
    if found in (None, ""):
        return ()
    if not isinstance(found, (list, tuple)):
        raise ServiceError(key, found, f"{key} of service {name} must be a list.")
    return tuple(str(item).rstrip("/") or "/" for item in found)


def _command(name: str, key: str, found: t.Any) -> t.Optional[str]:
    if found in (None, ""):
        return None
    try:
        words = shlex.split(found) if isinstance(found, str) else []
    except ValueError:
        words = []
    if not words or "\n" in found:
        raise ServiceError(key, found, f"{key} of service {name} must be one command line.")
    return str(found)


def _flag(name: str, key: str, found: t.Any) -> bool:
    text = str(found).lower()
    if text not in ("true", "false", "yes", "no"):
        raise ServiceError(key, found, f"{key} of service {name} must be true or false.")
    return text in ("true", "yes")


def _seconds(name: str, key: str, found: t.Any) -> float:
    try:
        seconds = 0.0 if isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        seconds = 0.0
    # "not (0 < x)" also refuses NaN.
    if not 0 < seconds <= LONGEST:
        raise ServiceError(
            key, found, f"{key} of service {name} must be above 0 and at most {LONGEST:g} seconds."
        )
    return seconds


def _choice(name: str, key: str, found: t.Any, allowed: t.Sequence[str]) -> str:
    if found not in allowed:
        raise ServiceError(
            key, found, f"{key} of service {name} must be one of: {', '.join(allowed)}."
        )
    return str(found)


def _check_together(service: Service) -> None:
    name = service.name
    if service.on_change == "command" and not service.command:
        raise ServiceError(
            "command", None, f"Service {name} is to be applied by a command, and none is given."
        )
    if service.on_change in ("reload", "restart") and not service.unit:
        raise ServiceError(
            "on_change", service.on_change, f"Service {name} has no unit that could be told."
        )
    if service.standby == "cold" and not service.unit:
        raise ServiceError(
            "standby", "cold", f"Service {name} has no unit that could be started on promotion."
        )
    if service.unit == KEEPALIVED and service.standby == "cold":
        raise ServiceError(
            "standby", "cold", f"Service {name} is keepalived, which runs on both nodes."
        )
    if service.unit == KEEPALIVED and service.on_change == "restart":
        raise ServiceError(
            "on_change", "restart", f"Service {name} is keepalived: a restart would be a takeover."
        )
    if service.critical and not (service.unit or service.check):
        raise ServiceError(
            "critical",
            True,
            f"Service {name} has neither a unit nor a check: it could never be seen to die.",
        )


def _cycle(known: t.Mapping[str, Service], left: t.Collection[str]) -> t.List[str]:
    """Names along a way that ends where it has been: each one left waits for another one left."""
    way = [next(iter(left))]
    while way[-1] not in way[:-1]:
        way.append(next(other for other in known[way[-1]].after if other in left))
    return way[way.index(way[-1]) :]
