# SPDX-License-Identifier: GPL-3.0-or-later
"""Only what is needed gets into the environment of a run; settings of the user's are respected."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zcluster_runner import environment
from zcluster_runner.errors import DriverError


def build(caller: dict[str, str], cwd: Path | None = None) -> dict[str, str]:
    return environment.build(caller, {}, cwd or Path.cwd(), "run-1")


def test_tokens_of_the_callers_shell_are_not_passed_on() -> None:
    made = build({"HOME": "/root", "API_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "s"})
    assert made["HOME"] == "/root"
    assert not {"API_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(made)


@pytest.mark.parametrize(
    "name",
    ["ANSIBLE_BECOME_PASS", "ANSIBLE_PRIVATE_KEY_PASSPHRASE", "ANSIBLE_STDOUT_CALLBACK", "JOB_ID"],
)
def test_settings_that_hold_secrets_or_disturb_are_not_passed_on(name: str) -> None:
    assert build({name: "x"}).get(name) != "x"


def test_host_keys_are_checked_whatever_the_caller_says() -> None:
    made = build({"ANSIBLE_HOST_KEY_CHECKING": "False"})
    assert made["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert made["ANSIBLE_KEEP_REMOTE_FILES"] == "False"


def test_runs_are_fast_by_default() -> None:
    made = build({})
    assert made["ANSIBLE_PIPELINING"] == "True"
    assert "ControlPersist" in made["ANSIBLE_SSH_ARGS"]
    assert made["ANSIBLE_PYTHON_INTERPRETER"] == "/usr/bin/python3"


def test_the_users_ansible_cfg_goes_before_our_comfort(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[ssh_connection]\nssh_args = -J bastion\n")
    made = build({}, tmp_path)
    assert "ANSIBLE_SSH_ARGS" not in made
    assert made["ANSIBLE_PIPELINING"] == "True"


@pytest.mark.parametrize("name", sorted({comfort.variable for comfort in environment.COMFORT}))
def test_the_users_environment_goes_before_our_comfort(name: str) -> None:
    assert build({name: "7"})[name] == "7"


def test_an_ansible_cfg_anybody_can_write_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults]\ntimeout = 3\n")
    tmp_path.chmod(0o777)
    assert environment.ansible_config({"HOME": "/nowhere"}, tmp_path) != tmp_path / "ansible.cfg"


def test_a_broken_ansible_cfg_is_left_to_ansible(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("this is no configuration\n")
    assert build({}, tmp_path)["ANSIBLE_PIPELINING"] == "True"


@pytest.mark.parametrize(
    ("caller", "expected"),
    [({}, "C.UTF-8"), ({"LANG": "C"}, "C.UTF-8"), ({"LANG": "de_DE.UTF-8"}, None)],
)
def test_the_locale_is_utf8(caller: dict[str, str], expected: str | None) -> None:
    assert build(caller).get("LC_ALL") == expected


def test_ansible_is_the_one_of_this_python() -> None:
    assert environment.ansible_playbook().parent == Path(sys.executable).parent
    assert build({"PATH": "/usr/bin"})["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_a_missing_ansible_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(DriverError, match="ansible-playbook is missing"):
        environment.ansible_playbook()


def test_the_working_directory_is_told_truly(tmp_path: Path) -> None:
    assert build({"PWD": "/elsewhere"}, tmp_path)["PWD"] == str(tmp_path)
