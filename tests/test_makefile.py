"""Targets of the Makefile that do more than call one program, with an environment that is there already."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment

ROOT = Path(__file__).resolve().parents[1]
MAKE = shutil.which("make") or ""
pytestmark = pytest.mark.skipif(not MAKE, reason="make is not installed")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder to be the PATH: of the programs that `make browser` calls those that change nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("env", "timeout", "sh", "touch", "chmod"):
        (folder / name).symlink_to(shutil.which(name) or "")
    script(folder / "id", "echo 0")
    return folder


def browser(tools: Path) -> subprocess.CompletedProcess[str]:
    wanted = f"{tools.parent}/chromium {tools.parent}/chromedriver"
    return subprocess.run(
        [MAKE, "-s", "-C", str(ROOT), "browser", f"BROWSER={wanted}"],
        capture_output=True, text=True, check=False, env={"PATH": str(tools), "APT_LOG": str(tools.parent / "log")},
    )  # fmt: skip


def asked_of_apt(tools: Path) -> str:
    log = tools.parent / "log"
    return log.read_text() if log.exists() else ""


INSTALL = 'echo "$@" >>"$APT_LOG"; for name in chromium chromedriver; do touch {0}/$name; chmod +x {0}/$name; done'


def test_a_browser_that_is_there_stays(tools: Path) -> None:
    script(tools / "apt-get", INSTALL.format(tools.parent))
    for name in ("chromium", "chromedriver"):
        script(tools.parent / name, "")
    done = browser(tools)
    assert (done.returncode, done.stdout, done.stderr, asked_of_apt(tools)) == (0, "", "", "")


@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_browser_is_installed_where_root_can_be_had(tools: Path, user: str) -> None:
    script(tools / "apt-get", INSTALL.format(tools.parent))
    script(tools / "id", f"echo {user}")
    if user != "0":
        script(tools / "sudo", '[ "$1" = -n ] && shift && exec "$@"')
    done = browser(tools)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "install -y --no-install-recommends chromium chromium-driver" in asked_of_apt(tools)


@pytest.mark.parametrize(
    ("apt", "user"),
    [("exit 100", "0"), (None, "0"), (INSTALL, "1000")],
    ids=["apt reaches nothing", "no apt", "no root and no sudo"],
)
def test_without_a_browser_there_is_one_line_and_no_failure(tools: Path, apt: str | None, user: str) -> None:
    if apt is not None:
        script(tools / "apt-get", apt.format(tools.parent))
    script(tools / "id", f"echo {user}")
    done = browser(tools)
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("make: no browser could be installed")
    assert f"{tools.parent}/chromedriver" in line


def test_the_checks_of_a_change_ask_for_a_browser_before_the_tests() -> None:
    steps = [line for line in (ROOT / ".ci/run").read_text().splitlines() if "make" in line and line[0] != "#"]
    assert steps == ["make check", "make browser", "exec make test"]


def test_what_is_compiled_is_kept(tmp_path: Path) -> None:
    """Even where the environment forbids it."""
    asked = tmp_path / "Makefile"
    asked.write_text(f"include {ROOT / 'Makefile'}\nasked:\n\t@{sys.executable} -c 'import one'\n")
    (tmp_path / "one.py").write_text("")
    forbidding = environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([MAKE, "-s", "asked"], cwd=tmp_path, env=forbidding | {"PYTHONPATH": str(tmp_path)}, check=True)
    assert list((tmp_path / "__pycache__").glob("one.*.pyc"))


def test_a_skipped_test_says_why(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_it():\n    pytest.skip('no cells at hand')\n")
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pytest", *options], capture_output=True, text=True, check=False)
    assert "no cells at hand" in done.stdout


@pytest.mark.slow
def test_the_demo_says_its_result_once(tmp_path: Path) -> None:
    """With a few scenes, one epoch, and a working folder of its own."""
    made = f"from pathlib import Path\nfrom alignrank.data import digits\nscenes = Path({str(tmp_path / 'digits')!r})\n"
    made += "if not scenes.exists():\n    digits.build(scenes, num_train=8, num_val=11)\n"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(f"{made}digits.ensure = lambda: scenes\n")
    script(tmp_path / "bin/python", f'exec {sys.executable} "$@"')
    script(tmp_path / "bin/alignrank", f'exec {sys.executable} -m alignrank "$@"')
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "stamp").touch()
    done = subprocess.run(
        [
            MAKE, "-s", "-f", str(ROOT / "Makefile"), "demo", f"BIN={tmp_path / 'bin'}", f"STAMP={tmp_path / 'stamp'}",
            "DEMO_OPTIONS=--epochs 1 --imgsz 32 --batch 8 model.size=t",
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=environment() | {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("score-IoU Spearman") == 1
    assert done.stderr.count("results   ") == 1
    assert done.stderr.index("trained in") < done.stderr.index("best epoch 1") < done.stderr.index("weights   ")
    assert (tmp_path / "runs/demo/predictions/predictions.json").exists()
    assert "predicted runs/demo/predictions" in done.stdout
