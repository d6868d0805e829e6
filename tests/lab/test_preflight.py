# SPDX-License-Identifier: GPL-3.0-or-later
# What is seen of two real nodes before a cluster is built on them: addresses, what is in its way.
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from product import NODE_NAMES, Cluster, Play, trace
from test_nodes import zcluster
from zcluster_lab import BARE, Lab

pytestmark = pytest.mark.lab

VRID = 51
"""The first that a cluster would pick."""

ADVERTISE = f"""
import socket, struct, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_RAW, 112) as link:
    own = socket.inet_aton(sys.argv[1])
    link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
    while True:
        link.sendto(struct.pack("!BBBBHH", 0x31, {VRID}, 200, 1, 20, 0) + own, ("224.0.0.18", 0))
        time.sleep(0.2)
"""

MESS = """
nft 'table inet mine {
  chain input { type filter hook input priority 0; ip protocol 112 drop; }
}'
mkdir -p /etc/keepalived /etc/zcluster
echo 'vrrp_instance mine {}' > /etc/keepalived/keepalived.conf
echo '{"name": "shop"}' > /etc/zcluster/cluster.json
echo 'AllowUsers root' > /etc/ssh/sshd_config.d/mine.conf
echo '# mine' >> /etc/haproxy/haproxy.cfg
systemctl mask --quiet haproxy.service
"""

TIDY = """
nft delete table inet mine
rm -r /etc/keepalived /etc/zcluster /etc/ssh/sshd_config.d/mine.conf
sed -i '/^# mine$/d' /etc/haproxy/haproxy.cfg
systemctl unmask --quiet haproxy.service
"""


@pytest.fixture(scope="module")
def known(lab: Lab, inventory: Path) -> Cluster:
    """Two bare nodes that accept the operator's key."""
    lab.restore(BARE)
    key = (inventory / ".ssh/id_ed25519.pub").read_text(encoding="utf-8")
    for node in NODE_NAMES:
        lab.exec(node, "install", "-d", "-m", "0700", "/root/.ssh")
        lab.exec(node, "sh", "-c", "cat > /root/.ssh/authorized_keys", stdin=key)
    return Cluster(lab, inventory)


def test_interfaces_lists_the_nodes_own_addresses_and_nothing_virtual(known: Cluster) -> None:
    lab = known.lab
    vip, alias = (lab.settings.address(*where) for where in (("front", 100), ("link", 77)))
    added = (f"{vip}/32 dev eth0", f"{alias}/24 dev eth2 label eth2:1")
    lab.exec("n1", "sh", "-ec", "ip link add br0 type bridge; ip link set br0 up")
    for words in (*added, "192.0.2.1/24 dev br0"):
        lab.exec("n1", "ip", "address", "add", *words.split())
    lab.cut("n1", "back")
    try:
        code, out = zcluster(known, "interfaces", "n1", "-o", "json")
    finally:
        lab.heal("n1", "back")
        lab.exec("n1", "ip", "link", "delete", "br0")
        for words in added:
            lab.exec("n1", "ip", "address", "delete", *words.partition(" label")[0].split())
    assert code == 0
    listed = [entry for entry in json.loads(out) if entry["family"] == 4]
    assert [(entry["host"], entry["interface"], entry["address"]) for entry in listed] == [
        ("n1", "eth0", lab.settings.address("front", 11)),
        ("n1", "eth2", lab.settings.address("link", 11)),
    ]


@pytest.fixture
def rival_router(known: Cluster) -> Iterator[None]:
    """Somebody else's VRRP router on the front network."""
    own = known.lab.addresses("client")["front"]["ipv4"]
    router = known.lab.start_process("client", "python3", "-c", ADVERTISE, own)
    yield
    known.lab.stop_process(router)


@pytest.fixture
def mess(known: Cluster, rival_router: None) -> Iterator[Cluster]:
    """Everything is in the way at once, on both nodes, between them, and around them."""
    lab = known.lab
    taken = [lab.vips()[name] for name in ("front", "front6")]
    lab.exec("n2", "sh", "-ec", MESS)
    lab.exec("n1", "useradd", "--system", "onlyhere")
    lab.exec("n1", "chown", "onlyhere", "/etc/haproxy/haproxy.cfg")
    for vip in taken:
        nodad = ("nodad",) if ":" in vip else ()
        lab.exec("client", "ip", "address", "add", vip, "dev", "eth0", *nodad)
    holder = lab.start_process("n2", "socat", "-u", "UDP4-RECV:3780", "-")
    lab.silence("n1", "link")
    yield known
    lab.heal("n1", "link")
    lab.stop_process(holder)
    for vip in taken:
        lab.exec("client", "ip", "address", "delete", vip, "dev", "eth0")
    lab.exec("n1", "chown", "root", "/etc/haproxy/haproxy.cfg")
    lab.exec("n2", "sh", "-ec", TIDY)


def test_preflight_finds_all_that_is_in_the_way_at_once_and_changes_nothing(
    mess: Cluster, tmp_path: Path
) -> None:
    content = yaml.safe_load((mess.inventory / "hosts.yml").read_text(encoding="utf-8"))
    content["lab_cluster"]["vars"]["zcluster_vrid"] = VRID
    asked = Cluster(mess.lab, tmp_path / "hosts.yml")
    asked.inventory.write_text(yaml.safe_dump(content), encoding="utf-8")
    before = [trace(mess.lab, node) for node in NODE_NAMES]

    code, out = zcluster(asked, "preflight", "-o", "json")
    assert code == 2
    found = [f for f in json.loads(out)["findings"] if f["severity"] == "error"]
    told = {(f["check"], f["node"], f["field"]): f["found"] for f in found}
    # Which is all of it: a probe that sees what is not there would show here, too.
    assert set(told) == {
        ("membership", "n2", "zcluster_name"),
        ("other_software", "n2", "/etc/keepalived/keepalived.conf"),
        ("other_software", "n2", "UDP port 3780"),
        ("reachability", "n1", "zcluster_ip"),
        ("reachability", "n2", "zcluster_ip"),
        ("vip_free", "n1 and n2", "zcluster_vips"),
        ("vrid", "n1 and n2", "zcluster_vrid"),
        ("firewall", "n2", "nftables chain inet mine input (hook input, policy accept)"),
        ("sshd", "n2", "AllowUsers"),
        ("services", "n2", "zcluster_services"),
        ("owners", "n2", "owner"),
        ("replaced", "n2", "zcluster_replace_backup"),
    }
    lab = mess.lab
    client = lab.addresses("client")["front"]["ipv4"]
    answered = [f["found"].split(" on ")[0] for f in found if f["check"] == "vip_free"]
    mac = lab.settings.mac("front", 50)
    assert answered == [f"{lab.vips()[name]} is answered by {mac}" for name in ("front", "front6")]
    assert told["vrid", "n1 and n2", "zcluster_vrid"] == (
        f"{VRID} from {client} on eth0 (VRRPv3, priority 200)"
    )
    assert told["reachability", "n1", "zcluster_ip"].endswith(lab.settings.address("link", 12))
    assert told["membership", "n2", "zcluster_name"] == "shop"
    assert told["other_software", "n2", "UDP port 3780"] == "socat"
    assert told["services", "n2", "zcluster_services"] == "haproxy.service: masked"
    assert told["owners", "n2", "owner"] == "onlyhere is missing"
    assert told["replaced", "n2", "zcluster_replace_backup"] == "/etc/haproxy/haproxy.cfg"
    assert [trace(mess.lab, node) for node in NODE_NAMES] == before


def test_preflight_finds_nothing_on_tidy_nodes_and_picks_a_virtual_router_id_nobody_uses(
    known: Cluster, rival_router: None, play: Play
) -> None:
    run = play("zcluster.ha.preflight", inventory=known.inventory)
    assert run.returncode == 0, run.output
    assert f'"vrid": {VRID + 1}' in run.output
