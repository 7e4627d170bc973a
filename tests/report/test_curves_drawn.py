"""What the plots say, read from the figures before they are saved: titles, legends, marks and numbers, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignrank.report import curves


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn, in order; nothing is saved."""
    drawn: list[Any] = []
    monkeypatch.setattr(curves, "saved", lambda figure, path, names=(): drawn.append(figure) or Path(path))
    return drawn


def axes(figure: Any) -> dict[str, Any]:
    """By the title of the panel."""
    return {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_title(loc="left")}


def legend(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_training(figures: list[Any]) -> None:
    """Of two epochs with the best AP the first is marked, in every panel; a legend where there are several lines."""
    rows = [{"epoch": e, "train/loss": 3 - e, "lr": 0.01, "val/ap": ap} for e, ap in enumerate((0.1, 0.3, 0.3))]
    curves.plot_training(rows, "x.png")
    panels = axes(figures[0])
    assert list(panels) == ["loss", "average precision", "learning rate"]
    assert [axis.get_ylabel() for axis in panels.values()] == ["loss", "fraction of 1", "learning rate"]
    for axis in panels.values():
        assert axis.lines[0].get_marker() == "None"
        assert [1, 1] in [list(line.get_xdata()) for line in axis.lines]
    precision = panels["average precision"]
    assert legend(precision) == ["AP", "best: 0.300 at epoch 1"]
    assert precision.get_ylim() == (0, 1)
    dots = [line for line in precision.lines if line.get_marker() == "o"]
    assert [(list(dot.get_xdata()), list(dot.get_ydata())) for dot in dots] == [([1], [0.3])]
    assert panels["loss"].get_legend() is None
    assert panels["loss"].lines[0].get_ydata().tolist() == [3, 2, 1]


def test_one_epoch_is_a_dot(figures: list[Any]) -> None:
    curves.plot_training([{"epoch": 0, "train/loss": 3.0, "val/loss": 2.0}], "x.png")
    loss = axes(figures[0])["loss"]
    assert [line.get_marker() for line in loss.lines] == ["o", "o"]
    assert legend(loss) == ["training", "validation"]


def test_panels_in_rows_of_three(figures: list[Any]) -> None:
    """Four panels: two rows, of which two places stay empty. Two panels: one row."""
    names = ("train/a", "train/b", "train/c", "lr")
    curves.plot_training([{"epoch": 0} | dict.fromkeys(names, 1.0)], "x.png")
    curves.plot_training([{"epoch": 0} | dict.fromkeys(names[:2], 1.0)], "x.png")
    places = [(figure.axes[0].get_gridspec().nrows, figure.axes[0].get_gridspec().ncols) for figure in figures]
    assert places == [(2, 3), (1, 2)]
    assert [axis.axison for axis in figures[0].axes] == [True] * 4 + [False] * 2


def test_precision_and_recall(figures: list[Any]) -> None:
    """Precision .2, .6 at two recalls has the mean .4; .8, .8 has .8; together .5, .7: .6. The best first."""
    recalls, nothing = np.array([0.0, 1.0]), [np.nan, np.nan]
    curves.plot_precision_recall(recalls, np.array([[0.2, 0.6], nothing, [0.8, 0.8]]), ["a", "b", "c"], "x.png")
    axis = axes(figures[0])["Precision and recall at IoU 0.50"]
    assert legend(axis) == ["c  0.800", "a  0.400", "mean of 2  0.600"]
    assert axis.get_legend().get_title().get_text() == "AP at IoU 0.50"
    assert axis.lines[-1].get_ydata().tolist() == pytest.approx([0.5, 0.7])
    curves.plot_precision_recall(recalls, np.array([[0.2, 0.6]]), ["a"], "x.png", iou=0.75)
    assert "Precision and recall at IoU 0.75" in axes(figures[1])


@pytest.mark.parametrize(("kinds", "named"), [(10, range(10)), (11, [0, 1, 2, 8, 9, 10])])
def test_many_classes(figures: list[Any], kinds: int, named: Any) -> None:
    """Ten are all named; of eleven the three best and the three worst, and the others are grey."""
    precision = np.linspace(0.9, 0.1, kinds)[:, None].repeat(2, 1)
    names = [f"class {k}" for k in range(kinds)]
    curves.plot_precision_recall(np.array([0.0, 1.0]), precision, names, "x.png")
    (axis,) = figures[0].axes
    assert [text.split("  ")[0] for text in legend(axis)[:-1]] == [f"class {k}" for k in named]
    grey = [line for line in axis.lines if line.get_color() == "#cbd5e1"]
    assert len(grey) == kinds - len(named)
    assert len({line.get_color() for line in axis.lines} - {"#cbd5e1"}) == len(named) + 1


def test_f1(figures: list[Any]) -> None:
    """Means .2, .6, .6, .6, .1: the middle one of the equal best is marked, at threshold .5."""
    x = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    f1 = np.array([[0.1, 0.5, 0.4, 0.7, 0.1], [0.3, 0.7, 0.8, 0.5, 0.1], [np.nan] * 5])
    curves.plot_f1(x, f1 / 2, f1 / 4, f1, ["a", "b", "c"], "x.png")
    panels = axes(figures[0])
    assert legend(panels["Mean over classes"]) == ["precision", "recall", "F1", "best F1 0.600 at 0.500"]
    assert legend(panels["F1 by class"]) == ["b  0.800", "a  0.700"]
    means = [line.get_ydata() for line in panels["Mean over classes"].lines[:3]]
    np.testing.assert_allclose(means[2], [0.2, 0.6, 0.6, 0.6, 0.1])
    np.testing.assert_allclose(means[0], means[2] / 2)
    np.testing.assert_allclose(means[1], means[2] / 4)
    for axis in panels.values():
        assert axis.get_xlim() == (0.1, 0.9)
        assert [0.5, 0.5] in [list(line.get_xdata()) for line in axis.lines]


def test_confusion(figures: list[Any]) -> None:
    """Rows are shaded by their shares: 11 and 9 of 20, 1,500 of 1,500, nothing. White on more than .55 only."""
    matrix = np.array([[11, 0, 9], [0, 1500, 0], [0, 0, 0]])
    curves.plot_confusion(matrix, ["a", "b"], "x.png")
    axis = axes(figures[0])["Confusion matrix"]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.55, 0, 0.45], [0, 1, 0], [0, 0, 0]])
    cells = {text.get_position(): (text.get_text(), text.get_color()) for text in axis.texts}
    assert cells == {(0, 0): ("11", "#1e293b"), (2, 0): ("9", "#1e293b"), (1, 1): ("1,500", "white")}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b", "background"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize(("kinds", "written"), [(30, 31), (31, 0)])
def test_counts_up_to_thirty_classes(figures: list[Any], kinds: int, written: int) -> None:
    curves.plot_confusion(np.eye(kinds + 1, dtype=int), [str(k) for k in range(kinds)], "x.png")
    assert len(axes(figures[0])["Confusion matrix"].texts) == written


def test_long_names_are_cut() -> None:
    """At 22 characters; one of just 22 is not."""
    assert curves._cut("a" * 22) == "a" * 22
    assert curves._cut("a" * 23) == "a" * 21 + "…"
    assert curves._cut("_$") == r" _\$"
