# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that starts another one which ends when the driver ends, even by SIGKILL.

Without it a driver that is killed leaves an Ansible behind that goes on changing nodes, seen by
nobody. The kernel sends the signal (prctl(2), PR_SET_PDEATHSIG; it outlives exec); Ansible then
stops as by Ctrl-C, and takes its workers with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the program that is named."""
    driver = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != driver:  # it was killed before this could be said
            sys.exit(1)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606  (the driver names the program)


if __name__ == "__main__":
    main()
