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
FORWARDED = [
    f'iifname "eth0" ip daddr != 198.18.10.11 meta l4proto {what} counter drop'
    for what in (
        "tcp ct state invalid fib daddr type unicast",
        "@hold ct state new fib daddr type unicast",
    )
]
WAITING = (
    "tcp ct state invalid counter drop",
    "@hold ct state new counter drop",
    "@hold_ended jump ended",
)


def table(
    networks: list[dict[str, Any]], vips: list[dict[str, str]], only: tuple[str, ...] = ()
) -> str:
    """zcluster.nft of n1; `only`: the addresses that the master has beside the virtual IPs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined
    )
    environment.tests["search"] = lambda value, pattern: bool(re.search(pattern, value))
    environment.filters["regex_replace"] = lambda value, old, new: re.sub(old, new, value)
    return environment.get_template("zcluster.nft.j2").render(
        ansible_managed="",
        keepalived_plan={
            "networks": networks,
            "vips": vips,
            "master_only": {"addresses": [{"words": words} for words in only]},
        },
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
    assert ('iifname "eth0" ip daddr' in guard) is guarded


def rules(found: str) -> list[str]:
    """The rules of the guard, in order."""
    guard = found.partition("chain guard")[2]
    return [line.strip() for line in guard.splitlines() if "iifname" in line]


def test_what_moves_between_the_nodes_waits_and_no_other_address_of_a_node() -> None:
    vips = [
        {"address": "198.18.10.100", "interface": "eth0"},
        {"address": "198.18.20.100", "interface": "eth1"},
        {"address": "2001:db8:10::100", "interface": "eth0"},
    ]
    only = ("198.18.10.7/32 dev lo", "2001:db8:10::7/128 dev lo", "198.18.10.100/24 dev eth0")
    found = table([{**NETWORK, "interface": "eth0", "kind": "served"}], vips, only)
    four, six = (
        [f'iifname "eth0" {target} meta l4proto {words}' for words in WAITING]
        for target in (
            "ip daddr { 198.18.10.100, 198.18.20.100, 198.18.10.7 }",
            "ip6 daddr { 2001:db8:10::100, 2001:db8:10::7 }",
        )
    )
    assert rules(found) == [*four, *FORWARDED, *six]


def test_what_is_to_be_forwarded_waits_wherever_it_goes() -> None:
    networks = [
        {**NETWORK, "interface": "eth0", "kind": "served"},
        {**NETWORK, "interface": "eth2", "kind": "link"},
    ]
    found = table(networks, [{"address": "2001:db8:10::100", "interface": "eth0"}])
    assert [rule for rule in rules(found) if "fib" in rule] == FORWARDED


def test_nothing_waits_for_a_family_without_a_virtual_ip() -> None:
    vips = [{"address": "2001:db8:10::100", "interface": "eth0"}]
    found = table([{**NETWORK, "interface": "eth0", "kind": "served"}], vips)
    assert "ip daddr {" not in found
    assert "ip6 daddr {" in found
