# SPDX-License-Identifier: GPL-3.0-or-later
# Managed services: the backup is ready before it is needed, and both nodes say so.
from __future__ import annotations

import functools
import json
from collections.abc import Callable

import pytest
from product import Cluster, Run, eventually

pytestmark = pytest.mark.lab

HAPROXY = "/etc/haproxy/haproxy.cfg"
LOCK_OUT = """
table inet lockout {
  chain input {
    type filter hook input priority 0; policy drop;
    iifname "eth0" accept
    ct state established accept
  }
}
"""


def run(cluster: Cluster, node: str, script: str, check: bool = True) -> str:
    """A script on a node; what it prints."""
    return cluster.lab.exec(node, "sh", "-ec", script, check=check, timeout=120).stdout


def services(cluster: Cluster, node: str) -> dict[tuple[str, str], tuple[str, str]]:
    """(service, node) -> (state, why), as the node says."""
    said = cluster.lab.exec(node, "zclustermanager", "services", "--json", check=False, timeout=30)
    rows = json.loads(said.stdout)["services"]
    return {(r["service"], r["node"]): (r["state"], r["why"]) for r in rows}


def state(cluster: Cluster, node: str, service: str = "haproxy") -> str:
    """The state of one service on a node, as the node itself says."""
    return services(cluster, node)[service, node][0]


def apply(cluster: Cluster, *arguments: str) -> dict[tuple[str, str], tuple[str, str]]:
    """`zcluster apply` on the master."""
    said = cluster.lab.exec(
        "n1", "zclustermanager", "apply", "--json", *arguments, check=False, timeout=120
    )
    assert said.stdout, said.stderr
    rows = json.loads(said.stdout)["services"]
    return {(r["service"], r["node"]): (r["state"], r["why"]) for r in rows}


def says(cluster: Cluster, node: str, words: str) -> bool:
    """Whether these words are in the message of a node."""
    return words in str(cluster.status(node).get("message"))


def fetch(cluster: Cluster, path: str = "/", port: int = 8080) -> str:
    """One HTTP request of the client through the second virtual IP."""
    vip = cluster.lab.settings.address("front", 101)
    url = f"http://{vip}:{port}{path}"
    script = f"""
import urllib.request, sys
try: sys.stdout.write(urllib.request.urlopen({url!r}, timeout=2).read().decode())
except OSError as error: sys.stdout.write("no answer: %s" % error)
"""
    return cluster.lab.exec("client", "python3", "-c", script, timeout=20).stdout


def test_added_backend_serves_after_power_loss_first_request_included(cluster: Cluster) -> None:
    run(
        cluster,
        "n1",
        rf"""cat >> {HAPROXY} <<'END'
    http-request return status 200 content-type text/plain string "new" if {{ path /new }}
END""",
    )
    done = apply(cluster, "haproxy")
    assert done == {("haproxy", "n1"): ("active", ""), ("haproxy", "n2"): ("standby", "")}
    assert fetch(cluster, "/new") == "new"
    cluster.lab.power_off("n1")
    vip = cluster.lab.settings.address("front", 101)
    eventually("n2 has the address", lambda: vip in run(cluster, "n2", "ip -o address"))
    assert fetch(cluster, "/new") == "new"


@pytest.mark.services
def test_broken_configuration_is_rejected_in_its_programs_words_on_both_nodes(
    cluster: Cluster,
) -> None:
    run(cluster, "n1", f"cp {HAPROXY} /root/good; echo '  no such keyword' >> {HAPROXY}")
    broken = int(run(cluster, "n1", f"wc -l < {HAPROXY}"))
    place = f"{HAPROXY}:{broken}"
    for node in ("n1", "n2"):
        eventually(f"{node} says where", functools.partial(says, cluster, node, place))
        assert says(cluster, node, "rejected by haproxy: ")
        assert cluster.status(node)["status"] == "failure"
    assert apply(cluster)["haproxy", "n1"][0] == "rejected"
    before = fetch(cluster)
    assert "no answer" not in before
    cluster.lab.power_off("n1")
    vip = cluster.lab.settings.address("front", 101)
    eventually("n2 has the address", lambda: vip in run(cluster, "n2", "ip -o address"))
    # What runs goes on with the configuration it has.
    assert "no answer" not in fetch(cluster)
    cluster.lab.power_on("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    cluster.lab.exec("n1", "sh", "-c", "cat /root/good", timeout=30)
    good = run(cluster, "n1", "cat /root/good")
    cluster.lab.exec("n2", "python3", "-c", f"open({HAPROXY!r}, 'w').write({good!r})")
    cluster.wait_settled()


@pytest.mark.services
def test_ruleset_that_locks_out_the_peer_is_rejected_and_a_good_one_replaced_whole(
    cluster: Cluster,
) -> None:
    run(cluster, "n1", "cp /etc/nftables.conf /root/good")
    cluster.lab.exec("n1", "python3", "-c", f"open('/etc/nftables.conf', 'a').write({LOCK_OUT!r})")
    eventually("n2 rejects it", lambda: state(cluster, "n2", "nftables") == "rejected")
    why = services(cluster, "n1")["nftables", "n2"][1]
    assert "inet lockout input" in why
    assert all(what in why for what in ("VRRP in", "conntrackd in", "SSH in"))
    assert apply(cluster, "nftables")["nftables", "n1"][0] == "rejected"
    for node in ("n1", "n2"):
        assert "lockout" not in run(cluster, node, "nft list tables")
        assert "table inet zcluster" in run(cluster, node, "nft list tables")
    # `flush ruleset` stands at the top of the user's file: our table must never be away with it.
    monitor = "timeout 60 stdbuf -oL nft monitor > /run/nft.log & sleep 1; echo $!"
    run(cluster, "n1", monitor)
    run(
        cluster,
        "n1",
        "cp /root/good /etc/nftables.conf; echo 'table inet extra {}' >> /etc/nftables.conf",
    )
    done = apply(cluster, "nftables")
    assert done == {("nftables", "n1"): ("active", ""), ("nftables", "n2"): ("standby", "")}
    for node in ("n1", "n2"):
        tables = run(cluster, node, "nft list tables")
        assert "table inet extra" in tables
        assert "table inet zcluster" in tables
    # One generation of the ruleset, not two (nft monitor: "# new generation N by process …").
    log = run(cluster, "n1", "cat /run/nft.log")
    assert log.count("# new generation") == 1, log


@pytest.mark.services
def test_check_tries_a_candidate_on_both_nodes_and_activates_nothing(cluster: Cluster) -> None:
    run(
        cluster,
        "n1",
        f"mkdir -p /root/new/etc; cp -a /etc/haproxy /root/new/etc/; "
        f"echo '  crt-base /nowhere' >> /root/new{HAPROXY}",
    )
    before = run(cluster, "n2", f"sha256sum {HAPROXY}; systemctl show -p ExecReload haproxy")
    tried = apply(cluster, "haproxy", "--check", "--candidate", "/root/new")
    assert [tried["haproxy", node][0] for node in ("n1", "n2")] == ["rejected", "rejected"]
    # A program that only the master has: what works there alone is found before it goes live.
    run(
        cluster,
        "n1",
        f"cp {HAPROXY} /root/new{HAPROXY}; mkdir -p /etc/only-here; echo ok > /etc/only-here/page; "
        rf"""cat >> /root/new{HAPROXY} <<'END'
    http-request return status 200 content-type text/plain file /etc/only-here/page if {{ path /p }}
END""",
    )
    tried = apply(cluster, "haproxy", "--check", "--candidate", "/root/new")
    assert tried["haproxy", "n1"] == ("accepted", "")
    assert tried["haproxy", "n2"][0] == "rejected"
    assert before == run(
        cluster, "n2", f"sha256sum {HAPROXY}; systemctl show -p ExecReload haproxy"
    )
    assert run(cluster, "n2", "ls -d /run/zcluster/try-*", check=False) == ""


@pytest.mark.services
def test_service_stopped_by_the_operator_on_the_backup_stays_stopped(cluster: Cluster) -> None:
    run(cluster, "n2", "systemctl stop haproxy")
    eventually("n2 says so", lambda: state(cluster, "n2") == "stopped by operator")
    run(cluster, "n1", f"echo '# changed' >> {HAPROXY}")
    eventually("n2 has it", lambda: "# changed" in run(cluster, "n2", f"cat {HAPROXY}"))
    assert apply(cluster, "haproxy")["haproxy", "n2"][0] == "stopped by operator"
    assert "stopped by operator" in str(cluster.status("n2")["message"])
    assert run(cluster, "n2", "systemctl is-active haproxy", check=False).strip() == "inactive"


VIRTUAL_SERVER = """
virtual_server 198.18.10.100 80 {
    lb_algo rr
    lb_kind NAT
    protocol TCP
    real_server 198.18.20.60 80 {
        TCP_CHECK { connect_timeout 1 }
    }
}
"""


def test_preset_ipvs_is_accepted_by_keepalived(cluster: Cluster, play: Callable[..., Run]) -> None:
    """Rendering and `keepalived -t` only: the kernel here has no IPVS to load it into."""
    for node in ("n1", "n2"):
        cluster.lab.exec(
            node,
            "python3",
            "-c",
            "import os; os.makedirs('/etc/ipvs', exist_ok=True); "
            f"open('/etc/ipvs/web.conf', 'w').write({VIRTUAL_SERVER!r})",
        )
    declared = {
        "zcluster_services": ["haproxy", "nftables", "ipvs"],
        "zcluster_sync_paths": ["/etc/haproxy", "/etc/nftables.conf", "/etc/ipvs"],
    }
    done = play(
        "zcluster.ha.create", "--check", "--diff", "-e", json.dumps(declared),
        inventory=cluster.inventory,
    )  # fmt: skip
    assert done.returncode == 0, done.output
    assert "+include /etc/ipvs/*.conf" in done.output
    test = (
        "sed '/^track_file service_fault/i include /etc/ipvs/*.conf' "
        "/etc/keepalived/keepalived.conf > /run/try.conf; "
        "keepalived --config-test --use-file=/run/try.conf"
    )
    run(cluster, "n1", test)
    # It does read the virtual servers: a broken one is refused.
    run(cluster, "n1", "sed -i 's/lb_algo rr/lb_algo no-such/' /etc/ipvs/web.conf")
    refused = cluster.lab.exec("n1", "sh", "-ec", test, check=False)
    assert refused.returncode != 0
