from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignrank.data.convert import Format, convert
from alignrank.data.samples import DataSource, Sample, Split
from alignrank.data.source import read
from alignrank.errors import InputError


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    """Two splits; the same file name twice, and once more with another ending; a crowd region; an empty image."""
    rng = np.random.default_rng(0)
    splits = []
    for name in ("train", "val"):
        samples = []
        for index, file in enumerate(("a.jpg", "a.png", "b & c.jpg")):
            path = tmp_path / name / file
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (333, 217)).save(path)
            corner = rng.uniform(0, 100, (index, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(1, 100, (index, 2))], 1).astype(np.float32)
            crowd = np.arange(index) == 1
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            image_id = len(splits) * 100 + index + 1
            samples.append(Sample(path, image_id, (217, 333), boxes, np.arange(index) % 2, areas, crowd))
        splits.append(Split(("no", "tea <cup>"), (3, 9), samples, tmp_path))
    return DataSource(tmp_path, "coco", train=splits[0], val=splits[1])


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_round_trip(source: DataSource, tmp_path: Path, to: Format) -> None:
    done = convert(source, tmp_path / "out", to)
    back = read(tmp_path / "out")
    assert back.format == to
    assert back.classes == source.classes
    assert (done.images, done.boxes, done.crowd_left_out) == (6, 6 if to == "coco" else 4, 0 if to == "coco" else 2)
    for name, split in source.splits().items():
        for before, after in zip(
            split.samples, sorted(back.splits()[name].samples, key=lambda s: s.image.name), strict=True
        ):
            keep = slice(None) if to == "coco" else ~before.crowd
            np.testing.assert_allclose(after.boxes, before.boxes[keep], atol=1e-3)
            assert after.labels.tolist() == before.labels[keep].tolist()
            assert after.image.read_bytes() == before.image.read_bytes()
    if to == "coco":
        assert back.train is not None
        assert back.train.category_ids == (3, 9)
        assert [sample.image_id for sample in back.train.samples] == [1, 2, 3]
        assert back.train.samples[2].crowd.tolist() == [False, True]


def test_links_share_the_file(source: DataSource, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", "coco", link=True)
    assert (tmp_path / "out" / "images" / "a.jpg").samefile(tmp_path / "train" / "a.jpg")


def test_existing_folder_and_unknown_format_are_refused(source: DataSource, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: exists already"):
        convert(source, tmp_path / "out", "coco")
    with pytest.raises(InputError, match="coco, yolo, voc"):
        convert(source, tmp_path / "new", "tfrecord")  # type: ignore[arg-type]


def test_nothing_is_left_behind_on_failure(source: DataSource, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    (tmp_path / "val" / "a.jpg").unlink()
    with pytest.raises(InputError, match="cannot be written"):
        convert(source, tmp_path / "out", "yolo")
    assert set(tmp_path.iterdir()) == before
