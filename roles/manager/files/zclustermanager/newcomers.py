# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks that are new to a heartbeat that serves: master on them first, then they join the group.

keepalived takes a sync group from MASTER to BACKUP and back when it gets an instance that is not
master (acassen/keepalived issue 2715, mended after 2.4.3): its virtual IPs would be away meanwhile.
An instance that was master before it joins is taken as it is.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from . import durable, keepalived, processes, takeover
from .keepalived import State
from .takeover import RefusedError

CONFIGURATION = Path("/etc/keepalived/keepalived.conf")
# A reload checks the settings in a process of its own first.
RELOAD = 30.0
# Seconds for keepalived's answer: where it serves must be known, or the group would be demoted.
ANSWER = 10.0
INSTANCE = re.compile(r"^vrrp_instance (\S+)", re.MULTILINE)


def serves_on() -> set[str]:
    """The networks on which this node is master; instances are called as their interfaces."""
    seen = keepalived.ask(ANSWER)
    if seen.running and seen.why:
        raise RefusedError(f"where this node serves is not known: {seen.why}")
    return {instance.name for instance in seen.instances if instance.state is State.MASTER}


def introduce(beside: str, path: Path = CONFIGURATION) -> None:
    """Become master on all networks of these settings, in which the new ones are in no group.

    The file is as before afterwards, whatever came of it: the next reload has them in the group.
    """
    wanted = set(INSTANCE.findall(beside))
    before, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    try:
        durable.write(path, beside.encode(), mode)
        done = processes.run(["systemctl", "reload", keepalived.UNIT], timeout=RELOAD)
        if not done.ok:
            raise RefusedError(f"keepalived does not reload: {done.words}")
        if not takeover.wait_until(lambda: wanted <= serves_on(), takeover.TAKE_OVER):
            missing = ", ".join(sorted(wanted - serves_on()))
            raise RefusedError(
                f"this node does not become master on {missing}: has it a carrier, and the "
                "address of the heartbeat?"
            )
    finally:
        durable.write(path, before, mode)
