# SPDX-License-Identifier: GPL-3.0-or-later
# What create promises of each node: services, files and their modes, kernel settings, firewall.
from __future__ import annotations

import json
from typing import Any

import pytest
from pair import Node

ACTIVE = {
    "conntrackd.service": "running",
    "haproxy.service": "running",
    "keepalived.service": "running",
    "nftables.service": "exited",
    "zcluster-guard.service": "exited",
    "zcluster-receive.socket": "listening",
    "zcluster.service": "running",
}
"""What runs on a node now."""

AT_BOOT = (*ACTIVE, "zcluster-recover.service")
"""What starts with it."""

FILES = {
    "/etc/keepalived/keepalived.conf": "644 root:root regular file",
    "/etc/sysctl.d/60-zcluster.conf": "644 root:root regular file",
    "/etc/zcluster": "700 root:root directory",
    "/etc/zcluster/cluster.json": "644 root:root regular file",
    "/etc/zcluster/conntrackd.conf": "644 root:root regular file",
    "/etc/zcluster/ssh": "700 root:root directory",
    "/etc/zcluster/ssh/id_ed25519": "600 root:root regular file",
    "/etc/zcluster/ssh/known_hosts": "600 root:root regular file",
    "/etc/zcluster/zcluster.nft": "600 root:root regular file",
    "/run/zcluster": "755 root:root directory",
    "/run/zcluster/receive.sock": "660 root:zcluster socket",
    "/usr/lib/zcluster/fence": "755 root:root regular file",
    "/usr/lib/zcluster/promote": "755 root:root regular file",
    "/usr/sbin/zclustermanager": "755 root:root regular file",
    "/var/lib/zcluster": "711 root:root directory",
    "/var/lib/zcluster/events.jsonl": "600 root:root regular file",
    "/var/lib/zcluster/maintenance": "600 root:root regular file",
    "/var/lib/zcluster/versions": "700 root:root directory",
    # sshd reads it as the user; that user must not be able to write it
    "/var/lib/zcluster/peer": "755 root:root directory",
    "/var/lib/zcluster/peer/.ssh": "755 root:root directory",
    "/var/lib/zcluster/peer/.ssh/authorized_keys": "644 root:root regular file",
}

KERNEL = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.ip_nonlocal_bind": "1",
    "net.ipv6.ip_nonlocal_bind": "1",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "1",
    "net.netfilter.nf_conntrack_tcp_loose": "0",
}


@pytest.fixture(scope="module")
def units(node: Node) -> dict[str, dict[str, str]]:
    """What systemd says of every unit."""
    properties = "Id,SubState,UnitFileState,NRestarts"
    blocks = node.host.check_output(
        f"systemctl show --property={properties} {' '.join(AT_BOOT)}"
    ).split("\n\n")
    found = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]
    return {unit["Id"]: unit for unit in found}


def test_services_run(units: dict[str, dict[str, str]]) -> None:
    assert {name: units[name]["SubState"] for name in ACTIVE} == ACTIVE


def test_services_start_at_boot(units: dict[str, dict[str, str]]) -> None:
    states = {name: units[name]["UnitFileState"] for name in AT_BOOT}
    assert states == dict.fromkeys(AT_BOOT, "enabled")


def test_no_service_had_to_be_started_again(units: dict[str, dict[str, str]]) -> None:
    assert {unit.get("NRestarts", "0") for unit in units.values()} == {"0"}


def test_no_unit_failed(node: Node) -> None:
    assert node.host.check_output("systemctl list-units --failed --no-legend") == ""


def test_files_belong_to_root_and_secrets_to_nobody_else(node: Node) -> None:
    said = node.host.check_output(f"stat --format='%n|%a %U:%G %F' {' '.join(FILES)}")
    found = dict(line.split("|") for line in said.splitlines())
    assert {path: words.replace(" empty", "") for path, words in found.items()} == FILES


def test_nothing_of_ours_can_be_written_by_anyone_but_root(node: Node) -> None:
    places = "/etc/zcluster /etc/keepalived /usr/lib/zcluster /usr/sbin/zclustermanager"
    writable = f"find {places} -not -type l \\( -perm /022 -o -not -user root \\)"
    assert node.host.check_output(writable) == ""


def test_the_kernel_is_set_for_takeovers(node: Node) -> None:
    said = node.host.check_output(f"sysctl {' '.join(KERNEL)}")
    assert dict(line.split(" = ") for line in said.splitlines()) == KERNEL


def test_firewall_drops_heartbeats_and_mirroring_of_all_but_the_peer(
    node: Node, peer: Node
) -> None:
    rules = chain(node, "input")
    interfaces = {node.addresses[vip] for vip in node.vips if vip in node.addresses}
    interfaces |= {peer.addresses[vip] for vip in peer.vips if vip in peer.addresses}
    link = next(name for address, name in node.addresses.items() if address.startswith(node.ip))
    for interface in interfaces | {link}:
        assert any(f'"{interface}"' in rule and "saddr !=" in rule for rule in rules), interface
    assert any(f"udp dport 3780 ip saddr != {peer.ip}" in rule for rule in rules)


def test_firewall_drops_segments_that_meet_no_connection(node: Node) -> None:
    rules = chain(node, "guard")
    assert any("ct state invalid" in rule for rule in rules)
    # The others hold back what looks new, or ended, until the last commit of a takeover.
    others = [rule for rule in rules if "ct state invalid" not in rule]
    words = ("@hold ct state new", "@hold_ended jump ended")
    assert all(any(word in rule for word in words) for rule in others), others
    [ended] = chain(node, "ended")
    assert "ct expiration" in ended


def chain(node: Node, name: str) -> list[str]:
    """The rules of a chain of our table, all of which drop, themselves or in a chain of ours."""
    said = node.host.check_output(f"nft --stateless list chain inet zcluster {name}").splitlines()
    lines = [line.strip() for line in said[1:]]
    rules = [line for line in lines if line != "}" and not line.startswith(("chain ", "type "))]
    assert all(rule.endswith((" drop", " jump ended")) for rule in rules), rules
    return rules


def test_every_instance_of_the_heartbeat_speaks_to_the_peer_only(node: Node, peer: Node) -> None:
    declared: dict[str, Any] = json.loads(node.read("/etc/zcluster/cluster.json")[0])
    [text] = node.read("/etc/keepalived/keepalived.conf")
    for network in declared["networks"]:
        theirs = network["addresses"][peer.status["hostname"]]
        assert f"{theirs} min_ttl 255 max_ttl 255" in text
    assert text.count("unicast_peer {") == len(declared["networks"])
