# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test starts from."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# The same examples each time, so that a change breaks a test and not chance; EXAMPLES=n: new ones
# (make test-machine).
settings.register_profile("repeatable", derandomize=True)
if "EXAMPLES" not in os.environ:
    settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Take Ctrl-C as usual, and children with us: a shell's background job starts deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
