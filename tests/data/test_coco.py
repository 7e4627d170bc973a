from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alignrank.data.check import check
from alignrank.data.coco import read_file
from alignrank.data.source import read
from alignrank.errors import InputError


def _document() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 90, "bbox": [8, 10, 20.5, 16], "area": 300, "iscrowd": 0},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 7,
                "bbox": [0, 0, 5, 5],
                "iscrowd": 1,
                "segmentation": {"size": []},
            },
        ],
        "categories": [{"id": 90, "name": "b"}, {"id": 7, "name": "a"}],
    }


def _write(folder: Path, document: Any, *, images: str = "images", file: str = "a.json") -> Path:
    (folder / images).mkdir(parents=True, exist_ok=True)
    for i in (1, 2):
        Image.new("RGB", (64, 48)).save(folder / images / f"{i}.jpg")
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_boxes_ids_areas_and_crowd(tmp_path: Path) -> None:
    split = read_file(_write(tmp_path, _document()))
    assert (split.classes, split.category_ids) == (("a", "b"), (7, 90))
    empty, full = split.samples
    assert empty.boxes.shape == (0, 4)
    assert full.boxes.tolist() == [[8, 10, 28.5, 26], [0, 0, 5, 5]]
    assert full.boxes.dtype == np.float32
    assert full.labels.tolist() == [1, 0]
    assert full.areas.tolist() == [300, 25]
    assert full.crowd.tolist() == [False, True]
    assert (full.image_id, full.size, full.image) == (2, (48, 64), tmp_path / "images" / "2.jpg")
    assert split.to_coco()["annotations"][0]["category_id"] == 90


@pytest.mark.parametrize(
    ("images", "file"),
    [(".", "a.json"), ("images", "a.json"), ("train2017", "annotations/instances_train2017.json"),
     ("images", "annotations/train.json"), ("images/train", "annotations/train.json"),
     ("train", "annotations/train.json")],
)  # fmt: skip
def test_image_folders_in_use(tmp_path: Path, images: str, file: str) -> None:
    split = read_file(_write(tmp_path, _document(), images=images, file=file))
    assert all(sample.image.is_file() for sample in split.samples)


def test_boxes_are_clipped_or_left_out(tmp_path: Path) -> None:
    document = _document()
    boxes = [[50, 30, 40, 40], [5, 5, -3, 4], [70, 50, 5, 5], [63.5, 0, 1, 5], [9, 9, 1e-9, 5], [1e300, 0, 1e300, 5]]
    document["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 7, "bbox": box} for i, box in enumerate(boxes, start=10)
    ]
    split = read_file(_write(tmp_path, document))
    assert split.samples[0].boxes.tolist() == [[50, 30, 64, 48], [63.5, 0, 64, 5]]
    assert split.samples[0].areas.tolist() == [14 * 18, 2.5]
    assert [(s.unit, s.where.rsplit(": ")[-1]) for s in split.skipped] == [
        ("box", "annotation 11"),
        ("box", "annotation 12"),
        ("box", "annotation 14"),
        ("box", "annotation 15"),
    ]
    assert split.skipped[2].reason.startswith("the box has no area")
    assert split.notes == ["1 box reaches beyond the image: clipped to it"]


def test_some_images_absent(tmp_path: Path) -> None:
    path = _write(tmp_path, _document())
    (tmp_path / "images" / "1.jpg").unlink()
    split = read_file(path)
    assert [sample.image_id for sample in split.samples] == [2]
    assert split.num_boxes == 2
    assert [(s.unit, s.where) for s in split.skipped] == [("image", f"{path}: 1.jpg")]


def test_size_from_the_header_where_the_json_has_none(tmp_path: Path) -> None:
    document = _document()
    del document["images"][1]["height"]
    assert read_file(_write(tmp_path, document)).samples[1].size == (48, 64)


def test_roboflow_placeholder_category(tmp_path: Path) -> None:
    document = _document()
    document["categories"] = [
        {"id": 0, "name": "b", "supercategory": "none"},
        {"id": 7, "name": "a", "supercategory": "b"},
        {"id": 90, "name": "b", "supercategory": "b"},
    ]
    assert read_file(_write(tmp_path, document)).category_ids == (7, 90)


def test_ids_of_64_bits_stay_exact(tmp_path: Path) -> None:
    document = _document()
    document["images"][1]["id"] = 2**63 - 1
    for annotation in document["annotations"]:
        annotation["image_id"] = 2**63 - 1
    assert read_file(_write(tmp_path, document)).samples[1].image_id == 9223372036854775807


def _set(path: str, value: Any) -> Any:
    def change(document: dict[str, Any]) -> None:
        *parts, last = path.split(".")
        place: Any = document
        for part in parts:
            place = place[int(part)] if part.isdecimal() else place[part]
        if value is None:
            del place[last]
        else:
            place[int(last) if last.isdecimal() else last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("images", None, ["images is missing"]),
        ("images", [], ["images is empty"]),
        ("annotations", None, ["annotations is missing"]),
        ("categories", [], ["categories"]),
        ("annotations.1.image_id", None, ["annotation 2", "image_id"]),
        ("annotations.1.image_id", "2", ["annotation 2", "image_id"]),
        ("annotations.1.image_id", 999, ["image_id 999"]),
        ("annotations.1.category_id", 1.5, ["annotation 2", "category_id"]),
        ("annotations.1.bbox", [1, 2, float("nan"), 3], ["annotation 2", "bbox"]),
        ("annotations.1.bbox", [1, 2, 10**400, 3], ["annotation 2", "bbox"]),
        ("annotations.1.bbox", ["1", "2", "3", "4"], ["annotation 2", "bbox"]),
        ("annotations.1.bbox", [1, 2, 3], ["annotation 2", "bbox"]),
        ("annotations.1.iscrowd", "yes", ["annotation 2", "iscrowd must be 0 or 1"]),
        ("annotations.1.iscrowd", 2, ["annotation 2", "iscrowd must be 0 or 1"]),
        ("images.1.id", 1, ["images[1]", "two images"]),
        ("images.1.id", 2**70, ["images[1]", "64 bits"]),
        ("images.1.file_name", None, ["images[1]", "file_name"]),
        ("images.1.file_name", "../x.jpg", ["file_name", "../x.jpg"]),
        ("images.1.file_name", "/etc/hostname", ["file_name", "/etc/hostname"]),
        ("images.1.file_name", "C:\\x.jpg", ["file_name"]),
        ("images.1.file_name", "http://a/x.jpg", ["file_name"]),
        ("images.1.file_name", "a\0.jpg", ["file_name"]),
        ("images.1.height", -3, ["images[1]", "height"]),
        ("categories.1.name", "b", ["categories", "b"]),
        ("categories.1.id", 90, ["categories", "90"]),
    ],
)
def test_faults_name_file_and_field(tmp_path: Path, path: str, value: Any, words: list[str]) -> None:
    document = _document()
    _set(path, value)(document)
    with pytest.raises(InputError) as error:
        read_file(_write(tmp_path, document))
    assert all(word in str(error.value) for word in ["a.json", *words])


@pytest.mark.parametrize("text", ["[]", "{", "\ufeff{", "[" * 100_000, '{"images": 1' + "0" * 5000 + "}"])
def test_what_is_no_coco_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        read_file(tmp_path / "a.json")


def test_byte_order_mark_and_utf16(tmp_path: Path) -> None:
    path = _write(tmp_path, _document())
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert len(read_file(path)) == 2
    path.write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match="UTF-8"):
        read_file(path)


def test_all_images_absent_names_the_folder(tmp_path: Path) -> None:
    path = _write(tmp_path, _document())
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    with pytest.raises(InputError, match="images: none of the 2 images"):
        read_file(path)


def _with_key_points(path: Path) -> Path:
    document = json.loads(path.read_text())
    document["annotations"][0] |= {"keypoints": [9, 11, 2, 0, 0, 0], "num_keypoints": 1}
    path.write_text(json.dumps(document))
    return path


def test_key_points_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    path = _with_key_points(_write(tmp_path, _document()))
    split = read_file(path)
    assert split.samples[1].boxes.tolist()[0] == [8, 10, 28.5, 26]
    assert split.notes == [f"{path}: 1 object has key points: left out, only the box is used"]
    problems = check(path).problems
    assert [problem.examples for problem in problems if problem.kind == "key_points"] == [split.notes]


def test_a_folder_of_key_points_alone(tmp_path: Path) -> None:
    _with_key_points(
        _write(tmp_path, _document(), images="train2017", file="annotations/person_keypoints_train2017.json")
    )
    train = read(tmp_path).train
    assert train is not None
    assert len(train) == 2
    # Where the instances are there, the same boxes are read from them.
    instances = _write(tmp_path, _document(), images="train2017", file="annotations/instances_train2017.json")
    train = read(tmp_path).train
    assert train is not None
    assert (train.source, train.notes) == (instances, [])


def test_a_segmentation_is_no_box(tmp_path: Path) -> None:
    document = _document()
    del document["annotations"][0]["bbox"]
    document["annotations"][0]["segmentation"] = [[8, 10, 28, 10, 28, 26]]
    with pytest.raises(InputError, match=r"annotation 1: bbox is missing \(a box is not made from the segmentation\)"):
        read_file(_write(tmp_path, document))
