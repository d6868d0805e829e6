# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection tarball and the wheel hold, and that an installed wheel works by itself."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[3]
ENVIRONMENT = dict(os.environ)  # as it was before a test's home: pip's settings are in the real one
COLLECTION = "ansible_collections/zcluster/ha"


def run(*words: object, may_fail: bool = False, **more: Any) -> str:
    options: dict[str, Any] = {"env": ENVIRONMENT, "stderr": subprocess.STDOUT} | more
    done = subprocess.run(
        [str(word) for word in words], check=False, text=True, stdout=subprocess.PIPE, **options
    )
    assert done.returncode == 0 or may_fail, done.stdout
    return str(done.stdout)


def ours() -> list[str]:
    """The files that git has or would take."""
    listed = run("git", "-C", CHECKOUT, "ls-files", "-z", "-co", "--exclude-standard")
    return [name for name in listed.split("\0") if name and (CHECKOUT / name).is_file()]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of these: what lies around in a checkout must not matter."""
    copy = tmp_path_factory.mktemp("source") / "zcluster"
    for name in ours():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, copy / name)
    for rubbish in (".venv/bin/x", ".cache/x", "plugins/modules/__pycache__/x.pyc", ".ansible/x"):
        (copy / rubbish).parent.mkdir(parents=True, exist_ok=True)
        (copy / rubbish).touch()
    return copy


@pytest.fixture(scope="module")
def tarball(source: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    place = tmp_path_factory.mktemp("tarball")
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    run(galaxy, "collection", "build", "--output-path", place, source)
    (built,) = place.glob("zcluster-ha-*.tar.gz")
    with tarfile.open(built) as archive:
        return {member.name for member in archive.getmembers() if member.isfile()}


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "wheel")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", place, source)
    (built,) = place.glob("zcluster-*.whl")
    return built


IN_A_COLLECTION = (
    *("MANIFEST.json", "FILES.json", "README.md", "CHANGELOG.md", "LICENSES/*", "COPYING"),
    *(
        "changelogs/*",
        "meta/*.yml",
        "meta/ee-bindep.txt",
        "playbooks/*.yml",
        "plugins/*.py",
        "docs/*",
    ),
    "roles/*",
)


def test_the_tarball_holds_what_a_collection_should(tarball: set[str]) -> None:
    strangers = {
        name
        for name in tarball
        if not any(fnmatch.fnmatch(name, pattern) for pattern in IN_A_COLLECTION)
    }
    assert strangers == set()
    for name in ("playbooks/create.yml", "plugins/modules/node_info.py", "meta/runtime.yml"):
        assert name in tarball


def test_the_tarball_holds_no_lab_driver_or_rubbish(tarball: set[str]) -> None:
    places = ("zcluster_runner/", "roles/lab/", "playbooks/lab_", "inventories/", "tests/", ".")
    assert {name for name in tarball if name.startswith(places)} == set()
    assert {name for name in tarball if "__pycache__" in name or name.endswith(".pyc")} == set()


def test_the_wheel_holds_driver_collection_and_lab(wheel: Path, tarball: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert "zcluster_runner/cli.py" in held
    assert f"{COLLECTION}/playbooks/lab_up.yml" in held
    assert f"{COLLECTION}/roles/lab/tasks/main.yml" in held
    assert f"{COLLECTION}/meta/runtime.yml" in held
    assert f"{COLLECTION}/LICENSES/GPL-3.0-or-later.txt" in held
    in_both = {n for n in tarball if n.startswith(("playbooks/", "plugins/", "roles/"))}
    assert {f"{COLLECTION}/{name}" for name in in_both} <= held
    places = ("zcluster_runner/", f"{COLLECTION}/", "zcluster-")
    assert {name for name in held if not name.startswith(places)} == set()
    assert {name for name in held if "__pycache__" in name} == set()


def readme_says(pattern: str) -> str:
    """The one command of the README that is like this."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^\$ ({pattern})$", text, re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a clean environment, made by the README's own words.

    (Debian's Python takes nothing from pip outside of one: PEP 668.)
    """
    place = tmp_path_factory.mktemp("clean")
    for pattern in (r"python3 -m venv \S+", r"\S+/pip install \."):
        command = readme_says(pattern).replace("~", str(place))
        run("sh", "-ec", command, cwd=source, env=ENVIRONMENT | {"PIP_QUIET": "1"})
    return Path(readme_says("export PATH=.*").split("=")[1].replace("~", str(place)).split(":")[0])


@pytest.mark.slow
def test_an_installed_wheel_has_the_command(installed: Path) -> None:
    assert "zcluster create web" in run(installed / "zcluster", "--help")
    assert run(installed / "zcluster", "--version").startswith("zcluster ")


@pytest.mark.slow
@pytest.mark.parametrize("playbook", ["create", "nodes", "unset", "lab_up"])
def test_an_installed_wheel_has_every_name_without_a_download(
    installed: Path, home: Path, playbook: str
) -> None:
    """ansible-core finds ansible_collections on sys.path: no setting, no ansible-galaxy install."""
    clean = {"HOME": str(home), "PATH": f"{installed}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    name = f"zcluster.ha.{playbook}"
    words = (installed / "ansible-playbook", name, "-i", "localhost,", "--list-tasks")
    found = run(*words, env=clean, cwd=home)
    place = installed.parent / "lib/python*/site-packages" / COLLECTION / "playbooks"
    assert fnmatch.fnmatch(found.split()[1], str(place / f"{playbook}.yml"))


@pytest.mark.slow
def test_an_installed_driver_runs_an_installed_playbook(installed: Path, home: Path) -> None:
    clean = {"HOME": str(home), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    (home / "hosts.yml").write_text("all: {hosts: {lb1: {ansible_connection: local}}}\n")
    words = (installed / "zcluster", "-i", home / "hosts.yml", "show", "-o", "json")
    done = run(*words, env=clean, cwd=home, may_fail=True)
    # the playbook was found and left the host out, for it is in no cluster
    assert "no host of the inventory is part of this run" in done


@pytest.mark.slow
def test_modules_of_an_installed_wheel_are_documented(installed: Path, home: Path) -> None:
    clean = {"HOME": str(home), "PATH": f"{installed}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    words = (installed / "ansible-doc", "--type", "module", "zcluster.ha.node_info")
    assert "zcluster.ha.node_info" in run(*words, env=clean, cwd=home)


def test_an_editable_install_is_live_and_copies_nothing(source: Path, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(
        *pip,
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        tmp_path / "site",
        "--editable",
        source,
    )
    copied = {p.name for p in (tmp_path / "site").iterdir()}
    assert "ansible_collections" not in copied
    (entries,) = (tmp_path / "site").glob("_zcluster*.pth")
    paths = [Path(line) for line in entries.read_text().split()]
    assert source in paths
    live = [path for path in paths if (path / COLLECTION / "playbooks/create.yml").is_file()]
    assert [(path / COLLECTION).resolve() for path in live] == [source]


WITHOUT_A_LICENCE = (
    "LICENSES/*",  # the licence itself
    "COPYING",
    "*.json",  # JSON has no comments
    "zcluster_runner/py.typed",  # empty: PEP 561
)


def test_every_file_says_its_licence() -> None:
    line = b"SPDX-License-Identifier: GPL-3.0-or-later"
    silent = {name for name in ours() if line not in (CHECKOUT / name).read_bytes()}
    assert {n for n in silent if not any(fnmatch.fnmatch(n, p) for p in WITHOUT_A_LICENCE)} == set()


def test_what_a_template_writes_does_not_begin_with_a_licence() -> None:
    comment = "{#- SPDX-License-Identifier: GPL-3.0-or-later -#}"
    templates = [*CHECKOUT.glob("roles/*/templates/*.j2")]
    assert templates
    assert [path for path in templates if path.read_text().splitlines()[0] != comment] == []


def test_every_link_leads_somewhere_in_a_collection_too(source: Path, tarball: set[str]) -> None:
    pages = [source / "README.md", source / "CHANGELOG.md", *source.glob("docs/*.md")]
    links = {
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link
    }
    assert links
    broken = {
        f"{page.name}: {link}"
        for page, link in links
        if os.path.relpath(page.parent / link, source) not in tarball
    }
    assert broken == set()


def test_driver_collection_and_roles_say_the_same_about_themselves() -> None:
    galaxy = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert galaxy["version"] == project["version"]
    assert galaxy["license"] == [project["license"]] == ["GPL-3.0-or-later"]
    runtime = yaml.safe_load((CHECKOUT / "meta/runtime.yml").read_text())
    (oldest,) = re.findall(r"ansible-core>=([\d.]+)", " ".join(project["dependencies"]))
    assert runtime["requires_ansible"] == f">={oldest}.0"
    for meta in CHECKOUT.glob("roles/*/meta/main.yml"):
        assert yaml.safe_load(meta.read_text())["galaxy_info"]["min_ansible_version"] == oldest
