# SPDX-License-Identifier: GPL-3.0-or-later
"""Which inventory a command works on; what is read from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zcluster_runner import inventory as inventories
from zcluster_runner.errors import InventoryError


def make(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "hosts.yml").write_text("all: {}\n")
    return directory


def locate(given: str | None = None, name: str = "", **caller: str) -> Path:
    return inventories.locate(given, {**os.environ, **caller}, Path.cwd(), name)


def test_the_one_given_goes_first() -> None:
    path = make(Path("some/where").absolute())
    other = make(Path("other").absolute())
    assert locate("some/where", ZCLUSTER_INVENTORY=str(other)) == path


def test_then_the_environment() -> None:
    path = make(Path("other").absolute())
    make(Path("inventories/web"))
    assert locate(ZCLUSTER_INVENTORY="other") == path


@pytest.mark.parametrize("where", ["inventories/web", "../config/zcluster/web"])
def test_then_the_only_cluster_known(where: str) -> None:
    path = make((Path.cwd() / where).resolve())
    assert locate() == path


def test_the_example_and_a_lab_that_is_down_are_no_clusters() -> None:
    path = make(Path("inventories/web").absolute())
    make(Path("inventories/example"))
    Path("inventories/lab/.ssh").mkdir(parents=True)
    assert locate() == path


def test_several_are_listed() -> None:
    make(Path("inventories/web"))
    make(Path("../config/zcluster/db").resolve())
    with pytest.raises(InventoryError, match=r"Choose one:\n  -i inventories/web\n  -i /.*/db"):
        locate()


def test_a_clusters_name_decides_between_several() -> None:
    make(Path("inventories/web"))
    path = make(Path("inventories/db").absolute())
    assert locate(name="db") == path


def test_none_says_how_to_get_one() -> None:
    with pytest.raises(InventoryError, match="zcluster create"):
        locate()


def test_a_mistyped_path_is_said_with_where_it_came_from() -> None:
    with pytest.raises(InventoryError, match=r"inventory nowhere \(from -i\)"):
        locate("nowhere")
    with pytest.raises(InventoryError, match=r"from \$ZCLUSTER_INVENTORY"):
        locate(ZCLUSTER_INVENTORY="nowhere")


TWO_CLUSTERS = """\
all:
  children:
    second:
      vars: {zcluster_name: db, zcluster_initial_master: db2}
      hosts: {db1: {zcluster_ip: 198.18.30.21}, db2: {ansible_host: 198.18.30.22}}
    first:
      vars: {zcluster_name: web}
      hosts: {zz: {}, aa: {}, here: {ansible_connection: local}}
  hosts: {other: {}}
"""


@pytest.fixture
def two_clusters(tmp_path: Path) -> inventories.Inventory:
    path = tmp_path / "hosts.yml"
    path.write_text(TWO_CLUSTERS)
    return inventories.read((path,), os.environ, Path.cwd())


def test_hosts_are_told_apart_by_cluster_not_by_group(
    two_clusters: inventories.Inventory,
) -> None:
    assert set(two_clusters.clusters) == {"db", "web"}
    assert [host.name for host in two_clusters.of_cluster("web")] == ["zz", "aa", "here"]
    other = two_clusters.host("other")
    assert other is not None
    assert other.cluster == ""


def test_addresses(two_clusters: inventories.Inventory) -> None:
    assert [h.ip for h in two_clusters.of_cluster("db")] == ["198.18.30.21", "198.18.30.22"]


def test_local_is_this_machine_or_the_initial_master_or_the_first(
    two_clusters: inventories.Inventory,
) -> None:
    here = two_clusters.local("web")
    assert here is not None
    assert here.name == "here"
    master = two_clusters.local("db")
    assert master is not None
    assert master.name == "db2"
    assert two_clusters.local("none") is None


def test_a_broken_inventory_is_said(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text("all: [this, is, no: mapping\n")
    read = inventories.read((path,), os.environ, Path.cwd())
    assert read.hosts == () or read.clusters == ()
