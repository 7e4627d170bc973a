"""Label Studio: which annotation counts, what regions become, which file an address means, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tool_exports as tools

from alignrank.data.check import check
from alignrank.data.samples import Split
from alignrank.data.source import read
from alignrank.errors import InputError

# 200 x 100: one per cent is 2 px across and 1 px down.
SIZE = (200, 100)


def _region(label: str = "car", **value: Any) -> dict[str, Any]:
    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": [label]} | value
    value = {key: item for key, item in value.items() if item is not None}
    return {"id": "r", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value,
            "original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}  # fmt: skip


def _task(*regions: Any, address: Any = "/data/upload/1/0a1b2c3d-a.jpg", **fields: Any) -> dict[str, Any]:
    annotations = [{"id": 1, "result": list(regions), "was_cancelled": False}]
    return {"id": 5, "data": {"image": address}, "annotations": annotations} | fields


def _set(root: Path, *tasks: Any, name: str = "a.jpg") -> Path:
    tools.put(root / "pictures" / name, tools.picture("a.jpg", SIZE))
    return tools.put(root / "project-1-at-2024-05-01-10-00-abcdef01.json", list(tasks))


def _train(root: Path) -> Split:
    train = read(root).train
    assert train is not None
    return train


@pytest.mark.parametrize(
    ("value", "box"),
    [
        ({}, [20, 20, 80, 60]),
        # 60 x 40 px, turned by 90 degrees about (100, 20): to the left, 40 wide and 60 high.
        ({"x": 50, "rotation": 90}, [60, 20, 100, 80]),
        ({"x": 50, "y": 60, "rotation": -90}, [100, 0, 140, 60]),
        ({"rectanglelabels": None, "polygonlabels": ["car"], "points": [[1, 2], [3, 4.5], [2, 90]]}, [2, 2, 6, 90]),
        ({"rectanglelabels": None, "ellipselabels": ["car"], "radiusX": 5, "radiusY": 10}, [10, 10, 30, 30]),
        (
            {"rectanglelabels": None, "ellipselabels": ["car"], "radiusX": 5, "radiusY": 5, "rotation": 90},
            [15, 10, 25, 30],
        ),
        ({"rectanglelabels": None, "labels": ["car"]}, [20, 20, 80, 60]),
    ],
)
def test_regions_become_boxes(tmp_path: Path, value: dict[str, Any], box: list[float]) -> None:
    _set(tmp_path, _task(_region(**value)))
    train = _train(tmp_path)
    assert train.samples[0].boxes.tolist() == [pytest.approx(box, abs=1e-4)]
    is_box = not value.get("rotation") and "polygonlabels" not in value and "ellipselabels" not in value
    assert len(train.notes) == (not is_box)


def test_two_labels_are_two_objects_and_shapes_without_are_none(tmp_path: Path) -> None:
    """A rectangle whose labels stand in another region of its id counts once; one without any is left out."""
    bare = {"id": "q", "type": "rectangle", "value": {"x": 1, "y": 1, "width": 5, "height": 5}}
    labelled = _region(rectanglelabels=None, labels=["car"], x=1, y=1, width=5, height=5) | {
        "id": "q",
        "type": "labels",
    }
    choice = {"id": "c", "type": "choices", "value": {"choices": ["night"]}}
    brush = {"id": "b", "type": "brushlabels", "value": {"format": "rle", "rle": [1], "brushlabels": ["car"]}}
    _set(tmp_path, _task(_region(rectanglelabels=["car", "taxi"]), bare, labelled, choice, brush, bare | {"id": "z"}))
    train = _train(tmp_path)
    assert train.classes == ("car", "taxi")
    assert sorted(train.samples[0].labels.tolist()) == [0, 0, 1]
    assert train.notes == [f"{tmp_path}: 1 x brushlabels, 1 x shape without label: left out"]


def test_the_annotation_that_counts(tmp_path: Path) -> None:
    """The ground truth, else the last; never a cancelled one or a prediction."""
    first = {"result": [_region("first")], "updated_at": "2024-05-01T10:00:00Z"}
    last = {"result": [_region("last")], "updated_at": "2024-05-03T10:00:00Z"}
    cancelled = {"result": [_region("cancelled")], "updated_at": "2024-06-01T10:00:00Z", "was_cancelled": True}
    predictions = [{"result": [_region("predicted")]}]
    for given, name in (
        ([last, first, cancelled], "last"),
        ([first | {"ground_truth": True}, last, cancelled], "first"),
        ([cancelled, first], "first"),
    ):
        _set(tmp_path, _task(annotations=given, predictions=predictions))
        train = _train(tmp_path)
        assert train.classes == (name,)
        assert train.num_boxes == 1
        others = len(given) - 2
        assert train.notes == [f"{tmp_path}: 1 x further annotation of a task: left out"] * others
    # The name of before version 1.0.
    task = _task(_region("old"))
    task["completions"] = task.pop("annotations")
    _set(tmp_path, task)
    assert _train(tmp_path).classes == ("old",)


@pytest.mark.parametrize("annotations", [[], None, [{"result": [], "was_cancelled": True}]])
def test_a_task_without_annotation_is_no_empty_picture(tmp_path: Path, annotations: Any) -> None:
    tools.put(tmp_path / "b.jpg", tools.picture("b.jpg", SIZE))
    _set(tmp_path, _task(_region()), _task(address="b.jpg", annotations=annotations, id=6))
    train = _train(tmp_path)
    assert len(train) == 1
    assert [(item.kind, item.where.rpartition(": ")[2]) for item in train.skipped] == [("unannotated_image", "task 6")]
    assert "unannotated_image" in {problem.kind for problem in check(tmp_path).problems}
    # An annotation without regions says that nothing is there.
    _set(tmp_path, _task(_region()), _task(address="b.jpg", id=6))
    assert [len(sample.labels) for sample in _train(tmp_path).samples] == [1, 0]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/1/0a1b2c3d-my%20car.jpg", "my car.jpg"),
        ("/data/upload/0a1b2c3d-my%20car.jpg", "0a1b2c3d-my car.jpg"),
        ("/data/local-files/?d=pictures%2Fmy%20car.jpg", "my car.jpg"),
        ("/data/local-files/?d=C%3A/x.jpg", None),
        ("http://localhost:8080/data/upload/1/my%20car.jpg", "my car.jpg"),
        ("gs://bucket/my car.jpg", "my car.jpg"),
        ("my#1 car.jpg", "my#1 car.jpg"),
        ("pictures\\a.jpg", "a.jpg"),
        ("../../a.jpg", None),
        ("/data/local-files/?d=..%2F..%2Fa.jpg", None),
        ("https://example.org/..%2F..%2Fa.jpg", None),
    ],
)
def test_addresses(tmp_path: Path, address: str, name: str | None) -> None:
    """They mean a file below the folder, or are refused; none is opened."""
    path = _set(tmp_path, _task(_region(), address=address), name=name or "a.jpg")
    if name is None:
        with pytest.raises(InputError, match="task 5: image"):
            read(tmp_path)
    else:
        assert _train(tmp_path).samples[0].image == path.parent / "pictures" / name


def test_a_picture_that_is_only_at_its_address(tmp_path: Path) -> None:
    _set(tmp_path, _task(_region()), _task(_region(), address="https://example.org/b.jpg", id=6))
    (skipped,) = _train(tmp_path).skipped
    assert skipped.reason.startswith("its picture is at an address, which is not opened, and there is no file 'b.jpg'")
    # Data of another name than `image`, and none at all.
    _set(tmp_path, {**_task(_region()), "data": {"id": 3, "photo": "a.jpg"}}, _task(_region(), address=7, id=8))
    train = _train(tmp_path)
    assert len(train) == 1
    assert [item.reason for item in train.skipped] == ["its data names no picture"]


def test_sizes_come_from_the_file_where_a_region_has_none(tmp_path: Path) -> None:
    region = _region()
    del region["original_width"], region["original_height"]
    _set(tmp_path, _task(region))
    assert _train(tmp_path).samples[0].boxes.tolist() == [pytest.approx([20, 20, 80, 60])]


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (_region(x=float("nan")), ["x must be a finite number, is nan"]),
        (_region(width=10**400), ["width must be a finite number, is an integer of more than 80 digits"]),
        (_region(x="10"), ["is the text '10'"]),
        (_region(x=None), ["x must be a finite number, is None"]),
        (_region(rectanglelabels="car"), ["rectanglelabels must be a list of names"]),
        (_region(rectanglelabels=[""]), ["rectanglelabels must be a list of names"]),
        (_region() | {"image_rotation": 90}, ["image_rotation"]),
        (_region() | {"original_width": -3}, ["width must be a positive whole number"]),
        (_region(rectanglelabels=None, polygonlabels=["car"], points=[[1, 2]]), ["at least 3 points"]),
        ({"value": 3}, ["must be an object"]),
        (None, ["must be an object"]),
    ],
)
def test_faults_name_file_and_region(tmp_path: Path, region: Any, words: list[str]) -> None:
    path = _set(tmp_path, _task(_region(), region))
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(word in str(error.value) for word in [f"{path}: task 5: region 2", *words])
    report = check(tmp_path)
    assert not report.ok
    assert sum(split.num_boxes for split in report.source.splits().values()) >= 1


def test_negative_sides_are_left_out(tmp_path: Path) -> None:
    _set(tmp_path, _task(_region(), _region(width=-5)))
    assert [item.kind for item in _train(tmp_path).skipped] == ["degenerate_box"]


def test_several_annotations_of_json_min(tmp_path: Path) -> None:
    record = {"image": "a.jpg", "id": 3, "annotation_id": 1, "lead_time": 1.5, "updated_at": "2024-05-01"}
    old, new = ([_region(name)["value"]] for name in ("old", "new"))
    records = [record | {"boxes": new, "updated_at": "2024-05-02", "quality": "good"}, record | {"boxes": old}]
    _set(tmp_path, *records)
    train = _train(tmp_path)
    assert train.classes == ("new",)
    assert train.samples[0].boxes.tolist() == [pytest.approx([20, 20, 80, 60])]


def test_hostile_files(tmp_path: Path) -> None:
    path = _set(tmp_path, _task(_region()))
    text = path.read_text()
    for content, words in [
        (text.replace("car", "\xff").encode("latin-1"), "not UTF-8"),
        (text[:-9].encode(), "not valid JSON"),
        (text.replace('"x": 10', f'"x": {"9" * 5000}').encode(), "number too long"),
        (text.replace("]}]", "]}, 7]").encode(), "list of tasks|not valid JSON"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as error:
            read(tmp_path)
        assert str(error.value).startswith(str(path))


def test_results_of_coco_are_no_export(tmp_path: Path) -> None:
    """They are a list, too, and the message of before says what they are."""
    tools.put(tmp_path / "results.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}])
    with pytest.raises(InputError, match="a results file"):
        read(tmp_path / "results.json")
