# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs the driver does by itself: an inventory to fill in, and completion in three shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zcluster_runner
from zcluster_runner import InventoryError, UsageError, cli, inventory
from zcluster_runner.inventory import written

TWO_CLUSTERS = """\
all:
  children:
    one:
      vars: {zcluster_name: web, secret: !vault abc}
      hosts: {lb1: , lb2: {zcluster_ip: 198.18.30.12}}
    two:
      vars: {zcluster_name: db}
      hosts: {sql1: , sql2: }
"""


def test_init_writes_an_inventory_that_ansible_reads(home: Path) -> None:
    result = zcluster_runner.run("init", name="my-web")
    directory = home / "work/inventories/my-web"
    assert result.written == directory
    read = inventory.read((directory,), os.environ, Path.cwd())
    assert read.clusters == ("my-web",)
    assert len(read.hosts) == 2
    text = (directory / "hosts.yml").read_text()
    assert "zcluster_failback" in text
    assert "inventories/web" not in text


def test_init_overwrites_nothing(home: Path) -> None:
    place = home / "work/mine"
    place.mkdir()
    (place / "hosts.yml").write_text("all: {}\n")
    with pytest.raises(InventoryError, match="exists already"):
        zcluster_runner.run("init", name="web", inventory="mine")
    assert (place / "hosts.yml").read_text() == "all: {}\n"


@pytest.mark.parametrize("name", [None, "2web", "a/b", "web\nall:"])
def test_init_needs_a_sound_name(name: str | None) -> None:
    with pytest.raises(UsageError, match="NAME"):
        zcluster_runner.run("init", name=name)


def offered(*words: str, shell: str = "bash") -> list[str]:
    """What the command answers when a shell asks it to complete these words."""
    asked = {
        "_ZCLUSTER_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(["zcluster", *words]),
        "COMP_CWORD": str(len(words)) if shell != "fish" else words[-1],
    }
    done = subprocess.run(
        [sys.executable, "-m", "zcluster_runner"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.rpartition(",")[2] for line in done.stdout.split("\n") if line]


@pytest.fixture
def two_clusters(home: Path) -> Path:
    path = home / "work/inventories/all"
    path.mkdir(parents=True)
    (path / "hosts.yml").write_text(TWO_CLUSTERS)
    return path


def test_verbs_options_hosts_and_clusters_are_completed(two_clusters: Path) -> None:
    assert offered("no") == ["nodes"]
    assert offered("lab", "") == ["up", "down", "status"]
    assert "--check-interval" in offered("create", "--ch")
    assert offered("status", "") == ["lb1", "lb2", "sql1", "sql2"]
    assert offered("nodes", "--limit", "sql") == ["sql1", "sql2"]
    assert offered("nodes", "--cluster", "") == ["web", "db"]
    assert offered("-i", "") == ["inventories/all"]
    assert offered("nodes", "--output", "j") == ["json"]
    assert offered("completion", "z") == ["zsh"]


def test_completion_is_silent_where_there_is_nothing_to_offer(home: Path) -> None:
    assert offered("status", "") == []
    assert offered("-i", "nowhere", "status", "") == []


def test_what_another_file_says_is_left_to_ansible(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(TWO_CLUSTERS)
    found = written(tmp_path)
    assert found is not None
    assert found.clusters == ("web", "db")
    path.write_text("all: {hosts: {lb1: , lb2: }}\n")  # the cluster's name is in group_vars
    assert written(tmp_path) is None
    path.write_text("plugin: constructed\n")
    assert written(tmp_path) is None
    path.write_text("all: [\n")
    assert written(tmp_path) is None
    path.write_text(TWO_CLUSTERS)
    (tmp_path / "group_vars").mkdir()
    assert written(tmp_path) is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_the_shells_own(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["completion", shell])
    assert ended.value.code == 0
    script = capfd.readouterr().out
    assert f"_ZCLUSTER_COMPLETE={shell}_complete" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_bash_completes_a_line_with_it(two_clusters: Path, tmp_path: Path) -> None:
    program = tmp_path / "zcluster"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zcluster_runner "$@"\n')
    program.chmod(0o755)
    line = (
        'eval "$(zcluster completion bash)"; COMP_WORDS=(zcluster status s); COMP_CWORD=2; '
        '_zcluster_completion zcluster; echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = ["bash", "--norc", "-c", line]
    done = subprocess.run(
        words, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "sql1 sql2\n"


def test_a_fault_of_the_driver_is_grey_and_one_object(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*words: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(cli, "invoked", broken)
    for words in (["nodes", "-o", "json"], ["nodes"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 3
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert {"verb", "result", "exit_code", "changes", "nodes", "errors"} <= set(said)
    assert "out of order" in said["errors"][0]["message"]
    assert "out of order" in err
    assert "Traceback" not in err
