# SPDX-License-Identifier: GPL-3.0-or-later
# Pass after pass of random trees on a real disk, killed anywhere, with somebody writing meanwhile.
from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_stage import EFFECTS, Disk, Killed, moved
from zclustermanager.sync import stage as stages
from zclustermanager.sync import tree
from zclustermanager.sync.disk import LocalDisk
from zclustermanager.sync.generation import Generation
from zclustermanager.sync.tree import Scanner

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


@pytest.mark.parametrize("seed", range(8))
def test_pass_that_is_killed_anywhere_arrives_and_loses_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    here, store, _ = disk("n2")
    there, _, sender = disk("n1")
    ids: list[str] = []

    def begun(token: str) -> bool:
        return (store.incoming / token / "applying.json").exists()

    for number in range(5):
        change(chance, there if chance.random() < 0.7 else here)
        local = LocalDisk(store, Scanner([str(here)], []))
        target = moved(sender.scan(), there, here)
        generation = Generation(f"{number:032x}", tuple(reversed(ids)), tree.digest(target))
        ids.append(f"{number:032x}")
        live = local.scan()
        stage = stages.create(local, ids[-1], generation, target)
        for sha256 in stages.needed(live, target):
            path = next(p for p, e in target.items() if e.sha256 == sha256)
            shutil.copy(path.replace(str(here), str(there)), local.blobs(stage.token) / sha256)
        stages.verify(local, stage, live)
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
                alone = [p for p in files(here) if p.stat().st_nlink == 1 and p.name[0] != "."]
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
