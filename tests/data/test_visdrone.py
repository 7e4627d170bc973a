from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from alignrank.data.source import read
from alignrank.data.visdrone import CLASSES
from alignrank.errors import InputError


def _part(folder: Path, text: str) -> None:
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(folder / "images" / "0001.jpg")
    (folder / "annotations" / "0001.txt").write_text(text)


def test_classes_ignored_regions_and_others(tmp_path: Path) -> None:
    _part(
        tmp_path / "VisDrone2019-DET-train", "10,12,20,6,1,4,0,0\n0,0,5,5,0,0,0,0\n1,1,9,9,1,11,0,0,\n2,3,4,5,0,1,0,1\n"
    )
    _part(tmp_path / "VisDrone2019-DET-val", "1,1,2,2,1,10,0,0\n")
    source = read(tmp_path)
    assert (source.format, source.classes, list(source.splits())) == ("visdrone", CLASSES, ["train", "val"])
    assert source.train is not None
    sample = source.train.samples[0]
    objects = ~sample.crowd
    assert sample.boxes[objects].tolist() == [[10, 12, 30, 18]]
    assert sample.labels[objects].tolist() == [CLASSES.index("car")]
    # The ignored region once for each of the ten classes, and the object of score 0 for its own.
    assert sample.crowd.sum() == 11
    assert sorted(sample.labels[sample.crowd].tolist()) == sorted([*range(10), 0])
    assert source.train.notes == ["1 objects of category 11 (others) are left out"]
    assert read(tmp_path / "VisDrone2019-DET-val").train is not None


@pytest.mark.parametrize("line", ["1,2,3", "1,2,3,4,1,12,0,0", "a,2,3,4,1,1,0,0", "1 2 3 4 1 1 0 0"])
def test_bad_lines_name_file_and_line(tmp_path: Path, line: str) -> None:
    _part(tmp_path, f"1,2,3,4,1,1,0,0\n{line}\n")
    with pytest.raises(InputError, match=r"0001\.txt: line 2"):
        read(tmp_path)


def test_no_labels_at_all(tmp_path: Path) -> None:
    _part(tmp_path, "")
    (tmp_path / "annotations" / "0001.txt").rename(tmp_path / "annotations" / "other.txt")
    with pytest.raises(InputError, match="annotations"):
        read(tmp_path)
