from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from alignrank.data import digits
from alignrank.data.digit_scene import INKED, ink_mask
from alignrank.data.source import read
from alignrank.errors import InputError

pytest.importorskip("sklearn", reason="the digits extra is not installed")
pytest.importorskip("skimage", reason="the digits extra is not installed")


def test_read_digits_builds_once_and_is_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNRANK_CACHE", str(tmp_path))
    monkeypatch.setattr(digits, "NUM_TRAIN", 6)
    monkeypatch.setattr(digits, "NUM_VAL", 4)
    monkeypatch.setattr(digits.build, "__kwdefaults__", {"num_train": 6, "num_val": 4, "seed": 0})
    source = read("digits")
    assert source.path == tmp_path / f"digits-v{digits.VERSION}"
    assert source.classes == tuple("0123456789")
    assert {name: len(split) for name, split in source.splits().items()} == {"train": 6, "val": 4}
    assert source.train is not None
    assert not source.train.skipped
    assert not source.train.notes
    for sample in source.train.samples:
        assert sample.size == (320, 320)
        assert 1 <= len(sample.labels) <= 10
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        assert sides.min() >= 2
        assert sides[:, 1].max() <= 111
    first = sorted((source.path / "images").iterdir())[0]
    written = first.stat().st_mtime_ns
    assert digits.ensure() == source.path
    assert first.stat().st_mtime_ns == written
    digits.build(tmp_path / "again", num_train=6, num_val=4)
    for image in (source.path / "images").iterdir():
        assert image.read_bytes() == (tmp_path / "again" / "images" / image.name).read_bytes()
    os.unlink(first)  # incomplete: made anew
    digits.ensure()
    assert first.is_file()


def test_train_and_val_share_no_digit_and_no_photograph() -> None:
    train, val = digits._sources("train"), digits._sources("val")
    assert len(train.digits) + len(val.digits) == 1797
    assert {d.tobytes() for d in train.digits}.isdisjoint(d.tobytes() for d in val.digits)
    assert set(digits._PHOTOGRAPHS["train"]).isdisjoint(digits._PHOTOGRAPHS["val"])
    assert set(train.values.tolist()) == set(val.values.tolist()) == set(range(10))


def test_ink_fills_its_mask() -> None:
    digit = np.zeros((8, 8), np.float32)
    digit[1:7, 3:5] = 1
    ink = ink_mask(digit, height=60, angle=0, aspect=1.0)
    assert ink.shape[0] == 60
    assert 15 < ink.shape[1] < 30  # a bar of 6 x 2
    inked = ink >= INKED
    assert inked.any(0).sum() >= ink.shape[1] - 1
    assert inked.mean() > 0.85
    turned = ink_mask(digit, height=60, angle=25, aspect=1.0)
    assert turned.shape[1] > ink.shape[1]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(InputError, match=r"scikit-learn is not installed .*run `pip install '"):
        digits.build(tmp_path / "x")


def test_unwritable_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("ALIGNRANK_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="file"):
        digits.ensure()
