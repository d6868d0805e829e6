# SPDX-License-Identifier: GPL-3.0-or-later
# Planned actions, under live traffic: no packet and no established connection is lost.
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path

import pytest
import yaml
from faults import BUSY, CONNECTIONS, HOLDER_WITHIN, Field, clients, longest_outage, prioritize
from product import (
    KERNEL,
    NODE_NAMES,
    ROOT,
    Cluster,
    Run,
    create_cluster,
    eventually,
    run_tool,
    tool,
    trace,
)
from test_create import BROUGHT
from test_nodes import zcluster as answer
from traffic import Noticed, traffic
from zcluster_lab import NODES, Lab

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
    """The promise of every planned action; of requests to haproxy: none finds no open door."""
    said = noticed.report
    lost = ("udp_lost", "tcp_reset", "short_failed", "http_refused")
    assert {name: said[name] for name in lost} == dict.fromkeys(lost, 0), said
    assert noticed.tcp_alive == noticed.tcp_opened == CONNECTIONS, said
    assert min(said[name] for name in ("udp_sent", "short_opened", "http_ok", "cold_ok")) > 0, said
    assert max(noticed.http_longest_gap_ms, noticed.cold_longest_gap_ms) < 1000 * HOLDER_WITHIN


def stays(cluster: Cluster, node: str, seconds: float = 5) -> None:
    """For some seconds, nobody else becomes master."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert cluster.status(node)["role"] == "master"


def wait_for(cluster: Cluster, node: str, timeout: float = 60, **wanted: object) -> None:
    """Until a node says all this of itself."""
    end = time.monotonic() + timeout
    while any((seen := cluster.status(node)).get(k) != v for k, v in wanted.items()):
        assert time.monotonic() < end, f"{node} is not {wanted}: {seen}"
        time.sleep(0.2)


def test_maintenance_of_the_master_and_back_loses_nothing(cluster: Cluster, play: Play) -> None:
    with clients(cluster.lab) as noticed:
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
    kernel = cluster.lab.exec("n2", "sysctl", *KERNEL).stdout
    with clients(cluster.lab) as noticed:
        ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
        cluster.lab.reboot("n2")
        wait_for(cluster, "n2", role="maintenance", status="maintenance", timeout=90)
        # What create has set holds, too.
        assert cluster.lab.exec("n2", "sysctl", *KERNEL).stdout == kernel
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
    with clients(cluster.lab) as noticed:
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
    with clients(cluster.lab) as noticed:
        # Both go through: the second finds the first under way, or done.
        both = "zclustermanager switchover & sleep 0.1; zclustermanager switchover && wait $!"
        said = cluster.lab.exec("n1", "sh", "-c", both, timeout=60).stdout
        assert said.count('"message"') == 2, said
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
    eventually(
        "the fault is over",
        lambda: cluster.lab.exec("n1", "cat", "/run/zcluster/switchover").stdout.strip() == "0",
    )
    wait_for(cluster, "n1", role="master", timeout=60)


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
    stays(cluster, "n2")
    with clients(cluster.lab) as noticed:
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


def hold_lease(lab: Lab, node: str, seconds: int) -> None:
    """A run of somebody else's controller holds the lease on a node."""
    program = f"""
import json, time
now = time.clock_gettime(time.CLOCK_BOOTTIME)
lease = {{"cluster": "lab", "verb": "update", "run": "elsewhere#1#1", "who": "alice@ops",
         "taken": now, "renewed": now, "expires": now + {seconds}}}
json.dump(lease, open("/run/zcluster.lease", "w"))
"""
    lab.exec(node, "python3", "-c", program)


@pytest.mark.matrix
def test_second_action_is_told_who_holds_the_lease(cluster: Cluster, play: Play) -> None:
    hold_lease(cluster.lab, "n2", seconds=3600)
    for verb in ("maintenance", "create", "unset"):
        refused = planned(play, cluster, verb, "zcluster_node=n2")
        assert refused.returncode != 0
        assert "alice@ops runs 'update' on cluster lab" in refused.output
        # What it had of the lease is given back: it blocks nobody.
        cluster.lab.exec("n1", "test", "!", "-e", "/run/zcluster.lease")
    hold_lease(cluster.lab, "n2", seconds=0)
    ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
    cluster.lab.exec("n2", "test", "!", "-e", "/run/zcluster.lease")


@pytest.mark.matrix
def test_create_that_gets_no_lease_leaves_no_key(bare: Lab, inventory: Path) -> None:
    before = [trace(bare, node) for node in NODE_NAMES]
    hold_lease(bare, "n2", seconds=3600)
    run = create_cluster(bare, inventory)
    assert run.returncode != 0
    assert "alice@ops runs 'update' on cluster lab" in " ".join(run.output.split())
    assert [trace(bare, node) for node in NODE_NAMES] == before
    # The lease that was refused is still the other run's.
    assert "alice@ops" in bare.exec("n2", "cat", "/run/zcluster.lease").stdout
    bare.exec("n1", "test", "!", "-e", "/run/zcluster.lease")


def interrupt(
    inventory: Path, verb: str, *variables: str, at: str, act: Callable[[int], object], nth: int = 1
) -> Run:
    """Run the playbook of a verb; when it begins a task or a handler, act with its pid.

    A task that is skipped is begun, too: nth says which time is meant.
    """
    words = [w for variable in variables for w in ("-e", variable)]
    with subprocess.Popen(
        [tool("ansible-playbook"), "-i", str(inventory), f"zcluster.ha.{verb}", *words],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        said, begun = "", 0
        for line in process.stdout:
            said += line
            if line.startswith(("TASK [", "RUNNING HANDLER [")) and f"{at}]" in line:
                begun += 1
                if begun == nth:
                    act(process.pid)
    assert begun >= nth, f"{verb} never came to {at!r}: {said}"
    return Run(process.returncode, said)


def kill_run(inventory: Path, verb: str, *variables: str, at: str, nth: int = 1) -> None:
    """Kill a run, all of it, when it begins a task."""
    interrupt(
        *(inventory, verb, *variables),
        at=at,
        act=lambda pid: os.killpg(pid, signal.SIGKILL),
        nth=nth,
    )


@pytest.mark.matrix
def test_killed_run_blocks_nobody_and_is_finished_by_the_next(cluster: Cluster, play: Play) -> None:
    with clients(cluster.lab) as noticed:
        kill_run(
            cluster.inventory, "maintenance", "zcluster_node=n1", at="Take a node out of service"
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
    """How often a node's role has changed; that a daemon finds its role anew is no change."""
    events = [
        json.loads(line)
        for node in ("n1", "n2")
        for line in cluster.lab.exec(
            node, "cat", "/var/lib/zcluster/events.jsonl"
        ).stdout.splitlines()
    ]
    return sum(e["event"] == "role" and e["was"] != "unknown" for e in events)


@pytest.mark.matrix
def test_slower_heartbeat_is_configured_while_the_backup_is_held(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    before = roles_changed(cluster)
    with clients(cluster.lab) as noticed:
        ok(zcluster(mine, "configure", "--check-interval", "0.5"))
        cluster.wait_settled()
    insist_nothing_lost(noticed)
    assert {float(adverts(cluster, node)) for node in ("n1", "n2")} == {0.5}
    assert cluster.master == "n1"
    assert roles_changed(cluster) == before
    events = cluster.lab.exec("n2", "cat", "/var/lib/zcluster/events.jsonl").stdout
    assert '"why": "the change is made"' in events


@pytest.mark.matrix
def test_each_profile_is_configured_without_a_loss_and_notices_a_dead_master_as_it_says(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    outages = {}
    # The fastest last: it is not to be reloaded with the priority that it needs (Lab.real_time).
    for profile in ("wan", "standard", "fast"):
        at, before = Field(cluster), roles_changed(cluster)
        with clients(cluster.lab) as noticed:
            ok(zcluster(mine, "configure", "--profile", profile))
            cluster.wait_settled()
        insist_nothing_lost(noticed)
        assert (cluster.master, roles_changed(cluster)) == (at.master, before), profile
        wait_for(cluster, at.backup, ready=True)
        if profile == "fast":
            prioritize(at, "--rr", "50")
        detection = at.detection
        with traffic(cluster.lab, "--interval-ms", "1", connections=CONNECTIONS) as noticed:
            cluster.lab.power_off(at.master)
            wait_for(cluster, at.backup, role="master")
        said = (profile, noticed.report)
        assert noticed.tcp_alive == noticed.tcp_opened == CONNECTIONS, said
        outages[profile] = longest_outage(noticed)
        assert 0 < outages[profile] <= 1000 * detection * BUSY, said
        if profile != "fast":
            cluster.lab.power_on(at.master)
            cluster.wait_settled()
    assert outages["fast"] < outages["wan"]
    assert adverts(cluster, at.backup) == "0.02"


@pytest.mark.matrix
def test_configure_changes_the_running_cluster_and_its_inventory(
    cluster: Cluster, play: Play, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    old_vip = cluster.lab.vips()["back6"]  # the clients here use none of IPv6
    new_vip = f"{cluster.lab.settings.address('front', 77)}/24"
    before = roles_changed(cluster)
    with clients(cluster.lab) as noticed:
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
def test_virtual_ip_on_a_network_that_had_none_comes_and_goes_without_a_loss(
    bare: Lab, inventory: Path, play: Play, tmp_path: Path
) -> None:
    mine = declare(Cluster(bare, inventory), tmp_path)
    document = yaml.safe_load((mine / "hosts.yml").read_text())
    # The cluster link is where virtual IPs are: the nodes' third network has no heartbeat yet.
    for node, own in document["lab_cluster"]["hosts"].items():
        own["zcluster_ip"] = bare.settings.address("back", NODES[node].networks["back"])
    (mine / "hosts.yml").write_text(yaml.safe_dump(document))
    ok(create_cluster(bare, mine))
    cluster = Cluster(bare, mine)
    cluster.wait_settled()
    vip = f"{bare.settings.address('link', 100)}/{bare.settings.prefix('link').rpartition('/')[2]}"

    def holders() -> list[str]:
        shown = {node: bare.exec(node, "ip", "-o", "address").stdout for node in NODE_NAMES}
        return [node for node, text in shown.items() if f" {vip} " in text]

    before = roles_changed(cluster)
    with clients(bare) as noticed:
        vips = json.dumps({"zcluster_vips": [*bare.vips().values(), vip]})
        killed = "Have this node master on new networks before they are in the group"
        kill_run(mine, "configure", vips, at=killed)
        ok(zcluster(mine, "configure", "--vip", "add", vip))
        cluster.wait_settled()
        assert holders() == ["n1"]
        assert (cluster.master, roles_changed(cluster)) == ("n1", before)
        ok(planned(play, cluster, "switchover"))
        assert holders() == ["n2"]
        cluster.wait_settled()
        ok(zcluster(mine, "configure", "--vip", "remove", vip))
        cluster.wait_settled()
        assert (cluster.master, holders()) == ("n2", [])
    insist_nothing_lost(noticed)


@pytest.mark.matrix
def test_witness_and_delay_of_the_failback_are_configured_and_the_heartbeat_stays(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    ok(zcluster(mine, "configure", "--failback", "n1"))
    cluster.wait_settled()
    witness = cluster.lab.settings.address("back", 61)
    file = ("stat", "-c", "%i %Y", "/etc/keepalived/keepalived.conf")
    heartbeats = [cluster.lab.exec(node, *file).stdout for node in NODE_NAMES]
    before = roles_changed(cluster)

    def seen(node: str) -> bool:
        path = cluster.status(node).get("path")
        found = path["witnesses"].get("eth1", {}) if isinstance(path, dict) else {}
        return found.get(witness) == "answers"

    with clients(cluster.lab) as noticed:
        stranger = zcluster(mine, "configure", "--witness", "add", "203.0.113.9")
        assert stranger.returncode != 0
        assert "This witness is in no network of both nodes" in stranger.output
        ok(zcluster(mine, "configure", "--witness", "add", witness, "--preempt-delay", "20"))
        cluster.wait_settled()
        eventually("both have seen it", lambda: all(map(seen, NODE_NAMES)))
    insist_nothing_lost(noticed)
    assert (cluster.master, roles_changed(cluster)) == ("n1", before)
    for node in NODE_NAMES:
        settings = json.loads(cluster.lab.exec(node, "cat", "/etc/zcluster/cluster.json").stdout)
        assert (settings["preempt_delay"], settings["witnesses"][-1]) == (20, witness)
    assert [cluster.lab.exec(node, *file).stdout for node in NODE_NAMES] == heartbeats
    ok(zcluster(mine, "configure", "--witness", "remove", witness))
    cluster.lab.power_off("n1")
    wait_for(cluster, "n2", role="master")
    cluster.lab.power_on("n1")
    wait_for(cluster, "n1", role="backup", ready=True, timeout=90)
    eventually("it is said", lambda: "failback in" in str(cluster.status("n1").get("message")))
    stays(cluster, "n2")
    wait_for(cluster, "n1", role="master")


def said_of_files(output: str) -> dict[tuple[str, str], str]:
    """What a run says of each file of a node: its difference."""
    found = {}
    for change in json.loads(output)["changes"]:
        for part in re.split("^(?=--- /)", change.get("diff", ""), flags=re.MULTILINE)[1:]:
            found[change["host"], part.split()[1]] = part
    return found


@pytest.mark.matrix
def test_check_of_configure_says_of_each_file_what_is_then_done(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = replace(cluster, inventory=declare(cluster, tmp_path))
    words = ("configure", "--check-interval", "0.2", "--failback", "n1", "--output", "json")

    def lines(node: str, path: str) -> list[str]:
        return cluster.lab.exec(node, "cat", path).stdout.splitlines(keepends=True)

    code, out = answer(mine, *words, "--check")
    assert code == 0, out
    predicted = said_of_files(out)
    before = {where: lines(*where) for where in predicted}
    for node in NODE_NAMES:
        cluster.lab.exec(node, "touch", "/run/before")
    code, out = answer(mine, *words, timeout=300)
    assert code == 0, out
    assert said_of_files(out) == predicted
    for node in NODE_NAMES:
        brought = set(cluster.lab.exec(node, "sh", "-c", BROUGHT).stdout.split())
        assert brought == {path for host, path in predicted if host == node}
        assert brought >= {"/etc/keepalived/keepalived.conf", "/etc/zcluster/cluster.json"}
    for (node, path), said in predicted.items():
        done = unified_diff(before[node, path], lines(node, path), path, path)
        assert said == "".join(done), node


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
    held = "failback held, master 3 times"
    eventually(held, lambda: held in str(cluster.status("n1").get("message")))
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
    with clients(cluster.lab) as noticed:
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
    words = ("history", "--last", "2000", "--output", "json")
    said = json.loads(answer(cluster, *words)[1])
    acted = [(e["node"], e["event"], e["to"]) for e in said if "@" in e["who"]]
    verbs = ("create", "maintenance", "start", "switchover", "apply", "sync now", "sync pause")
    for verb in (*verbs, "sync resume"):
        for node in ("n1", "n2"):
            assert (node, verb, "done") in acted, acted
    failed = [e for e in said if (e["event"], e["to"]) == ("switchover", "failed")]
    assert {e["node"] for e in failed} == {"n1", "n2"}
    assert any("does not answer" in e["cause"] for e in failed), failed


@pytest.mark.matrix
def test_configure_killed_at_five_points_is_finished_by_the_next_without_a_failover(
    cluster: Cluster, play: Play, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    before = roles_changed(cluster)
    with clients(cluster.lab) as noticed:
        for number, point in enumerate(
            (
                "Put zclustermanager and the cluster's settings in place",
                "Put the heartbeat's files in place",
                "Hold the backup while the heartbeat changes",
                "Let the backup stand by again",
                "Wait until the node is green",
            )
        ):
            interval = 0.2 if number % 2 == 0 else 0.1
            new = declare(cluster, tmp_path / str(number), check_interval=interval)
            kill_run(new, "configure", at=point)
            ok(play("zcluster.ha.configure", inventory=new))
            cluster.wait_settled()
            assert {float(adverts(cluster, node)) for node in ("n1", "n2")} == {interval}, point
            assert cluster.master == "n1", point
        ok(play("zcluster.ha.configure", inventory=mine))
    insist_nothing_lost(noticed)
    assert roles_changed(cluster) == before


@pytest.mark.matrix
@pytest.mark.parametrize("failback", ["disabled", "n1"])
def test_every_action_on_each_node_checked_done_and_done_again(
    cluster: Cluster, play: Play, tmp_path: Path, failback: str
) -> None:
    mine = declare(cluster, tmp_path, failback=failback)
    if failback != "disabled":
        ok(play("zcluster.ha.create", inventory=mine))

    def act(verb: str, *given: str) -> None:
        """Predicted, done, done again: 1, 1 and 0 changes."""
        words = [w for one in given for w in ("-e", one)]
        seen = cluster.master, cluster.status("n1")["role"], cluster.status("n2")["role"]
        check = ok(play(f"zcluster.ha.{verb}", "--check", *words, inventory=mine))
        assert (cluster.master, *(cluster.status(n)["role"] for n in ("n1", "n2"))) == seen
        done = ok(play(f"zcluster.ha.{verb}", *words, inventory=mine))
        assert check.changed() == done.changed() == 1
        assert ok(play(f"zcluster.ha.{verb}", *words, inventory=mine)).changed() == 0

    with clients(cluster.lab) as noticed:
        for node, other in (("n1", "n2"), ("n2", "n1")):
            act("maintenance", f"zcluster_node={node}")
            assert cluster.master == other
            act("start", f"zcluster_node={node}")
            cluster.wait_settled()
            wait_for(cluster, other if failback == "disabled" else "n1", role="master")
            wait_for(cluster, cluster.backup, ready=True)
        if failback == "disabled":
            assert cluster.master == "n1"
            for target in ("n2", "n1"):
                act("switchover", f"zcluster_node={target}")
                assert cluster.master == target
                cluster.wait_settled()
                wait_for(cluster, cluster.backup, ready=True)
    insist_nothing_lost(noticed)


POINTS = {
    "maintenance": (
        "Take the lease on the first node",
        "Take the lease on the second node",
        "Take a node out of service",
        "Report | done",
        "Give the lease back",
    ),
    "switchover": (
        "Take the lease on the second node",
        "Ask both nodes",
        "Have the other node serve",
        "Wait until both nodes agree on who serves",
        "Give the lease back",
    ),
}


@pytest.mark.matrix
def test_maintenance_and_start_killed_at_five_points_are_finished_by_the_next(
    cluster: Cluster, play: Play
) -> None:
    node = "zcluster_node=n1"
    with clients(cluster.lab) as noticed:
        for point in POINTS["maintenance"]:
            kill_run(cluster.inventory, "maintenance", node, at=point)
            ok(planned(play, cluster, "maintenance", node))
            assert cluster.status("n1")["role"] == "maintenance", point
            assert cluster.master == "n2", point
            start = "Bring a node back" if point == "Take a node out of service" else point
            kill_run(cluster.inventory, "start", node, at=start)
            ok(planned(play, cluster, "start", node))
            cluster.wait_settled()
            assert cluster.master == "n2", point
            ok(planned(play, cluster, "switchover", node))
    insist_nothing_lost(noticed)


@pytest.mark.matrix
def test_switchover_killed_at_five_points_is_finished_by_the_next(
    cluster: Cluster, play: Play
) -> None:
    with clients(cluster.lab) as noticed:
        for number, point in enumerate(POINTS["switchover"]):
            target = ("n2", "n1")[number % 2]
            wait_for(cluster, target, ready=True)
            kill_run(cluster.inventory, "switchover", f"zcluster_node={target}", at=point)
            ok(planned(play, cluster, "switchover", f"zcluster_node={target}"))
            assert cluster.master == target, point
            cluster.wait_settled()
    insist_nothing_lost(noticed)


@pytest.mark.matrix
def test_cluster_that_could_not_become_green_is_not_configured(
    cluster: Cluster, play: Play, tmp_path: Path
) -> None:
    changed = declare(cluster, tmp_path, check_interval=0.2)
    ok(planned(play, cluster, "maintenance", "zcluster_node=n2"))
    for verb in ("configure", "create"):
        refused = play(f"zcluster.ha.{verb}", inventory=changed)
        assert refused.returncode != 0
        assert "n2 is in maintenance: start it first (zcluster start n2)" in refused.output
        assert refused.changed() == 0
    ok(planned(play, cluster, "start", "zcluster_node=n2"))
    ok(planned(play, cluster, "sync_pause", "zcluster_why=work"))
    refused = play("zcluster.ha.configure", inventory=changed)
    assert refused.returncode != 0
    assert "zcluster sync resume" in refused.output
    assert adverts(cluster, "n1") == "0.1"
    for node in ("n1", "n2"):
        cluster.lab.exec(node, "test", "!", "-e", "/run/zcluster.lease")


UNASKED = """\
table inet unasked {{
    chain output {{
        type filter hook output priority 0
        ip daddr {address} tcp dport 22 drop
    }}
}}
"""


@pytest.mark.matrix
def test_backup_that_cannot_be_held_leaves_the_heartbeat_as_it_was(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = roles_changed(cluster)
    changed = declare(cluster, tmp_path, check_interval=2)
    master = cluster.lab.settings.address("link", NODES["n1"].networks["link"])
    with clients(cluster.lab) as noticed:
        # The backup cannot ask whether the master serves.
        refused = interrupt(
            changed,
            "configure",
            at="Put the heartbeat's files in place",
            act=lambda _: cluster.lab.exec(
                "n2", "nft", "-f", "-", stdin=UNASKED.format(address=master)
            ),
        )
        cluster.lab.exec("n2", "nft", "delete", "table", "inet", "unasked")
        cluster.wait_settled()
    assert refused.returncode != 0
    assert "n2 is not held: n1 does not say whether it serves" in refused.output
    insist_nothing_lost(noticed)
    assert {adverts(cluster, node) for node in ("n1", "n2")} == {"0.1"}
    assert roles_changed(cluster) == before


@pytest.mark.matrix
def test_switchover_with_a_dead_partner_says_so_and_blocks_nobody(
    cluster: Cluster, play: Play
) -> None:
    cluster.lab.power_off("n2")
    refused = planned(play, cluster, "switchover")
    assert refused.returncode != 0
    assert "n2 cannot be reached: without both nodes" in refused.output
    assert cluster.status("n1")["role"] == "master"
    cluster.lab.exec("n1", "test", "!", "-e", "/run/zcluster.lease")
