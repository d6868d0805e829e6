# SPDX-License-Identifier: GPL-3.0-or-later
# Pass after pass of random trees on a real disk, killed anywhere, with somebody writing meanwhile.
from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_stage import EFFECTS, Disk, Killed, moved
from zclustermanager.sync import stage as stages
from zclustermanager.sync import tree
from zclustermanager.sync.disk import LocalDisk
from zclustermanager.sync.generation import Generation
from zclustermanager.sync.tree import Manifest, Scanner

KINDS = ("file", "file", "directory", "symlink", "hard link", "gone", "mode")


def files(root: Path) -> list[Path]:
    return [p for p in sorted(root.rglob("*")) if p.is_file() and not p.is_symlink()]


def change(chance: random.Random, root: Path) -> None:
    """Some changes of every kind, retyping what is there."""
    for _ in range(chance.randint(1, 8)):
        below = [p for p in sorted(root.rglob("*")) if p.is_dir() and not p.is_symlink()]
        path = chance.choice([root, *below]) / chance.choice("abcd")
        kind = chance.choice(KINDS)
        if kind == "mode":
            if path.exists() and not path.is_symlink():
                path.chmod(chance.choice([0o600, 0o644, 0o700, 0o755]))
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kind == "file":
            path.write_text(str(chance.random()))
        elif kind == "directory":
            path.mkdir()
        elif kind == "symlink":
            path.symlink_to(chance.choice(["a", "..", "/nowhere"]))
        elif kind == "hard link" and files(root):
            os.link(chance.choice(files(root)), path)


def interrupt(patch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have something happen before each effect on the disk."""
    for module, name in EFFECTS:
        real = getattr(module, name)

        def step(*args: Any, _real: Any = real, **kwargs: Any) -> Any:
            act()
            return _real(*args, **kwargs)

        patch.setattr(module, name, step)


def offered(
    number: int, local: LocalDisk, sender: Scanner, there: Path, here: Path
) -> tuple[Manifest, stages.Stage, Manifest]:
    """What is live, and a stage, of all or of what changes, of what the other node has."""
    target = moved(sender.scan(), there, here)
    token, *ids = [f"{n:032x}" for n in range(number, -1, -1)]
    live = local.scan()
    generation = Generation(token, tuple(ids), tree.digest(target))
    about = {"live": live} if number % 2 else {}
    stage = stages.create(local, token, generation, target, **about)
    for sha256 in stages.needed(live, target):
        path = next(p for p, e in target.items() if e.sha256 == sha256)
        shutil.copy(path.replace(str(here), str(there)), local.blobs(token) / sha256)
    stages.verify(local, stage, live)
    return live, stage, target


@pytest.mark.parametrize("seed", range(8))
def test_pass_that_is_killed_anywhere_arrives_and_loses_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    here, store, _ = disk("n2")
    there, _, sender = disk("n1")

    def begun(token: str) -> bool:
        return (store.incoming / token / "applying.json").exists()

    for number in range(5):
        change(chance, there if chance.random() < 0.7 else here)
        local = LocalDisk(store, Scanner([str(here)], []))
        live, stage, target = offered(number, local, sender, there, here)
        left, late = chance.choice([10_000, *[chance.randint(0, 30)] * 3]), chance.random() < 0.5
        written: list[str] = []

        def meanwhile(
            late: bool = late, written: list[str] = written, token: str = stage.token
        ) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            if late and not written and begun(token) and chance.random() < 0.2:
                # The second name under versions, or in the stage, is no business of the writer.
                names = Counter(p.stat().st_ino for p in files(here))
                alone = [p for p in files(here) if names[p.stat().st_ino] == 1 and p.name[0] != "."]
                if alone:
                    written.append(f"late {token}")
                    chance.choice(alone).write_text(written[0])

        with monkeypatch.context() as patch:
            interrupt(patch, meanwhile)
            try:
                stages.begin(local, stage, live)
                stages.redo(local, stage, begun_now=True)
                stages.finish(local, stage)
            except Killed:
                pass
        again = LocalDisk(store, Scanner([str(here)], []))
        stages.recover(again)
        assert not list(here.parent.rglob(".zcluster-*"))
        texts = {p.read_text() for p in [*files(here), *files(store.versions)]}
        assert texts.issuperset(written)
        if not written:
            assert tree.differing(again.scan(), target) == []
        shutil.rmtree(here)
        shutil.copytree(there, here, symlinks=True)


@pytest.mark.parametrize("seed", range(8))
def test_what_somebody_removes_in_the_middle_of_a_pass_is_not_in_its_way(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    here, store, _ = disk("n2")
    there, _, sender = disk("n1")
    for number in range(8):
        change(chance, there)
        local = LocalDisk(store, Scanner([str(here)], []))
        live, stage, target = offered(number, local, sender, there, here)
        left, killed = chance.randint(0, 20), chance.random() < 0.5
        stages.begin(local, stage, live)

        def meanwhile(patch: pytest.MonkeyPatch, killed: bool = killed) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                patch.undo()
                path = chance.choice([here, *sorted(here.rglob("*"))])
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                if killed:
                    raise Killed

        with monkeypatch.context() as patch, contextlib.suppress(Killed, OSError):
            interrupt(patch, lambda patch=patch, act=meanwhile: act(patch))
            stages.redo(local, stage, begun_now=True)
        again = LocalDisk(store, Scanner([str(here)], []))
        stages.recover(again)
        assert again.tokens() == []
        assert again.generation().id == stage.generation.id
        # The next pass brings back what is missing.
        live, stage, target = offered(number, again, sender, there, here)
        stages.begin(again, stage, live)
        stages.redo(again, stage, begun_now=True)
        stages.finish(again, stage)
        assert tree.differing(again.scan(), target) == []
