# SPDX-License-Identifier: GPL-3.0-or-later
# What create promises: two bare nodes become a cluster, or stay as they were.
from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from product import (
    NODE_NAMES,
    ROOT,
    Cluster,
    Play,
    create_cluster,
    eventually,
    keep,
    node_status,
    secret_vars,
    tool,
    trace,
    wait_settled,
)
from traffic import traffic
from zcluster_lab import Lab

pytestmark = pytest.mark.lab

# Where a create is killed: the same place each time, any other on demand.
SEED = os.environ.get("SEED") or "half-way"


def settings(lab: Lab, node: str) -> dict[str, object]:
    """The cluster's settings as a node has them."""
    loaded: dict[str, object] = json.loads(
        lab.exec(node, "cat", "/etc/zcluster/cluster.json").stdout
    )
    return loaded


# Keys are made on the node itself, which no diff can show before.
MADE_THERE = {"/etc/zcluster/ssh/id_ed25519", "/etc/zcluster/ssh/id_ed25519.pub"}
BROUGHT = """
find /etc/zcluster /etc/keepalived /etc/conntrackd /etc/sysctl.d /etc/systemd/system \\
    /usr/lib/zcluster /usr/sbin /var/lib/zcluster/peer \\
    -type f -newer /run/before ! -name '*.pyc'
"""


def packages(lab: Lab, node: str) -> set[str]:
    """The packages that are installed on a node."""
    form = "${db:Status-Status} ${Package}\n"
    said = lab.exec(node, "dpkg-query", "-W", "-f", form).stdout.splitlines()
    return {name for status, name in (line.split() for line in said) if status == "installed"}


def test_check_mode_predicts_what_create_then_makes_a_green_cluster_with_one_master(
    bare: Lab, inventory: Path
) -> None:
    before = [trace(bare, node) for node in NODE_NAMES]
    had = {node: packages(bare, node) for node in NODE_NAMES}
    predicted = create_cluster(bare, inventory, "--check", "--diff")
    assert predicted.returncode == 0, predicted.output
    assert "+vrrp_instance eth0" in predicted.output.replace("+ ", "+")
    assert [trace(bare, node) for node in NODE_NAMES] == before
    assert {node: packages(bare, node) for node in NODE_NAMES} == had
    for node in NODE_NAMES:
        bare.exec(node, "touch", "/run/before")

    run = create_cluster(bare, inventory)
    assert run.returncode == 0, run.output
    files = set(re.findall(r"^\+\+\+ after: (/\S+)$", predicted.output, re.MULTILINE))
    new = re.findall(r"NEW packages will be installed:\n((?: +\S.*\n)+)", predicted.output)
    for node in NODE_NAMES:
        brought = set(bare.exec(node, "sh", "-c", BROUGHT).stdout.split())
        assert brought - MADE_THERE == files, node
        assert packages(bare, node) - had[node] == set(" ".join(new).split()), node

    def settled() -> bool:
        seen = [node_status(bare, node) for node in NODE_NAMES]
        return [(status.get("role"), status.get("message")) for status in seen] == [
            ("master", "Node online and active"),
            ("backup", "Node online and passive"),
        ]

    eventually("both are online", settled)
    first, second = (node_status(bare, node) for node in NODE_NAMES)
    assert first["status"] == second["status"] == "ok"
    assert len(first["vips_held"]) == 5  # type: ignore[arg-type]
    assert second["vips_held"] == []
    with traffic(bare, connections=20) as noticed:
        time.sleep(1)
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == 20
    keep(bare, inventory, "created")


def test_second_run_changes_nothing_and_needs_no_password(cluster: Cluster, play: Play) -> None:
    run = play("zcluster.ha.create", inventory=cluster.inventory)
    assert run.returncode == 0, run.output
    assert run.changed() == 0, run.output


def vaulted(password: str, directory: Path) -> tuple[str, ...]:
    """Arguments that give a playbook the root password as a vaulted variable."""
    key = directory / "vault"
    key.write_text("of the vault\n", encoding="utf-8")
    words = ["encrypt_string", "--stdin-name", "zcluster_root_password"]
    done = subprocess.run(
        [tool("ansible-vault"), *words, "--vault-password-file", str(key)],
        input=password,
        capture_output=True,
        text=True,
        check=True,
    )
    variables = directory / "vars.yml"
    variables.write_text(done.stdout, encoding="utf-8")
    return "-e", f"@{variables}", "--vault-password-file", str(key)


def test_wrong_password_is_one_clear_error_and_changes_nothing(
    bare: Lab,
    inventory: Path,
    play: Play,
    tmp_path: Path,
) -> None:
    before = [trace(bare, node) for node in NODE_NAMES]
    secret = vaulted("not it", tmp_path)
    run = play("zcluster.ha.create", *secret, inventory=inventory)
    assert run.returncode != 0
    assert "n1 refuses the root password. Nothing was changed." in run.output
    assert "not it" not in run.output
    # A look needs no more than the password, and leaves no key.
    secret = vaulted(bare.settings.root_password, tmp_path)
    run = play("zcluster.ha.preflight", *secret, inventory=inventory)
    assert run.returncode == 0, run.output
    assert [trace(bare, node) for node in NODE_NAMES] == before
    # Only one of the two refuses it.
    bare.exec("n2", "chpasswd", stdin="root:another\n")
    run = play("zcluster.ha.create", *secret, inventory=inventory)
    assert run.returncode != 0
    assert "n2 refuses the root password. Nothing was changed." in run.output
    assert "n1 refuses" not in run.output
    assert [trace(bare, node) for node in NODE_NAMES] == before


def sshd_says(lab: Lab, node: str, setting: str) -> None:
    """Give the sshd of a node a setting before all others."""
    lab.exec(node, "sh", "-c", "cat > /etc/ssh/sshd_config.d/00-test.conf", stdin=f"{setting}\n")
    lab.exec(node, "systemctl", "reload", "ssh.service")


def test_refused_root_by_password_names_the_setting(bare: Lab, inventory: Path) -> None:
    before = [trace(bare, node) for node in NODE_NAMES]
    # No password at all; then as Debian ships it.
    for setting in ("PasswordAuthentication no", "PermitRootLogin prohibit-password"):
        for node in NODE_NAMES:
            sshd_says(bare, node, setting)
        run = create_cluster(bare, inventory)
        assert run.returncode != 0
        words = " ".join(run.output.split())
        for word in ("PermitRootLogin", "Debian's default", "Nothing was changed"):
            assert word in words, run.output
        assert [trace(bare, node) for node in NODE_NAMES] == before


def test_key_that_opens_no_door_is_taken_back_from_both_nodes(bare: Lab, inventory: Path) -> None:
    before = [trace(bare, node) for node in NODE_NAMES]
    sshd_says(bare, "n2", "AuthorizedKeysFile /etc/ssh/keys/%u")
    run = create_cluster(bare, inventory)
    assert run.returncode != 0
    words = " ".join(run.output.split())
    assert "does not accept it all the same; it is taken back" in words
    assert "AuthorizedKeysFile" in words
    assert [trace(bare, node) for node in NODE_NAMES] == before
    # Root's password is no way in for anybody else.
    run = create_cluster(bare, inventory, "-e", "ansible_user=alice")
    assert run.returncode != 0
    assert "ssh-copy-id alice@" in " ".join(run.output.split())
    assert [trace(bare, node) for node in NODE_NAMES] == before


def test_node_that_is_another_machine_or_away_is_one_clear_error(
    bare: Lab, inventory: Path
) -> None:
    before = trace(bare, "n1")
    bare.exec("n2", "sh", "-c", "rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh")
    run = create_cluster(bare, inventory)
    assert run.returncode != 0
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in run.output
    assert trace(bare, "n1") == before
    bare.power_off("n2")
    run = create_cluster(bare, inventory)
    assert run.returncode != 0
    assert "cannot be reached by SSH" in " ".join(run.output.split())
    assert trace(bare, "n1") == before


def said_to_stay(output: str, node: str) -> set[str]:
    """The packages that a failed create says it leaves on a node."""
    words = rf'"msg": "{node}: (?:[^"\\]|\\.)*packages that were installed stay \(([a-z, ]+)\)'
    found = re.search(words, output)
    return set(found[1].split(", ")) if found else set()


def test_failed_first_create_leaves_both_nodes_as_they_were(bare: Lab, inventory: Path) -> None:
    before = [trace(bare, node) for node in NODE_NAMES]
    # The last thing create does on n2 before it starts anything is refused.
    bare.exec("n2", "systemctl", "mask", "conntrackd.service")
    run = create_cluster(bare, inventory)
    assert run.returncode != 0
    # nftables was there; n2 did not get as far as the heartbeat.
    early = {"conntrack", "conntrackd", "netbase", "rsync"}
    assert said_to_stay(run.output, "n1") == early | {"keepalived"}, run.output
    assert said_to_stay(run.output, "n2") == early
    bare.exec("n2", "systemctl", "unmask", "conntrackd.service")
    assert [trace(bare, node) for node in NODE_NAMES] == before
    # Nobody answers n2 for a virtual IP: found only in the very last look, by n2 alone, when the
    # configuration it had has long given way to the master's.
    bare.exec("n2", "sh", "-c", "echo '# mine' >> /etc/haproxy/haproxy.cfg")
    had = bare.exec("n2", "sha256sum", "/etc/haproxy/haproxy.cfg").stdout
    vip = bare.settings.address("front", 100)
    bare.exec("n2", *f"ip neighbour replace {vip} lladdr 02:00:00:00:00:99 dev eth0".split())
    run = create_cluster(bare, inventory, "-e", '{"zcluster_replace_backup": true}')
    assert run.returncode != 0
    words = " ".join(run.output.split())
    assert "n2: Reach every virtual IP from the backup" in words
    assert "n1: Stop when the other node found something wrong: n2 did not stand" in words
    assert said_to_stay(run.output, "n1") == set()
    assert said_to_stay(run.output, "n2") == {"keepalived"}
    assert [trace(bare, node) for node in NODE_NAMES] == before
    assert bare.exec("n2", "sha256sum", "/etc/haproxy/haproxy.cfg").stdout == had


@pytest.mark.matrix
def test_create_that_is_not_verified_gives_the_backup_its_configuration_back(
    bare: Lab, inventory: Path
) -> None:
    # After the first pass the backup refuses the master's configuration.
    bare.exec("n2", "touch", "/root/refuse")
    services = [
        {
            "name": "haproxy",
            "unit": "haproxy.service",
            "paths": ["/etc/haproxy"],
            "validate": "test ! -e /root/refuse",
        }
    ]
    digest = "find /etc/haproxy /etc/nftables.conf -type f | sort | xargs sha256sum"
    before = [bare.exec(node, "sh", "-c", digest).stdout for node in NODE_NAMES]
    traces = {node: trace(bare, node) for node in NODE_NAMES}
    run = create_cluster(bare, inventory, "-e", json.dumps({"zcluster_services": services}))
    assert run.returncode != 0
    assert "rejected by haproxy" in run.output
    assert [bare.exec(node, "sh", "-c", digest).stdout for node in NODE_NAMES] == before
    for node in NODE_NAMES:
        assert trace(bare, node) == traces[node]


@pytest.fixture
def readonly_keepalived(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster whose backup refuses a new keepalived.conf."""
    directory = "/etc/keepalived"
    cluster.lab.exec("n2", "mount", "--bind", directory, directory)
    cluster.lab.exec("n2", "mount", "-o", "remount,bind,ro", directory)
    yield cluster
    cluster.lab.exec("n2", "umount", directory)


def test_failed_rerun_restores_the_settings_and_never_dismantles_the_cluster(
    readonly_keepalived: Cluster,
    play: Play,
) -> None:
    cluster = readonly_keepalived
    before = [settings(cluster.lab, node) for node in NODE_NAMES]
    with traffic(cluster.lab) as noticed:
        run = play(
            "zcluster.ha.create", "-e", "zcluster_check_interval=0.2", inventory=cluster.inventory
        )
    assert run.returncode != 0
    assert "The settings before this run are back." in run.output
    assert [settings(cluster.lab, node) for node in NODE_NAMES] == before
    for node in NODE_NAMES:
        text = cluster.lab.exec(node, "cat", "/etc/keepalived/keepalived.conf").stdout
        assert "advert_int 0.1\n" in text
    cluster.wait_settled()
    assert cluster.master == "n1"
    assert noticed.tcp_alive == noticed.tcp_opened
    assert noticed.udp_lost == 0


# A create has more tasks than that; the first ones only find the way in.
KILLED_IN = (20, 140)


def killed_create(lab: Lab, inventory: Path, seed: str, *arguments: str) -> str:
    """Begin a create and kill it, and all that it started here, somewhere; where that was."""
    chance = random.Random(seed)
    left, moment = chance.randint(*KILLED_IN), chance.uniform(0, 1)
    task = ""
    with secret_vars(zcluster_root_password=lab.settings.root_password) as secret:
        words = [tool("ansible-playbook"), "-i", str(inventory), "zcluster.ha.create", *secret]
        run = subprocess.Popen(
            [*words, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("TASK ["):
                task, left = line.strip(" *\n"), left - 1
                if not left:
                    time.sleep(moment)  # somewhere in the task, or in the next
                    break
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    where = f"seed {seed}: killed {moment:.2f} s after the begin of {task}"
    assert not left, f"it ended before it could be killed, {left} tasks too soon, after {task}"
    modules = ("pgrep", "-f", "AnsiballZ")
    eventually(
        "what was under way has ended by itself",
        lambda: all(lab.exec(node, *modules, check=False).returncode for node in NODE_NAMES),
    )
    return where


def test_create_killed_half_way_and_run_again_converges_and_keeps_what_the_backup_had(
    bare: Lab, inventory: Path
) -> None:
    bare.exec("n2", "sh", "-c", "echo '# mine' >> /etc/haproxy/haproxy.cfg")
    run = create_cluster(bare, inventory)
    assert run.returncode != 0
    assert "/etc/haproxy/haproxy.cfg" in run.output
    assert "zcluster" not in bare.exec("n2", "ls", "/etc").stdout.split()
    yes = ("-e", '{"zcluster_replace_backup": true}')
    where = killed_create(bare, inventory, SEED, *yes)
    run = create_cluster(bare, inventory, *yes)
    assert run.returncode == 0, f"{where}\n{run.output}"
    wait_settled(bare)
    kept = bare.exec("n2", "sh", "-c", "cat /var/lib/zcluster/versions/*/etc/haproxy/haproxy.cfg")
    assert "# mine" in kept.stdout, where
    run = create_cluster(bare, inventory, *yes)
    assert run.changed() == 0, f"{where}\n{run.output}"


@pytest.mark.matrix
@pytest.mark.parametrize("attempt", range(5))
def test_create_killed_anywhere_and_run_again_converges(
    bare: Lab, inventory: Path, attempt: int
) -> None:
    where = killed_create(bare, inventory, f"{SEED}-{attempt}")
    run = create_cluster(bare, inventory)
    assert run.returncode == 0, f"{where}\n{run.output}"
    wait_settled(bare)
    assert create_cluster(bare, inventory).changed() == 0, where


@pytest.mark.matrix
def test_user_with_sudo_is_as_good_a_way_in_as_root(bare: Lab, inventory: Path, play: Play) -> None:
    key = (inventory / ".ssh/id_ed25519.pub").read_text(encoding="utf-8")
    for node in NODE_NAMES:
        bare.exec(node, "useradd", "--create-home", "--groups", "sudo", "alice")
        bare.exec(node, "chpasswd", stdin="alice:only for sudo\n")
        bare.exec(node, "install", "-d", "-o", "alice", "-m", "0700", "/home/alice/.ssh")
        bare.exec(node, "sh", "-c", "cat > /home/alice/.ssh/authorized_keys", stdin=key)
        # Root has no way in of its own: neither by key nor by password.
        bare.exec(node, "passwd", "--lock", "root")
    user = ("-e", "ansible_user=alice", "-e", "ansible_become=true")
    run = play("zcluster.ha.create", *user, inventory=inventory)
    assert run.returncode != 0
    assert "sudo" in run.output
    assert "zcluster" not in bare.exec("n1", "ls", "/etc").stdout.split()
    with secret_vars(ansible_become_password="only for sudo") as secret:
        run = play("zcluster.ha.create", *user, *secret, inventory=inventory)
        assert run.returncode == 0, run.output
        wait_settled(bare)
        again = play("zcluster.ha.create", *user, *secret, inventory=inventory)
    assert again.changed() == 0, again.output
    for node in NODE_NAMES:
        bare.exec(node, "test", "!", "-s", "/root/.ssh/authorized_keys")


@pytest.mark.matrix
def test_create_after_a_failover_repairs_without_moving_the_service(
    cluster: Cluster, play: Play
) -> None:
    lab = cluster.lab
    lab.power_off("n1")
    eventually("n2 serves", lambda: node_status(lab, "n2").get("role") == "master")
    lab.power_on("n1")
    cluster.wait_settled()
    lab.exec("n1", "sh", "-c", "rm /etc/conntrackd/* /etc/zcluster/conntrackd.conf")
    with traffic(lab) as noticed:
        run = play("zcluster.ha.create", inventory=cluster.inventory)
    assert run.returncode == 0, run.output
    cluster.wait_settled()
    assert cluster.master == "n2"
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == noticed.tcp_opened == 100
    assert play("zcluster.ha.create", inventory=cluster.inventory).changed() == 0


def runtime_files() -> list[str]:
    """What the command needs to run: its distributions, the interpreter's links, the checkout."""
    found: dict[str, Distribution] = {}

    def add(name: str) -> None:
        there = distribution(name)
        if found.setdefault(there.metadata["Name"], there) is not there:
            return
        for requirement in map(Requirement, there.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                add(requirement.name)

    add("zcluster")
    paths = [d.locate_file(file) for d in found.values() for file in d.files or ()]
    paths += [Path(sys.prefix, "pyvenv.cfg"), *Path(sys.prefix, "bin").glob("python*")]
    checkout = ("zcluster_runner", "plugins", "roles", "playbooks", "meta", "galaxy.yml")
    paths += [ROOT / name for name in (*checkout, ".cache/collection")]
    return sorted({os.path.normpath(path) for path in paths if Path(path).exists()})


def test_create_runs_on_the_future_master_itself(bare: Lab) -> None:
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if bare.exec("n1", "python3", "-V").stdout.split()[1].rpartition(".")[0] != ours:
        pytest.skip(f"the node's Python is not {ours}, for which this environment was made")
    listed = "\0".join(path.lstrip("/") for path in runtime_files())
    words = ["tar", "-C", "/", "-c", "--exclude=__pycache__", "--null", "-T", "-"]
    packed = subprocess.run(words, input=listed.encode(), capture_output=True, check=True).stdout
    unpack = bare.command("n1", "tar", "-C", "/", "-x")
    subprocess.run(unpack, input=packed, capture_output=True, check=True)
    bare.exec("n1", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
    known = "".join(f"{bare.settings.address('link', 12)} {k}\n" for k in bare.host_keys()["n2"])
    bare.exec("n1", "sh", "-c", "cat > /root/.ssh/known_hosts", stdin=known)
    here, there = (bare.settings.address("link", number) for number in (11, 12))
    zcluster = f"cd /root && {sys.prefix}/bin/zcluster"
    asked = f"--local localhost --remote {there} --local-ip {here} --remote-ip {there}"
    vip = f"{bare.settings.address('front', 100)}/24"
    done = bare.exec(
        "n1",
        "sh",
        "-c",
        f"{zcluster} create web {asked} --vip {vip} --password-stdin --yes 2>&1",
        check=False,
        stdin=bare.settings.root_password + "\n",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert node_status(bare, "n1")["vips_held"] == [vip.partition("/")[0]]
    # Later verbs find the cluster that was made, and ask for nothing.
    table = bare.exec("n1", "sh", "-c", f"{zcluster} nodes 2>&1", check=False, timeout=120)
    assert table.returncode == 0, table.stdout
    assert "Node online and passive" in table.stdout
