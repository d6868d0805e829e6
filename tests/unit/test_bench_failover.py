# SPDX-License-Identifier: GPL-3.0-or-later
# The benchmark of a failover: who is measured next, and which measurements count.
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import failover


def rows(**counts: int) -> list[dict[str, Any]]:
    """So many outages of each system (underscore for dot and hyphen)."""
    names = {"stock": "stock", "fast": "fast", "by_hand": "tuned-0.02"}
    return [
        {"system": names[name], "kind": "outage", "content": "new", "outage_ms": 50.0}
        for name, count in counts.items()
        for _ in range(count)
    ]


def test_system_that_was_measured_least_is_next_and_a_few_times_in_a_row() -> None:
    wanted, names = {"outage": 20}, ["stock", "fast", "tuned-0.02"]
    measured = rows(stock=20, fast=5, by_hand=10)
    assert failover.next_due(measured, wanted, names) == ("fast", "outage", 5)
    measured = rows(stock=20, fast=20, by_hand=18)
    assert failover.next_due(measured, wanted, names) == ("tuned-0.02", "outage", 2)
    assert failover.next_due(rows(stock=20, fast=20, by_hand=20), wanted, names) is None


def test_only_measurements_beside_one_version_of_the_product_count() -> None:
    found = [
        {"content": "new", "outage_ms": 50.0},
        {"content": "new", "failed": "n2 did not take over"},
        {"content": "old", "outage_ms": 70.0},
        {"outage_ms": 90.0},
    ]
    assert failover.of_version(found, "new") == [found[0]]


def test_line_that_was_not_finished_is_none_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "failover.jsonl"
    monkeypatch.setattr(failover, "RESULTS", results)
    failover.note({"system": "stock"})
    results.write_text(results.read_text() + '{"system": "fa')
    failover.note({"system": "wan"})
    assert failover.load() == [{"system": "stock"}, {"system": "wan"}]


def test_what_was_measured_in_vain_is_said_by_system_and_reason() -> None:
    measured = [
        {**row, "at": 0, "alive": 200, "opened": 200, "slept_ms": slept}
        for row, slept in zip(rows(stock=2), (0.0, 6.0), strict=True)
    ]
    failed = [
        {"system": "fast", "kind": "outage", "failed": "n2 did not take over"},
        {"system": "fast", "kind": "outage", "failed": "n1 did not take over"},
        {"system": "stock", "kind": "false", "failed": "nobody serves, or both: []"},
    ]
    text = failover.table(measured, failed)
    assert "3 measurements failed" in text
    assert "slept 3 ms (6 at most)" in text
    assert "- fast, outage: 2 times, n… did not take over" in text
    assert "- stock, false: 1 times, nobody serves, or both: []" in text
    assert "What was left out" not in failover.table(measured, [])
