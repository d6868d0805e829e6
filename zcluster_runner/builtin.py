# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs that the driver does by itself, without Ansible: ``init`` and ``completion``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zcluster_runner.errors import DriverError, InventoryError, UsageError
from zcluster_runner.result import Change, ExitCode, Outcome, Result

COMMAND = "zcluster"

COMPLETE_VARIABLE = "_ZCLUSTER_COMPLETE"
"""Tells the command, called by a shell, that it is to complete a line (click's convention)."""


def perform(verb: str, values: Mapping[str, Any], given: str | None) -> Result:
    """Do ``verb`` here and now. ``given`` is the inventory that was named."""
    return BUILTIN[verb](values, given)


def done(verb: str, **more: Any) -> Result:
    """Return the result of something that went well."""
    return Result(verb=verb, outcome=Outcome.SUCCEEDED, exit_code=ExitCode.GREEN, **more)


def example_text() -> str:
    """Return the commented inventory: beside this file when installed, else of the checkout."""
    here = Path(__file__).parent
    for path in (here / "example.yml", here.parent / "inventories/example/hosts.yml"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise DriverError("the example inventory is missing: install zcluster again")


def named(text: str, name: str) -> str:
    """Return the commented inventory for a cluster called ``name``."""
    text = text.replace("inventories/web", f"inventories/{name}")
    text = re.sub(r"(?m)^    web:$", f"    cluster_{name.replace('-', '_')}:", text)
    return re.sub(r"(?m)^(\s+zcluster_name: )web$", rf"\g<1>{name}", text)


def init(values: Mapping[str, Any], given: str | None) -> Result:
    """Write the commented inventory."""
    from zcluster_runner import draft

    name = str(values.get("name") or "")
    if not name:
        raise UsageError("init: NAME is missing, the name of the cluster")
    if not draft.NAME.fullmatch(name):
        raise draft.bad("NAME", name, draft.NAME_ALLOWED)
    directory = Path.cwd() / (Path(given).expanduser() if given else Path("inventories") / name)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InventoryError(f"{directory} exists already: edit it, or choose another place (-i)")
    try:
        draft.put(directory, named(example_text(), name))
    except OSError as error:
        raise DriverError(f"{directory} cannot be written: {error.strerror}") from error
    step = f"Write {directory / 'hosts.yml'}"
    return done("init", changes=(Change("localhost", step),), written=directory)


def completion(values: Mapping[str, Any], given: str | None) -> Result:
    """Return the shell's part of completion; the rest is asked of the command at each TAB."""
    from click import shell_completion

    from zcluster_runner import cli

    shell = str(values.get("shell") or "")
    kind = shell_completion.get_completion_class(shell)
    if kind is None:
        raise UsageError("completion: SHELL is missing: bash, zsh or fish")
    script = kind(cli.application(), {}, COMMAND, COMPLETE_VARIABLE)
    # not source(): for bash it asks the bash that is here for its version
    text = script.source_template % script.source_vars()
    return done("completion", reports={"script": {"localhost": text}})


BUILTIN: Mapping[str, Callable[[Mapping[str, Any], str | None], Result]] = {
    "init": init,
    "completion": completion,
}
