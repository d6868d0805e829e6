# SPDX-License-Identifier: GPL-3.0-or-later
"""The receiving gate: parses and judges every request of the peer. Runs as root, one per request.

The socket unit starts it with the connection on standard input and output; its first line is the
relay's, the rest is the request's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import uuid
from collections.abc import Callable
from typing import Any

from . import (
    activation,
    addresses,
    apply,
    exchange,
    journal,
    peer,
    readiness,
    stepdown,
    takeover,
    versions,
)
from .settings import Cluster, load
from .sync import generation as generations
from .sync import offers, operate, tree
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
PLAIN = ("ping", "generation", "offer", "standing", "prepare", "activate", "try", "fetch", "events")
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


def ping(cluster: Cluster, _: str, __: Any) -> dict[str, Any]:
    """Who is here, and what it believes it is."""
    return {
        "hostname": cluster.local.hostname,
        "cluster": cluster.name,
        "revision": cluster.revision,
        "master": (master := _master(cluster)),
        "services": activation.report(cluster, master=master),
        "gave_up": stepdown.gave_up_ago(),
        "versions": versions.installed(),
    }


def generation(cluster: Cluster, _: str, __: Any) -> dict[str, Any]:
    """This node's generation."""
    return {"generation": generations.dump(Store().generation()), "master": _master(cluster)}


def _replica(cluster: Cluster) -> tuple[Replica, LocalDisk]:
    disk = LocalDisk(
        Store(limits=cluster.sync_keep), tree.Scanner(cluster.sync_paths, cluster.sync_excludes)
    )
    return Replica(disk, new_id), disk


def offer(cluster: Cluster, _: str, document: Any) -> dict[str, Any]:
    """Judge a sender's generation; on accept open a stage and name the contents wanted."""
    if found := operate.paused():
        raise PassingError(f"synchronization is {operate.pause_words(found)}")
    replica, disk = _replica(cluster)
    reply = replica.judge(
        offers.undump(document, cluster), i_am_master=_master(cluster), token=uuid.uuid4().hex
    )
    activation.passive(cluster, reply.pop("finished"))
    reply["differing"] = reply.get("differing", [])[:MOST_NAMED]
    mine = reply["generation"]["id"]
    # No file tells this node's daemon of a verdict, nor of equal content under another id.
    if disk.store.tell_verdict(reply["differing"], mine) or disk.generation().id != mine:
        operate.wake()
    return reply


def commit(cluster: Cluster, token: str, _: Any) -> dict[str, Any]:
    """Verify a stage, judge once more under the lock, apply it and activate what depends on it."""
    replica, disk = _replica(cluster)
    changed = replica.commit(token, i_am_master=_master(cluster))
    journal.record("sync-applied", paths=changed[:20], count=len(changed))
    outcomes = activation.passive(cluster, changed, generation=disk.generation().id)
    return {"applied": len(changed), "services": outcomes}


def activate(cluster: Cluster, _: str, document: Any) -> dict[str, Any]:
    """The outcome of the services, once this node has the master's configuration."""
    return apply.activate_here(cluster, document)


def try_candidate(cluster: Cluster, _: str, document: Any) -> dict[str, Any]:
    """Whether the services' programs accept a candidate, which is not activated."""
    return apply.try_here(cluster, document)


def standing(cluster: Cluster, _: str, __: Any) -> dict[str, Any]:
    """What this node has, for a peer that catches up with it."""
    return readiness.dump(readiness.standing(cluster))


def prepare(cluster: Cluster, _: str, __: Any) -> dict[str, Any]:
    """Make ready to take over as planned; what is still in the way."""
    return takeover.prepare(cluster)


def fetch(cluster: Cluster, _: str, document: Any) -> dict[str, Any]:
    """What this node has, for a peer that may be behind."""
    replica, _disk = _replica(cluster)
    asker = generations.undump(document["generation"])
    relation, mine = replica.fetch(asker, i_am_master=_master(cluster))
    return {"relation": relation.value, **offers.dump(mine, cluster)}


def freeze(cluster: Cluster, token: str, document: Any) -> dict[str, Any]:
    """Copy contents that the peer lacks, so that it can take them by rsync."""
    _, disk = _replica(cluster)
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


def kept(_: Cluster, token: str, document: Any) -> dict[str, Any]:
    """Copy what a version of this node keeps of a path, so that the peer can take it by rsync."""
    store = Store()
    path = str(document["path"])
    entries = operate.freeze_kept(store, str(document["version"]), path, store.outgoing / token)
    return {"entries": tree.dump(entries)}


def thaw(cluster: Cluster, token: str, _: Any) -> dict[str, Any]:
    """Remove frozen copies: the peer has them."""
    _, disk = _replica(cluster)
    shutil.rmtree(disk.store.outgoing / token, ignore_errors=True)
    return {}


def events(_: Cluster, __: str, document: Any) -> dict[str, Any]:
    """Keep what the peer tells of its events, tell what it lacks of ours."""
    return exchange.answer(journal.Log(), document)


HANDLERS: dict[str, Callable[[Cluster, str, Any], dict[str, Any]]] = {
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


def main() -> int:
    """Answer one request."""
    header: dict[str, Any] = {}
    signal.alarm(ARRIVES_WITHIN)
    try:
        header = {**json.loads(_first_line() or b"{}")}
        cluster = load()
        if cluster is None:
            raise RequestError("this node is in no cluster")
        verb, token = parse(str(header.get("command", "")))
        if verb in ("rsync", "rsync-pull"):
            _, disk = _replica(cluster)
            where = disk.blobs(token) if verb == "rsync" else disk.store.outgoing / token
            *words, _, _ = header["command"].split()
            # Ours counts: for how long nothing may come is not for the peer to say.
            words = [word for word in words if not word.startswith("--timeout")]
            words += [f"--timeout={peer.STALLED}", ".", f"{where}/"]
            os.chdir(where)
            signal.alarm(0)
            os.execvp("rsync", words)  # noqa: S606 - no shell is the point
        document = _body(verb)
        signal.alarm(ANSWERED_WITHIN)
        answer = HANDLERS[verb](cluster, token, document)
    except Exception as error:  # noqa: BLE001 - whatever was sent, it is refused and logged
        text = str(error) if not isinstance(error, KeyError) else f"field {error} is missing"
        print(f"request {str(header.get('command'))[:80]!r} refused: {text}", file=sys.stderr)
        answer = {"error": text, "passing": isinstance(error, (PassingError, tree.UnstableError))}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    signal.alarm(0)
    return 0
