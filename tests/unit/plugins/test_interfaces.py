# SPDX-License-Identifier: GPL-3.0-or-later
"""Which interfaces and addresses are real, by what `ip -json -details address` says."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _interfaces

UP = ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"]


def inet(address: str, prefix: int = 24, **more: Any) -> dict[str, Any]:
    family = "inet6" if ":" in address else "inet"
    return {"family": family, "local": address, "prefixlen": prefix, "scope": "global", **more}


def link(name: str, *addresses: dict[str, Any], kind: str = "", **more: Any) -> dict[str, Any]:
    info = {"linkinfo": {"info_kind": kind}} if kind else {}
    return {
        "ifindex": 2, "ifname": name, "flags": UP, "link_type": "ether",
        "address": "02:00:00:00:00:01", "addr_info": list(addresses), **info, **more,
    }  # fmt: skip


HARDWARE = link("eth9")
VETH_OUTSIDE: dict[str, Any] = {"kind": "veth", "link_index": 155, "link_netnsid": 0}


def reasons(
    *links: dict[str, Any], in_container: bool = False, vips: tuple[str, ...] = ()
) -> list[str]:
    """Why each address of the first link will not do; empty when it will."""
    first = _interfaces.parse(list(links), in_container, vips)[0]
    return [item["reason"] for item in _interfaces.items(first)]


@pytest.mark.parametrize("kind", ["", "bond", "team", "vlan"])
def test_nics_bonds_and_vlans_are_real(kind: str) -> None:
    assert reasons(link("real0", inet("198.18.10.11"), kind=kind), HARDWARE) == [""]


@pytest.mark.parametrize(
    "kind", ["bridge", "tun", "vxlan", "wireguard", "dummy", "macvlan", "ifb", "veth"]
)
def test_what_is_made_by_software_is_not(kind: str) -> None:
    (reason,) = reasons(link("virtual0", inet("198.18.10.11"), kind=kind), HARDWARE)
    assert reason == f"not a real NIC, bond or VLAN but a {kind} interface"


def test_loopback_is_not() -> None:
    lo = link("lo", inet("198.18.10.11", 24), flags=["LOOPBACK", "UP", "LOWER_UP"])
    assert reasons(lo, HARDWARE) == ["the loopback interface"]


def test_a_port_of_a_bond_is_not() -> None:
    port = link("eth0", inet("198.18.10.11"), master="bond0")
    port["linkinfo"] = {"info_slave_kind": "bond"}
    assert reasons(port) == ["a port of bond0"]


def test_the_other_half_of_a_containers_veth_is_not() -> None:
    assert reasons(link("veth1", inet("198.18.10.11"), **VETH_OUTSIDE), HARDWARE) != [""]


def test_a_containers_own_veth_is_its_nic() -> None:
    assert reasons(link("eth0", inet("198.18.10.11"), **VETH_OUTSIDE), in_container=True) == [""]


def test_a_container_that_does_not_say_so_has_no_hardware() -> None:
    assert reasons(link("eth0", inet("198.18.10.11"), **VETH_OUTSIDE)) == [""]


def test_a_veth_with_both_halves_inside_is_no_nic_even_in_a_container() -> None:
    inside = link("veth0", inet("198.18.10.11"), kind="veth", link="veth1")
    assert reasons(inside, in_container=True) != [""]


def test_macvlan_is_a_containers_nic() -> None:
    outside = link("eth0", inet("198.18.10.11"), kind="macvlan", link_index=3, link_netnsid=0)
    assert reasons(outside, in_container=True) == [""]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (inet("198.18.10.11", label="eth0:1"), "an alias address (eth0:1)"),
        (inet("198.18.10.11", 32), "a single address (/32), as virtual IPs are"),
        (inet("2001:db8::1", 128), "a single address (/128), as virtual IPs are"),
        (inet("169.254.3.4", 16, scope="link"), "an address of scope link"),
        (inet("2001:db8::2", 64, temporary=True), "a temporary address"),
        (inet("198.18.10.100"), "a virtual IP of a cluster"),
    ],
)
def test_addresses_that_are_virtual(address: dict[str, Any], reason: str) -> None:
    assert reasons(link("eth0", address), vips=("198.18.10.100",)) == [reason]


def test_an_ipv6_address_is_the_nodes_own_but_no_cluster_link() -> None:
    own = inet("2001:db8::11", 64)
    assert reasons(link("eth0", own)) == ["an IPv6 address: the nodes talk to each other over IPv4"]
    (found,) = _interfaces.parse([link("eth0", own)], False, ())
    assert _interfaces.fit_networks(found)


def test_links_that_are_down() -> None:
    assert reasons(link("eth0", inet("198.18.10.11"), flags=[])) == ["the interface is down"]
    assert reasons(link("eth0", inet("198.18.10.11"), flags=["UP"])) == ["the link has no carrier"]


def test_an_interface_without_an_address_is_listed_with_that_reason() -> None:
    assert reasons(link("eth0")) == ["no address"]


def test_an_address_is_held_by_the_narrowest_subnet() -> None:
    found = _interfaces.parse(
        [link("eth0", inet("10.0.0.1", 8)), link("eth1", inet("10.1.0.1", 16))], False, ()
    )
    held = _interfaces.holding(found, "10.1.2.3")
    assert held is not None
    assert held.name == "eth1"
    assert _interfaces.holding(found, "192.0.2.1") is None


def test_names_sort_as_people_count() -> None:
    names = sorted(["eth10", "eth2", "bond0", "eth2.100"], key=_interfaces.natural)
    assert names == ["bond0", "eth2", "eth2.100", "eth10"]
