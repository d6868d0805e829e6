# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``zcluster`` command: options and help come from the table of actions."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from zcluster_runner import actions, api, ask
from zcluster_runner.actions import Action, Kind, Param, Place
from zcluster_runner.errors import DriverError, StoppedError, UsageError
from zcluster_runner.result import Event, EventKind, ExitCode, Failure, Outcome, Result

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = f"""\
Inventory: -i DIRECTORY, else ${"ZCLUSTER_INVENTORY"}, else the only cluster known
(inventories/NAME here, ~/.config/zcluster/NAME).

Exit codes: 0 green, 1 orange (maintenance, warnings), 2 red (failure), 3 grey (unreachable, not
known, or the run failed), 64 wrong usage.

First steps:
  zcluster create web --local lb1 --remote lb2 --vip 192.0.2.100/24
  zcluster nodes
  zcluster VERB --help
"""

TYPES: Mapping[Kind, click.ParamType[Any]] = {
    Kind.SECONDS: click.FLOAT,
    Kind.INTEGER: click.INT,
    Kind.PATH: click.STRING,
}
"""click only splits words; what a value may be, the API checks, for every way to call it alike."""


class TaughtCommand(click.Command):
    """A verb; its help ends with examples."""

    def __init__(self, action: Action, **more: Any) -> None:
        """Be the command of ``action``."""
        super().__init__(**more)
        self.action = action

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the text as it stands in the table."""
        with formatter.indentation():
            formatter.write("\n")
            for line in f"{self.action.summary}.\n\n{self.action.text}".splitlines():
                formatter.write(f"  {line}\n" if line else "\n")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        formatter.write("\nExamples:\n")
        for example in self.action.examples:
            formatter.write(f"  {example}\n")


class Verbs(click.Group):
    """A group of verbs that suggests the right one for a wrong one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        prefix = f"{self.name} " if self.name in GROUPS else ""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            meant = actions.similar(f"{prefix}{args[0]}")
            hint = f" Did you mean 'zcluster {meant}'?" if meant else ""
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(
                f"There is no verb '{prefix}{args[0]}'.{hint}\nVerbs: {known}", ctx
            )
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the verbs in the table's order."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write inventory, exit codes and first steps as they stand."""
        formatter.write("\n" + (self.epilog or ""))


def common_options(with_defaults: bool) -> list[click.Parameter]:
    """Return the options that may stand before or after the verb."""
    return [
        click.Option(
            ["-i", "--inventory"],
            help="Inventory directory or file.",
            metavar="PATH",
            shell_complete=complete("places"),
        ),
        click.Option(
            ["--cluster"],
            help="One cluster of the inventory.",
            metavar="NAME",
            shell_complete=complete("clusters"),
        ),
        click.Option(
            ["--limit"],
            help="Only these hosts (an Ansible pattern).",
            metavar="HOSTS",
            shell_complete=complete("hosts"),
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            default="table" if with_defaults else None,
            help="How to show the result (default table).",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            help="Show Ansible's own output; more of them, more of it.",
        ),
    ]


def writing_options() -> list[click.Parameter]:
    """Return the options of verbs that change something."""
    return [
        click.Option(["--yes"], is_flag=True, help="Answer the confirmation with yes."),
        click.Option(["--check"], is_flag=True, help="Change nothing, say what would be changed."),
        click.Option(["--diff"], is_flag=True, help="Show the differences in files."),
    ]


Complete = Callable[[click.Context, click.Parameter, str], Any]


def complete(what: str) -> Complete:
    """Return what completes ``what`` (a function of completing.py), loaded only by a TAB."""

    def offer(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from zcluster_runner import completing

        return getattr(completing, what)(ctx, param, incomplete)

    return offer


def option_of(param: Param) -> click.Parameter:
    """Return a parameter of the table as click's."""
    offer = complete("hosts") if param.kind is Kind.HOST else None
    if param.changes_list:
        return click.Option(
            [param.option, param.name],
            type=(click.Choice(["add", "remove"]), str),
            multiple=True,
            metavar=f"add|remove {param.kind.value.upper()}",
            help=f"{param.help}; may be given several times.",
        )
    choices = click.Choice(param.choices) if param.choices else None
    if param.positional:
        return click.Argument(
            [param.name],
            required=False,
            metavar=f"[{param.name.upper()}]",
            type=choices,
            shell_complete=offer,
        )
    if param.kind is Kind.FLAG:
        return click.Option([param.option, param.name], is_flag=True, help=f"{param.help}.")
    return click.Option(
        [param.option, param.name],
        type=choices or TYPES.get(param.kind, click.STRING),
        multiple=param.multiple,
        is_flag=False,
        flag_value=None if param.bare is None else str(param.bare),
        metavar=None if choices else param.kind.value.upper(),
        shell_complete=offer,
        help=f"{param.help}{'; may be given several times' if param.multiple else ''}.",
    )


def command_of(action: Action) -> click.Command:
    """Return the command of an action."""
    own = [option_of(param) for param in action.params]
    # What an option means to a verb that does not know it would be a surprise.
    shared = {"output", "verbose"} if action.playbook else {"output", "inventory"}
    common = [
        option
        for option in common_options(with_defaults=False)
        if action.place is not Place.HERE or option.name in shared
    ]
    return TaughtCommand(
        action,
        name=action.words[-1],
        params=[*own, *common, *(writing_options() if action.writes else [])],
        callback=_callback(action),
        short_help=action.summary,
        options_metavar="[OPTIONS]",
    )


def _callback(action: Action) -> Callable[..., None]:
    def invoke(**given: Any) -> None:
        ctx = click.get_current_context()
        # Before or after the verb: the nearer one wins.
        options = {**said(ctx.find_root().params), **said(given)}
        ctx.exit(int(invoked(action, options)))

    return invoke


def said(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given; a zero is a value, but for how often -v was."""
    unsaid = {name for name, value in options.items() if value is None or value is False}
    unsaid |= {
        name for name, value in options.items() if value == () or (name, value) == NOT_VERBOSE
    }
    return {name: value for name, value in options.items() if name not in unsaid}


NOT_VERBOSE = ("verbose", 0)

GROUPS = {
    "lab": "A practice cluster on this machine.",
    "sync": "Synchronization of the configuration.",
}
"""What the verbs of two words are about, by their first."""


def members(word: str) -> str:
    """Return the second words of the verbs that begin with ``word``."""
    return ", ".join(a.words[1] for a in actions.ACTIONS if a.words[0] == word and a.words[1:])


def application() -> click.Group:
    """Return the whole command."""
    group = Verbs(
        name="zcluster",
        params=[*common_options(with_defaults=False), version_option()],
        help="Two nodes, one master: clusters for routers, load balancers and firewalls.",
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        no_args_is_help=True,
        subcommand_metavar="VERB [OPTIONS]",
    )
    groups: dict[str, click.Group] = {}
    for action in actions.ACTIONS:
        *path, _ = action.words
        parent: click.Group = group
        for word in path:
            if word not in groups:
                groups[word] = Verbs(
                    name=word,
                    help=GROUPS[word],
                    short_help=f"{GROUPS[word][:-1]} ({members(word)})",
                    no_args_is_help=True,
                    subcommand_metavar="VERB",
                )
                group.add_command(groups[word])
            parent = groups[word]
        parent.add_command(command_of(action))
    return group


def version_option() -> click.Parameter:
    """Return ``--version``."""

    def show(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            from zcluster_runner import __version__

            click.echo(f"zcluster {__version__}")
            ctx.exit(0)

    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version.",
    )


def invoked(action: Action, options: dict[str, Any]) -> ExitCode:
    """Do what was asked: the run, its display, its exit code."""
    run_options = {name: options.pop(name, None) for name in ("inventory", "cluster", "limit")}
    as_json = options.pop("output", None) == "json"
    verbose = int(options.pop("verbose", 0) or 0)
    run_options |= {name: bool(options.pop(name, False)) for name in ("check", "diff")}
    yes = bool(options.pop("yes", False))
    from_stdin = bool(options.pop("password_stdin", False))
    if action.confirm and not run_options["check"] and not ask.confirmed(action.confirm, yes):
        raise click.Abort
    password = ask.Password(ask.password_from_stdin() if from_stdin else None)
    if action.place is Place.CREATE and wants_questions(options, run_options["inventory"]):
        options = ask.missing_for_create(options, _interfaces(password))
    if action.verb == "configure" and not options and (ask.terminal() or not run_options["check"]):
        options = chosen_settings(run_options, yes)

    def once() -> Result:
        return _run(action, run_options, options, password, verbose=verbose, as_json=as_json)

    if watch := options.get("watch"):
        return watched(action, once, float(watch), as_json)
    result = once()
    with interruptible(lambda: 0 if result.check else len(result.changes)):
        display(action, result, as_json)
    return result.exit_code


def wants_questions(options: Mapping[str, Any], inventory: object) -> bool:
    """Return whether create has to ask: a person is there, and it cannot know what to do."""
    if not ask.terminal():
        return False
    new = {"local", "remote", "local_ip", "remote_ip", "vip"} & set(options)
    if new:
        return not ({"name", "local", "remote", "local_ip", "remote_ip"} <= set(options))
    from pathlib import Path

    from zcluster_runner import inventory as inventories

    if inventory or os.environ.get(inventories.VARIABLE):
        return False
    name = str(options.get("name") or "")
    if name:
        return not inventories.default_directory(name).exists()
    return not list(inventories.known(os.environ, Path.cwd()))


def chosen_settings(run_options: Mapping[str, Any], yes: bool) -> dict[str, Any]:
    """Ask which settings are to change; ``--yes`` without any means those of the inventory."""
    if yes:
        return {}
    if not ask.terminal():
        raise UsageError(
            "configure: no setting is given, and there is no terminal to ask: give one "
            "(zcluster configure --help), or --yes for what the inventory says"
        )
    from zcluster_runner import choosing

    where = {name: run_options[name] for name in ("inventory", "cluster", "limit")}

    def told(verb: str) -> Result:
        action = api.action_for(verb)
        return _run(action, where, {}, ask.Password(), verbose=0, as_json=False)

    plan = choosing.plan_of(told("show"))
    settings = choosing.offered(plan, choosing.interfaces_of(told("interfaces")))
    values = choosing.chosen(str(plan["name"]), settings)
    if values:
        click.echo(f"The same by options: {choosing.as_options(values)}", err=True)
    question = "Change this?" if values else "Nothing chosen. Bring it to what the inventory says?"
    if not ask.confirmed(question, yes):
        raise click.Abort
    return values


def _interfaces(password: ask.Password) -> ask.FindInterfaces:
    def look(values: Mapping[str, Any], host: str) -> Result:
        access = {name: values[name] for name in ("user", "key") if values.get(name)}
        action = api.action_for("interfaces")
        return _run(action, {}, {"host": host, **access}, password, verbose=0, as_json=False)

    return look


def _run(
    action: Action,
    run_options: Mapping[str, Any],
    options: Mapping[str, Any],
    password: ask.Password,
    *,
    verbose: int,
    as_json: bool,
) -> Result:
    from zcluster_runner.progress import progress_for

    progress = progress_for(
        action,
        verbose=verbose > 0,
        as_json=as_json,
        terminal=sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"),
        console=lambda: console(sys.stderr, stderr=True),
    )

    changed = 0

    def ask_password(hosts: Sequence[str]) -> Any:
        progress.pause()
        return password.ask(hosts)

    def listen(event: Event) -> None:
        nonlocal changed
        changed += event.kind is EventKind.CHANGED and not run_options.get("check")
        if event.kind is EventKind.PLAY and not as_json:
            # what showing the result takes is loaded while Ansible works
            import rich.console
            import rich.table
            import rich.text  # noqa: F401
        progress(event)

    with interruptible(lambda: changed), progress:
        return api.run(
            action.verb,
            **run_options,
            verbosity=max(0, verbose - 1),
            password=password.known,
            ask_password=ask_password if action.takes_password else None,
            on_event=listen,
            **options,
        )


@contextmanager
def interruptible(changed: Callable[[], int]) -> Iterator[None]:
    """Have a Ctrl-C beside Ansible's runs, which stop in order, say what was done by then."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not changed():
            raise
        from zcluster_runner import render

        raise StoppedError(render.stopped(changed())) from error


def watched(action: Action, once: Callable[[], Result], pause: float, as_json: bool) -> ExitCode:
    """Show the nodes again and again until Ctrl-C; the exit code is that of what was shown last."""
    from zcluster_runner import watch

    result = once()
    code = result.exit_code
    if not result.nodes:
        display(action, result, as_json)
        return code
    by_itself = watch.connections(result) is not None
    stopped = threading.Event()

    def stop(*_: object) -> NoReturn:
        stopped.set()  # should something swallow the exception, the next round sees this
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    rounds = watch.follow(result, pause, stopped.is_set) if by_itself else repeat(once)
    try:
        with screen(as_json) as draw, closing(rounds):
            for one in rounds:
                draw(action, one, pause)
                code = one.exit_code
                if not by_itself:
                    time.sleep(pause)
    except KeyboardInterrupt:
        return code
    finally:
        signal.signal(signal.SIGINT, before)
    return code


def repeat(once: Callable[[], Result]) -> Generator[Result]:
    """Run it again and again, where only Ansible knows how to reach the nodes."""
    while (result := once()).outcome is not Outcome.CANCELED:
        yield result


Draw = Callable[[Action, Result, float], None]


@contextmanager
def screen(as_json: bool) -> Iterator[Draw]:
    """Give what shows a result in the place of the one before; without a terminal, below it."""
    if as_json or not sys.stdout.isatty():
        yield lambda action, result, _: display(action, result, as_json)
        return
    from rich.live import Live

    from zcluster_runner import render

    out = console(sys.stdout)
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:

        def draw(action: Action, result: Result, pause: float) -> None:
            head = f"{time.strftime('%H:%M:%S')}  every {pause:g} s, Ctrl-C ends"
            live.update(render.screenful(head, result, out.height), refresh=True)

        yield draw


def display(action: Action, result: Result, as_json: bool) -> None:
    """Write the result: JSON alone on standard output, or text."""
    from zcluster_runner import render

    if as_json:
        indent = 2 if sys.stdout.isatty() else None
        click.echo(json.dumps(render.as_json(action, result), ensure_ascii=False, indent=indent))
        return
    out, err = console(sys.stdout), console(sys.stderr, stderr=True)
    with out.capture() as captured:
        render.show(action, result, out, err)
    # Cells are padded to their column's width, the last one too.
    lines = (line.rstrip(" ") for line in captured.get().splitlines())
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    if result.written and result.outcome is not Outcome.SUCCEEDED:
        err.print(f"The inventory stays: zcluster -i {result.written} create")


def console(stream: TextIO, stderr: bool = False) -> Console:
    """Return rich's console for a stream; what is redirected is not cut at 80 columns."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 400)


def failed(verb: str, result: str, code: ExitCode, message: str, as_json: bool) -> NoReturn:
    """Say why there is no result, in the form that was asked for, and end."""
    if as_json:
        outcome = Result(verb, Outcome.FAILED, code, failures=(Failure("", result, message),))
        click.echo(json.dumps({**outcome.to_dict(), "result": result}, ensure_ascii=False))
    else:
        click.echo(message, err=True)
    sys.exit(int(code))


def wants_json(words: Sequence[str]) -> bool:
    """Return whether JSON was asked for, on a command line that may be wrong elsewhere."""
    return any(word in ("--output=json", "-ojson") for word in words) or any(
        pair in (("-o", "json"), ("--output", "json")) for pair in pairwise(words)
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; always ends with one of the documented exit codes."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = wants_json(words)
    verb = next((word for word in words if actions.find(word)), "")
    try:
        code = application().main(words, prog_name="zcluster", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        failed(verb, "usage", ExitCode.USAGE, error.format_message(), as_json)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "zcluster"
        message = error.format_message()
        hint = "" if as_json else f"\nTry '{path} --help'."
        failed(verb, "usage", ExitCode.USAGE, f"{prefix(as_json)}{message}{hint}", as_json)
    except UsageError as error:
        failed(verb, "usage", ExitCode.USAGE, f"{prefix(as_json)}{error}", as_json)
    except (click.Abort, KeyboardInterrupt):
        if not as_json:
            click.echo(err=True)
        failed(verb, "canceled", ExitCode.GREY, "Nothing was done.", as_json)
    except StoppedError as error:
        failed(verb, "canceled", ExitCode.GREY, str(error), as_json)
    except DriverError as error:
        failed(verb, "failed", ExitCode.GREY, f"{prefix(as_json)}{error}", as_json)
    except BrokenPipeError:
        # the reader of a pipe has gone (| head): nothing more to say, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(int(ExitCode.GREY))
    except Exception as error:  # noqa: BLE001  Python's own exit code would be orange
        if any(word.startswith("-v") or word == "--verbose" for word in words):
            import traceback

            traceback.print_exc()
        words_of_it = f"a fault of zcluster itself: {type(error).__name__}: {error} (-v: where)"
        failed(verb, "failed", ExitCode.GREY, f"{prefix(as_json)}{words_of_it}", as_json)
    sys.exit(int(code or 0))


def prefix(as_json: bool) -> str:
    """Return who speaks, where several programs may."""
    return "" if as_json else "zcluster: "
