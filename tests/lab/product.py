# SPDX-License-Identifier: GPL-3.0-or-later
# The product as the lab tests use it: its playbooks run as a user runs them, its cluster asked.
"""What the lab tests share.

``ZCLUSTER_LAB_NAME`` and ``ZCLUSTER_LAB_VARS`` (``key=value`` pairs for the role, such as
``lab_release=13``) choose another lab than the usual one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from zcluster_lab import BALANCERS, BARE, Lab, LabError

ROOT = Path(__file__).parents[2]
LAB_NAME = os.environ.get("ZCLUSTER_LAB_NAME", "zcluster-lab")
LAB_VARS = os.environ.get("ZCLUSTER_LAB_VARS", "")
CONTENT = ("roles", "plugins", "playbooks")
"""What decides how a created cluster looks."""


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    returncode: int
    output: str

    def changed(self) -> int:
        """How many tasks changed something, on all hosts."""
        return sum(int(n) for n in re.findall(r"\bchanged=(\d+)", self.output))


@dataclass(frozen=True)
class Cluster:
    """A created cluster on the lab."""

    lab: Lab
    inventory: Path

    def status(self, node: str) -> dict[str, object]:
        """What zclustermanager says on a node."""
        return node_status(self.lab, node)

    def node_with_role(self, role: str) -> str:
        """The node that has the role now."""
        found = [n.name for n in BALANCERS if self.status(n.name).get("role") == role]
        assert len(found) == 1, f"nodes with role {role}: {found}"
        return found[0]

    @property
    def master(self) -> str:
        """The node that serves."""
        return self.node_with_role("master")

    @property
    def backup(self) -> str:
        """The node that stands by."""
        return self.node_with_role("backup")

    def wait_settled(self, timeout: float = 90) -> None:
        """Until one node is master, the other backup, and both are ok."""
        wait_settled(self.lab, timeout)

    def wait_ready(self, node: str, timeout: float = 90) -> None:
        """Until the node that stands by has everything, connections included."""
        eventually(f"{node} is ready", lambda: self.status(node).get("ready") is True, timeout)


class Play(Protocol):
    """Runs a playbook as a user does."""

    def __call__(self, playbook: str, *arguments: str, inventory: Path | None = None) -> Run:
        """Run it; how it ended."""


def run_tool(name: str, *arguments: str, **environment: str) -> Run:
    """Run a program of the environment as a user does, who types nothing more."""
    done = subprocess.run(
        [tool(name), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    # pytest shows it where a test fails: the whole would be long, the end alone not enough.
    wrong = [line for line in done.stdout.splitlines() if re.match(r"fatal:|\[ERROR\]", line)]
    print(
        f"$ {name} {' '.join(arguments)}: {done.returncode}", *wrong, done.stdout[-3000:], sep="\n"
    )
    return Run(done.returncode, done.stdout)


def run_playbook(playbook: str, *arguments: str, inventory: Path | None = None) -> Run:
    """Run a playbook as a user does; the connections of earlier runs are not used again."""
    with tempfile.TemporaryDirectory(prefix="zcp") as sockets:
        where = ["-i", str(inventory)] if inventory else []
        return run_tool(
            "ansible-playbook",
            *where,
            playbook,
            *arguments,
            ANSIBLE_SSH_CONTROL_PATH_DIR=sockets,
            ANSIBLE_NOCOLOR="1",
            # As the driver has it: a step is one trip to the node, not five.
            ANSIBLE_PIPELINING="1",
        )


def tool(name: str) -> str:
    """A program of the environment that runs the tests."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def node_status(lab: Lab, node: str) -> dict[str, object]:
    """What zclustermanager says on a node; empty when it says nothing."""
    try:
        said = lab.exec(node, "zclustermanager", "status", "--json", check=False, timeout=15)
        loaded: dict[str, object] = json.loads(said.stdout or "{}")
    except (LabError, json.JSONDecodeError):
        return {}
    return loaded


def eventually(what: str, probe: Callable[[], bool], timeout: float = 90) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout
    while not probe():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.5)


def wait_settled(lab: Lab, timeout: float = 90) -> None:
    """Until one node is master, the other backup, and both are ok."""
    end = time.monotonic() + timeout
    while True:
        found = [node_status(lab, node.name) for node in BALANCERS]
        roles = sorted(str(status.get("role")) for status in found)
        if roles == ["backup", "master"] and all(s.get("status") == "ok" for s in found):
            return
        if time.monotonic() > end:
            words = [{k: s.get(k) for k in ("role", "status", "message")} for s in found]
            raise AssertionError(f"the cluster did not settle within {timeout:g} s: {words}")
        time.sleep(1)


def create_cluster(
    lab: Lab, inventory: Path, *arguments: str, playbook: str = "zcluster.ha.create"
) -> Run:
    """Make a cluster of the two bare nodes, as a user does; or another playbook that can."""
    with secret_vars(zcluster_root_password=lab.settings.root_password) as secret:
        return run_playbook(playbook, *secret, *arguments, inventory=inventory)


@contextlib.contextmanager
def secret_vars(**values: str) -> Iterator[tuple[str, str]]:
    """Arguments that give a playbook variables which are on no command line and on no disk."""
    shm = Path("/dev/shm")
    with tempfile.NamedTemporaryFile("w", dir=shm if shm.is_dir() else None) as secret:
        json.dump(values, secret)
        secret.flush()
        yield "-e", f"@{secret.name}"


def content_id(lab: Lab, inventory: Path) -> str:
    """Changes when anything changes that makes a created cluster what it is."""
    digest = hashlib.sha256(lab.image.name.encode())
    digest.update((inventory / "hosts.yml").read_bytes())
    digest.update((inventory / ".ssh/id_ed25519.pub").read_bytes())
    for directory in CONTENT:
        for path in sorted((ROOT / directory).rglob("*")):
            if path.is_relative_to(ROOT / "roles/lab"):
                continue  # the lab itself; what of it matters is its image
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def restore_created(lab: Lab, inventory: Path) -> None:
    """The nodes as they were right after create; created once per content."""

    def make() -> None:
        lab.restore(BARE)
        run = create_cluster(lab, inventory)
        assert run.returncode == 0, run.output

    restore_or_make(lab, inventory, "created", make)


def restore_or_make(lab: Lab, inventory: Path, kind: str, make: Callable[[], None]) -> None:
    """A cluster of some kind, settled, n1 serves; made once per content, then restored."""
    name = f"{kind}-{content_id(lab, inventory)}"
    if name in lab.snapshots():
        lab.restore(name)
    else:
        make()
        keep(lab, inventory, kind)
    wait_settled(lab)
    make_first_master(lab)


def keep(lab: Lab, inventory: Path, kind: str) -> None:
    """Keep the nodes as they are, for the tests that begin with a cluster of this kind."""
    wait_settled(lab)
    for old in lab.snapshots():
        if old.startswith(f"{kind}-"):
            lab.forget(old)
    lab.snapshot(f"{kind}-{content_id(lab, inventory)}")


def make_first_master(lab: Lab) -> None:
    """Let n1 serve, as right after create: of two nodes that boot at once either one may."""
    first, other = (node.name for node in BALANCERS)
    if node_status(lab, first).get("role") == "master":
        return
    lab.exec(other, "systemctl", "restart", "keepalived.service")
    eventually(f"{first} serves", lambda: node_status(lab, first).get("role") == "master")
    wait_settled(lab)


NODE_NAMES = [node.name for node in BALANCERS]
# Packages that create installs stay; what they bring along is not ours to compare.
OURS = r"""
find /etc /usr/lib/zcluster /usr/sbin/zclustermanager /var/lib/zcluster /run/zcluster /root/.ssh \
    -xdev \( -type f -o -type l \) 2>/dev/null |
grep -E 'zcluster|keepalived\.conf$|authorized_keys|sysctl\.d|/passwd$|/group$' | sort
"""


KERNEL = (
    "net.ipv4.ip_forward",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv6.ip_nonlocal_bind",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_loose",
)
SERVED = ("haproxy.service", "nftables.service")


class Trace(NamedTuple):
    """What create could leave on a node."""

    files: str
    user: str
    tables: str
    addresses: str
    ruleset: str
    kernel: str
    services: str


def trace(lab: Lab, node: str) -> Trace:
    """Its files, its user, its tables, its addresses; what filters, and what runs."""
    links = json.loads(lab.exec(node, "ip", "-j", "address").stdout)
    return Trace(
        files=lab.exec(node, "sh", "-c", OURS).stdout,
        user=lab.exec(node, "getent", "passwd", "zcluster", check=False).stdout,
        tables=lab.exec(node, "nft", "list", "tables").stdout,
        addresses=" ".join(sorted(i["local"] for link in links for i in link["addr_info"])),
        # By numbers: create brings netbase, by whose names nft would list the same rules.
        ruleset=lab.exec(node, "nft", "--stateless", "--numeric", "list", "ruleset").stdout,
        kernel=lab.exec(node, "sysctl", *KERNEL).stdout,
        services=lab.exec(
            node, "systemctl", "show", "--property=ActiveState,UnitFileState", *SERVED
        ).stdout,
    )
