# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the collection importable from the checkout, and builds two healthy nodes to start from."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[3]
COLLECTION = "ansible_collections.zcluster.ha"


def pytest_configure() -> None:
    """Find the collection: installed in the environment, else this checkout."""
    try:
        if importlib.util.find_spec(f"{COLLECTION}.plugins"):
            return
    except ModuleNotFoundError:
        pass
    parts = COLLECTION.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        module = types.ModuleType(name)
        module.__path__ = [str(CHECKOUT)] if depth == len(parts) else []
        sys.modules.setdefault(name, module)


def interface(name: str, number: int, *addresses: str) -> dict[str, Any]:
    """A real interface with its own addresses, as an observation has it."""
    shown = []
    for text in addresses:
        address, _slash, prefix = text.partition("/")
        family = 6 if ":" in address else 4
        shown.append(
            {"address": address, "prefix": int(prefix), "family": family, "scope": "global",
             "label": name if family == 4 else "", "flags": [], "virtual": ""}
        )  # fmt: skip
    return {
        "name": name, "index": int(name[3:]) + 2, "kind": "nic", "up": True, "carrier": True,
        "mac": f"02:00:00:00:0{name[3:]}:{number}", "addresses": shown, "virtual": "",
    }  # fmt: skip


def healthy_node(number: int) -> dict[str, Any]:
    """An observation of a bare Debian 12 node about which there is nothing to say."""
    other = 23 - number
    tree = {
        "path": "/etc/haproxy", "kind": "directory", "entries": 9, "directories": 2, "bytes": 7000,
        "digest": "same", "owners": ["root"], "groups": ["root"], "files": [],
    }  # fmt: skip
    return {
        "system": {
            "hostname": f"n{number - 10}", "os_id": "debian", "os_version": "12",
            "python": "3.11.2", "root": True, "systemd": True,
        },
        "clock": {"controller": 1000.0, "start": 1000.4, "end": 1004.0},
        "interfaces": [
            interface("eth0", number, f"198.18.10.{number}/24", f"2001:db8:10::{number}/64"),
            interface("eth1", number, f"198.18.20.{number}/24"),
            interface("eth2", number, f"198.18.30.{number}/24"),
        ],
        "packages": {
            "keepalived": {"installed": None, "candidate": "1:2.2.7-1+b2"},
            "conntrackd": {"installed": None, "candidate": "1:1.4.7-1+b2"},
        },
        "sshd": {
            "present": True, "ports": [22], "listen": ["0.0.0.0:22", "[::]:22"],
            "permitrootlogin": "without-password", "pubkeyauthentication": "yes",
        },
        "disks": [
            {"path": path, "device": 1, "free_bytes": 10**9, "free_inodes": 10**5,
             "inodes": 10**6}
            for path in ("/", "/var/lib/zcluster", "/etc/haproxy")
        ],
        "inotify": {
            "max_user_watches": 65536, "max_user_instances": 128, "max_queued_events": 16384
        },
        "trees": [tree],
        "users": ["haproxy", "root"],
        "groups": ["haproxy", "root"],
        "firewall": {"nft": True, "objects": []},
        "ports": [{"protocol": "tcp", "address": "0.0.0.0", "port": 22, "process": "sshd"}],
        "peer": {
            "ip": f"198.18.30.{other}", "ping": True, "answered_by": [f"02:00:00:00:02:{other}"]
        },
        "addresses": [{"address": "198.18.10.100", "asked_on": "eth0", "answered_by": []}],
        "units": [{"name": "haproxy.service", "load": "loaded", "active": "active"}],
    }  # fmt: skip


def declared(number: int) -> dict[str, Any]:
    """What one host of the healthy cluster declares."""
    return {
        "name": "web", "ip": f"198.18.30.{number}", "vips": ["198.18.10.100/24"],
        "initial_master": "lb1", "failback": "disabled", "check_interval": 0.1, "profile": "",
        "witnesses": ["198.18.10.1", "198.18.20.1", "198.18.30.1"],
        "vrid": "",
        "sync_paths": ["/etc/haproxy"], "sync_excludes": [], "replace_backup": False,
        "services": [{"name": "haproxy", "paths": ["/etc/haproxy"]}],
    }  # fmt: skip


@dataclass
class Pair:
    """Two nodes and their settings, as plain data that a test changes before it judges."""

    n1: dict[str, Any] = field(default_factory=lambda: healthy_node(11))
    n2: dict[str, Any] = field(default_factory=lambda: healthy_node(12))
    settings: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"lb1": declared(11), "lb2": declared(12)}
    )
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)

    def declare(self, **values: Any) -> None:
        """Set something of the whole cluster, on both hosts alike."""
        for said in self.settings.values():
            said.update(values)

    def both(self) -> list[dict[str, Any]]:
        """Both observations."""
        return [self.n1, self.n2]

    @property
    def probes(self) -> dict[str, Any]:
        """The results of the module, or of a task that could not run it."""
        seen = {"lb1": {"observation": self.n1}, "lb2": {"observation": self.n2}}
        return {**seen, **self.refused}

    def findings(self) -> list[dict[str, Any]]:
        """All findings, as the filter gives them."""
        preflight = importlib.import_module(f"{COLLECTION}.plugins.module_utils._preflight")
        records = importlib.import_module(f"{COLLECTION}.plugins.module_utils._records")
        return [records.plain(f) for f in preflight.findings(self.probes, self.settings)]

    def plan(self) -> dict[str, Any]:
        """The plan, as the filter gives it."""
        plan = importlib.import_module(f"{COLLECTION}.plugins.module_utils._plan")
        records = importlib.import_module(f"{COLLECTION}.plugins.module_utils._records")
        view = importlib.import_module(f"{COLLECTION}.plugins.module_utils._view")
        seen = view.view(self.probes, self.settings)
        made: dict[str, Any] = records.plain(plan.make(seen.seen, seen.settings))
        return made

    def install(self, plan: dict[str, Any]) -> None:
        """Put a plan on both nodes, as create does."""
        for node in self.both():
            node["cluster"] = {**plan, "local": node["system"]["hostname"]}


@pytest.fixture
def pair() -> Pair:
    """Two healthy bare nodes."""
    return Pair()
