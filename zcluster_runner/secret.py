# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: how a password is held, given to Ansible through a FIFO, and kept out of every text.

A value goes to ``ansible-playbook -e @FIFO``. ansible-core opens an extra-vars file once per
process (ansible/utils/vars.py: ``load_extra_vars`` keeps what it read; DataLoader reads with
``Path.read_bytes``, without ``stat`` or ``seek``), so a FIFO works, and nothing is ever on a disk,
in an environment or on a command line.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

HIDDEN = "********"

LONGEST_SECRET = 1024
"""Bytes. As JSON a secret must fit into an empty pipe at once (64 KiB on Linux)."""

WHOLE_WORD_BELOW = 6
"""A secret shorter than this is hidden as a whole word only, or every "a" of a log would go."""


class Secret:
    """A value that shows itself only when asked by name; repr, str, pickle and JSON do not."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Hold ``value``; it must not be empty, hold a line break, or be unreasonably long."""
        if not value:
            raise ValueError("a password must not be empty")
        if "\n" in value or "\r" in value or "\0" in value:
            raise ValueError("a password must be one line")
        if len(value.encode()) > LONGEST_SECRET:
            raise ValueError(f"a password must not be longer than {LONGEST_SECRET} bytes")
        self._value = value

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret cannot be pickled")


class SecretFifo:
    """A FIFO in a private directory, from which one reader gets the secrets, once."""

    def __init__(self, path: Path, secrets: Mapping[str, Secret]) -> None:
        """Create the FIFO at ``path``; ``secrets`` maps variable names to their values."""
        self.path = path
        self._secrets = dict(secrets)
        os.mkfifo(path, 0o600)

    @property
    def delivered(self) -> bool:
        """Whether the reader has had the secrets."""
        return not self._secrets

    def offer(self) -> bool:
        """Hand over the secrets if a reader has the FIFO open; never blocks."""
        if self.delivered:
            return True
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.EINTR):  # ENXIO: nobody reads yet
                return False
            raise
        try:
            # A second reader must not find it and wait for ever.
            self.path.unlink()
            # __ansible_unsafe: a password with {{ in it is not a template.
            document = {
                name: {"__ansible_unsafe": secret.reveal()}
                for name, secret in self._secrets.items()
            }
            os.write(descriptor, json.dumps(document).encode())
        finally:
            os.close(descriptor)
            self._secrets.clear()
        return True

    def close(self) -> None:
        """Forget the secrets and remove the FIFO."""
        self._secrets.clear()
        self.path.unlink(missing_ok=True)


class Redactor:
    """Hides known secrets in any text or structure: the last line of defence, after ``no_log``."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        """Know ``secrets``, as they are and as JSON writes them."""
        patterns: list[str] = []
        for secret in secrets:
            value = secret.reveal()
            spellings = {
                value,
                json.dumps(value)[1:-1],
                json.dumps(value, ensure_ascii=False)[1:-1],
            }
            for spelling in sorted(spellings, key=len, reverse=True):
                pattern = re.escape(spelling)
                if len(spelling) < WHOLE_WORD_BELOW:
                    pattern = rf"(?<!\w){pattern}(?!\w)"
                patterns.append(pattern)
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def text(self, text: str) -> str:
        """Return ``text`` without the secrets."""
        return self._pattern.sub(HIDDEN, text) if self._pattern else text

    def structure(self, value: object) -> object:
        """Return a copy of what came from JSON, without the secrets, keys included."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.structure(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.structure(item) for item in value]
        return value
