# SPDX-License-Identifier: GPL-3.0-or-later
"""One node's side of synchronization: every decision and transaction, with the disk given to it.

Each function is one request or one event, holds the lock while it judges and writes, and may be
killed at any point: `recover` then finishes what was begun.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import generation as generations
from . import stage as stages
from . import tree
from .disk import Disk
from .generation import Answer, Generation, Relation
from .stage import StageError
from .tree import Manifest

# Seconds that a change of role waits for a pass.
PROMPT = 5.0
# (stored, live digest, new id) -> what the generation is now.
Turn = Callable[[Generation, str, str], Generation]


@dataclass(frozen=True)
class Offer:
    """What a node sends: a generation and the manifest of its content."""

    generation: Generation
    manifest: Manifest


class Replica:
    """One node. `new_id()` gives an id that nobody else has."""

    def __init__(self, disk: Disk, new_id: Callable[[], str]) -> None:
        self.disk = disk
        self.new_id = new_id

    def _fold(self, turn: Turn, live: Manifest) -> Generation:
        """Let what is live become part of the generation; durable content first, then its id."""
        stored = self.disk.generation()
        after = turn(stored, tree.digest(live), self.new_id())
        if after != stored:
            if after.id != stored.id:
                self.disk.settle()
            self.disk.save(after)
        return after

    def _hear(self, mine: Generation, theirs: Generation) -> Generation:
        """Note what the peer says it has."""
        heard = generations.heard(mine, theirs)
        if heard != mine:
            self.disk.save(heard)
        return heard

    # Role

    def recover(self) -> list[str]:
        """Finish or drop what a crash left; the paths that passes were about."""
        with self.disk.lock():
            return stages.recover(self.disk)

    def promote(self) -> list[str]:
        """Open the term: from here on a change is a generation. The paths of a pass it finished.

        TimeoutError when a pass that was under way takes its time: the services of the new role
        do not wait for it, and the next observation does the same.
        """
        with self.disk.lock(PROMPT):
            finished = stages.recover(self.disk)
            self._fold(generations.promoted, self.disk.scan())
        return finished

    def demote(self) -> Generation:
        """Close the term: what changed in it is a generation, what changes now is not.

        TimeoutError as with `promote`: then the next request of the new master does it.
        """
        with self.disk.lock(PROMPT):
            stages.recover(self.disk)
            return self._fold(generations.demoted, self.disk.scan())

    # As the master

    def observe(self, *, trust: bool = True) -> Offer:
        """What to offer: the live content, with an id that is durable before it is told."""
        with self.disk.lock():
            stages.recover(self.disk)
            live = self.disk.scan(trust=trust)
            generation = self._fold(generations.promoted, live)
        return Offer(generation, live)

    def first(self) -> Offer:
        """Neither node has a generation: what is here becomes the first."""
        with self.disk.lock():
            live = self.disk.scan()
            return Offer(self._fold(generations.first, live), live)

    def offered(self, generation: Generation, known: str | None) -> None:
        """Durably note that an id leaves the node, before it does, and what the peer has."""
        with self.disk.lock():
            stored = self.disk.generation()
            if stored.id == generation.id and not stored.offered:
                self.disk.save(generations.shown(stored, known))

    def pull_begin(self, token: str, theirs: Offer) -> list[str]:
        """Open a stage for what the peer has; the contents that are missing here."""
        with self.disk.lock():
            stages.recover(self.disk)
            live = self.disk.scan()
            mine = self._fold(generations.promoted, live)
            self._must_be_behind(mine, theirs.generation)
            stages.create(self.disk, token, theirs.generation, theirs.manifest, pulled=True)
            return stages.needed(live, theirs.manifest)

    def pull_finish(self, token: str, validate: Callable[[stages.Stage], None]) -> list[str]:
        """Verify, judge once more, apply what was pulled; `validate` raises StageError for no."""
        with self.disk.lock():
            stage = stages.load(self.disk, token)
            live = self.disk.scan()
            stages.verify(self.disk, stage, live)
        validate(stage)
        with self.disk.lock():
            live = self.disk.scan()
            mine = self._fold(generations.promoted, live)
            self._must_be_behind(mine, stage.generation)
            # Whoever took the lock meanwhile may have dropped it: what is pulled is not due.
            if self.disk.marked(token, "complete") is None:
                raise StageError("what was pulled was dropped meanwhile; trying again")
            return self._apply(stage, live)

    @staticmethod
    def _must_be_behind(mine: Generation, theirs: Generation) -> None:
        relation = generations.compare(mine, theirs)
        if relation is not Relation.BEHIND:
            raise StageError(f"changed here while it was pulled (now {relation.value})")

    # As the receiver

    def judge(self, sender: Offer, *, i_am_master: bool, token: str) -> dict[str, Any]:
        """Answer a sender's offer; on accept open a stage and name the contents wanted."""
        with self.disk.lock():
            finished = stages.recover(self.disk)
            live = self.disk.scan()
            turn = generations.promoted if i_am_master else generations.demoted
            mine = self._hear(self._fold(turn, live), sender.generation)
            answer = generations.judge(mine, sender.generation, i_am_master=i_am_master)
            reply: dict[str, Any] = {
                "answer": answer.value,
                "generation": generations.dump(mine),
                "finished": finished,
            }
            if answer in stages.FINISHED:
                if tree.digest(live) == sender.generation.digest:
                    self.disk.save(generations.adopt(mine, sender.generation))
                    reply["answer"] = Answer.EQUAL.value
                else:
                    target = sender.manifest
                    stage = stages.create(self.disk, token, sender.generation, target, live=live)
                    reply["answer"] = Answer.ACCEPT.value
                    reply |= {"stage": token, "need": stages.needed(live, target, stage.paths)}
            elif answer is Answer.DIVERGED:
                reply["differing"] = tree.differing(live, sender.manifest)
        return reply

    def fill(self, reply: dict[str, Any], contents: Mapping[str, bytes]) -> bool:
        """Put contents that came with an offer into its stage; whether they are all it needs."""
        whole = reply["answer"] == Answer.ACCEPT.value and contents.keys() >= set(reply["need"])
        if whole:
            for sha256 in reply["need"]:
                self.disk.deliver(reply["stage"], sha256, contents[sha256])
        return whole

    def commit(self, token: str, *, i_am_master: bool) -> tuple[list[str], bool]:
        """Verify a stage, judge once more under the lock, apply it.

        The paths it was about; and whether the live tree is its generation now: somebody may have
        edited another path since the stage was made.
        """
        with self.disk.lock():
            stage = stages.load(self.disk, token)
            live = self.disk.scan()
            mine = self._fold(generations.promoted if i_am_master else generations.demoted, live)
            answer = generations.judge(mine, stage.generation, i_am_master=i_am_master)
            if answer not in stages.FINISHED:
                raise StageError(f"refused: {answer.value}")
            stages.verify(self.disk, stage, live)
            changed = self._apply(stage, live)
            return changed, tree.digest(self.disk.scan()) == stage.generation.digest

    def _apply(self, stage: stages.Stage, live: Manifest) -> list[str]:
        stages.begin(self.disk, stage, live)
        changed = stages.redo(self.disk, stage, begun_now=True)
        stages.finish(self.disk, stage)
        return changed

    def fetch(self, asker: Generation, *, i_am_master: bool) -> tuple[Relation, Offer]:
        """What the peer may pull from here, and how it stands to what the peer has."""
        with self.disk.lock():
            stages.recover(self.disk)
            live = self.disk.scan()
            mine = self._fold(generations.promoted if i_am_master else generations.demoted, live)
            mine = self._hear(mine, asker)
            relation = generations.compare(mine, asker)
            if relation in (Relation.AHEAD, Relation.DIVERGED):
                mine = self._fold(generations.fetched, live)
                if not mine.offered:
                    mine = generations.shown(mine)
                    self.disk.save(mine)
            elif generations.edited(mine, tree.digest(live)):
                mine = Generation()  # drift: there is nothing to take, and it has no id
        return relation, Offer(mine, live)

    def keep_mine(self, theirs: Generation) -> Generation:
        """After divergence: what is here stays and descends from both; nothing else is decided.

        Raises StageError when the two are not diverged (any more).
        """
        with self.disk.lock():
            stages.recover(self.disk)
            live = self.disk.scan()
            mine = self._fold(lambda s, d, i: generations.after_observation(s, d, i)[0], live)
            relation = generations.compare(mine, theirs)
            if relation is not Relation.DIVERGED:
                raise StageError(f"the nodes are not diverged: this one is {relation.value}")

            def turn(stored: Generation, digest: str, new_id: str) -> Generation:
                return generations.kept(stored, theirs, digest, new_id)

            return self._fold(turn, live)
