# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a role changed: what this node can tell at once, and what a look at its peer adds. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .reconcile import Role
from .status import Peer

# INSTANCE "eth0" FAULT 254 (keepalived.conf(5), notify_fifo).
LINE = re.compile(r'(GROUP|INSTANCE) "([^"]*)" (\w+)')


def here(was: Role, now: Role, heard: Iterable[str], *, gives_up: str) -> str:
    """The cause by what keepalived said since the last change (lines of its FIFO, oldest first).

    gives_up: why this node has put itself out of service, if it has.
    """
    states = [(m[1], m[2], m[3]) for line in heard if (m := LINE.match(line))]
    faults = dict.fromkeys(n for kind, n, state in states if (kind, state) == ("INSTANCE", "FAULT"))
    said = {state for _, _, state in states}
    table = (
        (was is Role.UNKNOWN, "zclustermanager started"),
        (now is Role.MASTER, "the master was not heard any more, or gave up"),
        (bool(gives_up), gives_up),
        ("STOP" in said, "keepalived was stopped"),
        (bool(faults), f"heartbeat in fault on {', '.join(faults)}"),
        ("BACKUP" in said, "the peer took over"),
    )
    return next((words for applies, words in table if applies), "the virtual IPs are gone")


def of_peer(name: str, seen: Peer) -> str:
    """What a look at the peer just after a takeover adds."""
    if not seen.reachable:
        return f"{name} does not answer"
    if seen.trusted is False:
        return f"{name} answers, but not to zcluster: {seen.why}"
    return f"{name} is master too" if seen.master else f"{name} answers and is not master"
