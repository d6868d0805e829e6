# SPDX-License-Identifier: GPL-3.0-or-later
# A recognisable root password goes through a whole create, and is found nowhere afterwards.
from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from product import NODE_NAMES, ROOT, tool, wait_settled
from zcluster_lab import Lab

pytestmark = pytest.mark.lab

# Made anew for each run: a source that holds it would be found.
CANARY = f"canary-{secrets.token_hex(8)}"


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


def files_with_the_canary(directories: list[Path]) -> list[str]:
    """Names of files that hold it, compressed ones apart."""
    there = [str(d) for d in directories if d.exists()]
    done = subprocess.run(
        ["grep", "-rlaF", "--devices=skip", "--exclude-dir=.git", "--", CANARY, *there],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout.splitlines()


def test_root_password_is_in_no_file_no_process_list_no_log_and_no_artifact(
    bare: Lab, inventory: Path
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
    home = Path.home()
    controller = [
        *(
            home / name
            for name in (".ansible", ".config", ".local/state", ".cache/zcluster", ".ssh")
        ),
        *(Path(name) for name in ("/tmp", "/run/zcluster-runner", "/dev/shm", "/var/log")),
        inventory,
        ROOT / "zcluster_runner",
    ]
    assert files_with_the_canary(controller) == []
    for node in NODE_NAMES:
        script = (
            'grep -rlaF --devices=skip -- "$0" /etc /root /home /opt /srv /usr/lib/zcluster'
            ' /var /run /tmp /dev/shm; journalctl --no-pager -q | grep -cF -- "$0"'
        )
        said = bare.exec(node, "sh", "-c", script, CANARY, check=False, timeout=120)
        assert said.stdout.split() == ["0"], f"{node}: {said.stdout}"
    keys = bare.exec("n1", "cat", "/root/.ssh/authorized_keys").stdout
    assert keys.count("ssh-ed25519") == 1
