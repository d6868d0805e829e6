# SPDX-License-Identifier: GPL-3.0-or-later
# What conntrackd is told: nothing that the kernels track may find its caches full.
from __future__ import annotations

import re
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parents[3] / "roles/conntrackd/templates"


def configuration() -> str:
    """conntrackd.conf of n1."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined
    )
    addresses = {"n1": "198.18.10.11", "n2": "198.18.10.12"}
    return environment.get_template("conntrackd.conf.j2").render(
        ansible_managed="",
        conntrackd_plan={"name": "web", "networks": [{"addresses": addresses}]},
        conntrackd_node={"ip": "198.18.30.11", "interface": "eth2"},
        conntrackd_peer={"ip": "198.18.30.12"},
        conntrackd_port=3780,
        conntrackd_hash_size=65536,
    )


def test_caches_hold_whatever_a_kernel_can_track_and_conntrackd_can_read_the_number() -> None:
    [limit] = re.findall(r"^ +HashLimit (\d+)$", configuration(), re.MULTILINE)
    # The most that nf_conntrack_max can be, and that conntrackd's atoi(3) reads.
    assert int(limit) == 2**31 - 1


def test_traffic_of_the_nodes_own_is_not_mirrored() -> None:
    ignored = configuration().partition("Address Ignore")[2]
    for address in ("127.0.0.1", "198.18.10.11", "198.18.10.12"):
        assert f"IPv4_address {address}\n" in ignored
