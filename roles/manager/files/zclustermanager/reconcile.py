# SPDX-License-Identifier: GPL-3.0-or-later
"""The state machine: which actions bring what is applied to the role keepalived really has."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.Enum):
    """The role that is applied on this node."""

    UNKNOWN = "unknown"
    MASTER = "master"
    BACKUP = "backup"


class Action(enum.Enum):
    """One effect of a transition; the daemon knows how."""

    OPEN_TERM = "open the term"
    CLOSE_TERM = "close the term"
    START_SENDER = "start the sender"
    STOP_SENDER = "stop the sender"
    SHARE_CONNECTIONS = "share connections"
    REQUEST_CONNECTIONS = "request connections"


@dataclass(frozen=True)
class Transition:
    """What to do to get from one applied role to another, in order."""

    to: Role
    actions: tuple[Action, ...]


# Connections first: every second in which the backup lacks them is one in which a fault costs them.
TO_MASTER = (Action.SHARE_CONNECTIONS, Action.OPEN_TERM, Action.START_SENDER)
TO_BACKUP = (Action.STOP_SENDER, Action.CLOSE_TERM, Action.REQUEST_CONNECTIONS)


def transition(applied: Role, *, serving: bool) -> Transition | None:
    """Compare the applied role with what the kernel and keepalived really have; None when equal.

    `serving` is the level, not an event: events may be lost, doubled or late, and still the
    applied role ends where the level is.
    """
    if serving and applied is not Role.MASTER:
        return Transition(Role.MASTER, TO_MASTER)
    if not serving and applied is not Role.BACKUP:
        return Transition(Role.BACKUP, TO_BACKUP)
    return None
