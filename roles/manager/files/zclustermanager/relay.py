# SPDX-License-Identifier: GPL-3.0-or-later
"""The SSH forced command: carries the request to the root-owned receiver, and decides nothing.

It runs as the unprivileged user zcluster. All parsing and checking is done behind the socket.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys

SOCKET = "/run/zcluster/receive.sock"
# Of the daemon, which answers a ping without a program's start. It reads nothing there.
PING = "/run/zcluster/ping.sock"
# Seconds for its first byte, and for the rest; after that the receiver answers.
ALIVE, READY = 0.5, 1.0
CHUNK = 1 << 16


def pinged() -> bytes:
    """The daemon's word that this node is here; nothing when it is dead, or slow."""
    data = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(ALIVE)
            link.connect(PING)
            while chunk := link.recv(CHUNK):
                data += chunk
                link.settimeout(READY)
    except OSError:
        return b""
    return data if data.endswith(b"}\n") else b""


def say(data: bytes) -> None:
    """Write all of it to the peer."""
    while data:
        data = data[os.write(1, data) :]


def main() -> int:
    """Connect standard input and output with the receiver until it is done."""
    if os.environ.get("SSH_ORIGINAL_COMMAND") == "ping" and (word := pinged()):
        say(word)
        return 0
    request = {
        "command": os.environ.get("SSH_ORIGINAL_COMMAND", ""),
        "client": os.environ.get("SSH_CONNECTION", ""),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        try:
            link.connect(SOCKET)
        except OSError as error:
            print(f"zcluster: the receiver is not there: {error.strerror}", file=sys.stderr)
            return 69  # EX_UNAVAILABLE
        link.sendall(json.dumps(request).encode() + b"\n")
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(link, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == 0:
                        data = os.read(0, CHUNK)
                        if data:
                            link.sendall(data)
                        else:
                            selector.unregister(0)
                            link.shutdown(socket.SHUT_WR)
                    else:
                        data = link.recv(CHUNK)
                        if not data:
                            return 0
                        say(data)


if __name__ == "__main__":
    sys.exit(main())
