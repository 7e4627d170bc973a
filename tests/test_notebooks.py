"""Notebooks of the documentation: their cells run, offline, and their links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["custom_loss", "diagnose_any_detector", "first_hour"]


# The one that trains takes half a minute of a core and more; `make docs` and `make slow` run it.
SLOW = {"first_hour": [pytest.mark.slow]}
TO_RUN = [pytest.param(path, id=path.stem, marks=SLOW.get(path.stem, [])) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", TO_RUN)
def test_cells_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where sockets are blocked; `make docs` runs them in a kernel."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, text in enumerate(cells(path, "code")):
        exec(compile(text, f"{path.name}[{number}]", "exec"), namespace)
    CHECKS[path.stem](namespace, tmp_path)


def trained(namespace: dict[str, Any], folder: Path) -> None:
    assert (folder / namespace["result"]["weights"]).is_file()
    assert (folder / "val/report.html").is_file()


def diagnosed(namespace: dict[str, Any], folder: Path) -> None:
    chance, fit = (namespace["results"][name].metrics for name in ("chance", "fit"))
    assert fit.ap > chance.ap + 0.05
    assert fit.rank["ap_lost_ranking"] == pytest.approx(0, abs=1e-9)
    assert chance.rank["ap_oracle"] == pytest.approx(fit.ap)
    assert (folder / "report.html").is_file()


def learnt(namespace: dict[str, Any], _folder: Path) -> None:
    """The term is 0 for scores below the IoU, and what they are above it otherwise."""
    import torch

    from alignrank.contracts import Targets

    truth = Targets(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0]))
    boxes = torch.tensor([[0.0, 0.0, 10.0, 5.0]])
    for score, expected in ((0.4, 0.0), (0.75, 0.25)):
        value = namespace["overconfidence"](boxes, torch.tensor([[score]]).logit(), truth)
        assert float(value) == pytest.approx(expected, abs=1e-6)
    assert namespace["terms"].total.item() > 0


CHECKS = {"first_hour": trained, "diagnose_any_detector": diagnosed, "custom_loss": learnt}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_results(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in found if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_notebooks_exist(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]+)", "\n".join(cells(path, "markdown")))
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []
