# SPDX-License-Identifier: GPL-3.0-or-later
"""``nodes --watch``: one open SSH connection per node, asked again and again; no Ansible meanwhile.

Ansible runs once: it asks the nodes the first time, and resolves how each is reached (inventory,
ansible.cfg, environment, templates: the report ``connection`` of playbooks/nodes.yml). The same
ssh, with the same arguments, key and host key checking, then starts ``zclustermanager status
--each-line`` on the node, which probes the node anew for each line it is sent.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

from zcluster_runner import nodes
from zcluster_runner.environment import ALLOWED
from zcluster_runner.events import connection_words
from zcluster_runner.result import Health, NodeStatus, Result, worst

MANAGER = "/usr/sbin/zclustermanager"

REMOTE = (
    f"if [ ! -x {MANAGER} ]; then while read -r line; do echo none; done; "
    f'elif [ "$(id -u)" = 0 ]; then exec {MANAGER} status --each-line; '
    f"else exec sudo -n {MANAGER} status --each-line; fi"
)

SILENCE = 8.0
"""Seconds without an answer after which a node counts as unreachable: its own probes of a peer that
is away take up to six."""

FIRST = 30.0
"""The same, for a connection's first answer: a way in through other machines, a busy node; ssh
itself gives up earlier where nobody is."""

FRESH = 2.0
"""Seconds up to which an answer counts as of now; an older one is shown with its age."""

AGAIN = 2.0
"""Seconds until a connection that ended is tried again."""


@dataclass(frozen=True)
class Connection:
    """How Ansible would reach a host."""

    kind: str
    host: str
    port: str
    user: str
    key: str
    executable: str
    arguments: tuple[str, ...]
    timeout: int
    check_host_key: bool
    become_method: str
    password: bool
    """A password is needed; only Ansible hands those over."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Connection:
        """Read what the playbook reported."""
        return cls(
            kind=str(said["connection"]).rpartition(".")[2],
            host=str(said["host"]),
            port=str(said["port"] or ""),
            user=str(said["user"] or ""),
            key=str(said["key"] or ""),
            executable=str(said["executable"]),
            arguments=tuple(str(part) for part in said["arguments"] if part),
            timeout=int(said["timeout"]),
            check_host_key=bool(said["check_host_key"]),
            become_method=str(said["become_method"]).rpartition(".")[2],
            password=bool(said["password"]),
        )

    @property
    def followable(self) -> bool:
        """Whether it can be kept open without Ansible."""
        return self.kind in ("ssh", "local") and self.become_method == "sudo" and not self.password

    def command(self) -> list[str]:
        """Return the command whose input and output are the node's zclustermanager."""
        if self.kind == "local":
            return ["sh", "-c", REMOTE]
        # ssh takes the first value it gets: ours, then the user's, then what is only a default.
        words = [self.executable, "-T", "-o", "BatchMode=yes"]
        # a connection of its own: one that Ansible left open may be stale
        words += ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
        for part in self.arguments:
            words += shlex.split(part)
        if not self.check_host_key:
            words += ["-o", "StrictHostKeyChecking=no"]
        words += ["-o", f"ConnectTimeout={self.timeout}"]
        words += ["-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=3"]
        words += ["-o", f"Port={self.port}"] if self.port else []
        words += ["-o", f"User={self.user}"] if self.user else []
        words += ["-o", f"IdentityFile={self.key}"] if self.key else []
        return [*words, self.host, REMOTE]


class Followed:
    """One node: its open connection, its last row."""

    def __init__(self, row: NodeStatus, connection: Connection) -> None:
        """Begin with the row that Ansible brought."""
        self.row = row
        self.known = row
        self.process: subprocess.Popen[bytes] | None = None
        self._connection = connection
        self._errors: IO[bytes] | None = None
        self._asked = 0.0
        self._ended = -AGAIN
        self._waiting = False
        self._patience = FIRST
        self._data = b""

    def ask(self, now: float) -> None:
        """Ask for another answer, unless one is on its way; connect if there is no connection."""
        if self.process is None:
            if now - self._ended < AGAIN:
                return
            self._connect()
        if self._waiting or self.process is None or self.process.stdin is None:
            return
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except OSError:
            return  # it has ended; its output says so, too
        self._waiting, self._asked = True, now

    def _connect(self) -> None:
        allowed = {name: value for name, value in os.environ.items() if name in ALLOWED}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (read and closed when it has ended)
        self._data, self._waiting, self._patience = b"", False, FIRST
        self.process = subprocess.Popen(
            self._connection.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=allowed,
            start_new_session=True,  # Ctrl-C is for the driver, which then ends it in order
        )

    def read(self) -> bool:
        """Take what has come; true if the row is a new one."""
        if self.process is None or self.process.stdout is None:
            return False
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        if not chunk:
            return self.end(self._why())
        self._data += chunk
        *lines, self._data = self._data.split(b"\n")
        for line in lines:
            self._waiting, self._patience = False, SILENCE
            self.row = self.known = answered(self.known, line.decode("utf-8", "replace"))
        return bool(lines)

    def _why(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace")
        return connection_words(self.known.host, said, lambda _: self._connection.host)

    def shown(self, now: float) -> NodeStatus:
        """Return the row, with its age if its successor is long in coming."""
        age = now - self._asked
        if not self._waiting or age < FRESH:
            return self.row
        return replace(self.row, message=f"{self.row.message} ({age:.0f} s ago)")

    def late(self, now: float) -> bool:
        """Give up a connection that says nothing; true if the row is a new one."""
        if not self._waiting or now - self._asked < self._patience:
            return False
        return self.end(f"no answer for {now - self._asked:.0f} s")

    def end(self, why: str) -> bool:
        """Close the connection; the node is grey."""
        self.close()
        self._ended = time.monotonic()
        self.row = lost(self.known, why)
        return True

    def close(self) -> None:
        """Leave no process behind, neither here nor, as its input ends, on the node."""
        if self.process is not None:
            for stream in (self.process.stdin, self.process.stdout, self._errors):
                try:
                    if stream is not None:
                        stream.close()
                except OSError:
                    continue
            self.process.terminate()
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process, self._waiting = None, False


def answered(known: NodeStatus, line: str) -> NodeStatus:
    """Return the row for a line of a node's answer."""
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if isinstance(said, dict):
        row = nodes.reported(known.host, said)
        # what only the inventory knows (a node in no cluster)
        return replace(
            row,
            cluster=row.cluster or known.cluster,
            node=known.node or row.node,
            ip=row.ip or known.ip,
        )
    if line == "none":
        return lost(known, "", Health.NOT_CONFIGURED, "Cluster not configured")
    return lost(known, "", Health.FAILURE, f"zclustermanager cannot answer: {line}")


def lost(
    known: NodeStatus, why: str, health: Health = Health.UNREACHABLE, message: str = ""
) -> NodeStatus:
    """Return the row of a node that did not answer: what is not probed is not shown."""
    text = message or ": ".join(filter(None, [nodes.NODE_UNREACHABLE, nodes.first_line(why)]))
    role = "fault" if health is Health.FAILURE else health.word
    return replace(
        known, health=health, status=health.word, role=role, sync="", message=text, details={}
    )


def connections(first: Result) -> dict[str, Connection] | None:
    """Return the hosts' connections; None if one of them can only be had through Ansible."""
    found = {host: Connection.of(said) for host, said in first.report("connection").items()}
    complete = all(node.host in found for node in first.nodes)
    return found if complete and all(c.followable for c in found.values()) else None


def follow(
    first: Result,
    every: float,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Result]:
    """Yield a result whenever a row is new, beginning with ``first``; ``every`` is in seconds.

    Raises ValueError if a host can only be reached by Ansible itself (``connections``).
    """
    by_host = connections(first)
    if by_host is None:
        raise ValueError("a host of this inventory can only be reached through Ansible")
    followed = [Followed(row, by_host[row.host]) for row in first.nodes]
    yield first
    try:
        while not stop():
            began = time.monotonic()
            for node in followed:
                node.ask(began)
            collect(followed, began + every)
            rows = tuple(node.shown(time.monotonic()) for node in followed)
            code = worst([row.health.exit_code for row in rows])
            yield replace(first, nodes=rows, exit_code=code, unreachable={}, failures=())
    finally:
        for node in followed:
            node.close()


def collect(followed: list[Followed], until: float) -> None:
    """Take answers until the time has come to ask again."""
    while (left := until - time.monotonic()) > 0:
        with selectors.DefaultSelector() as ready:
            for node in followed:
                if node.process is not None and node.process.stdout is not None:
                    ready.register(node.process.stdout, selectors.EVENT_READ, node)
            for key, _ in ready.select(min(left, 0.25)):
                key.data.read()
        now = time.monotonic()
        for node in followed:
            node.late(now)
