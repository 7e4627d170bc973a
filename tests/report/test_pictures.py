"""Boxes land where they should, in their class's colour; sheets have the size they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignrank.drawing import color
from alignrank.report.pictures import FOUND_COLOR, OBJECT_COLOR, compare_sheet, draw_boxes, layers_sheet, sheet

NAMES = ["cell", "nucleus"]
GREY = np.full((600, 800, 3), 128, dtype=np.uint8)


def rgb(index: int) -> list[int]:
    return [int(color(index)[i : i + 2], 16) for i in (1, 3, 5)]


def test_edges_have_the_class_colour() -> None:
    boxes, labels = np.array([[100, 200, 300, 400], [500, 100, 700, 300.0]]), np.array([0, 1])
    drawn = draw_boxes(GREY, boxes, labels, NAMES, np.array([0.9, 0.5]))
    assert drawn.shape == GREY.shape
    assert drawn.dtype == np.uint8
    assert drawn[300, 100].tolist() == rgb(0)
    assert drawn[200, 700].tolist() == rgb(1)
    assert drawn[300, 200].tolist() == [128] * 3  # inside
    assert (drawn[180:198, 100:150] != 128).any()  # the label, above the box
    assert (GREY == 128).all()


def test_one_colour_for_all_classes() -> None:
    boxes, labels = np.array([[100, 200, 300, 400], [500, 100, 700, 300.0]]), np.array([0, 1])
    drawn = draw_boxes(GREY, boxes, labels, NAMES, colors="#010203")
    assert drawn[300, 100].tolist() == drawn[200, 700].tolist() == [1, 2, 3]


def test_a_colour_of_its_own_for_each_box() -> None:
    """They stay with their boxes, which are drawn in the order of their scores."""
    boxes, labels = np.array([[100, 200, 300, 400], [500, 100, 700, 300.0]]), np.array([0, 0])
    drawn = draw_boxes(GREY, boxes, labels, NAMES, np.array([0.9, 0.5]), colors=["#010203", "#040506"])
    assert (drawn[300, 100].tolist(), drawn[200, 700].tolist()) == ([1, 2, 3], [4, 5, 6])


@pytest.mark.parametrize("box", [[10, 0, 300, 300], [760, 200, 800, 300], [-20, -20, 900, 700]])
def test_labels_stay_in_the_image(box: list[float]) -> None:
    """The white text of a label at the edge is as long as that of one in the middle."""

    def white(where: list[float]) -> int:
        drawn = draw_boxes(GREY, np.array([where]), np.array([1]), NAMES, np.array([0.87]))
        return int((drawn > 200).all(-1).sum())

    assert white(box) == pytest.approx(white([200, 200, 400, 400]), rel=0.15)


def test_many_boxes_are_thin_and_without_text() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(50, 500, (61, 2))
    boxes, labels = np.concatenate([corner, corner + 30], 1), np.zeros(61, dtype=int)
    drawn = draw_boxes(GREY, boxes, labels, NAMES)
    assert set(map(tuple, drawn.reshape(-1, 3).tolist())) == {(128, 128, 128), tuple(rgb(0))}
    assert len(np.unique(draw_boxes(GREY, boxes[:60], labels[:60], NAMES).reshape(-1, 3), axis=0)) > 2


def test_small_images_can_be_enlarged_and_empty_ones_are_copied() -> None:
    small = GREY[:150, :200]
    drawn = draw_boxes(small, np.array([[50, 50, 100, 100]]), np.array([0]), NAMES)
    assert drawn.shape == small.shape
    assert drawn[75, 50].tolist() == rgb(0)
    drawn = draw_boxes(small, np.array([[50, 50, 100, 100]]), np.array([0]), NAMES, enlarge=True)
    assert drawn.shape == (300, 400, 3)
    assert drawn[150, 100].tolist() == rgb(0)
    none = draw_boxes(GREY, np.zeros((0, 4)), np.zeros(0, dtype=int), NAMES, np.zeros(0))
    np.testing.assert_array_equal(none, GREY)
    assert none is not GREY


def test_wrong_image() -> None:
    for image in (GREY.astype(np.float32), GREY[..., :1], GREY[:0]):
        with pytest.raises(ValueError, match="expected uint8"):
            draw_boxes(image, np.zeros((0, 4)), np.zeros(0, dtype=int), NAMES)


def test_sheet(tmp_path: Path) -> None:
    images = [GREY, GREY[:300], np.zeros((600, 800, 3), np.uint8)]
    path = sheet(images, tmp_path / "new" / "sheet.png", captions=["a", "b " * 300, "c"], tile=200)
    # Two columns and two rows of 200 x 150 tiles, 26 px of caption, gaps of 10.
    assert Image.open(path).size == (2 * 210 + 10, 2 * (150 + 26 + 10) + 10)
    assert Image.open(sheet(images, tmp_path / "row.jpg", columns=3, tile=200)).size == (640, 170)
    with pytest.raises(ValueError, match="at least one"):
        sheet([], tmp_path / "none.png")
    with pytest.raises(ValueError, match="1 captions for 3"):
        sheet(images, tmp_path / "none.png", captions=["a"])


def test_images_stand_in_the_middle_of_their_tiles(tmp_path: Path) -> None:
    """Tiles of 120 x 120, 10 apart: black 2:1 fills 60 of the height, 30 from above; 1:2 of the width, 30 from left."""
    wide, high = np.zeros((100, 200, 3), np.uint8), np.zeros((200, 100, 3), np.uint8)
    square = np.full((100, 100, 3), 255, np.uint8)
    pixels = np.asarray(Image.open(sheet([wide, square, high], tmp_path / "sheet.png", columns=3, tile=120)))
    rows, columns = np.nonzero((pixels == 0).all(-1))
    first, third = columns < 140, columns > 260
    assert (rows[first].min(), rows[first].max(), columns[first].min(), columns[first].max()) == (40, 99, 10, 129)
    assert (rows[third].min(), rows[third].max(), columns[third].min(), columns[third].max()) == (10, 129, 300, 359)


def test_compare_sheet_scales_boxes(tmp_path: Path) -> None:
    truth = (np.array([[200, 150, 600, 450.0]]), np.array([0]))
    found = (np.array([[200, 150, 600, 450.0]]), np.array([0.5]), np.array([1]))
    path = compare_sheet([GREY], [truth], [found], NAMES, tmp_path / "compare.png", captions=["x.jpg"], tile=400)
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (300 + 26 + 20, 2 * 410 + 10, 3)
    assert pixels[10 + 150, 10 + 100].tolist() == rgb(0)
    assert pixels[10 + 150, 420 + 100].tolist() == rgb(1)


def test_colours() -> None:
    assert len({color(k) for k in range(80)}) == 80


@pytest.mark.parametrize("count", [3, 8])
def test_layers_side_by_side(count: int, tmp_path: Path) -> None:
    """Six in a row at most; on every picture the object (of the picture's left half) is drawn, on the last alone no box
    that was found (in the right half).
    """
    objects = np.array([[100, 200, 300, 400.0]]), np.array([0])
    found = np.array([[500, 100, 700, 300.0]]), np.array([0.9]), np.array([1])
    none = np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int)
    path = layers_sheet(GREY, objects, [found] * (count - 1) + [none], NAMES, tmp_path / "a" / "l.png", title="x.jpg")
    with Image.open(path) as picture:
        assert picture.size == (490 * min(count, 6) + 10, (360 + 26 + 10) * (1 if count <= 6 else 2) + 10)
        pixels = np.asarray(picture.convert("RGB"))

    def has(number: int, half: int, hexadecimal: str) -> bool:
        left, top = 10 + number % 6 * 490 + half * 240, 10 + number // 6 * 396
        colour = [int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)]
        return bool((pixels[top : top + 360, left : left + 240] == colour).all(-1).any())

    for number in range(count):
        assert has(number, 0, OBJECT_COLOR)
        assert not has(number, 0, FOUND_COLOR)
        assert has(number, 1, FOUND_COLOR) == (number < count - 1)
