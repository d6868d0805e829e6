# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python API: quick to import, typed, silent, the same table as the command."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import zcluster_runner
from zcluster_runner import Event, EventKind, Outcome, Secret, UsageError, api, execution
from zcluster_runner.nodes import reported
from zcluster_runner.result import ExitCode, Failure, Result

Put = Callable[[str, str], None]

REPORT = "    - name: Report | settings\n      ansible.builtin.debug: {msg: {}}\n"


def test_it_imports_nothing_slow() -> None:
    """What takes longer than a tenth of a second to import is loaded only when it is needed (the
    time itself: bench/driver/run.py import).
    """
    slow = {"ansible", "ansible_runner", "click", "jinja2", "netaddr", "pexpect", "rich", "yaml"}
    code = (
        f"import sys, zcluster_runner; print(sorted({slow} & set(sys.modules)), len(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found, _, number = done.stdout.rpartition(" ")
    assert found == "[]"
    assert int(number) < 250


def test_a_run_is_silent_and_tells_by_events(
    collection: Put, inventory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    collection("show", '    - name: Look\n      ansible.builtin.command: "true"\n' + REPORT)
    events: list[Event] = []
    result = zcluster_runner.run("show", inventory=inventory, on_event=events.append)
    assert capfd.readouterr() == ("", "")
    assert result.outcome is Outcome.SUCCEEDED
    assert EventKind.CHANGED in {event.kind for event in events}
    assert result.inventory == (str(inventory),)


def test_a_started_run_is_an_iterator_over_typed_events_and_then_has_its_result(
    collection: Put, inventory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    collection("show", '    - name: Look\n      ansible.builtin.command: "true"\n' + REPORT)
    running = zcluster_runner.start("show", inventory=inventory)
    events = list(running)
    assert all(isinstance(event, Event) for event in events)
    assert {e.host for e in events if e.kind is EventKind.CHANGED} == {"lb1", "lb2"}
    assert running.done
    assert running.result.outcome is Outcome.SUCCEEDED
    assert list(running) == []
    assert capfd.readouterr() == ("", "")


def test_events_of_a_started_run_come_while_it_runs(collection: Put, inventory: Path) -> None:
    collection("show", "    - name: Wait\n      ansible.builtin.command: sleep 4713\n")
    with zcluster_runner.start("show", inventory=inventory) as running:
        step = next(event for event in running if event.kind is EventKind.STEP)
        assert (step.text, running.done) == ("Wait", False)
    # a block that is left early leaves nothing running
    assert running.done
    assert running.result.outcome is Outcome.CANCELED


def test_errors_of_a_started_run_come_out(inventory: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'nodes'"):
        zcluster_runner.start("nods", inventory=inventory)
    running = zcluster_runner.start("nodes", inventory="nowhere")
    assert list(running) == []
    with pytest.raises(UsageError, match="nowhere"):
        _ = running.result


def test_a_result_cannot_be_changed(collection: Put, inventory: Path) -> None:
    collection("show", REPORT)
    result = zcluster_runner.run("show", inventory=str(inventory))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.verb = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("verb", "params", "message"),
    [
        ("nods", {}, "did you mean 'nodes'"),
        ("nodes", {"colour": "red"}, "nodes has no parameter 'colour'; it has: watch"),
        ("create", {"vrid": 256}, "--vrid: 256 is not possible; allowed: 1 to 255"),
        ("create", {"check_interval": "often"}, "allowed: 0.01 to 40.95"),
        ("lab_up", {"debian": "11"}, "--debian: '11' is not possible; allowed: 12, 13"),
        ("nodes", {"password": "x"}, "nodes takes no password"),
    ],
)
def test_a_wrong_call_is_a_usage_error(verb: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        zcluster_runner.run(verb, **params)  # type: ignore[arg-type]
    assert message in str(caught.value)


DOOR = """\
    - name: Report | needs_password
      ansible.builtin.debug:
        msg: "{{ inventory_hostname }}"
      when: zcluster_root_password is not defined
    - name: Stop
      ansible.builtin.fail: {msg: closed}
      when: zcluster_root_password is not defined
"""


def test_create_asks_once_and_only_if_it_must(collection: Put, inventory: Path) -> None:
    collection("create", DOOR)
    asked: list[tuple[str, ...]] = []

    def ask(hosts: object) -> Secret:
        asked.append(tuple(hosts))  # type: ignore[arg-type]
        return Secret("open sesame")

    result = zcluster_runner.run("create", inventory=inventory, ask_password=ask)
    assert result.succeeded
    assert asked == [("lb1", "lb2")]
    result = zcluster_runner.run("create", inventory=inventory, password="x1", ask_password=ask)
    assert result.succeeded
    assert len(asked) == 1
    refused = zcluster_runner.run("create", inventory=inventory, ask_password=lambda _: None)
    assert refused.outcome is Outcome.FAILED
    assert refused.report("needs_password") == {"lb1": "lb1", "lb2": "lb2"}


def test_replace_backup_reaches_the_playbook_as_a_boolean(collection: Put, inventory: Path) -> None:
    collection(
        "create",
        "    - name: Report | yes\n      ansible.builtin.debug:\n"
        "        msg: '{{ zcluster_replace_backup }}'\n",
    )
    result = zcluster_runner.run("create", inventory=inventory, replace_backup=True)
    assert result.report("yes") == {"lb1": True, "lb2": True}


def test_interfaces_of_a_host_that_no_inventory_knows(collection: Put) -> None:
    collection(
        "interfaces",
        "    - name: Report | interfaces\n      ansible.builtin.debug:\n"
        "        msg: ['{{ inventory_hostname }} as {{ ansible_user }}']\n",
    )
    result = zcluster_runner.run("interfaces", host="192.0.2.1", user="admin")
    assert result.report("interfaces") == {"192.0.2.1": ["192.0.2.1 as admin"]}
    # Nothing said, no cluster known: this machine.
    here = socket.gethostname().partition(".")[0]
    for result in (
        zcluster_runner.run("interfaces"),
        zcluster_runner.run("interfaces", host="localhost"),
    ):
        assert result.report("interfaces") == {here: [f"{here} as root"]}


HOSTS = """\
all:
  children:
    web:
      vars: {zcluster_name: web}
      hosts: {lb1: , lb2: , "2001:db8::1": }
    db:
      vars: {zcluster_name: db}
      hosts: {db-1: , db-2: }
"""


@pytest.mark.parametrize(
    ("limit", "host", "nodes", "meant"),
    [
        (None, "", (), {"lb1", "lb2", "2001:db8::1", "db-1", "db-2"}),
        (None, "", ("lb1", "lb2"), {"lb1", "lb2"}),
        (None, "lb1", (), {"lb1"}),
        (None, "lb1", ("lb1", "lb2"), {"lb1"}),
        (None, "lb1", ("db-1", "db-2"), set()),
        (None, "2001:db8::1", ("lb1", "2001:db8::1"), {"2001:db8::1"}),
        ("lb2", "", ("lb1", "lb2"), {"lb2"}),
        ("lb1,lb2", "", ("lb2", "db-1"), {"lb2"}),
        ("lb1:lb2:db-1", "", ("lb2", "2001:db8::1", "db-1"), {"lb2", "db-1"}),
        ("lb*:!lb1", "", ("lb1", "lb2"), {"lb2"}),
        ("web", "", ("db-1", "db-2"), set()),
        ("web:&lb*", "lb2", ("lb1", "lb2"), {"lb2"}),
        ("!lb1", "", ("lb1", "lb2"), {"lb2"}),
        ("web[0:1]", "lb2", (), {"lb2"}),
        ("db-1,db-2", "lb1", ("lb1", "lb2"), set()),
    ],
)
def test_limit_host_and_cluster_together_mean_what_all_of_them_mean(
    home: Path, limit: str | None, host: str, nodes: tuple[str, ...], meant: set[str]
) -> None:
    """Ansible itself says what the pattern means: one wrong host is the wrong machine changed."""
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader

    (home / "hosts.yml").write_text(HOSTS)
    known = InventoryManager(loader=DataLoader(), sources=[str(home / "hosts.yml")])
    known.subset(api.narrowed(limit, host, nodes))
    assert {str(found) for found in known.list_hosts("all")} == meant


def test_a_limit_over_several_clusters_is_a_run_for_each_of_them(home: Path) -> None:
    (home / "hosts.yml").write_text(HOSTS)
    target = api.Target((home / "hosts.yml",))
    found = api.one_by_one(api.action_for("create"), target, {}, "lb1:db-2")
    assert [one.hosts for one in found] == [("lb1", "lb2", "2001:db8::1"), ("db-1", "db-2")]
    (one,) = api.one_by_one(api.action_for("create"), target, {}, "db*")
    assert one.hosts == ("db-1", "db-2")
    with pytest.raises(UsageError, match="--limit means several clusters, name one"):
        api.one_by_one(api.action_for("unset"), target, {}, "lb1:db-2")


def test_interfaces_of_one_cluster(home: Path) -> None:
    (home / "hosts.yml").write_text(HOSTS)
    with ExitStack() as stack:
        given = str(home / "hosts.yml")
        target = api.target_for(api.action_for("interfaces"), {}, given, "db", False, stack)
    assert target.hosts == ("db-1", "db-2")


def looked(outcome: Outcome, *statuses: str, **more: Any) -> Result:
    rows = tuple(reported(f"lb{n}", {"status": s}) for n, s in enumerate(statuses, start=1))
    return Result("nodes", outcome, ExitCode.GREY, nodes=rows, **more)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (looked(Outcome.SUCCEEDED, "ok", "ok"), 0),
        # Ansible was killed: nobody knows who else there was to ask
        (looked(Outcome.FAILED, "ok"), 3),
        (looked(Outcome.FAILED, "ok", failures=(Failure("", "nodes", "ended with -9"),)), 3),
        (looked(Outcome.FAILED, "failure"), 2),
        # the status of a host is its own, whatever became of another
        (looked(Outcome.FAILED, "ok", unreachable={"lb2": "no way"}), 0),
        (looked(Outcome.FAILED, "ok", failures=(Failure("lb2", "Ask the node", "no"),)), 0),
    ],
)
def test_a_look_that_did_not_go_through_is_not_green(result: Result, code: int) -> None:
    assert api.exit_code(api.action_for("nodes"), result) == code


TWO = """\
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  children:
    one: {vars: {zcluster_name: web}, hosts: {lb1: }}
    two: {vars: {zcluster_name: db}, hosts: {sql1: }}
"""


def test_a_stop_in_the_last_moment_of_a_cluster_spares_the_next(
    collection: Put, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ansible had ended well when the wish was noticed: what it did is told, no other cluster's
    turn comes.
    """
    (home / "two.yml").write_text(TWO)
    collection("create", "    - name: Work\n      ansible.builtin.command: 'true'\n")
    real = execution.execute

    def stopped_too_late(*args: Any, **more: Any) -> execution.Run:
        return dataclasses.replace(real(*args, **more), stopped=True)

    monkeypatch.setattr(execution, "execute", stopped_too_late)
    result = zcluster_runner.run("create", inventory=home / "two.yml")
    assert result.outcome is Outcome.CANCELED
    assert {change.host for change in result.changes} == {"lb1"}
    assert result.exit_code == 3


PASSWORDS = """\
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    ansible_become: false
    zcluster_name: web
  hosts:
    without:
    ssh: {ansible_ssh_password: x}
    become: {ansible_become_pass: x}
    sudo: {ansible_sudo_pass: x}
"""


def test_a_password_by_any_of_its_names_is_left_to_ansible(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--watch`` follows a node without Ansible, which alone hands passwords over."""
    (home / "hosts.yml").write_text(PASSWORDS)

    def needed() -> dict[str, bool]:
        result = zcluster_runner.run("nodes", inventory=home / "hosts.yml", watch=1.0)
        return {host: said["password"] for host, said in result.report("connection").items()}

    assert needed() == {"without": False, "ssh": True, "become": True, "sudo": True}
    (home / "word").write_text("x")
    monkeypatch.setenv("ANSIBLE_BECOME_PASSWORD_FILE", str(home / "word"))
    assert needed()["without"] is True
