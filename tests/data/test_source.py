from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alignrank.data.records import check_size
from alignrank.data.source import read
from alignrank.errors import InputError

SHARED = Path(os.environ.get("ALIGNRANK_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def _coco(image_id: int, name: str, categories: dict[int, str] | None = None) -> dict[str, Any]:
    categories = categories or {1: "a", 2: "b"}
    return {
        "images": [{"id": image_id, "file_name": name, "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": image_id, "category_id": max(categories), "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": i, "name": n} for i, n in categories.items()],
    }


def _write(path: Path, document: Any, image: Path) -> None:
    for folder in (path.parent, image.parent):
        folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    Image.new("RGB", (64, 48)).save(image)


@pytest.mark.parametrize(
    ("train", "val", "images"),
    [
        ("annotations/train.json", "annotations/val.json", ("images/{}", "images/{}")),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", ("train2017/{}", "val2017/{}")),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", ("train/{}", "valid/{}")),
        ("train.json", "val.json", ("train/{}", "val/{}")),
    ],
)
def test_coco_folders(tmp_path: Path, train: str, val: str, images: tuple[str, str]) -> None:
    _write(tmp_path / train, _coco(1, "t.jpg"), tmp_path / images[0].format("t.jpg"))
    _write(tmp_path / val, _coco(2, "v.jpg"), tmp_path / images[1].format("v.jpg"))
    (tmp_path / train).parent.joinpath("captions_train2017.json").write_text("{}")
    source = read(tmp_path)
    assert source.format == "coco"
    assert {name: split.samples[0].image.name for name, split in source.splits().items()} == {
        "train": "t.jpg",
        "val": "v.jpg",
    }


def test_one_file_is_train(tmp_path: Path) -> None:
    _write(tmp_path / "annotations/val.json", _coco(1, "t.jpg"), tmp_path / "images/t.jpg")
    assert list(read(tmp_path / "annotations/val.json").splits()) == ["train"]
    assert list(read(tmp_path).splits()) == ["val"]


def test_splits_share_classes_or_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "annotations/train.json", _coco(1, "t.jpg"), tmp_path / "images/t.jpg")
    _write(tmp_path / "annotations/val.json", _coco(2, "v.jpg", {2: "b"}), tmp_path / "images/v.jpg")
    source = read(tmp_path)
    assert source.val is not None
    assert source.val.classes == ("a", "b")
    assert source.val.samples[0].labels.tolist() == [1]
    _write(tmp_path / "annotations/val.json", _coco(2, "v.jpg", {2: "c"}), tmp_path / "images/v.jpg")
    with pytest.raises(InputError, match=r"val\.json: categories: id 2 is 'c', but 'b'"):
        read(tmp_path)


def test_several_candidates_are_refused(tmp_path: Path) -> None:
    for name in ("train_a.json", "train_b.json"):
        _write(tmp_path / "annotations" / name, _coco(1, "t.jpg"), tmp_path / "images/t.jpg")
    with pytest.raises(InputError, match=r"train_a\.json, train_b\.json"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["absent", "a\0b", "x" * 5000, "data.zip", "photo.jpg", "a.xml", "empty"])
def test_what_is_no_data_set(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("data.zip", "photo.jpg", "a.xml"):
        (tmp_path / file).write_text("x")
    with pytest.raises(InputError):
        read(f"{tmp_path}/{name}")


def test_size_mismatch_is_left_out_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    document = _coco(1, "t.jpg")
    document["images"].append({"id": 2, "file_name": "u.jpg", "width": 48, "height": 64})
    Image.new("RGB", (64, 48)).save(tmp_path / "u.jpg")
    _write(tmp_path / "a.json", document, tmp_path / "t.jpg")
    train = read(tmp_path).train
    assert train is not None
    assert [Path(item.where).name for item in train.skipped] == ["u.jpg"]
    assert check_size(train.samples[0], (48, 64))
    assert not check_size(train.samples[0], (64, 48))
    (tmp_path / "t.jpg").write_text("x")
    with pytest.raises(InputError, match="none of its 2 images"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [("bloodcells", (300, 3952), (60, 908)), ("nuclei", (537, 23375), (127, 5611)),
     ("aerialcars", (353, 3499), (143, 1653)), ("cocosample", (33, 246), (27, 175))],
)  # fmt: skip
def test_shared_data(name: str, train: tuple[int, int], val: tuple[int, int]) -> None:
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set ALIGNRANK_SHARED")
    source = read(folder)
    assert source.train is not None
    assert source.val is not None
    assert (len(source.train), source.train.num_boxes) == train
    assert (len(source.val), source.val.num_boxes) == val
    assert not source.train.skipped


def test_broken_inputs() -> None:
    """The outcome (error, skip, ok) and the words that the shared list of broken data sets asks for."""
    if not (SHARED / "bad_inputs").is_dir():
        pytest.skip(f"{SHARED / 'bad_inputs'} is absent; set ALIGNRANK_SHARED")
    cases = json.loads((SHARED / "bad_inputs" / "manifest.json").read_text())["cases"]
    wrong = []
    for case in cases:
        # Cases with setup steps (links, pipes) need a writable copy; they run through the command line.
        if case["use"] != "train data" or case["setup"]:
            continue
        expect = case["expect"]
        try:
            source = read(SHARED / "bad_inputs" / case["dir"] / case["entry"])
        except InputError as error:
            got, text = "error", str(error)
        else:
            skipped = [item for split in source.splits().values() for item in split.skipped]
            got, text = "skip" if skipped else "ok", " ".join(item.where for item in skipped)
        if got != expect["outcome"] or not all(word in text for word in expect["message_names"]):
            wrong.append((case["id"], expect["outcome"], got, text))
    assert wrong == []


def test_reading_data_needs_no_torch() -> None:
    code = "import sys, alignrank.data.source, alignrank.data.split; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
