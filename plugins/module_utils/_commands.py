# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""The real way to a node's commands and files; several threads may use it at once."""

from __future__ import annotations

import subprocess
import typing as t

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# A probe that hangs longer is reported, not waited for.
SECONDS = 30.0
NOT_FOUND, TIMED_OUT = 127, 124


def run(arguments: t.Sequence[str]) -> t.Tuple[int, str, str]:
    """Exit code, output and error output; 127 for a command that is not there."""
    try:
        done = subprocess.run(
            list(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": PATH, "LC_ALL": "C", "HOME": "/root"},
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return NOT_FOUND, "", f"{arguments[0]}: not installed"
    except subprocess.TimeoutExpired:
        return TIMED_OUT, "", f"{arguments[0]}: no answer within {SECONDS:g} s"
    return done.returncode, _text(done.stdout), _text(done.stderr)


def read(path: str) -> t.Optional[str]:
    """The text of a file; None when it is not there or cannot be read."""
    try:
        with open(path, "rb") as stream:
            return _text(stream.read())
    except OSError:
        return None


def _text(data: bytes) -> str:
    # What is not UTF-8 must not stop the result from being JSON.
    return data.decode("utf-8", "backslashreplace")
