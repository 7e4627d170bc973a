"""Files of several images: every frame, one at a time, and how fast they follow one another."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from alignrank.data.decode import decode
from alignrank.data.frames import animation_rate, decode_all, num_frames
from alignrank.errors import InputError

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
ANIMATED = [".gif", ".webp", ".png", ".tif", *([".avif"] if features.check("avif") else [])]


def several(path: Path, **options: Any) -> Path:
    frames = [Image.new("RGB", (40, 30), color) for color in COLORS]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def one_by_one(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    frames = decode_all(path)
    assert isinstance(frames, Iterator)
    return frames


@pytest.mark.parametrize("suffix", ANIMATED)
def test_every_frame_in_order(tmp_path: Path, suffix: str) -> None:
    path = several(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    frames = list(one_by_one(path))
    assert [frame.shape for frame in frames] == [(30, 40, 3)] * 4
    assert np.abs(np.array([frame[15, 20] for frame in frames]).astype(int) - COLORS).max() <= 4
    assert num_frames(path) == 4
    assert np.array_equal(decode(path), frames[0]), "training takes the first"


@pytest.mark.parametrize("suffix", [".jpg", ".gif", ".tif", ".png", ".webp"])
def test_a_single_image_is_that(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (4, 3), (9, 9, 9)).save(path)
    assert np.array_equal(decode_all(path), decode(path))  # type: ignore[arg-type]
    assert num_frames(path) == 1


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_mean_rate(tmp_path: Path, suffix: str) -> None:
    """Frames of 50, 50, 100 and 200 ms: 4 in 0.4 s."""
    path = several(tmp_path / f"a{suffix}", duration=[50, 50, 100, 200])
    assert animation_rate(path) == Fraction(10)


def test_pages_have_no_rate_and_frames_without_durations_the_usual_one(tmp_path: Path) -> None:
    assert animation_rate(several(tmp_path / "a.tif")) is None
    assert animation_rate(several(tmp_path / "a.gif", duration=0)) == Fraction(10)


def test_pages_of_different_sizes_and_kinds(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (40, 30), (1, 2, 3)), Image.new("L", (7, 9), 5), Image.new("1", (8, 8), 1)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert [page.shape for page in one_by_one(tmp_path / "a.tif")] == [(30, 40, 3), (9, 7, 3), (8, 8, 3)]


def test_a_tiff_s_smaller_copies_are_no_pages(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (40, 30)), Image.new("RGB", (20, 15)), Image.new("RGB", (40, 30))]
    for page, kind in zip(pages, (0, 1, 0), strict=True):
        page.encoderinfo = {"tiffinfo": {254: kind}}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], tiffinfo={254: 0})
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        if image.tag_v2.get(254) != 1:  # type: ignore[attr-defined]
            pytest.skip("this Pillow does not write the tag of later pages")
    assert [page.shape for page in one_by_one(tmp_path / "a.tif")] == [(30, 40, 3)] * 2


def test_a_file_that_is_cut_off_gives_what_it_has(tmp_path: Path) -> None:
    noise = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)) for i in range(6)]
    noise[0].save(path := tmp_path / "a.gif", save_all=True, append_images=noise[1:])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seen: list[object] = []
    with pytest.raises(InputError, match=r"a\.gif"):
        seen.extend(one_by_one(path))
    assert 0 < len(seen) < 6
    assert animation_rate(path) is not None
