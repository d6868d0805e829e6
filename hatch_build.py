# SPDX-License-Identifier: GPL-3.0-or-later
"""Build hook: where the collection goes in a wheel, and how an editable install sees it live.

An editable wheel must not carry copies of the collection: they would win over the checkout. It gets
a second entry on sys.path instead (``dev-mode-dirs``), with a link back to the checkout in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COLLECTION = "ansible_collections/zcluster/ha"

PARTS = ("galaxy.yml", "meta", "playbooks", "plugins", "roles", "README.md", "LICENSES")
"""What of the checkout is the collection (the lab is in the wheel, not in the tarball)."""

EXAMPLE = "inventories/example/hosts.yml"
"""What ``zcluster init`` writes."""

LIVE = ".cache/collection"
"""Named in pyproject.toml as one of dev-mode-dirs."""


class CollectionHook(BuildHookInterface[Any]):
    """Puts the collection into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run before the build of a ``standard`` or an ``editable`` wheel."""
        if version != "editable":
            build_data["force_include"] |= {part: f"{COLLECTION}/{part}" for part in PARTS}
            build_data["force_include"][EXAMPLE] = "zcluster_runner/example.yml"
            return
        link = Path(self.root) / LIVE / COLLECTION
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(self.root, target_is_directory=True)
