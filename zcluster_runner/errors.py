# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors of the driver: each is one sentence for the person who typed the command."""

from __future__ import annotations


class DriverError(Exception):
    """The driver could not start or follow a run (exit code 3)."""


class StoppedError(DriverError):
    """Ctrl-C when something had been changed already (exit code 3)."""


class UsageError(DriverError):
    """The request itself is wrong: a verb, an option, a value (exit code 64)."""


class InventoryError(UsageError):
    """No inventory, or more than one, or one that cannot be used (exit code 64)."""


class NoInventoryError(InventoryError):
    """No cluster is known, and none was named."""
