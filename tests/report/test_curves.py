"""The plots are written, for one, three and eighty classes, and tell what they should."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alignrank.report.curves import _panels, _series, plot_confusion, plot_f1, plot_precision_recall, plot_training

ROWS: list[dict[str, Any]] = [
    {"epoch": 0, "train/box": 2.0, "train/loss": 3.0, "val/box": 2.1, "lr": 0.01},
    {"epoch": 0, "train/box": "", "val/ap": 0.1, "val/ap50": 0.3, "val/lrp": 0.9},
    {"epoch": 1, "train/box": 1.0, "train/loss": 2.0, "val/box": float("nan"), "val/ap": 0.3, "lr": 0.005},
]


def ink(path: Path) -> float:
    """Share of the picture's pixels that are not white."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return float((pixels < 250).any(-1).mean())


def test_panels_of_a_log() -> None:
    series = _series(ROWS)
    assert series["val/box"] == {0: 2.1}
    assert series["val/ap"] == {0: 0.1, 1: 0.3}
    assert _panels(series) == {
        "loss": ["train/loss"],
        "box loss": ["train/box", "val/box"],
        "average precision": ["val/ap", "val/ap50"],
        "oLRP, lower is better": ["val/lrp"],
        "learning rate": ["lr"],
    }


def test_training_from_rows_and_from_csv(tmp_path: Path) -> None:
    names = sorted({name for row in ROWS for name in row})
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(ROWS)
    assert ink(plot_training(tmp_path / "log.csv", tmp_path / "new" / "a.png")) > 0.005
    plot_training(ROWS, tmp_path / "b.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    plot_training(ROWS[:1], tmp_path / "one_epoch.png")
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_training([{"epoch": "", "val/ap": 1}], tmp_path / "c.png")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kinds", [1, 3, 80])
def test_evaluation_plots(kinds: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(kinds)
    names = [f"_class ${k}$ with a rather long name" for k in range(kinds)]
    x = np.linspace(0, 1, 101)
    falling = np.sort(rng.random((kinds, 101)), 1)[:, ::-1].copy()
    if kinds > 1:
        falling[-1] = np.nan  # a class without ground truth
    for path in (
        plot_precision_recall(x, falling, names, tmp_path / "pr.png"),
        plot_f1(x, falling, falling, falling, names, tmp_path / "f1.png"),
        plot_confusion(rng.integers(0, 2000, (kinds + 1, kinds + 1)), names, tmp_path / "cm.png"),
    ):
        assert ink(path) > 0.005
        with Image.open(path) as picture:
            assert max(picture.size) < 2600


@pytest.mark.filterwarnings("error")
def test_nothing_to_show(tmp_path: Path) -> None:
    x, nothing = np.linspace(0, 1, 11), np.full((2, 11), np.nan)
    plot_precision_recall(x, nothing, ["a", "b"], tmp_path / "pr.png")
    plot_f1(x, nothing, nothing, nothing, ["a", "b"], tmp_path / "f1.png")
    plot_confusion(np.zeros((3, 3), dtype=int), ["a", "b"], tmp_path / "cm.png")
    with pytest.raises(ValueError, match="expected \\(3, 3\\)"):
        plot_confusion(np.zeros((2, 2)), ["a", "b"], tmp_path / "cm.png")


def test_no_global_state() -> None:
    """Importing costs no matplotlib, and plotting no pyplot (it would choose a display)."""
    code = (
        "import sys, tempfile, alignrank.report.curves as c; assert 'matplotlib' not in sys.modules;"
        "c.plot_training([{'epoch': 0, 'val/ap': .5}], tempfile.mkdtemp() + '/a.png');"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
