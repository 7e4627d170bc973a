"""How the site reads our pages: navigation from the index, docstrings as plain text, notebooks as pages.

Without Sphinx: `make docs` builds the whole, and ends at a warning.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import environment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def conf() -> Any:
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("site_conf", ROOT / "docs" / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_every_page_is_in_the_navigation_once(conf: Any) -> None:
    lines = conf.navigation((ROOT / "docs/index.md").read_text(encoding="utf-8")).splitlines()
    listed = [line for line in lines if line.endswith((".md", ".rst", ".ipynb"))]
    pages = [
        path.relative_to(ROOT / "docs").as_posix()
        for ending in ("md", "rst", "ipynb")
        for path in (ROOT / "docs").rglob(f"*.{ending}")
    ]
    assert len(set(listed)) == len(listed)
    assert sorted(set(pages) - {"index.md"}) == sorted(page for page in listed if not page.startswith("../"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("boxes [N,4], `scores` [N]", "boxes [N,4], ``scores`` [N]"),
        ("alpha * score_of | other", r"alpha \* score\_of \| other"),
        ("a ` alone", r"a \` alone"),
    ],
)
def test_only_backquotes_of_a_docstring_are_markup(conf: Any, line: str, expected: str) -> None:
    assert conf.escaped(line) == expected


def test_arguments_become_a_list_and_formulas_stay(conf: Any) -> None:
    lines = ["Means.", "", "gt: truth,", "of a file.", "dt, dt2: found.", "", "    a = b * c", "", "Ends."]
    conf.plain_docstring(None, "", "", None, None, lines)
    expected = ["Means.", "", "", "* gt: truth,", "  of a file.", "", "* dt, dt2: found.", ""]
    assert lines == [*expected, "::", "", "        a = b * c", "", "Ends.", ""]


def test_links_to_folders_become_text_and_others_stay(conf: Any) -> None:
    text = "[results](../benchmarks/results/), [file](../benchmarks/results/accuracy.json), [web](https://a.b/c)"
    changed = "results, [file](../benchmarks/results/accuracy.json), [web](https://a.b/c)"
    assert conf.folders_as_text("docs/results", text) == changed


def test_a_small_site_is_built(tmp_path: Path) -> None:
    """Links, docstrings and the navigation by our configuration; and a link that leads nowhere ends it."""
    for package in ("sphinx", "furo", "myst_parser", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra 'docs')")
    pages = tmp_path / "in" / "docs"
    (pages / "api").mkdir(parents=True)
    (pages / "index.md").write_text("# Start\n\n## Parts\n\n[One](one.md#second-part), [boxes](api/boxes.rst)\n")
    (pages / "one.md").write_text("# One\n\n## Second part\n\nBack to the [start](index.md).\n")
    (pages / "api" / "boxes.rst").write_text("Boxes\n=====\n\n.. autofunction:: alignrank.boxes.pairwise_iou\n")

    def build() -> subprocess.CompletedProcess[str]:
        places = map(str, (ROOT / "docs", tmp_path / "in", tmp_path / "out"))
        command = [sys.executable, "-m", *["sphinx", "-q", "-W", "-b", "html", "-c"], *places]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    done = build()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    start = (tmp_path / "out/docs/index.html").read_text(encoding="utf-8")
    assert 'href="one.html#second-part"' in start
    assert "pairwise_iou" in (tmp_path / "out/docs/api/boxes.html").read_text(encoding="utf-8")
    assert (tmp_path / "out/index.html").is_file()
    (pages / "one.md").write_text("# One\n\n[Nowhere](nowhere.md)\n")
    done = build()
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
