# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at a node: the exact commands, and what is read from their answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _observe, _records
from ansible_collections.zcluster.ha.plugins.module_utils._observation import Observation, Port

NIC = {
    "ifindex": 2, "ifname": "eth0", "flags": ["UP"], "link_type": "ether",
    "address": "02:00:00:00:00:01",
    "addr_info": [{"family": "inet", "local": "198.18.10.11", "prefixlen": 24, "scope": "global"}],
}  # fmt: skip
SSHD = """\
port 22
port 2222
listenaddress [::]:22
listenaddress 0.0.0.0:22
permitrootlogin without-password
authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2
pubkeyauthentication yes
passwordauthentication no
allowusers ops
allowusers zcluster
"""
POLICY = """\
keepalived:
  Installed: (none)
  Candidate: 1:2.2.7-1+b2
rsync:
  Installed: 3.2.7-1
  Candidate: 3.2.7-1
conntrackd:
  Candidate: (none)
"""
UNITS = """\
Id=keepalived.service
Names=keepalived.service
LoadState=not-found
ActiveState=inactive
UnitFileState=

Id=haproxy.service
Names=haproxy.service lb.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
"""
SOCKETS = """\
udp UNCONN 0 0 198.18.30.11:3780 0.0.0.0:* users:(("conntrackd",pid=1,fd=2))
tcp LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=9,fd=3))
tcp LISTEN 0 128 *:80 *:*
"""
COMMANDS: dict[str, tuple[int, str, str]] = {
    "ip -json -details address": (0, json.dumps([NIC]), ""),
    "ip -json -4 route show default": (0, '[{"dst": "default", "gateway": "198.18.10.1"}]', ""),
    "ip -json -6 route show default": (0, "[]", ""),
    "systemd-detect-virt --container": (1, "none\n", ""),
    "apt-cache policy keepalived conntrackd rsync nftables": (0, POLICY, ""),
    "dpkg-query -W -f ${Package} ${db:Status-Status} ${Version}\n "
    "keepalived conntrackd rsync nftables": (
        1, "rsync installed 3.2.7-1\nkeepalived config-files 1:2.2.4\n", "no packages found"
    ),
    "dpkg-query -W -f ${Conffiles}\n": (0, "", ""),
    "/usr/sbin/sshd -T -C user=zcluster,host=198.18.30.12,addr=198.18.30.12": (0, SSHD, ""),
    "nft -j list ruleset": (0, '{"nftables": [{"metainfo": {}}]}', ""),
    "ss -H -l -n -t -u -p": (0, SOCKETS, ""),
    "chrt --rr 1 true": (1, "", "chrt: failed to set pid 0's policy: Operation not permitted"),
}  # fmt: skip
FILES = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "/proc/sys/fs/inotify/max_user_watches": "65536\n",
    "/proc/sys/fs/inotify/max_user_instances": "128\n",
    "/proc/sys/fs/inotify/max_queued_events": "16384\n",
    "/proc/1/status": "CapInh:\t0000000000000000\nCapEff:\t00000004a8ec7fff\n",
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\nhaproxy:x:100:100::/:/bin/false\n",
    "/etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA root@n1\n",
    "/etc/group": "root:x:0:\n",
    "/usr/lib/zcluster/zclustermanager/__init__.py": '"""Doc."""\n__version__ = "0.1.0"\n',
}


class ScriptedNode:
    """Answers the expected commands and nothing else."""

    def __init__(self) -> None:
        self.commands = dict(COMMANDS)
        self.files = dict(FILES)

    def run(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        command = " ".join(arguments)
        if command.startswith("systemctl show -p Id,Names,LoadState,ActiveState,UnitFileState -- "):
            return 0, UNITS, ""
        return self.commands[command]

    def look(self, **asked: Any) -> Observation:
        question = {"peer_ip": "198.18.30.12", "listen_seconds": 0.0, **asked}
        node = _observe.Node(self.run, self.files.get)
        return _observe.observe(node, _observe.Question(**question))


@pytest.fixture
def node() -> ScriptedNode:
    return ScriptedNode()


def test_a_whole_look(node: ScriptedNode) -> None:
    seen = node.look(units=("lb.service",), controller_time=5.0)
    assert seen.errors == {}
    assert (seen.system.os_id, seen.system.os_version) == ("debian", "12")
    assert seen.gateways == ("198.18.10.1",)
    assert seen.users == ("haproxy", "root")
    assert seen.zcluster == "0.1.0"
    assert seen.clock.controller == 5.0
    assert seen.clock.start <= seen.clock.end
    assert {disk.path for disk in seen.disks} == {"/", "/var/lib/zcluster"}
    assert seen.cluster is None


def test_a_look_travels_as_json_and_comes_back(node: ScriptedNode) -> None:
    seen = node.look()
    assert _records.read(Observation, json.loads(json.dumps(_records.plain(seen)))) == seen


def test_what_a_container_may_not_do_is_seen(node: ScriptedNode) -> None:
    realtime = node.look().realtime
    assert not realtime.scheduling
    assert realtime.capabilities == ("ipc_lock", "sys_nice")


def test_packages_installed_and_offered(node: ScriptedNode) -> None:
    packages = node.look().packages
    assert packages["keepalived"].installed is None
    assert packages["keepalived"].candidate == "1:2.2.7-1+b2"
    assert packages["rsync"].installed == "3.2.7-1"
    assert packages["conntrackd"].candidate is None
    assert packages["nftables"].candidate is None


def test_sshd_settings(node: ScriptedNode) -> None:
    sshd = node.look().sshd
    assert sshd.ports == (22, 2222)
    assert sshd.listen == ("[::]:22", "0.0.0.0:22")
    assert sshd.allowusers == ("ops", "zcluster")
    assert sshd.permitrootlogin == "without-password"
    assert sshd.authorizedkeysfile == (".ssh/authorized_keys", ".ssh/authorized_keys2")
    assert sshd.host_key
    del node.files["/etc/ssh/ssh_host_ed25519_key.pub"]
    assert not node.look().sshd.host_key


def test_home_of_a_user_of_our_name(node: ScriptedNode) -> None:
    assert node.look().peer_home == ""
    node.files["/etc/passwd"] += "zcluster:x:1000:1000::/home/zcluster:/bin/bash\n"
    assert node.look().peer_home == "/home/zcluster"


def test_no_sshd_and_a_broken_one(node: ScriptedNode) -> None:
    command = "/usr/sbin/sshd -T -C user=zcluster,host=198.18.30.12,addr=198.18.30.12"
    node.commands[command] = (127, "", "not installed")
    assert not node.look().sshd.present
    node.commands[command] = (255, "", "line 3: Bad configuration option: Prot\n")
    assert node.look().sshd.error == "line 3: Bad configuration option: Prot"


def test_units_also_by_an_alias(node: ScriptedNode) -> None:
    units = {unit.name: unit for unit in node.look(units=("lb.service",)).units}
    assert units["keepalived.service"].load == "not-found"
    assert units["lb.service"].active == "active"


def test_listening_sockets(node: ScriptedNode) -> None:
    assert node.look().ports == (
        Port("udp", "198.18.30.11", 3780, "conntrackd"),
        Port("tcp", "::", 22, "sshd"),
        Port("tcp", "*", 80, ""),
    )


def test_a_probe_that_fails_is_told_and_stops_no_other(node: ScriptedNode) -> None:
    node.commands["nft -j list ruleset"] = (1, "", "netlink: Operation not permitted\n")
    node.commands["ip -json -6 route show default"] = (0, "{broken", "")
    seen = node.look()
    assert seen.errors["firewall"] == "nft list ruleset: netlink: Operation not permitted"
    assert "gateways" in seen.errors
    assert seen.system.os_id == "debian"


def test_no_nft_is_an_open_door(node: ScriptedNode) -> None:
    node.commands["nft -j list ruleset"] = (127, "", "nft: not installed")
    assert not node.look().firewall.nft


def test_old_iptables_rules_are_read_where_they_are_loaded(node: ScriptedNode) -> None:
    node.files["/proc/net/ip_tables_names"] = "nat\nfilter\n"
    node.commands["iptables-legacy -S INPUT"] = (0, "-P INPUT DROP\n", "")
    node.commands["iptables-legacy -S OUTPUT"] = (127, "", "")
    assert node.look().firewall.legacy == ("-P INPUT DROP", "-P OUTPUT unknown")


def test_settings_that_cannot_be_read(node: ScriptedNode) -> None:
    node.files["/etc/zcluster/cluster.json"] = "{"
    assert "not JSON" in node.look().errors["cluster"]


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("# Ansible managed\n# declared by zcluster.ha.keepalived\n", False),
        ("vrrp_instance theirs {}\n", True),
    ],
)
def test_a_heartbeat_of_ours_is_not_foreign(
    node: ScriptedNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, foreign: bool
) -> None:
    config = tmp_path / "keepalived.conf"
    config.write_text(text)
    node.files[str(config)] = text
    node.commands[f"dpkg-query -S {config}"] = (1, "", "no path found")
    monkeypatch.setattr(_observe, "HA_CONFIGS", (str(config),))
    assert node.look().foreign_configs == ((str(config),) if foreign else ())


def test_the_virtual_ips_of_the_cluster_that_is_there_are_virtual(node: ScriptedNode) -> None:
    cluster = {"name": "web", "vips": [{"address": "198.18.10.11"}], "networks": []}
    node.files["/etc/zcluster/cluster.json"] = json.dumps(cluster)
    (interface,) = node.look().interfaces
    assert interface.addresses[0].virtual == "a virtual IP of a cluster"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({}, 0.0),
        ({"listen_unchanged": True}, 0.25),
        ({"vrid": 52}, 0.25),
        ({"cluster_name": "mail"}, 0.25),
        ({"vips": (("198.18.10.101", ""),)}, 0.25),
    ],
)
def test_listening_only_where_something_could_have_changed(
    node: ScriptedNode, asked: dict[str, Any], seconds: float
) -> None:
    cluster = {"name": "web", "vips": [{"address": "198.18.10.100"}], "networks": [{"vrid": 51}]}
    node.files["/etc/zcluster/cluster.json"] = json.dumps(cluster)
    question = {
        "cluster_name": "web", "vips": (("198.18.10.100", ""),), "listen_unchanged": False,
        "listen_seconds": 0.25, **asked,
    }  # fmt: skip
    assert node.look(**question).listened == seconds


@pytest.mark.parametrize(
    ("files", "answer", "kind"),
    [
        ({"/run/systemd/container": "podman\n"}, (1, "none", ""), "podman"),
        ({"/proc/1/environ": "A=b\0container=lxc\0"}, (1, "none", ""), "lxc"),
        ({}, (0, "docker\n", ""), "docker"),
        ({}, (1, "none\n", ""), ""),
    ],
)
def test_what_kind_of_container(
    node: ScriptedNode, files: dict[str, str], answer: tuple[int, str, str], kind: str
) -> None:
    node.commands["systemd-detect-virt --container"] = answer
    assert _observe.container(_observe.Node(node.run, files.get)) == kind
