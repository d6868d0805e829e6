# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance: a node that never serves until it is started again, reboots included."""

from __future__ import annotations

from dataclasses import dataclass

from . import durable, journal, keepalived, observe, readiness, takeover
from .keepalived import State
from .settings import Cluster
from .takeover import RefusedError

# Seconds until a started node has caught up.
READY = 60.0


@dataclass(frozen=True)
class Done:
    """What came of it: whether something changed (or would), and what to say."""

    changed: bool
    message: str


def enable(cluster: Cluster, *, force: bool = False, check: bool = False) -> Done:
    """Put this node into maintenance; a serving node hands over first.

    RefusedError when the peer could not take over, unless forced.
    """
    mine, other = cluster.local.hostname, cluster.peer.hostname
    already = observe.in_maintenance()
    if not already:
        serving = takeover.serves(cluster)
        if not force:
            _insist(cluster, serving=serving)
        if check:
            return Done(True, f"{mine} would go into maintenance")
        durable.write(observe.MAINTENANCE, b"1\n")
        journal.record("maintenance", state="enabled", serving=serving, forced=force)
    elif check:
        return Done(False, f"{mine} is in maintenance already")
    # keepalived tracks the flag; a run that was killed after writing it ends here, too.
    released = takeover.wait_until(lambda: not takeover.serves(cluster), takeover.TAKE_OVER)
    if not released:
        raise RefusedError(
            f"{mine} still holds virtual IPs after {takeover.TAKE_OVER:g} s: is keepalived alive? "
            "The flag stays; run this again, or stop keepalived.service"
        )
    if force:
        taken = takeover.peer_serves(cluster)
    else:
        taken = takeover.wait_until(lambda: takeover.peer_serves(cluster), takeover.TAKE_OVER)
        if not taken and not already:
            durable.write(observe.MAINTENANCE, b"0\n")
            journal.record("maintenance", state="disabled", why=f"{other} did not take over")
            raise RefusedError(
                f"{other} did not take over within {takeover.TAKE_OVER:g} s: {mine} serves on"
            )
    who = f"{other} serves" if taken else "nobody serves"
    if already:
        return Done(False, f"{mine} is in maintenance already; {who}")
    return Done(True, f"{mine} is in maintenance; {who}")


def _insist(cluster: Cluster, *, serving: bool) -> None:
    mine, other = cluster.local.hostname, cluster.peer.hostname
    what = f"{mine} stays as it is, for {other} could not take over"
    ways = (
        f"Repair {other} first, or start it (zcluster start {cluster.peer.called}), or use force: "
        "then nobody may serve"
    )
    if serving:
        takeover.wait_clear(cluster, what, ways)
    elif not takeover.wait_until(lambda: takeover.peer_serves(cluster), 3.0):
        raise RefusedError(f"{what}: it is not master, or cannot be asked. {ways}")


def disable(cluster: Cluster, *, check: bool = False) -> Done:
    """Bring this node back: as backup first; as master if failback prefers it, once it is ready."""
    mine, other = cluster.local.hostname, cluster.peer.hostname
    changed = observe.in_maintenance()
    if check:
        return Done(
            changed, f"{mine} would be started" if changed else f"{mine} is started already"
        )
    if changed:
        # It must not preempt with what it knew before the maintenance.
        readiness.lower()
        readiness.forget_promotions()
        durable.write(observe.MAINTENANCE, b"0\n")
        journal.record("maintenance", state="disabled")
    back = takeover.wait_until(
        lambda: keepalived.ask().state in (State.BACKUP, State.MASTER), takeover.TAKE_OVER
    )
    if not back:
        state = keepalived.ask()
        words = state.why or f"its heartbeat is {state.state.name if state.state else 'not there'}"
        raise RefusedError(f"{mine} is out of maintenance, but {words}")
    if not takeover.peer_serves(cluster):
        takeover.wait_until(lambda: takeover.serves(cluster), takeover.TAKE_OVER)
    ready = takeover.wait_until(lambda: not readiness.reasons(readiness.look(cluster)), READY)
    return Done(changed, _started(cluster, changed=changed, ready=ready, other=other))


def _started(cluster: Cluster, *, changed: bool, ready: bool, other: str) -> str:
    mine = cluster.local.hostname
    prefers = cluster.failback == mine
    if ready and prefers and cluster.preempt_delay <= takeover.TAKE_OVER:
        seconds = cluster.preempt_delay + takeover.TAKE_OVER
        takeover.wait_until(lambda: takeover.serves(cluster), seconds)
    serves = takeover.serves(cluster)
    role = "serves" if serves else f"is backup of {other}"
    said = f"{mine} is started{'' if changed else ' already'} and {role}"
    if not ready:
        return f"{said}; not ready: {', '.join(readiness.reasons(readiness.look(cluster)))}"
    if prefers and not serves and cluster.preempt_delay:
        return f"{said}; failback {cluster.preempt_delay:g} s after it became ready"
    return said
