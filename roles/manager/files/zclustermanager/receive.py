# SPDX-License-Identifier: GPL-3.0-or-later
"""The receiving gate: parses and judges every request of the peer. Runs as root.

One process for each request, or for a session of them (see session.py). The socket unit starts it
with the connection on standard input and output; its first line is the relay's, the rest is the
request's own.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from . import (
    activation,
    addresses,
    apply,
    exchange,
    journal,
    peer,
    readiness,
    session,
    stepdown,
    takeover,
    versions,
)
from .settings import SETTINGS_FILE, Cluster, load
from .sync import generation as generations
from .sync import inotify, offers, operate, tree
from .sync.disk import LocalDisk
from .sync.replica import Replica
from .sync.sender import copy_contents
from .sync.store import Store, new_id

TOKEN = re.compile(r"[0-9a-f]{32}")
# What rsync's client asks of the far end for `--recursive --whole-file --sparse DIR/ host:TOKEN/`:
# exactly r, W and S, then `.`, then the destination. Letters after `e.` are what the client can do,
# an argument. Nothing else is let in: `s` alone would have rsync read a new command line from us.
RSYNC = re.compile(r"rsync --server -[rWS]{3}e\.[A-Za-z]*(?: --timeout=\d+)? \. ([0-9a-f]{32})/")
# The same for what the peer pulls, which was frozen for it.
RSYNC_PULL = re.compile(
    r"rsync --server --sender -[rWS]{3}e\.[A-Za-z]*(?: --timeout=\d+)? \. ([0-9a-f]{32})/"
)
PLAIN = (
    "activate",
    "events",
    "fetch",
    "generation",
    "offer",
    "ping",
    "prepare",
    "session",
    "standing",
    "try",
)
# What a session is for: what is asked at each change.
IN_SESSION = ("generation", "offer", "commit")
WITH_TOKEN = ("commit", "freeze", "kept", "thaw")
# Bytes of a request; a manifest of 100,000 files has 23 MB, the list of contents wanted 7.
LARGEST = {"offer": 64 << 20, "try": 64 << 20, "freeze": 16 << 20, "events": 16 << 20}
LARGE = 1 << 20
# Seconds in which a request must have arrived: who is cut off in the middle does not say so.
ARRIVES_WITHIN = 60
# Seconds in which it is answered: what hangs must not close the gate. (rsync has its own bound.)
ANSWERED_WITHIN = 900
# Differing paths that are named to the other node.
MOST_NAMED = 100
# Seconds after which a session gives way to another, when nothing is asked.
OLD = 6 * 3600.0
# Every byte is read again so often, and never more often than takes a thousandth of a core: events
# are only hints. (This node's daemon does so as well.)
LOOK = 600.0
SELDOM = 1000


class RequestError(Exception):
    """A request that is not answered; the text says why, to the peer and to the journal."""


class PassingError(RequestError):
    """Not now: nothing is wrong."""


def parse(command: str) -> tuple[str, str]:
    """Split a request into its verb and its stage token; RequestError for anything else."""
    if match := RSYNC.fullmatch(command):
        return "rsync", match[1]
    if match := RSYNC_PULL.fullmatch(command):
        return "rsync-pull", match[1]
    verb, _, token = command.partition(" ")
    if verb in WITH_TOKEN and TOKEN.fullmatch(token):
        return verb, token
    if command in PLAIN:
        return command, ""
    allowed = ", ".join((*PLAIN, *WITH_TOKEN))
    raise RequestError(f"request {command[:80]!r} is not allowed: {allowed} or rsync")


def _master(cluster: Cluster) -> bool:
    """Whether this node serves, by what the kernel holds: a role on paper protects nothing."""
    return bool(addresses.held(cluster))


def ping(gate: Gate, _: str, __: Any) -> dict[str, Any]:
    """Who is here, and what it believes it is."""
    return {
        "hostname": gate.cluster.local.hostname,
        "cluster": gate.cluster.name,
        "revision": gate.cluster.revision,
        "master": (master := _master(gate.cluster)),
        "services": activation.report(gate.cluster, master=master),
        "gave_up": stepdown.gave_up_ago(),
        "versions": versions.installed(),
    }


def generation(gate: Gate, _: str, __: Any) -> dict[str, Any]:
    """This node's generation."""
    return {"generation": generations.dump(Store().generation()), "master": _master(gate.cluster)}


class Gate:
    """What answers: for one request, or in a session, which remembers what it has seen."""

    def __init__(self, cluster: Cluster, watch: inotify.Watcher | None = None) -> None:
        self.cluster = cluster
        self.watch = watch
        # What was last offered in this session.
        self.offered: tree.Manifest | None = None

    @cached_property
    def disk(self) -> LocalDisk:
        """This node's."""
        cluster = self.cluster
        scanner = tree.Scanner(cluster.sync_paths, cluster.sync_excludes, watch=self.watch)
        return LocalDisk(Store(limits=cluster.sync_keep), scanner)

    @cached_property
    def replica(self) -> Replica:
        """This node's side of synchronization."""
        return Replica(self.disk, new_id)

    def look(self) -> float:
        """Read everything again; seconds of processor time that it took."""
        began = time.thread_time()
        signal.alarm(ANSWERED_WITHIN)
        with contextlib.suppress(OSError):
            self.disk.scan(trust=False)
        signal.alarm(0)
        return time.thread_time() - began


def _made_of(files: Iterable[Path]) -> list[tuple[int, int] | None]:
    """What a new process would begin with, so far as it can be another than it was."""
    found: list[tuple[int, int] | None] = []
    for file in files:
        try:
            info = file.stat()
            found.append((info.st_ino, info.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def offer(gate: Gate, _: str, document: Any) -> dict[str, Any]:
    """Judge a sender's generation; on accept open a stage and name the contents wanted.

    If all of them came with it, it is applied at once and answered as by `commit`.
    """
    if found := operate.paused():
        raise PassingError(f"synchronization is {operate.pause_words(found)}")
    base, gate.offered = gate.offered, None
    sender = offers.undump(document, gate.cluster, base)
    gate.offered = sender.manifest
    reply = gate.replica.judge(sender, i_am_master=_master(gate.cluster), token=uuid.uuid4().hex)
    activation.passive(gate.cluster, reply.pop("finished"))
    reply["differing"] = reply.get("differing", [])[:MOST_NAMED]
    mine = reply["generation"]["id"]
    # No file tells this node's daemon of a verdict, nor of equal content under another id.
    store = gate.disk.store
    if store.tell_verdict(reply["differing"], mine) or store.generation().id != mine:
        operate.wake()
    if "contents" in document and gate.replica.fill(reply, _contents(document["contents"])):
        reply |= commit(gate, reply["stage"], None)
    return reply


def _contents(document: Any) -> dict[str, bytes]:
    try:
        return {sha256: base64.b64decode(text, validate=True) for sha256, text in document.items()}
    except (AttributeError, binascii.Error, ValueError) as error:
        raise RequestError(f"contents are not in base64: {error}") from error


def commit(gate: Gate, token: str, _: Any) -> dict[str, Any]:
    """Verify a stage, judge once more under the lock, apply it and activate what depends on it."""
    changed, whole = gate.replica.commit(token, i_am_master=_master(gate.cluster))
    journal.record("sync-applied", paths=changed[:20], count=len(changed))
    generation = gate.disk.generation().id
    outcomes = activation.passive(gate.cluster, changed, generation=generation)
    return {"applied": len(changed), "whole": whole, "services": outcomes}


def activate(gate: Gate, _: str, document: Any) -> dict[str, Any]:
    """The outcome of the services, once this node has the master's configuration."""
    return apply.activate_here(gate.cluster, document)


def try_candidate(gate: Gate, _: str, document: Any) -> dict[str, Any]:
    """Whether the services' programs accept a candidate, which is not activated."""
    return apply.try_here(gate.cluster, document)


def standing(gate: Gate, _: str, __: Any) -> dict[str, Any]:
    """What this node has, for a peer that catches up with it."""
    return readiness.dump(readiness.standing(gate.cluster))


def prepare(gate: Gate, _: str, __: Any) -> dict[str, Any]:
    """Make ready to take over as planned; what is still in the way."""
    return takeover.prepare(gate.cluster)


def fetch(gate: Gate, _: str, document: Any) -> dict[str, Any]:
    """What this node has, for a peer that may be behind."""
    asker = generations.undump(document["generation"])
    relation, mine = gate.replica.fetch(asker, i_am_master=_master(gate.cluster))
    return {"relation": relation.value, **offers.dump(mine, gate.cluster)}


def freeze(gate: Gate, token: str, document: Any) -> dict[str, Any]:
    """Copy contents that the peer lacks, so that it can take them by rsync."""
    disk = gate.disk
    directory = disk.store.outgoing / token
    disk.store.forget_old()
    directory.mkdir(parents=True, mode=0o700)
    whole = False
    try:
        whole = copy_contents(disk.scan(), set(document["need"]), directory)
    finally:
        if not whole:
            shutil.rmtree(directory, ignore_errors=True)
    if not whole:
        raise PassingError("files change while they are read; trying again")
    return {"frozen": token}


def kept(_: Gate, token: str, document: Any) -> dict[str, Any]:
    """Copy what a version of this node keeps of a path, so that the peer can take it by rsync."""
    store = Store()
    path = str(document["path"])
    entries = operate.freeze_kept(store, str(document["version"]), path, store.outgoing / token)
    return {"entries": tree.dump(entries)}


def thaw(gate: Gate, token: str, _: Any) -> dict[str, Any]:
    """Remove frozen copies: the peer has them."""
    shutil.rmtree(gate.disk.store.outgoing / token, ignore_errors=True)
    return {}


def events(_: Gate, __: str, document: Any) -> dict[str, Any]:
    """Keep what the peer tells of its events, tell what it lacks of ours."""
    return exchange.answer(journal.Log(), document)


HANDLERS: dict[str, Callable[[Gate, str, Any], dict[str, Any]]] = {
    "ping": ping,
    "generation": generation,
    "offer": offer,
    "events": events,
    "commit": commit,
    "standing": standing,
    "prepare": prepare,
    "activate": activate,
    "try": try_candidate,
    "fetch": fetch,
    "freeze": freeze,
    "kept": kept,
    "thaw": thaw,
}


def _first_line() -> bytes:
    """The relay's line, unbuffered: what follows belongs to the request (or to rsync)."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 65536:
        if not (byte := os.read(0, 1)):
            break
        line += byte
    return line


def _body(verb: str) -> Any:
    """The document that came with a request; RequestError for more than any honest one has."""
    limit = LARGEST.get(verb, LARGE)
    body = sys.stdin.buffer.read(limit + 1)
    if len(body) > limit:
        raise RequestError(f"request {verb} has more than {limit} bytes")
    return json.loads(body) if body else None


def _answer(gate: Gate, verb: str, token: str, document: Any) -> dict[str, Any]:
    signal.alarm(ANSWERED_WITHIN)
    return HANDLERS[verb](gate, token, document)


def _no(command: object, error: Exception) -> dict[str, Any]:
    """What is refused is logged, whatever was sent."""
    text = str(error) if not isinstance(error, KeyError) else f"field {error} is missing"
    print(f"request {str(command)[:80]!r} refused: {text}", file=sys.stderr)
    return {"error": text, "passing": isinstance(error, (PassingError, tree.UnstableError))}


def _session() -> int:
    """Answer request after request, until there is none for a while."""
    files = [SETTINGS_FILE, *Path(__file__).parent.rglob("*.py")]
    made_of, cluster, watch = _made_of(files), load(), None
    if cluster is None:
        raise RequestError("this node is in no cluster")
    with contextlib.suppress(OSError):  # what cannot be watched is looked at
        watch = inotify.Watcher()
    gate = Gate(cluster, watch)
    began = time.monotonic()
    look_at = began + LOOK

    def look() -> float:
        nonlocal look_at
        if time.monotonic() >= look_at:
            cost = gate.look()
            look_at = time.monotonic() + max(LOOK, SELDOM * cost)
        return look_at - time.monotonic()

    session.say({})
    signal.alarm(0)
    while line := session.heard(LARGEST["offer"], lambda: signal.alarm(ARRIVES_WITHIN), look):
        # Somebody with other settings, or programs, should answer from here on.
        if time.monotonic() - began > OLD or _made_of(files) != made_of:
            break
        session.say(_in_session(gate, line))
        signal.alarm(0)
        if not line.endswith(session.LINE_END):
            return 0
    session.say({"over": True})
    return 0


def _in_session(gate: Gate, line: bytes) -> dict[str, Any]:
    command = ""
    try:
        if not line.endswith(session.LINE_END):
            raise RequestError(f"a request has more than {LARGEST['offer']} bytes")
        said = json.loads(line)
        command = str(said["request"])
        verb, token = parse(command)
        if verb not in IN_SESSION:
            raise RequestError(f"a session is for {', '.join(IN_SESSION)} alone")
        return _answer(gate, verb, token, said["payload"])
    except Exception as error:  # noqa: BLE001 - the next request may be sound
        # What was seen may be why; a new process would see it anew.
        gate.disk.scanner.doubt()
        return _no(command, error)


def main() -> int:
    """Answer one request, or a session of them."""
    header: dict[str, Any] = {}
    signal.alarm(ARRIVES_WITHIN)
    try:
        header = {**json.loads(_first_line() or b"{}")}
        cluster = load()
        if cluster is None:
            raise RequestError("this node is in no cluster")
        verb, token = parse(str(header.get("command", "")))
        gate = Gate(cluster)
        if verb in ("rsync", "rsync-pull"):
            disk = gate.disk
            where = disk.blobs(token) if verb == "rsync" else disk.store.outgoing / token
            *words, _, _ = header["command"].split()
            # Ours counts: for how long nothing may come is not for the peer to say.
            words = [word for word in words if not word.startswith("--timeout")]
            words += [f"--timeout={peer.STALLED}", ".", f"{where}/"]
            os.chdir(where)
            signal.alarm(0)
            os.execvp("rsync", words)  # noqa: S606 - no shell is the point
        if verb == "session":
            return _session()
        answer = _answer(gate, verb, token, _body(verb))
    except Exception as error:  # noqa: BLE001 - whatever was sent, it is refused and logged
        answer = _no(header.get("command"), error)
    session.say(answer)
    signal.alarm(0)
    return 0
