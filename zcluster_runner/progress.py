# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress on standard error: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from zcluster_runner.actions import Action
from zcluster_runner.result import Event, EventKind

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


def words(event: Event) -> str:
    """Return a step as people say it: "keepalived: Install the package"."""
    role = event.role.replace("_", " ")
    return f"{role}: {event.text}" if role else event.text


class Quiet:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __call__(self, event: Event) -> None:
        """Take an event."""

    def pause(self) -> None:
        """Leave the terminal to somebody who asks a question."""


class AnsibleOutput(Quiet):
    """Shows Ansible's own output (``-v``)."""

    def __init__(self, to_stderr: bool) -> None:
        """Write to standard error when standard output belongs to JSON."""
        self._stream = sys.stderr if to_stderr else sys.stdout

    def __call__(self, event: Event) -> None:
        """Write the text of the event as it came."""
        if event.kind is EventKind.OUTPUT:
            print(event.text, file=self._stream, flush=True)


class PlainLines(Quiet):
    """One line for each step that changes or fails something; for logs and pipes."""

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def __call__(self, event: Event) -> None:
        """Say the step once, then each host it changed."""
        if event.kind is EventKind.PLAY and event.text:
            self._say(f"{event.text}")
        elif event.kind is EventKind.CHANGED:
            self._say(f"  [{event.elapsed:6.1f} s] {words(event)} on {event.host}")
        elif event.kind is EventKind.FAILED:
            self._say(f"  [{event.elapsed:6.1f} s] failed: {event.step} on {event.host}")


class Moving(Quiet):
    """One moving line with the current step; changes stay above it."""

    def __init__(self, action: Action, make_console: Callable[[], Console]) -> None:
        """Show steps of ``action`` on a console, made when there is something to show."""
        self._make_console = make_console
        self._keeps_lines = action.writes
        self._status: Status | None = None
        self._running = False
        self._line = "Connecting"
        self._at_work: dict[str, None] = {}

    def __exit__(self, *_: object) -> None:
        self.pause()

    def pause(self) -> None:
        """Take the moving line away."""
        if self._running and self._status is not None:
            self._status.stop()
            self._running = False

    def __call__(self, event: Event) -> None:
        """Move on."""
        from rich.markup import escape

        if self._status is None:
            # only now: rich takes a while to load, and Ansible works meanwhile
            self._console = self._make_console()
            self._status = self._console.status(self._line)
        if not self._running:
            self._status.start()
            self._running = True
        self._show(event)
        if event.kind is EventKind.STEP:
            self._line, self._at_work = f"{event.elapsed:5.1f} s  {words(event)}", {}
        elif event.kind is EventKind.STARTED:
            self._at_work[event.host] = None
        elif event.host:
            self._at_work.pop(event.host, None)
        where = f" on {', '.join(self._at_work)}" if self._at_work else ""
        # A line that wraps would not be taken away whole.
        self._status.update(escape(f"{self._line}{where}"[: self._console.width - 4]))

    def _show(self, event: Event) -> None:
        from rich.markup import escape

        if event.kind is EventKind.PLAY and event.text and self._keeps_lines:
            self._console.print(f"[bold]{escape(event.text)}[/]")
        elif event.kind is EventKind.CHANGED and self._keeps_lines:
            self._console.print(
                f"  [green]✔[/] {escape(words(event))} [dim]on {escape(event.host)}[/]"
            )
        elif event.kind is EventKind.FAILED:
            self._console.print(f"  [red]✘[/] {escape(words_of_failure(event))}")


def words_of_failure(event: Event) -> str:
    """Return which step failed where; the reason follows with the result."""
    return f"{event.step} on {event.host}"


def progress_for(
    action: Action,
    *,
    verbose: bool,
    as_json: bool,
    terminal: bool,
    console: Callable[[], Console],
) -> Quiet:
    """Return the progress display that fits the terminal and the options."""
    if not action.playbook:
        return Quiet()  # done at once
    if verbose:
        return AnsibleOutput(to_stderr=as_json)
    if terminal:
        return Moving(action, console)
    return PlainLines() if action.writes else Quiet()
