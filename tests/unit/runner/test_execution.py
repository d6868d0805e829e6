# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of toy playbooks: each trap of ansible-runner, and what we do about it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import ansible_runner.runner
import pexpect
import pytest

from zcluster_runner import execution, interruption
from zcluster_runner.errors import InventoryError
from zcluster_runner.events import Fold
from zcluster_runner.execution import NO_HOSTS, POLL, RunSpec, addresses, execute, write_inputs
from zcluster_runner.result import Event, EventKind, Outcome
from zcluster_runner.runlog import RunLog
from zcluster_runner.secret import Redactor

Toy = Callable[..., RunSpec]

REPORT = """\
    - name: Report | seen
      ansible.builtin.debug:
        msg: {}
"""


def seen(toy: Toy, expression: str, **more: object) -> object:
    """Run one report and return what the first host said."""
    run = execute(toy(REPORT.format(json.dumps(expression)), **more))
    assert run.outcome is Outcome.SUCCEEDED, run.failures
    return run.fold.reports["seen"]["lb1"]


def test_reports_changes_and_events_of_a_run(toy: Toy) -> None:
    events: list[Event] = []
    spec = toy(
        """\
    - name: Change something
      ansible.builtin.command: "true"
    - name: Report | node
      ansible.builtin.debug:
        msg: {status: ok}
"""
    )
    run = execute(spec, on_event=events.append)
    assert run.outcome is Outcome.SUCCEEDED
    assert run.fold.reports == {"node": {"lb1": {"status": "ok"}, "lb2": {"status": "ok"}}}
    assert {change.host for change in run.changes} == {"lb1", "lb2"}
    unsaid = (EventKind.OUTPUT, EventKind.STARTED)
    kinds = [event.kind for event in events if event.kind not in unsaid]
    assert kinds == [EventKind.PLAY, EventKind.STEP, EventKind.CHANGED, EventKind.CHANGED]
    assert all(one.elapsed <= two.elapsed for one, two in pairwise(events))


def test_nothing_is_printed_and_nothing_is_left(
    toy: Toy, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = execute(toy(REPORT.format('"x"')))
    assert capfd.readouterr() == ("", "")
    assert list((home / "runtime/zcluster").iterdir()) == []
    left = {p.relative_to(home).parts[0] for p in home.rglob("*") if p.is_file()}
    assert left <= {"toy.yml", "inventory.yml", "state", ".ansible"}
    assert run.log is not None


def test_the_log_tells_the_run(toy: Toy) -> None:
    run = execute(toy(REPORT.format('"a word"')))
    assert run.log is not None
    text = run.log.read_text()
    assert "ansible-playbook" in text
    assert "TASK [Report | seen]" in text
    assert '"msg": "a word"' in text
    assert "# succeeded after" in text


def test_inputs_of_one_run_do_not_reach_the_next(toy: Toy) -> None:
    assert seen(toy, "{{ word | default('none') }}", variables={"word": "one"}) == "one"
    assert seen(toy, "{{ word | default('none') }}") == "none"


def test_variables_are_not_on_the_command_line(toy: Toy) -> None:
    run = execute(toy(REPORT.format('"x"'), variables={"word": "recognisable-value"}))
    assert run.log is not None
    assert "recognisable-value" not in run.log.read_text()


def test_variables_keep_their_types(toy: Toy) -> None:
    assert seen(toy, "{{ flag | type_debug }}", variables={"flag": True}) == "bool"


def test_a_token_in_the_callers_environment_gets_nowhere(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "token-canary-4711")
    expression = (
        "{{ lookup('ansible.builtin.env', 'SOME_TOKEN') }}"
        "{{ lookup('ansible.builtin.pipe', 'grep -rl token-[c]anary $AWX_ISOLATED_DATA_DIR/.. "
        "|| true') }}"
    )
    assert seen(toy, expression) == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [("HOST_KEY_CHECKING", True), ("CACHE_PLUGIN", "memory"), ("RETRY_FILES_ENABLED", False)],
)
def test_settings_in_force(toy: Toy, option: str, value: object) -> None:
    assert seen(toy, f"{{{{ lookup('ansible.builtin.config', '{option}') }}}}") == value


def test_the_users_ansible_cfg_is_in_force(toy: Toy) -> None:
    Path("ansible.cfg").write_text("[defaults]\ntimeout = 33\n")
    assert seen(toy, "{{ lookup('ansible.builtin.config', 'DEFAULT_TIMEOUT') }}") == 33


def test_it_runs_in_the_users_working_directory(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AD_HOC_COMMAND_ID", "1")  # as inside AWX: ansible-runner would move
    # Ansible itself; what it runs here starts in the playbook's directory
    ansible = "{{ lookup('ansible.builtin.pipe', 'readlink /proc/$PPID/cwd') }}"
    assert seen(toy, ansible) == str(Path.cwd())
    assert seen(toy, "{{ lookup('ansible.builtin.env', 'PWD') }}") == str(Path.cwd())


def test_a_big_report_is_not_dropped(toy: Toy) -> None:
    big = seen(toy, "{{ 'x' * 900000 }}")
    assert isinstance(big, str)
    assert len(big) == 900_000


def test_a_mistyped_inventory_is_an_error_and_stays_what_it_is(toy: Toy, home: Path) -> None:
    with pytest.raises(InventoryError, match="no such file"):
        execute(toy(REPORT.format('"x"'), inventory=(home / "invntory.yml",)))
    with pytest.raises(InventoryError, match="absolute"):
        execute(toy(REPORT.format('"x"'), inventory=(Path("relative.yml"),)))
    assert not (home / "invntory.yml").exists()


def test_the_inventory_is_not_written_to(toy: Toy, inventory: Path) -> None:
    before = inventory.read_bytes()
    execute(toy(REPORT.format('"x"')))
    assert inventory.read_bytes() == before


def test_without_an_inventory_it_is_this_machine(toy: Toy) -> None:
    run = execute(
        toy(
            REPORT.format('"{{ inventory_hostname }}"'),
            inventory=(),
            variables={"ansible_connection": "local"},
        )
    )
    assert run.fold.reports["seen"] == {"localhost": "localhost"}


def test_no_host_is_a_failure_that_says_so(toy: Toy) -> None:
    run = execute(toy(REPORT.format('"x"'), limit="nobody"))
    assert run.outcome is Outcome.FAILED
    (failure,) = run.failures
    assert failure.message == NO_HOSTS


def test_a_broken_playbook_is_said_in_ansibles_words(toy: Toy) -> None:
    run = execute(toy("    - nonsense.that.is.no: module\n      indeed: x\n"))
    assert run.outcome is Outcome.FAILED
    assert "nonsense.that.is.no" in run.failures[0].message


def test_a_failing_step_is_told_with_host_and_reason(toy: Toy) -> None:
    run = execute(
        toy(
            """\
    - name: Insist
      ansible.builtin.fail:
        msg: "no disk on {{ inventory_hostname }}"
      when: inventory_hostname == 'lb2'
"""
        )
    )
    assert run.outcome is Outcome.FAILED
    (failure,) = run.failures
    assert (failure.host, failure.step, failure.message) == ("lb2", "Insist", "no disk on lb2")


def test_an_unreachable_host_is_told(toy: Toy, home: Path) -> None:
    path = home / "hosts.yml"
    path.write_text(
        "all: {hosts: {gone: {ansible_host: 127.0.0.1, ansible_port: 9, ansible_user: x}}}\n"
    )
    run = execute(toy("    - name: Look\n      ansible.builtin.ping:\n", inventory=(path,)))
    assert run.outcome is Outcome.FAILED
    assert "nothing answers on its SSH port" in run.fold.unreachable["gone"]
    assert run.failures == ()


def test_one_behind_a_program_is_told_with_its_address(toy: Toy, home: Path) -> None:
    path = home / "hosts.yml"
    path.write_text(
        "all: {hosts: {gone: {zcluster_name: web, ansible_host: 192.0.2.7, "
        "ansible_ssh_common_args: -o ProxyCommand=false}}}\n"
    )
    run = execute(toy("    - name: Look\n      ansible.builtin.ping:\n", inventory=(path,)))
    words = run.fold.unreachable["gone"]
    assert "192.0.2.7" in words
    assert "UNKNOWN" not in words


def test_the_address_of_a_new_machine_is_the_one_it_is_reached_at(toy: Toy, home: Path) -> None:
    path = home / "hosts.yml"
    path.write_text(
        "all: {vars: {zcluster_name: web}, hosts: {lb1: {ansible_host: 192.0.2.1}, "
        "lb2: {ansible_host: 192.0.2.2}, lb3: {}}}\n"
    )
    new = {"zcluster_node": "lb2", "zcluster_with": "192.0.2.9"}
    at = addresses(toy("", inventory=(path,), variables=new), home)
    assert [at(host) for host in ("lb1", "lb2", "lb3", "lb4")] == [
        "192.0.2.1",
        "192.0.2.9",
        "lb3",
        "lb4",
    ]


def test_check_mode_and_diff(toy: Toy, home: Path) -> None:
    tasks = f"""\
    - name: Write
      ansible.builtin.copy:
        content: "new\\n"
        dest: {home}/written
        mode: "0600"
      when: inventory_hostname == 'lb1'
"""
    run = execute(toy(tasks, check=True, diff=True))
    assert not (home / "written").exists()
    assert "+new" in run.changes[0].diff


def test_an_error_of_the_listener_ends_the_run_and_comes_out(toy: Toy, home: Path) -> None:
    def listener(event: Event) -> None:
        if event.kind is EventKind.STEP:
            raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        execute(toy(SLEEP), on_event=listener)
    assert list((home / "runtime/zcluster").iterdir()) == []


DURATION, STAYS = f"4711.{os.getpid()}", f"4712.{os.getpid()}"
"""Tells these sleepers from those of other test runs on this machine."""

SLEEP = f"""\
    - name: Sleep
      ansible.builtin.command: sleep {DURATION}
"""


def sleepers(duration: str = DURATION) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", duration.encode()]:
            found.append(entry.name)
    return found


def stopped_after_first_step(toy: Toy, stop: Callable[[], None]) -> tuple[float, Outcome]:
    asked = 0.0

    def listener(event: Event) -> None:
        nonlocal asked
        if event.kind is EventKind.STEP:

            def later() -> None:
                nonlocal asked
                wait_for(sleepers)
                asked = time.monotonic()
                stop()

            threading.Thread(target=later, daemon=True).start()

    run = execute(toy(SLEEP), on_event=listener)
    return time.monotonic() - asked, run.outcome


def test_ctrl_c_stops_quickly_and_leaves_no_process(toy: Toy) -> None:
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    took, outcome = stopped_after_first_step(toy, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert outcome is Outcome.CANCELED
    assert took < 60  # it would sleep for more than an hour
    assert gone(sleepers)
    assert [signal.getsignal(number) for number in interruption.SIGNALS] == before


def test_ansible_runner_looks_often_whether_to_stop(toy: Toy, tmp_path: Path) -> None:
    """What it took of our settings, not what we wrote: it drops them by the way they are given."""
    spec = toy(SLEEP)
    write_inputs(tmp_path, spec)
    listener = execution._Listener(Fold(), RunLog("toy", Redactor(), os.environ), None)
    runner = execution._start(spec, tmp_path, Path.cwd(), [], listener, lambda: False, "run")
    assert runner.config.pexpect_timeout == POLL < 1
    assert runner.config.suppress_ansible_output


def test_ansible_runner_does_not_sleep_when_ansible_has_ended() -> None:
    with execution.ends_at_once():
        child = ansible_runner.runner.pexpect.spawn("true")
        assert child.ptyproc.delayafterclose == 0
        child.close()
    assert ansible_runner.runner.pexpect is pexpect
    assert pexpect.spawn("true").ptyproc.delayafterclose > 0


def test_a_cancel_callback_stops_it_too(toy: Toy) -> None:
    wanted = threading.Event()

    def listener(event: Event) -> None:
        if event.kind is EventKind.STEP:
            wanted.set()

    run = execute(toy(SLEEP), on_event=listener, cancel=wanted.is_set)
    assert run.outcome is Outcome.CANCELED
    assert gone(sleepers)


def test_workers_that_do_not_listen_are_killed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way ansible-runner itself would go: SIGKILL to one group, and orphans stay. Ours go."""
    real = interruption.send

    def deaf(processes: list[interruption.Process], number: signal.Signals) -> None:
        if number is not signal.SIGINT:
            real(processes, number)

    monkeypatch.setattr(interruption, "send", deaf)
    monkeypatch.setattr(interruption, "GRACE", 0.5)
    _, outcome = stopped_after_first_step(toy, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert outcome is Outcome.CANCELED
    assert gone(sleepers)


def driver_at_work(toy: Toy) -> subprocess.Popen[bytes]:
    """A driver in a process of its own, in the middle of a run."""
    spec = toy(SLEEP)
    code = (
        "import sys; from pathlib import Path; from zcluster_runner.execution import *; "
        "execute(RunSpec('toy', sys.argv[1], (Path(sys.argv[2]),)))"
    )
    words = [sys.executable, "-c", code, spec.playbook, str(spec.inventory[0])]
    driver = subprocess.Popen(words)
    wait_for(lambda: len(sleepers()) == 2)
    return driver


def wait_for(what: Callable[[], object]) -> None:
    """Wait until it is so, within a minute."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.02)


def gone(what: Callable[[], object]) -> bool:
    """Whether there is none of it any more, within a minute."""
    deadline = time.monotonic() + 60
    while what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not what()


def test_a_driver_that_is_killed_leaves_nothing_running(toy: Toy) -> None:
    driver = driver_at_work(toy)
    driver.kill()
    driver.wait()
    assert gone(sleepers)


def test_the_next_run_clears_away_what_an_earlier_one_left(toy: Toy, home: Path) -> None:
    driver = driver_at_work(toy)
    (left,) = (home / "runtime/zcluster").iterdir()
    run_id = left.name.split("-", 2)[2]
    main = [p for p in interruption.processes_of(run_id) if p.parent == driver.pid]
    for pid in (*(process.pid for process in main), driver.pid):
        os.kill(pid, signal.SIGKILL)  # Ansible itself, too: nobody tells its workers
    driver.wait()
    assert sleepers()
    assert execute(toy(REPORT.format('"x"'))).outcome is Outcome.SUCCEEDED
    assert gone(sleepers)
    assert not left.exists()


def test_it_runs_outside_the_main_thread(toy: Toy) -> None:
    outcomes: list[Outcome] = []
    spec = toy(REPORT.format('"x"'))
    thread = threading.Thread(target=lambda: outcomes.append(execute(spec).outcome))
    thread.start()
    thread.join(60)
    assert outcomes == [Outcome.SUCCEEDED]


def test_what_a_playbook_started_here_for_good_stays(toy: Toy) -> None:
    """A lab's containers are children of a run; stopping the run must not stop them."""
    tasks = (
        f"""\
    - name: Start a daemon
      ansible.builtin.shell: setsid sleep {STAYS} > /dev/null 2>&1 < /dev/null &
      when: inventory_hostname == 'lb1'
"""
        + SLEEP
    )

    def listener(event: Event) -> None:
        if event.kind is EventKind.STEP and event.text == "Sleep":
            wait_for(lambda: sleepers(STAYS))
            os.kill(os.getpid(), signal.SIGINT)

    run = execute(toy(tasks), on_event=listener)
    assert run.outcome is Outcome.CANCELED
    alive = sleepers(STAYS)
    for pid in alive:
        os.kill(int(pid), signal.SIGKILL)
    assert len(alive) == 1


def test_a_slow_listener_loses_nothing(toy: Toy) -> None:
    """ansible-runner's own patience for its terminal is shorter than this listener is slow."""
    events: list[Event] = []

    def listener(event: Event) -> None:
        if event.kind is EventKind.STEP:
            time.sleep(4 * POLL)
        events.append(event)

    run = execute(toy(REPORT.format('"x"') * 3 + CHANGE), on_event=listener)
    assert run.outcome is Outcome.SUCCEEDED
    assert run.fold.finished
    assert {event.host for event in events if event.kind is EventKind.CHANGED} == {"lb1", "lb2"}


CHANGE = """\
    - name: Change something
      ansible.builtin.command: "true"
"""


def test_runs_side_by_side_keep_to_themselves(toy: Toy, home: Path) -> None:
    specs = {word: toy(REPORT.format('"{{ word }}"'), variables={"word": word}) for word in "abc"}
    found: dict[str, object] = {}

    def work(word: str) -> None:
        found[word] = execute(specs[word]).fold.reports["seen"]["lb1"]

    threads = [threading.Thread(target=work, args=(word,)) for word in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {word: word for word in specs}
    assert list((home / "runtime/zcluster").iterdir()) == []


@pytest.mark.parametrize("where", ["ansible.cfg", "environment"])
def test_the_users_own_output_style_does_not_cost_the_events(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "ansible.cfg":
        Path("ansible.cfg").write_text("[defaults]\nstdout_callback = oneline\n")
    else:
        monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "oneline")
        monkeypatch.setenv("RUNNER_OMIT_EVENTS", "True")
        monkeypatch.setenv("RUNNER_ONLY_FAILED_EVENTS", "True")
    assert seen(toy, "here") == "here"


def test_what_a_run_keeps_while_it_runs_is_for_its_owner_only(toy: Toy, home: Path) -> None:
    """Events, command and environment are files until the run ends: in a closed directory."""
    modes: list[int] = []

    def listener(event: Event) -> None:
        if event.kind is EventKind.STEP:
            place = home / "runtime/zcluster"
            modes.extend(stat.S_IMODE(path.stat().st_mode) for path in (place, *place.iterdir()))

    execute(toy(CHANGE), on_event=listener)
    assert modes == [0o700, 0o700]
