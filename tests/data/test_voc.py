from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from alignrank.data.source import read
from alignrank.errors import InputError

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>"
    "<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)
SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def _object(box: tuple[object, ...], name: str = "cat", difficult: int = 0) -> str:
    return OBJECT.format(*box, name=name, difficult=difficult)


def _annotated(root: Path, stem: str, inside: str, *, images: str = "JPEGImages", xml: str = "Annotations") -> Path:
    for folder in (images, xml):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(root / images / f"{stem}.jpg")
    path = root / xml / f"{stem}.xml"
    path.write_text(f"<annotation><filename>{stem}.jpg</filename>{inside}</annotation>")
    return path


def test_pixels_count_from_one(tmp_path: Path) -> None:
    _annotated(tmp_path, "a", SIZE + _object((1, 1, 64, 48), "dog", 1) + _object((8, 9, 8, 9)))
    _annotated(tmp_path, "b", _object((30, 20, 8, 8)) + _object((10.5, 10, 20, 20)))
    source = read(tmp_path)
    assert (source.format, source.classes, list(source.splits())) == ("voc", ("cat", "dog"), ["train"])
    assert source.train is not None
    first, second = source.train.samples
    assert first.boxes.tolist() == [[0, 0, 64, 48], [7, 8, 8, 9]]
    assert first.labels.tolist() == [1, 0]
    assert not first.crowd.any()
    assert second.size == (48, 64)
    assert second.boxes.tolist() == [[9.5, 9, 20, 20]]
    assert [item.where for item in source.train.skipped] == [f"{tmp_path}/Annotations/b.xml: object 1"]


def test_lists_of_splits(tmp_path: Path) -> None:
    for stem in "abc":
        _annotated(tmp_path / "VOCdevkit" / "VOC2007", stem, SIZE + _object((1, 1, 5, 5)))
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("a\nb\n")
    (lists / "test.txt").write_text("c 1\n")
    source = read(tmp_path / "VOCdevkit")
    assert {name: len(split) for name, split in source.splits().items()} == {"train": 2, "test": 1}
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    source = read(tmp_path)
    assert {name: len(split) for name, split in source.splits().items()} == {"train": 1, "val": 1, "test": 1}
    (lists / "val.txt").write_text("zz\n")
    with pytest.raises(InputError, match=r"zz\.xml"):
        read(tmp_path)


def test_xml_beside_images(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        _annotated(tmp_path, "same", SIZE + _object((1, 1, 5, 5)), images=split, xml=split)
    source = read(tmp_path)
    assert {name: s.samples[0].image.parent.name for name, s in source.splits().items()} == {
        "train": "train",
        "val": "valid",
    }
    flat = tmp_path / "train"
    assert list(read(flat).splits()) == ["train"]


def test_wrong_size_is_left_out(tmp_path: Path) -> None:
    _annotated(tmp_path, "a", SIZE + _object((1, 1, 5, 5)))
    _annotated(tmp_path, "b", SIZE.replace("64", "640") + _object((1, 1, 5, 5)))
    train = read(tmp_path).train
    assert train is not None
    assert [sample.image.stem for sample in train.samples] == ["a"]
    assert train.skipped[0].reason == "annotated as 640 x 48, is 64 x 48"
    unchecked = read(tmp_path, check_images=False).train
    assert unchecked is not None
    assert len(unchecked) == 2


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (_object(("eight", 1, 5, 5)), ["object 1", "xmin"]),
        (_object((1, 1, 5, "nan")), ["ymax"]),
        ("<object><name>cat</name></object>", ["bndbox"]),
        ("<object><bndbox/></object>", ["name"]),
        (_object((1, 1, 5, 5), "fish"), ["fish", "classes.txt"]),
        ("<object>", ["not valid XML"]),
    ],
)
def test_faults_name_file_and_field(tmp_path: Path, inside: str, words: list[str]) -> None:
    _annotated(tmp_path, "ok", SIZE + _object((1, 1, 5, 5)))
    _annotated(tmp_path, "b", SIZE + inside)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert all(word in str(error.value) for word in ["b.xml", *words])


def test_filename_stays_inside(tmp_path: Path) -> None:
    path = _annotated(tmp_path, "a", SIZE + _object((1, 1, 5, 5)))
    path.write_text(path.read_text().replace("a.jpg", "../../etc/hostname"))
    with pytest.raises(InputError, match=r"a\.xml: filename"):
        read(tmp_path)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    path = _annotated(tmp_path, "a", SIZE + _object((1, 1, 5, 5)))
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    path.write_text(f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>' + path.read_text().replace("cat", "&x;"))
    with pytest.raises(InputError, match=r"a\.xml") as error:
        read(tmp_path)
    assert "SECRET" not in str(error.value)
