# SPDX-License-Identifier: GPL-3.0-or-later
"""The command as a person or a script uses it; playbooks of the collection replaced by toys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from zcluster_runner import api, cli

Put = Callable[[str, str], None]

NODE = """\
    - name: Report | node
      ansible.builtin.debug:
        msg:
          cluster: web
          hostname: "{{ inventory_hostname }}"
          initial_master: lb1
          ip: "{{ zcluster_ip }}"
          role: "{{ 'master' if inventory_hostname == 'lb1' else 'backup' }}"
          status: "{{ STATUS }}"
          message: as it is
          sync: in sync
"""


def command(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    captured = capfd.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nods",), "Did you mean 'zcluster nodes'?"),
        (("delete",), "Did you mean 'zcluster unset'?"),
        (("lab", "upp"), "Did you mean 'zcluster lab up'?"),
        (("nodes", "--nonsense"), "No such option"),
        (("nodes", "--watch", "often"), "not a valid float"),
        (("nodes", "-o", "yaml"), "'yaml' is not one of"),
        (("lab", "up", "--debian", "11"), "'11' is not one of"),
        (("nodes",), "no cluster is known here"),
        (("nodes", "-i", "nowhere"), "inventory nowhere (from -i)"),
        (("interfaces", "--user", "admin"), "interfaces: --user is for a host that is named"),
        (("create", "web"), "say --local HOST and --remote HOST"),
        (("create", "web", "--local", "lb1"), "--remote HOST is missing"),
        (
            ("create", "web", "--local", "lb1", "--remote", "lb2", "--check-interval", "60"),
            "--check-interval: 60.0 is not possible; allowed: 0.01 to 40.95",
        ),
        (
            ("create", "web", "--local", "lb1", "--remote", "lb2", "--vip", "198.18.10.1"),
            "the prefix is missing",
        ),
    ],
)
def test_wrong_usage_is_64_with_a_hint(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, out, err = command(capfd, *words)
    assert code == 64
    assert out == ""
    assert message in err
    code, out, _ = command(capfd, *words, "--output=json")
    assert code == 64
    if "-o" not in words:
        assert message in json.loads(out)["errors"][0]["message"]


def test_no_words_show_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capfd)
    assert code == 64
    assert "First steps:" in out + err


@pytest.mark.parametrize("words", [("--help",), ("create", "-h"), ("lab", "--help")])
def test_help_teaches(capfd: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, out, _ = command(capfd, *words)
    assert code == 0
    assert "zcluster" in out
    if "lab" not in words:
        assert "zcluster create web --local" in out


@pytest.mark.parametrize(
    ("status", "code"),
    [("ok", 0), ("maintenance", 1), ("failure", 2), ("unreachable", 3), ("odd", 3)],
)
def test_the_exit_code_is_the_worst_status(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path, status: str, code: int
) -> None:
    one = f"{{{{ '{status}' if inventory_hostname == 'lb2' else 'ok' }}}}"
    collection("nodes", NODE.replace("{{ STATUS }}", one))
    found, out, err = command(capfd, "-i", inventory, "nodes")
    assert found == code
    assert out.splitlines()[1].split()[:5] == ["local", "master", "198.18.30.11", "lb1", "ok"]
    assert err == ""


def test_json_and_nothing_else_on_standard_output(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("nodes", NODE.replace("{{ STATUS }}", "ok"))
    code, out, _ = command(capfd, "nodes", "-i", inventory, "-o", "json", "-v")
    assert code == 0
    assert [(n["node"], n["inventory_hostname"]) for n in json.loads(out)] == [
        ("local", "lb1"),
        ("remote", "lb2"),
    ]


def test_status_of_the_local_and_of_a_named_node(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("status", NODE.replace("{{ STATUS }}", "ok"))
    assert command(capfd, "-i", inventory, "status")[1] == "ok  master  lb1  as it is\n"
    assert command(capfd, "-i", inventory, "status", "lb2")[1] == "ok  backup  lb2  as it is\n"
    words = ("-i", inventory, "status", "--limit", "lb2")
    assert command(capfd, *words)[:2] == (0, "ok  backup  lb2  as it is\n")


def test_status_of_a_host_that_is_not_there_is_3_and_says_who_is(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("status", NODE.replace("{{ STATUS }}", "failure"))
    code, out, err = command(capfd, "-i", inventory, "status", "lb3")
    assert (code, out) == (3, "")
    assert "no host 'lb3' is part of this run; there are: lb1, lb2" in err


def test_a_failed_run_is_3_and_says_why(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("unset", "    - name: Try\n      ansible.builtin.fail: {msg: not today}\n")
    code, out, err = command(capfd, "-i", inventory, "unset", "--yes")
    assert code == 3
    assert out == ""
    assert "lb1, lb2, Try: not today" in err
    assert "The whole story: " in err
    code, out, _ = command(capfd, "-i", inventory, "unset", "--yes", "-o", "json")
    assert code == 3
    failed = json.loads(out)
    assert failed["result"] == "failed"
    assert {"host": "lb1", "step": "Try", "message": "not today"} in failed["errors"]


def test_a_run_without_any_host_is_3_and_says_so(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("nodes", NODE)
    code, out, err = command(capfd, "-i", inventory, "nodes", "--limit", "nobody")
    assert code == 3
    assert "no host of the inventory is part of this run" in err
    code, out, _ = command(capfd, "-i", inventory, "nodes", "--limit", "nobody", "-o", "json")
    assert json.loads(out)["result"] == "failed"


def test_what_is_confirmed_needs_a_yes_without_a_terminal(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("unset", "    - name: Never\n      ansible.builtin.fail: {msg: done}\n")
    code, _, err = command(capfd, "-i", inventory, "unset")
    assert code == 64
    assert "--yes" in err


def test_steps_are_plain_lines_without_a_terminal(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("unset", '    - name: Take it away\n      ansible.builtin.command: "true"\n')
    code, out, err = command(capfd, "-i", inventory, "unset", "--yes")
    assert code == 0
    assert "Take it away on lb1" in err
    assert "2 steps changed on lb1, lb2" in out


def test_a_terminal_shows_the_step_the_time_and_the_nodes_at_work(
    collection: Put, inventory: Path
) -> None:
    """The step in words; a node that has done it is no longer named, its change stays above."""
    collection(
        "unset",
        "    - name: Take it away\n"
        "      ansible.builtin.command: sleep {{ 4 if inventory_hostname == 'lb2' else 2 }}\n",
    )
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "-i", str(inventory), "unset", "--yes"],
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 160),
        env=os.environ | {"TERM": "xterm-256color"},
    )
    child.expect("Toy")
    child.expect(r"\d\.\d s  Take it away on lb1, lb2")
    child.expect("✔.* Take it away.* on lb1")
    child.expect(r"\d\.\d s  Take it away on lb2")
    child.expect("✔.* Take it away.* on lb2")
    child.expect("2 steps changed on lb1, lb2")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_verbose_shows_ansibles_own_output(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("unset", '    - name: Take it away\n      ansible.builtin.command: "true"\n')
    _, out, _ = command(capfd, "-i", inventory, "unset", "--yes", "-v")
    assert "TASK [Take it away]" in out
    assert "PLAY RECAP" in out


def test_one_cluster_of_several(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("nodes", NODE.replace("{{ STATUS }}", "ok"))
    code, out, _ = command(capfd, "-i", inventory, "--cluster", "web", "nodes", "-o", "json")
    assert (code, len(json.loads(out))) == (0, 2)
    code, _, err = command(capfd, "-i", inventory, "--cluster", "wbe", "nodes")
    assert code == 64
    assert "the inventory has no cluster 'wbe'; it has: web" in err


TWO_CLUSTERS = """\
---
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  children:
    one:
      vars: {zcluster_name: web, zcluster_ip: 198.18.30.11}
      hosts: {lb1: , lb2: }
    two:
      vars: {zcluster_name: db, zcluster_ip: 198.18.30.11}
      hosts: {sql1: , sql2: }
"""


def test_a_cluster_that_fails_does_not_stop_the_next(
    capfd: pytest.CaptureFixture[str], collection: Put, home: Path
) -> None:
    (home / "two.yml").write_text(TWO_CLUSTERS)
    collection(
        "create",
        "    - name: Stop\n      ansible.builtin.fail: {msg: no way}\n"
        "      when: inventory_hostname == 'lb2'\n" + NODE.replace("{{ STATUS }}", "ok"),
    )
    code, out, _ = command(capfd, "-i", home / "two.yml", "create", "-o", "json")
    said = json.loads(out)
    assert (code, said["result"]) == (3, "failed")
    assert [error["host"] for error in said["errors"]] == ["lb2"]
    assert {"sql1", "sql2"} <= {node["inventory_hostname"] for node in said["nodes"]}
    words = ("-i", home / "two.yml", "--cluster", "db", "create", "-o", "json")
    code, out, _ = command(capfd, *words)
    assert code == 0
    assert len(json.loads(out)["nodes"]) == 2


def test_what_is_confirmed_is_done_to_one_cluster_that_was_named(
    capfd: pytest.CaptureFixture[str], collection: Put, home: Path
) -> None:
    (home / "two.yml").write_text(TWO_CLUSTERS)
    collection("unset", '    - name: Take it away\n      ansible.builtin.command: "true"\n')
    code, _, err = command(capfd, "-i", home / "two.yml", "unset", "--yes")
    assert code == 64
    assert "name one with --cluster: web, db" in err


def test_ctrl_c_after_the_run_says_what_was_done(
    capfd: pytest.CaptureFixture[str],
    collection: Put,
    inventory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collection("unset", '    - name: Take it away\n      ansible.builtin.command: "true"\n')

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "result_of", interrupted)
    code, _, err = command(capfd, "-i", inventory, "unset", "--yes")
    assert code == 3
    assert "Nothing was done" not in err
    assert "Stopped. 2 steps had been changed; run the same command again to go on." in err
    assert "Nothing was done" in command(capfd, "-i", inventory, "unset", "--yes", "--check")[2]


NEEDS_PASSWORD = """\
    - name: Report | needs_password
      ansible.builtin.debug:
        msg: "{{ inventory_hostname }}"
      when: inventory_hostname == 'lb2' and zcluster_root_password is not defined
    - name: Stop
      ansible.builtin.fail:
        msg: lb2 needs it
      when: inventory_hostname == 'lb2' and zcluster_root_password is not defined
    - name: Report | length
      ansible.builtin.debug:
        msg: "{{ zcluster_root_password | length }}"
      when: zcluster_root_password is defined
""" + NODE.replace("{{ STATUS }}", "ok")


def test_without_a_terminal_the_missing_password_is_said(
    capfd: pytest.CaptureFixture[str], collection: Put, inventory: Path
) -> None:
    collection("create", NEEDS_PASSWORD)
    code, _, err = command(capfd, "-i", inventory, "create")
    assert code == 3
    assert "lb2, Stop: lb2 needs it" in err


def run_command(words: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "zcluster_runner", *words]
    return subprocess.run(program, input=stdin, text=True, capture_output=True, check=False)


def test_the_password_from_standard_input(collection: Put, inventory: Path) -> None:
    collection("create", NEEDS_PASSWORD)
    words = ["-i", str(inventory), "create", "--password-stdin", "-o", "json"]
    done = run_command(words, "pass word\nsecond line\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reports"]["length"]["lb2"] == 9
    assert "pass word" not in done.stdout + done.stderr
    empty = run_command(words, "\n")
    assert empty.returncode == 64
    assert "must not be empty" in empty.stdout


def test_the_password_is_asked_for_twice_only_when_needed(collection: Put, inventory: Path) -> None:
    collection("create", NEEDS_PASSWORD)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "-i", str(inventory), "create"],
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 120),
    )
    child.expect("not accepted yet on lb2")
    child.expect("Root password")
    child.sendline("")
    child.expect("must not be empty")
    child.expect("Root password")
    child.sendline("first-canary")
    child.expect("The same again")
    child.sendline("other-canary")
    child.expect("The two differ")
    child.expect("Root password")
    child.sendline("first-canary")
    child.expect("The same again")
    child.sendline("first-canary")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "canary" not in (child.before or "")


def test_a_password_that_is_never_given_changes_nothing(collection: Put, inventory: Path) -> None:
    collection("create", NEEDS_PASSWORD)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "-i", str(inventory), "create"],
        encoding="utf-8",
        timeout=60,
    )
    child.expect("Root password")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3


def test_giving_up_at_the_password_leaves_no_inventory(collection: Put, home: Path) -> None:
    collection("create", NEEDS_PASSWORD)
    words = ["-m", "zcluster_runner", "create", "web", "--local", "lb1", "--remote", "lb2"]
    words += ["--local-ip", "198.18.30.11", "--remote-ip", "198.18.30.12"]
    child = pexpect.spawn(sys.executable, words, encoding="utf-8", timeout=60)
    child.expect("Root password")
    child.sendintr()
    child.expect("Nothing was done")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3
    assert list((home / "config/zcluster").iterdir()) == []


def test_create_writes_an_inventory_and_uses_it(
    capfd: pytest.CaptureFixture[str], collection: Put, home: Path
) -> None:
    collection(
        "create",
        "    - name: Report | name\n      ansible.builtin.debug:\n"
        "        msg: '{{ zcluster_name }} {{ zcluster_vips[0] }}'\n",
    )
    words = ["create", "web", "--local", "lb1", "--remote", "lb2", "--vip", "198.18.10.9/24"]
    code, out, _ = command(capfd, *words, "-o", "json")
    assert code == 0
    assert json.loads(out)["reports"]["name"]["lb1"] == "web 198.18.10.9/24"
    assert (home / "config/zcluster/web/hosts.yml").is_file()
    # again with the same words: the inventory is what counts now
    code, _, err = command(capfd, *words)
    assert code == 64
    assert "leave the options away" in err
    code, out, _ = command(capfd, "create", "web", "-o", "json")
    assert code == 0
    assert json.loads(out)["reports"]["name"]["lb2"] == "web 198.18.10.9/24"


def test_check_writes_no_inventory(
    capfd: pytest.CaptureFixture[str], collection: Put, home: Path
) -> None:
    collection(
        "create",
        "    - name: Report | name\n      ansible.builtin.debug:\n"
        "        msg: '{{ zcluster_name }}'\n",
    )
    code, out, _ = command(
        capfd, "create", "web", "--local", "lb1", "--remote", "lb2", "--check", "-o", "json"
    )
    assert code == 0
    assert json.loads(out)["reports"]["name"] == {"lb1": "web", "lb2": "web"}
    assert list((home / "config").iterdir()) == []


INTERFACES = """\
    - name: Report | interfaces
      ansible.builtin.debug:
        msg:
          - {interface: eth0, address: 198.18.10.11, prefix: 24, family: 4}
          - {interface: eth2, address: 198.18.30.11, prefix: 24, family: 4}
          - {interface: eth2, address: "2001:db8:30::11", prefix: 64, family: 6}
"""


def test_create_asks_for_what_is_missing(
    capfd: pytest.CaptureFixture[str], collection: Put, home: Path
) -> None:
    collection("interfaces", INTERFACES)
    collection(
        "create",
        "    - name: Report | name\n      ansible.builtin.debug:\n"
        "        msg: '{{ zcluster_name }}'\n",
    )
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "create"],
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 160),
    )
    answers = (
        ("Name of the cluster", "web"),
        ("Local node", "lb1"),
        ("Remote node", "lb2"),
        (r"2\) 198.18.30.11/24 .*eth2[\s\S]*Address of the local node \(lb1\)", "2"),
        (r"Address of the remote node \(lb2\)", "1"),
        ("Virtual IPs", "198.18.10.100/24 198.18.10.101/24"),
    )
    for question, answer in answers:
        child.expect(question)
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    asked = (home / "config/zcluster/web/hosts.yml").read_text()
    assert 'zcluster_ip: "198.18.30.11"' in asked
    assert '- "198.18.10.101/24"' in asked
    # the same by options is the same inventory, word for word
    nodes = ("--local", "lb1", "--remote", "lb2")
    addresses = ("--local-ip", "198.18.30.11", "--remote-ip", "198.18.10.11")
    vips = ("--vip", "198.18.10.100/24", "--vip", "198.18.10.101/24")
    place = ("-i", home / "by-options")
    code, _, _ = command(capfd, *place, "create", "web", *nodes, *addresses, *vips)
    assert code == 0
    assert (home / "by-options/hosts.yml").read_text() == asked


def test_create_asks_for_the_password_once_and_lists_addresses_with_it(
    collection: Put, home: Path
) -> None:
    door = """\
    - name: Report | needs_password
      ansible.builtin.debug: {msg: "{{ inventory_hostname }}"}
      when: zcluster_root_password is not defined
    - name: Stop
      ansible.builtin.fail: {msg: closed}
      when: zcluster_root_password is not defined
"""
    collection("interfaces", door + INTERFACES)
    collection("create", door)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "create", "web", "--local", "lb1", "--remote", "lb2"],
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 160),
    )
    answers = (
        ("not accepted yet on lb1[\\s\\S]*Root password there", "open sesame"),
        ("The same again", "open sesame"),
        (r"Address of the local node \(lb1\)", "2"),
        (r"Address of the remote node \(lb2\)", "1"),
        ("Virtual IPs", ""),
    )
    for question, answer in answers:
        child.expect(question)
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert "Root password" not in child.before
    assert child.exitstatus == 0
    assert "open sesame" not in (home / "config/zcluster/web/hosts.yml").read_text()


def test_giving_up_leaves_no_inventory(collection: Put, home: Path) -> None:
    collection("interfaces", INTERFACES)
    child = pexpect.spawn(
        sys.executable, ["-m", "zcluster_runner", "create"], encoding="utf-8", timeout=60
    )
    child.expect("Name of the cluster")
    child.sendline("web")
    child.expect("Local node")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3
    assert list((home / "config").iterdir()) == []


CONNECTION = """\
    - name: Report | connection
      ansible.builtin.debug:
        msg: {connection: local, host: x, port: 22, user: root, key: "", executable: ssh,
              arguments: [], timeout: 5, check_host_key: true, become_method: sudo,
              password: false}
"""


def test_watch_starts_ansible_once(collection: Put, inventory: Path, home: Path) -> None:
    collection("nodes", NODE.replace("{{ STATUS }}", "ok") + CONNECTION)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "-i", str(inventory), "nodes", "--watch", "0.2"],
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 160),
        env=os.environ | {"TERM": "xterm-256color"},
    )
    # as Ansible found it, then as this machine says by itself: no zclustermanager is here
    for words in ("as it is", *["Cluster not configured"] * 3):
        child.expect("every 0.2 s")
        child.expect(words)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3
    assert len(list((home / "state/zcluster/logs").iterdir())) == 1


def test_watch_goes_on_until_ctrl_c(collection: Put, inventory: Path) -> None:
    collection("nodes", NODE.replace("{{ STATUS }}", "ok"))
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "-i", str(inventory), "nodes", "--watch"],
        encoding="utf-8",
        timeout=60,
    )
    for _ in range(2):
        child.expect("every 1 s")
        child.expect("remote")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus in (0, 3)


SETTINGS = """\
    - name: Report | settings
      ansible.builtin.debug:
        msg:
          name: web
          failback: disabled
          profile: standard
          check_interval: 0.1
          preempt_delay: 60.0
          nodes: [{hostname: lb1, ip: 198.18.30.11}, {hostname: lb2, ip: 198.18.30.12}]
          vips: [{address: 198.18.10.100, prefix: 24, interface: eth0}]
          witnesses: []
"""

GOT = """\
    - name: Report | got
      ansible.builtin.debug:
        msg:
          - "{{ zcluster_failback | default('-') }}"
          - "{{ zcluster_check_interval | default('-') }}"
          - "{{ zcluster_preempt_delay | default('-') }}"
          - "{{ zcluster_vips | default('-') }}"
          - "{{ zcluster_witnesses | default('-') }}"
"""


@pytest.fixture
def configurable(collection: Put, home: Path) -> Path:
    """The inventory of a cluster whose playbooks are toys; configure tells what it was given."""
    collection("show", SETTINGS)
    collection("interfaces", INTERFACES)
    collection("configure", GOT + NODE.replace("{{ STATUS }}", "ok"))
    path = home / "web/hosts.yml"
    path.parent.mkdir()
    path.write_text(CONFIGURABLE)
    return path


CONFIGURABLE = """\
all:
  vars:
    zcluster_name: web
    zcluster_failback: disabled
    zcluster_vips:
      - 198.18.10.100/24
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  hosts:
    lb1: {zcluster_ip: 198.18.30.11}
    lb2: {zcluster_ip: 198.18.30.12}
"""

BY_OPTIONS = (
    *("--failback", "lb2", "--check-interval", "0.05", "--preempt-delay", "0"),
    *("--vip", "add", "198.18.10.101/24@eth0", "--vip", "remove", "198.18.10.100"),
)


def test_configure_asks_on_a_terminal_and_does_what_the_options_would(
    capfd: pytest.CaptureFixture[str], configurable: Path
) -> None:
    before = configurable.read_text()
    code, out, _ = command(capfd, "-i", configurable, "configure", *BY_OPTIONS, "-o", "json")
    assert code == 0
    got, written = json.loads(out)["reports"]["got"], configurable.read_text()
    vip = {"address": "198.18.10.101/24", "interface": "eth0"}
    assert got["lb1"] == ["lb2", 0.05, 0.0, [vip], "-"]
    configurable.write_text(before)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "-i", str(configurable), "configure", "-o", "json"],
        encoding="utf-8",
        timeout=60,
        dimensions=(60, 400),
    )
    answers = (
        (
            r"1\) failback +disabled[\s\S]*6\) witnesses +none"
            r"\s+7\) tracked interfaces +none[\s\S]*Which one",
            "1",
        ),
        (r"1\) disabled\s+2\) lb1\s+3\) lb2\s+failback \[1\]", "3"),
        ("failback +disabled  ->  lb2[\\s\\S]*Which one", "3"),
        (r"check interval, 0.01 to 40.95 s \[0.1\]", "60"),
        ("60.* is not possible; allowed: 0.01 to 40.95[\\s\\S]*check interval", "0.05"),
        ("Which one", "4"),
        (r"preempt delay, 0 to 3600 s \[60\]", "0"),
        ("Which one", "5"),
        (
            r"virtual IPs: add ADDRESS/PREFIX\[@eth0\|eth2\], or remove 198.18.10.100",
            "add 198.18.10.1",
        ),
        ("the prefix is missing[\\s\\S]*virtual IPs", "remove 198.18.10.1"),
        (
            "it is not there; there are: 198.18.10.100[\\s\\S]*virtual IPs",
            "add 198.18.10.101/24@eth0",
        ),
        ("virtual IPs", "remove 198.18.10.100"),
        ("virtual IPs", ""),
        ("Which one", ""),
        (r"The same by options: (.*?)\r", None),
        (r"Change this\?", "y"),
    )
    for question, answer in answers:
        child.expect(question)
        if answer is None:
            assert child.match[1].split() == list(BY_OPTIONS)
        else:
            child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    asked = json.loads(child.before[child.before.index('{\r\n  "verb"') :])
    assert child.exitstatus == 0
    assert asked["reports"]["got"] == got
    assert configurable.read_text() == written


def test_configure_that_is_not_confirmed_changes_nothing(configurable: Path) -> None:
    before = configurable.read_text()
    child = pexpect.spawn(
        sys.executable,
        ["-m", "zcluster_runner", "-i", str(configurable), "configure"],
        encoding="utf-8",
        timeout=60,
    )
    for question, answer in (("Which one", ""), (r"what the inventory says\?", "n")):
        child.expect(question)
        child.sendline(answer)
    child.expect("Nothing was done")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3
    assert configurable.read_text() == before


def test_configure_without_settings_needs_a_terminal_or_a_yes(
    capfd: pytest.CaptureFixture[str], configurable: Path
) -> None:
    code, _, err = command(capfd, "-i", configurable, "configure")
    assert code == 64
    assert "no setting is given, and there is no terminal to ask" in err
    for word in ("--yes", "--check"):
        code, out, _ = command(capfd, "-i", configurable, "configure", word, "-o", "json")
        assert code == 0
        assert json.loads(out)["reports"]["got"]["lb1"][0] == "disabled"


def test_replace_leaves_an_inventory_that_leads_to_the_new_machine(
    capfd: pytest.CaptureFixture[str], collection: Put, configurable: Path
) -> None:
    collection("replace", NODE.replace("{{ STATUS }}", "ok"))
    replace = ("-i", configurable, "replace", "lb2", "--with", "192.0.2.99", "--yes")
    before = configurable.read_text()
    code, out, _ = command(capfd, *replace, "--with-ip", "198.18.30.99", "--check")
    assert (code, configurable.read_text()) == (0, before)
    line = '    lb2: {"zcluster_ip": "198.18.30.99", "ansible_host": "192.0.2.99"}'
    assert f"+{line}" in out
    assert "1 steps would be changed on localhost" in out
    assert command(capfd, *replace, "--with-ip", "198.18.30.99")[0] == 0
    assert line in configurable.read_text().splitlines()
    code, out, _ = command(capfd, *replace, "-o", "json")
    assert (code, json.loads(out)["changes"]) == (0, [])
    collection("replace", "    - name: Fail\n      ansible.builtin.fail: {msg: no}\n")
    written = configurable.read_text()
    assert command(capfd, *replace, "--with", "192.0.2.98")[0] != 0
    assert configurable.read_text() == written
