# SPDX-License-Identifier: GPL-3.0-or-later
"""From ansible-runner's events to what the driver knows: reports, changes, failures (no I/O here).

Own bookkeeping, because ansible-runner's statistics are empty in several of its modes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zcluster_runner.result import Change, Event, EventKind, Failure
from zcluster_runner.secret import Redactor

REPORT = re.compile(r"(?:^|[:|] )Report \| (?P<key>\w+)$")
"""A task with this name hands a structure to the driver; plain Ansible shows the same."""

CENSORED = "the output has been hidden"

GENERIC = ("non-zero return code", "MODULE FAILURE", "Failed", "One or more items failed")
"""Messages that say nothing by themselves."""

SSH_PREAMBLE = re.compile(
    r"^(Task failed: )?((Failed to connect to the host via ssh|Data could not be sent to remote "
    r'host ".*?"\. Make sure this host can be reached over ssh): )?'
)
"""What ansible-core's ssh plugin says before ssh's own words."""

NO_ADDRESS = "UNKNOWN port 65535"
"""What ssh calls a host that it reaches through a program (ProxyCommand)."""

CONNECTION_WORDS: tuple[tuple[str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its SSH host key has changed. If it was installed anew, forget the old key "
        "(ssh-keygen -R {host}); if not, somebody may be in between",
    ),
    (
        "Host key verification failed",
        "its SSH host key is not known here. Look at it once (ssh {host}) and accept it",
    ),
    ("Permission denied", "it accepts none of your SSH keys: {detail}"),
    ("Connection refused", "nothing answers on its SSH port: {detail}"),
    ("Could not resolve hostname", "its name cannot be resolved: {detail}"),
    ("No route to host", "there is no way to it: {detail}"),
    ("Network is unreachable", "there is no way to it: {detail}"),
    ("imed out", "it does not answer: {detail}"),
    ("Connection closed by", "it closed the connection: {detail}"),
)


def step_words(task: str) -> str:
    """Return a task's name as a step in words: without the role and file it stands in."""
    if "Validating arguments against arg spec" in task:
        return "Check the settings"  # ansible-core's own task before a role
    return task.rpartition(" | ")[2].rpartition(" : ")[2].strip() or task


def text_of(result: Mapping[str, Any]) -> str:
    """Return why a task failed, in the module's own words, as little and as much as helps."""
    items = [r for r in result.get("results") or [] if isinstance(r, Mapping)]
    failing = [item for item in items if item.get("failed") or item.get("unreachable")]
    if failing:
        return "\n".join(dict.fromkeys(text_of(item) for item in failing))
    if "censored" in result:
        return "the details are hidden, for they may hold a secret"
    message = result.get("msg", "")
    if isinstance(message, list | tuple):
        message = "\n".join(str(line) for line in message)
    elif isinstance(message, Mapping):
        message = json.dumps(message, ensure_ascii=False)
    text = str(message).strip()
    if not text or text.startswith(GENERIC):
        details = str(
            result.get("stderr") or result.get("module_stderr") or result.get("stdout") or ""
        )
        last = "\n".join(details.strip().splitlines()[-5:])
        text = f"{text}: {last}" if text and last else (last or text)
    return text or "it failed without a message"


def connection_words(
    host: str, text: str, address: Callable[[str], str] = lambda host: host
) -> str:
    """Return an SSH failure in words for people; ``address`` is asked if ssh does not name it."""
    where = address(host) if NO_ADDRESS in text else ""
    text = text.replace(NO_ADDRESS, where)
    flat = " ".join(text.split())
    # ssh's last line is its reason; those before are about shared connections and the way there,
    # where a program that makes the connection says why it could not
    lines = [line.strip() for line in SSH_PREAMBLE.sub("", text.strip()).splitlines()]
    lines = [line for line in reversed(lines) if line]
    last = next(iter(lines), "")
    for sign, words in CONNECTION_WORDS:
        if sign in flat:
            detail = next((line for line in lines if sign in line), last)
            detail = detail if where in detail else f"{where}: {detail}"
            return words.format(host=host, detail=detail)
    return last or "it cannot be reached"


def diff_text(diff: object) -> str:
    """Return a task's differences as unified text."""
    import difflib

    if isinstance(diff, list):
        return "".join(diff_text(part) for part in diff)
    if not isinstance(diff, Mapping):
        return ""
    if "prepared" in diff:
        return f"{str(diff['prepared']).rstrip()}\n"
    if "before" not in diff or "after" not in diff:
        return ""

    def lines(value: object) -> list[str]:
        text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True)
        return (text if text.endswith("\n") or not text else f"{text}\n").splitlines(keepends=True)

    before, after = (str(diff.get(f"{side}_header", side)) for side in ("before", "after"))
    return "".join(difflib.unified_diff(lines(diff["before"]), lines(diff["after"]), before, after))


@dataclass
class Fold:
    """Collects the events of one run. Give it every event; then read what it has."""

    redactor: Redactor = field(default_factory=Redactor)
    address: Callable[[str], str] = lambda host: host
    """At which address a host is reached."""
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    """Ansible's words outside of any task: why it never got to one."""
    rescued: set[str] = field(default_factory=set)
    finished: bool = False
    """The last event came: hosts that failed are known."""

    def feed(self, raw: Mapping[str, Any]) -> list[Event]:
        """Take one event of ansible-runner; return what it means, secrets hidden."""
        data = raw.get("event_data")
        data = data if isinstance(data, Mapping) else {}
        handler = HANDLERS.get(str(raw.get("event", "")))
        events = handler(self, data) if handler else []
        text = self.redactor.text(str(raw.get("stdout") or ""))
        if raw.get("event") in ("verbose", "error", "warning", "system_warning") and text.strip():
            events += self._stray(str(raw["event"]), text)
        return events + ([Event(EventKind.OUTPUT, text)] if text else [])

    def _stray(self, kind: str, text: str) -> list[Event]:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
        if plain.startswith("[WARNING]") or kind in ("warning", "system_warning"):
            words = " ".join(plain.removeprefix("[WARNING]:").split())
            self.warnings.append(words)
            return [Event(EventKind.WARNING, words)]
        if not plain.startswith(("[DEPRECATION", "Using ", "ansible-playbook [core")):
            self.stray.append(plain)
        return []

    def _event(self, kind: EventKind, data: Mapping[str, Any], text: str) -> Event:
        return Event(
            kind,
            self.redactor.text(text),
            host=str(data.get("host") or ""),
            step=step_words(str(data.get("task") or "")),
            role=str(data.get("role") or "").rpartition(".")[2],
        )

    def play(self, data: Mapping[str, Any]) -> list[Event]:
        """A play begins."""
        return [self._event(EventKind.PLAY, data, str(data.get("name") or ""))]

    def step(self, data: Mapping[str, Any]) -> list[Event]:
        """A task begins."""
        task = str(data.get("task") or data.get("name") or "")
        if REPORT.search(task):
            return []
        return [self._event(EventKind.STEP, data, step_words(task))]

    def started(self, data: Mapping[str, Any]) -> list[Event]:
        """A host begins with a task."""
        task = str(data.get("task") or "")
        return [] if REPORT.search(task) else [self._event(EventKind.STARTED, data, "")]

    def succeeded(self, data: Mapping[str, Any]) -> list[Event]:
        """A task went well on a host: nothing to do, a change, or a report."""
        result = data.get("res")
        result = result if isinstance(result, Mapping) else {}
        host, task = str(data.get("host") or ""), str(data.get("task") or "")
        if (report := REPORT.search(task)) and {report["key"], "msg"} & set(result):
            # a module's own answer, or what debug was given
            said = result.get(report["key"], result.get("msg"))
            self.reports.setdefault(report["key"], {})[host] = self.redactor.structure(said)
            return []
        step = step_words(task)
        if not result.get("changed"):
            return [self._event(EventKind.OK, data, step)]
        diff = self.redactor.text(diff_text(result.get("diff")))
        for item in result.get("results") or []:
            if isinstance(item, Mapping) and item.get("changed"):
                diff += self.redactor.text(diff_text(item.get("diff")))
        self.changes.append(Change(host, step, diff))
        return [self._event(EventKind.CHANGED, data, step)]

    def failed(self, data: Mapping[str, Any]) -> list[Event]:
        """A task failed on a host."""
        if data.get("ignore_errors"):
            return [self._event(EventKind.OK, data, step_words(str(data.get("task") or "")))]
        result = data.get("res")
        text = text_of(result if isinstance(result, Mapping) else {})
        event = self._event(EventKind.FAILED, data, text)
        self.failures.append(Failure(event.host, event.step, event.text))
        return [event]

    def lost(self, data: Mapping[str, Any]) -> list[Event]:
        """A host cannot be reached."""
        host = str(data.get("host") or "")
        result = data.get("res")
        text = text_of(result if isinstance(result, Mapping) else {})
        event = self._event(EventKind.UNREACHABLE, data, connection_words(host, text, self.address))
        self.unreachable[host] = event.text
        return [event]

    def skipped(self, data: Mapping[str, Any]) -> list[Event]:
        """A task did not concern a host."""
        return [self._event(EventKind.SKIPPED, data, step_words(str(data.get("task") or "")))]

    def ended(self, data: Mapping[str, Any]) -> list[Event]:
        """The run is over: what a rescue section dealt with is known only now."""
        failing = data.get("failures") or {}
        # With ignore_unreachable a host is lost for a task, not for the run.
        dark = data.get("dark") or {}
        self.unreachable = {host: why for host, why in self.unreachable.items() if dark.get(host)}
        self.rescued = {str(host) for host in data.get("rescued") or {} if not failing.get(host)}
        self.finished = True
        return []

    def unrescued(self) -> tuple[Failure, ...]:
        """Return the failures that count. Of a host that failed after a rescue, the last one."""
        counting: list[Failure] = []
        for failure in self.failures:
            if self.finished and failure.host in self.rescued:
                continue
            later = [f for f in self.failures if f.host == failure.host]
            if self.finished and failure is not later[-1]:
                continue
            counting.append(failure)
        return tuple(counting)

    def causes(self) -> tuple[Failure, ...]:
        """Return the failures that a rescue section dealt with."""
        counting = self.unrescued()
        return tuple(f for f in self.failures if not any(f is c for c in counting))


HANDLERS = {
    "playbook_on_play_start": Fold.play,
    "playbook_on_task_start": Fold.step,
    "playbook_on_handler_task_start": Fold.step,
    "runner_on_start": Fold.started,
    "runner_on_ok": Fold.succeeded,
    "runner_on_failed": Fold.failed,
    "runner_on_unreachable": Fold.lost,
    "runner_on_skipped": Fold.skipped,
    "playbook_on_stats": Fold.ended,
}
