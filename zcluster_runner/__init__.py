# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver of zcluster: the public Python API. It prints nothing and is quick to import."""

from __future__ import annotations

from zcluster_runner.api import run
from zcluster_runner.errors import DriverError, InventoryError, UsageError
from zcluster_runner.result import Event, EventKind, Failure, NodeStatus, Outcome, Result
from zcluster_runner.running import Running, start
from zcluster_runner.secret import Secret

__version__ = "0.1.0"

__all__ = [
    "DriverError",
    "Event",
    "EventKind",
    "Failure",
    "InventoryError",
    "NodeStatus",
    "Outcome",
    "Result",
    "Running",
    "Secret",
    "UsageError",
    "__version__",
    "run",
    "start",
]
