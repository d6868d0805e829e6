# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Networking of the service, not of a node: routes, rules, addresses that only the master has."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass

INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,14}")
TABLE = re.compile(r"[A-Za-z0-9_-]{1,32}")
NUMBER = re.compile(r"\d{1,10}")
MARK = re.compile(r"(0x[0-9a-fA-F]{1,8}|\d{1,10})(/(0x[0-9a-fA-F]{1,8}|\d{1,10}))?")
SCOPE = re.compile(r"global|link|host")


@dataclass(frozen=True)
class Entry:
    """One route, rule or address in the words of ip(8), which are keepalived's, too."""

    words: str
    family: int  # 4 or 6
    interface: str = ""


@dataclass(frozen=True)
class MasterOnly:
    """What exists on the node that serves, and only there."""

    routes: t.Tuple[Entry, ...] = ()
    rules: t.Tuple[Entry, ...] = ()
    addresses: t.Tuple[Entry, ...] = ()

    @property
    def entries(self) -> t.Tuple[Entry, ...]:
        """All of it."""
        return (*self.routes, *self.rules, *self.addresses)


NOTHING = MasterOnly()


class EntryError(ValueError):
    """An entry that is not usable; the text says what is allowed."""


Check = t.Callable[[str], object]


def _matching(pattern: t.Pattern[str], what: str) -> Check:
    def check(text: str) -> object:
        if not pattern.fullmatch(text):
            raise EntryError(f"{text!r} is not {what}")
        return text

    return check


def _address(text: str) -> object:
    return ipaddress.ip_address(text)


def _network(text: str) -> object:
    return None if text in ("all", "default") else ipaddress.ip_network(text)


# Key -> how its value is checked.
ROUTE: t.Dict[str, Check] = {
    "via": _address,
    "src": _address,
    "dev": _matching(INTERFACE, "the name of an interface"),
    "table": _matching(TABLE, "a routing table"),
    "metric": _matching(NUMBER, "a number"),
    "scope": _matching(SCOPE, "global, link or host"),
}
RULE: t.Dict[str, Check] = {
    "from": _network,
    "to": _network,
    "iif": _matching(INTERFACE, "the name of an interface"),
    "oif": _matching(INTERFACE, "the name of an interface"),
    "fwmark": _matching(MARK, "a mark"),
    "table": _matching(TABLE, "a routing table"),
    "priority": _matching(NUMBER, "a number"),
}
ADDRESS: t.Dict[str, Check] = {"dev": ROUTE["dev"]}


def route(raw: object) -> Entry:
    """`DESTINATION [via ADDRESS] [dev INTERFACE] [src ADDRESS] [table N] [metric N] [scope S]`."""
    words = _words(raw)
    versions = [] if words[0] == "default" else [_checked(ipaddress.ip_network, words[0])]
    pairs = _pairs(words[1:], ROUTE, versions)
    if not {"via", "dev"} & set(pairs):
        raise EntryError("a route needs `via ADDRESS` or `dev INTERFACE`")
    return _entry(words, versions, pairs.get("dev", ""))


def rule(raw: object) -> Entry:
    """`[from NETWORK] [to NETWORK] [iif I] [oif I] [fwmark M] table N priority N`."""
    words = _words(raw)
    versions: t.List[object] = []
    pairs = _pairs(words, RULE, versions)
    if not {"table", "priority"} <= set(pairs):
        # Without a priority the kernel picks one, and the same rule could not be found again.
        raise EntryError("a rule needs `table N` and `priority N`")
    return _entry(words, versions, "")


def address(raw: object) -> Entry:
    """`ADDRESS/PREFIX dev INTERFACE`."""
    words = _words(raw)
    if "/" not in words[0]:
        raise EntryError(f"{words[0]!r} has no prefix length")
    versions = [_checked(ipaddress.ip_interface, words[0])]
    pairs = _pairs(words[1:], ADDRESS, versions)
    if "dev" not in pairs:
        raise EntryError("an address needs `dev INTERFACE`")
    return _entry(words, versions, pairs["dev"])


# Setting -> how its entries are read.
READERS: t.Dict[str, t.Callable[[object], Entry]] = {
    "master_routes": route,
    "master_rules": rule,
    "master_addresses": address,
}


def _words(raw: object) -> t.List[str]:
    words = raw.split() if isinstance(raw, str) else []
    if not words:
        raise EntryError("an entry is one line in the words of ip(8)")
    return words


def _pairs(
    words: t.Sequence[str], allowed: t.Mapping[str, Check], versions: t.List[object]
) -> t.Dict[str, str]:
    pairs: t.Dict[str, str] = {}
    for key, value in zip(words[::2], [*words[1::2], ""], strict=False):
        if key not in allowed:
            raise EntryError(f"{key!r} is not known here; allowed are: {', '.join(allowed)}")
        if key in pairs or not value:
            raise EntryError(f"{key!r} wants exactly one value")
        versions.append(_checked(allowed[key], value))
        pairs[key] = value
    return pairs


def _checked(check: Check, text: str) -> object:
    try:
        return check(text)
    except EntryError:
        raise
    except ValueError as error:
        raise EntryError(str(error)) from error


def _entry(words: t.Sequence[str], values: t.Sequence[object], interface: str) -> Entry:
    versions = {value.version for value in values if hasattr(value, "version")}
    if len(versions) > 1:
        raise EntryError("IPv4 and IPv6 are mixed in it")
    return Entry(" ".join(words), versions.pop() if versions else 4, interface)
