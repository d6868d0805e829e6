# SPDX-License-Identifier: GPL-3.0-or-later
"""zclustermanager: the program on each node that knows the role, the peer and the configuration."""

__version__ = "0.1.0"
