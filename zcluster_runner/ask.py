# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the person at the terminal: passwords, a yes, and what create still lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from zcluster_runner.errors import UsageError
from zcluster_runner.result import Result
from zcluster_runner.secret import Secret


def terminal() -> bool:
    """Return whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def password_from_stdin() -> Secret:
    """Read one line of standard input."""
    line = sys.stdin.readline()
    try:
        return Secret(line.removesuffix("\n").removesuffix("\r"))
    except ValueError as error:
        raise UsageError(f"--password-stdin: {error}") from error


def password_twice(hosts: Sequence[str]) -> Secret | None:
    """Ask for the root password of ``hosts`` until it was typed twice alike."""
    import getpass

    click.echo(f"Your SSH key is not accepted yet on {', '.join(hosts)}.", err=True)
    while True:
        first = getpass.getpass("Root password there (used once, kept nowhere): ", sys.stderr)
        if not first:
            click.echo("It must not be empty. Ctrl-C gives up.", err=True)
            continue
        if first != getpass.getpass("The same again: ", sys.stderr):
            click.echo("The two differ. Once more:", err=True)
            continue
        try:
            return Secret(first)
        except ValueError as error:
            click.echo(f"This cannot be: {error}.", err=True)


def ask_password(hosts: Sequence[str]) -> Secret | None:
    """Ask on a terminal; without one there is no password, and create says so."""
    return password_twice(hosts) if terminal() else None


class Password:
    """The root password of one command: typed once, for all that needs it."""

    def __init__(self, known: Secret | None = None) -> None:
        """Know it already, or not yet."""
        self.known = known

    def ask(self, hosts: Sequence[str]) -> Secret | None:
        """Return the password; asks for it unless it is known."""
        self.known = self.known or ask_password(hosts)
        return self.known


def confirmed(question: str, yes: bool) -> bool:
    """Return whether to go on; without a terminal only ``--yes`` does."""
    if yes:
        return True
    if not terminal():
        raise UsageError("this needs a yes: run it on a terminal, or add --yes")
    return click.confirm(question, default=False, err=True)


FindInterfaces = Callable[[Mapping[str, Any], str], Result]
"""Runs ``interfaces`` for one host: the values known so far, and the host."""


def missing_for_create(given: dict[str, Any], look: FindInterfaces) -> dict[str, Any]:
    """Ask for what create needs and was not given; the same values as options would give."""
    values = dict(given)

    def ask(name: str, question: str, default: str | None = None) -> None:
        if not values.get(name):
            values[name] = click.prompt(question, default=default, err=True)

    ask("name", "Name of the cluster")
    ask("local", "Local node, the future master (a host, or localhost)", "localhost")
    ask("remote", "Remote node, the future backup")
    for side in ("local", "remote"):
        if not values.get(f"{side}_ip"):
            values[f"{side}_ip"] = _address(side, values, look)
    if not values.get("vip"):
        words = click.prompt(
            "Virtual IPs, ADDRESS/PREFIX, blank between them (none: just Enter)",
            default="",
            show_default=False,
            err=True,
        )
        values["vip"] = tuple(words.replace(",", " ").split())
    return values


def _address(side: str, values: Mapping[str, Any], look: FindInterfaces) -> str | None:
    host = str(values[side])
    result = look(values, host)
    offered = [
        entry
        for entries in result.report("interfaces").values()
        for entry in entries
        if entry.get("family", 4) == 4
    ]
    question = f"Address of the {side} node ({host}) on the cluster link"
    if not offered:
        why = "; ".join(error["message"] for error in result.errors()) or "it has none to offer"
        click.echo(f"The addresses of {host} cannot be listed: {why}", err=True)
        return str(click.prompt(question, err=True))
    for number, entry in enumerate(offered, 1):
        address = f"{entry['address']}/{entry['prefix']}"
        click.echo(f"  {number}) {address:<20} {entry['interface']}", err=True)
    choice = click.prompt(
        question,
        type=click.IntRange(1, len(offered)),
        default=1 if len(offered) == 1 else None,
        err=True,
    )
    return str(offered[int(choice) - 1]["address"])
