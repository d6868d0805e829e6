# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Asking zclustermanager on the node to do something: one call, its answer or its refusal."""

from __future__ import annotations

import json
import os
import typing as t

MANAGER = "/usr/sbin/zclustermanager"

Outcome = t.Tuple[int, str, str]


class ManagerError(Exception):
    """It is not there, or it refused; the text is its own."""


def answer(outcome: Outcome) -> t.Dict[str, t.Any]:
    """The JSON object that a successful call printed; ManagerError with its words otherwise."""
    code, out, err = outcome
    lines = [line.strip() for line in (err or out).splitlines() if line.strip()]
    if code != 0:
        raise ManagerError(lines[-1] if lines else "exit code %d" % code)
    try:
        return dict(json.loads(out))
    except ValueError as error:
        raise ManagerError(lines[-1] if lines else "it said nothing") from error


def insist_on_cluster() -> None:
    """ManagerError where nothing is installed."""
    if not os.path.exists(MANAGER):
        raise ManagerError("Cluster not configured: this node is in no cluster")
