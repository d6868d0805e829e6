# SPDX-License-Identifier: GPL-3.0-or-later
"""A recognisable password goes through a whole run and is found nowhere: not on a command line, not
in an environment, not in a file, not in a log, not in the result."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import zcluster_runner
from zcluster_runner.execution import RunSpec, execute
from zcluster_runner.result import Event, EventKind, Outcome
from zcluster_runner.secret import Secret

Toy = Callable[..., RunSpec]

CANARY = 'Kanari-{{ 7 * 6 }}-"vögel"-9d41'
TRACES = (b"Kanari-", b"9d41")

TASKS = """\
    - name: Use it
      ansible.builtin.command:
        cmd: cat
        stdin: "{{ zcluster_root_password }}"
      no_log: true
    - name: Report | measured
      ansible.builtin.debug:
        msg: "{{ zcluster_root_password | hash('sha256') }}"
    - name: Talk too much
      ansible.builtin.debug:
        msg: "the password is {{ zcluster_root_password }}"
    - name: Take a while
      ansible.builtin.command: sleep 0.5
    - name: Fail with it
      ansible.builtin.fail:
        msg: "wrong: {{ zcluster_root_password }}"
"""


class Watcher(threading.Thread):
    """Looks at every process and at every file under the given places, again and again."""

    def __init__(self, *places: Path) -> None:
        super().__init__(daemon=True)
        self.places = places
        self.found: set[str] = set()
        self.rounds = 0
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            self.look()

    def look(self) -> None:
        self.rounds += 1
        # the Python of this test holds the canary itself, in its memory, not in these
        files = [p / name for p in Path("/proc").glob("[0-9]*") for name in ("cmdline", "environ")]
        for place in self.places:
            for folder, _, names in os.walk(place):  # a FIFO is not a file: reading would take part
                files += [Path(folder) / name for name in names if name != "secrets"]
        for path in files:
            try:
                content = path.read_bytes()
            except OSError:
                continue
            if any(trace in content for trace in TRACES):
                self.found.add(str(path))


@pytest.fixture
def watcher(home: Path) -> Watcher:
    return Watcher(home)


def test_the_password_is_used_and_found_nowhere(toy: Toy, watcher: Watcher) -> None:
    import hashlib

    events: list[Event] = []

    def listener(event: Event) -> None:
        events.append(event)
        deadline = time.monotonic() + 60  # a look takes its time; the run waits for some of them
        while event.kind is EventKind.FAILED and watcher.rounds <= 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    watcher.start()
    run = execute(
        toy(TASKS),
        secrets={"zcluster_root_password": Secret(CANARY)},
        on_event=listener,
    )
    watcher.enough.set()
    watcher.join()
    watcher.look()
    assert run.outcome is Outcome.FAILED
    # it arrived as it is, not as a template's result
    expected = hashlib.sha256(CANARY.encode()).hexdigest()
    assert run.fold.reports["measured"] == {"lb1": expected, "lb2": expected}
    assert watcher.rounds > 3
    # What a task itself prints without no_log passes through ansible-runner's files in the private
    # directory in memory; everywhere else there is nothing, also not in passing.
    private = str(Path(os.environ["XDG_RUNTIME_DIR"]))
    assert {path for path in watcher.found if not path.startswith(private)} == set()
    told = repr(run) + repr(events) + json.dumps([f.to_dict() for f in run.failures])
    assert "Kanari" not in told
    assert "wrong: ********" in told
    assert run.log is not None
    assert "the password is ********" in run.log.read_text()


def test_with_no_log_it_is_not_even_in_the_private_directory(toy: Toy, watcher: Watcher) -> None:
    watcher.start()
    execute(
        toy(
            TASKS.partition("    - name: Talk too much")[0] + "    - name: Wait\n"
            "      ansible.builtin.command: sleep 1\n"
        ),
        secrets={"zcluster_root_password": Secret(CANARY)},
    )
    watcher.enough.set()
    watcher.join()
    assert watcher.found == set()


def test_a_run_that_never_reads_it_ends_all_the_same(toy: Toy, home: Path) -> None:
    spec = dataclasses.replace(toy(TASKS), playbook=str(home / "missing.yml"))
    run = execute(spec, secrets={"zcluster_root_password": Secret(CANARY)})
    assert run.outcome is Outcome.FAILED
    assert list((home / "runtime/zcluster").iterdir()) == []


def test_a_result_can_be_stored_and_holds_no_secret(
    collection: Callable[[str, str], None], inventory: Path
) -> None:
    collection("create", TASKS)
    result = zcluster_runner.run("create", inventory=inventory, password=CANARY)
    assert b"Kanari" not in pickle.dumps(result)
    assert "Kanari" not in json.dumps(result.to_dict())
    assert "Kanari" not in repr(result)
