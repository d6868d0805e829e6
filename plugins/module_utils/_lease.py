# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""The lease of an action on a cluster: who holds it, who gets it, and what the other is told."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass


@dataclass(frozen=True)
class Lease:
    """Held by one run on one node. Times: seconds on a clock that starts with the node."""

    cluster: str
    verb: str
    run: str
    who: str
    taken: float
    renewed: float
    expires: float


@dataclass(frozen=True)
class Event:
    """What the history is told of an action. state: begun, done or failed."""

    lease: Lease
    state: str
    why: str = ""


def events_of_taking(held: t.Optional[Lease], wanted: Lease) -> t.List[Event]:
    """What a granted lease tells: nothing if renewed; how that of a run ended which has died."""
    if held is None:
        return [Event(wanted, "begun")]
    if held.run == wanted.run:
        return []
    return [Event(held, "failed", "its run ended before it was done"), Event(wanted, "begun")]


def renewed(held: t.Optional[Lease], wanted: Lease) -> Lease:
    """The lease as it is written: one's own keeps the time it was taken, and its verb."""
    if held is None or held.run != wanted.run:
        return wanted
    return Lease(
        wanted.cluster,
        wanted.verb or held.verb,
        wanted.run,
        wanted.who,
        held.taken,
        wanted.renewed,
        wanted.expires,
    )


def granted(
    held: t.Optional[Lease], run: str, now: float, dead: str = "", controller: str = ""
) -> bool:
    """Whether a run gets the lease: it is free, its own, expired, or its holder is known dead.

    Of a run of the same controller it is known whether it lives: time alone takes nothing from it.
    """
    if held is None or held.run in (run, dead):
        return True
    known = bool(controller) and held.run.startswith(controller + "#")
    return held.expires <= now and not known


def refusal(held: Lease, now: float) -> str:
    """What the run is told that does not get it."""
    return (
        "%s runs %r on cluster %s since %d s (last seen %d s ago). "
        "Wait for it; if it has died, its lease ends by itself in %d s"
        % (
            held.who,
            held.verb,
            held.cluster,
            now - held.taken,
            now - held.renewed,
            max(0, held.expires - now),
        )
    )
