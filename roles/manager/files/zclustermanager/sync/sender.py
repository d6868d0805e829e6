# SPDX-License-Identifier: GPL-3.0-or-later
"""The sender, on the master alone: one pass at a time brings the peer to this node's generation."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import generation as generations
from . import stage as stages
from . import tree
from .generation import Answer, Relation
from .replica import Offer, Replica
from .stage import Stage, StageError
from .store import Store

ROUNDS = 5
# So many contents of so many bytes together travel with the offer: one trip instead of three.
FEW = 4096
SMALL = 1 << 20


@dataclass(frozen=True)
class Pass:
    """What one pass came to. state: in sync, pending, failed or diverged; why, in words.

    whole: what was sent is all that the peer has now.
    """

    state: str
    why: str = ""
    sent: int = 0
    pulled: int = 0
    services: dict[str, Any] = field(default_factory=dict)
    differing: tuple[str, ...] = ()
    whole: bool = True


class Peer(Protocol):
    """The far end, as a sender needs it. Every call may raise: then nothing is known of it."""

    name: str

    def reach(self) -> None:
        """Raises when it does not answer."""

    def offer(self, offer: Offer, frozen: Path | None) -> dict[str, Any]:
        """The answer of `Replica.judge`; and of `commit`, if frozen contents are all it needs."""

    def send(self, frozen: Path, token: str) -> None:
        """Bring frozen contents into the stage that the peer opened."""

    def commit(self, token: str) -> dict[str, Any]:
        """Have the stage applied."""

    def fetch(self, mine: generations.Generation) -> tuple[Relation, Offer]:
        """What the peer has."""

    def receive(self, need: list[str], offer: Offer, token: str) -> None:
        """Bring contents of the peer into a stage of this node."""


class Sender:
    """Brings the peer to this node's generation, or this node to the peer's if that is ahead."""

    def __init__(
        self,
        replica: Replica,
        peer: Peer,
        freeze: Callable[[tree.Manifest, set[str]], contextlib.AbstractContextManager[Path | None]],
        serving: Callable[[], bool] = lambda: True,
        validate: Callable[[Stage], None] = lambda _: None,
        activate: Callable[[list[str]], object] = lambda _: None,
        begins: Callable[[], object] = lambda: None,
    ) -> None:
        self.replica = replica
        self.peer = peer
        self.freeze = freeze
        self.serving = serving
        self.validate = validate
        self.activate = activate
        self.begins = begins
        self.acknowledged: str | None = None
        # Whether the peer was asked if it is ahead, since this node began to send.
        self.checked = False
        # An id leaves this node only to one that answers: what was never seen needs no memory.
        self.reached = False
        self.known: str | None = None
        self._offer: Offer | None = None
        # What the peer was last heard to have; a guess at what it lacks, no more.
        self._there: tree.Manifest | None = None

    def contents(self) -> set[str]:
        """The contents that were last offered: what the peer may still want."""
        return {e.sha256 for e in self._offer.manifest.values()} if self._offer else set()

    def run(self, *, trust: bool = True, force: bool = False) -> Pass:
        """One pass. Raises peer.PeerError or OSError; then nothing is known of the peer."""
        pulled = 0
        if not self.serving():
            return Pass("pending", "this node does not serve")
        offer = self.replica.observe(trust=trust)
        for _ in range(ROUNDS):
            known = offer.generation.id is not None and offer.generation.id == self.acknowledged
            if known and not force:
                return Pass("in sync", pulled=pulled)
            if not known:
                self.begins()
            self.acknowledged = None
            if not self.reached:
                self.peer.reach()
            self.reached = False
            self.replica.offered(offer.generation, self.known)
            self._offer = offer
            with self._small(offer) as frozen:
                reply = self.peer.offer(offer, frozen)
            self.checked = self.reached = True
            self.known = generations.undump(reply.get("generation")).id or self.known
            answer = Answer(reply["answer"])
            if answer in (Answer.REFUSE_STALE, Answer.REFUSE_NO_GENERATION):
                pulled += self._catch_up(offer)
            elif answer is Answer.ACCEPT:
                result = self._deliver(offer, reply)
                if result is not None:
                    self.known = offer.generation.id
                    # Edited there meanwhile: the next pass looks again.
                    self.acknowledged = self.known if result.whole else None
                    self._there = offer.manifest
                    return result
            else:
                if answer is Answer.EQUAL:
                    self.acknowledged = offer.generation.id
                    self._there = offer.manifest
                return self._word(answer, reply, pulled)
            offer = self.replica.observe()
        return Pass("pending", "files change faster than they can be read; trying again")

    def _catch_up(self, mine: Offer) -> int:
        """The peer is ahead, or this node has no generation: pull what it has."""
        relation, theirs = self.peer.fetch(mine.generation)
        if relation is Relation.NEITHER:
            self.replica.first()
            return 0
        if relation is not Relation.AHEAD:
            return 0  # the next offer says how the two stand now
        token = uuid.uuid4().hex
        need = self.replica.pull_begin(token, theirs)
        self.peer.receive(need, theirs, token)
        try:
            changed = self.replica.pull_finish(token, self.validate)
        except StageError as error:
            raise StageError(
                f"{self.peer.name} has newer configuration, which cannot be taken over: {error}"
            ) from error
        self.activate(changed)
        return len(changed)

    @contextlib.contextmanager
    def _small(self, offer: Offer) -> Iterator[Path | None]:
        """The contents that the peer lacks, frozen, if they are few and small; else None."""
        if self._there is None:
            yield None
            return
        if not (paths := tree.differing(self._there, offer.manifest)):
            yield None
            return
        changed = {path: offer.manifest[path] for path in paths if path in offer.manifest}
        wanted = set(stages.needed(self._there, changed, changed))
        size = sum(entry.size for entry in changed.values() if entry.sha256 in wanted)
        if len(wanted) > FEW or size > SMALL:
            yield None
            return
        with self.freeze(changed, wanted) as frozen:
            yield frozen

    def _deliver(self, offer: Offer, reply: dict[str, Any]) -> Pass | None:
        token = reply["stage"]
        done = reply
        if "applied" not in reply:
            if reply["need"]:
                with self.freeze(offer.manifest, set(reply["need"])) as frozen:
                    if frozen is None:
                        return None
                    self.peer.send(frozen, token)
            done = self.peer.commit(token)
        whole = bool(done.get("whole", True))
        return Pass("in sync", sent=done["applied"], services=done["services"], whole=whole)

    def _word(self, answer: Answer, reply: dict[str, Any], pulled: int) -> Pass:
        differing = tuple(reply.get("differing", ()))
        if answer is Answer.EQUAL:
            return Pass("in sync", pulled=pulled)
        if answer is Answer.DIVERGED:
            return Pass(
                "diverged",
                diverged_words(differing),
                differing=differing,
            )
        return Pass("failed", "the peer is master too; nothing was sent")


def diverged_words(differing: Sequence[str]) -> str:
    """Why nothing is sent, and who can help."""
    return (
        "both nodes changed while apart; nothing was overwritten (differing: "
        f"{', '.join(differing[:5])}); see zcluster sync resolve"
    )


def freezer(
    store: Store,
) -> Callable[[tree.Manifest, set[str]], contextlib.AbstractContextManager[Path | None]]:
    """Copies contents that hold still into a directory of the store, for as long as they are sent.

    None when one has changed since the manifest was made.
    """

    @contextlib.contextmanager
    def freeze(manifest: tree.Manifest, wanted: set[str]) -> Iterator[Path | None]:
        directory = store.outgoing / f"sending-{uuid.uuid4().hex}"
        directory.mkdir(parents=True, mode=0o700)
        try:
            yield directory if copy_contents(manifest, wanted, directory, store.frozen) else None
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    return freeze


def copy_contents(
    manifest: tree.Manifest, wanted: set[str], directory: Path, frozen: Path | None = None
) -> bool:
    """Copy these contents, each under its SHA-256; False when one is not there any more.

    What was frozen while it was read is there whatever became of its file: so a writer that never
    stops cannot starve a pass.
    """
    for path, entry in manifest.items():
        if entry.sha256 not in wanted or (directory / entry.sha256).exists():
            continue
        if frozen is not None and (frozen / entry.sha256).exists():
            os.link(frozen / entry.sha256, directory / entry.sha256)
            continue
        descriptor = os.open(directory / entry.sha256, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            found, _ = tree.digest_file(path, descriptor)
        except OSError as error:
            if error.errno in tree.FULL:
                error.filename = str(directory)  # write(2) does not say which disk is full
                raise
            found = ""
        finally:
            os.close(descriptor)
        if found != entry.sha256:
            return False
    return True
