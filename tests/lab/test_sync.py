# SPDX-License-Identifier: GPL-3.0-or-later
# Synchronization: from the master to the backup, whole, and never the other way round.
from __future__ import annotations

import json
import time

import pytest
from product import Cluster, eventually

pytestmark = pytest.mark.lab

CONFIGURATION = "/etc/haproxy/haproxy.cfg"


def tree(cluster: Cluster, node: str) -> str:
    """Everything about the synchronized files of a node that must be the same on both."""
    # A pass that is under way has files of its own there, for a moment.
    script = r"""
    set -- /etc/haproxy /etc/nftables.conf ! -name '.zcluster-*'
    find "$@" -printf '%P %y %m %u %g %l\n' | sort
    find "$@" -type f -print0 | sort -z | xargs -0 sha256sum
    """
    return cluster.lab.exec(node, "sh", "-c", script, check=False).stdout


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
    time.sleep(3)
    assert "edited on the backup" not in tree_text(cluster, "n1")
    write(cluster, "n1", f"echo '# edited on the master' >> {CONFIGURATION}")
    eventually("the master's file is there", lambda: "on the master" in tree_text(cluster, "n2"))
    assert "edited on the backup" not in tree_text(cluster, "n2")
    kept = cluster.lab.exec("n2", "sh", "-c", f"cat /var/lib/zcluster/versions/*{CONFIGURATION}")
    assert "edited on the backup" in kept.stdout


def tree_text(cluster: Cluster, node: str) -> str:
    """The managed configuration of a node."""
    return cluster.lab.exec(node, "cat", CONFIGURATION).stdout


def test_new_master_sends_what_changed_while_the_other_was_off(cluster: Cluster) -> None:
    cluster.lab.power_off("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    write(cluster, "n2", f"echo '# written while n1 was off' >> {CONFIGURATION}")
    time.sleep(2)
    cluster.lab.power_on("n1")
    eventually("n1 has it", lambda: "while n1 was off" in tree_text(cluster, "n1"))
    cluster.wait_settled()


def serves_alone_after(cluster: Cluster, written: str) -> None:
    """n1 off, n2 serves and is edited, both off, n1 alone boots and serves: it is stale."""
    cluster.lab.power_off("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    before = generation(cluster, "n2")
    write(cluster, "n2", f"echo '{written}' >> {CONFIGURATION}")
    # The change must be n2's generation before its power goes.
    eventually("n2 has a new generation", lambda: generation(cluster, "n2") != before)
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


def test_both_edited_while_apart_is_diverged_and_nothing_is_overwritten(cluster: Cluster) -> None:
    cluster.lab.power_off("n1")
    eventually("n2 is master", lambda: cluster.status("n2").get("role") == "master")
    write(cluster, "n2", f"echo '# by n2' >> {CONFIGURATION}")
    time.sleep(3)
    cluster.lab.power_off("n2")
    cluster.lab.power_on("n1")
    eventually("n1 serves alone", lambda: cluster.status("n1").get("role") == "master")
    write(cluster, "n1", f"echo '# by n1' >> {CONFIGURATION}")
    time.sleep(3)
    cluster.lab.power_on("n2")
    eventually("diverged is said", lambda: cluster.status("n1").get("sync") == "diverged")
    assert "# by n1" in tree_text(cluster, "n1")
    assert "# by n2" not in tree_text(cluster, "n1")
    assert "# by n2" in tree_text(cluster, "n2")


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


def test_full_disk_of_the_backup_loses_nothing(cluster: Cluster) -> None:
    write(cluster, "n2", "head -c 60M /dev/zero > /var/lib/zcluster/ballast 2>/dev/null || true")
    write(cluster, "n1", "head -c 3M /dev/urandom > /etc/haproxy/large")
    eventually("not in sync", lambda: cluster.status("n1").get("sync") in ("pending", "failed"))
    write(cluster, "n2", "rm /var/lib/zcluster/ballast")
    eventually("trees are equal", lambda: tree(cluster, "n1") == tree(cluster, "n2"))
