# SPDX-License-Identifier: GPL-3.0-or-later
# The trust between the nodes: one key, one address, one command, and nothing else.
from __future__ import annotations

import json
from pathlib import Path

import pytest
from product import Cluster, eventually, restore_created
from zcluster_lab import Lab, Result

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def cluster(lab: Lab, inventory: Path) -> Cluster:
    """Restored once: what is refused changes nothing for the next."""
    restore_created(lab, inventory)
    return Cluster(lab, inventory)


def refusals(cluster: Cluster) -> int:
    """How many requests n2 has refused, by its journal."""
    journal = cluster.lab.exec("n2", "journalctl", "-t", "zclustermanager", "--no-pager").stdout
    return journal.count("refused")


def knock(cluster: Cluster, *words: str, stdin: str = "") -> Result:
    """Use n1's key on n2 as an attacker who has it would."""
    target = f"zcluster@{cluster.lab.settings.address('link', 12)}"
    return cluster.lab.exec(
        "n1",
        "ssh",
        *("-i", "/etc/zcluster/ssh/id_ed25519", "-o", "BatchMode=yes"),
        *("-o", "UserKnownHostsFile=/etc/zcluster/ssh/known_hosts"),
        *("-o", "StrictHostKeyChecking=yes", "-o", "ControlPath=none"),
        target,
        *words,
        stdin=stdin,
        check=False,
    )


@pytest.mark.parametrize(
    "request_words",
    [
        "",
        "id",
        "ping; id",
        "commit ../../../etc",
        "rsync --server -e.LsfxCIvu . /etc/",
        "rsync --server --sender -e.LsfxCIvu . /etc/shadow",
        "rsync --server --daemon .",
        "rsync --server -rSWe.LsfxCIvu --log-file=/etc/x . 0123456789abcdef0123456789abcdef/",
        "rsync --server -rSWe.LsfxCIvu . ../../0123456789abcdef0123456789abcdef/",
    ],
)
def test_the_key_opens_no_shell_no_other_path_and_no_other_option(
    cluster: Cluster, request_words: str
) -> None:
    before = refusals(cluster)
    said = knock(cluster, *([request_words] if request_words else []))
    answer = json.loads(said.stdout)
    assert "is not allowed" in answer["error"]
    assert "uid=" not in said.stdout
    eventually("it is logged", lambda: refusals(cluster) > before)


def test_the_key_forwards_no_port(cluster: Cluster) -> None:
    target = f"zcluster@{cluster.lab.settings.address('link', 12)}"
    said = cluster.lab.exec(
        "n1",
        "ssh",
        *("-i", "/etc/zcluster/ssh/id_ed25519", "-o", "BatchMode=yes"),
        *("-o", "UserKnownHostsFile=/etc/zcluster/ssh/known_hosts"),
        *("-o", "ControlPath=none", "-W", "127.0.0.1:22", target),
        check=False,
    )
    assert said.returncode != 0
    assert "SSH-2.0" not in said.stdout


def test_the_key_is_good_from_the_peers_address_only(cluster: Cluster) -> None:
    target = f"zcluster@{cluster.lab.settings.address('front', 12)}"
    said = cluster.lab.exec(
        "n1",
        "ssh",
        *("-i", "/etc/zcluster/ssh/id_ed25519", "-o", "BatchMode=yes"),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
        *("-o", "ControlPath=none", target, "ping"),
        check=False,
    )
    assert said.returncode == 255
    assert "Permission denied" in said.stderr


LINK = {"kind": "symlink", "mode": 0o777, "target": "/etc"}
FILE = {"kind": "file", "mode": 0o644, "sha256": "0" * 64}
ROOT = {"/etc/haproxy": {"kind": "directory", "mode": 0o755}}


@pytest.mark.parametrize(
    "manifest",
    [
        {"/etc/cron.d/x": LINK},
        {**ROOT, "/etc/haproxy/../cron.d/x": FILE},
        {**ROOT, "/etc/haproxy/link": LINK, "/etc/haproxy/link/cron.d": FILE},
        {**ROOT, "/etc/haproxy/x": {**FILE, "link": "/etc/shadow"}},
        {**ROOT, "/etc/haproxy/x": {**FILE, "mode": "x"}},
    ],
    ids=["elsewhere", "dots", "through a link", "hard link", "no number"],
)
def test_a_manifest_with_a_path_outside_the_roots_is_refused(
    cluster: Cluster, manifest: dict[str, dict[str, object]]
) -> None:
    entries = [{"path": p, "owner": "root", "group": "root", **e} for p, e in manifest.items()]
    script = (
        "import json, sys; sys.path.insert(0, '/usr/lib/zcluster');"
        "from zclustermanager.sync import tree;"
        f"m = tree.undump({entries!r});"
        "print(json.dumps({'cluster': 'lab', 'manifest': tree.dump(m), 'generation':"
        " {'id': '0' * 32, 'ancestors': [], 'digest': tree.digest(m), 'term': True}}))"
    )
    document = cluster.lab.exec("n1", "python3", "-c", script).stdout
    before = refusals(cluster)
    said = knock(cluster, "offer", stdin=document)
    assert "is not synchronized on this node" in json.loads(said.stdout)["error"]
    eventually("it is logged", lambda: refusals(cluster) > before)


def test_a_huge_request_is_refused_and_logged(cluster: Cluster) -> None:
    said = knock(cluster, "fetch", stdin="x" * ((1 << 20) + 1))
    assert "more than 1048576 bytes" in json.loads(said.stdout)["error"]
    journal = cluster.lab.exec("n2", "journalctl", "-u", "zcluster-receive@*", "--no-pager").stdout
    assert "refused: request fetch has more than" in journal
