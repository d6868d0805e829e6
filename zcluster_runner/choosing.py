# SPDX-License-Identifier: GPL-3.0-or-later
"""The questions of ``configure``: the settings as the nodes have them, and what they could be.

What is chosen here is what the options of the command line would have given, word for word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from zcluster_runner import api
from zcluster_runner.actions import Param
from zcluster_runner.errors import DriverError, UsageError
from zcluster_runner.result import Result

Values = dict[str, Any]
"""Parameter, value; as ``run()`` takes them."""


@dataclass(frozen=True)
class Setting:
    """A setting on offer."""

    name: str
    """The parameter of ``configure``."""
    words: str
    present: str
    """What the nodes have, as it is shown."""
    choices: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    """Of a list: what is in it, as ``remove`` takes it."""
    hint: str = ""


def plan_of(result: Result) -> Mapping[str, Any]:
    """Return the settings of the one cluster that ``show`` tells of."""
    plans = {
        str(said["name"]): said
        for said in result.report("settings").values()
        if isinstance(said, Mapping) and said.get("nodes")
    }
    if len(plans) > 1:
        raise UsageError(f"the inventory has several clusters, say --cluster: {', '.join(plans)}")
    for plan in plans.values():
        return plan
    why = "; ".join(f"{error['host']}: {error['message']}" for error in result.errors())
    raise DriverError(
        f"configure: no node tells its settings: {why}"
        if why
        else "configure: the nodes are in no cluster yet: zcluster create comes first"
    )


def interfaces_of(result: Result) -> tuple[str, ...]:
    """Return the interfaces that all nodes have, by what ``interfaces`` tells of them."""
    told_by = [
        [str(entry["interface"]) for entry in entries]
        for entries in result.report("interfaces").values()
    ]
    first, *others = told_by or [[]]
    return tuple(name for name in dict.fromkeys(first) if all(name in other for other in others))


def offered(plan: Mapping[str, Any], interfaces: Sequence[str] = ()) -> tuple[Setting, ...]:
    """Return what can be changed of a cluster whose nodes have ``plan`` (their cluster.json)."""
    vips = [
        f"{vip['address']}/{vip['prefix']}@{vip['interface']}" for vip in plan.get("vips") or ()
    ]
    witnesses = [str(witness) for witness in plan.get("witnesses") or ()]
    tracked = [str(interface) for interface in plan.get("track_interfaces") or ()]
    hosts = [str(node["hostname"]) for node in plan["nodes"]]
    profile = _choices("profile")
    return (
        Setting("failback", "failback", str(plan["failback"]), ("disabled", *hosts)),
        Setting("profile", "profile", str(plan["profile"]), profile),
        Setting("check_interval", "check interval", f"{plan['check_interval']:g}", hint=" s"),
        Setting("preempt_delay", "preempt delay", f"{plan.get('preempt_delay') or 0:g}", hint=" s"),
        Setting(
            "vip",
            "virtual IPs",
            ", ".join(vips) or "none",
            entries=tuple(vip.partition("/")[0] for vip in vips),
            hint=f"ADDRESS/PREFIX[@{'|'.join(interfaces) or 'INTERFACE'}]",
        ),
        Setting(
            "witness",
            "witnesses",
            ", ".join(witnesses) or "none",
            entries=tuple(witnesses),
            hint="ADDRESS",
        ),
        Setting(
            "track_interface",
            "tracked interfaces",
            ", ".join(tracked) or "none",
            entries=tuple(tracked),
            hint="|".join(interfaces) or "INTERFACE",
        ),
    )


def _param(name: str) -> Param:
    param = api.action_for("configure").param(name)
    if param is None:
        raise UsageError(f"configure has no parameter {name!r}")
    return param


def _choices(name: str) -> tuple[str, ...]:
    return _param(name).choices


def chosen(cluster: str, settings: Sequence[Setting]) -> Values:
    """Show the settings, ask which are to change and to what, until that is all."""
    values: Values = {}
    width = max(len(setting.words) for setting in settings)
    while True:
        click.echo(f"Settings of cluster {cluster}, as its nodes have them:", err=True)
        for number, setting in enumerate(settings, 1):
            new = f"  ->  {told(values[setting.name])}" if setting.name in values else ""
            unit = " s" if setting.hint == " s" else ""
            click.echo(
                f"  {number}) {setting.words:<{width}}  {setting.present}{unit}{new}", err=True
            )
        number = click.prompt(
            "Which one is to change (just Enter: no more)",
            type=click.IntRange(0, len(settings)),
            default=0,
            show_default=False,
            err=True,
        )
        if not number:
            return values
        ask(settings[number - 1], values)


def ask(setting: Setting, values: Values) -> None:
    """Ask for the new value of one setting; the present one takes the choice back."""
    if _param(setting.name).changes_list:
        if changes := _changes(setting, tuple(values.get(setting.name, ()))):
            values[setting.name] = changes
        else:
            values.pop(setting.name, None)
        return
    value = _one_of(setting) if setting.choices else _number(setting)
    if told(value) == setting.present:
        values.pop(setting.name, None)
    else:
        values[setting.name] = value


def _one_of(setting: Setting) -> str:
    for number, choice in enumerate(setting.choices, 1):
        click.echo(f"    {number}) {choice}", err=True)
    present = [n for n, choice in enumerate(setting.choices, 1) if choice == setting.present]
    number = click.prompt(
        f"  {setting.words}",
        type=click.IntRange(1, len(setting.choices)),
        default=present[0] if present else None,
        err=True,
    )
    return setting.choices[number - 1]


def _number(setting: Setting) -> Any:
    param = _param(setting.name)
    question = f"  {setting.words}, {param.minimum:g} to {param.maximum:g} s"
    return _until_right(
        lambda: api.checked_value(param, click.prompt(question, default=setting.present, err=True))
    )


def _changes(setting: Setting, so_far: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    param = _param(setting.name)
    changes = list(so_far)
    while True:
        words = click.prompt(
            f"  {setting.words}: add {setting.hint}, or remove "
            f"{' | '.join(setting.entries) or '(there are none)'} (just Enter: no more)",
            default="",
            show_default=False,
            err=True,
        ).split()
        if not words:
            return tuple(changes)

        def right(words: Sequence[str] = words) -> tuple[str, str]:
            if len(words) != 2:
                raise UsageError(f"{' '.join(words)!r} is not possible; allowed: two words")
            what, text = api.checked_value(param, tuple(words))
            if what == "add" and setting.name == "vip":
                from zcluster_runner import draft

                draft.checked_vip(text)
            known = {*setting.entries, *(t.partition("/")[0] for w, t in changes if w == "add")}
            if what == "remove" and text not in known:
                raise UsageError(
                    f"{param.option} remove {text}: it is not there; "
                    f"there are: {', '.join(sorted(known)) or 'none'}"
                )
            return what, text

        try:
            changes.append(right())
        except UsageError as error:
            click.echo(f"  {error}", err=True)


def _until_right(question: Callable[[], Any]) -> Any:
    while True:
        try:
            return question()
        except UsageError as error:
            click.echo(f"  {error}", err=True)


def told(value: Any) -> str:
    """Return a chosen value as people read it."""
    if isinstance(value, tuple):
        return ", ".join(f"{what} {text}" for what, text in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_options(values: Mapping[str, Any]) -> str:
    """Return the options that would have said the same."""
    import shlex

    words: list[str] = []
    for name, value in values.items():
        option = _param(name).option
        if isinstance(value, tuple):
            words += [word for what, text in value for word in (option, what, text)]
        else:
            words += [option, told(value)]
    return shlex.join(words)
