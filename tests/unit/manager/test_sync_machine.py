# SPDX-License-Identifier: GPL-3.0-or-later
# The heart: whatever happens to two nodes, in whatever order, no write is lost silently, they do
# not refuse each other for ever, and nothing is called diverged that is not. What decides is the
# shipped code; only the disks and the link are simulated.
from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulation import Call, Node, World

NODES = st.integers(0, 1)
PATHS = st.sampled_from(["/r/a", "/r/b", "/r/d", "/r/d/x"])
KINDS = st.sampled_from(["file", "file", "file", "directory", "removed"])
WRITES = st.lists(st.tuples(NODES, PATHS, KINDS, st.booleans()), min_size=1, max_size=3)
FAULTS = st.none() | st.builds(Call, st.integers(1, 6), st.booleans())
ACTS = st.sampled_from(["write", "resolve", "turn", "recover"])
BUDGETS = st.none() | st.integers(0, 25)
# How many of a path's unsettled changes survive a power cut: all, none, some.
SURVIVAL = st.lists(st.integers(0, 3), min_size=1, max_size=4)


class TwoNodes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(sessions=st.booleans())
    def made(self, sessions: bool) -> None:
        self.world.sessions = sessions
        self.world.nodes[0].vip = True
        for node in self.world.nodes:
            self.world.converge(node)
        self.world.write(self.world.nodes[0], "/r/a", "file", fsync=True)
        self.world.synchronize(self.world.nodes[0])
        assert self.world.trees_equal()

    @rule(writes=WRITES)
    def write(self, writes: list[tuple[int, str, str, bool]]) -> None:
        """Somebody writes, on the master or on the backup; some programs call fsync."""
        for node, path, kind, fsync in writes:
            if (there := self.world.nodes[node]).up:
                self.world.write(there, path, kind, fsync=fsync)

    @rule(node=NODES, path=PATHS)
    def write_slowly(self, node: int, path: str) -> None:
        """Somebody writes a file that no look at it finds holding still, for a while."""
        if (there := self.world.nodes[node]).up:
            self.world.write(there, path, "file", slowly=True)

    @rule(node=NODES)
    def written(self, node: int) -> None:
        self.world.nodes[node].disk.writing.clear()

    @rule(node=NODES, prompt=st.booleans())
    def promote(self, node: int, prompt: bool) -> None:
        """The node holds the VIPs; the other gives them up if it hears of it."""
        there = self.world.nodes[node]
        if not there.up:
            return
        there.vip, there.converged = True, False
        other = self.world.other(there)
        if not self.world.partitioned:
            other.vip, other.converged = False, False
        if prompt:
            for one in (other, there):
                if one.up and not one.converged:
                    self.world.converge(one)

    @rule(node=NODES, budget=BUDGETS, power=st.booleans(), survival=SURVIVAL)
    def converge(self, node: int, budget: int | None, power: bool, survival: list[int]) -> None:
        """The daemon applies the role, and may be killed on the way."""
        there = self.world.nodes[node]
        if there.up and not there.converged:
            self.endanger(there, budget, None, power, survival)
            self.world.converge(there)
            self.safe()

    @rule()
    def synchronize(self) -> None:
        for there in self.masters():
            self.world.synchronize(there)

    @rule(
        writes=WRITES,
        fault=FAULTS,
        budget=BUDGETS,
        victim=NODES,
        power=st.booleans(),
        survival=SURVIVAL,
    )
    def synchronize_among_faults(
        self,
        writes: list[tuple[int, str, str, bool]],
        fault: Call | None,
        budget: int | None,
        victim: int,
        power: bool,
        survival: list[int],
    ) -> None:
        """A pass, or a pull: with the link failing at a call, a node killed at an effect."""
        for node, path, kind, fsync in writes:
            if (there := self.world.nodes[node]).up:
                self.world.write(there, path, kind, fsync=fsync)
        for there in self.masters():
            self.endanger(self.world.nodes[victim], budget, fault, power, survival)
            self.world.synchronize(there)
            self.safe()

    @rule(victim=NODES, path=PATHS, kind=KINDS, at=st.integers(1, 12))
    def write_in_the_middle_of_a_pass(self, victim: int, path: str, kind: str, at: int) -> None:
        """Somebody writes on either node between two steps of applying."""
        there = self.world.nodes[victim]
        for master in self.masters():
            left = at

            def meanwhile() -> None:
                nonlocal left
                if there.up and any("applying" in s for s in there.disk.stages.values()):
                    left -= 1
                    if left == 0:
                        self.world.write(there, path, kind)

            there.disk.meanwhile = meanwhile
            self.world.synchronize(master)
            self.safe()

    @rule(actor=NODES, act=ACTS, path=PATHS, kind=KINDS)
    def act_in_the_seconds_of_a_pass(self, actor: int, act: str, path: str, kind: str) -> None:
        """A pass holds no lock while contents travel and services try them."""

        def between() -> None:
            self.world.between = lambda: None
            there = self.world.nodes[actor]
            if not there.up:
                return
            if act == "write":
                self.world.write(there, path, kind)
            elif act == "resolve":
                self.world.resolve(there)
            elif act == "turn":
                there.vip, there.converged = not there.vip, False
                self.world.converge(there)
            else:
                self.world.run(there, there.replica.recover)

        for master in self.masters():
            self.world.between = between
            self.world.synchronize(master)
            self.safe()

    @rule(keep=NODES)
    def resolve(self, keep: int) -> None:
        self.world.resolve(self.world.nodes[keep])

    @rule()
    def part(self) -> None:
        self.world.partitioned = True

    @rule()
    def heal(self) -> None:
        self.world.partitioned = False

    @rule(node=NODES, survival=SURVIVAL, at_once=st.booleans())
    def power_off(self, node: int, survival: list[int], at_once: bool) -> None:
        there = self.world.nodes[node]
        if there.up:
            self.endanger(there, None, None, True, survival)
            self.world.power_off(there)
            if at_once:
                self.boot(there)

    @rule(node=NODES)
    def power_on(self, node: int) -> None:
        if not (there := self.world.nodes[node]).up:
            self.boot(there)

    @precondition(lambda self: len(self.world.written) > 4)
    @rule(node=NODES)
    def wipe(self, node: int) -> None:
        """The machine is installed anew."""
        self.world.wipe(self.world.nodes[node])

    def masters(self) -> list[Node]:
        return [node for node in self.world.nodes if node.up and node.vip]

    def boot(self, node: Node) -> None:
        node.up = True
        self.world.run(node, node.replica.recover)

    def endanger(
        self,
        victim: Node,
        budget: int | None,
        fault: Call | None,
        power: bool,
        survival: list[int],
    ) -> None:
        self.world.power_fails = power
        drawn = iter(survival * 50)
        self.world.choose = lambda n: min(n, next(drawn, 0))
        victim.disk.budget = budget
        self.world.fault = fault

    def safe(self) -> None:
        self.world.fault, self.world.between = None, lambda: None
        for node in self.world.nodes:
            node.disk.budget, node.disk.meanwhile = None, lambda: None

    @invariant()
    def nothing_is_lost(self) -> None:
        self.world.check_nothing_lost()

    def teardown(self) -> None:
        master, keep = (self.world.nodes[len(self.world.written) // by % 2] for by in (1, 2))
        self.world.settle_down(master, keep)


TestTwoNodes = TwoNodes.TestCase
TestTwoNodes.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "300")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
