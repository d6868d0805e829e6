# SPDX-License-Identifier: GPL-3.0-or-later
# Two nodes whose disks forget what was not made durable, driven by the shipped synchronization.
from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from zclustermanager.sync import generation as generations
from zclustermanager.sync import offers, store
from zclustermanager.sync.disk import DiskError
from zclustermanager.sync.generation import Generation, Relation
from zclustermanager.sync.replica import Offer, Replica
from zclustermanager.sync.sender import Pass, Sender
from zclustermanager.sync.stage import StageError
from zclustermanager.sync.tree import Entry, Manifest, UnstableError

ROOT = "/r"
# As much of a node's settings as offers are checked against.
CLUSTER: Any = SimpleNamespace(name="web", sync_paths=(ROOT,), sync_excludes=())
DIRECTORY = None  # the content of a directory
Content = str | None
Tree = dict[str, Content]


class Killed(BaseException):
    """The process was killed, or the power failed, between two effects."""


class GoneError(Exception):
    """The peer does not answer."""


def sha(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def entry(path: str, content: Content) -> Entry:
    if content is DIRECTORY:
        return Entry(path, "directory", 0o755, "root", "root")
    return Entry(path, "file", 0o644, "root", "root", sha256=sha(content), size=len(content))


class SimulatedDisk:
    """A disk with a cache. `budget` effects go through, then the node is killed."""

    def __init__(self) -> None:
        self.live: Tree = {ROOT: DIRECTORY}
        self.durable: Tree = dict(self.live)
        self.pending: dict[str, list[tuple[bool, Content]]] = {}
        # Beside live files, by pass and path: content, and whether it is durable.
        self.beside_live: dict[tuple[str, str], tuple[Content, bool]] = {}
        # Exchanges that a power cut may undo: which of the path's changes, what was prepared.
        self.swaps: dict[tuple[str, str], tuple[int, tuple[Content, bool] | None]] = {}
        self.stored = Generation()
        self.stages: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, dict[str, str]] = {}
        self.durable_blobs: dict[str, dict[str, str]] = {}
        self.versions: list[str] = []
        self.durable_versions: list[str] = []
        self.budget: int | None = None
        self.saved: Callable[[Generation], None] = lambda _: None
        self.meanwhile: Callable[[], None] = lambda: None
        self.numbers = itertools.count()
        # Files that somebody is writing, and what the daemon's scanner saw at its last look.
        self.writing: set[str] = set()
        self.seen: Manifest | None = None
        # What a session of the gate remembers: its own last look, and what was offered last.
        self.gate_seen: Manifest | None = None
        self.gate_offered: Manifest | None = None

    def forget_session(self) -> None:
        self.gate_seen = self.gate_offered = None

    def effect(self) -> None:
        self.meanwhile()
        if self.budget is not None:
            if self.budget <= 0:
                raise Killed
            self.budget -= 1

    def put_content(
        self, path: str, content: Content, *, there: bool = True, torn: bool = False
    ) -> None:
        self.writing.discard(path)
        if there:
            self.live[path] = content
        else:
            self.live.pop(path, None)
        self.pending.setdefault(path, []).append((there, "torn" if torn else content))

    def power_cut(self, choose: Callable[[int], int]) -> None:
        """Of each path's changes since the last settle, some number of the first survive."""
        undone = set()
        for path, states in self.pending.items():
            survived = choose(len(states))
            undone |= {k for k, (at, _) in self.swaps.items() if k[1] == path and at >= survived}
            if survived:
                there, content = states[survived - 1]
                if there:
                    self.durable[path] = content
                else:
                    self.durable.pop(path, None)
        for path in sorted(self.durable):
            parent = path.rsplit("/", 1)[0]
            if path != ROOT and self.durable.get(parent, "") is not DIRECTORY:
                del self.durable[path]
        self.beside_live = {
            key: held
            for key, now in self.beside_live.items()
            if (held := self.swaps[key][1] if key in undone else now) is not None and held[1]
        }
        self.live, self.pending, self.swaps = dict(self.durable), {}, {}
        self.writing, self.seen = set(), None
        self.forget_session()
        self.blobs = {token: dict(blobs) for token, blobs in self.durable_blobs.items()}
        self.versions = list(self.durable_versions)

    # What the shipped code calls

    def lock(self, patience: float | None = None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def generation(self) -> Generation:
        return self.stored

    def save(self, generation: Generation) -> None:
        self.effect()
        self.saved(generation)
        self.stored = generation

    def scan(self, *, trust: bool = True) -> Manifest:
        found = {path: entry(path, self.live[path]) for path in sorted(self.live)}
        for path in self.writing:
            # As the shipped scanner does (tree.py): as it was, or not there yet, or nobody knows.
            if self.seen is None:
                raise UnstableError(path)
            before = self.seen.get(path)
            del found[path]
            if before is not None and before.kind == "file":
                found[path] = before
        self.seen = found
        return found

    @contextlib.contextmanager
    def request(self, *, resident: bool) -> Iterator[None]:
        """A process of its own, whose scanner has seen nothing yet, or only what a session has."""
        known, self.seen = self.seen, self.gate_seen if resident else None
        try:
            yield
        finally:
            self.gate_seen, self.seen = self.seen, known

    def settle(self, paths: Iterable[str] | None = None) -> None:
        self.effect()
        paths = None if paths is None else list(paths)
        if paths is None:
            self.durable, self.pending = dict(self.live), {}
            self.beside_live = {k: (c, True) for k, (c, _) in self.beside_live.items()}
            self.swaps = {}
            self.durable_blobs = {token: dict(blobs) for token, blobs in self.blobs.items()}
            self.durable_versions = list(self.versions)
            return
        # A journal that has a file has the directories that were made before it.
        above = {p for path in paths for p in self.pending if path.startswith(f"{p}/")}
        for path in (*sorted(p for p in above if self.live.get(p, "") is DIRECTORY), *paths):
            self.swaps = {k: v for k, v in self.swaps.items() if k[1] != path}
            if self.pending.pop(path, None):
                if path in self.live:
                    self.durable[path] = self.live[path]
                else:
                    self.durable.pop(path, None)

    def tokens(self) -> list[str]:
        return sorted(self.stages)

    def mark(self, token: str, name: str, value: Any) -> None:
        self.effect()
        self.stages.setdefault(token, {})[name] = value
        self.blobs.setdefault(token, {})

    def marked(self, token: str, name: str) -> Any:
        return self.stages.get(token, {}).get(name)

    def drop(self, token: str) -> None:
        self.effect()
        for held in (self.stages, self.blobs, self.durable_blobs):
            held.pop(token, None)

    def deliver(self, token: str, sha256: str, content: bytes) -> None:
        self.effect()
        self.blobs[token][sha256] = content.decode()

    def arrived(self, token: str, sha256: str) -> str:
        content = self.blobs.get(token, {}).get(sha256)
        return "" if content is None else sha(content)

    def unknown_owners(self, target: Manifest) -> list[str]:
        return []

    def own(self, directory: str, live: Manifest) -> str:
        return ""

    def mounts(self) -> set[str]:
        return set()

    def make_room(self, replaced: Manifest) -> None:
        self.effect()

    def version(self, kind: str) -> str:
        return kind

    def keep(self, version: str, entry: Entry, *, goes: bool = False) -> None:
        self.effect()
        # What the master has replaced is retired at once: nothing else may be missed.
        if (content := self.live.get(entry.path)) is not None and version != store.REPLACED:
            self.versions.append(content)

    def record(self, version: str, replaced: Manifest, added: list[str]) -> None:
        self.effect()

    def discard(self, version: str) -> None:
        self.effect()

    def tidy(self) -> None:
        pass

    def prepare(self, entry: Entry, token: str) -> None:
        self.effect()
        if entry.kind == "directory":
            if entry.path not in self.live or self.live[entry.path] is not DIRECTORY:
                self.beside_live[token, entry.path] = (DIRECTORY, False)
        elif entry.sha256 in self.blobs.get(token, {}):
            self.beside_live[token, entry.path] = (self.blobs[token][entry.sha256], False)
        elif sha(self.live.get(entry.path) or "") != entry.sha256:
            raise DiskError(f"the new content of {entry.path} is not there")

    def beside(self, token: str, path: str) -> Entry | None:
        held = self.beside_live.get((token, path))
        return None if held is None else entry(path, held[0])

    def held(self, token: str, path: str) -> bool:
        return False

    def put(self, token: str, path: str) -> bool:
        self.effect()
        if path != ROOT and self.live.get(path.rsplit("/", 1)[0], "") is not DIRECTORY:
            raise FileNotFoundError(path)
        if (prepared := self.beside_live.pop((token, path), None)) is None:
            return False
        below = any(p.startswith(f"{path}/") for p in self.live)
        if prepared[0] is not DIRECTORY and below:
            raise DiskError("holds files")
        self._swap(token, path, prepared)
        return True

    def take_away(self, token: str, path: str) -> None:
        self.effect()
        if path in self.live:
            self._swap(token, path, None)

    def _swap(self, token: str, path: str, prepared: tuple[Content, bool] | None) -> None:
        was_there, displaced = path in self.live, self.live.get(path)
        if prepared is None:
            self.put_content(path, None, there=False)
        else:
            self.put_content(path, prepared[0], torn=not prepared[1])
        if was_there:
            self.beside_live[token, path] = (displaced, True)
            self.swaps[token, path] = (len(self.pending[path]) - 1, prepared)
        self.effect()

    def link(self, token: str, entry: Entry) -> None:
        raise AssertionError("no hard links here")

    def keep_beside(self, version: str, token: str, path: str) -> Manifest:
        self.effect()
        content = self.beside_live[token, path][0]
        if content is not None:
            self.versions.append(content)
        return {path: entry(path, content)}

    def forget(self, token: str, path: str) -> None:
        if (token, path) in self.beside_live:
            self.effect()
            del self.beside_live[token, path]
            self.swaps.pop((token, path), None)

    def remove_directory(self, path: str) -> None:
        self.effect()
        if not any(p.startswith(f"{path}/") for p in self.live):
            self.put_content(path, None, there=False)

    def dress(self, entry: Entry) -> None:
        self.effect()

    def sweep(self, spared: Iterable[tuple[str, str]]) -> None:
        kept = set(spared)
        self.beside_live = {k: v for k, v in self.beside_live.items() if k in kept}


@dataclass
class Call:
    """A fault in the middle of a pass: the call number at which the link fails."""

    number: int
    answered: bool


@dataclass
class Wire:
    """The far end as a sender has it, over a link that can fail at each call."""

    here: Node
    world: World
    calls: int = 0
    offered: Manifest | None = None

    @property
    def there(self) -> Node:
        return self.world.other(self.here)

    @property
    def name(self) -> str:
        return self.there.name

    def _call(self, act: Callable[[], Any]) -> Any:
        self.calls += 1
        fault = self.world.fault
        fails = fault is not None and fault.number == self.calls
        if self.world.partitioned or not self.there.up or (fails and not fault.answered):
            self.over()
            raise GoneError
        try:
            with self.there.disk.request(resident=self.world.sessions):
                result = act()
        except Killed:
            self.over()
            self.world.died(self.there)
            raise GoneError from None
        except offers.OfferError as error:
            raise AssertionError(f"an honest offer is refused: {error}") from error
        except (StageError, DiskError, KeyError, ValueError, OSError) as error:
            raise GoneError(str(error)) from error
        if fails:
            self.over()
            raise GoneError
        return result

    def over(self) -> None:
        """The connection ends, and what both ends remember of it."""
        self.offered = None
        self.there.disk.forget_session()

    def _arrives(self, offer: Offer, base: Manifest | None = None) -> Offer:
        return offers.undump(
            json.loads(json.dumps(offers.dump(offer, CLUSTER, base))),
            CLUSTER,
            self.there.disk.gate_offered,
        )

    def reach(self) -> None:
        self._call(lambda: None)

    def offer(self, offer: Offer, frozen: dict[str, str] | None) -> dict[str, Any]:
        token = f"{next(self.world.numbers):032d}"
        there, base = self.there, self.offered
        # A session whose other end has gone is another.
        if not self.world.sessions or there.disk.gate_offered is None:
            base = None
        self.offered = None

        def act() -> dict[str, Any]:
            sender = self._arrives(offer, base)
            there.disk.gate_offered = sender.manifest
            reply = there.replica.judge(sender, i_am_master=there.vip, token=token)
            if frozen is not None and self.world.sessions:
                contents = {sha256: content.encode() for sha256, content in frozen.items()}
                if there.replica.fill(reply, contents):
                    reply |= self._applied(token)
            return reply

        reply: dict[str, Any] = self._call(act)
        self.offered = offer.manifest
        return reply

    def send(self, frozen: dict[str, str], token: str) -> None:
        def act() -> None:
            if token in self.there.disk.blobs:
                self.there.disk.blobs[token].update(frozen)

        self._call(act)
        self.world.between()

    def commit(self, token: str) -> dict[str, Any]:
        applied: dict[str, Any] = self._call(lambda: self._applied(token))
        return applied

    def _applied(self, token: str) -> dict[str, Any]:
        changed, whole = self.there.replica.commit(token, i_am_master=self.there.vip)
        return {"applied": len(changed), "whole": whole, "services": {}}

    def fetch(self, mine: Generation) -> tuple[Relation, Offer]:
        relation, offer = self._call(
            lambda: self.there.replica.fetch(mine, i_am_master=self.there.vip)
        )
        try:
            return relation, self._arrives(offer)
        except (KeyError, ValueError) as error:
            raise GoneError(f"offers what cannot be taken: {error}") from error

    def receive(self, need: list[str], offer: Offer, token: str) -> None:
        def act() -> None:
            there = {sha(c): c for c in self.there.disk.live.values() if c is not None}
            if token in self.here.disk.blobs:
                self.here.disk.blobs[token].update({n: there[n] for n in need if n in there})

        self._call(act)
        self.world.between()


@dataclass
class Node:
    """One node; `history`: all writes behind the content of its generation."""

    name: str
    world: World
    disk: SimulatedDisk = field(default_factory=SimulatedDisk)
    up: bool = True
    vip: bool = False
    converged: bool = False
    history: frozenset[str] = frozenset()
    unminted: set[str] = field(default_factory=set)
    merging: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.disk.saved = self.saved
        self.replica = Replica(self.disk, lambda: f"{next(self.world.numbers):032x}")
        self.sender = self.new_sender()

    def new_sender(self) -> Sender:
        @contextlib.contextmanager
        def freeze(manifest: Manifest, wanted: set[str]) -> Iterator[dict[str, str] | None]:
            found = {sha(c): c for c in self.disk.live.values() if c is not None}
            held = {s: found[s] for s in wanted if s in found}
            yield held if held.keys() == wanted else None

        self.wire = Wire(self, self.world)
        return Sender(
            self.replica,
            self.wire,
            freeze,
            serving=lambda: self.vip,
            validate=lambda _: self.world.between(),
        )

    def saved(self, generation: Generation) -> None:
        """Follow which writes a generation contains; no adoption may lose one."""
        before = self.disk.stored
        if generation.id is None or generation.id == before.id:
            return
        seen = self.world.seen
        if generation.id not in seen:
            later = self.unminted & {self.disk.live[path] for path in self.disk.writing}
            minted = self.unminted - later
            seen[generation.id] = self.history | minted | self.merging | {generation.id}
            self.history, self.unminted = seen[generation.id], later
            return
        joined = before.digest == generation.digest
        assert joined or self.history <= seen[generation.id], (
            f"{self.name} lost {self.history - seen[generation.id]}"
        )
        self.history = seen[generation.id] | (self.history if joined else frozenset())
        # Equal content: what one of the two contains, the other contains as well.
        for node in self.world.nodes:
            if joined and node.disk.stored.id == generation.id:
                node.history |= self.history
        if joined:
            seen[generation.id] = self.history
        self.unminted &= {c for c in self.disk.live.values() if c is not None}


class World:
    """Two nodes, a link, the writes made so far."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.seen: dict[str, frozenset[str]] = {}
        self.partitioned = False
        # Whether the gate answers in sessions, or each request by a process of its own.
        self.sessions = True
        self.fault: Call | None = None
        self.excused: set[str] = set()
        self.written: set[str] = set()
        self.ever_durable: set[str] = set()
        self.power_fails = False
        self.choose: Callable[[int], int] = lambda _: 0
        # What others do in the seconds of a pass in which nobody holds a lock.
        self.between: Callable[[], None] = lambda: None
        self.nodes = [Node("n1", self), Node("n2", self)]

    def other(self, node: Node) -> Node:
        return self.nodes[1 - self.nodes.index(node)]

    # The user

    def write(
        self, node: Node, path: str, kind: str, *, fsync: bool = False, slowly: bool = False
    ) -> None:
        """Write, or remove, as a user would; what the user saw there is the user's to replace."""
        live, parent = node.disk.live, path.rsplit("/", 1)[0]
        if live.get(parent, "") is not DIRECTORY:
            return
        token = f"w{next(self.numbers)}"
        before = live.get(path)
        if kind == "directory":
            if path in live:
                return
            node.disk.put_content(path, DIRECTORY)
        elif kind == "file":
            if path in live and before is DIRECTORY:
                return
            node.disk.put_content(path, token)
            self.written.add(token)
            if slowly:
                node.disk.writing.add(path)
        else:
            if path not in live or any(p.startswith(f"{path}/") for p in live):
                return
            node.disk.put_content(path, None, there=False)
        if before is not None:
            self.excused.add(before)
        node.unminted.add(token)
        if fsync:
            node.disk.settle([path])

    # What happens to nodes

    def died(self, node: Node) -> None:
        """A kill in the middle of an effect: of the process, or of the power."""
        node.disk.budget, node.disk.seen = None, None
        node.disk.forget_session()
        node.sender = node.new_sender()
        if self.power_fails:
            self.power_off(node)

    def power_off(self, node: Node) -> None:
        before = self.surviving()
        node.disk.power_cut(self.choose)
        node.sender = node.new_sender()
        self.was_away(node)
        node.up = node.vip = node.converged = False
        minted = frozenset().union(*self.seen.values()) if self.seen else frozenset()
        lost = (before - self.surviving()) & self.written
        self.excused |= lost - self.ever_durable - minted
        # What the disk forgot was not read by anyone, and is no part of a later generation.
        there = {c for c in node.disk.live.values() if c is not None}
        node.unminted = {t for t in node.unminted if t in there or t not in self.written}

    def was_away(self, node: Node) -> None:
        """The other node hears that this one came back: what it had is not known any more."""
        self.other(node).sender.acknowledged = None

    def wipe(self, node: Node) -> None:
        before = self.surviving()
        fresh = Node(node.name, self, up=node.up, vip=node.vip)
        self.nodes[self.nodes.index(node)] = fresh
        self.was_away(fresh)
        self.excused |= before - self.surviving()

    def surviving(self) -> set[str]:
        return {
            content
            for node in self.nodes
            for content in (
                *node.disk.live.values(),
                *node.disk.versions,
                *(content for content, _ in node.disk.beside_live.values()),
                *(
                    content
                    for token, blobs in node.disk.blobs.items()
                    if "applying" in node.disk.stages.get(token, {})
                    for content in blobs.values()
                ),
            )
            if content is not None
        }

    def run(self, node: Node, act: Callable[[], Any]) -> Any:
        """Let a node do something; it may be killed on the way."""
        try:
            return act()
        except Killed:
            self.died(node)
        except (GoneError, StageError, DiskError, OSError):
            pass
        return None

    def converge(self, node: Node) -> None:
        """The daemon compares the applied role with the real one."""
        node.sender.acknowledged = None
        self.run(node, node.replica.promote if node.vip else node.replica.demote)
        node.converged = node.up

    def synchronize(self, node: Node) -> Pass | None:
        node.wire.calls = 0
        result: Pass | None = self.run(node, node.sender.run)
        if result is not None and result.state == "diverged":
            self.check_diverged()
        return result

    def check_diverged(self) -> None:
        one, two = (node.history for node in self.nodes)
        assert not one <= two, f"called diverged, but {one} is all in {two}"
        assert not two <= one, f"called diverged, but {two} is all in {one}"

    def resolve(self, keep: Node) -> None:
        """The person decides: this node's content stays."""
        theirs = self.other(keep)
        if self.partitioned or not (keep.up and theirs.up):
            return

        def act() -> None:
            relation, offer = keep.wire.fetch(keep.disk.generation())
            if relation is not Relation.DIVERGED:
                return
            keep.merging = self.seen.get(offer.generation.id or "", frozenset())
            try:
                keep.replica.keep_mine(offer.generation)
            finally:
                keep.merging = frozenset()

        self.run(keep, act)

    # What must hold

    def note_durable(self) -> None:
        for node in self.nodes:
            self.ever_durable |= {c for c in node.disk.durable.values() if c is not None}
            self.ever_durable |= set(node.disk.durable_versions)

    def check_nothing_lost(self) -> None:
        self.note_durable()
        lost = self.written - self.excused - self.surviving()
        assert not lost, f"written, and neither live nor kept anywhere: {lost}"

    def trees_equal(self) -> bool:
        return self.nodes[0].disk.live == self.nodes[1].disk.live

    def settle_down(self, master: Node, keep: Node) -> None:
        """Everything works again, for long enough: both nodes must end as one generation."""
        self.partitioned, self.fault, self.between = False, None, lambda: None
        for node in self.nodes:
            node.disk.budget, node.disk.meanwhile = None, lambda: None
            node.disk.writing.clear()
            node.up, node.vip = True, node is master
        for node in self.nodes:
            self.run(node, node.replica.recover)
            self.converge(node)
        result = None
        for _ in range(6):
            result = self.synchronize(master)
            self.check_nothing_lost()
            if result is not None and result.state == "diverged":
                self.resolve(keep)
            elif result is not None and result.state == "in sync" and self.trees_equal():
                break
        assert result is not None, "the pass never comes to an end"
        assert result.state == "in sync", result
        assert self.trees_equal(), [node.disk.live for node in self.nodes]
        one, two = (node.disk.stored for node in self.nodes)
        assert one.id == two.id is not None
        assert generations.compare(one, two) is Relation.SAME
