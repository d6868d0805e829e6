# SPDX-License-Identifier: GPL-3.0-or-later
"""What docs/other-tools.md says works, as far as it can be tried without a registry and an AWX."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import zcluster_runner

CHECKOUT = Path(__file__).parents[3]
ENVIRONMENT = dict(os.environ)
TEXT = (CHECKOUT / "docs/other-tools.md").read_text(encoding="utf-8")


def block(first_line: str) -> str:
    """Return the example that begins with this line."""
    found = re.search(rf"```yaml\n{re.escape(first_line)}\n(.*?)```", TEXT, re.DOTALL)
    assert found, first_line
    return found[1]


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=ENVIRONMENT,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def beside(program: str) -> Path:
    return Path(sys.executable).with_name(program)


def test_every_playbook_that_is_named_is_there() -> None:
    named = set(re.findall(r"zcluster\.ha\.(\w+)", TEXT))
    assert "nodes" in named
    assert all((CHECKOUT / f"playbooks/{name}.yml").is_file() for name in named)
    templates: list[dict[str, Any]] = yaml.safe_load(block("# job templates"))
    for template in templates:
        playbook = template["awx.awx.job_template"]["playbook"]
        assert (CHECKOUT / "playbooks" / playbook).is_file()


def test_the_python_examples_use_what_there_is() -> None:
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        compile(example, "docs/other-tools.md", "exec")
    used = set(re.findall(r"zcluster_runner\.(\w+)\(", TEXT)) | {"EventKind", "Outcome"}
    assert used <= set(zcluster_runner.__all__)


def test_a_job_of_the_template_runs_as_awx_runs_it(tmp_path: Path) -> None:
    """AWX starts a job with ansible-runner: a project with the playbook, an inventory, a limit."""
    (template,) = (
        t["awx.awx.job_template"]
        for t in yaml.safe_load(block("# job templates"))
        if t["awx.awx.job_template"]["playbook"] == "nodes.yml"
    )
    assert template["ask_limit_on_launch"]
    line = re.search(r"the line `(- import_playbook: zcluster\.ha\.nodes)`", TEXT)
    assert line
    for name, content in (
        ("project/nodes.yml", f"{line[1]}\n"),
        ("inventory/hosts.yml", HOSTS),
        ("env/envvars", '{"ANSIBLE_HOST_KEY_CHECKING": "True"}\n'),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    job = ("run", tmp_path, "--playbook", template["playbook"], "--limit", "lb1", "--ident", "7")
    run(beside("ansible-runner"), *job, cwd=tmp_path)
    events = [json.loads(p.read_text()) for p in tmp_path.glob("artifacts/7/job_events/*.json")]
    told = {
        event["event_data"]["host"]: event["event_data"]["res"]["node"]
        for event in events
        if event["event"] == "runner_on_ok" and event["event_data"]["task"] == "Report | node"
    }
    assert set(told) == {"lb1"}
    assert told["lb1"]["status"]


HOSTS = """\
all:
  vars:
    zcluster_name: web
    ansible_connection: local
    ansible_become: false
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  hosts:
    lb1:
    lb2:
"""


@pytest.mark.slow
def test_ansible_builder_makes_a_context_and_finds_what_the_collection_needs(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ansible_builder")
    source = tmp_path / "source"
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=CHECKOUT)
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, source / name)
    run(beside("ansible-galaxy"), "collection", "build", source, cwd=tmp_path)
    (built,) = tmp_path.glob("zcluster-ha-*.tar.gz")
    built = built.rename(tmp_path / "zcluster-ha.tar.gz")
    (tmp_path / "execution-environment.yml").write_text(block("# execution-environment.yml"))
    run(beside("ansible-builder"), "create", cwd=tmp_path)
    assert "FROM $EE_BASE_IMAGE" in (tmp_path / "context/Containerfile").read_text()
    assert "zcluster-ha.tar.gz" in (tmp_path / "context/_build/requirements.yml").read_text()
    # --force: the one of this checkout counts as installed already
    install = (
        "collection",
        "install",
        "--force",
        "--offline",
        "--collections-path",
        tmp_path / "c",
        built,
    )
    run(beside("ansible-galaxy"), *install, cwd=tmp_path)
    said = run(beside("ansible-builder"), "introspect", tmp_path / "c", cwd=tmp_path)
    assert "openssh-client" in said
