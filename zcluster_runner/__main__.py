# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m zcluster_runner``: the same as the ``zcluster`` command."""

from zcluster_runner.cli import main

if __name__ == "__main__":
    main()
