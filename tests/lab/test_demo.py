# SPDX-License-Identifier: GPL-3.0-or-later
# The front door: the demonstration runs as it is, keeps its promises, and what it names goes on.
from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from product import LAB_NAME, LAB_VARS, ROOT, run_tool
from zcluster_lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.matrix]


@pytest.mark.skipif(
    bool(LAB_VARS) or LAB_NAME != "zcluster-lab", reason="the demonstration is of the usual lab"
)
def test_the_demonstration_keeps_its_promises_and_says_what_to_type_next(lab: Lab) -> None:
    programs = Path(sys.executable).parent
    done = subprocess.run(
        ["demo/run"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    _, green, cut, noticed, back = re.split(
        r"== (?:The nodes|The power|What the|n1 comes)", done.stdout
    )
    for table, words in (
        (green, ("Node online and active", "Node online and passive")),
        (cut, ("Node unreachable", "n1 is unreachable")),
        (back, ("Node online and active", "Node online and passive")),
    ):
        assert all(found in table for found in words), table
    assert "200 of 200, 0 reset" in noticed
    _, _, last = back.partition("What to type next:\n")
    named = [re.split(r" {2,}", line.strip())[0] for line in last.splitlines()]
    assert "make demo-down" in named
    for command in named:
        if command.endswith((" show", " lab status")):
            verb = shlex.split(command.partition("zcluster ")[2])
            run = run_tool("zcluster", *verb)
            assert run.returncode == 0, run.output
    assert lab.is_up()
