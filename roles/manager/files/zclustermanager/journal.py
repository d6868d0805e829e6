# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: every transition and action, in a durable file and in the system's journal.

The file is append-only, bounded, and survives a torn last line. Each line has a number that only
grows, and the number of the peer's last line that was known here: so the lines of both nodes can
be put in order without a common clock (history.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import durable
from .settings import RUNTIME_DIR, STATE_DIR

SOCKET = "/run/systemd/journal/socket"
# systemd.journal-fields(7): one id for each kind of message, derived from its name for good.
NAMESPACE = uuid.UUID("dab6d96c-2c84-421f-ad55-c88163782468")
LARGEST = 2 << 20
TAIL = 64 << 10
LONGEST_TEXT = 1000
LONGEST_LIST = 20
INFO, NOTICE, WARNING, ERROR, DEBUG = 6, 5, 4, 3, 7


@dataclass(frozen=True)
class Meaning:
    """What an event says to people (its details in braces), and its priority (syslog(3))."""

    words: str
    priority: int = INFO


EVENTS: dict[str, Meaning] = {
    "daemon": Meaning("zclustermanager {state}"),
    "role": Meaning("role {was} -> {now}: {cause}", NOTICE),
    "role-cause": Meaning("{cause}", NOTICE),
    "role-applied": Meaning("role {role} applied in {seconds} s"),
    "action-failed": Meaning("{action}: {why}", ERROR),
    "conntrackd-failed": Meaning("conntrackd {arguments}: {why}", ERROR),
    "guard-failed": Meaning("the guard of a takeover cannot {step}: {why}", ERROR),
    "connections-asked": Meaning("the peer's connections are asked for again: {why}", NOTICE),
    "recover-failed": Meaning("a half-applied pass cannot be finished: {why}", ERROR),
    "keepalived": Meaning("keepalived: {line}", DEBUG),
    "fifo": Meaning("keepalived's events are read from a new file: {why}", WARNING),
    "fence": Meaning("keepalived is killed and started again: {why}", WARNING),
    "path": Meaning("this node's own path is cut: {out} {why}", WARNING),
    "keeper-failed": Meaning("the keeper of the services: {why}", ERROR),
    "stale-revision": Meaning("this node does not start its heartbeat: {why}", ERROR),
    "stale-revision-released": Meaning("the heartbeat may start again"),
    "maintenance": Meaning("maintenance {state} {why}", NOTICE),
    "readiness": Meaning("ready to take over: {ready} {why}"),
    "switchover": Meaning("switchover {step} {why}", NOTICE),
    "hold": Meaning("the backup is kept from taking over: {step} {why}", NOTICE),
    "look-failed": Meaning("the node's role cannot be looked at: {why}", ERROR),
    "sync": Meaning("synchronization {state} {why}", NOTICE),
    "sync-applied": Meaning("configuration {generation} of the peer applied: {paths}"),
    "sync-paused": Meaning("synchronization paused by {who}: {why}", NOTICE),
    "sync-resumed": Meaning("synchronization resumed by {who}", NOTICE),
    "sync-resolved": Meaning("diverged configuration resolved: {keep} is kept", NOTICE),
    "sync-restored": Meaning("version {version} restored: {paths}", NOTICE),
    "service": Meaning("service {name} {state} {why}", NOTICE),
    "activator-failed": Meaning("activation of services: {why}", ERROR),
    "teller-failed": Meaning("services are not told of the promotion: {why}", ERROR),
    "on-promotion-failed": Meaning("service {name} on promotion: {why}", ERROR),
    "service-start": Meaning("service {name} is started here {why}", NOTICE),
    "service-stop": Meaning("service {name} is stopped here {why}", NOTICE),
    "service-restart": Meaning("service {name} is restarted here {why}", NOTICE),
    "service-on-peer": Meaning("service {name} on {node}: {state} {why}", WARNING),
    "gives-up": Meaning("this node gives up mastership for service {service}: {why}", ERROR),
    "hook-failed": Meaning("hook {hook}: {why}", WARNING),
    "herald-failed": Meaning("metrics, hooks and events are not told: {why}", WARNING),
    "operator": Meaning("{verb} {state} by {who} {why}", NOTICE),
}
"""Every event there is. To add one, add a row: its id and its place in the docs follow."""


def message_id(event: str) -> str:
    """The MESSAGE_ID of an event (sd-journal(3)): 32 hexadecimal digits, the same for ever."""
    return uuid.uuid5(NAMESPACE, event).hex


class _Blank(dict[str, str]):
    """Details for a sentence: what is not there leaves nothing behind."""

    def __missing__(self, _: str) -> str:
        return ""


def words(event: str, details: Mapping[str, Any]) -> str:
    """An event as a sentence."""
    told = {
        name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in details.items()
    }
    meaning = EVENTS.get(event)
    if meaning is None:
        return f"{event} {' '.join(f'{k}={v}' for k, v in told.items())}".strip()
    return meaning.words.format_map(_Blank(told)).strip().removesuffix(":")


@dataclass(frozen=True)
class Log:
    """The files of one node's events, and of what is known of its peer's."""

    state: Path = STATE_DIR
    runtime: Path = RUNTIME_DIR

    @property
    def own(self) -> Path:
        """This node's events."""
        return self.state / "events.jsonl"

    @property
    def copy(self) -> Path:
        """The peer's events, as far as they were told."""
        return self.state / "events.peer.jsonl"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """One writer at a time."""
        return durable.locked(self.runtime / "events.lock")

    def append(self, event: str, details: dict[str, Any]) -> dict[str, Any]:
        """Number an event and append it to this node's file."""
        with self.lock():
            last = last_line(self.own) or last_line(_older(self.own)) or {}
            known = last_line(self.copy) or last_line(_older(self.copy)) or {}
            line = {
                **details,
                "log": last.get("log") or uuid.uuid4().hex[:12],
                "seq": int(last.get("seq", 0)) + 1,
                "knew": [known["log"], known["seq"]] if known else None,
                "event": event,
                # For people, and where nothing else tells which was first.
                "at": round(time.time(), 3),
            }
            _append(self.own, [line])
        return line

    def keep_copies(self, events: Iterable[dict[str, Any]]) -> None:
        """Append what the peer told of its own events; what is there already is left out."""
        with self.lock():
            last = last_line(self.copy) or last_line(_older(self.copy)) or {}
            _append(
                self.copy,
                [e for e in events if e["log"] != last.get("log") or e["seq"] > last["seq"]],
            )

    def last_copied(self) -> tuple[str, int]:
        """The peer's last event that is known here: its log and number."""
        last = last_line(self.copy) or last_line(_older(self.copy)) or {}
        return str(last.get("log", "")), int(last.get("seq", 0))

    def after(self, log: str, seq: int, most: int) -> list[dict[str, Any]]:
        """Own events the peer does not know yet, oldest first; all if it knows another log.

        They are durable here before they are told: a number is never used twice.
        """
        self.flush()
        return [e for e in self.read() if e["log"] != log or e["seq"] > seq][:most]

    def read(self) -> list[dict[str, Any]]:
        """This node's events, oldest first."""
        return lines(_older(self.own)) + lines(self.own)

    def read_copies(self) -> list[dict[str, Any]]:
        """The peer's events as they were told, oldest first."""
        return lines(_older(self.copy)) + lines(self.copy)

    def flush(self) -> None:
        """Make the events durable (fdatasync(2))."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self.own, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _append(path: Path, events: Iterable[dict[str, Any]]) -> None:
    if path.exists() and path.stat().st_size > LARGEST:
        path.replace(_older(path))
    text = "".join(json.dumps(event, sort_keys=True) + "\n" for event in events)
    if not text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        # A line that a crash tore is closed, so that it costs itself alone.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            text = f"\n{text}"
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
        return event if isinstance(event["seq"], int) and isinstance(event["log"], str) else None
    except (ValueError, KeyError, TypeError):
        return None


def lines(path: Path) -> list[dict[str, Any]]:
    """All whole events in a file; what is torn or strange is left out."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [event for line in data.splitlines() if (event := _parsed(line)) is not None]


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole event in a file; None when there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL))
            tail = stream.read().splitlines()
    except FileNotFoundError:
        return None
    return next((event for line in reversed(tail) if (event := _parsed(line)) is not None), None)


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    if isinstance(value, list | tuple):
        return [_bounded(item) for item in value[:LONGEST_LIST]]
    return value


def datagram(fields: dict[str, str]) -> bytes:
    """Fields as the journal's native protocol has them (systemd: JOURNAL_NATIVE_PROTOCOL)."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="replace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def fields(event: str, details: dict[str, Any], seq: int | None) -> dict[str, str]:
    """What the system's journal is told of an event."""
    meaning = EVENTS.get(event, Meaning(""))
    told = {
        "MESSAGE": words(event, details),
        "MESSAGE_ID": message_id(event),
        "PRIORITY": str(meaning.priority),
        "SYSLOG_IDENTIFIER": "zclustermanager",
        "ZCLUSTER_EVENT": event,
    }
    if seq is not None:
        told["ZCLUSTER_SEQ"] = str(seq)
    for name, value in details.items():
        told[f"ZCLUSTER_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    return told


def _tell_journal(event: str, details: dict[str, Any], seq: int | None) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.setblocking(False)
            link.sendto(datagram(fields(event, details, seq)), SOCKET)
    except OSError:
        # No journal, or one that is busy: systemd takes what comes on standard error.
        print(words(event, details), file=sys.stderr, flush=True)


# The daemon's loop does not wait for a disk: its scribe makes events durable.
flushed_later = False


def record(event: str, **details: Any) -> None:
    """Append an event and tell the journal; a full disk or a dead journal stops nothing."""
    bounded = {name: _bounded(value) for name, value in details.items()}
    seq = None
    try:
        log = Log()
        seq = log.append(event, bounded)["seq"]
        if not flushed_later:
            log.flush()
    except OSError as error:
        print(f"cannot record the event: {error}", file=sys.stderr)
    _tell_journal(event, bounded, seq)
