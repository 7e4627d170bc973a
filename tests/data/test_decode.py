from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from alignrank.data.decode import decode, grey_thumbnail, is_image_name, list_images, probe, probe_all, read_size
from alignrank.errors import InputError


def _scene(height: int = 24, width: int = 40) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (200, 30, 10)
    pixels[height // 2 :, :, 2] = 180
    return pixels


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation_as_pillow_does_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_scene()).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = decode(path)
    assert np.array_equal(pixels, expected)
    assert pixels.flags["C_CONTIGUOUS"]
    assert read_size(path) == probe(path) == pixels.shape[:2] == ((40, 24) if 4 < orientation < 9 else (24, 40))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "PA", "RGB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(_scene()).convert(mode)
    image.save(
        path := tmp_path / ("a.tif" if mode == "PA" else "a.png"), **({"transparency": 0} if mode == "P" else {})
    )
    pixels = decode(path)
    assert pixels.shape == (24, 40, 3)
    assert pixels.dtype == np.uint8


def test_a_large_image_is_copied_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2 rows, and of 7, which leaves 3 for the last one."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for rows in (2, 7):
        monkeypatch.setattr("alignrank.data.decode.BAND", rows * 40 + 5)
        assert np.array_equal(decode(tmp_path / "a.png"), pixels)


def test_alpha_is_dropped_and_colours_stay(tmp_path: Path) -> None:
    pixels = np.dstack([_scene(), np.zeros((24, 40), np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png"), _scene())


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.fromarray(_scene()).convert("CMYK").save(tmp_path / "a.jpg")
    assert decode(tmp_path / "a.jpg").shape == (24, 40, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_is_scaled_not_cut(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    # v * 255 / 65535, rounded: 128 -> 0.498 -> 0, 257 -> 1, 32768 -> 127.502 -> 128.
    assert decode(tmp_path / f"a{suffix}")[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_float_samples_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif.*32-bit"):
        decode(tmp_path / "a.tif")


def test_gif_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_bytes_decode_like_the_file(tmp_path: Path) -> None:
    Image.fromarray(_scene()).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    assert np.array_equal(decode(data), decode(tmp_path / "a.jpg"))
    with pytest.raises(InputError, match="image of 100 bytes"):
        decode(data[:100])


def test_pixel_limit_comes_from_the_header(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png.*limit"):
        decode(tmp_path / "bomb.png")
    Image.fromarray(_scene()).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="40 x 24 pixels"):
        decode(tmp_path / "a.png", max_pixels=959)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_off_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"half{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for function in (decode, probe):
        with pytest.raises(InputError, match=rf"half\{suffix}"):
            function(path)
    assert read_size(path) == (64, 64)  # the header alone is whole


def test_bytes_after_the_end_are_no_fault(tmp_path: Path) -> None:
    Image.fromarray(_scene()).save(path := tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + bytes(70_000))
    assert probe(path) == (24, 40)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("<html>")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    Image.fromarray(_scene()).save(tmp_path / "ok.JPEG")
    images = list_images(tmp_path)
    assert [path.name for path in images] == ["folder.jpg", "loop.jpg", "ok.JPEG", "pipe.jpg", "text.jpg"]
    results = probe_all(images)
    assert [isinstance(result, InputError) for result in results] == [True, True, False, True, True]
    assert all(path.name in str(r) for path, r in zip(images, results, strict=True) if isinstance(r, InputError))


def test_list_images_recursive_ends_at_links(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    os.symlink(tmp_path, tmp_path / "sub" / "up")
    Image.fromarray(_scene()).save(tmp_path / "sub" / "a.png")
    assert list_images(tmp_path) == []
    assert list_images(tmp_path, recursive=True) == [tmp_path / "sub" / "a.png"]
    with pytest.raises(InputError, match="absent"):
        list_images(tmp_path / "absent")


def test_grey_thumbnail_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_scene(64, 64)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    expected = np.array(Image.fromarray(decode(tmp_path / "a.jpg")).convert("L").resize((16, 16), Image.Resampling.BOX))
    assert np.abs(grey_thumbnail(tmp_path / "a.jpg", 16).astype(int) - expected).max() <= 4


@pytest.mark.parametrize("name", ["a.JFIF", "a.jpe", "a.pjpeg", "a.JP2", "a.avif", "a.HEIC", "a.apng", "a.jpg"])
def test_names_of_images(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize(("suffix", "part"), [(".jfif", "jpg"), (".jp2", "jpg_2000"), (".avif", "avif")])
def test_other_formats_decode(tmp_path: Path, suffix: str, part: str) -> None:
    if not features.check(part):
        pytest.skip(f"this Pillow has no {part}")
    Image.fromarray(_scene()).save(path := tmp_path / f"a{suffix}", quality=95)
    assert np.abs(decode(path).astype(int) - _scene()).mean() < 6
    assert read_size(path) == probe(path) == (24, 40)
    with pytest.raises(InputError, match="40 x 24 pixels"):
        decode(path, max_pixels=959)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\{suffix}"):
        decode(path)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_names_the_package_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a file that a phone's gallery has given another ending."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.HEIC", "b.jpg"):
        (tmp_path / name).write_bytes(HEIC)
        with pytest.raises(InputError, match=rf"{name}.*pip install pillow-heif"):
            decode(tmp_path / name)


def test_heic_is_registered_where_one_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[bool] = []
    stand_in = ModuleType("pillow_heif")
    stand_in.register_heif_opener = lambda: registered.append(True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    Image.fromarray(_scene()).save(tmp_path / "really.heic", format="JPEG")
    assert decode(tmp_path / "really.heic").shape == (24, 40, 3)
    assert not registered
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(InputError, match=r"a\.heic"):
        decode(tmp_path / "a.heic")
    assert registered


def test_heic(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(_scene())).save(path := tmp_path / "a.heic")
    assert np.abs(decode(path).astype(int) - _scene()).mean() < 6
    assert read_size(path) == (24, 40)


def test_avif_without_avif_in_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignrank.data.decode._built_in", lambda: ("JPEG", "PNG"))
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1")
    with pytest.raises(InputError, match=r"a\.avif.*Pillow 11\.3"):
        decode(tmp_path / "a.avif")
