from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from alignrank.data.samples import DataSource, Sample, Split
from alignrank.data.source import read
from alignrank.data.split import near_equal_groups, split
from alignrank.errors import InputError


def _picture(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    """40 scenes; of the first ten there are three near-equal files each. Class 0 in all, class 1 in every fourth."""
    rng = np.random.default_rng(0)
    samples = []
    for scene in range(40):
        picture = _picture(rng)
        versions = [picture, picture.filter(ImageFilter.GaussianBlur(1)), picture.resize((48, 36))]
        for number, version in enumerate(versions if scene < 10 else versions[:1]):
            path = tmp_path / f"{scene:02d}_{number}.jpg"
            version.save(path, quality=60 + 15 * number)
            labels = np.array([0, 1] if scene % 4 == 0 else [0])
            boxes = np.tile(np.array([[1, 1, 9, 9]], np.float32), (len(labels), 1))
            areas, crowd = np.full(len(labels), 64, np.float32), np.zeros(len(labels), bool)
            samples.append(Sample(path, 1, (version.height, version.width), boxes, labels, areas, crowd))
    whole = Split(("a", "b"), (1, 2), samples, tmp_path)
    return DataSource(tmp_path, "coco", train=whole)


def test_near_equal_images_stay_together(source: DataSource, tmp_path: Path) -> None:
    train, val = split(source, tmp_path / "out", val_fraction=0.25, seed=3)
    scenes = [{sample.image.name[:2] for sample in part.samples} for part in (train, val)]
    assert scenes[0].isdisjoint(scenes[1])
    assert len(train) + len(val) == 60
    assert 13 <= len(val) <= 17
    # 60 objects of class a, 18 of class b.
    assert [sum(int((s.labels == c).sum()) for s in val.samples) for c in (0, 1)] == pytest.approx([15, 4.5], abs=2)
    assert len({sample.image_id for sample in train.samples + val.samples}) == 60
    back = read(tmp_path / "out")
    assert {name: len(part) for name, part in back.splits().items()} == {"train": len(train), "val": len(val)}


def test_same_seed_same_split(source: DataSource) -> None:
    names = [[s.image.name for s in split(source, seed=seed)[1].samples] for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]


def test_groups_by_hand() -> None:
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    flat = np.full((16, 16), 90, np.uint8)
    groups = near_equal_groups(np.stack([ramp, noise, ramp + 3, flat, ramp[:, ::-1], noise, flat + 1]))
    assert [group.tolist() for group in groups] == [[0, 2], [1, 5], [3, 6], [4]]


def test_many_copies_are_no_many_pairs() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (3000, 16, 16), np.uint8)
    thumbnails[:2000] = 7
    groups = near_equal_groups(thumbnails)
    assert sorted(map(len, groups))[-2:] == [1, 2000]
    assert len(groups) == 1001


def test_refusals(source: DataSource) -> None:
    with pytest.raises(InputError, match="val_fraction"):
        split(source, val_fraction=1.0)
    assert source.train is not None
    source.train.samples = source.train.samples[:3]
    with pytest.raises(InputError, match="1 group of near-equal"):
        split(source)
