# SPDX-License-Identifier: GPL-3.0-or-later
# zclustermanager as it is shipped, found where the role keeps it; a cluster, a disk to try it on.
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[3] / "roles/manager/files"))

from zclustermanager import settings
from zclustermanager.sync.store import Store
from zclustermanager.sync.tree import Scanner


@pytest.fixture
def declared() -> dict[str, Any]:
    """What /etc/zcluster/cluster.json says on n1."""
    return {
        "name": "web",
        "revision": 3,
        "initial_master": "n1",
        "failback": "disabled",
        "check_interval": 0.1,
        "missed_adverts": 3,
        "witnesses": [],
        "local": "n1",
        "nodes": [
            {"hostname": "n1", "ip": "198.18.30.11", "interface": "eth2", "priority": 254},
            {"hostname": "n2", "ip": "198.18.30.12", "interface": "eth2", "priority": 253},
        ],
        "networks": [
            {
                "interface": "eth0",
                "vrid": 51,
                "lead": "169.254.51.2",
                "kind": "served",
                "addresses": {"n1": "198.18.10.11", "n2": "198.18.10.12"},
            }
        ],
        "vips": [
            {"address": "198.18.10.100", "prefix": 24, "interface": "eth0"},
            {"address": "2001:db8:10::100", "prefix": 64, "interface": "eth0"},
        ],
        "sync": {"paths": ["/etc/haproxy"], "excludes": []},
        "services": [
            {"name": "haproxy", "unit": "haproxy.service", "paths": ["/etc/haproxy"]},
            {"name": "nftables", "unit": "nftables.service", "paths": ["/etc/nftables.conf"]},
        ],
    }


@pytest.fixture
def cluster(declared: dict[str, Any]) -> settings.Cluster:
    """The same, parsed."""
    return settings.parse(declared)


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[str], tuple[Path, Store, Scanner]]:
    """Disks of nodes: a synchronized root, the store, a scanner. All nodes see the same path."""

    def make(node: str) -> tuple[Path, Store, Scanner]:
        root = tmp_path / node / "root"
        root.mkdir(parents=True)
        store = Store(tmp_path / node / "state", tmp_path / node / "run")
        store.ensure()
        return root, store, Scanner([str(root)], [])

    return make
