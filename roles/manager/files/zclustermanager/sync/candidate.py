# SPDX-License-Identifier: GPL-3.0-or-later
"""A pulled generation, tried by the services before it becomes live on a serving node."""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import activation, apply
from ..activation import State
from ..settings import Cluster
from . import tree
from .stage import Stage, StageError
from .store import Store


def validate(cluster: Cluster, store: Store, stage: Stage) -> None:
    """Let every service that reads what was pulled try it; StageError with its words for no."""
    live = tree.Scanner(cluster.sync_paths, cluster.sync_excludes).scan()
    changed = tree.differing(live, stage.target)
    services = activation.depending(cluster.services, changed)
    laid_out = store.outgoing / f"candidate-{stage.token}"
    laid_out.mkdir(parents=True, mode=0o700)
    try:
        _lay_out(cluster, store, stage, laid_out)
        for service in services:
            binds = {f"{laid_out}{path}": path for path in service.paths if path in stage.target}
            result = apply.try_one(service, binds)
            if result.state is State.REJECTED:
                raise StageError(f"rejected by {service.name}: {result.why}")
    finally:
        shutil.rmtree(laid_out, ignore_errors=True)


def _lay_out(cluster: Cluster, store: Store, stage: Stage, directory: Path) -> None:
    """Write the whole content as it would be live, this node's own excluded files among it."""
    blobs = store.incoming / stage.token / "blobs"
    for path in sorted(stage.target):
        entry = stage.target[path]
        copy = Path(f"{directory}{path}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "directory":
            copy.mkdir(exist_ok=True)
        elif entry.kind == "symlink":
            copy.symlink_to(entry.target)
        else:
            blob = blobs / entry.sha256
            shutil.copyfile(blob if blob.exists() else path, copy)
    for root in cluster.sync_paths:
        for own in apply.own_files(root, cluster.sync_excludes):
            copy = Path(f"{directory}{own}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(own, copy, follow_symlinks=False)
    for path in sorted(stage.target, reverse=True):
        tree.dress(f"{directory}{path}", stage.target[path])
