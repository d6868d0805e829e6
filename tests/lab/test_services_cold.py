# SPDX-License-Identifier: GPL-3.0-or-later
# Cold services, critical services, and services that hang or die: the role is always followed.
from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from product import Cluster, create_cluster, eventually, restore_created, restore_or_make
from test_services import apply, process_id, run, says, services, state
from zcluster_lab import BALANCERS, Lab

pytestmark = pytest.mark.lab

UNITS = {
    # 3 s until it is up; it is there when its file is.
    "slow": "ExecStartPre=/bin/sleep 3\nExecStart=/bin/sleep infinity",
    # Hangs at its start where /root/hang is.
    "stuck": "ExecStartPre=/bin/sh -c 'test ! -e /root/hang || sleep 1000'\n"
    "ExecStart=/bin/sleep infinity",
    "last": "ExecStart=/bin/sleep infinity",
    "vital": "ExecStart=/bin/sleep infinity",
}
SERVICES = [
    "haproxy",
    "nftables",
    {"name": "last", "standby": "cold", "after": ["stuck"]},
    {"name": "stuck", "standby": "cold", "after": ["slow"], "start_seconds": 4},
    {"name": "slow", "standby": "cold", "start_seconds": 20},
    {
        "name": "vital",
        "standby": "cold",
        "critical": True,
        "check": "sh -c 'echo looked >> /run/looked; test ! -e /root/unwell'",
    },
    {
        "name": "table",
        "paths": ["/etc/table"],
        "validate": "grep -q good /etc/table",
        # Nothing but a boot takes away what it has loaded.
        "command": "sh -c 'cat /etc/table > /run/table'",
        "on_promotion": "sh -c 'test ! -e /root/deaf && echo told >> /root/told'",
        "auto_apply": True,
    },
]
SYNC_PATHS = ["/etc/haproxy", "/etc/nftables.conf", "/etc/table"]
COLD = ["slow", "stuck", "last", "vital"]


def unit(name: str) -> str:
    """A unit file that is enabled, as packages leave theirs."""
    return f"[Service]\n{UNITS[name]}\n[Install]\nWantedBy=multi-user.target\n"


def master_only(cluster: Cluster) -> dict[str, list[str]]:
    """Networking that belongs to the service, as it is declared."""
    vip, gateway = (cluster.lab.settings.address("front", n) for n in (100, 50))
    return {
        "zcluster_master_addresses": ["198.18.255.7/32 dev lo"],
        "zcluster_master_routes": [f"198.18.250.0/24 via {gateway} dev eth0 src {vip} table 100"],
        "zcluster_master_rules": [f"from {vip} table 100 priority 100"],
    }


def own_networking(cluster: Cluster, node: str) -> tuple[bool, bool, bool]:
    """Which of it is on a node: the address, the route, the rule."""
    script = "ip -o address show lo; ip route show table 100 2>/dev/null || true; ip rule"
    shown = run(cluster, node, script)
    return "198.18.255.7/32" in shown, "198.18.250.0/24" in shown, "lookup 100" in shown


def running(cluster: Cluster, node: str) -> list[str]:
    """The cold services that run on a node."""
    said = run(cluster, node, f"systemctl is-active {' '.join(COLD)} || true").split()
    return [name for name, word in zip(COLD, said, strict=True) if word == "active"]


@pytest.fixture
def cold(lab: Lab, inventory: Path) -> Cluster:
    """The cluster with cold services beside the hot ones; made once for each content."""
    cluster = Cluster(lab, inventory)

    def make() -> None:
        restore_created(lab, inventory)
        for node in BALANCERS:
            for service in UNITS:
                path = f"/etc/systemd/system/{service}.service"
                text = unit(service)
                lab.exec(node.name, "python3", "-c", f"open({path!r}, 'w').write({text!r})")
            run(cluster, node.name, f"systemctl daemon-reload; systemctl enable {' '.join(UNITS)}")
        run(cluster, "n1", "echo good > /etc/table")
        declared = {
            "zcluster_services": SERVICES,
            "zcluster_sync_paths": SYNC_PATHS,
            **master_only(cluster),
        }
        done = create_cluster(lab, inventory, "-e", json.dumps(declared))
        assert done.returncode == 0, done.output
        eventually("cold ones run on n1", lambda: running(cluster, "n1") == COLD)

    restore_or_make(lab, inventory, "cold", make)
    eventually("cold ones run on n1", lambda: running(cluster, "n1") == COLD)
    assert running(cluster, "n2") == []
    return cluster


def started_at(cluster: Cluster, node: str) -> dict[str, int]:
    """When each cold service became active, in microseconds of the node's boot."""
    script = "systemctl show -p Id -p ActiveEnterTimestampMonotonic " + " ".join(COLD)
    found = {}
    for paragraph in run(cluster, node, script).split("\n\n"):
        said = dict(line.split("=", 1) for line in paragraph.splitlines() if line)
        found[said["Id"].removesuffix(".service")] = int(said["ActiveEnterTimestampMonotonic"])
    return found


@pytest.mark.services
def test_cold_services_start_in_order_on_promotion_and_stop_on_demotion(cold: Cluster) -> None:
    assert all(state(cold, "n2", name) == "standby" for name in COLD)
    cold.lab.power_off("n1")
    eventually("all run on n2", lambda: running(cold, "n2") == COLD)
    at = started_at(cold, "n2")
    assert at["slow"] < at["stuck"] < at["last"]
    cold.lab.power_on("n1")
    cold.wait_settled()
    # Enabled at boot as they are, they do not run on the node that does not serve.
    assert running(cold, "n1") == []
    assert running(cold, "n2") == COLD


@pytest.mark.services
def test_service_that_hangs_at_start_is_red_and_the_next_one_starts(cold: Cluster) -> None:
    run(cold, "n2", "touch /root/hang")
    cold.lab.power_off("n1")
    eventually("the next one runs", lambda: "last" in running(cold, "n2"))
    assert "stuck" not in running(cold, "n2")
    hung = "stuck failed: stuck.service did not start within 4 s"
    eventually("n2 says so", lambda: says(cold, "n2", hung))
    assert cold.status("n2")["status"] == "failure"
    run(cold, "n2", "rm /root/hang")
    eventually("it is started in the end", lambda: "stuck" in running(cold, "n2"))
    eventually("n2 is green", lambda: cold.status("n2").get("status") == "ok", timeout=120)


def kill_until(cluster: Cluster, node: str, done: Callable[[], bool], seconds: float) -> int:
    """Kill the critical service again and again; how often it was killed."""
    kills, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline and not done():
        if "vital" in running(cluster, node):
            run(cluster, node, "systemctl kill --signal=KILL vital", check=False)
            kills += 1
        time.sleep(0.2)
    return kills


def gave_up(cluster: Cluster, node: str) -> int:
    """How often a node gave up mastership for a service."""
    events = json.loads(run(cluster, node, "zclustermanager history --events"))
    return [event["event"] for event in events].count("gives-up")


@pytest.mark.services
def test_critical_service_killed_over_and_over_moves_the_cluster_once(cold: Cluster) -> None:
    kills = kill_until(cold, "n1", lambda: cold.status("n2").get("role") == "master", 120)
    assert kills >= 3
    assert gave_up(cold, "n1") == 1
    eventually("it runs on n2", lambda: "vital" in running(cold, "n2"))
    eventually("n1 stands by", lambda: cold.status("n1").get("role") == "backup")
    eventually("and runs nothing", lambda: running(cold, "n1") == [])
    # The flap guard: now n2 keeps the virtual IPs, red, instead of handing them back.
    gone = functools.partial(says, cold, "n2", "(3 times in a row)")
    kill_until(cold, "n2", gone, 120)
    assert says(cold, "n2", "vital failed: it died")
    wait_for_two_looks(cold, "n2")
    assert cold.status("n2")["role"] == "master"
    assert gave_up(cold, "n2") == 0


def wait_for_two_looks(cluster: Cluster, node: str) -> None:
    """Until the keeper has looked at every service twice: its check of the critical one tells."""

    def looks() -> int:
        return len(run(cluster, node, "cat /run/looked 2>/dev/null || true").split())

    before = looks()
    eventually("the keeper looks", lambda: looks() >= before + 2)


@pytest.mark.services
def test_check_that_fails_restarts_the_service_and_in_the_end_moves_the_cluster(
    cold: Cluster,
) -> None:
    before = process_id(cold, "n1", "vital")
    run(cold, "n1", "touch /root/unwell")
    eventually("it is restarted", lambda: process_id(cold, "n1", "vital") != before)
    eventually("n2 serves", lambda: cold.status("n2").get("role") == "master", timeout=120)
    eventually("it runs there", lambda: "vital" in running(cold, "n2"))
    assert gave_up(cold, "n1") == 1


@pytest.mark.services
def test_mastership_is_not_left_to_a_node_in_maintenance(cold: Cluster) -> None:
    run(cold, "n2", "echo 1 > /var/lib/zcluster/maintenance")
    eventually("n2 is out", lambda: cold.status("n2").get("role") == "maintenance")
    kill_until(cold, "n1", lambda: says(cold, "n1", "(3 times in a row)"), 120)
    eventually("it is tried again all the same", lambda: "vital" in running(cold, "n1"))
    assert gave_up(cold, "n1") == 0
    assert cold.status("n1")["role"] == "master"
    assert cold.status("n1")["status"] == "failure"


@pytest.mark.services
def test_service_is_told_of_the_promotion_until_it_knows(cold: Cluster) -> None:
    told = "cat /root/told 2>/dev/null || true"
    eventually("n1 knows", lambda: "told" in run(cold, "n1", told))
    run(cold, "n2", "rm -f /root/told; touch /root/deaf")
    cold.lab.power_off("n1")
    eventually("n2 is red", lambda: says(cold, "n2", "table failed: on promotion: "))
    # Meanwhile nothing else had to wait for it.
    eventually("all run on n2", lambda: running(cold, "n2") == COLD)
    run(cold, "n2", "rm /root/deaf")
    eventually("n2 knows", lambda: run(cold, "n2", told) == "told\n")
    eventually("n2 is green", lambda: cold.status("n2").get("status") == "ok")
    # A daemon that starts again in the same term tells nobody twice.
    run(cold, "n2", "systemctl restart zcluster")
    eventually("n2 is green", lambda: cold.status("n2").get("status") == "ok")
    assert run(cold, "n2", told) == "told\n"


def table_has(cluster: Cluster, node: str, content: str) -> bool:
    """Whether the service `table` has loaded this on a node."""
    return run(cluster, node, "cat /run/table 2>/dev/null || true").strip() == content


@pytest.mark.services
def test_automatic_service_follows_each_change_and_has_its_table_back_after_a_boot(
    cold: Cluster,
) -> None:
    run(cold, "n1", "echo good-2 > /etc/table")
    for node in ("n1", "n2"):
        eventually(f"{node} has it", lambda node=node: table_has(cold, node, "good-2"))
    run(cold, "n1", "echo bad > /etc/table")
    for node in ("n1", "n2"):
        eventually(f"{node} rejects", lambda node=node: state(cold, node, "table") == "rejected")
        assert table_has(cold, node, "good-2")
    # Changed while nobody looked.
    run(cold, "n1", "systemctl stop zcluster; echo good-3 > /etc/table; systemctl start zcluster")
    for node in ("n1", "n2"):
        eventually(f"{node} has it", lambda node=node: table_has(cold, node, "good-3"))
    cold.wait_settled()
    cold.lab.power_off("n2")
    cold.lab.power_on("n2")
    eventually("n2 has its table back", lambda: table_has(cold, "n2", "good-3"))
    cold.wait_settled()


@pytest.mark.services
def test_routes_rules_and_addresses_of_the_service_are_on_the_master_alone(cold: Cluster) -> None:
    here, away = (True, True, True), (False, False, False)
    assert (own_networking(cold, "n1"), own_networking(cold, "n2")) == (here, away)
    # A keepalived that is killed leaves them behind, and the fence takes them away.
    run(cold, "n1", "pkill -9 -x keepalived")
    eventually("n2 has them", lambda: own_networking(cold, "n2") == here)
    cold.wait_settled()
    assert own_networking(cold, cold.master) == here
    assert own_networking(cold, cold.backup) == away
    # One that is left on the node that does not serve is seen.
    backup = cold.backup
    run(cold, backup, "ip address add 198.18.255.7/32 dev lo")
    eventually("it is red", lambda: says(cold, backup, "holds 198.18.255.7"))
    run(cold, backup, "ip address delete 198.18.255.7/32 dev lo")
    cold.wait_settled()
    master = cold.master
    cold.lab.power_off(master)
    other = "n2" if master == "n1" else "n1"
    eventually("the other node has them", lambda: own_networking(cold, other) == here)


@pytest.mark.services
def test_close_transitions_leave_each_service_where_the_role_is(cold: Cluster) -> None:
    for pause in (0.2, 1.0, 0.5, 2.0, 0.1):
        for node in ("n1", "n2"):
            run(cold, node, "echo 1 > /var/lib/zcluster/maintenance")
            time.sleep(pause)
            run(cold, node, "echo 0 > /var/lib/zcluster/maintenance")
    cold.wait_settled()
    eventually("cold ones run on the master", lambda: running(cold, cold.master) == COLD)
    eventually("and nowhere else", lambda: running(cold, cold.backup) == [])


@pytest.mark.services
def test_cold_service_stopped_by_the_operator_on_the_master_stays_stopped(cold: Cluster) -> None:
    run(cold, "n1", "systemctl stop last")
    eventually("it is shown", lambda: state(cold, "n1", "last") == "stopped by operator")
    wait_for_two_looks(cold, "n1")
    assert "last" not in running(cold, "n1")
    # On the backup nobody starts a cold one by mistake.
    run(cold, "n2", "systemctl start last")
    assert running(cold, "n2") == []


@pytest.mark.services
def test_unset_leaves_cold_services_running_on_the_active_node(cold: Cluster, play) -> None:  # type: ignore[no-untyped-def]
    done = play("zcluster.ha.unset", inventory=cold.inventory)
    assert done.returncode == 0, done.output
    assert running(cold, "n1") == COLD
    assert run(cold, "n1", "find /etc/systemd/system -name 'zcluster*'").split() == [
        "/etc/systemd/system/multi-user.target.wants/zcluster-vips.service",
        "/etc/systemd/system/zcluster-vips.service",
    ]
    run(cold, "n2", "systemctl start last")
    assert running(cold, "n2") == ["last"]


CERTIFICATE = """
mkdir -p /etc/nginx/certs; cd /root
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={name}-authority \
    -keyout authority.key -out authority.pem 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN={name} \
    -keyout site.key -out site.csr 2>/dev/null
openssl x509 -req -days 30 -in site.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
    -out site.pem 2>/dev/null
cat site.pem authority.pem > /etc/nginx/certs/site.pem
cat site.key > /etc/nginx/certs/site.key
chown root:www-data /etc/nginx/certs/site.key; chmod 0640 /etc/nginx/certs/site.key
"""
SITE = """
server {
  listen 9443 ssl;
  ssl_certificate /etc/nginx/certs/site.pem;
  ssl_certificate_key /etc/nginx/certs/site.key;
  location / { return 200 nginx; }
}
"""
ASK = """
import socket, ssl
context = ssl.create_default_context(); context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
with socket.create_connection(("127.0.0.1", 9443), 5) as link:
    with context.wrap_socket(link) as wrapped:
        import hashlib
        print(hashlib.sha256(wrapped.getpeercert(True)).hexdigest())
"""


@pytest.mark.services
def test_renewed_certificate_is_live_on_the_backup_without_a_restart(
    cluster: Cluster, inventory: Path
) -> None:
    for node in ("n1", "n2"):
        run(cluster, node, "apt-get install -qq -y nginx openssl >&2")
        run(cluster, node, "rm -f /etc/nginx/sites-enabled/default; systemctl restart nginx")
    site = "/etc/nginx/conf.d/site.conf"
    run(cluster, "n1", CERTIFICATE.format(name="old"))
    cluster.lab.exec("n1", "python3", "-c", f"open({site!r}, 'w').write({SITE!r})")
    declared = {
        "zcluster_sync_paths": ["/etc/haproxy", "/etc/nftables.conf", "/etc/nginx"],
        "zcluster_services": ["haproxy", "nftables", "nginx"],
        "zcluster_replace_backup": True,
    }
    done = create_cluster(cluster.lab, inventory, "-e", json.dumps(declared))
    assert done.returncode == 0, done.output
    assert apply(cluster, "nginx")["nginx", "n2"] == ("standby", "")
    before = run(cluster, "n2", f"python3 -c '{ASK}'")
    pid = process_id(cluster, "n2", "nginx")
    run(cluster, "n1", CERTIFICATE.format(name="new"))
    assert apply(cluster, "nginx")["nginx", "n2"] == ("standby", "")
    assert run(cluster, "n2", "stat -c '%U:%G %a' /etc/nginx/certs/site.key") == (
        "root:www-data 640\n"
    )
    after = [run(cluster, node, f"python3 -c '{ASK}'") for node in ("n1", "n2")]
    assert after[0] == after[1] != before
    assert process_id(cluster, "n2", "nginx") == pid
    chain = "openssl s_client -connect 127.0.0.1:9443 -showcerts </dev/null 2>/dev/null"
    assert run(cluster, "n2", f"{chain} | grep -c BEGIN").strip() == "2"
    # A key that does not belong to its certificate: rejected, and the old pair goes on.
    run(cluster, "n1", "openssl genrsa -out /etc/nginx/certs/site.key 2048 2>/dev/null")
    eventually("n2 rejects it", lambda: services(cluster, "n1")["nginx", "n2"][0] == "rejected")
    assert "key values mismatch" in services(cluster, "n1")["nginx", "n2"][1]
    assert run(cluster, "n2", f"python3 -c '{ASK}'") == after[1]
