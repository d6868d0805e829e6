# SPDX-License-Identifier: GPL-3.0-or-later
# A recognisable root password goes through a whole create, and is found nowhere afterwards.
from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from product import NODE_NAMES, ROOT, tool, wait_settled
from zcluster_lab import Lab

pytestmark = pytest.mark.lab

# Made anew for each run: a source that holds it would be found.
CANARY = f"canary-{secrets.token_hex(8)}"
BEGAN = int(time.time())


@contextlib.contextmanager
def watched_processes() -> Iterator[list[str]]:
    """Samples command lines and environments of every process here, the nodes' own included."""
    found: list[str] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        if CANARY.encode() in (process / name).read_bytes():
                            found.append(f"{name} of {(process / 'comm').read_text().strip()}")

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def files_with_the_canary(lab: Lab) -> list[str]:
    """Names of all files of this machine that hold it: only what was written since it is there can.

    (The nodes' disks are looked through from inside.)
    """
    tops = [top for top in Path("/").iterdir() if top.name not in ("proc", "sys", "dev")]
    written = subprocess.run(
        [
            *("find", *tops, "/dev/shm", "-path", lab.settings.base_dir, "-prune", "-o"),
            *("-type", "f", "-newerct", f"@{BEGAN}", "-print0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    done = subprocess.run(
        ["xargs", "--null", "--no-run-if-empty", "grep", "-slaF", "--", CANARY],
        input=written.stdout,
        stdout=subprocess.PIPE,
        timeout=300,
        check=False,
    )
    return done.stdout.decode().splitlines()


def journal_of_this_machine() -> str:
    """What it says since the password is there; nothing where there is none."""
    if not shutil.which("journalctl"):
        return ""
    words = ["journalctl", "--quiet", "--no-pager", "--all", f"--since=@{BEGAN}"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_root_password_is_in_no_file_no_process_list_no_log_and_no_artifact(
    bare: Lab, inventory: Path, tmp_path: Path
) -> None:
    for node in NODE_NAMES:
        bare.exec(node, "chpasswd", stdin=f"root:{CANARY}\n")
    with (
        tempfile.TemporaryDirectory(prefix="zcs") as sockets,
        watched_processes() as found,
    ):
        done = subprocess.run(
            [tool("zcluster"), "-i", str(inventory), "create", "--password-stdin", "--yes", "-v"],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets},
            input=f"{CANARY}\n",
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    wait_settled(bare)
    assert found == []
    assert CANARY not in done.stdout + done.stderr
    # One that holds it is found, wherever it lies; there is no other.
    control = tmp_path / "control"
    control.write_text(CANARY, encoding="utf-8")
    assert files_with_the_canary(bare) == [str(control)]
    assert CANARY not in journal_of_this_machine()
    for node in NODE_NAMES:
        script = (
            'grep -rlaF --devices=skip -- "$0" /etc /root /home /opt /srv /usr/lib/zcluster'
            ' /var /run /tmp /dev/shm; journalctl --no-pager -q | grep -cF -- "$0"'
        )
        said = bare.exec(node, "sh", "-c", script, CANARY, check=False, timeout=120)
        assert said.stdout.split() == ["0"], f"{node}: {said.stdout}"
    keys = bare.exec("n1", "cat", "/root/.ssh/authorized_keys").stdout
    assert keys.count("ssh-ed25519") == 1
