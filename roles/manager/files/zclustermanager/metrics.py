# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics for Prometheus: one text file for node_exporter's textfile collector.

Names and units as Prometheus wants them (prometheus.io/docs/practices/naming): base units, `_total`
for counters, `_info` for what is only labels. docs/metrics.md lists them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "zcluster.prom"
ROLES = ("master", "backup", "maintenance", "fault")
STATUSES = ("ok", "maintenance", "failure")
SYNC_STATES = ("in sync", "pending", "paused", "failed", "diverged")


@dataclass(frozen=True)
class Figures:
    """What is not in the status object. Seconds; None: not known, so not told."""

    transitions: Mapping[str, int] = field(default_factory=dict)
    sync_lag: float | None = None
    conntrack_entries: int | None = None
    conntrack_limit: int | None = None
    conntrack_link: bool | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


METRICS: dict[str, tuple[str, str]] = {
    "zcluster_role": ("gauge", "Role of this node: 1 for the one it has."),
    "zcluster_status": ("gauge", "Status of this node: 1 for the one it has."),
    "zcluster_check_ok": ("gauge", "Each probed fact: 1 if it is as it should be."),
    "zcluster_vips": ("gauge", "Virtual IPs that this node should hold, and holds."),
    "zcluster_peer_reachable": ("gauge", "Whether the peer answers on the cluster link."),
    "zcluster_role_transitions_total": (
        "counter",
        "Changes of role since zclustermanager started.",
    ),
    "zcluster_sync_state": ("gauge", "Synchronization: 1 for the state it is in."),
    "zcluster_sync_lag_seconds": (
        "gauge",
        "How long configuration has not been in sync; 0 when it is.",
    ),
    "zcluster_conntrack_entries": ("gauge", "Connections in the kernel's table."),
    "zcluster_conntrack_entries_limit": ("gauge", "Connections the kernel's table can hold."),
    "zcluster_conntrack_link_up": ("gauge", "Whether connection tracking hears its peer."),
    "zcluster_version_info": ("gauge", "Installed versions, as labels."),
    "zcluster_probed_timestamp_seconds": ("gauge", "When all this was probed (Unix time)."),
}
"""Every metric: its type and what it is (docs/metrics.md)."""

Samples = list[tuple[dict[str, str], float]]


def samples(answer: Mapping[str, Any], figures: Figures, at: float) -> dict[str, Samples]:
    """The samples of each metric. answer: the node's status object; at: seconds since the epoch."""
    peer = answer.get("peer") or {}
    return {
        "zcluster_role": _states("role", ROLES, answer["role"]),
        "zcluster_status": _states("status", STATUSES, answer["status"]),
        "zcluster_check_ok": [({"check": c["name"]}, float(c["ok"])) for c in answer["checks"]],
        "zcluster_vips": [
            ({"state": state}, len(answer[f"vips_{state}"])) for state in ("expected", "held")
        ],
        "zcluster_peer_reachable": _one(bool(peer.get("reachable"))),
        "zcluster_role_transitions_total": [
            ({"to": role}, n) for role, n in sorted(figures.transitions.items())
        ],
        "zcluster_sync_state": _states("state", SYNC_STATES, answer["sync"]),
        "zcluster_sync_lag_seconds": _one(figures.sync_lag),
        "zcluster_conntrack_entries": _one(figures.conntrack_entries),
        "zcluster_conntrack_entries_limit": _one(figures.conntrack_limit),
        "zcluster_conntrack_link_up": _one(figures.conntrack_link),
        "zcluster_version_info": [
            ({"package": p, "version": v}, 1.0) for p, v in sorted(figures.versions.items())
        ],
        "zcluster_probed_timestamp_seconds": _one(at),
    }


def _one(value: float | None) -> Samples:
    return [] if value is None else [({}, float(value))]


def _states(label: str, names: tuple[str, ...], now: str) -> Samples:
    return [({label: name}, float(name == now)) for name in dict.fromkeys((*names, now)) if name]


def page(cluster: str, found: Mapping[str, Samples]) -> str:
    """The exposition text format: HELP and TYPE once for each metric, then its samples."""
    lines = []
    for name, (kind, text) in METRICS.items():
        if not found.get(name):
            continue
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for labels, value in found[name]:
            told = {"cluster": cluster, **labels}.items()
            written = ",".join(f'{label}="{_escaped(text)}"' for label, text in told)
            lines.append(f"{name}{{{written}}} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write(text: str, directory: Path) -> None:
    """Replace the file where the directory exists: a reader sees one whole page."""
    if not directory.is_dir():
        return
    # node_exporter reads *.prom: the name of the temporary file must not end so.
    temporary = directory / f".{FILE}.new"
    temporary.write_text(text, encoding="utf-8")
    os.chmod(temporary, 0o644)
    temporary.replace(directory / FILE)


def number(path: str) -> int | None:
    """A number of the kernel's; None where it has none."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path(path).read_text(encoding="ascii"))
    return None
