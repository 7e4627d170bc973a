from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignrank.data.source import read
from alignrank.data.yolo import label_path
from alignrank.data.yolo_lines import parse_line
from alignrank.errors import InputError

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [no, yes, off]\n"


def _image(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(path)
    return path


def _label(path: Path, text: str = "1 0.5 0.5 0.25 0.5\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for i in range(2):
            _image(tmp_path / "images" / split / f"{split}{i}.jpg")
            _label(tmp_path / "labels" / split / f"{split}{i}.txt")
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def test_boxes_polygons_and_names(root: Path) -> None:
    _label(root / "labels/train/train1.txt", "\n 2.0 0.25 0.5 0.5 0.25 0.75 1.0 \r\n0 0.5 0.5 0.25 0.5\n")
    source = read(root)
    assert source.format == "yolo"
    assert source.classes == ("no", "yes", "off")
    assert source.train is not None
    first, second = source.train.samples
    # 64 x 48: centre (32, 24), size (16, 24).
    assert first.boxes.tolist() == [[24, 12, 40, 36]]
    assert first.areas.tolist() == [16 * 24]
    assert second.boxes.tolist() == [[16, 12, 48, 48], [24, 12, 40, 36]]
    assert second.labels.tolist() == [2, 0]


def test_image_without_labels_and_label_without_image(root: Path) -> None:
    (root / "labels/train/train1.txt").unlink()
    _label(root / "labels/train/ghost.txt")
    train = read(root).train
    assert train is not None
    assert [len(sample.labels) for sample in train.samples] == [1, 0]
    assert train.notes == [f"1 label file has no image ({root / 'labels/train/ghost.txt'})"]


def test_zero_area_and_repeated_lines_are_left_out(root: Path) -> None:
    _label(root / "labels/train/train0.txt", "1 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5\n1 0.5 0.5 0 0.5\n")
    train = read(root).train
    assert train is not None
    assert len(train.samples[0].labels) == 1
    assert sorted(item.where.rsplit("/")[-1] for item in train.skipped) == ["train0.txt: line 2", "train0.txt: line 3"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("0 1.5 0.3 0.3 0.3", "1.5 is outside"), ("0 32 24 10 10", "32 is outside"), ("7 0.5 0.5 0.1 0.1", "class 7"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"), ("1.5 0.5 0.5 0.1 0.1", "class 1.5"), ("cat 0.5 0.5 0.1 0.1", "'cat'"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 columns"), ("0 0.5 0.5 0.1", "4 columns"), ("0,0.5,0.5,0.1,0.1", "1 columns"),
        ("0 0,5 0.5 0.1 0.1", "'0,5'"), ("0 nan 0.5 0.1 0.1", "nan"), ("nan 0.5 0.5 0.1 0.1", "class nan"),
        ("1" * 400 + " 0.5 0.5 0.1 0.1", "class 111"), ("0 0.5 0.5 -0.1 0.1", "-0.1 is outside"),
    ],
)  # fmt: skip
def test_bad_lines(root: Path, line: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_line(line, 3)
    _label(root / "labels/train/train1.txt", "1 0.5 0.5 0.25 0.5\n" + line)
    with pytest.raises(InputError, match=r"train1\.txt: line 2"):
        read(root)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train: images/train\n", "", ["train is missing"]),
        ("val: images/val\n", "", ["val is missing"]),
        ("images/val", "images/absent", ["val", "absent"]),
        ("names: [no, yes, off]", "", ["names is missing"]),
        ("[no, yes, off]", "{0: a, 2: b}", ["names", "gaps"]),
        ("[no, yes, off]", "[a, a]", ["names", "'a' twice"]),
        ("[no, yes, off]", "[[a], b]", ["names"]),
        ("[no, yes, off]", "[a, b]\nnc: 3", ["nc"]),
        ("[no, yes, off]", "!!python/object/apply:os.system [x]", ["line 4"]),
    ],
)
def test_yaml_faults(root: Path, old: str, new: str, words: list[str]) -> None:
    (root / "data.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(InputError) as error:
        read(root)
    assert all(word in str(error.value) for word in ["data.yaml", *words])


def test_val_may_be_missing_where_asked_for(root: Path) -> None:
    (root / "data.yaml").write_text(YAML.replace("val: images/val\n", ""))
    assert list(read(root, require_val=False).splits()) == ["train"]


def test_names_as_mapping_lists_of_folders_and_of_images(root: Path) -> None:
    (root / "train.txt").write_text("./images/train/train0.jpg\nimages/val/val1.jpg\n")
    names = "{1: b, 0: a}"
    (root / "data.yaml").write_text(
        f"train: [train.txt, images/train]\nval: images/val\ntest: images/none\nnames: {names}\n"
    )
    source = read(root / "data.yaml")
    assert source.classes == ("a", "b")
    assert source.train is not None
    assert [sample.image.name for sample in source.train.samples] == ["train0.jpg", "val1.jpg", "train1.jpg"]
    assert source.val is not None
    assert "1 of the 2 val images" in source.val.notes[-1]


def test_listed_images_stay_inside(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = _image(tmp_path_factory.mktemp("outside") / "a.jpg")
    (root / "train.txt").write_text(f"{outside}\n")
    (root / "data.yaml").write_text(YAML.replace("images/train", "train.txt"))
    with pytest.raises(InputError, match=r"train\.txt: line 1.*leaves"):
        read(root)


def test_roboflow_layout(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        _image(tmp_path / split / "images" / f"{split}.jpg")
        _label(tmp_path / split / "labels" / f"{split}.txt")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['a', 'b']"
    )
    source = read(tmp_path)
    assert {name: split.num_boxes for name, split in source.splits().items()} == {"train": 1, "val": 1}


def test_folders_without_yaml(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / "data.yaml").unlink()
    assert read(root).classes == ("0", "1")
    (root / "classes.txt").write_text("a\nb\nc\n")
    assert read(root).classes == ("a", "b", "c")
    flat = tmp_path_factory.mktemp("flat")
    _image(flat / "x.png")
    _label(flat / "x.txt", "0 0.5 0.5 1 1\n")
    source = read(flat)
    assert source.train is not None
    assert source.train.samples[0].boxes.tolist() == [[0, 0, 64, 48]]


def test_no_labels_at_all(root: Path) -> None:
    for label in (root / "labels/train").iterdir():
        label.unlink()
    with pytest.raises(InputError, match="labels"):
        read(root)


def test_unreadable_image_is_left_out(root: Path) -> None:
    (root / "images/train/train0.jpg").write_text("x")
    train = read(root).train
    assert train is not None
    assert [sample.image.name for sample in train.samples] == ["train1.jpg"]
    assert [(item.unit, Path(item.where).name) for item in train.skipped] == [("image", "train0.jpg")]
    assert np.isfinite(train.samples[0].boxes).all()


def test_label_path() -> None:
    assert label_path(Path("/images/d/images/train/a.b.jpg")) == Path("/images/d/labels/train/a.b.txt")
    assert label_path(Path("/d/flat/a.jpg")) == Path("/d/flat/a.txt")
