# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of ansible-playbook: an allow-list of the caller's, and our own settings.

ansible-runner copies the whole environment and writes it into its artifacts, so what is not needed
is not passed: no token, no password of the caller's shell gets near a file.
"""

from __future__ import annotations

import configparser
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zcluster_runner.errors import DriverError

RUN_ID_VARIABLE = "ZCLUSTER_RUN_ID"
"""Marks the processes of a run, so that an interrupted run can be cleared away completely."""

ALLOWED = frozenset(
    {
        # who and where
        *("HOME", "USER", "SUDO_USER", "LOGNAME", "SHELL", "PATH", "TMPDIR", "TERM", "TZ"),
        *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES"),
        *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"),
        *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
        # the operator's SSH agent, Kerberos ticket
        *("SSH_AUTH_SOCK", "SSH_AGENT_PID", "KRB5CCNAME"),
        # the Python we run in
        *("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"),
        *("PYTHONUNBUFFERED", "PYTHONWARNINGS"),
        # settings of Ansible that are names, paths and switches; those for passwords are not here
        *("ANSIBLE_CONFIG", "ANSIBLE_HOME", "ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP"),
        *("ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_ROLES_PATH", "ANSIBLE_FILTER_PLUGINS"),
        *("ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST"),
        *("ANSIBLE_BECOME_PASSWORD_FILE", "ANSIBLE_CONNECTION_PASSWORD_FILE"),
        *("ANSIBLE_PRIVATE_KEY_FILE", "ANSIBLE_REMOTE_USER", "ANSIBLE_REMOTE_PORT"),
        *("ANSIBLE_SSH_ARGS", "ANSIBLE_SSH_COMMON_ARGS", "ANSIBLE_SSH_EXTRA_ARGS"),
        *("ANSIBLE_SSH_CONTROL_PATH", "ANSIBLE_SSH_CONTROL_PATH_DIR", "ANSIBLE_SSH_EXECUTABLE"),
        *("ANSIBLE_SSH_TIMEOUT", "ANSIBLE_SSH_RETRIES", "ANSIBLE_TIMEOUT", "ANSIBLE_FORKS"),
        "ANSIBLE_PIPELINING",
        *("ANSIBLE_BECOME", "ANSIBLE_BECOME_METHOD", "ANSIBLE_BECOME_USER"),
        *("ANSIBLE_PYTHON_INTERPRETER", "ANSIBLE_INVENTORY_ENABLED", "ANSIBLE_INVENTORY_PLUGINS"),
        *("ANSIBLE_STRATEGY", "ANSIBLE_STRATEGY_PLUGINS", "ANSIBLE_INJECT_FACT_VARS"),
    }
)

FROM_RUNNER = (
    "ANSIBLE_CALLBACK_PLUGINS",
    "ANSIBLE_STDOUT_CALLBACK",
    "ANSIBLE_RETRY_FILES_ENABLED",
    "AWX_ISOLATED_DATA_DIR",
    "RUNNER_OMIT_EVENTS",
    "RUNNER_ONLY_FAILED_EVENTS",
)
"""What ansible-runner itself needs to get events back."""

FORCED = {
    # ansible-runner switches host key checking off unless told; a tool for root must not.
    "ANSIBLE_HOST_KEY_CHECKING": "True",
    # Module arguments must not stay behind on a node.
    "ANSIBLE_KEEP_REMOTE_FILES": "False",
    # It would write task arguments into events and log.
    "ANSIBLE_DISPLAY_ARGS_TO_STDOUT": "False",
    "ANSIBLE_NOCOWS": "1",
    "ANSIBLE_NOCOLOR": "1",
    # An event's result above this size is dropped without a word (default 700000 characters).
    "MAX_EVENT_RES": "50000000",
}


@dataclass(frozen=True)
class Comfort:
    """A setting that makes runs fast; an ansible.cfg or environment of the user's goes first."""

    variable: str
    section: str
    option: str
    value: str


COMFORT = (
    Comfort("ANSIBLE_PIPELINING", "connection", "pipelining", "True"),
    Comfort("ANSIBLE_PIPELINING", "ssh_connection", "pipelining", "True"),
    # An open connection for ten minutes: the next verb answers at once. It must notice that the
    # node is gone, or that verb would wait: 2 s, three times.
    Comfort(
        "ANSIBLE_SSH_ARGS",
        "ssh_connection",
        "ssh_args",
        "-C -o ControlMaster=auto -o ControlPersist=600s "
        "-o ServerAliveInterval=2 -o ServerAliveCountMax=3",
    ),
    # Discovery costs 150 ms and may find a broken shim; Debian has this one.
    Comfort("ANSIBLE_PYTHON_INTERPRETER", "defaults", "interpreter_python", "/usr/bin/python3"),
    # A node that cannot be reached must not hold up the other (default 10 s).
    Comfort("ANSIBLE_TIMEOUT", "defaults", "timeout", "5"),
    # Many clusters, some of them away: those must not hold up the others (default 5).
    Comfort("ANSIBLE_FORKS", "defaults", "forks", "50"),
)


def ansible_config(caller: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the ansible.cfg that Ansible will read (ansible/config/manager.py: the same order)."""
    if named := caller.get("ANSIBLE_CONFIG"):
        path = Path(named).expanduser()
        return path / "ansible.cfg" if path.is_dir() else path
    found: list[Path] = []
    if not cwd.stat().st_mode & 0o002:  # Ansible ignores it in a world-writable directory
        found.append(cwd / "ansible.cfg")
    found += [Path(caller.get("HOME", "~")).expanduser() / ".ansible.cfg"]
    found += [Path("/etc/ansible/ansible.cfg")]
    return next((path for path in found if path.is_file()), None)


def chosen_by_user(caller: Mapping[str, str], cwd: Path) -> set[str]:
    """Return the comfort variables that the user's ansible.cfg or environment already settles."""
    settled = {comfort.variable for comfort in COMFORT if comfort.variable in caller}
    path = ansible_config(caller, cwd)
    if path is None:
        return settled
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return settled  # Ansible will say what is wrong with it
    return settled | {c.variable for c in COMFORT if parser.has_option(c.section, c.option)}


def utf8_locale(caller: Mapping[str, str]) -> dict[str, str]:
    """Return what makes the locale UTF-8, without which ansible-core refuses to start."""
    locale = caller.get("LC_ALL") or caller.get("LC_CTYPE") or caller.get("LANG") or ""
    is_utf8 = locale.lower().replace("-", "").endswith("utf8")
    return {} if is_utf8 else {"LC_ALL": "C.UTF-8"}


def ansible_playbook() -> Path:
    """Return the ansible-playbook that belongs to this very Python, whatever PATH says."""
    places = (Path(sys.executable).parent, Path(sysconfig.get_path("scripts")))
    user_scripts = sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))
    for place in (*places, Path(user_scripts)):
        if os.access(place / "ansible-playbook", os.X_OK):
            return place / "ansible-playbook"
    raise DriverError(
        f"ansible-playbook is missing beside {sys.executable}: "
        "install zcluster again into an environment of its own (python3 -m venv), "
        "ansible-core comes with it"
    )


def build(
    caller: Mapping[str, str], runner: Mapping[str, str], cwd: Path, run_id: str
) -> dict[str, str]:
    """Return the whole environment of a run: nothing else is passed on."""
    environment = {name: value for name, value in caller.items() if name in ALLOWED}
    environment |= utf8_locale(caller)
    settled = chosen_by_user(caller, cwd)
    environment |= {c.variable: c.value for c in COMFORT if c.variable not in settled}
    environment |= {name: runner[name] for name in FROM_RUNNER if name in runner}
    environment |= FORCED
    environment["PWD"] = str(cwd)
    environment[RUN_ID_VARIABLE] = run_id
    own = str(ansible_playbook().parent)
    environment["PATH"] = os.pathsep.join([own, environment.get("PATH", os.defpath)])
    return environment
