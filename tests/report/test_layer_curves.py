"""Plots of decoder layers: a curve for each of them, and something to read where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_report import figures as made_up
from PIL import Image

from alignrank.report import layer_curves

LAYERS = [made_up(f"layer {number}", seed=number) for number in (1, 2, 3)]
NOTHING = [
    replace(
        layer,
        matched_density=np.zeros(40),
        unmatched_density=np.zeros(40),
        unmatched_iou=np.zeros(0),
        unmatched_share=np.zeros(0),
        precision={0.5: np.full(101, np.nan)},
    )
    for layer in LAYERS
]
PLOTS: Any = [
    (layer_curves.plot_densities, LAYERS),
    (layer_curves.plot_unmatched, LAYERS),
    (layer_curves.plot_precision_recall, LAYERS[-1]),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn, in order; nothing is saved."""
    figures: list[Any] = []
    monkeypatch.setattr(layer_curves, "saved", lambda figure, path, names=(): figures.append(figure) or Path(path))
    return figures


def legend(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_densities(drawn: list[Any]) -> None:
    """A stair for each layer, in the panel of matched and in that of unmatched boxes; high peaks are cut."""
    high = replace(LAYERS[1], unmatched_density=np.r_[40.0, np.zeros(39)])
    layer_curves.plot_densities([LAYERS[0], high, LAYERS[2]], "x.png")
    matched, unmatched = drawn[0].axes
    for axis, name in ((matched, "matched"), (unmatched, "unmatched")):
        assert axis.get_title(loc="left") == f"Scores of {name} boxes"
        assert legend(axis) == ["layer 1", "layer 2", "layer 3"]
        assert len({tuple(stair.get_edgecolor()) for stair in axis.patches}) == 3
    assert matched.patches[0].get_data().values.tolist() == LAYERS[0].matched_density.tolist()
    assert unmatched.patches[1].get_data().values.tolist() == high.unmatched_density.tolist()
    assert matched.get_ylabel() == "density"
    assert unmatched.get_ylabel() == "density, cut at 12"
    assert unmatched.get_ylim()[1] == pytest.approx(12.6)


def test_unmatched_boxes(drawn: list[Any]) -> None:
    layer_curves.plot_unmatched(LAYERS, "x.png")
    (axis,) = drawn[0].axes
    assert legend(axis) == ["layer 1", "layer 2", "layer 3"]
    for line, layer in zip(axis.lines, LAYERS, strict=True):
        assert np.array_equal(line.get_xdata(), layer.unmatched_iou)
        assert np.array_equal(line.get_ydata(), layer.unmatched_share)


def test_precision_and_recall(drawn: list[Any]) -> None:
    """The number in the legend is the area, the mean of the curve."""
    layer_curves.plot_precision_recall(LAYERS[-1], "x.png")
    (axis,) = drawn[0].axes
    of = LAYERS[-1].precision
    assert axis.get_title(loc="left") == "Precision and recall of layer 3"
    assert legend(axis) == [f"{iou:.2f}  {of[iou].mean():.3f}" for iou in (0.5, 0.75, 0.9)]
    assert [line.get_ydata().tolist() for line in axis.lines] == [of[iou].tolist() for iou in (0.5, 0.75, 0.9)]


@pytest.mark.filterwarnings("error")
def test_files_with_and_without_curves(tmp_path: Path) -> None:
    for number, (plot, given) in enumerate(PLOTS):
        nothing = NOTHING if isinstance(given, list) else NOTHING[-1]
        shares = []
        for kind, content in (("some", given), ("none", nothing)):
            with Image.open(plot(content, tmp_path / f"{number}{kind}.png")) as picture:
                shares.append((np.asarray(picture.convert("RGB")) < 250).any(-1).mean())
        assert shares[0] > shares[1] > 0.002


def test_what_is_absent_is_said(drawn: list[Any]) -> None:
    layer_curves.plot_densities(NOTHING, "x.png")
    layer_curves.plot_unmatched(NOTHING, "x.png")
    layer_curves.plot_precision_recall(NOTHING[0], "x.png")
    said = [text.get_text() for figure in drawn for axis in figure.axes for text in axis.texts]
    assert said == ["no matched boxes", "no unmatched boxes", "no unmatched boxes", "no ground truth"]
