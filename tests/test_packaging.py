"""What is built from this tree: nothing of the package stays behind, and nothing else comes along."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from command_line import environment
from missing_extra import packages_of_extras

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, made without network."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the package, is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def files() -> set[str]:
    """Files of the tree, from its root, that git tracks or would."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no clone: there is no list of files to compare with")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def test_the_wheel_is_the_package_and_no_more(built: Path, files: set[str]) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = {Path(name).name for name in wheel.namelist()} - {Path(name).name for name in names}
    package = {name.removeprefix("src/") for name in files if name.startswith("src/")}
    assert names == package
    assert {"METADATA", "RECORD", "entry_points.txt", "LICENSE"} <= metadata
    for part in ("recipes/hosts.json", "recipes/torchvision/fcos_resnet50_fpn.yaml", "py.typed"):
        assert f"alignrank/{part}" in names
    assert {"report", "serve"} <= {Path(name).parts[1] for name in names if name.endswith((".html", ".css", ".js"))}


def test_the_source_archive_is_the_tree(built: Path, files: set[str]) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - {"PKG-INFO"} == files


def test_every_extra_has_tests_for_a_clean_environment() -> None:
    """`make extras` runs them."""
    spec = importlib.util.spec_from_file_location("extras_alone", ROOT / ".ci" / "extras.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(module.TESTS) == set(packages_of_extras())
    for test in {test for tests in module.TESTS.values() for test in tests}:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(encoding="utf-8"), test
