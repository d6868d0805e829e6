#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hook for zcluster: one JSON document to a webhook; raise and clear have the same key.

Put it into /etc/zcluster/hooks.d/ on both nodes (root's own, mode 0755), and the address into URL.
A receiver that does not answer with success makes it fail, and zcluster calls it again later.
"""

import json
import os
import urllib.request

URL = "https://alerts.example.org/zcluster"
SECONDS = 10

told = {k.removeprefix("ZCLUSTER_").lower(): v for k, v in os.environ.items() if "ZCLUSTER_" in k}
# What pairs a raise with its clear.
told["key"] = "/".join((told["cluster"], told["node"], told.get("condition", "role")))
request = urllib.request.Request(
    URL, json.dumps(told).encode(), {"Content-Type": "application/json"}
)
urllib.request.urlopen(request, timeout=SECONDS).close()  # noqa: S310 - the address is yours
