"""The one image decoder: Pillow behind a format allow-list, a pixel limit and a refusal of damaged files.

Every image comes out upright (EXIF orientation applied) as uint8 RGB [H,W,3]. Rules where formats differ:
of several frames (GIF, WebP, PNG, AVIF, TIFF, MPO) the first counts (`frames` gives all); alpha is dropped, the colours
stay as stored; 16-bit grey is scaled by 255/65535; 32-bit integer and float samples are refused, their range is
unknown. HEIC needs the package pillow-heif, AVIF and JPEG 2000 a Pillow that was built with them.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from alignrank.cores import usable_cores
from alignrank.errors import InputError

Array = np.ndarray[Any, Any]
ImageSource = str | Path | bytes

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF")
# Also those that need what is not installed: an image that is left out is told of, a file that is no image is not.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".bmp", ".dib",
    ".webp", ".tif", ".tiff", ".gif", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".avif", ".avifs",
    ".heic", ".heif", ".hif",
)  # fmt: skip
# Parts of Pillow that not every build has.
_BUILT_IN = {"JPEG2000": "jpg_2000", "AVIF": "avif"}
# Brands of HEIF files (ISO/IEC 23008-12) whose images are HEVC; `mif1` and `msf1` are AVIF's, too.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Pillow itself refuses above this number; as RGB it is half a gigabyte.
MAX_PIXELS = 178_956_970
# It warns above half of it, in lines of Python; what we read we say in our own words.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pixels that are copied out of Pillow's memory at a time: of a whole image it makes two more copies on the way.
BAND = 1 << 22
_ORIENTATION_TAG = 0x0112
_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
# Cameras and editors append bytes behind the end marker of a JPEG.
_TAIL_BYTES = 65_536


class PixelLimitError(InputError):
    """An image has more pixels than are allowed; nothing of it was decoded."""


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def list_images(
    folder: str | Path, *, recursive: bool = False, named: Callable[[str], bool] = is_image_name
) -> list[Path]:
    """Entries of `folder` named like images, sorted; also those that will turn out not to be images.

    recursive: sub-folders too, without following links to folders (loops end). named: which names are listed.
    Raises InputError if `folder` cannot be listed.
    """
    folder = Path(folder)
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if named(entry.name):
                    found.append(folder / entry.name)
                elif recursive and entry.is_dir(follow_symlinks=False):
                    found.extend(list_images(entry.path, recursive=True, named=named))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror or error})") from None
    return sorted(found)


def read_size(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone. Raises InputError naming the file."""
    with opened(source, max_pixels) as image:
        return _upright_size(image)


def decode(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Array:
    """A file or its bytes -> uint8 [H,W,3] RGB, upright. Raises InputError naming it, PixelLimitError for its size."""
    with opened(source, max_pixels) as image:
        return pixels_of(image, name_of(source))


def pixels_of(image: Image.Image, name: str) -> Array:
    """uint8 [H,W,3] RGB, upright, of the frame that is in turn."""
    orientation = _orientation(image)
    image.load()
    return _turn(_to_rgb(image, name), orientation)


def probe(path: str | Path) -> tuple[int, int]:
    """`read_size` that also finds cut-off files, at the price of a look at the file's end.

    A file without its end marker is decoded in full: some are complete all the same.
    """
    with opened(path, MAX_PIXELS) as image:
        size, kind = _upright_size(image), image.format
    marker = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if marker is not None and marker not in _tail(path):
        decode(path)
    return size


def probe_all(paths: Iterable[Path]) -> list[tuple[int, int] | InputError]:
    """`probe` for many files in threads: (height, width) or the error, in the order given."""

    def one(path: Path) -> tuple[int, int] | InputError:
        try:
            return probe(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(min(32, 4 * usable_cores())) as pool:
        return list(pool.map(one, paths))


def grey_thumbnail(path: str | Path, side: int) -> Array:
    """uint8 [side,side], the upright image squeezed into a square; JPEG is decoded at reduced size."""
    with opened(path, MAX_PIXELS) as image:
        orientation = _orientation(image)
        image.draft("L", (4 * side, 4 * side))
        image.load()
        grey = image if image.mode == "L" else Image.fromarray(_to_rgb(image, name_of(path))).convert("L")
        small = np.array(grey.resize((side, side), Image.Resampling.BOX))
    return _turn(small, orientation)


def name_of(source: ImageSource) -> str:
    return f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)


@contextmanager
def opened(source: ImageSource, max_pixels: int, name: str | None = None) -> Iterator[Image.Image]:
    """The image, its header checked. What fails in the block, too, becomes an InputError that begins with `name`."""
    name = name or name_of(source)
    try:
        with _stream(source) as stream, Image.open(stream, formats=_formats(stream, name)) as image:
            check_size(image, max_pixels, name)
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise PixelLimitError(f"{name}: more pixels than the limit of {max_pixels}") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: is not an image of a known format ({', '.join(_built_in())})") from None
    except Exception as error:  # a parser of damaged bytes raises anything: struct.error, KeyError, SyntaxError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{name}: cannot be decoded ({reason or type(error).__name__})") from None


def _formats(stream: IO[bytes], name: str) -> tuple[str, ...]:
    """Those that the file may be of, HEIF only where it says that it is: its package is then needed."""
    start = stream.read(64)
    stream.seek(0)
    if start[4:8] != b"ftyp":
        return _built_in()
    if b"avif" in start and "AVIF" not in _built_in():
        raise InputError(f"{name}: AVIF images need Pillow 11.3 or later; pip install -U pillow")
    if start[8:12] not in _HEIC_BRANDS or b"avif" in start:
        return _built_in()
    try:
        import pillow_heif
    except ImportError:
        raise InputError(f"{name}: HEIC images need the package pillow-heif; pip install pillow-heif") from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


@cache
def _built_in() -> tuple[str, ...]:
    """FORMATS without those that this Pillow was built without: it fails on names that it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow's, of a feature that it does not know
        return tuple(kind for kind in FORMATS if kind not in _BUILT_IN or features.check(_BUILT_IN[kind]))


def check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PixelLimitError(f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}")
    if not width or not height:
        raise InputError(f"{name}: the image has no pixels")


def _stream(source: ImageSource) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    # Opening a pipe would wait for a writer for ever.
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise InputError(f"{source}: is not a file")
    return open(source, "rb")


def _tail(path: str | Path) -> bytes:
    with open(path, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
        return stream.read()


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8, 1 where it is absent, damaged, or applied by Pillow itself (TIFF)."""
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    try:
        # The base method: PNG's own would decode the whole image to look for EXIF behind the pixels.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises anything; the pixels are still good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (width, height) if _orientation(image) in _SWAPPING_ORIENTATIONS else (height, width)


def _to_rgb(image: Image.Image, name: str) -> Array:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        wide = np.array(image).astype(np.uint32)
        return np.repeat(((wide * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"{name}: has 32-bit samples of unknown range; convert it to 8 or 16 bit")
    if image.mode == "RGB":
        return _copied(image)
    if image.mode in ("P", "PA", "LA", "RGBA", "RGBa", "La"):
        # Through RGBA: a palette with transparent entries has no direct way to RGB.
        return np.ascontiguousarray(np.array(image.convert("RGBA"))[..., :3])
    return np.array(image.convert("RGB"))


def _copied(image: Image.Image) -> Array:
    """[H,W,3] of an RGB image."""
    width, height = image.size
    if width * height <= BAND:
        return np.array(image)
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(BAND // width, 1)
    for top in range(0, height, rows):
        pixels[top : top + rows] = np.asarray(image.crop((0, top, width, min(top + rows, height))))
    return pixels


def _turn(pixels: Array, orientation: int) -> Array:
    """[H,W,...] as stored -> upright (EXIF 2.3, tag Orientation)."""
    if orientation == 1:
        return pixels
    if orientation in (5, 7):
        pixels = pixels.swapaxes(0, 1)
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels,
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1],
        8: np.rot90(pixels, 1),
    }[orientation]
    return np.ascontiguousarray(turned)
