# SPDX-License-Identifier: GPL-3.0-or-later
"""What TAB offers where a host, a cluster or an inventory is wanted."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from zcluster_runner import inventory as inventories
from zcluster_runner.errors import DriverError


def hosts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the hosts of the inventory, each with its cluster."""
    found = [(host.name, host.cluster) for host in known(ctx).hosts]
    return items(found, incomplete)


def clusters(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Offer the clusters of the inventory."""
    return items([(name, "") for name in known(ctx).clusters], incomplete)


def places(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Offer the inventories that are known, then any path."""
    cwd = Path.cwd()
    found = [(inventories.shown(path, cwd), "") for path in inventories.known(os.environ, cwd)]
    offered = items(found, incomplete)
    return offered if incomplete == "" and offered else [CompletionItem(incomplete, type="file")]


def items(found: list[tuple[str, str]], incomplete: str) -> list[CompletionItem[str]]:
    """Return what begins as typed."""
    return [
        CompletionItem(value, help=text or None)
        for value, text in found
        if value.startswith(incomplete)
    ]


def known(ctx: click.Context) -> inventories.Inventory:
    """Return the inventory of the line typed so far; instead of an error, an empty one."""
    given = cluster = None
    context: click.Context | None = ctx
    while context is not None:
        given = given or context.params.get("inventory")
        cluster = cluster or context.params.get("cluster")
        context = context.parent
    cwd = Path.cwd()
    try:
        path = inventories.locate(given, os.environ, cwd, cluster or "")
        return inventories.hosts_in((path,), os.environ, cwd)
    except (DriverError, OSError):
        return inventories.Inventory(())
