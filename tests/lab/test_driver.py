# SPDX-License-Identifier: GPL-3.0-or-later
# The driver on real nodes: many clusters, watching, Ctrl-C, and the ways of other tools.
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import yaml
from product import ROOT, Cluster, create_cluster, eventually, tool, wait_settled
from test_nodes import nodes, zcluster
from zcluster_lab import Lab

pytestmark = pytest.mark.lab


@pytest.fixture
def two_clusters(cluster: Cluster, tmp_path: Path) -> Cluster:
    """An inventory with the lab's cluster and another one whose nodes are not there."""
    content = yaml.safe_load((cluster.inventory / "hosts.yml").read_text())
    group = content["lab_cluster"]
    group["vars"]["ansible_ssh_common_args"] = group["vars"]["ansible_ssh_common_args"].replace(
        "{{ inventory_dir }}", str(cluster.inventory)
    )
    ghost = {
        f"g{n}": {
            "ansible_host": cluster.lab.settings.address("front", 200 + n),
            "zcluster_ip": cluster.lab.settings.address("link", 200 + n),
        }
        for n in (1, 2)
    }
    content["ghosts"] = {"hosts": ghost, "vars": {**group["vars"], "zcluster_name": "ghost"}}
    path = tmp_path / "all.yml"
    path.write_text(yaml.safe_dump(content))
    return Cluster(cluster.lab, path)


def test_a_cluster_that_is_away_is_grey_and_hides_no_other(
    two_clusters: Cluster,
) -> None:
    alone, found = nodes_of(two_clusters, "--cluster", "lab")
    assert (alone, set(found)) == (0, {"n1", "n2"})
    code, found = nodes(two_clusters)
    assert code == 3
    assert {name: node["status"] for name, node in found.items()} == {
        "n1": "ok",
        "n2": "ok",
        "g1": "unreachable",
        "g2": "unreachable",
    }
    assert [found[name]["cluster"] for name in ("n1", "g1")] == ["lab", "ghost"]
    _, out = zcluster(two_clusters, "nodes", "--limit", "n1,g1")
    assert "n2" not in out.replace("n2 is", "")
    assert out.splitlines()[-1] == "2 clusters: 1 ok, 1 unreachable"
    # of both, only who is in both: a list of hosts, and a cluster's nodes
    code, found = nodes_of(two_clusters, "--cluster", "lab", "--limit", "n2,g1")
    assert (code, set(found)) == (0, {"n2"})


def nodes_of(cluster: Cluster, *words: str) -> tuple[int, dict[str, object]]:
    """Exit code, and the nodes by hostname, of ``nodes`` with more words."""

    code, out = zcluster(cluster, "nodes", *words, "-o", "json")
    return code, {node["hostname"]: node for node in json.loads(out)}


@pytest.fixture
def watching(cluster: Cluster) -> Iterator[pexpect.spawn[str]]:
    child = pexpect.spawn(
        tool("zcluster"),
        ["-i", str(cluster.inventory), "nodes", "--watch", "0.5"],
        cwd=ROOT,
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 200),
        env=os.environ | {"TERM": "xterm-256color"},
    )
    yield child
    child.close(force=True)


def ansible_with(inventory: Path) -> list[str]:
    """The command lines of every ansible-playbook on this machine that has this inventory."""
    listed = subprocess.run(
        ["ps", "-e", "-ww", "-o", "args="], capture_output=True, text=True, check=True
    ).stdout
    return [
        line
        for line in listed.splitlines()
        if "ansible-playbook" in line and str(inventory) in line
    ]


def processes_of(pid: int) -> str:
    """The command lines of all that runs below a process."""
    listed = subprocess.run(
        ["ps", "-e", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found, below = "", {str(pid)}
    for _ in range(5):
        below |= {row[0] for row in rows if row[1] in below}
    for row in rows:
        found += f"{row[-1]}\n" if row[0] in below else ""
    return found


def test_watch_sees_a_node_go_and_come_without_starting_ansible(
    cluster: Cluster, watching: pexpect.spawn[str]
) -> None:
    watching.expect(r"every 0\.5 s[\s\S]*n1[^\n]*Node online and active[\s\S]*Node online and pass")
    for _ in range(4):  # well past the first picture, which Ansible brought
        watching.expect(r"every 0\.5 s")
    below = processes_of(watching.pid)
    assert "ansible-playbook" not in below
    assert below.count("--each-line") >= 2
    cluster.lab.power_off("n2")
    watching.expect(r"n1[^\n]*n2 is unreachable")
    watching.expect(r"remote\b[^\n]*Node unreachable")
    cluster.lab.power_on("n2")
    watching.expect(r"remote\b[^\n]*Node online and passive")
    watching.sendintr()
    watching.expect(pexpect.EOF)
    watching.close()
    assert watching.exitstatus in range(4)
    for node in ("n1", "n2"):
        end = time.monotonic() + 60
        while cluster.lab.exec(node, "pgrep", "-f", "each-line", check=False).returncode == 0:
            assert time.monotonic() < end, f"the watch still runs on {node}"
            time.sleep(0.5)


@pytest.mark.matrix
def test_ctrl_c_in_the_middle_of_create_leaves_nothing_running_and_the_next_run_converges(
    bare: Lab, inventory: Path
) -> None:
    child = pexpect.spawn(
        tool("zcluster"),
        ["-i", str(inventory), "create"],
        cwd=ROOT,
        encoding="utf-8",
        timeout=300,
        dimensions=(24, 200),
        env=os.environ | {"TERM": "xterm-256color"},
    )
    child.expect("Root password")
    child.sendline(bare.settings.root_password)
    child.expect("The same again")
    child.sendline(bare.settings.root_password)
    child.expect("conntrackd: Put connection tracking's files in place[^\n]*on n")
    child.kill(signal.SIGINT)
    child.expect(r"Stopped\. \d+ steps had been changed; run the same command again")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3
    # all over the machine: children of a process that has ended are nobody's below it
    assert not ansible_with(inventory)
    for node in ("n1", "n2"):
        end = time.monotonic() + 60  # a module that was under way ends by itself
        # The driver's modules come through a pipe: Python with no word more.
        while bare.exec(node, "pgrep", "-xf", "/usr/bin/python3", check=False).returncode == 0:
            assert time.monotonic() < end, f"a module still runs on {node}"
            time.sleep(0.5)
    again = create_cluster(bare, inventory)
    assert again.returncode == 0, again.output
    assert re.search(r"failed=0", again.output)
    wait_settled(bare)


def playbook_of(driver: int) -> int:
    """The process of Ansible that a driver has started."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(driver)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split(None, 1) for line in listed.splitlines()]
    return next(int(row[0]) for row in rows if "ansible-playbook" in row[1])


def from_another_workstation(cluster: Cluster, *words: str) -> tuple[int, str]:
    """The command with another host name and its own processes: nothing is known of runs here."""
    apart = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c"]
    done = subprocess.run(
        [
            *apart,
            'hostname desk; exec "$@"',
            "sh",
            tool("zcluster"),
            "-i",
            cluster.inventory,
            *words,
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def test_of_two_workstations_one_acts_and_its_death_blocks_only_the_other(cluster: Cluster) -> None:
    words = [tool("zcluster"), "-i", str(cluster.inventory), "create"]
    first = subprocess.Popen(
        words,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while cluster.lab.exec("n2", "test", "-s", "/run/zcluster.lease", check=False).returncode:
        assert time.monotonic() < end, "the first run never took the lease"
        assert first.poll() is None
        time.sleep(0.1)
    # It stands still in the middle, so that what follows may take its time.
    main = playbook_of(first.pid)
    os.kill(main, signal.SIGSTOP)
    try:
        refused, said = from_another_workstation(cluster, "maintenance", "n2")
        assert refused == 3
        assert "runs 'create' on cluster lab" in said
        assert first.poll() is None
        first.kill()
        first.wait()
    finally:
        os.kill(main, signal.SIGCONT)
    eventually("its Ansible has ended, too", lambda: not ansible_with(cluster.inventory))
    # From elsewhere nobody can know that it died: the lease ends by itself, later.
    refused, said = from_another_workstation(cluster, "maintenance", "n2")
    assert refused == 3
    assert "its lease ends by itself in" in said
    # From here it is known.
    code, _ = zcluster(cluster, "maintenance", "n2")
    assert code == 0
    code, _ = from_another_workstation(cluster, "start", "n2")
    assert code == 0
    cluster.wait_settled()
    for node in ("n1", "n2"):
        cluster.lab.exec(node, "test", "!", "-e", "/run/zcluster.lease")


@pytest.fixture
def runner_input(cluster: Cluster, tmp_path: Path) -> Path:
    """The directory that docs/other-tools.md describes, for the lab's cluster."""
    place = tmp_path / "input"
    shutil.copytree(cluster.inventory, place / "inventory")
    (place / "env").mkdir()
    (place / "env/envvars").write_text('{"ANSIBLE_HOST_KEY_CHECKING": "True"}')
    return place


def roles_told(artifacts: Path) -> dict[str, str]:
    """Each host's role, from the events that ansible-runner keeps."""
    found = {}
    for path in artifacts.glob("job_events/*.json"):
        data = json.loads(path.read_text()).get("event_data", {})
        if data.get("task") == "Report | node" and "res" in data:
            found[data["host"]] = data["res"]["node"]["role"]
    return found


def test_plain_ansible_runner_runs_the_playbooks(runner_input: Path) -> None:
    words = [tool("ansible-runner"), "run", str(runner_input), "--ident", "one"]
    done = subprocess.run(
        [*words, "--playbook", "zcluster.ha.nodes"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert roles_told(runner_input / "artifacts/one") == {"n1": "master", "n2": "backup"}


@pytest.mark.matrix
def test_a_remote_worker_runs_the_playbooks(runner_input: Path, tmp_path: Path) -> None:
    runner = tool("ansible-runner")
    line = (
        f"{runner} transmit {runner_input} --playbook zcluster.ha.nodes | {runner} worker | "
        f"{runner} process {tmp_path}/results --ident far"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert roles_told(tmp_path / "results/artifacts/far") == {"n1": "master", "n2": "backup"}
