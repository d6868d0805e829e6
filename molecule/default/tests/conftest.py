# SPDX-License-Identifier: GPL-3.0-or-later
# Fixtures of the scenarios' tests: each node in turn, the pair, the client of the lab.
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import testinfra
import yaml
from testinfra.host import Host

sys.path.insert(0, str(Path(__file__).parent))

from pair import Node


@pytest.fixture(scope="session")
def nodes(request: pytest.FixtureRequest) -> dict[str, Node]:
    """Both nodes, by name."""
    inventory = request.config.getoption("--ansible-inventory")
    hosts = testinfra.get_hosts(["ansible://all"], ansible_inventory=inventory)
    found = [Node(host.backend.host, host, host.ansible.get_variables()) for host in hosts]
    assert len(found) == 2, f"nodes in {inventory}: {found}"
    return {node.name: node for node in found}


@pytest.fixture(scope="session")
def master(nodes: dict[str, Node]) -> Node:
    """The one that serves."""
    found = [node for node in nodes.values() if node.status["role"] == "master"]
    assert len(found) == 1, f"masters: {found}"
    return found[0]


@pytest.fixture(scope="module")
def node(host: Host, nodes: dict[str, Node]) -> Node:
    """Each node in turn (``host`` is testinfra's)."""
    return nodes[host.backend.host]


@pytest.fixture(scope="module")
def peer(node: Node, nodes: dict[str, Node]) -> Node:
    """The other one."""
    return next(other for other in nodes.values() if other is not node)


@pytest.fixture(scope="session")
def client() -> Host:
    """The client of the scenario's lab."""
    lab = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "vars/lab.yml"
    name = yaml.safe_load(lab.read_text(encoding="utf-8"))["lab_name"]
    return testinfra.get_host(f"podman://{name}-client")
