# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings given to ``configure``, worked out against the inventory.

The run gets them as extra variables; only when it went through are they written (persisting.py),
so that what was refused is nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zcluster_runner.actions import Action, Goes
from zcluster_runner.errors import UsageError
from zcluster_runner.persisting import NAME, Variables


def hosts_of(found: Variables, cluster: str) -> tuple[str, Variables]:
    """Return the cluster's name and its hosts' variables; it must be clear which is meant."""
    names = list(dict.fromkeys(str(v[NAME]) for v in found.values() if v.get(NAME)))
    if not cluster and len(names) > 1:
        raise UsageError(f"the inventory has several clusters, say --cluster: {', '.join(names)}")
    wanted = cluster or (names[0] if names else "")
    return wanted, {host: v for host, v in found.items() if v.get(NAME) == wanted}


def settings(action: Action, values: Mapping[str, Any], hosts: Variables) -> dict[str, Any]:
    """Return the variables of the inventory that these parameters mean, with their new values."""
    before: Mapping[str, Any] = next(iter(hosts.values()), {})
    wanted: dict[str, Any] = {}
    for param in action.params:
        if param.goes is not Goes.SETTING or param.name not in values:
            continue
        value = values[param.name]
        if param.changes_list:
            listed = before.get(param.variable) or []
            wanted[param.variable] = edited(param.option, list(listed), value)
        else:
            wanted[param.variable] = value
    return wanted


def address(entry: Any) -> str:
    """Return the address of an entry of a list: 192.0.2.1 of 192.0.2.1/24@eth0."""
    text = str(entry.get("address") if isinstance(entry, Mapping) else entry)
    return text.partition("@")[0].partition("/")[0]


def entry(text: str) -> Any:
    """Return an entry as the inventory has it: a mapping where the interface was named."""
    value, _, interface = text.partition("@")
    return {"address": value, "interface": interface} if interface else value


def edited(option: str, listed: list[Any], changes: Iterable[tuple[str, str]]) -> list[Any]:
    """Return the list with entries added and removed; both may be so already."""
    for what, text in changes:
        same = [known for known in listed if address(known) == address(text)]
        if what == "add" and not same:
            listed = [*listed, entry(text)]
        elif what == "remove":
            if not same and not any(w == "add" and address(t) == address(text) for w, t in changes):
                shown = ", ".join(str(address(known)) for known in listed) or "none"
                raise UsageError(f"{option} remove {text}: it is not there; there are: {shown}")
            listed = [known for known in listed if known not in same]
    return listed
