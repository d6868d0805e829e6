# SPDX-License-Identifier: GPL-3.0-or-later
# Synchronization: from the master to the backup, whole, and never the other way round.
from __future__ import annotations

import calendar
import contextlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from product import Cluster, Play, Run, eventually, make_first_master
from test_planned import wait_for
from traffic import traffic
from zcluster_lab import run as run_here

pytestmark = pytest.mark.lab

CONFIGURATION = "/etc/haproxy/haproxy.cfg"


def tree(cluster: Cluster, node: str, *roots: str) -> str:
    """Everything about the synchronized files of a node that must be the same on both."""
    # A pass that is under way has files of its own there, for a moment.
    script = r"""
    set -- "$@" ! -name '.zcluster-*'
    find "$@" -printf '%P %y %m %u %g %l %n\n' | sort
    find "$@" -type f -print0 | sort -z | xargs -0 -r sha256sum
    find "$@" -print0 | sort -z | xargs -0 -r getfacl -p -c -s 2> /dev/null
    find "$@" -type f -print0 | sort -z | xargs -0 -r python3 -c '
import os, sys
for p in sys.argv[1:]: print({n: os.getxattr(p, n) for n in os.listxattr(p) if "user" in n})
    '
    """
    roots = roots or ("/etc/haproxy", "/etc/nftables.conf")
    return cluster.lab.exec(node, "sh", "-c", script, "tree", *roots, check=False).stdout


def same(cluster: Cluster, *roots: str) -> bool:
    """Both nodes have the same files, by content."""
    one = tree(cluster, "n1", *roots)
    return one != "" and one == tree(cluster, "n2", *roots)


def settled(cluster: Cluster, timeout: float = 90) -> None:
    """Both nodes have the same files, nothing of a pass is left, and both say so."""
    eventually("trees are equal", lambda: same(cluster), timeout)
    eventually(
        "the master says in sync",
        lambda: cluster.status(cluster.master).get("sync") == "in sync" and same(cluster),
        timeout,
    )
    for node in ("n1", "n2"):
        left = "find /etc/haproxy /etc -maxdepth 3 -name '.zcluster-*'"
        assert cluster.lab.exec(node, "sh", "-c", left).stdout == ""


@contextlib.contextmanager
def busy(cluster: Cluster, node: str) -> Iterator[None]:
    """A writer that never stops: a file replaced, a file appended to, one made and removed."""
    program = r"""
    cd /etc/haproxy; n=0
    while :; do
        n=$((n + 1)); echo $n > busy.new; mv busy.new busy
        echo $n >> growing; echo $n > "made-$((n % 7))"; rm -f "made-$(((n + 3) % 7))"
        sleep 0.03
    done
    """
    process = cluster.lab.start_process(node, "sh", "-c", program)
    try:
        eventually(
            "it writes", lambda: "busy" in cluster.lab.exec(node, "ls", "/etc/haproxy").stdout
        )
        yield
        assert process.poll() is None, "the writer has ended"
    finally:
        cluster.lab.stop_process(process)


def said(cluster: Cluster) -> str:
    """What n1 says of itself."""
    return str(cluster.status("n1").get("message"))


def verb(play: Play, cluster: Cluster, name: str, *values: str) -> Run:
    """Run the playbook of a verb, which goes through."""
    words = [word for value in values for word in ("-e", value)]
    run = play(f"zcluster.ha.{name}", *words, inventory=cluster.inventory)
    assert run.returncode == 0, run.output
    return run


def ask(cluster: Cluster, node: str, *words: str) -> dict[str, Any]:
    """What `zclustermanager sync` says on a node."""
    told = cluster.lab.exec(node, "zclustermanager", "sync", *words, "--json").stdout
    loaded: dict[str, Any] = json.loads(told)
    return loaded


def kept(cluster: Cluster, node: str, words: str) -> bool:
    """Whether a version of a node has these words in it."""
    found = cluster.lab.exec(
        node, "grep", "-rqsF", words, "/var/lib/zcluster/versions", check=False
    )
    return found.returncode == 0


def write(cluster: Cluster, node: str, script: str) -> None:
    """Change something on a node."""
    cluster.lab.exec(node, "sh", "-ec", script)


def test_changes_on_the_master_reach_the_backup_by_themselves(cluster: Cluster) -> None:
    write(
        cluster,
        "n1",
        """
        cd /etc/haproxy
        mkdir -p 'a b/deep' certs
        echo new > 'a b/deep/with space'
        printf 'odd' > "$(printf 'new\\nline')"
        ln -s haproxy.cfg link
        echo key > certs/site.pem; chown root:haproxy certs/site.pem; chmod 0640 certs/site.pem
        rm -rf errors
        echo '# changed' >> haproxy.cfg
        """,
    )
    eventually("trees are equal", lambda: tree(cluster, "n1") == tree(cluster, "n2"))
    assert "640 root haproxy" in tree(cluster, "n2")
    write(cluster, "n1", "rm -rf '/etc/haproxy/a b'")
    eventually("a deletion travels", lambda: tree(cluster, "n1") == tree(cluster, "n2"))


def test_burst_of_changes_ends_with_identical_trees(cluster: Cluster) -> None:
    write(
        cluster,
        "n1",
        """
        cd /etc/haproxy; mkdir many
        for i in $(seq 500); do echo $i > many/$i; done
        for i in $(seq 1 3 500); do mv many/$i many/moved-$i; done
        for i in $(seq 2 3 500); do rm many/$i; done
        for i in $(seq 3 3 500); do echo again >> many/$i; done
        """,
    )
    eventually("trees are equal", lambda: tree(cluster, "n1") == tree(cluster, "n2"))


def test_edit_on_the_backup_never_travels_and_is_kept_when_overwritten(cluster: Cluster) -> None:
    write(cluster, "n2", f"echo '# edited on the backup' >> {CONFIGURATION}")
    eventually(
        "n2 names what was edited there",
        lambda: f"edited here ({CONFIGURATION})" in str(cluster.status("n2").get("message")),
    )
    assert "edited on the backup" not in tree_text(cluster, "n1")
    write(cluster, "n1", f"echo '# edited on the master' >> {CONFIGURATION}")
    eventually("the master's file is there", lambda: "on the master" in tree_text(cluster, "n2"))
    assert "edited on the backup" not in tree_text(cluster, "n2")
    assert kept(cluster, "n2", "edited on the backup")


def tree_text(cluster: Cluster, node: str) -> str:
    """The managed configuration of a node."""
    return cluster.lab.exec(node, "cat", CONFIGURATION).stdout


def test_new_master_sends_what_changed_while_the_other_was_off(cluster: Cluster) -> None:
    cluster.lab.power_off("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    before = generation(cluster, "n2")
    write(cluster, "n2", f"echo '# written while n1 was off' >> {CONFIGURATION}")
    eventually("n2 has a new generation", lambda: generation(cluster, "n2") != before)
    cluster.lab.power_on("n1")
    eventually("n1 has it", lambda: "while n1 was off" in tree_text(cluster, "n1"))
    cluster.wait_settled()


def becomes_a_generation(cluster: Cluster, node: str, written: str) -> None:
    """Write into the configuration of a master, until that is its generation."""
    before = generation(cluster, node)
    write(cluster, node, f"echo '{written}' >> {CONFIGURATION}")
    eventually(f"{node} has a new generation", lambda: generation(cluster, node) != before)


def serves_alone_after(cluster: Cluster, written: str) -> None:
    """n1 off, n2 serves and is edited, both off, n1 alone boots and serves: it is stale."""
    cluster.lab.power_off("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    becomes_a_generation(cluster, "n2", written)
    cluster.lab.power_off("n2")
    cluster.lab.power_on("n1")
    eventually("n1 serves alone", lambda: cluster.status("n1").get("role") == "master")
    assert written not in tree_text(cluster, "n1")


def generation(cluster: Cluster, node: str) -> str:
    """The id of the content of a node."""
    shown = cluster.lab.exec(node, "cat", "/var/lib/zcluster/generation.json", check=False)
    return str(json.loads(shown.stdout or "{}").get("id"))


def test_stale_node_never_overwrites_newer_config_but_takes_it_over(cluster: Cluster) -> None:
    serves_alone_after(cluster, "# newer")
    eventually(
        "n1 says that it could not check",
        lambda: "could not be checked" in str(cluster.status("n1").get("sync_message")),
    )
    cluster.lab.power_on("n2")
    eventually("n1 has what n2 has", lambda: "# newer" in tree_text(cluster, "n1"))
    cluster.wait_settled()
    assert "# newer" in tree_text(cluster, "n2")
    assert generation(cluster, "n1") == generation(cluster, "n2")
    assert tree(cluster, "n1") == tree(cluster, "n2")


def test_newer_configuration_that_the_services_reject_is_not_pulled_into_a_serving_node(
    cluster: Cluster,
) -> None:
    serves_alone_after(cluster, "nonsense")
    cluster.lab.power_on("n2")
    eventually(
        "n1 says why it does not take it",
        lambda: "rejected by haproxy" in str(cluster.status("n1").get("message")),
    )
    assert "nonsense" not in tree_text(cluster, "n1")
    assert "nonsense" in tree_text(cluster, "n2")
    cluster.lab.exec("n1", "systemctl", "is-active", "haproxy.service")


def diverge(cluster: Cluster) -> None:
    """Both nodes serve alone, one after the other, and both are edited; n1 is the master then."""
    serves_alone_after(cluster, "# by n2")
    before = generation(cluster, "n1")
    write(cluster, "n1", f"echo '# by n1' >> {CONFIGURATION}")
    eventually("n1 has a new generation", lambda: generation(cluster, "n1") != before)
    cluster.lab.power_on("n2")
    for node in ("n1", "n2"):
        eventually(
            f"{node} says diverged, and where",
            lambda node=node: (
                cluster.status(node).get("sync") == "diverged"  # type: ignore[misc]
                and CONFIGURATION in str(cluster.status(node).get("message"))
            ),
        )
    assert "# by n1" in tree_text(cluster, "n1")
    assert "# by n2" not in tree_text(cluster, "n1")
    assert "# by n2" in tree_text(cluster, "n2")


def test_both_edited_while_apart_is_diverged_until_a_person_decides_for_the_backup(
    cluster: Cluster, play: Play
) -> None:
    diverge(cluster)
    # By hand, on the backup: that must not be in the way.
    write(
        cluster,
        "n2",
        f"echo '# and more' >> {CONFIGURATION}; umask 077; echo of-nobody > /etc/haproxy/key",
    )
    shown = verb(play, cluster, "sync_resolve")
    assert shown.changed() == 0
    for words in ("-# by n1", "+# by n2", "+# and more", "/etc/haproxy/key", "sha256"):
        assert words in shown.output, shown.output
    assert "of-nobody" not in shown.output
    eventually("nothing is decided", lambda: cluster.status("n1").get("sync") == "diverged")
    verb(play, cluster, "sync_resolve", "zcluster_keep=n2")
    settled(cluster)
    assert "# by n2" in tree_text(cluster, "n1")
    assert "# and more" in tree_text(cluster, "n1")
    assert "# by n1" not in tree_text(cluster, "n1")
    assert kept(cluster, "n1", "# by n1")
    cluster.wait_settled()


@pytest.mark.sync
def test_divergence_that_is_decided_for_the_master_keeps_what_the_backup_had(
    cluster: Cluster, play: Play
) -> None:
    diverge(cluster)
    verb(play, cluster, "sync_resolve", "zcluster_keep=n1")
    settled(cluster)
    assert "# by n1" in tree_text(cluster, "n2")
    assert kept(cluster, "n2", "# by n2")
    cluster.wait_settled()


def test_configuration_that_the_backup_refuses_is_said_and_what_runs_goes_on(
    cluster: Cluster,
) -> None:
    write(cluster, "n1", f"echo 'nonsense here' >> {CONFIGURATION}")
    eventually(
        "n2 rejects it",
        lambda: "rejected by haproxy" in str(cluster.status("n2").get("message")),
    )
    cluster.lab.exec("n2", "systemctl", "is-active", "haproxy.service")
    write(cluster, "n1", f"sed -i /nonsense/d {CONFIGURATION}")
    cluster.wait_settled()


FULL = {
    "state of the backup": ("n2", "/var/lib/zcluster"),
    "root of the backup": ("n2", "/etc/haproxy"),
    "state of the master": ("n1", "/var/lib/zcluster"),
}


@pytest.mark.parametrize(
    "where",
    ["state of the backup"]
    + [pytest.param(w, marks=pytest.mark.sync) for w in FULL if w != "state of the backup"],
)
def test_full_disk_is_said_and_loses_nothing(cluster: Cluster, where: str) -> None:
    node, directory = FULL[where]
    # Excluded by its name: what is in the way belongs to nobody's configuration.
    ballast = f"{directory}/.zcluster-ballast"
    write(cluster, node, f"head -c 2000M /dev/zero > {ballast} 2>/dev/null || true")
    try:
        write(cluster, "n1", "head -c 3M /dev/urandom > /etc/haproxy/large")
        if node == "n2":
            eventually(
                "n1 says what is full",
                lambda: bool(re.search(r"failed: n2: .*(No space left|no room)", said(cluster))),
            )
            assert cluster.lab.exec("n2", "test", "!", "-e", "/etc/haproxy/large").returncode == 0
        else:
            eventually("n1 says so", lambda: "No space left on device" in said(cluster))
    finally:
        write(cluster, node, f"rm {ballast}")
    settled(cluster)


def test_what_was_overwritten_is_listed_and_brought_back_on_both_nodes(
    cluster: Cluster, play: Play
) -> None:
    write(cluster, "n1", "echo first > /etc/haproxy/file; chmod 0640 /etc/haproxy/file")
    settled(cluster)
    write(cluster, "n1", "echo second > /etc/haproxy/file; chmod 0600 /etc/haproxy/file")
    settled(cluster)
    run = verb(play, cluster, "sync_versions", "zcluster_path=/etc/haproxy/file")
    (listed,) = ask(cluster, "n2", "versions", "/etc/haproxy/file")["versions"]
    assert listed["version"] in run.output
    assert ask(cluster, "n1", "versions", "/etc/haproxy/file")["versions"] == []
    verb(play, cluster, "sync_restore", f"zcluster_kept=/etc/haproxy/file@{listed['version']}")
    settled(cluster)
    for node in ("n1", "n2"):
        shown = cluster.lab.exec(
            node, "sh", "-c", "cat /etc/haproxy/file; stat -c %a /etc/haproxy/file"
        )
        assert shown.stdout == "first\n640\n"
    assert kept(cluster, "n1", "second")
    # A pause holds it, says who and why, survives a reboot, and ends.
    verb(play, cluster, "sync_pause", "zcluster_why=racks")
    write(cluster, "n1", "echo third > /etc/haproxy/file")
    cluster.lab.reboot("n2")
    for node in ("n1", "n2"):
        eventually(
            f"{node} is orange and says why",
            lambda node=node: (
                cluster.status(node).get("status") == "maintenance"  # type: ignore[misc]
                and bool(re.search(r"paused by \S+.*: racks", str(cluster.status(node))))
            ),
        )
    assert "first" in cluster.lab.exec("n2", "cat", "/etc/haproxy/file").stdout
    run = play("zcluster.ha.sync_resume", inventory=cluster.inventory)
    assert run.returncode == 0, run.output
    eventually(
        "n2 has it", lambda: "third" in cluster.lab.exec("n2", "cat", "/etc/haproxy/file").stdout
    )
    settled(cluster)
    cluster.wait_settled()


@pytest.mark.sync
def test_ten_thousand_files_in_bursts_under_a_writer_that_never_stops(cluster: Cluster) -> None:
    with busy(cluster, "n1"):
        for burst in range(10):
            write(
                cluster,
                "n1",
                f"""
                mkdir -p /etc/haproxy/burst; cd /etc/haproxy/burst
                for i in $(seq 1000); do echo {burst} $i > {burst}-$i; done
                for i in $(seq 1 4 1000); do mv {burst}-$i moved-$i; done
                for i in $(seq 2 4 1000); do echo again >> {burst}-$i; done
                find . -name '{burst - 1}-*' -delete
                """,
            )
        assert cluster.status("n1").get("sync") in ("in sync", "pending")
    settled(cluster, 180)


@pytest.mark.sync
def test_failover_in_the_middle_of_a_burst_leaves_one_whole_generation(cluster: Cluster) -> None:
    program = r"""
    cd /etc/haproxy; mkdir -p burst; n=0
    while :; do n=$((n + 1)); echo $n > burst/$n && echo $n >> /root/written; sleep 0.002; done
    """
    process = cluster.lab.start_process("n1", "sh", "-c", program)
    eventually("n2 gets some", lambda: "burst" in tree(cluster, "n2"))
    cluster.lab.power_off("n1")
    cluster.lab.stop_process(process)
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    # What n2 serves is what its generation says, nothing half.
    script = (
        "import sys; sys.path.insert(0, '/usr/lib/zcluster')\n"
        "from zclustermanager.settings import load\n"
        "from zclustermanager.sync import tree\n"
        "from zclustermanager.sync.store import Store\n"
        "c = load(); live = tree.Scanner(c.sync_paths, c.sync_excludes).scan()\n"
        "print(tree.digest(live) == Store().generation().digest)\n"
    )
    assert cluster.lab.exec("n2", "python3", "-c", script).stdout == "True\n"
    cluster.lab.power_on("n1")
    settled(cluster, 180)
    written = cluster.lab.exec("n1", "cat", "/root/written").stdout.split()
    for node in ("n1", "n2"):
        live = set(cluster.lab.exec(node, "ls", "/etc/haproxy/burst").stdout.split())
        gone = [name for name in written if name not in live]
        assert not [name for name in gone if not kept_file(cluster, f"burst/{name}")], gone
    cluster.wait_settled()


def kept_file(cluster: Cluster, path: str) -> bool:
    """Whether a version of either node has this file."""
    pattern = f"*/etc/haproxy/{path}"
    return any(
        cluster.lab.exec(n, "find", "/var/lib/zcluster/versions", "-path", pattern).stdout
        for n in ("n1", "n2")
    )


@pytest.mark.sync
def test_edits_of_a_split_brain_are_both_there_when_it_is_healed(
    cluster: Cluster, play: Play
) -> None:
    networks = ("front", "back", "link")
    for network in networks:
        cluster.lab.silence("n1", network)
    eventually("n2 serves too", lambda: cluster.status("n2").get("role") == "master")
    assert cluster.status("n1").get("role") == "master"
    for node in ("n1", "n2"):
        before = generation(cluster, node)
        write(cluster, node, f"echo '# by {node}' >> {CONFIGURATION}")
        eventually(
            f"{node} has a new generation",
            lambda node=node, before=before: generation(cluster, node) != before,  # type: ignore[misc]
        )
    for network in networks:
        cluster.lab.heal("n1", network)
    for node in ("n1", "n2"):
        eventually(
            f"{node} says diverged",
            lambda node=node: cluster.status(node).get("sync") == "diverged",  # type: ignore[misc]
        )
    master, backup = cluster.master, cluster.backup
    assert f"# by {master}" in tree_text(cluster, master)
    assert f"# by {backup}" in tree_text(cluster, backup)
    run = play(
        "zcluster.ha.sync_resolve", "-e", f"zcluster_keep={master}", inventory=cluster.inventory
    )
    assert run.returncode == 0, run.output
    settled(cluster)
    assert kept(cluster, backup, f"# by {backup}")


@pytest.mark.sync
def test_peer_that_was_away_for_a_thousand_changes_has_them_all(cluster: Cluster) -> None:
    cluster.lab.power_off("n2")
    write(
        cluster,
        "n1",
        """
        cd /etc/haproxy; mkdir away
        for i in $(seq 1000); do
            echo $i > away/$((i % 100)); echo $i > away/one; sleep 0.01
        done
        """,
    )
    cluster.lab.power_on("n2")
    settled(cluster)
    assert cluster.lab.exec("n2", "cat", "/etc/haproxy/away/one").stdout == "1000\n"
    cluster.wait_settled()


@pytest.mark.sync
def test_connection_that_is_killed_stalled_or_refused_loses_nothing(cluster: Cluster) -> None:
    with busy(cluster, "n1"):
        write(
            cluster, "n1", "head -c 8M /dev/urandom > /etc/haproxy/large; pkill -9 -x ssh || true"
        )
        eventually("large", lambda: large(cluster, "n1") == large(cluster, "n2"))
        cluster.lab.silence("n1", "link")
        write(cluster, "n1", "head -c 8M /dev/urandom > /etc/haproxy/large")
        eventually("n1 notices", lambda: cluster.status("n1").get("sync") == "pending")
        cluster.lab.heal("n1", "link")
        eventually("large", lambda: large(cluster, "n1") == large(cluster, "n2"))
        write(cluster, "n1", "head -c 8M /dev/urandom > /etc/haproxy/large")
        write(cluster, "n2", "systemctl restart ssh.service")
        eventually("large", lambda: large(cluster, "n1") == large(cluster, "n2"))
    settled(cluster)


@pytest.mark.sync
def test_slow_link_carries_a_large_file_and_what_was_written_meanwhile(cluster: Cluster) -> None:
    """Three megabytes at 128 kB a second: what goes beyond is dropped on the way."""
    rule = "iifname eth2 tcp dport 22 limit rate over 128 kbytes/second burst 64 kbytes drop"
    chain = "type filter hook input priority -400;"
    write(cluster, "n2", f"nft 'table inet slow {{ chain in {{ {chain} {rule}; }} }}'")
    try:
        write(cluster, "n1", "head -c 3M /dev/urandom > /etc/haproxy/large")
        eventually("it is sent", lambda: cluster.status("n1").get("sync") == "pending")
        write(cluster, "n1", "echo meanwhile > /etc/haproxy/small")
        eventually("large", lambda: large(cluster, "n1") == large(cluster, "n2"), timeout=180)
        settled(cluster, timeout=120)
        assert cluster.lab.exec("n2", "cat", "/etc/haproxy/small").stdout == "meanwhile\n"
    finally:
        write(cluster, "n2", "nft delete table inet slow")
    settled(cluster)


def large(cluster: Cluster, node: str) -> str:
    """What a large file of a node is."""
    return cluster.lab.exec(node, "sha256sum", "/etc/haproxy/large", check=False).stdout


@pytest.mark.sync
def test_kill_9_of_every_part_fifty_times_ends_in_one_whole_generation(cluster: Cluster) -> None:
    victims = (
        ("n1", "systemctl kill --kill-whom=main -s KILL zcluster.service"),
        ("n1", "pkill -9 -x rsync"),
        ("n1", "pkill -9 -x ssh"),
        ("n2", "pkill -9 -f 'zclustermanager receive'"),
        ("n2", "pkill -9 -x rsync"),
        ("n2", "systemctl kill --kill-whom=main -s KILL zcluster.service"),
    )
    chance = random.Random(5)
    with busy(cluster, "n1"):
        for number in range(50):
            write(
                cluster,
                "n1",
                f"cd /etc/haproxy; rm -rf k{number - 3}; mkdir k{number}; cd k{number};"
                "for i in 1 2 3 4 5 6 7 8; do head -c 20000 /dev/urandom > $i; done",
            )
            node, command = chance.choice(victims)
            time.sleep(chance.random())
            cluster.lab.exec(node, "sh", "-c", command, check=False)
    settled(cluster, 180)
    cluster.wait_settled()


MANY_KINDS = """
cd /etc/haproxy; mkdir -p deep/er many
for i in $(seq 300); do echo $i > many/$i; done
echo x > deep/er/x; rm many/7; mv many/8 many/eight; chmod 600 many/9
"""
"""Changes of every kind, in a directory that is new, too."""


@contextlib.contextmanager
def watching_within(cluster: Cluster, limit: str, value: int) -> Iterator[None]:
    """A limit of inotify(7) while the manager of n1 begins to watch and the block runs.

    It is the machine's, for root: what is watched already stays so.
    """
    knob = Path("/proc/sys/fs/inotify") / limit
    before = knob.read_text()
    try:
        knob.write_text(str(value))
        write(cluster, "n1", "systemctl restart zcluster.service")
        yield
    finally:
        knob.write_text(before)


@pytest.mark.sync
def test_overflow_of_the_event_queue_misses_nothing(cluster: Cluster) -> None:
    with watching_within(cluster, "max_queued_events", 2):
        eventually("it is there again", lambda: cluster.status("n1").get("sync") == "in sync")
    write(cluster, "n1", MANY_KINDS)
    settled(cluster)


def unheard(cluster: Cluster) -> list[str]:
    """The nodes that say that they find changes late, or say nothing."""
    told = {node: str(cluster.status(node).get("message", "inotify")) for node in ("n1", "n2")}
    return [node for node, message in told.items() if "inotify" in message]


@pytest.mark.sync
def test_limit_of_watches_that_is_reached_is_said_and_misses_nothing(cluster: Cluster) -> None:
    with watching_within(cluster, "max_user_watches", 1):
        eventually("n1 says it", lambda: "see fs.inotify.max_user_watches" in said(cluster))
        assert cluster.status("n1").get("status") == "ok"
        write(cluster, "n1", MANY_KINDS)
        settled(cluster)
        write(cluster, "n1", "echo y > /etc/haproxy/deep/er/x")
        settled(cluster)
    eventually("nobody says it any more", lambda: not unheard(cluster))
    write(cluster, "n1", "echo z > /etc/haproxy/deep/er/x; mkdir -p /etc/haproxy/deep/er/est")
    settled(cluster)
    cluster.wait_settled()


HOURS = {"n1": 5, "n2": -5}
"""How far the clock of a node is off."""

CLOCK = """\
import time
_time, _gmtime = time.time, time.gmtime
time.time = lambda: _time() + {hours} * 3600
time.gmtime = lambda at=None: _gmtime(time.time() if at is None else at)
"""


def skew(cluster: Cluster, node: str) -> None:
    """Let every program of zcluster's on a node read a clock that is off; nodes share the kernel's.

    All of them start through one door. (Under libfaketime 0.9.10 no Python of Debian's can sleep.)
    `time_ns` stays: it is compared to the times that the same kernel gives files, and to no other.
    """
    script = """
    cat > /usr/lib/zcluster/clock_of_the_test.py
    sed -i 's/; from zclustermanager/; import clock_of_the_test&/' /usr/sbin/zclustermanager
    grep -q clock_of_the_test /usr/sbin/zclustermanager
    systemctl restart zcluster.service
    """
    cluster.lab.exec(node, "sh", "-ec", script, stdin=CLOCK.format(hours=HOURS[node]))


def edit_by_its_clock(cluster: Cluster, node: str, words: str) -> None:
    """Change a file on the master at the time that its clock shows, until it is a generation."""
    before = generation(cluster, node)
    touch = f"touch -d '{HOURS[node]} hours' {CONFIGURATION}"
    write(cluster, node, f"echo '{words}' >> {CONFIGURATION}; {touch}")
    eventually(f"{node} has a new generation", lambda: generation(cluster, node) != before)


def hours_off(cluster: Cluster, node: str) -> int:
    """By how many hours the time is off that the latest version of a node has in its name."""
    latest = cluster.lab.exec(node, "ls", "/var/lib/zcluster/versions").stdout.split()[-1]
    stamp = time.strptime(latest.split("-")[1], "%Y%m%dT%H%M%S")
    return round((calendar.timegm(stamp) - time.time()) / 3600)


@pytest.mark.sync
def test_clocks_that_are_hours_ahead_and_behind_decide_nothing(cluster: Cluster) -> None:
    for node in HOURS:
        skew(cluster, node)
    cluster.wait_settled()
    edit_by_its_clock(cluster, "n1", "# first")
    settled(cluster)
    # The newer content has the older times, then the reverse; each node is behind once.
    for off, on in (("n1", "n2"), ("n2", "n1")):
        cluster.lab.power_off(off)
        wait_for(cluster, on, role="master")
        edit_by_its_clock(cluster, on, f"# by {on}")
        cluster.lab.power_on(off)
        settled(cluster)
        cluster.wait_settled()
        assert cluster.master == on
        assert f"# by {on}" in tree_text(cluster, off)
        assert generation(cluster, off) == generation(cluster, on)
        assert hours_off(cluster, off) == HOURS[off]
    assert "# by n2" in tree_text(cluster, "n1")


GIGABYTE = 1 << 30


def enlarge(cluster: Cluster, megabytes: int) -> None:
    """Room on the file systems of both nodes; the next restore takes it back."""
    lab = cluster.lab
    if not lab.machine.loop_devices or shutil.disk_usage(lab.directory).free < 8 * GIGABYTE:
        pytest.skip("a gigabyte on each disk of both nodes takes loop devices and 8 GB")
    for node in ("n2", "n1"):
        lab.shut_down(node)
        disks = lab.disks(node)
        with lab.locked():
            disks.detach()
            for volume in disks.volumes[1:]:
                image = volume.image(disks.directory)
                os.truncate(image, megabytes << 20)
                run_here(["e2fsck", "-f", "-p", str(image)], check=False)
                run_here(["resize2fs", str(image)])
    for node in ("n1", "n2"):
        lab.power_on(node)
    cluster.wait_settled()
    make_first_master(lab)


def has_whole(cluster: Cluster, node: str, name: str, size: int) -> bool:
    """Whether a file of this size is in place: it gets there by one rename."""
    told = cluster.lab.exec(node, "stat", "-c", "%s", f"/etc/haproxy/{name}", check=False).stdout
    return told == f"{size}\n"


@pytest.mark.sync
def test_file_of_a_gigabyte_arrives_and_starves_nothing_and_is_kept_as_long_as_the_limit_allows(
    cluster: Cluster,
) -> None:
    enlarge(cluster, 2500)
    looks = []

    def arrives(name: str, size: int, timeout: float) -> None:
        """Wait for a file on n2; see meanwhile how n1 is."""

        def there() -> bool:
            if status := cluster.status("n1"):
                looks.append((status.get("role"), status.get("sync")))
            return has_whole(cluster, "n2", name, size)

        eventually(f"n2 has {name}", there, timeout)

    with traffic(cluster.lab, connections=20) as noticed:
        script = "head -c 1G /dev/urandom > /etc/haproxy/large"
        process = cluster.lab.start_process("n1", "sh", "-c", script)
        try:
            # Beside one that is being written, and beside one that travels.
            write(cluster, "n1", "echo 1 > /etc/haproxy/small")
            arrives("small", 2, 180)
            process.wait(180)
        finally:
            cluster.lab.stop_process(process)
        assert has_whole(cluster, "n1", "large", GIGABYTE)
        write(cluster, "n1", "echo 12 > /etc/haproxy/small")
        arrives("large", GIGABYTE, 300)
        arrives("small", 3, 90)
    eventually("n1 says in sync", lambda: cluster.status("n1").get("sync") == "in sync")
    assert large(cluster, "n1") == large(cluster, "n2") != ""
    assert {role for role, _ in looks} == {"master"}
    assert {sync for _, sync in looks} <= {"in sync", "pending"}
    assert noticed.tcp_alive == noticed.tcp_opened
    # The newest version stays, however large; with another one it is beyond zcluster_sync_keep.
    write(cluster, "n1", "echo 1234 > /etc/haproxy/large")
    arrives("large", 5, 180)
    assert kept_file(cluster, "large")
    write(cluster, "n1", f"echo '# newer' >> {CONFIGURATION}")
    eventually("the limit holds", lambda: not kept_file(cluster, "large"))
    settled(cluster)
    cluster.wait_settled()


@pytest.mark.sync
def test_names_and_kinds_of_every_sort_arrive_as_they_are(cluster: Cluster) -> None:
    write(
        cluster,
        "n1",
        r"""
        cd /etc/haproxy; mkdir odd; cd odd
        echo 1 > ./-dash; echo 2 > 'sp ace'; echo 3 > "$(printf 'new
line')"
        echo 4 > "$(printf 'lÃ¤rm')"; echo 5 > "$(printf 'notÿutf8')"
        echo 6 > "$(printf '%0255d' 0)"; : > empty; mkdir 'empty dir'
        ln -s nowhere dangling; ln -s ../haproxy.cfg link
        echo 7 > hard; ln hard harder
        echo 8 > acl; chown haproxy acl; setfacl -m u:haproxy:r,g:haproxy:rw acl
        setfacl -d -m u:haproxy:r 'empty dir'
        echo 9 > xattr; python3 -c 'import os; os.setxattr("xattr", "user.owner", b"someone")'
        echo 10 > setuid; chmod 4750 setuid; echo 11 > unreadable; chmod 0 unreadable
        truncate -s 4M sparse; echo end >> sparse; touch -d '3 days ago' old; touch -d '3 days' new
        for i in $(seq 200); do echo $i > vanishing; rm vanishing; done
        """,
    )
    settled(cluster)
    assert "new\nline" in cluster.lab.exec("n2", "ls", "/etc/haproxy/odd").stdout
    used = cluster.lab.exec("n2", "du", "-k", "/etc/haproxy/odd/sparse").stdout.split()[0]
    assert int(used) < 1024, "the hole did not stay one"
    # Same size, same time of change, other content: only the content tells.
    write(
        cluster,
        "n1",
        "cd /etc/haproxy/odd; touch -r acl /tmp/then; echo 9 > acl; touch -r /tmp/then acl;"
        "rm hard; mv harder hard; setfacl -b acl;"
        'python3 -c \'import os; os.removexattr("xattr", "user.owner")\'',
    )
    settled(cluster)


@pytest.mark.sync
def test_directory_replaced_by_a_file_and_the_reverse(cluster: Cluster) -> None:
    write(cluster, "n1", "cd /etc/haproxy; mkdir -p d/e; echo x > d/e/x; echo f > f; ln -s f l")
    settled(cluster)
    write(
        cluster,
        "n1",
        "cd /etc/haproxy; rm -r d; echo file > d; rm f; mkdir f; echo y > f/y; rm l; mkdir l",
    )
    settled(cluster)
    write(
        cluster,
        "n1",
        "cd /etc/haproxy; rm d; ln -s f d; rm -r f l; mv haproxy.cfg h; mv h haproxy.cfg",
    )
    settled(cluster)
    assert kept_file(cluster, "d/e/x")
    assert kept_file(cluster, "f/y")


@pytest.mark.sync
def test_root_that_does_not_exist_yet_and_one_that_is_replaced(
    cluster: Cluster, play: Play, tmp_path: Path
) -> None:
    shutil.copytree(cluster.inventory, tmp_path / "i", ignore=shutil.ignore_patterns(".ssh"))
    document = yaml.safe_load((tmp_path / "i/hosts.yml").read_text())
    document["lab_cluster"]["vars"]["zcluster_sync_paths"] += ["/srv/www/site"]
    (tmp_path / "i/hosts.yml").write_text(yaml.safe_dump(document))
    run = play("zcluster.ha.configure", inventory=tmp_path / "i")
    assert run.returncode == 0, run.output
    cluster.wait_settled()
    write(cluster, "n1", "mkdir -p /srv/www/site; echo one > /srv/www/site/index")
    eventually("the root is there", lambda: same(cluster, "/srv/www/site"))
    write(
        cluster,
        "n1",
        "cd /srv/www; mkdir next; echo two > next/index; mv site old; mv next site; rm -r old",
    )
    eventually("the root is the other one", lambda: same(cluster, "/srv/www/site"))
    write(cluster, "n1", "echo three > /srv/www/site/index")
    eventually("it is still watched", lambda: same(cluster, "/srv/www/site"))
    assert cluster.lab.exec("n2", "cat", "/srv/www/site/index").stdout == "three\n"


WIPE = (
    "find /var/lib/zcluster -mindepth 1 -maxdepth 1"
    " ! -name peer ! -name maintenance -exec rm -rf {} +"
)
"""All that a node remembers; what lets the peer in, and what keepalived reads, stays."""


def test_two_new_nodes_with_different_contents_have_the_masters_and_the_backups_is_kept(
    cluster: Cluster,
) -> None:
    for node in ("n1", "n2"):
        write(cluster, node, "systemctl stop zcluster.service")
    for node in ("n1", "n2"):
        write(
            cluster,
            node,
            f"{WIPE}; echo '# of {node}' >> {CONFIGURATION}; echo {node} > /etc/haproxy/of-{node}",
        )
    for node in ("n1", "n2"):
        write(cluster, node, "systemctl start zcluster.service")
    settled(cluster)
    assert cluster.master == "n1"
    assert generation(cluster, "n1") == generation(cluster, "n2") != "None"
    assert "# of n1" in tree_text(cluster, "n2")
    assert "# of n2" not in tree_text(cluster, "n1")
    assert kept(cluster, "n2", "# of n2")
    assert kept_file(cluster, "of-n2")
    cluster.wait_settled()


@pytest.mark.sync
def test_same_file_written_on_both_nodes_is_no_conflict_and_a_wiped_node_is_filled(
    cluster: Cluster,
) -> None:
    for node in ("n2", "n1"):
        write(cluster, node, f"echo '# by the same Ansible run' >> {CONFIGURATION}")
    settled(cluster)
    assert "same Ansible run" in tree_text(cluster, "n2")
    write(cluster, "n2", f"systemctl stop zcluster.service; {WIPE}; rm -rf /etc/haproxy/*")
    cluster.lab.power_off("n2")
    cluster.lab.power_on("n2")
    settled(cluster)
    assert "same Ansible run" in tree_text(cluster, "n2")
    cluster.wait_settled()


@pytest.mark.sync
def test_edit_on_the_backup_that_is_promoted_goes_to_both_and_replaces_nothing_unkept(
    cluster: Cluster, play: Play
) -> None:
    write(cluster, "n2", f"echo '# edited on the backup' >> {CONFIGURATION}")
    eventually("n2 sees it", lambda: "edited here" in str(cluster.status("n2").get("message")))
    before = tree_text(cluster, "n1")
    cluster.lab.power_off("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    cluster.lab.power_on("n1")
    settled(cluster)
    assert "edited on the backup" in tree_text(cluster, "n1")
    last = before.splitlines()[-1]
    assert kept(cluster, "n1", last)


@pytest.mark.sync
@pytest.mark.parametrize("first", ["n1", "n2"])
def test_newer_generation_ends_up_on_both_when_both_start_at_once(
    cluster: Cluster, first: str
) -> None:
    serves_alone_after(cluster, "# newer")
    cluster.lab.power_off("n1")
    for node in (first, "n1" if first == "n2" else "n2"):
        cluster.lab.power_on(node, wait=False)
    eventually("n1 has what n2 has", lambda: "# newer" in tree_text_or_nothing(cluster, "n1"))
    settled(cluster)
    cluster.wait_settled()


def tree_text_or_nothing(cluster: Cluster, node: str) -> str:
    """The managed configuration of a node that may not have started yet."""
    return cluster.lab.exec(node, "cat", CONFIGURATION, check=False).stdout
