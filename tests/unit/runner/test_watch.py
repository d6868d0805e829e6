# SPDX-License-Identifier: GPL-3.0-or-later
"""Watching without Ansible: the same way in, and never an old answer as if it were a new one."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zcluster_runner import nodes, watch
from zcluster_runner.result import ExitCode, Health, NodeStatus, Outcome, Result

SAID: dict[str, Any] = {
    "connection": "ssh",
    "host": "192.0.2.11",
    "port": 2222,
    "user": "admin",
    "key": "/home/admin/.ssh/id_ed25519",
    "executable": "ssh",
    "arguments": [
        "-C -o ControlMaster=auto",
        "-o ConnectTimeout=10 -o ProxyCommand='nc %h %p'",
        "",
    ],
    "timeout": 5,
    "check_host_key": True,
    "become_method": "sudo",
    "password": False,
}

ROW = nodes.reported(
    "lb1",
    {"cluster": "web", "node": "local", "ip": "198.18.30.11", "hostname": "n1"}
    | {"role": "master", "status": "ok", "message": "Node online and active", "sync": "in sync"},
)


def first(**reports: Any) -> Result:
    return Result(
        "nodes", Outcome.SUCCEEDED, ExitCode.GREEN, nodes=(ROW,), reports={"connection": reports}
    )


def test_ssh_gets_what_ansible_would_give_it() -> None:
    command = watch.Connection.of(SAID).command()
    ssh = shutil.which("ssh")
    if ssh is None:
        pytest.skip("no ssh here")
    words = [ssh, "-G", *command[1:-1]]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    meant = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert meant["hostname"] == "192.0.2.11"
    assert meant["user"] == "admin"
    assert meant["port"] == "2222"
    assert meant["identityfile"] == "/home/admin/.ssh/id_ed25519"
    assert meant["connecttimeout"] == "10"  # the user's own goes before a default
    assert meant["proxycommand"] == "nc %h %p"
    assert meant["batchmode"] == "yes"
    assert meant["controlmaster"] == "false"
    assert meant["stricthostkeychecking"] != "false"


@pytest.mark.parametrize(
    "change", [{"password": True}, {"become_method": "su"}, {"connection": "paramiko_ssh"}]
)
def test_what_only_ansible_can_do_is_left_to_ansible(change: dict[str, Any]) -> None:
    assert watch.connections(first(lb1=SAID)) is not None
    assert watch.connections(first(lb1=SAID | change)) is None
    assert watch.connections(first(lb2=SAID)) is None
    with pytest.raises(ValueError, match="only be reached through Ansible"):
        next(watch.follow(first(lb1=SAID | change), 1))


@pytest.mark.parametrize(
    ("line", "health", "message"),
    [
        (json.dumps({"status": "failure", "role": "backup", "message": "m"}), Health.FAILURE, "m"),
        (json.dumps({"status": "never heard"}), Health.UNKNOWN, ""),
        ("none", Health.NOT_CONFIGURED, "Cluster not configured"),
        ("Traceback", Health.FAILURE, "zclustermanager cannot answer: Traceback"),
    ],
)
def test_an_answer_becomes_a_row(line: str, health: Health, message: str) -> None:
    row = watch.answered(ROW, line)
    assert (row.health, row.message) == (health, message)
    assert (row.cluster, row.node, row.ip) == ("web", "local", "198.18.30.11")


def program(tmp_path: Path, script: str) -> watch.Connection:
    """A connection through a program that does as its script says."""
    path = tmp_path / "ssh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return replace(watch.Connection.of(SAID), executable=str(path))


def rows(connection: watch.Connection, wanted: str, row: NodeStatus = ROW) -> list[NodeStatus]:
    """All rows until one has the wanted words."""
    node, found = watch.Followed(row, connection), []
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            node.ask(time.monotonic())
            watch.collect([node], time.monotonic() + 0.05)
            found.append(node.shown(time.monotonic()))
            if wanted in found[-1].message:
                return found
    finally:
        node.close()
        assert node.process is None
    raise AssertionError(f"never: {wanted}; {found[-1]}")


def test_each_line_is_a_fresh_answer(tmp_path: Path) -> None:
    script = """n=0; while read -r l; do n=$((n+1)); echo '{"message": "m'$n'"}'; done"""
    found = rows(program(tmp_path, script), "m3")
    assert {"m1", "m2", "m3"} <= {row.message for row in found}


def test_a_connection_that_ends_is_grey_with_sshs_reason_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "AGAIN", 0.1)
    script = (
        f'if [ -e {tmp_path}/up ]; then while read -r l; do echo \'{{"message":"back"}}\'; done; '
        f"else touch {tmp_path}/up; echo 'ssh: connect to host x: Connection refused' >&2; fi"
    )
    found = rows(program(tmp_path, script), "back")
    assert any(
        row.health is Health.UNREACHABLE and "nothing answers on its SSH port" in row.message
        for row in found
    )


def test_ssh_through_a_program_is_told_with_the_address(tmp_path: Path) -> None:
    script = "echo 'Connection to UNKNOWN port 65535 timed out' >&2"
    row = rows(program(tmp_path, script), "does not answer")[-1]
    assert row.message.endswith(f"Connection to {SAID['host']} timed out")


def test_a_node_that_says_nothing_shows_the_age_then_is_grey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "FRESH", 0.2)
    monkeypatch.setattr(watch, "SILENCE", 5.0)
    script = 'read -r l; echo \'{"status": "ok", "message": "m"}\'; exec sleep 4712'
    found = rows(program(tmp_path, script), "no answer for")
    assert found[-1].health is Health.UNREACHABLE
    assert found[-1].sync == ""
    assert any(row.health is Health.OK and row.message.endswith("s ago)") for row in found)
