# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the peer: one persistent SSH connection, a forced command on the far end."""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import processes
from .settings import RUNTIME_DIR, Cluster

KEY_DIR = Path("/etc/zcluster/ssh")
USER = "zcluster"
# Seconds without a byte after which rsync gives up, on either side. A large file on a slow link
# takes as long as it takes; ssh sees a dead link in 3 s.
STALLED = 30


class PeerError(Exception):
    """The peer did not answer, or said no; the text says what it said."""


class RefusedError(PeerError):
    """The peer answered, and cannot or will not take it: that does not pass by itself."""


# What rsync says of a file, on either side; what it says of the connection has no such words.
RSYNC_FAILED = re.compile(r"^rsync: .*\bfailed\b.*$", re.MULTILINE)


def ssh_command() -> list[str]:
    """The SSH client as zcluster uses it: pinned host keys, no questions, one connection."""
    return [
        "ssh",
        "-F", "/dev/null",
        "-i", str(KEY_DIR / "id_ed25519"),
        "-o", "IdentitiesOnly=yes",
        "-o", f"UserKnownHostsFile={KEY_DIR / 'known_hosts'}",
        "-o", "GlobalKnownHostsFile=/dev/null",
        "-o", "StrictHostKeyChecking=yes",
        "-o", "BatchMode=yes",
        "-o", "LogLevel=ERROR",
        "-o", "ConnectTimeout=2",
        "-o", "ServerAliveInterval=1",
        "-o", "ServerAliveCountMax=3",
        "-o", "ControlMaster=auto",
        "-o", f"ControlPath={RUNTIME_DIR}/peer-%C",
        "-o", "ControlPersist=60",
        "-T",
    ]  # fmt: skip


def answers(cluster: Cluster, timeout: float = 1.0) -> bool:
    """True when the peer's SSH port accepts a connection over the cluster link, now."""
    try:
        with socket.create_connection((cluster.peer.ip, 22), timeout, (cluster.local.ip, 0)):
            return True
    except OSError:
        return False


def connected(cluster: Cluster) -> bool:
    """True while the shared connection is open; that of a dead peer ends within 3 s."""
    return processes.run([*ssh_command(), "-O", "check", f"{USER}@{cluster.peer.ip}"]).ok


def ssh_to(cluster: Cluster) -> list[str]:
    """The same, with the peer's user and address: a request comes behind it."""
    return [*ssh_command(), "-b", cluster.local.ip, f"{USER}@{cluster.peer.ip}"]


def ask(cluster: Cluster, request: str, payload: Any = None, timeout: float = 30.0) -> Any:
    """Send one request of receive.py's table with a JSON document; return its JSON answer."""
    outcome = processes.run(
        [*ssh_to(cluster), request],
        timeout=timeout,
        given="" if payload is None else json.dumps(payload),
    )
    if not outcome.ok:
        raise PeerError(f"{cluster.peer.hostname}: {outcome.words}")
    return judged(cluster, outcome.out)


def judged(cluster: Cluster, said: str | bytes) -> Any:
    """An answer of the peer's gate; PeerError for what is none, or says no."""
    try:
        answer = json.loads(said)
    except json.JSONDecodeError as error:
        raise PeerError(f"{cluster.peer.hostname} answered what is not JSON: {error}") from error
    if "error" in answer:
        kind = PeerError if answer.get("passing") else RefusedError
        raise kind(f"{cluster.peer.hostname}: {answer['error']}")
    return answer


def send_contents(
    cluster: Cluster, directory: Path, token: str, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Copy by rsync a directory of frozen contents into the stage that the peer has opened."""
    _rsync(cluster, f"{directory}/", f"{USER}@{cluster.peer.ip}:{token}/", cancelled)


def take_contents(
    cluster: Cluster, token: str, directory: Path, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Copy by rsync what the peer has frozen under this token into a directory of this node."""
    _rsync(cluster, f"{USER}@{cluster.peer.ip}:{token}/", f"{directory}/", cancelled)


def _rsync(cluster: Cluster, source: str, target: str, cancelled: Callable[[], bool]) -> None:
    """Every exit code but 0 is a failure, 23 and 24 (partial transfer) included (rsync(1)).

    `cancelled` is asked while it runs.
    """
    outcome = processes.bounded(
        [
            "rsync",
            "--recursive",
            "--whole-file",
            "--sparse",
            f"--timeout={STALLED}",
            f"--rsh={' '.join([*ssh_command(), '-b', cluster.local.ip])}",
            source,
            target,
        ],
        math.inf,
        cancelled,
    )
    if outcome.ok:
        return
    if failed := RSYNC_FAILED.search(outcome.err):
        raise RefusedError(f"{cluster.peer.hostname}: {failed[0]}")
    raise PeerError(f"{cluster.peer.hostname}: rsync: {outcome.words}")
