# SPDX-License-Identifier: GPL-3.0-or-later
# Planned actions, under live traffic: no packet and no established connection is lost.
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from product import ROOT, Cluster, Run, run_tool, tool
from traffic import Noticed, traffic

pytestmark = pytest.mark.lab
Play = Callable[..., Run]


def planned(play: Play, cluster: Cluster, verb: str, *arguments: str) -> Run:
    """Run the playbook of a verb; each argument is an extra variable, or an option."""
    words = [w for a in arguments for w in ((a,) if a.startswith("-") else ("-e", a))]
    return play(f"zcluster.ha.{verb}", *words, inventory=cluster.inventory)


def ok(run: Run) -> Run:
    """Insist that a run went through."""
    assert run.returncode == 0, run.output
    return run


def insist_nothing_lost(noticed: Noticed) -> None:
    """The promise of every planned action."""
    assert noticed.udp_sent > 0
    assert noticed.udp_lost == 0
    assert noticed.tcp_reset == 0
    assert noticed.tcp_alive == noticed.tcp_opened == 100


def wait_for(cluster: Cluster, node: str, timeout: float = 60, **wanted: object) -> None:
    """Until a node says all this of itself."""
    end = time.monotonic() + timeout
    while any((seen := cluster.status(node)).get(k) != v for k, v in wanted.items()):
        assert time.monotonic() < end, f"{node} is not {wanted}: {seen}"
        time.sleep(0.2)


def test_maintenance_of_the_master_and_back_loses_nothing(cluster: Cluster, play: Play) -> None:
    with traffic(cluster.lab) as noticed:
        check = ok(planned(play, cluster, "maintenance", "zcluster_node=n1", "--check", "--diff"))
        assert "+maintenance: enabled" in check.output
        assert cluster.master == "n1"
        assert ok(planned(play, cluster, "maintenance", "zcluster_node=n1")).changed() == 1
        assert cluster.status("n1")["status"] == "maintenance"
        assert cluster.master == "n2"
        again = ok(planned(play, cluster, "maintenance", "zcluster_node=n1"))
        assert again.changed() == 0
        assert "in maintenance already" in again.output
        assert ok(planned(play, cluster, "start", "zcluster_node=n1")).changed() == 1
        assert cluster.master == "n2"
        wait_for(cluster, "n1", role="backup", status="ok", ready=True)
        again = ok(planned(play, cluster, "start", "zcluster_node=n1"))
        assert again.changed() == 0
        assert "n1 is started already and is backup of n2" in again.output
        # And the other way, now that n2 serves.
        ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
        assert cluster.master == "n1"
        ok(planned(play, cluster, "start", "zcluster_node=n2"))
    insist_nothing_lost(noticed)


@pytest.mark.matrix
def test_maintenance_survives_a_reboot_and_clears_fully(cluster: Cluster, play: Play) -> None:
    with traffic(cluster.lab) as noticed:
        ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
        cluster.lab.reboot("n2")
        wait_for(cluster, "n2", role="maintenance", status="maintenance", timeout=90)
        ok(planned(play, cluster, "start", "zcluster_node=n2"))
        cluster.wait_settled()
        wait_for(cluster, "n2", ready=True)
        ok(planned(play, cluster, "maintenance", "zcluster_node=n1"))
        assert cluster.master == "n2"
    insist_nothing_lost(noticed)


@pytest.mark.matrix
def test_maintenance_is_refused_where_nobody_could_take_over(cluster: Cluster, play: Play) -> None:
    ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
    refused = planned(play, cluster, "maintenance", "zcluster_node=n1")
    assert refused.returncode != 0
    assert "n2 is in maintenance" in refused.output
    assert cluster.master == "n1"
    ok(planned(play, cluster, "start", "zcluster_node=n2"))
    cluster.wait_settled()
    cluster.lab.power_off("n2")
    refused = planned(play, cluster, "maintenance", "zcluster_node=n1")
    assert refused.returncode != 0
    assert "n2 cannot be asked" in refused.output
    assert cluster.master == "n1"
    ok(planned(play, cluster, "maintenance", "zcluster_node=n1", "zcluster_force=true"))
    assert cluster.status("n1")["role"] == "maintenance"


def declare(cluster: Cluster, tmp_path: Path, **settings: object) -> Path:
    """The inventory with other settings of the cluster, as a user would have changed it."""
    directory = tmp_path / "inventory"
    shutil.copytree(cluster.inventory, directory, ignore=shutil.ignore_patterns(".ssh"))
    hosts = directory / "hosts.yml"
    document = yaml.safe_load(hosts.read_text())
    document["lab_cluster"]["vars"] |= {f"zcluster_{k}": v for k, v in settings.items()}
    hosts.write_text(yaml.safe_dump(document))
    return directory


def test_switchover_there_and_back_loses_nothing(cluster: Cluster, play: Play) -> None:
    with traffic(cluster.lab) as noticed:
        ok(planned(play, cluster, "switchover", "--check"))
        assert cluster.master == "n1"
        run = ok(planned(play, cluster, "switchover"))
        assert run.changed() == 1
        assert "n1 served until" in run.output
        assert cluster.master == "n2"
        again = ok(planned(play, cluster, "switchover", "zcluster_node=n2"))
        assert again.changed() == 0
        assert "n2 serves already" in again.output
        ok(planned(play, cluster, "switchover"))
        assert cluster.master == "n1"
    insist_nothing_lost(noticed)
    cluster.wait_settled()


@pytest.mark.matrix
def test_switchover_asked_twice_within_200_ms_is_one_switchover(cluster: Cluster) -> None:
    with traffic(cluster.lab) as noticed:
        both = "zclustermanager switchover & sleep 0.1; zclustermanager switchover && wait $!"
        cluster.lab.exec("n1", "sh", "-c", both, timeout=60)
        assert cluster.master == "n2"
        cluster.wait_settled()
    insist_nothing_lost(noticed)
    events = cluster.lab.exec("n1", "cat", "/var/lib/zcluster/events.jsonl").stdout
    assert events.count('"step": "begin"') == 1


@pytest.mark.matrix
def test_switchover_is_refused_where_it_could_not_last(cluster: Cluster, play: Play) -> None:
    cluster.lab.exec("n1", "systemctl", "stop", "zcluster.service")
    refused = planned(play, cluster, "switchover")
    assert refused.returncode != 0
    assert "zclustermanager here does not answer" in refused.output
    cluster.lab.exec("n1", "systemctl", "start", "zcluster.service")
    cluster.wait_settled()
    ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
    refused = planned(play, cluster, "switchover")
    assert refused.returncode != 0
    assert "n2 is in maintenance" in refused.output
    assert cluster.master == "n1"


@pytest.mark.matrix
@pytest.mark.parametrize("victim", ["n1", "n2"])
def test_power_loss_in_the_middle_of_a_switchover_ends_well(cluster: Cluster, victim: str) -> None:
    vip = cluster.lab.settings.address("front", 100)
    order = ["sh", "-c", "zclustermanager switchover >/dev/null 2>&1 &"]
    cluster.lab.exec("n1", *order)
    # As soon as the fault is set, somewhere in the switch.
    end = time.monotonic() + 30
    while "begin" not in cluster.lab.exec("n1", "cat", "/var/lib/zcluster/events.jsonl").stdout:
        assert time.monotonic() < end
    cluster.lab.power_off(victim)
    survivor = {"n1": "n2", "n2": "n1"}[victim]
    wait_for(cluster, survivor, role="master", status="ok", timeout=60)
    assert vip in cluster.lab.exec(survivor, "ip", "-o", "address").stdout
    cluster.lab.power_on(victim)
    cluster.wait_settled()


@pytest.mark.matrix
def test_fault_of_a_switchover_ends_with_its_daemon(cluster: Cluster) -> None:
    cluster.lab.exec("n2", "sh", "-c", "echo 1 >/var/lib/zcluster/maintenance")
    wait_for(cluster, "n2", role="maintenance")
    # Nobody could take over, and the daemon dies: this node must serve again.
    cluster.lab.exec("n1", "sh", "-c", "echo 1 >/run/zcluster/switchover")
    cluster.lab.exec("n1", "systemctl", "kill", "--signal=KILL", "zcluster.service")
    wait_for(cluster, "n1", role="master", timeout=60)
    assert cluster.lab.exec("n1", "cat", "/run/zcluster/switchover").stdout.strip() == "0"


@pytest.mark.matrix
def test_failback_waits_until_the_returning_node_is_ready(
    cluster: Cluster, play: Play, tmp_path: Path
) -> None:
    preferred = declare(cluster, tmp_path, failback="n1")
    ok(play("zcluster.ha.create", inventory=preferred))
    cluster.lab.power_off("n1")
    wait_for(cluster, "n2", role="master")
    # Configuration that n1 has not seen, and a gate that keeps it from seeing it.
    cluster.lab.exec("n2", "sh", "-c", "echo '# newer' >>/etc/haproxy/haproxy.cfg")
    cluster.lab.exec("n2", "systemctl", "stop", "zcluster.service")
    cluster.lab.power_on("n1")
    wait_for(cluster, "n1", role="backup", ready=False, timeout=90)
    time.sleep(5)
    assert cluster.status("n2")["role"] == "master"
    with traffic(cluster.lab) as noticed:
        cluster.lab.exec("n2", "systemctl", "start", "zcluster.service")
        wait_for(cluster, "n1", role="master", timeout=90)
        cluster.wait_settled()
    insist_nothing_lost(noticed)
    assert "# newer" in cluster.lab.exec("n1", "cat", "/etc/haproxy/haproxy.cfg").stdout
    refused = planned(play, cluster, "switchover")
    assert refused.returncode != 0
    assert "failback prefers n1" in refused.output
    assert "zcluster configure --failback disabled" in refused.output


@pytest.mark.matrix
def test_node_that_is_not_ready_serves_if_it_is_alone(cluster: Cluster) -> None:
    cluster.lab.exec("n2", "sh", "-c", "echo -4 >/run/zcluster/readiness")
    cluster.lab.exec("n2", "systemctl", "stop", "zcluster.service")
    cluster.lab.exec("n2", "sh", "-c", "echo -4 >/run/zcluster/readiness")
    cluster.lab.power_off("n1")
    wait_for(cluster, "n2", role="master")


def hold_lease(cluster: Cluster, node: str, seconds: int) -> None:
    """A run of somebody else's controller holds the lease on a node."""
    program = f"""
import json, time
now = time.clock_gettime(time.CLOCK_BOOTTIME)
lease = {{"cluster": "lab", "verb": "update", "run": "elsewhere#1#1", "who": "alice@ops",
         "taken": now, "renewed": now, "expires": now + {seconds}}}
json.dump(lease, open("/run/zcluster.lease", "w"))
"""
    cluster.lab.exec(node, "python3", "-c", program)


@pytest.mark.matrix
def test_second_action_is_told_who_holds_the_lease(cluster: Cluster, play: Play) -> None:
    hold_lease(cluster, "n2", seconds=3600)
    for verb in ("maintenance", "create", "unset"):
        refused = planned(play, cluster, verb, "zcluster_node=n2")
        assert refused.returncode != 0
        assert "alice@ops runs 'update' on cluster lab" in refused.output
        # What it had of the lease is given back: it blocks nobody.
        cluster.lab.exec("n1", "test", "!", "-e", "/run/zcluster.lease")
    hold_lease(cluster, "n2", seconds=0)
    ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
    cluster.lab.exec("n2", "test", "!", "-e", "/run/zcluster.lease")


def kill_run(inventory: Path, verb: str, *variables: str, when: Callable[[], bool]) -> None:
    """Run the playbook of a verb, and kill the run as soon as something is so."""
    words = [w for variable in variables for w in ("-e", variable)]
    process = subprocess.Popen(
        [tool("ansible-playbook"), "-i", str(inventory), f"zcluster.ha.{verb}", *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while not when():
        assert time.monotonic() < end
        assert process.poll() is None, "the run was over before"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def leased(cluster: Cluster, node: str) -> bool:
    """Whether some run holds the lease on a node."""
    held = cluster.lab.exec(node, "test", "-s", "/run/zcluster.lease", check=False)
    return held.returncode == 0


@pytest.mark.matrix
def test_killed_run_blocks_nobody_and_is_finished_by_the_next(cluster: Cluster, play: Play) -> None:
    with traffic(cluster.lab) as noticed:
        kill_run(
            cluster.inventory, "maintenance", "zcluster_node=n1", when=lambda: leased(cluster, "n1")
        )
        assert cluster.lab.exec("n1", "cat", "/run/zcluster.lease").stdout
        ok(planned(play, cluster, "maintenance", "zcluster_node=n1"))
        assert cluster.status("n1")["role"] == "maintenance"
        assert cluster.master == "n2"
    insist_nothing_lost(noticed)


def zcluster(inventory: Path, *words: str) -> Run:
    """The command, as a user types it."""
    return run_tool("zcluster", "-i", str(inventory), *words)


def adverts(cluster: Cluster, node: str) -> str:
    """The advert interval in the heartbeat's settings."""
    text = cluster.lab.exec(node, "cat", "/etc/keepalived/keepalived.conf").stdout
    return next(line.split()[1] for line in text.splitlines() if "advert_int" in line)


def roles_changed(cluster: Cluster) -> int:
    """How often a node's role has changed since it was asked first."""
    return sum(
        cluster.lab.exec(node, "cat", "/var/lib/zcluster/events.jsonl").stdout.count(
            '"event": "role"'
        )
        for node in ("n1", "n2")
    )


@pytest.mark.matrix
def test_configure_changes_the_running_cluster_and_its_inventory(
    cluster: Cluster, play: Play, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    old_vip = cluster.lab.vips()["front_proxy"]
    new_vip = f"{cluster.lab.settings.address('front', 77)}/24"
    before = roles_changed(cluster)
    with traffic(cluster.lab) as noticed:
        check = ok(zcluster(mine, "configure", "--check-interval", "1", "--check", "--diff"))
        assert "check_interval" in check.output
        assert adverts(cluster, "n1") == "0.1"
        for interval in ("1", "0.1"):
            ok(zcluster(mine, "configure", "--check-interval", interval))
            assert {float(adverts(cluster, node)) for node in ("n1", "n2")} == {float(interval)}
            cluster.wait_settled()
            assert cluster.master == "n1"
        ok(zcluster(mine, "configure", "--vip", "add", new_vip, "--vip", "remove", old_vip))
        assert new_vip in cluster.lab.exec("n1", "ip", "-o", "address").stdout
        assert new_vip not in cluster.lab.exec("n2", "ip", "-o", "address").stdout
        assert old_vip not in cluster.lab.exec("n1", "ip", "-o", "address").stdout
        ok(zcluster(mine, "configure", "--failback", "n1"))
    insist_nothing_lost(noticed)
    assert cluster.master == "n1"
    assert roles_changed(cluster) == before
    created = ok(play("zcluster.ha.create", inventory=mine))
    assert created.changed() == 0, created.output


@pytest.mark.matrix
def test_configure_refuses_what_cannot_work(cluster: Cluster, tmp_path: Path) -> None:
    mine = declare(cluster, tmp_path)
    before = (mine / "hosts.yml").read_text()
    for words, reason in (
        (("--vip", "add", "203.0.113.9/24"), "203.0.113.9"),
        (("--failback", "n9"), "n9"),
    ):
        refused = zcluster(mine, "configure", *words)
        assert refused.returncode != 0
        assert reason in refused.output
    assert (mine / "hosts.yml").read_text() == before
    assert cluster.master == "n1"


@pytest.mark.matrix
def test_flapping_node_does_not_fail_back_and_says_so(
    cluster: Cluster, play: Play, tmp_path: Path
) -> None:
    preferred = declare(cluster, tmp_path, failback="n1")
    ok(play("zcluster.ha.create", inventory=preferred))
    cluster.lab.exec("n1", "sh", "-c", "echo 3 >/var/lib/zcluster/flaps")
    cluster.lab.power_off("n1")
    wait_for(cluster, "n2", role="master")
    cluster.lab.power_on("n1")
    wait_for(cluster, "n1", role="backup", ready=True, timeout=90)
    time.sleep(3)
    assert "failback held, master 3 times" in str(cluster.status("n1")["message"])
    assert cluster.master == "n2"
    # The operator's word ends the wait.
    ok(planned(play, cluster, "maintenance", "zcluster_node=n1"))
    ok(planned(play, cluster, "start", "zcluster_node=n1"))
    wait_for(cluster, "n1", role="master")


@pytest.mark.matrix
def test_tracked_interface_is_configured_without_a_failover_and_moves_the_service(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    cable = (
        "ip link add towards type veth peer name end; ip link set end up; ip link set towards up"
    )
    for node in ("n1", "n2"):
        cluster.lab.exec(node, "sh", "-c", cable)
    before = roles_changed(cluster)
    for words, reason in (
        (("add", "eth9"), "This node has no such interface"),
        (("add", "eth2"), "out of service"),
        (("remove", "towards"), "it is not there"),
    ):
        refused = zcluster(mine, "configure", "--track-interface", *words)
        assert refused.returncode != 0
        assert reason in refused.output
    with traffic(cluster.lab) as noticed:
        check = ok(zcluster(mine, "configure", "--track-interface", "add", "towards", "--check"))
        assert "track_interfaces" in check.output
        text = cluster.lab.exec("n1", "cat", "/etc/keepalived/keepalived.conf").stdout
        assert "track_interface " not in text
        ok(zcluster(mine, "configure", "--track-interface", "add", "towards"))
        cluster.wait_settled()
        again = ok(zcluster(mine, "configure", "--track-interface", "add", "towards"))
        assert "track_interfaces" not in again.output
    insist_nothing_lost(noticed)
    assert cluster.master == "n1"
    assert roles_changed(cluster) == before
    assert "towards" in ok(zcluster(mine, "show")).output
    cluster.lab.exec("n1", "ip", "link", "set", "towards", "down")
    wait_for(cluster, "n2", role="master")
    assert "the tracked interface towards has no carrier" in str(cluster.status("n1")["message"])
    cluster.lab.exec("n1", "ip", "link", "set", "towards", "up")
    cluster.wait_settled()
    ok(zcluster(mine, "configure", "--track-interface", "remove", "towards"))
    cluster.wait_settled()
    assert cluster.master == "n2"


@pytest.mark.matrix
def test_configure_with_a_dead_node_is_refused_and_changes_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    before = (mine / "hosts.yml").read_text()
    cluster.lab.power_off("n2")
    wait_for(cluster, "n1", role="master")
    refused = zcluster(mine, "configure", "--check-interval", "1")
    assert refused.returncode != 0
    assert "n2" in refused.output
    assert (mine / "hosts.yml").read_text() == before
    assert adverts(cluster, "n1") == "0.1"
    assert cluster.status("n1")["role"] == "master"
    # Nothing of it is in the way of the next.
    cluster.lab.exec("n1", "test", "!", "-e", "/run/zcluster.lease")


@pytest.mark.matrix
def test_history_says_who_acted_for_every_verb_and_what_came_of_it(
    cluster: Cluster, play: Play
) -> None:
    for verb in ("maintenance", "start", "switchover", "apply", "sync_now"):
        given = ("zcluster_node=n2",) if verb in ("maintenance", "start") else ()
        ok(planned(play, cluster, verb, *given))
    ok(planned(play, cluster, "sync_pause", "zcluster_why=work"))
    ok(planned(play, cluster, "sync_resume"))
    cluster.lab.exec("n1", "systemctl", "stop", "zcluster.service")
    cluster.lab.exec("n2", "systemctl", "stop", "zcluster.service")
    assert planned(play, cluster, "switchover").returncode != 0
    cluster.lab.exec("n1", "systemctl", "start", "zcluster.service")
    cluster.lab.exec("n2", "systemctl", "start", "zcluster.service")
    cluster.wait_settled()
    said = json.loads(zcluster(cluster.inventory, "history", "--output", "json").output)
    acted = [(e["node"], e["event"], e["to"]) for e in said if "@" in e["who"]]
    verbs = ("create", "maintenance", "start", "switchover", "apply", "sync now", "sync pause")
    for verb in (*verbs, "sync resume"):
        for node in ("n1", "n2"):
            assert (node, verb, "done") in acted, acted
    failed = [e for e in said if (e["event"], e["to"]) == ("switchover", "failed")]
    assert {e["node"] for e in failed} == {"n1", "n2"}
    assert any("does not answer" in e["cause"] for e in failed), failed


@pytest.mark.matrix
@pytest.mark.parametrize("point", ["begun", "one node configured", "both configured"])
def test_killed_configure_is_finished_by_the_next_without_a_failover(
    cluster: Cluster, play: Play, tmp_path: Path, point: str
) -> None:
    mine = declare(cluster, tmp_path, check_interval=0.2)
    before = roles_changed(cluster)
    enough = {"begun": 0, "one node configured": 1, "both configured": 2}[point]

    def reached() -> bool:
        new = [float(adverts(cluster, node)) == 0.2 for node in ("n1", "n2")]
        return leased(cluster, "n1") and sum(new) >= enough

    with traffic(cluster.lab) as noticed:
        kill_run(mine, "configure", when=reached)
        ok(play("zcluster.ha.configure", inventory=mine))
        cluster.wait_settled()
    insist_nothing_lost(noticed)
    assert {float(adverts(cluster, node)) for node in ("n1", "n2")} == {0.2}
    assert cluster.master == "n1"
    assert roles_changed(cluster) == before
