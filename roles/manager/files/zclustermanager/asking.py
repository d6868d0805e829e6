# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the resident daemon over its socket. Imports next to nothing: who asks is in a hurry."""

from __future__ import annotations

import json
import socket
from typing import Any

SOCKET = "/run/zcluster/manager.sock"
# Seconds for the sign of life before an answer that takes a look, and for that: looking for a peer
# that is away takes up to six.
ALIVE, LOOKING = 1.0, 8.0


def ask(
    request: dict[str, Any] | None = None, timeout: float = 2.0, patience: float = 0.0
) -> dict[str, Any] | None:
    """What the daemon knows, the request done; None when it does not answer.

    `patience`: seconds for what follows a first sign of life (a blank line, which JSON permits).
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout)
            link.connect(SOCKET)
            link.sendall(json.dumps(request or {}).encode())
            link.shutdown(socket.SHUT_WR)
            data = b""
            while chunk := link.recv(65536):
                data += chunk
                link.settimeout(patience or timeout)
        answer: dict[str, Any] = json.loads(data)
        return answer
    except (OSError, json.JSONDecodeError):
        return None


def status() -> dict[str, Any] | None:
    """How the node is, looked at now by the daemon; None when that is dead, busy, or older."""
    answer = (ask({"status": True}, ALIVE, LOOKING) or {}).get("status")
    return answer if isinstance(answer, dict) else None
