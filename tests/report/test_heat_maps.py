"""Heat maps: what is drawn where, and on which scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alignrank.report import heat_maps
from alignrank.report.heat_maps import FieldPanel, MapPanel, plot_fields, plot_maps

FIELD = np.zeros((20, 20))
FIELD[8:12, 8:12] = 4.0
FIELD[10, 10] = 16.0


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were drawn; nothing is saved."""
    figures: list[Any] = []
    monkeypatch.setattr(heat_maps, "saved", lambda figure, path, names=(): figures.append(figure) or Path(path))
    return figures


def test_fields(drawn: list[Any]) -> None:
    """Rows of different lengths; brightness is the root of the strongest pixel's share; a circle of radius sigma."""
    nothing = FieldPanel("dead", np.zeros((20, 20)), None, None)
    plot_fields(
        [[FieldPanel("a", FIELD, 3.5, (10.0, 9.0)), nothing], [FieldPanel("b", FIELD * 5, 3.5, (10, 9))]], "x.png"
    )
    first, second, third, unused, _ = drawn[0].axes
    assert [axis.get_title(loc="left") for axis in (first, second, third)] == ["a", "dead", "b"]
    shown = first.images[0].get_array()
    assert (shown[10, 10], shown[8, 8], shown[0, 0]) == (1, 0.5, 0)
    assert np.array_equal(third.images[0].get_array(), shown)
    (circle,) = first.patches
    assert (circle.center, circle.radius) == ((10.0, 9.0), 3.5)
    assert first.get_xlabel() == "sigma 3.5 px"
    assert not second.patches
    assert second.get_xlabel() == "nothing reaches it"
    assert not unused.axison


def test_maps(drawn: list[Any]) -> None:
    """The image alone, then each map over it; the colours of M part at 0, and where it is 0 everywhere all is white."""
    image = np.full((40, 80, 3), 200, np.uint8)
    values = np.array([[-3.0, 1.0]])
    where = (-8.0, 88.0, 44.0, -4.0)
    panels = [MapPanel("p", values, where), MapPanel("m", values, where, True), MapPanel("z", 0 * values, where, True)]
    plot_maps(image, "pay $5 or $6.png", panels, "x.png")
    alone, plain, signed, zero = drawn[0].axes[:4]
    assert alone.get_title(loc="left") == "pay $5 or $6.png"
    assert len(alone.images) == 1
    for axis, limits in ((plain, (-3, 1)), (signed, (-3, 3)), (zero, (-1, 1))):
        over = axis.images[1]
        assert over.get_clim() == limits
        assert tuple(over.get_extent()) == where
        assert (axis.get_xlim(), axis.get_ylim()) == ((0, 80), (40, 0))
        assert axis.get_xlabel() == "2 x 1 cells"
    white = zero.images[1].cmap(zero.images[1].norm(0.0))
    assert min(white[:3]) > 0.95


@pytest.mark.filterwarnings("error")
def test_files(tmp_path: Path) -> None:
    """Names of any script and length, images of any shape."""
    for number, (name, shape) in enumerate((("$a$_" + "long" * 30, (300, 20)), ("絵 \n.png", (8, 200)))):
        image = np.zeros((*shape, 3), np.uint8)
        path = plot_maps(
            image, name, [MapPanel("p", np.ones((2, 2)), (0, shape[1], shape[0], 0))], tmp_path / f"{number}.png"
        )
        with Image.open(path) as picture:
            assert max(picture.size) < 3000
    plot_fields([[FieldPanel("a", FIELD, 3.5, (10.0, 9.0))]], tmp_path / "field.png")
