# SPDX-License-Identifier: GPL-3.0-or-later
# Interleavings that once lost something, called diverged what was not, or refused for ever.
from __future__ import annotations

import pytest
from simulation import Node, World
from zclustermanager.sync import generation as generations


def two_nodes() -> tuple[World, Node, Node]:
    """n1 serves, both have the same generation of two files."""
    world = World()
    n1, n2 = world.nodes
    n1.vip = True
    for node in world.nodes:
        world.converge(node)
    for path in ("/r/a", "/r/c"):
        world.write(n1, path, "file", fsync=True)
    world.synchronize(n1)
    assert world.trees_equal()
    return world, n1, n2


def behind(world: World, n1: Node, n2: Node) -> None:
    """n2 served and changed things while n1 was away; n1, which lacks that, serves now."""
    world.partitioned = True
    n1.vip, n2.vip = False, True
    world.converge(n1)
    world.converge(n2)
    for path in ("/r/a", "/r/b"):
        world.write(n2, path, "file", fsync=True)
    world.write(n2, "/r/c", "removed", fsync=True)
    world.synchronize(n2)
    n1.vip, n2.vip, world.partitioned = True, False, False
    world.converge(n2)
    world.converge(n1)


@pytest.mark.parametrize("actor", ["n1", "n2"])
def test_stage_that_somebody_dropped_while_services_tried_it_is_not_applied(actor: str) -> None:
    world, n1, n2 = two_nodes()
    behind(world, n1, n2)
    newer = dict(n2.disk.live)
    interfered = []

    def between() -> None:
        if not interfered and "complete" in next(iter(n1.disk.stages.values()), {}):
            interfered.append(True)
            if actor == "n1":
                n1.replica.recover()
            else:
                n2.wire.fetch(n2.disk.generation())

    world.between = between
    world.synchronize(n1)
    assert interfered
    assert n2.disk.live == newer
    world.settle_down(n1, n1)
    assert n1.disk.live == n2.disk.live == newer


def test_changes_while_the_peer_does_not_answer_are_one_step_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, n1, n2 = two_nodes()
    world.partitioned = True
    for _ in range(20):
        world.write(n1, "/r/a", "file", fsync=True)
        world.synchronize(n1)
    assert len(n1.disk.stored.ancestors) <= len(n2.disk.stored.ancestors) + 2


def test_node_that_can_take_nothing_for_long_is_never_called_diverged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generations, "HISTORY", 5)
    world, n1, n2 = two_nodes()
    monkeypatch.setattr(n2.disk, "arrived", lambda *_: "")  # as a full disk
    for number in range(20):
        world.write(n1, "/r/a", "file", fsync=True)
        world.synchronize(n1)
        if number == 10:
            n1.sender = n1.new_sender()  # its daemon was restarted
    monkeypatch.undo()
    world.settle_down(n1, n1)


@pytest.mark.parametrize("keep", ["n1", "n2"])
def test_divergence_is_resolved_whichever_node_was_edited_since(keep: str) -> None:
    world, n1, n2 = two_nodes()
    behind(world, n1, n2)
    world.partitioned = True
    world.write(n1, "/r/b", "file", fsync=True)
    world.converge(n1)
    n1.replica.observe()
    world.partitioned = False
    world.write(n2, "/r/a", "file", fsync=True)  # by hand, on the backup
    result = world.synchronize(n1)
    assert result is not None
    assert result.state == "diverged"
    world.settle_down(n1, n1 if keep == "n1" else n2)


@pytest.mark.parametrize("asked", [True, False])
def test_what_gives_way_to_a_node_that_was_wiped_is_kept_as_what_exists_nowhere_else(
    asked: bool,
) -> None:
    world, n1, n2 = two_nodes()
    world.wipe(n1)
    n1 = world.nodes[0]
    world.power_off(n2)
    world.converge(n1)
    world.write(n1, "/r/a", "directory", fsync=True)
    n2.up = True
    if asked:
        result = world.synchronize(n1)
        assert result is not None
        assert result.state == "diverged"
    else:
        n1.replica.observe()
    world.resolve(n1)
    world.settle_down(n1, n1)


def test_drift_of_a_backup_is_not_in_the_way_of_looking_at_what_differs() -> None:
    world, n1, n2 = two_nodes()
    world.write(n2, "/r/a", "file")
    relation, offer = n1.wire.fetch(n1.disk.generation())
    assert relation is generations.Relation.SAME
    assert offer.generation.id is None
    assert offer.manifest["/r/a"].sha256 != n1.disk.scan()["/r/a"].sha256
