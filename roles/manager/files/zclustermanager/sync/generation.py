# SPDX-License-Identifier: GPL-3.0-or-later
"""Generations: which content descends from which. Pure decisions; no clock is ever compared.

A generation is the id of one exact content plus the ids it descends from, as DRBD keeps
generation identifiers for disks (DRBD internals, "Generation Identifiers").
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

# Only ids that left the node count; the one that the other node has is never among the forgotten.
HISTORY = 2_000


@dataclass(frozen=True)
class Generation:
    """The identity of one state of the configuration.

    id: None when this node never had one (new or wiped). digest: of the content with that id;
    without an id, of the content at promotion. term: True from promotion to demotion, durably:
    only then does a change mint a new id. offered: the id has left this node, so that the other
    one may hold it; an id that never left is replaced, not remembered. known: the last id that
    the other node said it has.
    """

    id: str | None = None
    ancestors: tuple[str, ...] = ()
    digest: str = ""
    term: bool = False
    offered: bool = False
    known: str | None = None

    @property
    def number(self) -> int:
        """How many generations came before: for people, never for decisions."""
        return len(self.ancestors)


class Relation(enum.Enum):
    """How this node's generation stands to the other's."""

    SAME = "same"
    AHEAD = "ahead"
    BEHIND = "behind"
    JOIN = "equal content"
    DIVERGED = "diverged"
    NEITHER = "neither has one"


class Answer(enum.Enum):
    """What a receiver says to a sender's generation."""

    EQUAL = "equal"
    JOIN = "join"
    ACCEPT = "accept"
    REFUSE_STALE = "stale"
    REFUSE_MASTER = "master"
    REFUSE_NO_GENERATION = "no generation"
    DIVERGED = "diverged"


def compare(mine: Generation, theirs: Generation) -> Relation:
    """How `mine` stands to `theirs`; ids and ancestors decide, and equal content."""
    table = (
        (mine.id is None and theirs.id is None, Relation.NEITHER),
        (theirs.id is None, Relation.AHEAD),
        (mine.id is None, Relation.BEHIND),
        (mine.id == theirs.id, Relation.SAME),
        (mine.id in theirs.ancestors, Relation.BEHIND),
        (theirs.id in mine.ancestors, Relation.AHEAD),
        (mine.digest == theirs.digest, Relation.JOIN),
    )
    return next((relation for applies, relation in table if applies), Relation.DIVERGED)


def mint(stored: Generation, digest: str, new_id: str) -> Generation:
    """The generation after a change: a new id, the old one its nearest ancestor if it ever left."""
    remembered = (stored.id,) if stored.id is not None and stored.offered else ()
    ancestors = _newest((*remembered, *stored.ancestors), stored.known)
    return replace(stored, id=new_id, ancestors=ancestors, digest=digest, offered=False)


def _newest(ancestors: tuple[str, ...], known: str | None) -> tuple[str, ...]:
    """Ancestors within the limit. One who has `known` must always find itself among them."""
    newest = ancestors[:HISTORY]
    if known is None or known in newest or known not in ancestors:
        return newest
    return (*newest[:-1], known)


def edited(stored: Generation, digest: str) -> bool:
    """True when the live content is not what the stored generation says."""
    return stored.digest != digest and (stored.id is not None or stored.term)


def after_observation(stored: Generation, digest: str, new_id: str) -> tuple[Generation, bool]:
    """Fold the live digest in: (generation, drift).

    With an open term a difference is a change of ours and mints. Without one it is drift: no id.
    """
    if not edited(stored, digest):
        return stored, False
    if stored.term:
        return mint(stored, digest, new_id), False
    return stored, True


def promoted(stored: Generation, digest: str, new_id: str) -> Generation:
    """Open the term; drift that is still there becomes a generation of its own, not lost.

    A new or wiped node gets no id yet: it notes what it had, and asks the other node first. What
    it changes from there on is a generation without ancestors.
    """
    if stored.id is None and not stored.term:
        return replace(stored, digest=digest, term=True)
    if edited(stored, digest):
        stored = mint(stored, digest, new_id)
    return replace(stored, term=True)


def demoted(stored: Generation, digest: str, new_id: str) -> Generation:
    """Mint what changed in the term, then close it."""
    generation, _ = after_observation(stored, digest, new_id)
    if generation.id is None:
        return Generation()
    return replace(generation, term=False)


def shown(stored: Generation, known: str | None = None) -> Generation:
    """The id is about to leave this node: from here on it is remembered as an ancestor.

    known: what the other node was last heard to have.
    """
    return replace(stored, offered=True, known=known or stored.known)


def heard(mine: Generation, theirs: Generation) -> Generation:
    """What the other node says it has, where that does not come from what is here.

    It may have had this once: who was installed anew, or brought back from a copy, has not.
    """
    if compare(mine, theirs) in (Relation.AHEAD, Relation.DIVERGED):
        return replace(mine, known=theirs.id)
    return mine


def first(stored: Generation, digest: str, new_id: str) -> Generation:
    """The first generation of a cluster: the master's, when neither node has one."""
    return stored if stored.id is not None else mint(stored, digest, new_id)


def fetched(stored: Generation, digest: str, new_id: str) -> Generation:
    """What the other node may pull from here: an edit on a backup becomes a generation.

    The content it replaced is gone, so what is here is all that can be given.
    """
    return mint(stored, digest, new_id) if edited(stored, digest) else stored


def kept(stored: Generation, theirs: Generation, digest: str, new_id: str) -> Generation:
    """After divergence: this node's content stays, and descends from both."""
    both = (stored.id, theirs.id, *stored.ancestors, *theirs.ancestors)
    ancestors = tuple(dict.fromkeys(i for i in both if i))[:HISTORY]
    return Generation(new_id, ancestors, digest, term=stored.term, known=theirs.id)


def judge(mine: Generation, sender: Generation, *, i_am_master: bool) -> Answer:
    """The receiver's answer to a sender (the table of the design, section 5)."""
    if i_am_master:
        return Answer.REFUSE_MASTER
    return {
        Relation.NEITHER: Answer.REFUSE_NO_GENERATION,
        Relation.SAME: Answer.EQUAL,
        Relation.JOIN: Answer.JOIN,
        Relation.BEHIND: Answer.ACCEPT,
        Relation.AHEAD: Answer.REFUSE_NO_GENERATION if sender.id is None else Answer.REFUSE_STALE,
        Relation.DIVERGED: Answer.DIVERGED,
    }[compare(mine, sender)]


def adopt(mine: Generation, sender: Generation) -> Generation:
    """This node's generation once the other's content is on its disk: ancestries merge.

    A term that is open stays open: a master that pulled goes on serving.
    """
    known = dict.fromkeys((*sender.ancestors, *([mine.id] if mine.id else []), *mine.ancestors))
    known.pop(sender.id or "", None)
    return Generation(
        sender.id,
        tuple(known)[:HISTORY],
        sender.digest,
        term=mine.term,
        offered=True,
        known=sender.id,
    )


def dump(generation: Generation) -> dict[str, Any]:
    """As plain data for disk and wire."""
    return {
        "id": generation.id,
        "ancestors": list(generation.ancestors),
        "digest": generation.digest,
        "term": generation.term,
        "offered": generation.offered,
        "known": generation.known,
    }


def undump(data: dict[str, Any] | None) -> Generation:
    """The inverse of `dump`; no data is no generation."""
    if not data:
        return Generation()
    return Generation(
        data["id"],
        tuple(data["ancestors"]),
        data["digest"],
        bool(data.get("term", False)),
        bool(data.get("offered", True)),
        data.get("known"),
    )
