"""LabelMe: what its shapes become, which picture a file means, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tool_exports as tools

from alignrank.data.check import check
from alignrank.data.source import read
from alignrank.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNRANK_CACHE", str(tmp_path / "cache"))


def _shape(kind: str | None, points: Any, label: Any = "car") -> dict[str, Any]:
    shape = {"label": label, "points": points, "group_id": None, "flags": {}}
    return shape if kind is None else shape | {"shape_type": kind}


def _set(root: Path, shapes: Any, **fields: Any) -> Path:
    tools.put(root / "a.jpg", tools.picture("a.jpg", (64, 48)))
    document = tools.labelme("a.jpg", ((64, 48), [])) | {"shapes": shapes} | fields
    return tools.put(root / "a.json", document)


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[24, 16], [8, 4]], [8, 4, 24, 16]),
        ("rectangle", [[8, 16], [24, 4]], [8, 4, 24, 16]),
        ("rectangle", [[8, 4], [24, 4], [24, 16], [8, 16]], [8, 4, 24, 16]),
        ("polygon", [[10, 5], [30.5, 7], [12, 40]], [10, 5, 30.5, 40]),
        (None, [[10, 5], [30.5, 7], [12, 40]], [10, 5, 30.5, 40]),
        ("circle", [[20, 20], [23, 24]], [15, 15, 25, 25]),
        ("mask", [[3, 4], [8, 9]], [3, 4, 9, 10]),
        ("rotation", [[20, 10], [30, 20], [20, 30], [10, 20]], [10, 10, 30, 30]),
    ],
)
def test_shapes_become_boxes(tmp_path: Path, kind: str | None, points: Any, box: list[float]) -> None:
    _set(tmp_path, [_shape(kind, points)])
    train = read(tmp_path).train
    assert train is not None
    assert train.samples[0].boxes.tolist() == [box]
    assert len(train.notes) == (kind != "rectangle")


def test_what_has_no_box_is_counted(tmp_path: Path) -> None:
    shapes = [_shape("point", [[1, 2]]), _shape("line", [[1, 2], [3, 4]]), _shape("linestrip", [[1, 2], [3, 4]])]
    _set(tmp_path, [*shapes, _shape("rectangle", [[1, 2], [9, 9]]), _shape("polygon", [[1, 2]], "__ignore__")])
    train = read(tmp_path).train
    assert train is not None
    assert train.num_boxes == 1
    assert train.notes == [f"{tmp_path}: 1 x __ignore__, 1 x line, 1 x linestrip, 1 x point: left out"]
    assert "other_shape" in {problem.kind for problem in check(tmp_path).problems}


def test_classes_of_a_file(tmp_path: Path) -> None:
    """LabelMe's own labels.txt gives the order, and what is not in it is refused."""
    _set(tmp_path, [_shape("rectangle", [[1, 2], [9, 9]])])
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nperson\ncar\n")
    source = read(tmp_path)
    assert source.classes == ("person", "car")
    (tmp_path / "labels.txt").write_text("person\n")
    with pytest.raises(InputError, match=r"a\.json: shapes\[0\]: label 'car' is not one of the classes"):
        read(tmp_path)
    (tmp_path / "labels.txt").write_text("person\nperson\n")
    with pytest.raises(InputError, match=r"labels\.txt: must name each class once"):
        read(tmp_path)


def test_a_file_beside_wins_over_the_embedded_picture(tmp_path: Path) -> None:
    embedded = tools.labelme("a.jpg", ((64, 48), []), embedded=True)["imageData"]
    path = _set(tmp_path, [_shape("rectangle", [[1, 2], [9, 9]])], imageData=embedded)
    for unlinked, folder in ((False, tmp_path), (True, tmp_path / "cache")):
        if unlinked:
            (tmp_path / "a.jpg").unlink()
        train = read(path.parent).train
        assert train is not None
        assert train.samples[0].image.is_relative_to(folder)
        assert train.samples[0].image.read_bytes() == tools.picture("a.jpg", (64, 48))
    assert not list((tmp_path / "cache").rglob(".*"))  # nothing half-written is left


@pytest.mark.parametrize("data", ["not base64!", "AAAA", ""])
def test_embedded_pictures_that_are_none(tmp_path: Path, data: str) -> None:
    path = _set(tmp_path, [_shape("rectangle", [[1, 2], [9, 9]])], imageData=data, imagePath="b.jpg")
    with pytest.raises(InputError, match="can be used"):
        read(path.parent)
    tools.put(tmp_path / "c.json", tools.labelme("a.jpg", ((64, 48), [("car", 1, 2, 3, 4)])))
    train = read(path.parent).train
    assert train is not None
    assert len(train) == len(train.skipped) == 1


@pytest.mark.parametrize(
    "name", ["../../a.jpg", "..\\..\\a.jpg", "/etc/a.jpg", "C:\\data\\a.jpg", "http://x/a.jpg", "", 7]
)
def test_image_paths_stay_inside(tmp_path: Path, name: Any) -> None:
    path = _set(tmp_path / "set", [_shape("rectangle", [[1, 2], [9, 9]])], imagePath=name)
    with pytest.raises(InputError, match=r"a\.json: imagePath"):
        read(path.parent)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (_shape("rectangle", [[1, 2]]), ["at least 2 points"]),
        (_shape("rectangle", [[1, 2], [float("nan"), 9]]), ["must be a finite number, is nan"]),
        (_shape("rectangle", [[1, 2], [10**400, 9]]), ["an integer of more than 80 digits"]),
        (_shape("rectangle", [[1, 2], ["9", 9]]), ["is the text '9'"]),
        (_shape("rectangle", [[1, 2], [True, 9]]), ["is True"]),
        (_shape("rectangle", "1,2"), ["must be a list of [x, y]"]),
        (_shape("rectangle", [[1, 2], [3]]), ["must be a list of [x, y]"]),
        (_shape("blob", [[1, 2], [3, 3]]), ["shape_type 'blob' is none of LabelMe's"]),
        (_shape(["rectangle"], [[1, 2], [3, 3]]), ["shape_type"]),  # type: ignore[arg-type]
        (_shape("rectangle", [[1, 2], [3, 3]], None), ["label must be text"]),
        (7, ["must be an object"]),
    ],
)
def test_faults_name_file_and_shape(tmp_path: Path, shape: Any, words: list[str]) -> None:
    _set(tmp_path, [_shape("rectangle", [[1, 2], [9, 9]]), shape])
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(word in str(error.value) for word in [f"{tmp_path}/a.json: shapes[1]", *words])
    assert read_all_but_one(tmp_path) == 1


def read_all_but_one(root: Path) -> int:
    """What a check can use beside the fault."""
    report = check(root)
    assert not report.ok
    return sum(split.num_boxes for split in report.source.splits().values())


def test_hostile_files(tmp_path: Path) -> None:
    path = _set(tmp_path, [_shape("rectangle", [[1, 2], [9, 9]])])
    text = path.read_text()
    cases = [
        (text.replace("car", "\xff").encode("latin-1"), "not UTF-8"),
        (text[:-9].encode(), "not valid JSON"),
        (text.replace("[9, 9]", f"[9, {'9' * 5000}]").encode(), "number too long"),
        (text.replace('"flags": {}', f'"flags": {"[" * 100_000}').encode(), "not usable JSON|not valid JSON"),
        (text.replace("48", "-48").encode(), "height must be a positive whole number"),
    ]
    for content, words in cases:
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as error:
            read(tmp_path)
        assert str(error.value).startswith(str(path))


def test_other_json_among_them_is_refused(tmp_path: Path) -> None:
    _set(tmp_path, [_shape("rectangle", [[1, 2], [9, 9]])])
    tools.put(tmp_path / "b.json", json.dumps({"shapes": 3}))
    with pytest.raises(InputError, match=r"b\.json: is not of LabelMe"):
        read(tmp_path)
    with pytest.raises(InputError, match="is the annotation of one image; give the folder"):
        read(tmp_path / "a.json")


def test_one_picture_of_two_files(tmp_path: Path) -> None:
    path = _set(tmp_path, [_shape("rectangle", [[1, 2], [9, 9]])])
    tools.put(tmp_path / "b.json", path.read_text())
    with pytest.raises(InputError, match=r"b\.json: .*a\.jpg is the image of .*a\.json, too"):
        read(tmp_path)
