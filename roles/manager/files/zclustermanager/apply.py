# SPDX-License-Identifier: GPL-3.0-or-later
"""`zcluster apply`: rolls a change of the services' configuration to the pair, or tries it on both.

On the master it validates and activates here, then waits for the backup's answer. A check activates
nothing: the candidate lies in a scratch copy that only the validator sees in the place of the live
files, in a mount namespace of its own (mount_namespaces(7)).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import activation, addresses, observe, peer, processes
from .activation import Result, State
from .settings import RUNTIME_DIR, Cluster, Service
from .sync import stage, tree
from .sync.store import Store
from .sync.tree import Entry, Manifest

LARGEST_CANDIDATE = 64 << 20
BEHIND_LONGEST = 30.0
ACCEPTED, UNKNOWN = "accepted", "unknown"
BIND = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'


class ApplyError(Exception):
    """Nothing was done; the text says why."""


def chosen(cluster: Cluster, names: Sequence[str]) -> list[Service]:
    """The services named, in the order in which they start; all of them when none is named."""
    known = {service.name for service in cluster.services}
    if unknown := sorted(set(names) - known):
        raise ApplyError(
            f"service {unknown[0]} is not managed; managed are: {', '.join(sorted(known))}"
        )
    return [s for s in cluster.services if not names or s.name in names]


def apply(cluster: Cluster, names: Sequence[str]) -> dict[str, Any]:
    """Validate all, activate them here, wait for the backup's answer; rows for both nodes."""
    services = _on_master(cluster, names)
    with activation.alone():
        results = {s.name: found for s in services if (found := activation.validate(s))}
        if results:
            # All or nothing: what was valid together is activated together.
            activation.keep(results)
            here = [_as_it_is(cluster, s, results.get(s.name)) for s in services]
            return _answer(cluster, here + _unknown(cluster, services, "not asked"))
        contents, outcomes = activation.contents(), activation.outcomes()
        results = activation.run(cluster, services, master=True)
        told = activation.contents()
    changed = [
        name
        for name, result in results.items()
        if told.get(name) != contents.get(name) or result != outcomes.get(name)
    ]
    here = [_row(cluster.local.hostname, s, results[s.name]) for s in services]
    return _answer(cluster, here + _activated(cluster, services), changed)


def check(cluster: Cluster, names: Sequence[str], candidate: str = "") -> dict[str, Any]:
    """Validate on both nodes without activating; `candidate`: a tree to try instead of the live."""
    services = _on_master(cluster, names)
    roots = {
        path: candidate.rstrip("/") + path
        if candidate and os.path.lexists(candidate.rstrip("/") + path)
        else path
        for service in services
        for path in service.paths
    }
    if candidate and all(path == root for path, root in roots.items()):
        raise ApplyError(f"{candidate} holds none of the services' paths: {', '.join(roots)}")
    manifest, contents = pack(roots, cluster.sync_excludes)
    if candidate:
        with scratch(manifest, contents, list(roots), cluster.sync_excludes) as binds:
            tried = {s.name: verdict(s, binds) for s in services}
    else:
        tried = {s.name: verdict(s, {}) for s in services}
    here = [{"service": s.name, "node": cluster.local.hostname, **tried[s.name]} for s in services]
    document = {
        "services": [s.name for s in services],
        "manifest": tree.dump(manifest),
        "contents": contents,
    }
    try:
        said = peer.ask(cluster, "try", document, timeout=_patience(services))
        there = [
            {"service": s.name, "node": cluster.peer.hostname, **said["services"][s.name]}
            for s in services
        ]
    except peer.PeerError as error:
        there = _unknown(cluster, services, str(error))
    return _answer(cluster, here + there, check=True)


def _as_it_is(cluster: Cluster, service: Service, rejected: Result | None) -> dict[str, Any]:
    """The row of a service that was not told anything: rejected itself, or because of another."""
    if rejected:
        return _row(cluster.local.hostname, service, rejected)
    (told,) = (s for s in activation.report(cluster, master=True) if s["name"] == service.name)
    result = Result(State(told["state"]), ": ".join(filter(None, ("not applied", told["why"]))))
    return _row(cluster.local.hostname, service, result)


def activate_here(cluster: Cluster, document: Any) -> dict[str, Any]:
    """The backup's side of `apply`: the outcomes, once it has the master's configuration."""
    store = Store()
    if addresses.held(cluster):
        raise ValueError("this node is master too")
    services = chosen(cluster, document["services"])
    if tree.digest(_scanner(cluster, services).scan()) != document["content"]:
        return {"behind": True}
    with activation.alone():
        generation = store.generation().id
        known = activation.outcomes() if generation == activation.activated() else {}
        bad = [s for s in services if s.name not in known or known[s.name].state in activation.BAD]
        known |= activation.run(cluster, bad, master=False)
        report = {told["name"]: told for told in activation.report(cluster, master=False)}
    return {"services": {s.name: report[s.name] for s in services}}


def try_here(cluster: Cluster, document: Any) -> dict[str, Any]:
    """The backup's side of a check: the candidate in a scratch copy, tried, and taken away."""
    services = chosen(cluster, document["services"])
    manifest = tree.undump(document["manifest"])
    paths = [path for service in services for path in service.paths]
    scanner = tree.Scanner(paths, cluster.sync_excludes)
    if outside := stage.outside(manifest, scanner):
        raise ValueError(f"path {outside[0]!r} is not one of the services'")
    with scratch(manifest, document["contents"], paths, cluster.sync_excludes) as binds:
        return {"services": {s.name: verdict(s, binds) for s in services}}


def verdict(service: Service, binds: dict[str, str]) -> dict[str, str]:
    """The outcome of a check, for a row."""
    for path in binds.values():
        if _reads(service, path) and not os.path.lexists(path):
            # Nothing can be laid over it, and no program was asked.
            return {"state": UNKNOWN, "why": f"{path} is not there yet: it cannot be tried"}
    result = try_one(service, binds)
    rejected = result.state is State.REJECTED
    return {"state": State.REJECTED.value if rejected else ACCEPTED, "why": result.why}


def try_one(service: Service, binds: dict[str, str]) -> Result:
    """Run the validator with other files in the place of the live ones; binds: files -> place."""
    if not service.validate:
        return Result(State.ACTIVE, "has no validator")
    pairs = [item for root, path in binds.items() if _reads(service, path) for item in (root, path)]
    if missing := [path for path in pairs[1::2] if not os.path.lexists(path)]:
        return Result(State.REJECTED, f"{missing[0]} is not there yet: it cannot be tried")
    words = shlex.split(service.validate)
    if pairs:
        words = ["unshare", "--mount", "sh", "-c", BIND, "sh", *pairs, "--", *words]
    done = processes.bounded(words, service.validate_seconds)
    return Result(State.ACTIVE) if done.ok else Result(State.REJECTED, done.finding)


@contextlib.contextmanager
def scratch(
    manifest: Manifest, contents: dict[str, str], paths: Sequence[str], excludes: Sequence[str]
) -> Iterator[dict[str, str]]:
    """Lay the candidate out, with this node's own excluded files in it; what to bind where.

    In /run, 0700: keys are among it, and nothing of it may stay.
    """
    directory = Path(tempfile.mkdtemp(prefix="try-", dir=RUNTIME_DIR))
    try:
        for path, entry in sorted(manifest.items()):
            _lay(entry, Path(f"{directory}{path}"), contents)
        for path in paths:
            for own in own_files(path, excludes):
                copy = Path(f"{directory}{own}")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(own, copy, follow_symlinks=False)
        yield {f"{directory}{path}": path for path in paths if path in manifest}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _lay(entry: Entry, place: Path, contents: dict[str, str]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == "symlink":
        place.symlink_to(entry.target)
        return
    if entry.kind == "directory":
        place.mkdir(exist_ok=True)
    else:
        content = base64.b64decode(contents[entry.sha256])
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise ValueError(f"the content of {entry.path} arrived damaged")
        place.write_bytes(content)
    # A validator may look whether a key is too open, or run as the service's own user.
    with contextlib.suppress(LookupError):
        shutil.chown(place, entry.owner, entry.group)
    place.chmod(entry.mode)


def own_files(root: str, excludes: Sequence[str]) -> Iterator[str]:
    """Files below a path that stay on this node: excluded from synchronization."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if tree.excluded(path, excludes) and os.path.isfile(path):
                yield path


def _reads(service: Service, path: str) -> bool:
    return path in service.paths


def _on_master(cluster: Cluster, names: Sequence[str]) -> list[Service]:
    services = chosen(cluster, names)
    if not addresses.held(cluster):
        raise ApplyError(
            f"{cluster.local.hostname} does not serve: apply on the master "
            "(zcluster apply finds it)"
        )
    return services


def _activated(cluster: Cluster, services: Sequence[Service]) -> list[dict[str, Any]]:
    """Wait until the backup has what is live here and has activated it."""
    scanner = _scanner(cluster, services)
    names = [s.name for s in services]
    deadline = time.monotonic() + BEHIND_LONGEST
    while True:
        document = {"services": names, "content": tree.digest(scanner.scan())}
        try:
            said = peer.ask(cluster, "activate", document, timeout=_patience(services))
        except peer.PeerError as error:
            return _unknown(cluster, services, str(error))
        if "services" in said:
            return [
                {
                    "service": name,
                    "node": cluster.peer.hostname,
                    "state": said["services"][name]["state"],
                    "why": said["services"][name]["why"],
                }
                for name in names
            ]
        told = observe.ask_daemon() or {}
        sync = told.get("sync", {"state": "unknown", "why": "zclustermanager does not answer"})
        if time.monotonic() > deadline or sync["state"] not in ("in sync", "pending"):
            why = f"it does not have this configuration: synchronization {sync['state']}"
            return _unknown(cluster, services, f"{why}: {sync['why']}".rstrip(": "))
        time.sleep(0.2)


def _scanner(cluster: Cluster, services: Sequence[Service]) -> tree.Scanner:
    """What these services read, and nothing else: other files may change all the time."""
    paths = dict.fromkeys(path for service in services for path in service.paths)
    return tree.Scanner(paths, cluster.sync_excludes)


def pack(roots: dict[str, str], excludes: Sequence[str]) -> tuple[Manifest, dict[str, str]]:
    """Manifest and contents of the candidate, under the paths where it is to live.

    What stays on each node is left out: its place there says so, not the candidate's.
    """
    manifest: tree.Entries = {}
    contents: dict[str, str] = {}
    total = 0
    for path, root in roots.items():
        for place, entry in tree.Scanner([root], ()).scan().items():
            name = path + place[len(root) :]
            if tree.excluded(name, excludes):
                continue
            # Each name with its own content: a scratch copy has no need of hard links.
            manifest[name] = replace(entry, path=name, link="")
            if entry.kind == "file" and entry.sha256 not in contents:
                content = Path(place).read_bytes()
                total += len(content)
                if total > LARGEST_CANDIDATE:
                    raise ApplyError(f"more than {LARGEST_CANDIDATE >> 20} MiB cannot be tried")
                contents[entry.sha256] = base64.b64encode(content).decode("ascii")
    return manifest, contents


def _patience(services: Sequence[Service]) -> float:
    return 15.0 + activation.patience(services)


def _row(node: str, service: Service, result: Result) -> dict[str, Any]:
    return {
        "service": service.name, "node": node, "state": result.state.value, "why": result.why
    }  # fmt: skip


def _unknown(cluster: Cluster, services: Sequence[Service], why: str) -> list[dict[str, Any]]:
    return [
        {"service": s.name, "node": cluster.peer.hostname, "state": UNKNOWN, "why": why}
        for s in services
    ]


def _answer(
    cluster: Cluster,
    rows: list[dict[str, Any]],
    changed: Sequence[str] = (),
    *,
    check: bool = False,
) -> dict[str, Any]:
    """The answer to the one who asked; changed: the services that were told something new here."""
    return {
        "hostname": cluster.local.hostname,
        "check": check,
        "changed": list(changed),
        "services": rows,
    }


def code(rows: Sequence[dict[str, Any]]) -> int:
    """The exit code: 2 when a service is not as it should be, 3 when a node did not say.

    1 while one is starting, else 0.
    """
    states = {row["state"] for row in rows}
    if states & {state.value for state in activation.BAD}:
        return 2
    if UNKNOWN in states:
        return 3
    return 1 if State.STARTING.value in states else 0


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The rows for people."""
    for row in rows:
        why = f"  {row['why']}" if row["why"] else ""
        yield f"{row['service']:<16} {row['node']:<12} {row['state']}{why}"
