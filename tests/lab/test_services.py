# SPDX-License-Identifier: GPL-3.0-or-later
# Managed services: the backup is ready before it is needed, and both nodes say so.
from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from product import (
    NODE_NAMES,
    Cluster,
    Run,
    create_cluster,
    eventually,
    trace,
)
from test_nodes import zcluster
from traffic import traffic
from zcluster_lab import HTTP_PORT, Lab

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
    return cluster.lab.exec(node, "sh", "-ec", script, check=check, timeout=300).stdout


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


# A client that asks again and again, each time anew; at SIGTERM, all that it was answered.
ASKING = """
import http.client, json, signal, sys, time, urllib.error, urllib.request
asked, ended = [], []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
while True:
    # The last one begins after the end was asked for.
    last = bool(ended)
    try:
        answer = urllib.request.urlopen(sys.argv[1], timeout=0.5).read().decode().strip()
    except urllib.error.HTTPError as error:
        answer = "HTTP %d" % error.code
    except (OSError, http.client.HTTPException):
        answer = ""
    asked.append(answer)
    if last:
        break
    time.sleep(0.02)
print(json.dumps(asked), flush=True)
"""


@contextlib.contextmanager
def client_that_asks(cluster: Cluster, path: str) -> Iterator[list[str]]:
    """Requests through the second virtual IP while the block runs; the answers are there after."""
    url = f"http://{cluster.lab.settings.address('front', 101)}:{HTTP_PORT}{path}"
    process = cluster.lab.start_process("client", "python3", "-c", ASKING, url)
    answers: list[str] = []
    try:
        yield answers
    finally:
        answers += json.loads(cluster.lab.stop_process(process) or "[]")


def tool(cluster: Cluster, *words: str) -> tuple[int, dict[tuple[str, str], tuple[str, str]]]:
    """`zcluster VERB` as a user runs it: exit code, and (service, node) -> (state, why)."""
    code, out = zcluster(cluster, *words, "--output", "json")
    said = json.loads(out)
    rows = said if isinstance(said, list) else said["reports"]["apply"]["n1"]["services"]
    return code, {(r["service"], r["node"]): (r["state"], r["why"]) for r in rows}


def test_added_backend_serves_after_power_loss_first_request_included(cluster: Cluster) -> None:
    new = cluster.lab.settings.address("back", 63)
    # Without `transparent` it can only bind to an address that is not there by ip_nonlocal_bind.
    run(
        cluster,
        "n1",
        rf"""sed -i -e 's/ transparent//' \
            -e '/default_backend/i\    use_backend new if {{ path_beg /new }}' {HAPROXY}
cat >> {HAPROXY} <<'END'

backend new
    server b63 {new}:{HTTP_PORT} check
END""",
    )
    code, done = tool(cluster, "apply", "haproxy")
    assert done == {("haproxy", "n1"): ("active", ""), ("haproxy", "n2"): ("standby", "")}
    assert code == 0
    code, shown = tool(cluster, "services")
    assert (code, shown["haproxy", "n1"][0], shown["haproxy", "n2"][0]) == (0, "active", "standby")
    with client_that_asks(cluster, "/new") as answers:
        eventually("it is answered", lambda: fetch(cluster, "/new").strip() == new)
        cluster.lab.power_off("n1")
        eventually("n2 answers", lambda: fetch(cluster, "/new").strip() == new)
    assert set(answers) <= {new, ""}, "the new master once gave another answer"
    assert answers[-1] == new


def process_id(cluster: Cluster, node: str, unit: str) -> str:
    """Which process the unit is: the same as before, unless it was restarted."""
    return run(cluster, node, f"systemctl show -p MainPID {unit}")


@pytest.mark.services
def test_broken_configuration_is_rejected_in_its_programs_words_on_both_nodes(
    cluster: Cluster,
) -> None:
    local = 8089
    run(cluster, "n1", rf"sed -i '/ bind /a\    bind 127.0.0.1:{local}' {HAPROXY}")
    assert apply(cluster, "haproxy")["haproxy", "n2"] == ("standby", "")
    pids = {node: process_id(cluster, node, "haproxy") for node in ("n1", "n2")}
    # A warning comes first in its words: what is told is the error.
    run(
        cluster,
        "n1",
        f"cp {HAPROXY} /root/good; sed -i -e '/default_backend/i\\    use_backend web if TRUE' "
        f"-e '/default_backend/i\\    http-request set-header x y' {HAPROXY}; "
        f"echo '  no such keyword' >> {HAPROXY}",
    )
    broken = int(run(cluster, "n1", f"wc -l < {HAPROXY}"))
    place = f"{HAPROXY}:{broken}"
    for node in ("n1", "n2"):
        eventually(f"{node} says where", functools.partial(says, cluster, node, place))
        assert says(cluster, node, "rejected by haproxy: ")
        assert cluster.status(node)["status"] == "failure"
    code, done = tool(cluster, "apply", "haproxy")
    assert code == 2
    assert done["haproxy", "n1"][0] == "rejected"
    assert place in done["haproxy", "n1"][1]
    # The master knows it for good, whatever becomes of the backup.
    events = json.loads(run(cluster, "n1", "zclustermanager history --events"))
    assert any(e["event"] == "service-on-peer" and place in e["why"] for e in events)
    # What runs goes on with the configuration it has, on both nodes.
    assert "no answer" not in fetch(cluster)
    ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{local}').status)"
    for node in ("n1", "n2"):
        assert process_id(cluster, node, "haproxy") == pids[node]
        assert run(cluster, node, f'python3 -c "{ask}"').strip() == "200"
    cluster.lab.power_off("n1")
    eventually("n2 answers", lambda: "no answer" not in fetch(cluster))
    assert process_id(cluster, "n2", "haproxy") == pids["n2"]
    cluster.lab.power_on("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    good = run(cluster, "n1", "cat /root/good")
    cluster.lab.exec("n2", "python3", "-c", f"open({HAPROXY!r}, 'w').write({good!r})")
    cluster.wait_settled()


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
    assert "flush ruleset" in run(cluster, "n1", "cat /root/good")
    with contextlib.ExitStack() as stack:
        logs = {node: stack.enter_context(ruleset_log(cluster, node)) for node in ("n1", "n2")}
        run(
            cluster,
            "n1",
            "cp /root/good /etc/nftables.conf; echo 'table inet extra {}' >> /etc/nftables.conf",
        )
        done = apply(cluster, "nftables")
        assert done == {("nftables", "n1"): ("active", ""), ("nftables", "n2"): ("standby", "")}
        for node, log in logs.items():
            tables = run(cluster, node, "nft list tables")
            assert "table inet extra" in tables
            assert "table inet zcluster" in tables
            # Both tables go and come in one generation of the ruleset.
            made = [part for part in log().split("# new generation") if "table inet extra" in part]
            assert len(made) == 1, made
            assert "delete table inet zcluster" in made[0]
            assert "add table inet zcluster" in made[0]


@contextlib.contextmanager
def ruleset_log(cluster: Cluster, node: str) -> Iterator[Callable[[], str]]:
    """What nft(8) monitor says of a node's ruleset; each generation ends with a line of its own."""

    def log() -> str:
        """All until now: a change of our own comes last, so that none is on its way."""
        run(cluster, node, "nft add table inet probe; nft delete table inet probe")
        eventually("the monitor sees it", lambda: "delete table inet probe" in read())
        return read().partition("add table inet probe")[0]

    def read() -> str:
        return run(cluster, node, "cat /run/nft.log")

    def listens() -> bool:
        run(cluster, node, "nft add table inet hello; nft delete table inet hello")
        return "table inet hello" in read()

    process = cluster.lab.start_process(
        node, "sh", "-c", "exec stdbuf -oL nft monitor > /run/nft.log"
    )
    try:
        eventually("the monitor listens", listens)
        yield log
    finally:
        cluster.lab.stop_process(process)


# One way at a time to lock the peer out, and what the judge is to call it.
HOLES = {
    "VRRP": "iifname eth0 meta l4proto vrrp drop",
    "conntrackd": "iifname eth2 udp dport 3780 drop",
    "SSH": "iifname eth2 tcp dport 22 drop",
}


@pytest.mark.services
def test_each_way_to_lock_the_peer_out_is_seen_alone(cluster: Cluster) -> None:
    for what, rule in HOLES.items():
        chain = f"chain input {{ type filter hook input priority 0; {rule}; }}"
        run(cluster, "n1", f"printf 'table inet hole {{\\n{chain}\\n}}\\n' > /root/hole.nft")
        judged = cluster.lab.exec(
            "n1", "zclustermanager", "firewall", "/root/hole.nft", check=False
        )
        assert judged.returncode == 1, what
        assert f"{what} in" in judged.stderr, what
        others = [other for other in HOLES if other != what]
        assert not any(f"{other} in" in judged.stderr for other in others), judged.stderr


@pytest.mark.services
def test_connection_of_the_old_ruleset_survives_a_failover_under_the_new_one(
    cluster: Cluster,
) -> None:
    with traffic(cluster.lab, connections=50) as noticed:
        run(cluster, "n1", "echo 'table inet extra { }' >> /etc/nftables.conf")
        assert apply(cluster, "nftables") == {
            ("nftables", "n1"): ("active", ""),
            ("nftables", "n2"): ("standby", ""),
        }
        cluster.lab.power_off("n1")
        eventually("n2 serves", lambda: cluster.status("n2").get("role") == "master")
    assert noticed.tcp_opened == 50
    assert noticed.tcp_alive == noticed.tcp_opened


@pytest.mark.services
def test_services_that_cannot_be_are_refused_before_anything_changes(
    bare: Lab, inventory: Path
) -> None:
    before = [trace(bare, node) for node in NODE_NAMES]
    refused = [
        (
            ["squid", {"name": "haproxy", "paths": ["/etc/nginx"]}],
            {"zcluster_services.preset": "squid", "zcluster_services.paths": "/etc/nginx"},
        ),
        (
            [{"name": "a", "after": ["b"]}, {"name": "b", "after": ["a"]}],
            {"zcluster_services.after": "a -> b -> a"},
        ),
        ([{"name": "haproxy", "validate": "nosuch --test"}], {"zcluster_services": "nosuch"}),
    ]
    for declared, found in refused:
        said = json.dumps({"zcluster_services": declared})
        done = create_cluster(bare, inventory, "-e", said)
        assert done.returncode != 0, declared
        for field, value in found.items():
            assert field in done.output, done.output
            assert value in done.output, done.output
    assert [trace(bare, node) for node in NODE_NAMES] == before


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


@pytest.mark.services
def test_preset_ipvs_brings_its_virtual_servers_to_the_node_that_takes_over(
    cluster: Cluster, inventory: Path
) -> None:
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "--quiet", "ip_vs"], check=False)
    if not Path("/proc/net/ip_vs").exists():
        pytest.skip("this kernel has no IPVS")
    vip = cluster.lab.settings.address("front", 100)
    server = VIRTUAL_SERVER.replace("198.18.10.100", vip)
    for node in ("n1", "n2"):
        run(cluster, node, "apt-get install -qq -y ipvsadm >&2; mkdir -p /etc/ipvs")
    cluster.lab.exec("n1", "python3", "-c", f"open('/etc/ipvs/web.conf', 'w').write({server!r})")
    declared = {
        "zcluster_services": ["haproxy", "nftables", "ipvs"],
        "zcluster_sync_paths": ["/etc/haproxy", "/etc/nftables.conf", "/etc/ipvs"],
        "zcluster_replace_backup": True,
    }
    done = create_cluster(cluster.lab, inventory, "-e", json.dumps(declared))
    assert done.returncode == 0, done.output
    for node in ("n1", "n2"):
        eventually(f"{node} has it", lambda node=node: vip in run(cluster, node, "ipvsadm -Ln"))
    cluster.lab.power_off("n1")
    eventually("n2 serves", lambda: cluster.status("n2").get("role") == "master")
    assert vip in run(cluster, "n2", "ipvsadm -Ln")
