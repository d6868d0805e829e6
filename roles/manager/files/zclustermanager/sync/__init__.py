# SPDX-License-Identifier: GPL-3.0-or-later
"""Synchronization: from the master's disk to the backup's, whole generations only."""
