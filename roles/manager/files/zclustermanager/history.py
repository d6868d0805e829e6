# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of the cluster: the events of both nodes in one time line. Pure decisions.

Within a node the order is the order of its numbers. Across the nodes an event comes after all that
its node knew of the other when it was recorded (each line says so; journal.py). Where neither knew
of the other, the older generation of the configuration goes first, then the wall clocks decide,
and the entry says that its order is by clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import journal

Event = Mapping[str, Any]

# What follows an event and belongs to it: part of its entry, no entry of its own.
FOLLOWS = {"role-cause": "role", "role-applied": "role"}
# Too much for people; `history --all` shows them.
DETAIL = ("keepalived", "daemon")


@dataclass
class Entry:
    """One line of the history.

    when: wall clock of the node, seconds since the epoch. was, now: roles, or states of an action.
    seconds: how long it took. lasted: how long the role was held, by the node's own clock.
    order: sure, or by clock where nothing else tells which node was first.
    """

    when: float
    node: str
    event: str
    text: str
    was: str = ""
    now: str = ""
    cause: str = ""
    seconds: float | None = None
    lasted: float | None = None
    who: str = ""
    generation: int | None = None
    order: str = "sure"
    log: str = ""
    seq: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON has it; `from` and `to` as people say."""
        data = asdict(self)
        return {"from": data.pop("was"), "to": data.pop("now"), **data}


def entries(node: str, events: Iterable[Event]) -> list[tuple[Entry, Event]]:
    """The entries of one node, in its own order, each with the event it began with."""
    told: list[tuple[Entry, Event]] = []
    begun: dict[str, Entry] = {}
    for event in events:
        name = str(event["event"])
        if name in FOLLOWS:
            _complete(begun.get(FOLLOWS[name]), event)
            continue
        if name == "operator" and event.get("state") != "begun":
            entry = begun.pop(_run(event), None)
            if entry is not None:
                _complete(entry, event)
                continue
        entry = _entry(node, event)
        told.append((entry, event))
        if name == "role":
            if (last := begun.get("role")) is not None:
                last.lasted = round(max(0.0, entry.when - last.when), 3)
            begun["role"] = entry
        elif name == "operator":
            begun[_run(event)] = entry
    return told


def _run(event: Event) -> str:
    return f"operator {event.get('verb')} {event.get('run')}"


def _entry(node: str, event: Event) -> Entry:
    name = str(event["event"])
    details = {k: v for k, v in event.items() if k not in ("log", "seq", "knew", "event", "at")}
    entry = Entry(
        when=float(event["at"]),
        node=node,
        event=name,
        text=journal.words(name, details),
        was=str(event.get("was", "")),
        now=str(event.get("now", "")),
        cause=str(event.get("cause") or event.get("why") or ""),
        who=str(event.get("who", "")),
        generation=event.get("number"),
        log=str(event["log"]),
        seq=int(event["seq"]),
    )
    if name == "operator":
        entry.event, entry.now = str(event.get("verb")), str(event.get("state"))
    elif name == "sync":
        entry.now = str(event.get("state"))
    return entry


def _complete(entry: Entry | None, event: Event) -> None:
    if entry is None:
        return
    name = event["event"]
    if name == "role-cause":
        entry.cause = "; ".join(filter(None, (entry.cause, str(event.get("cause", "")))))
        entry.text = f"role {entry.was} -> {entry.now}: {entry.cause}"
    elif name == "role-applied":
        entry.seconds = event.get("seconds")
    else:
        entry.now, entry.cause = str(event.get("state")), str(event.get("why", ""))
        entry.seconds = round(max(0.0, float(event["at"]) - entry.when), 3)
        entry.text = journal.words("operator", {**event})


def _places(events: Iterable[Event]) -> dict[tuple[str, int], int]:
    """Where in its node's order each event is; a wiped node's later log follows the earlier."""
    return {(str(e["log"]), int(e["seq"])): place for place, e in enumerate(events)}


def _reach(event: Event, places: Mapping[tuple[str, int], int]) -> int:
    """How many events of the other node were known when this one was recorded."""
    knew = event.get("knew")
    if not knew:
        return 0
    log, seq = str(knew[0]), int(knew[1])
    if (log, seq) in places:
        return places[log, seq] + 1
    # That very line is gone (retention): what is left of its log below it was known all the same.
    below = [place for (other, number), place in places.items() if other == log and number <= seq]
    return max(below, default=-1) + 1


def merge(ours: tuple[str, Sequence[Event]], theirs: tuple[str, Sequence[Event]]) -> list[Entry]:
    """Both nodes in one line, oldest first."""
    told = [entries(node, events) for node, events in (ours, theirs)]
    index = [_places(events) for _, events in (ours, theirs)]

    def after(side: int, event: Event, entry: Entry) -> bool:
        """Whether an event of a side was recorded knowing of an entry of the other's."""
        return _reach(event, index[1 - side]) > index[1 - side][entry.log, entry.seq]

    line: list[Entry] = []
    heads, last = [0, 0], -1
    while heads[0] < len(told[0]) or heads[1] < len(told[1]):
        ready = [told[side][heads[side]] for side in (0, 1) if heads[side] < len(told[side])]
        if len(ready) == 2:
            (a, a_event), (b, b_event) = ready
            side = int(after(0, a_event, b) or not (after(1, b_event, a) or _earlier(a, b)))
        else:
            side = 0 if heads[0] < len(told[0]) else 1
        entry, event = told[side][heads[side]]
        if last == 1 - side and not after(side, event, line[-1]):
            entry.order = "by clock"
        line.append(entry)
        heads[side] += 1
        last = side
    return line


def _earlier(a: Entry, b: Entry) -> bool:
    """Which of two goes first where neither node knew of the other's."""
    if None not in (a.generation, b.generation) and a.generation != b.generation:
        return bool(a.generation < b.generation)  # type: ignore[operator]
    return a.when <= b.when


def shown(line: Iterable[Entry], most: int, *, everything: bool = False) -> list[Entry]:
    """The last entries, without what is only detail."""
    kept = [entry for entry in line if everything or entry.event not in DETAIL]
    return kept[-most:]


def joined(one: Sequence[Event], other: Sequence[Event]) -> list[Event]:
    """The same node's events from two sources (its own, and copies): each once, in order.

    A node that was wiped begins another log: the logs follow each other as they were first seen.
    """
    logs = dict.fromkeys(str(e["log"]) for e in (*one, *other))
    known = {(str(e["log"]), int(e["seq"])): e for e in (*one, *other)}
    order = {log: place for place, log in enumerate(logs)}
    return [known[key] for key in sorted(known, key=lambda key: (order[key[0]], key[1]))]


def clock(when: float) -> str:
    """A moment as people write it, in the node's own time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
