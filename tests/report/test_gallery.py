"""Cards by hand: which classes can be chosen, where boxes and their tags stand, what is counted."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fake_report import content, misranked, only_one

from alignrank.report.content import Crop, DrawnBox
from alignrank.report.gallery import _class_select, _inside, _tag, misranked_section, only_one_section

CROP = Crop(b"", 200, 100, [], "car", "a.jpg")


def test_choice_of_a_class() -> None:
    """Each once, with its count, without regard to case; the first entry stands for all three objects."""
    assert _class_select("x", ["car", "Bus", "car"]) == (
        '<label><span>Class</span><select id="x-class" data-filter="class">'
        '<option data-name="All classes" data-all value="">All classes (3)</option>'
        '<option value="Bus" data-name="Bus">Bus (1)</option>'
        '<option value="car" data-name="car">car (2)</option>'
        "</select></label>"
    )


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 20, 30, 40), (10, 20, 30, 40)),
        ((-5, -5, 250, 150), (0, 0, 200, 100)),
        ((-30, -20, -10, -5), (0, 0, 0, 0)),
        ((210, 120, 230, 140), (200, 100, 200, 100)),
        ((float("nan"),) * 4, (0, 0, 200, 100)),
    ],
)
def test_boxes_end_with_the_crop(box: tuple[float, float, float, float], expected: tuple[float, ...]) -> None:
    assert _inside(DrawnBox(box, "chosen"), CROP) == expected


@pytest.mark.parametrize(
    ("role", "box", "side", "place"),
    [
        ("chosen", (50, 40, 90, 70), "left", "above"),
        ("chosen", (50, 2, 90, 70), "left", "within"),  # no room above
        ("object", (50, 40, 90, 70), "right", "above"),
        ("better", (50, 40, 90, 70), "left", "below"),
        ("better", (50, 40, 90, 98), "left", "within"),  # no room below
    ],
)
def test_tags_stand_at_their_corner(role: str, box: tuple[float, float, float, float], side: str, place: str) -> None:
    """On the base line that SVG counts from: above the box, below it, or within, and never out of the picture."""
    markup = _tag(DrawnBox(box, role, "0.5"), CROP)
    x, y, size = (float(value) for value in re.findall(r' (?:x|y|font-size)="([-\d.]+)"', markup))
    left, top, right, bottom = box
    assert size == pytest.approx(200 / 17, rel=1e-3)
    assert ('text-anchor="end"' in markup) == (side == "right")
    assert left < x < left + size if side == "left" else right - size < x < right
    assert {"above": y < top, "below": y - size >= bottom, "within": top < y < bottom}[place]
    assert size <= y + 0.3 * size
    assert y <= 100


def test_worst_first_and_how_many() -> None:
    """Two of two detectors, 7 and 2 (there cannot be fewer than are shown) objects in all."""
    cards = {name: [misranked(k, f"class {k}") for k in (3, 0)] for name in ("a", "b")}
    both = [replace(detector, name=name) for detector, name in zip(content().detectors, cards, strict=True)]
    section = misranked_section(content(detectors=both, misranked=cards, num_misranked={"a": 7, "b": 1}))
    assert section is not None
    assert re.findall(r'data-class="([^"]+)" data-detector="(\d)"', section) == [
        *(("class 0", "0"), ("class 3", "0"), ("class 0", "1"), ("class 3", "1")),
    ]
    assert re.findall(r'data-shown="(\d+)" data-total="(\d+)"', section) == [("2", "7"), ("2", "2")]
    assert 'id="misranked-detector"' in section
    assert misranked_section(content(misranked={})) is None


def test_of_one_detector_alone() -> None:
    """Needs two detectors; there are never fewer in all than are shown."""
    assert only_one_section(content(1, only_one=[only_one(0)])) is None
    assert only_one_section(content(only_one=[])) is None
    section = only_one_section(content(only_one=[only_one(1), only_one(2)], num_only_one=1))
    assert section is not None
    assert re.findall(r'data-shown="(\d+)" data-total="(\d+)"', section) == [("2", "2")]
