# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the daemons' own tools: one bounded call, its words kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}


OUT_OF_TIME, CANCELLED, NOT_THERE = 124, 125, 127
# A program's words about a place in a file: /etc/haproxy/haproxy.cfg:12; no address in a URL.
PLACE = re.compile(r"(?<![\w/])/[^\s:/\]'\"][^\s:\]'\"]*:\d+")
# What they say beside, and before, what is wrong.
ASIDE = re.compile(r"\[(warning|warn|notice|info)\]", re.IGNORECASE)
# As nginx and syslog name what ends a program: [emerg], [alert], [crit].
ERROR = re.compile(r"\[(emerg|alert|crit)\]", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """What a command said: exit code (or one of the above), output, errors."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.code == 0

    @property
    def words(self) -> str:
        """The last line the command said, for a message."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit code {self.code}"

    @property
    def finding(self) -> str:
        """The first line that names a place in a file, else the first error, else the last line.

        Warnings come first in a program's words: they count where there is nothing else.
        """
        said = [line.strip() for line in (self.err + "\n" + self.out).splitlines() if line.strip()]
        lines = [line for line in said if not ASIDE.search(line)] or said
        found = [line for pattern in (PLACE, ERROR) for line in lines if pattern.search(line)]
        return found[0] if found else self.words


def run(arguments: Sequence[str], *, timeout: float = 5.0, given: str | None = None) -> Outcome:
    """Run a command for at most `timeout` seconds; never raises for what the command does."""
    try:
        done = subprocess.run(
            arguments,
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            env=ENVIRONMENT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(OUT_OF_TIME, "", f"{arguments[0]} did not answer within {timeout:g} s")
    except OSError as error:
        return Outcome(NOT_THERE, "", f"{arguments[0]}: {os.strerror(error.errno or 0)}")
    return Outcome(done.returncode, done.stdout, done.stderr)


def bounded(
    arguments: Sequence[str], timeout: float, cancelled: Callable[[], bool] = lambda: False
) -> Outcome:
    """Run a user's command; out of time or not wanted any more, all that it started is killed.

    `cancelled` is asked ten times a second. Unlike `run`, which leaves alone what a tool of ours
    has put into the background.
    """
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        return Outcome(NOT_THERE, "", f"{arguments[0]}: {os.strerror(error.errno or 0)}")
    deadline = time.monotonic() + timeout
    while True:
        try:
            out, err = process.communicate(timeout=max(0.0, min(deadline - time.monotonic(), 0.1)))
            return Outcome(process.returncode, out, err)
        except subprocess.TimeoutExpired:
            if unwanted := cancelled():
                break
            if time.monotonic() >= deadline:
                break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if unwanted:
        return Outcome(CANCELLED, "", f"{arguments[0]} was cancelled")
    return Outcome(OUT_OF_TIME, "", f"{arguments[0]} did not answer within {timeout:g} s")
