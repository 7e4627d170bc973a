"""Key points, oriented boxes, polygons and detections in YOLO's label files: each read as what it is, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import alignrank
from PIL import Image

from alignrank.data.opening import open_split
from alignrank.data.source import read
from alignrank.data.yolo_lines import parse_line
from alignrank.errors import InputError

HEAD = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
Box = tuple[float, float, float, float]
# Centre and size, in fractions.
BOXES: list[Box] = [(0.4, 0.5, 0.3, 0.4), (0.6, 0.4, 0.2, 0.5), (0.3, 0.7, 0.4, 0.3), (0.5, 0.5, 0.6, 0.6)]


def pose(box: Box, number: int, size: int, *, marks: tuple[int, ...] = (2, 1, 0)) -> str:
    """A line: the box and key points in it, here and there one without a mark."""
    cx, cy, w, h = box
    words = [f"1 {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}"]
    for i in range(number):
        mark = marks[i % len(marks)]
        turn = 2.4 * i
        x, y = (cx + 0.4 * w * math.sin(turn), cy + 0.4 * h * math.cos(1.7 * turn)) if mark or size == 2 else (0, 0)
        words.append(f"{x:.6f} {y:.6f}" + f" {mark}" * (size == 3))
    return " ".join(words)


def polygon(box: Box, corners: int) -> str:
    """A line: an ellipse in the box."""
    cx, cy, w, h = box
    turns = (2 * math.pi * i / corners for i in range(corners))
    points = (f"{cx + w / 2 * math.cos(turn):.6f} {cy + h / 2 * math.sin(turn):.6f}" for turn in turns)
    return " ".join(["0", *points])


def oriented(box: Box, turn: float) -> str:
    """A line of nine columns: the box turned about its centre."""
    cx, cy, w, h = box
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return " ".join(["0", *(f"{v:.6f}" for v in (corners @ matrix.T + [cx, cy]).ravel())])


def dataset(root: Path, lines: Callable[[Box], str], *, yaml: str | None = HEAD) -> Path:
    """Two images of two objects in train, one of two in val."""
    for number, name in enumerate(("train/a", "train/b", "val/c")):
        image, label = root / "images" / f"{name}.png", root / "labels" / f"{name}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (80, 100, 3), np.uint8)
        Image.fromarray(pixels).save(image)
        label.write_text("".join(lines(BOXES[(number + i) % 4]) + "\n" for i in range(2)))
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def boxes_of(root: Path) -> dict[str, list[list[float]]]:
    """By image: centres and sizes in fractions."""
    found = {}
    for split in read(root).splits().values():
        for sample in split.samples:
            corners = sample.boxes.reshape(-1, 2, 2) / [100, 80]
            values = np.concatenate([corners.mean(1), corners[:, 1] - corners[:, 0]], axis=1)
            found[sample.image.stem] = values.round(4).tolist()
    return found


EXPECTED = {name: [list(BOXES[(i + k) % 4]) for k in range(2)] for i, name in enumerate("abc")}


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (5, 2), (1, 3), (4, 3), (17, 3)])
def test_kpt_shape_makes_the_first_four_numbers_the_box(shape: tuple[int, int], tmp_path: Path) -> None:
    yaml = HEAD + f"kpt_shape: {list(shape)}\nflip_idx: {list(range(shape[0]))}\n"
    root = dataset(tmp_path, lambda box: pose(box, *shape), yaml=yaml)
    assert boxes_of(root) == EXPECTED
    said = f"{root / 'data.yaml'}: 6 objects have key points: left out, only the box is used"
    assert [split.notes for split in read(root).splits().values()] == [[said], [said]]


def test_a_box_without_key_points_among_those_with_them(tmp_path: Path) -> None:
    root = dataset(tmp_path, lambda box: pose(box, 4, 3), yaml=HEAD + "kpt_shape: [4, 3]\n")
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert boxes_of(root)["a"] == [[0.5, 0.5, 0.2, 0.2]]
    assert "4 objects have key points" in read(root).splits()["train"].notes[0]


def test_key_points_may_lie_beyond_the_image_but_must_be_numbers() -> None:
    assert parse_line("0 0.5 0.5 0.2 0.2 -0.3 1.4 2", 1, (1, 3)).box == pytest.approx((0.4, 0.4, 0.6, 0.6))
    with pytest.raises(ValueError, match="'left' is not a number"):
        parse_line("0 0.5 0.5 0.2 0.2 left 1.4 2", 1, (1, 3))
    with pytest.raises(ValueError, match="32 is outside"):
        parse_line("0 32 0.5 0.2 0.2 0.3 0.4 2", 1, (1, 3))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (11, ["11 columns", "kpt_shape: [4, 3] asks for 17"]), (9, ["9 columns", "17"]), (6, ["6 columns", "17"]),
        (13, ["13 columns", "is it kpt_shape: [4, 2]?"]), (18, ["18 columns", "a confidence"]),
    ],
)  # fmt: skip
def test_another_number_of_columns_than_kpt_shape(columns: int, words: list[str], tmp_path: Path) -> None:
    root = dataset(tmp_path, lambda box: pose(box, 4, 3), yaml=HEAD + "kpt_shape: [4, 3]\n")
    (root / "labels/train/b.txt").write_text(" ".join(["0", *["0.5"] * (columns - 1)]))
    with pytest.raises(InputError) as error:
        read(root)
    assert all(word in str(error.value) for word in ["b.txt: line 1", *words])


@pytest.mark.parametrize(
    "value", ["17", "[17]", "[17, 4]", "[0, 3]", "[17.0, 3]", "[17, 3, 2]", "{0: 17}", "[true, 2]", "'17, 3'", "[]"]
)
def test_malformed_kpt_shape(value: str, tmp_path: Path) -> None:
    root = dataset(tmp_path, lambda box: pose(box, 17, 3), yaml=HEAD + f"kpt_shape: {value}\n")
    done = alignrank("data", "check", str(root))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"{root / 'data.yaml'}: kpt_shape must be [how many key points, 2 or 3 numbers for each]" in done.stderr


def test_every_verb_says_once_that_key_points_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = dataset(tmp_path / "d", lambda box: pose(box, 4, 3), yaml=HEAD + "kpt_shape: [4, 3]\n")
    said = "6 objects have key points: left out, only the box is used"
    texts = [
        alignrank("data", "convert", str(root), "--to", "coco", "--out", str(tmp_path / "coco")).stderr,
        alignrank("data", "show", str(root), "--out", str(tmp_path / "sheet.jpg")).stderr,
        alignrank("data", "split", str(root), "--out", str(tmp_path / "split")).stderr,
        alignrank("data", "check", str(root)).stderr,
    ]
    assert [text.count(said) for text in texts] == [1, 1, 1, 1]
    open_split(str(root), "val")  # as `val` does
    assert capsys.readouterr().err.count(said) == 1
    checked = json.loads(alignrank("data", "check", str(root), "--json").stdout)
    assert [(p["kind"], p["count"], p["severity"]) for p in checked["problems"]][:1] == [("key_points", 1, "warning")]
    # What is written holds boxes alone.
    assert not read(tmp_path / "coco").splits()["train"].notes


def test_oriented_boxes_become_their_hull(tmp_path: Path) -> None:
    root = dataset(tmp_path, lambda box: oriented(box, 0.5))
    found = boxes_of(root)
    for name, expected in EXPECTED.items():
        for (cx, cy, w, h), box in zip(expected, found[name], strict=True):
            hull_w, hull_h = (a * math.cos(0.5) + b * math.sin(0.5) for a, b in ((w, h), (h, w)))
            assert box == pytest.approx([cx, cy, hull_w, hull_h], abs=1e-3)
    said = f"{root / 'data.yaml'}: 6 oriented boxes or four-cornered polygons became their bounding boxes"
    assert [split.notes for split in read(root).splits().values()] == [[said], [said]]
    text = alignrank("data", "convert", str(root), "--to", "yolo", "--out", str(tmp_path / "new")).stderr
    assert text.count("became their bounding boxes") == 1


def test_polygons_of_many_shapes_are_read_with_and_without_yaml(tmp_path: Path) -> None:
    corners = iter([3, 4, 9, 12, 5, 30] * 2)
    for name, yaml in (("with", HEAD), ("without", None)):
        root = dataset(tmp_path / name, lambda box: polygon(box, next(corners)), yaml=yaml)
        (note,) = read(root).splits()["train"].notes
        assert note.endswith(
            "6 polygons became their bounding boxes (1 of them with four corners, as oriented boxes have)"
        )


@pytest.mark.parametrize("corners", [3, 4, 5, 6, 8, 11, 16, 28])
def test_polygons_of_one_shape_are_polygons_where_the_yaml_has_no_kpt_shape(corners: int, tmp_path: Path) -> None:
    small = [(0.2 + 0.5 * x, 0.2 + 0.6 * y, 0.1, 0.1) for x, y, _, _ in BOXES]
    for name, change in (("large", lambda box: box), ("small", lambda box: small[BOXES.index(box)])):
        root = dataset(tmp_path / name, lambda box, change=change: polygon(change(box), corners))  # type: ignore[misc]
        assert read(root).splits()["train"].num_boxes == 4


@pytest.mark.parametrize(
    ("lines", "shape"),
    [
        (lambda box: pose(box, 4, 3), [4, 3]),
        (lambda box: pose(box, 4, 3, marks=(1, 0, 1)), [4, 3]),  # no 2, which no polygon has
        (lambda box: pose(box, 2, 3, marks=(1,)), [2, 3]),
        (lambda box: pose(box, 8, 2), [8, 2]),
        (lambda box: pose(box, 17, 2), [17, 2]),
        (lambda box: pose(box, 17, 3, marks=(1, 1, 0)) + " 0.87", [17, 3]),  # as detectors save it
        (lambda box: pose(box, 17, 3), [17, 3]),  # an even number of columns: no polygon
        (lambda box: pose(box, 1, 3), [1, 3]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("yaml", [HEAD, None])
def test_key_points_without_kpt_shape_are_not_read_as_polygons(
    lines: Callable[[Box], str], shape: list[int], yaml: str | None, tmp_path: Path
) -> None:
    root = dataset(tmp_path, lines, yaml=yaml)
    done = alignrank("data", "convert", str(root), "--to", "coco", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()
    assert f"kpt_shape: {shape}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    checked = alignrank("data", "check", str(root))
    assert checked.returncode == 2
    assert f"kpt_shape: {shape}" in checked.stderr


@pytest.mark.parametrize("number", [1, 2])
def test_what_may_be_both_is_decided_by_the_yaml_and_refused_without(number: int, tmp_path: Path) -> None:
    lines = lambda box: pose(box, number, 2)  # noqa: E731
    root = dataset(tmp_path / "none", lines, yaml=None)
    with pytest.raises(InputError) as error:
        read(root)
    for words in (f"6 label lines of {5 + 2 * number} columns", f"polygons of {number + 2} corners",
                  f"cx cy w h with {number} key point", f"kpt_shape: [{number}, 2]", "kpt_shape: null"):  # fmt: skip
        assert words in str(error.value)
    assert boxes_of(dataset(tmp_path / "pose", lines, yaml=HEAD + f"kpt_shape: [{number}, 2]\n")) == EXPECTED
    for name, yaml in (("silent", HEAD), ("null", HEAD + "kpt_shape: null\n")):
        other = boxes_of(dataset(tmp_path / name, lines, yaml=yaml))
        assert other != EXPECTED
        assert len(other["a"]) == 2


def test_null_lets_any_polygon_pass(tmp_path: Path) -> None:
    root = dataset(tmp_path, lambda box: pose(box, 8, 2), yaml=HEAD + "kpt_shape:\n")
    assert "6 polygons became" in read(root).splits()["val"].notes[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.1 0.1 0.9", ["6 columns", "class cx cy w h with a confidence", "take the last column off"]),
        ("0 0.5 0.5 0.1 0.1 0.9 14", ["14 is outside", "a confidence and a track number"]),
        ("0 .1 .1 .2 .1 .2 .2 .1 .2 .8", ["10 columns", "polygon or oriented box with a confidence"]),
        ("0 .5 .5 .2 .2 .5 .5 2", ["8 columns", "1 key point with visibility", "kpt_shape: [1, 3]"]),
        ("0 .5 .5 .2 .2 .5 .5 2 .5 .5 2", ["2 is outside", "kpt_shape: [2, 3]"]),
    ],
)  # fmt: skip
def test_a_refused_line_is_named_for_what_it_may_be(line: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are below
        parse_line(line, 3)
    assert all(word in str(error.value) for word in words)


def test_classes_without_yaml_are_counted_whole_numbers_with_a_point_included(tmp_path: Path) -> None:
    root = dataset(tmp_path, lambda box: "3.0 " + " ".join(map(str, box)), yaml=None)
    assert read(root).classes == ("0", "1", "2", "3")
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00")
    problems = json.loads(alignrank("data", "check", str(root), "--json").stdout)["problems"]
    assert problems[0]["kind"] == "unreadable_annotations"
