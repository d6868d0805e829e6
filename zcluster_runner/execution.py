# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of one playbook through ansible-runner, used the way its own documentation warns one to.

Each precaution here answers a trap of ansible-runner 2.4 (tests/unit/runner has a test for each).
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from zcluster_runner import environment
from zcluster_runner.errors import DriverError, InventoryError
from zcluster_runner.events import Fold
from zcluster_runner.interruption import Interruption, clear_away
from zcluster_runner.inventory import hosts_in
from zcluster_runner.private_data import private_data
from zcluster_runner.result import Change, Event, EventKind, Failure, Outcome
from zcluster_runner.runlog import RunLog
from zcluster_runner.secret import Redactor, Secret, SecretFifo

OnEvent = Callable[[Event], None]

POLL = 0.2
"""Seconds between two looks at cancellation (ansible-runner's default is 5)."""

THIS_MACHINE = "localhost,"
"""The inventory of a run that needs none (Ansible's own default would be /etc/ansible/hosts)."""

TOGETHER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("together.py")))
"""Starts Ansible so that it does not outlive the driver."""

NO_HOSTS = "no host of the inventory is part of this run: look at zcluster_name, --cluster, --limit"


@dataclass(frozen=True)
class RunSpec:
    """What to run: everything but the secrets."""

    verb: str
    playbook: str
    inventory: tuple[Path, ...] = ()
    limit: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    check: bool = False
    diff: bool = False
    verbosity: int = 0

    def arguments(self) -> list[str]:
        """Return the switches of ansible-playbook."""
        return [*(["--check"] if self.check else []), *(["--diff"] if self.diff else [])]


@dataclass(frozen=True)
class Run:
    """What became of it."""

    outcome: Outcome
    fold: Fold
    elapsed: float
    log: Path | None
    stopped: bool = False
    """It was asked to stop; what had ended by then has its own outcome all the same."""

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The failures that count."""
        return self.fold.unrescued()

    @property
    def changes(self) -> tuple[Change, ...]:
        """What was changed."""
        return tuple(self.fold.changes)


def check_inventory(spec: RunSpec) -> None:
    """Refuse a path that is not there: ansible-runner would take the words for an inventory."""
    for path in spec.inventory:
        if not path.is_absolute():
            raise InventoryError(f"inventory {path}: an absolute path is needed")
        if not path.exists():
            raise InventoryError(f"inventory {path}: there is no such file or directory")


def write_inputs(directory: Path, spec: RunSpec) -> None:
    """Write the inputs that ansible-runner reads from files; no secret is among them.

    With ``suppress_env_files`` it drops the ``settings`` argument and puts variables on the command
    line, where everybody can read them; a file does neither.
    """
    inputs: dict[str, Mapping[str, Any]] = {
        "settings": {
            "pexpect_timeout": POLL,
            "suppress_ansible_output": True,
            "suppress_output_file": True,
        }
    }
    if spec.variables:
        inputs["extravars"] = spec.variables
    (directory / "env").mkdir(mode=0o700)
    for name, content in inputs.items():
        descriptor = os.open(directory / "env" / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream)


def addresses(spec: RunSpec, cwd: Path) -> Callable[[str], str]:
    """Return who knows at which address a host is reached; the inventory is read once, if asked."""

    @cache
    def known() -> Mapping[str, str]:
        try:
            hosts = hosts_in(spec.inventory, os.environ, cwd).hosts
        except DriverError:
            return {}  # the host's name must do
        found = {host.name: host.address for host in hosts if host.address}
        new, place = spec.variables.get("zcluster_node"), spec.variables.get("zcluster_with")
        return {**found, str(new): str(place)} if new and place else found

    return lambda host: known().get(host, host)


class _Listener:
    """Receives ansible-runner's events. Its errors stop the run in order, not in the middle."""

    def __init__(self, fold: Fold, log: RunLog, on_event: OnEvent | None) -> None:
        self.fold = fold
        self.error: BaseException | None = None
        self._log = log
        self._on_event = on_event
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def __call__(self, raw: Mapping[str, Any]) -> bool:
        try:
            for event in self.fold.feed(raw):
                if event.kind is EventKind.OUTPUT:
                    self._log.write(event.text)
                if self._on_event is not None and self.error is None:
                    self._on_event(
                        Event(
                            event.kind, event.text, event.host, event.step, event.role, self.elapsed
                        )
                    )
        except BaseException as error:  # noqa: BLE001  it is raised again when Ansible has ended
            self.error = self.error or error
        return True  # anything else, and ansible-runner forgets the event


def _start(
    spec: RunSpec,
    directory: Path,
    cwd: Path,
    arguments: list[str],
    listener: _Listener,
    poll: Callable[[], bool],
    run_id: str,
) -> Any:
    import ansible_runner.interface  # late: it takes longer to import than all of ours

    runner = ansible_runner.interface.init_runner(
        private_data_dir=str(directory),
        project_dir=str(cwd),
        ident="run",
        playbook=spec.playbook,
        # A list is passed on as it is; a string may be taken for the inventory's text.
        inventory=[str(path) for path in spec.inventory] or [THIS_MACHINE],
        limit=spec.limit,
        cmdline=shlex.join(arguments) if arguments else None,
        verbosity=spec.verbosity or None,
        suppress_env_files=True,
        fact_cache_type="memory",
        quiet=True,
        event_handler=listener,
        cancel_callback=poll,  # also keeps it from replacing the signal handlers
    )
    runner.config.cwd = str(cwd)
    runner.config.env = environment.build(os.environ, runner.config.env, cwd, run_id)
    runner.config.command[0] = str(environment.ansible_playbook())
    runner.config.command[:0] = TOGETHER
    return runner


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Have ansible-runner end when Ansible has ended.

    It closes a terminal whose child is gone, and ptyprocess then sleeps a tenth of a second, in
    case there were still one.
    """
    import ansible_runner.runner
    import pexpect

    class Spawn(pexpect.spawn):  # type: ignore[misc]  # it has no types
        def _spawnpty(self, args: Any, **more: Any) -> Any:
            child = super()._spawnpty(args, **more)
            child.delayafterclose = 0
            return child

    ansible_runner.runner.pexpect = SimpleNamespace(**{**vars(pexpect), "spawn": Spawn})
    try:
        yield
    finally:
        ansible_runner.runner.pexpect = pexpect


def _drive(runner: Any, fold: Fold) -> int | None:
    import pexpect

    try:
        with ends_at_once():
            runner.run()
    except pexpect.TIMEOUT:
        # Something held the terminal open after Ansible's end; what it said is known.
        return 0 if fold.finished and not fold.failures and not fold.unreachable else None
    return int(runner.rc) if runner.rc is not None else None


def execute(
    spec: RunSpec,
    *,
    secrets: Mapping[str, Secret] | None = None,
    on_event: OnEvent | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Run:
    """Run a playbook and tell what happened; nothing is printed, nothing is left behind.

    ``secrets`` reach Ansible as extra variables through a FIFO. ``on_event`` is called in this
    thread. ``cancel`` is asked several times a second.
    """
    check_inventory(spec)
    run_id, cwd = str(uuid.uuid4()), Path.cwd()
    redactor = Redactor((secrets or {}).values())
    fold = Fold(redactor, address=addresses(spec, cwd))
    with (
        private_data(run_id) as directory,
        RunLog(spec.verb, redactor, os.environ) as log,
        Interruption(run_id, cancel) as interruption,
    ):
        write_inputs(directory, spec)
        fifo = SecretFifo(directory / "secrets", secrets) if secrets else None
        arguments = spec.arguments() + (["-e", f"@{fifo.path}"] if fifo else [])
        listener = _Listener(fold, log, on_event)

        def poll() -> bool:
            if fifo is not None:
                fifo.offer()
            if listener.error is not None:
                interruption.request()
            return interruption.poll()

        runner = _start(spec, directory, cwd, arguments, listener, poll, run_id)
        log.write(f"$ cd {cwd}\n$ {shlex.join(runner.config.command[len(TOGETHER) :])}")
        rc: int | None = None
        clean = False
        try:
            rc = _drive(runner, fold)
            clean = not interruption.requested
        finally:
            if fifo is not None:
                fifo.close()
            if not clean:
                clear_away(run_id, interruption.sessions)
        if listener.error is not None:
            raise listener.error
        outcome = _outcome(rc, interruption)
        if outcome is Outcome.FAILED and not fold.failures and not fold.unreachable:
            fold.failures.append(Failure("", spec.verb, _why_nothing_ran(rc, fold, redactor)))
        log.write(f"# {outcome.value} after {listener.elapsed:.1f} s (ansible-playbook: {rc})")
    return Run(outcome, fold, listener.elapsed, log.path, interruption.requested)


def _outcome(rc: int | None, interruption: Interruption) -> Outcome:
    if interruption.requested and rc != 0:
        return Outcome.CANCELED
    return Outcome.SUCCEEDED if rc == 0 else Outcome.FAILED


def _why_nothing_ran(rc: int | None, fold: Fold, redactor: Redactor) -> str:
    """Return Ansible's own words when it gave up before, or between, tasks."""
    lines = [line.removeprefix("[ERROR]: ") for line in fold.stray if line]
    if any("no hosts to target" in line for line in lines):
        return NO_HOSTS
    if lines:
        return redactor.text("\n".join(lines[-12:]))
    if rc == 1:
        return NO_HOSTS
    return f"ansible-playbook ended with {rc} and said nothing"


__all__ = ["DriverError", "OnEvent", "Run", "RunSpec", "execute"]
