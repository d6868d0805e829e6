# SPDX-License-Identifier: GPL-3.0-or-later
# The node's own firewall table: which networks have the guard against resets.
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pytest

TEMPLATES = Path(__file__).parents[3] / "roles/keepalived/templates"
NETWORK: dict[str, Any] = {"addresses": {"n1": "198.18.10.11", "n2": "198.18.10.12"}}
FORWARDED = (
    'iifname "eth0" meta nfproto ipv4 meta l4proto @hold ct state new fib daddr type unicast '
    "counter drop"
)


def table(networks: list[dict[str, Any]], vips: list[dict[str, str]]) -> str:
    """zcluster.nft of n1."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined
    )
    environment.tests["search"] = lambda value, pattern: bool(re.search(pattern, value))
    return environment.get_template("zcluster.nft.j2").render(
        ansible_managed="",
        keepalived_plan={"networks": networks, "vips": vips},
        keepalived_hostname="n1",
        keepalived_peer={"ip": "198.18.30.12"},
        keepalived_node={"interface": "eth2"},
        keepalived_conntrackd_port=3780,
        keepalived_prober_port=3781,
    )


@pytest.mark.parametrize(
    ("kind", "vip_on", "guarded"),
    [("served", "eth0", True), ("link", "eth0", True), ("link", "eth1", False)],
)
def test_every_network_with_a_virtual_ip_is_guarded_the_cluster_link_too(
    kind: str, vip_on: str, *, guarded: bool
) -> None:
    vips = [{"address": "198.18.10.100", "interface": vip_on}]
    found = table([{**NETWORK, "interface": "eth0", "kind": kind}], vips)
    guard = found.partition("chain guard")[2]
    assert ('iifname "eth0" ip daddr != 198.18.10.11 meta l4proto tcp' in guard) is guarded


def test_what_is_new_or_ended_waits_at_the_virtual_ips_only() -> None:
    vips = [
        {"address": "198.18.10.100", "interface": "eth0"},
        {"address": "198.18.20.100", "interface": "eth1"},
        {"address": "2001:db8:10::100", "interface": "eth0"},
    ]
    found = table([{**NETWORK, "interface": "eth0", "kind": "served"}], vips)
    waiting = [line.strip() for line in found.splitlines() if "meta l4proto @hold" in line]
    waiting.remove(FORWARDED)
    targets = "ip daddr { 198.18.10.100, 198.18.20.100 }", "ip6 daddr { 2001:db8:10::100 }"
    assert waiting == [
        f'iifname "eth0" {target} meta l4proto {words}'
        for target in targets
        for words in ("@hold ct state new counter drop", "@hold_ended jump ended")
    ]


def test_datagrams_that_are_to_be_forwarded_wait_wherever_they_go() -> None:
    networks = [
        {**NETWORK, "interface": "eth0", "kind": "served"},
        {**NETWORK, "interface": "eth2", "kind": "link"},
    ]
    found = table(networks, [{"address": "2001:db8:10::100", "interface": "eth0"}])
    assert [line.strip() for line in found.splitlines() if "fib" in line] == [FORWARDED]


def test_nothing_waits_for_a_family_without_a_virtual_ip() -> None:
    vips = [{"address": "2001:db8:10::100", "interface": "eth0"}]
    found = table([{**NETWORK, "interface": "eth0", "kind": "served"}], vips)
    assert "ip daddr {" not in found
    assert "ip6 daddr {" in found
