# SPDX-License-Identifier: GPL-3.0-or-later
# What create promises of trust: one key, one command, one address, and no password.
from __future__ import annotations

import re

from pair import Node
from testinfra.backend.base import CommandResult

AUTHORIZED_KEYS = "/var/lib/zcluster/peer/.ssh/authorized_keys"
COMMAND = "/usr/bin/python3 -I -S /usr/lib/zcluster/zclustermanager/relay.py"
SSH = (
    "ssh -F /dev/null -i /etc/zcluster/ssh/id_ed25519 -o IdentitiesOnly=yes -o BatchMode=yes "
    "-o UserKnownHostsFile=/etc/zcluster/ssh/known_hosts -o StrictHostKeyChecking=yes "
    "-o ControlPath=none"
)


def knock(node: Node, arguments: str) -> CommandResult:
    """A connection of its own with the key of the node; refused: exit code 1."""
    return node.host.run(f"{SSH} {arguments} </dev/null || exit 1")


def test_the_peer_comes_in_as_a_user_without_a_password(node: Node) -> None:
    user = node.host.check_output("getent passwd zcluster; getent shadow zcluster; id zcluster")
    passwd, shadow, identity = user.splitlines()
    assert passwd.split(":")[5:] == ["/var/lib/zcluster/peer", "/bin/sh"]
    assert shadow.split(":")[1] == "*"
    assert int(passwd.split(":")[2]) < 1000
    assert re.search(r"groups=\d+\(zcluster\)$", identity), identity


def test_its_only_key_is_the_peers_restricted_to_one_command_and_one_address(
    node: Node, peer: Node
) -> None:
    [found] = node.read(AUTHORIZED_KEYS)
    [public] = peer.read("/etc/zcluster/ssh/id_ed25519.pub")
    kind, key, _ = public.split()
    assert kind == "ssh-ed25519"
    assert found == (
        f'restrict,from="{peer.ip}",command="{COMMAND}" '
        f"{kind} {key} zcluster@{peer.status['hostname']}"
    )


def test_each_direction_has_a_key_of_its_own(node: Node, peer: Node) -> None:
    path = "/etc/zcluster/ssh/id_ed25519.pub"
    assert node.read(path) != peer.read(path)


def test_the_host_key_of_the_peer_is_pinned(node: Node, peer: Node) -> None:
    [pinned] = node.read("/etc/zcluster/ssh/known_hosts")
    [public] = peer.read("/etc/ssh/ssh_host_ed25519_key.pub")
    assert pinned.split() == [peer.ip, *public.split()[:2]]


def test_the_key_opens_no_shell(node: Node, peer: Node) -> None:
    asked = knock(node, f"-b {node.ip} zcluster@{peer.ip} 'id; cat /etc/passwd'")
    assert "is not allowed" in asked.stdout
    assert "uid=" not in asked.stdout
    assert "root:" not in asked.stdout


def test_the_key_forwards_no_port(node: Node, peer: Node) -> None:
    asked = knock(node, f"-b {node.ip} -W 127.0.0.1:22 zcluster@{peer.ip}")
    assert asked.rc == 1
    assert "administratively prohibited" in asked.stderr


def test_the_key_is_of_no_use_from_another_address(node: Node, peer: Node) -> None:
    elsewhere = peer.variables["ansible_host"]
    asked = knock(node, f"-o HostKeyAlias={peer.ip} zcluster@{elsewhere} ping")
    assert asked.rc == 1
    assert "Permission denied" in asked.stderr


def test_the_password_of_root_opened_the_first_door_and_nothing_after_it(node: Node) -> None:
    journal = node.host.check_output("journalctl --unit=ssh.service --output=cat --no-pager")
    logins = [line for line in journal.splitlines() if line.startswith("Accepted ")]
    ways = [(words[1], words[3]) for words in map(str.split, logins)]
    assert {way for way, user in ways if user == "zcluster"} == {"publickey"}
    root = [way for way, user in ways if user == "root"]
    opened = root.index("publickey")
    assert set(root[:opened]) == {"password"}
    assert set(root[opened:]) == {"publickey"}
