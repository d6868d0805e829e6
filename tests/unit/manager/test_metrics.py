# SPDX-License-Identifier: GPL-3.0-or-later
# Metrics: what Prometheus reads is whole, named by its rules, and documented.
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import journal, metrics, versions
from zclustermanager.metrics import Figures

DOCS = Path(__file__).parents[3] / "docs"

ANSWER: dict[str, Any] = {
    "cluster": 'we"b',
    "role": "master",
    "status": "ok",
    "sync": "in sync",
    "checks": [{"name": "keepalived", "ok": True}, {"name": "split", "ok": False}],
    "vips_expected": ["198.18.10.100", "198.18.10.101"],
    "vips_held": ["198.18.10.100"],
    "peer": {"reachable": True},
}
FIGURES = Figures(
    transitions={"master": 2},
    sync_lag=0.0,
    conntrack_entries=1234567,
    conntrack_limit=2000000,
    conntrack_link=True,
    versions={"keepalived": "1:2.2.7-1+b2"},
)


def page(figures: Figures = FIGURES) -> str:
    return metrics.page(ANSWER["cluster"], metrics.samples(ANSWER, figures, 1795385067.88))


def test_page_is_what_prometheus_reads() -> None:
    text = page()
    assert text.endswith("\n")
    for line in text.splitlines():
        assert re.fullmatch(
            r'# (HELP|TYPE) [a-z_]+ .+|[a-z_]+\{([a-z]+="([^"\\]|\\.)*",?)+\} [0-9.e+]+', line
        ), line
    assert 'zcluster_role{cluster="we\\"b",role="master"} 1.0' in text
    assert 'zcluster_role{cluster="we\\"b",role="backup"} 0.0' in text
    assert 'zcluster_conntrack_entries{cluster="we\\"b"} 1234567.0' in text
    assert 'zcluster_check_ok{cluster="we\\"b",check="split"} 0.0' in text
    assert 'version="1:2.2.7-1+b2"' in text


def test_what_is_not_known_is_not_told() -> None:
    assert "conntrack" not in page(Figures())


def test_every_metric_is_named_by_the_rules_and_documented() -> None:
    told = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for name, (kind, _) in metrics.METRICS.items():
        assert name.startswith("zcluster_")
        assert (kind == "counter") == name.endswith("_total")
        assert f"`{name}`" in told


def test_every_event_is_documented_with_its_id() -> None:
    told = (DOCS / "events.md").read_text(encoding="utf-8")
    for name, meaning in journal.EVENTS.items():
        row = f"| `{name}` | {meaning.words} | `{journal.message_id(name)}` |"
        assert row in told.splitlines(), f"docs/events.md lacks: {row}"


def test_file_is_replaced_whole_and_only_where_the_directory_is(tmp_path: Path) -> None:
    metrics.write("old\n", tmp_path)
    metrics.write("new\n", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["zcluster.prom"]
    assert (tmp_path / "zcluster.prom").read_text() == "new\n"
    assert (tmp_path / "zcluster.prom").stat().st_mode & 0o777 == 0o644
    metrics.write("new\n", tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_versions_that_differ_are_named() -> None:
    mine = versions.parse("keepalived 1:2.2.7-1+b2\nrsync 3.2.7\nconntrackd \n")
    assert mine == {"keepalived": "1:2.2.7-1+b2", "rsync": "3.2.7"}
    theirs = {"keepalived": "1:2.2.7-1+b3", "conntrackd": "1.4.7"}
    assert versions.differing(mine, theirs) == ["keepalived 1:2.2.7-1+b2 here, 1:2.2.7-1+b3 there"]


@pytest.mark.parametrize("content", ["", "abc"])
def test_number_of_the_kernel_that_is_not_there_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "n"
    path.write_text(content)
    assert metrics.number(str(path)) is None
    assert metrics.number(str(tmp_path / "missing")) is None
