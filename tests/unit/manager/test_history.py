# SPDX-License-Identifier: GPL-3.0-or-later
# Events and the history: nothing lost to a torn line, both nodes in one order without a clock.
from __future__ import annotations

import random
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import cause, exchange, history, journal, receive
from zclustermanager.journal import Log
from zclustermanager.reconcile import Role
from zclustermanager.status import Peer


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Log, Log]:
    """The event files of two nodes."""
    first, second = (Log(tmp_path / n / "state", tmp_path / n / "run") for n in ("n1", "n2"))
    return first, second


def meet(asking: Log, answering: Log) -> exchange.Exchange:
    """The two nodes exchange what they have, as over the wire."""
    talk = exchange.Exchange(lambda _, document: exchange.answer(answering, document), asking)
    talk.run()
    return talk


def names(line: list[history.Entry]) -> list[str]:
    return [entry.event for entry in line]


def test_events_are_numbered_and_a_torn_last_line_costs_itself_alone(
    logs: tuple[Log, Log],
) -> None:
    log, _ = logs
    log.append("one", {})
    log.append("two", {})
    with log.own.open("ab") as stream:
        stream.write(b'{"event": "torn", "seq": 3, "lo')
    log.append("three", {})
    assert [(e["event"], e["seq"]) for e in log.read()] == [("one", 1), ("two", 2), ("three", 3)]


def test_event_file_is_bounded_and_its_numbers_go_on(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = logs
    monkeypatch.setattr(journal, "LARGEST", 2000)
    for number in range(100):
        log.append("e", {"n": number})
    files = list(log.state.iterdir())
    assert len(files) == 2
    assert sum(path.stat().st_size for path in files) < 3 * 2000
    kept = [e["seq"] for e in log.read()]
    assert kept == list(range(kept[0], 101))
    assert len({e["log"] for e in log.read()}) == 1


def test_details_cannot_take_the_place_of_number_or_name(logs: tuple[Log, Log]) -> None:
    line = logs[0].append("real", {"seq": 99, "log": "x", "at": 0, "other": 1})
    assert (line["event"], line["seq"], line["other"]) == ("real", 1, 1)
    assert line["log"] != "x"


def test_order_across_nodes_follows_what_was_known_whatever_the_clocks_say(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = logs
    clocks = iter([1000.0, 5.0, 2000.0])  # the second node's clock is far behind
    monkeypatch.setattr(journal.time, "time", lambda: next(clocks))
    first.append("a", {})
    meet(second, first)
    second.append("b", {})
    meet(second, first)
    first.append("c", {})
    line = history.merge(("n1", first.read()), ("n2", second.read()))
    assert names(line) == ["a", "b", "c"]
    assert [entry.order for entry in line] == ["sure"] * 3


def test_events_that_neither_node_knew_of_are_said_to_be_in_the_order_of_clocks(
    logs: tuple[Log, Log],
) -> None:
    first, second = logs
    first.append("a", {})
    second.append("b", {})
    line = history.merge(("n1", first.read()), ("n2", second.read()))
    assert names(line) == ["a", "b"]
    assert line[1].order == "by clock"


def test_older_generation_goes_first_where_nothing_else_tells(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = logs
    clocks = iter([9.0, 1.0])
    monkeypatch.setattr(journal.time, "time", lambda: next(clocks))
    first.append("a", {"number": 4})
    second.append("b", {"number": 5})
    line = history.merge(("n1", first.read()), ("n2", second.read()))
    assert names(line) == ["a", "b"]


@pytest.mark.parametrize("seed", range(30))
def test_no_event_ever_stands_before_one_that_was_known_to_it(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(journal.time, "time", lambda: chance.uniform(0, 1000))
    sides = list(logs)
    for number in range(40):
        chance.choice(sides).append(f"e{number}", {})
        if chance.random() < 0.2:
            meet(*chance.sample(sides, 2))
    mine, theirs = logs[0].read(), logs[1].read()
    line = history.merge(("n1", mine), ("n2", theirs))
    place = {(entry.log, entry.seq): at for at, entry in enumerate(line)}
    assert len(place) == 40
    for event in (*mine, *theirs):
        if event["knew"]:
            assert place[tuple(event["knew"])] < place[event["log"], event["seq"]]
        if event["seq"] > 1:
            assert place[event["log"], event["seq"] - 1] < place[event["log"], event["seq"]]


def test_history_of_a_dead_node_is_on_the_other(logs: tuple[Log, Log]) -> None:
    first, second = logs
    for number in range(3):
        first.append(f"e{number}", {})
    meet(second, first)
    line = history.merge(("n2", second.read()), ("n1", second.read_copies()))
    assert names(line) == ["e0", "e1", "e2"]


def test_wiped_node_begins_a_new_log_and_its_old_events_stay_with_the_peer(
    logs: tuple[Log, Log], tmp_path: Path
) -> None:
    first, second = logs
    first.append("old", {})
    first.append("old", {})
    meet(second, first)
    wiped = Log(tmp_path / "new" / "state", tmp_path / "new" / "run")
    wiped.append("new", {})
    meet(second, wiped)
    told = history.joined(second.read_copies(), wiped.read())
    assert [e["event"] for e in told] == ["old", "old", "new"]
    second.append("after", {})
    assert names(history.merge(("n2", second.read()), ("n1", told)))[-1] == "after"


def test_exchange_brings_everything_over_however_much_it_is(logs: tuple[Log, Log]) -> None:
    first, second = logs
    for number in range(exchange.MOST + 20):
        first.append("e", {"n": number})
    second.append("mine", {})
    meet(second, first)
    meet(first, second)
    assert second.read_copies() == first.read()
    assert [e["event"] for e in first.read_copies()] == ["mine"]


@pytest.mark.parametrize(
    "events",
    [None, "x", [3], [{}], [{"log": "a", "seq": "1", "event": "e", "at": 0}],
     [{"log": "a", "seq": 1, "event": "e", "at": 0, "huge": "x" * exchange.LONGEST}]],
)  # fmt: skip
def test_strange_events_of_a_peer_are_not_kept(logs: tuple[Log, Log], events: Any) -> None:
    reply = exchange.answer(logs[0], {"have": ["", 0], "events": events})
    assert reply == {"events": [], "have": ("", 0)}


def event(name: str, seq: int, at: float, **details: Any) -> dict[str, Any]:
    return {"log": "a", "seq": seq, "knew": None, "event": name, "at": at, **details}


def test_change_of_role_is_one_entry_with_cause_duration_and_how_long_it_lasted() -> None:
    told = [
        event("role", 1, 10.0, was="unknown", now="backup", cause="zclustermanager started"),
        event("role-applied", 2, 10.1, role="backup", seconds=0.1),
        event("role", 3, 70.0, was="backup", now="master", cause="the master gave up"),
        event("role-applied", 4, 70.2, role="master", seconds=0.2),
        event("role-cause", 5, 71.0, cause="n1 does not answer"),
    ]
    backup, master = [entry.plain() for entry, _ in history.entries("n2", told)]
    assert backup["lasted"] == 60.0
    assert (master["from"], master["to"], master["seconds"]) == ("backup", "master", 0.2)
    assert master["cause"] == "the master gave up; n1 does not answer"


def test_action_of_an_operator_is_one_entry_with_who_and_how_it_ended() -> None:
    told = [
        event("operator", 1, 10.0, verb="switchover", state="begun", who="alice@ops", run="r1"),
        event("role", 2, 11.0, was="master", now="backup", cause="the peer took over"),
        event("operator", 3, 14.0, verb="switchover", state="failed", who="alice@ops", run="r1",
              why="n2 is red"),
        event("operator", 4, 20.0, verb="create", state="done", who="bob@ops", run="r2"),
    ]  # fmt: skip
    switch, _, create = [entry for entry, _ in history.entries("n1", told)]
    assert (switch.event, switch.now, switch.who) == ("switchover", "failed", "alice@ops")
    assert (switch.cause, switch.seconds) == ("n2 is red", 4.0)
    assert (create.event, create.now) == ("create", "done")


@pytest.mark.parametrize(
    ("was", "now", "heard", "gives_up", "words"),
    [
        (Role.UNKNOWN, Role.BACKUP, [], "", "zclustermanager started"),
        (Role.BACKUP, Role.MASTER, ['GROUP "zcluster" MASTER 0'], "", "not heard any more"),
        (Role.MASTER, Role.BACKUP, ['INSTANCE "eth0" FAULT 254'], "maintenance", "maintenance"),
        (Role.MASTER, Role.BACKUP, ['INSTANCE "eth0" FAULT 254'], "switchover", "switchover"),
        (Role.MASTER, Role.BACKUP, ['INSTANCE "eth0" FAULT 254'], "", "fault on eth0"),
        (Role.MASTER, Role.BACKUP, ['GROUP "zcluster" STOP 0'], "", "keepalived was stopped"),
        (Role.MASTER, Role.BACKUP, ['INSTANCE "eth0" BACKUP 254'], "", "the peer took over"),
        (Role.MASTER, Role.BACKUP, [], "", "the virtual IPs are gone"),
    ],
)
def test_cause_of_a_change_is_told_in_words(
    was: Role, now: Role, heard: list[str], gives_up: str, words: str
) -> None:
    assert words in cause.here(was, now, heard, gives_up=gives_up)


def test_look_at_the_peer_adds_whether_it_is_dead_or_gave_up() -> None:
    assert cause.of_peer("n1", Peer(False)) == "n1 does not answer"
    assert cause.of_peer("n1", Peer(True, True, master=False)) == "n1 answers and is not master"
    assert cause.of_peer("n1", Peer(True, True, master=True)) == "n1 is master too"


def test_every_event_that_is_recorded_has_a_row_with_words_and_its_own_id() -> None:
    package = Path(journal.__file__).parent
    recorded = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r'\brecord\(\s*"([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert recorded <= set(journal.EVENTS), "add a row to journal.EVENTS"
    ids = {journal.message_id(name) for name in journal.EVENTS}
    assert len(ids) == len(journal.EVENTS)
    assert all(uuid.UUID(one).hex == one for one in ids)


def test_ids_of_messages_never_change() -> None:
    assert journal.message_id("role") == "23bcc58598aa53c48cb5bc33b19c43c5"


def test_journal_is_told_in_its_native_protocol() -> None:
    said = journal.datagram(journal.fields("sync", {"state": "failed", "why": "a\nb"}, 7))
    assert b"MESSAGE_ID=" + journal.message_id("sync").encode() + b"\n" in said
    assert b"ZCLUSTER_STATE=failed\n" in said
    assert b"ZCLUSTER_WHY\n\x03\0\0\0\0\0\0\0a\nb\n" in said
    assert b"ZCLUSTER_SEQ=7\n" in said


def test_gate_lets_the_exchange_of_events_in() -> None:
    assert receive.parse("events") == ("events", "")
    assert "events" in receive.HANDLERS
