"""CVAT: what its shapes become, which file a name means, and what is refused."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import pytest
import tool_exports as tools

from alignrank.data.check import check
from alignrank.data.source import read
from alignrank.errors import InputError

pytest.importorskip("defusedxml", reason="defusedxml is not installed (extra 'train')")


def _set(root: Path, shapes: str, *, name: str = "a.jpg", size: tuple[int, int] = (64, 48)) -> Path:
    tools.put(root / "images" / "a.jpg", tools.picture("a.jpg", size))
    image = f'<image id="0" name="{name}" width="{size[0]}" height="{size[1]}">{shapes}</image>'
    return tools.put(root / "annotations.xml", tools.cvat_xml(image))


def _boxes(root: Path) -> list[list[float]]:
    train = read(root).train
    assert train is not None
    return [[round(v, 3) for v in box] for box in train.samples[0].boxes.tolist()]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>', [8, 4, 24, 16]),
        # 16 x 8 about (20, 20), turned by 90 degrees: 8 x 16.
        ('<box label="car" xtl="12" ytl="16" xbr="28" ybr="24" rotation="90.0"/>', [16, 12, 24, 28]),
        # A square of side 16 about (20, 20), turned by 45 degrees: its diagonal, 16 sqrt(2).
        (
            '<box label="car" xtl="12" ytl="12" xbr="28" ybr="28" rotation="45"/>',
            [20 - 8 * sqrt(2), 20 - 8 * sqrt(2), 20 + 8 * sqrt(2), 20 + 8 * sqrt(2)],
        ),
        ('<polygon label="car" points="10.0,5.0;30.0,7.0;12.0,40.0"/>', [10, 5, 30, 40]),
        ('<ellipse label="car" cx="30" cy="20" rx="10" ry="4"/>', [20, 16, 40, 24]),
        ('<ellipse label="car" cx="30" cy="20" rx="10" ry="4" rotation="90"/>', [26, 10, 34, 30]),
        ('<mask label="car" rle="3, 4, 5" left="3" top="4" width="6" height="7"/>', [3, 4, 9, 11]),
        (
            '<cuboid label="car" xtl1="10" ytl1="10" xbl1="10" ybl1="30" xtr1="20" ytr1="11" xbr1="20" ybr1="31" '
            'xtl2="25" ytl2="8" xbl2="25" ybl2="25" xtr2="15" ytr2="9" xbr2="15" ybr2="26"/>',
            [10, 8, 25, 31],
        ),
    ],
)
def test_shapes_become_boxes(tmp_path: Path, shape: str, box: list[float]) -> None:
    _set(tmp_path, shape)
    assert _boxes(tmp_path) == [pytest.approx(box, abs=1e-3)]


def test_what_has_no_box_is_counted(tmp_path: Path) -> None:
    """Points, lines, tags, and shapes that are outside of the picture; polygons are counted as outlines."""
    _set(
        tmp_path,
        '<points label="car" points="1,2;3,4"/><polyline label="car" points="1,2;3,4"/><tag label="car"/>'
        '<box label="car" outside="1" xtl="8" ytl="4" xbr="24" ybr="16"/>'
        '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/><polygon label="car" points="1,1;9,1;9,9"/>',
    )
    train = read(tmp_path).train
    assert train is not None
    assert train.num_boxes == 2
    assert train.notes == [
        f"{tmp_path}: 1 x polygon: the bounding box is used",
        f"{tmp_path}: 1 x box, 1 x points, 1 x polyline, 1 x tag: left out",
    ]
    assert {problem.kind for problem in check(tmp_path).problems} >= {"outline", "other_shape"}


def test_labels_keep_their_order_and_points_of_skeletons_are_none(tmp_path: Path) -> None:
    path = _set(tmp_path, '<box label="zebra" xtl="8" ytl="4" xbr="24" ybr="16"/>')
    labels = "<label><name>zebra</name></label><label><name>ape</name></label>"
    labels += "<label><name>knee</name><parent>ape</parent></label>"
    text = path.read_text()
    path.write_text(text[: text.index("<labels>") + 8] + labels + text[text.index("</labels>") :])
    source = read(tmp_path)
    assert source.classes == ("zebra", "ape")
    assert source.train is not None
    assert source.train.category_ids == (1, 2)


def test_the_file_alone(tmp_path: Path) -> None:
    tools.as_cvat(tmp_path)
    assert {n: len(s) for n, s in read(tmp_path / "annotations.xml").splits().items()} == {"train": 3, "val": 1}


def test_names_with_folders_and_moved_files(tmp_path: Path) -> None:
    """The file whose path ends as the name does; two that could be meant are none."""
    shape = '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>'
    _set(tmp_path, shape, name="day 1/cam/a.jpg")
    assert _boxes(tmp_path) == [[8, 4, 24, 16]]
    for folder in ("x/day 1/cam", "y/day 2/cam"):
        tools.put(tmp_path / folder / "a.jpg", tools.picture("a.jpg", (64, 48)))
    train = read(tmp_path).train
    assert train is not None
    assert train.samples[0].image == tmp_path / "x/day 1/cam/a.jpg"
    (tmp_path / "x/day 1").rename(tmp_path / "x/other")
    with pytest.raises(InputError, match=r"2 files in .* could be"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ('<box label="car" xtl="nan" ytl="4" xbr="24" ybr="16"/>', ["box 1", "xtl", "nan"]),
        ('<box label="car" xtl="1e999" ytl="4" xbr="24" ybr="16"/>', ["xtl", "finite"]),
        ('<box label="car" ytl="4" xbr="24" ybr="16"/>', ["xtl is missing"]),
        ('<box label="car" xtl="a" ytl="4" xbr="24" ybr="16"/>', ["xtl must be a finite number, is 'a'"]),
        ('<box label="bike" xtl="1" ytl="4" xbr="24" ybr="16"/>', ["'bike' is not one of the classes", "known: car"]),
        ('<box xtl="1" ytl="4" xbr="24" ybr="16"/>', ["label is missing"]),
        ('<polygon label="car" points="1,2;3"/>', ["points must be x,y"]),
        ('<polygon label="car" points="1,2;3,4"/>', ["at least 3 points"]),
        ('<blob label="car"/>', ["'blob' is no shape"]),
    ],
)
def test_faults_name_file_and_record(tmp_path: Path, shape: str, words: list[str]) -> None:
    _set(tmp_path, shape)
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(word in str(error.value) for word in [f"{tmp_path}/annotations.xml: image 1", *words])


def test_boxes_without_area_are_left_out(tmp_path: Path) -> None:
    good = '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>'
    _set(tmp_path, good + good.replace('xbr="24"', 'xbr="7"') + good.replace('"8"', '"80"').replace("24", "90"))
    train = read(tmp_path).train
    assert train is not None
    assert [item.kind for item in train.skipped] == ["degenerate_box", "outside_box"]


def test_images_that_are_not_there(tmp_path: Path) -> None:
    path = _set(tmp_path, '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>')
    path.write_text(path.read_text().replace("</image>", '</image><image id="1" name="b.jpg" width="9" height="9"/>'))
    train = read(tmp_path).train
    assert train is not None
    assert [(item.kind, item.where) for item in train.skipped] == [("missing_image", f"{path}: image 2 (b.jpg)")]
    (tmp_path / "images/a.jpg").unlink()
    with pytest.raises(InputError, match="none of its 2 annotated images"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/a.jpg", "/etc/a.jpg", "C:\\a.jpg", "https://example.org/a.jpg", ""])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    _set(tmp_path, '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>', name=name)
    with pytest.raises(InputError, match=r"annotations\.xml: image 1: name"):
        read(tmp_path)


def test_a_name_that_is_too_long_is_no_file(tmp_path: Path) -> None:
    path = _set(tmp_path, "")
    path.write_text(path.read_text().replace("</image>", f'</image><image id="1" name="{"x" * 5000}.jpg"/>'))
    for place in (tmp_path, path):
        train = read(place).train
        assert train is not None
        assert [item.kind for item in train.skipped] == ["missing_image"]


def test_a_subset_cannot_lead_out(tmp_path: Path) -> None:
    tools.put(tmp_path / "secret" / "a.jpg", tools.picture("a.jpg", (64, 48)))
    path = _set(tmp_path / "set", '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>')
    path.write_text(path.read_text().replace('name="a.jpg"', 'name="a.jpg" subset="../../secret"'))
    train = read(tmp_path / "set").train
    assert train is not None
    assert train.samples[0].image == tmp_path / "set/images/a.jpg"


def test_hostile_files(tmp_path: Path) -> None:
    path = _set(tmp_path, '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>')
    text = path.read_text()
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    head, body = text.split("\n", 1)
    cases = [
        (f"{head}{bomb}{body.replace('street', '&b;')}".encode(), "entities; these are never expanded"),
        (text.encode()[:-20], "not valid XML"),
        (text.replace("street", "\xff").encode("latin-1"), "not valid XML"),
        (text.replace("<labels>", "<other>").replace("</labels>", "</other>").encode(), "labels is missing"),
        (tools.cvat_xml("").encode(), "has no image"),
        (tools.cvat_xml('<track id="0" label="car"/>').encode(), "CVAT for video"),
    ]
    for content, words in cases:
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as error:
            read(tmp_path)
        assert str(error.value).startswith(str(path))


def test_a_check_finds_all_at_once(tmp_path: Path) -> None:
    good = '<box label="car" xtl="8" ytl="4" xbr="24" ybr="16"/>'
    _set(tmp_path, good + good.replace("car", "bike") + good.replace('"8"', '"inf"') + good)
    report = check(tmp_path)
    assert not report.ok
    counts = {problem.kind: problem.count for problem in report.problems}
    assert counts["unknown_class"] == counts["non_finite"] == counts["duplicate_box"] == 1


def test_rotation_in_cvat_s_coco(tmp_path: Path) -> None:
    """16 x 8 about (20, 20), turned by 90 degrees; what is no angle is none."""
    document = tools.coco("train")
    document["annotations"] = document["annotations"][:1]
    for attributes, box in [
        ({"rotation": 90.0, "occluded": False}, [16, 12, 24, 28]),
        ({"rotation": 0.0}, [12, 16, 28, 24]),
        ({"rotation": 1e300}, [12, 16, 28, 24]),
        ({"rotation": "90"}, [12, 16, 28, 24]),
        ([], [12, 16, 28, 24]),
    ]:
        document["annotations"][0] |= {"bbox": [12, 16, 16, 8], "attributes": attributes}
        tools.put(tmp_path / "annotations" / "instances_default.json", json.dumps(document))
        tools.pictures(tmp_path / "images", "train")
        train = read(tmp_path).train
        assert train is not None
        assert train.samples[0].boxes.tolist() == [pytest.approx(box)]
