# SPDX-License-Identifier: GPL-3.0-or-later
# Generations: who descends from whom decides, never a clock.
from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from zclustermanager.sync import generation as g
from zclustermanager.sync.generation import Answer, Generation

OLD = Generation("a" * 32, (), "old", offered=True)
NEW = Generation("b" * 32, ("a" * 32,), "new")
OTHER = Generation("c" * 32, ("a" * 32,), "other")


def test_descendant_is_accepted() -> None:
    assert g.judge(OLD, NEW, i_am_master=False) is Answer.ACCEPT


def test_stale_sender_is_refused() -> None:
    assert g.judge(NEW, OLD, i_am_master=False) is Answer.REFUSE_STALE


def test_both_changed_while_apart_is_diverged() -> None:
    assert g.judge(NEW, OTHER, i_am_master=False) is Answer.DIVERGED


def test_both_changed_to_the_same_content_join() -> None:
    same = Generation(OTHER.id, OTHER.ancestors, NEW.digest)
    assert g.judge(NEW, same, i_am_master=False) is Answer.JOIN
    joined = g.adopt(NEW, same)
    assert joined.id == same.id
    assert NEW.id in joined.ancestors


def test_master_refuses_every_push() -> None:
    for mine, sender in itertools.product((OLD, NEW, Generation()), repeat=2):
        assert g.judge(mine, sender, i_am_master=True) is Answer.REFUSE_MASTER


def test_new_or_wiped_node_accepts_and_never_sends() -> None:
    assert g.judge(Generation(), OLD, i_am_master=False) is Answer.ACCEPT
    assert g.judge(OLD, Generation(), i_am_master=False) is Answer.REFUSE_NO_GENERATION


def test_promotion_without_a_change_mints_nothing() -> None:
    assert g.promoted(OLD, "old", "x" * 32) == replace(OLD, term=True)


def test_edit_on_a_backup_is_drift_and_gets_no_id_until_it_is_promoted() -> None:
    assert g.after_observation(OLD, "edited", "x" * 32) == (OLD, True)
    promoted = g.promoted(OLD, "edited", "x" * 32)
    assert promoted.id == "x" * 32
    assert promoted.ancestors == (OLD.id,)


def test_change_in_an_open_term_is_minted_also_after_a_crash() -> None:
    crashed = replace(OLD, term=True)
    after = g.demoted(crashed, "changed", "x" * 32)
    assert (after.id, after.ancestors, after.term) == ("x" * 32, (OLD.id,), False)


def test_id_that_never_left_the_node_is_replaced_not_remembered() -> None:
    away = replace(OLD, term=True)
    for number in range(5):
        away = g.mint(away, f"change {number}", f"{number}" * 32)
    assert away.ancestors == (OLD.id,)
    assert g.mint(g.shown(away), "more", "x" * 32).ancestors == (away.id, OLD.id)


def test_wiped_node_that_serves_alone_asks_first_and_mints_only_what_it_changed() -> None:
    alone = g.promoted(Generation(), "as installed", "x" * 32)
    assert alone.id is None
    assert g.compare(alone, OLD) is g.Relation.BEHIND
    assert g.after_observation(alone, "as installed", "y" * 32) == (alone, False)
    edited, _ = g.after_observation(alone, "edited", "y" * 32)
    assert g.compare(edited, OLD) is g.Relation.DIVERGED
    assert g.demoted(alone, "as installed", "y" * 32) == Generation()


def test_master_that_pulls_keeps_its_term() -> None:
    assert g.adopt(replace(OLD, term=True), NEW).term
    assert not g.adopt(OLD, replace(NEW, term=True)).term


def test_kept_node_descends_from_both_whichever_it_is() -> None:
    kept = g.kept(NEW, OTHER, NEW.digest, "k" * 32)
    assert g.compare(kept, NEW) is g.Relation.AHEAD
    assert g.compare(kept, OTHER) is g.Relation.AHEAD


def test_edit_on_a_backup_becomes_a_generation_when_it_is_all_that_can_be_pulled() -> None:
    given = g.fetched(NEW, "edited", "x" * 32)
    assert (given.id, given.digest) == ("x" * 32, "edited")
    assert g.fetched(NEW, "new", "x" * 32) == NEW


def test_generations_survive_disk_and_wire() -> None:
    assert g.undump(g.dump(NEW)) == NEW
    assert g.undump(None) == Generation()


@given(st.lists(st.sampled_from(["write n1", "write n2", "send n1", "send n2"]), max_size=30))
def test_no_push_ever_replaces_content_the_sender_has_not_seen(steps: list[str]) -> None:
    ids = (f"{n:032d}" for n in itertools.count())
    first = Generation(next(ids), (), "0", offered=True)
    nodes = {"n1": first, "n2": first}
    # What each node's content has in it: every write ever made whose effect it contains.
    seen: dict[str, set[str]] = {"n1": set(), "n2": set()}
    for number, step in enumerate(steps):
        verb, node = step.split()
        other = "n2" if node == "n1" else "n1"
        if verb == "write":
            nodes[node] = g.shown(g.mint(nodes[node], str(number + 1), next(ids)))
            seen[node].add(str(number))
        elif g.judge(nodes[other], nodes[node], i_am_master=False) is Answer.ACCEPT:
            assert seen[other] <= seen[node], "a write was lost"
            nodes[other] = g.adopt(nodes[other], nodes[node])
            seen[other] = set(seen[node])
