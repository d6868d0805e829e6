# SPDX-License-Identifier: GPL-3.0-or-later
# The lab as the tests find it: bare, or with a cluster, created once and restored for each test.
"""Fixtures of the lab tests (see product.py for the lab they use)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

# Tests are imported by file, so what they share must be found by name.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "roles/lab/files")]

import zcluster_lab  # noqa: E402
from product import (  # noqa: E402
    LAB_NAME,
    LAB_VARS,
    ROOT,
    Cluster,
    Play,
    restore_created,
    run_playbook,
)
from zcluster_lab import BARE, Lab  # noqa: E402


@pytest.fixture(scope="session")
def inventory() -> Path:
    """The directory with the inventory of the lab's cluster."""
    if LAB_NAME == "zcluster-lab":
        return ROOT / "inventories/lab"
    return ROOT / ".cache" / "inventories" / LAB_NAME


@pytest.fixture(scope="session")
def play() -> Play:
    """Runs a playbook: ``play(name, *arguments, inventory=None)``."""
    return run_playbook


@pytest.fixture(scope="session")
def lab_arguments(inventory: Path) -> Sequence[str]:
    """What lab_up must be told about the lab of this test run."""
    variables = f"lab_name={LAB_NAME} lab_inventory_dir={inventory} {LAB_VARS}".split()
    return [part for pair in variables for part in ("-e", pair)]


@pytest.fixture(scope="session")
def lab(lab_arguments: Sequence[str]) -> Lab:
    """The lab, up (it is left up: bringing it down is the user's word)."""
    run = run_playbook("zcluster.ha.lab_up", *lab_arguments)
    assert run.returncode == 0, run.output
    return Lab.open(LAB_NAME)


@pytest.fixture
def bare(lab: Lab) -> Lab:
    """The lab with two nodes that have never been touched."""
    lab.restore(BARE)
    return lab


@pytest.fixture
def cluster(lab: Lab, inventory: Path) -> Cluster:
    """A fresh cluster, created on the lab, settled."""
    restore_created(lab, inventory)
    return Cluster(lab, inventory)


@pytest.fixture(scope="module")
def other_lab() -> Iterator[Lab]:
    """A second lab beside the usual one, for what a lab does not survive; gone afterwards."""
    lab = Lab(
        zcluster_lab.Settings(
            name=f"{LAB_NAME}-other"[:31],
            front="198.19.240.0/24",
            back="198.19.241.0/24",
            link="198.19.242.0/24",
            front6="2001:db8:f0::/64",
            back6="2001:db8:f1::/64",
            link6="2001:db8:f2::/64",
            root_login="prohibit-password",
        )
    )
    lab.up()
    try:
        yield lab
    finally:
        lab.down()
