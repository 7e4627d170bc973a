"""Images that a data set holds more than once, within a split or across splits.

Equal: the files have the same bytes. Nearly equal: one group of `split.near_equal_groups`, so that what
`data split` writes has no near-equal images on two sides.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignrank.cores import usable_cores
from alignrank.data.decode import grey_thumbnail, read_size
from alignrank.data.samples import Array, Split
from alignrank.data.split import THUMBNAIL_SIDE, near_equal_groups
from alignrank.errors import InputError

# Threads decode one image each at a time; of those with more pixels than this, one in all.
LARGE_IMAGE = 16_777_216
# Pairs are compared to name the nearest image of so many; the others name the first of their group.
MAX_NAMED = 100
Member = tuple[str, Path]  # split and image
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """size (height, width), digest of the file's bytes, thumbnail uint8 [16,16] (grey, upright)."""

    size: tuple[int, int]
    digest: bytes
    thumbnail: Array


@dataclass(frozen=True, slots=True)
class Copy:
    """An image that is like `other`, an image of another split, or earlier in its own.

    equal: the files are the same; else they are only nearly equal.
    """

    split: str
    image: Path
    other_split: str
    other: Path
    equal: bool


def fingerprint(path: Path) -> Fingerprint:
    """Decode one image. Raises InputError naming the file if it cannot be; the header is checked first."""
    size = read_size(path)
    with _one_at_a_time if size[0] * size[1] > LARGE_IMAGE else nullcontext():
        thumbnail = grey_thumbnail(path, THUMBNAIL_SIDE)
    try:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return Fingerprint(size, digest, thumbnail)


def fingerprints(
    paths: Sequence[Path], advance: Callable[[], object] = lambda: None
) -> dict[Path, Fingerprint | InputError]:
    """`fingerprint` of each path, or its error. About 600 bytes stay in memory for an image."""

    def one(path: Path) -> Fingerprint | InputError:
        try:
            return fingerprint(path)
        except InputError as error:
            return error
        finally:
            advance()

    with ThreadPoolExecutor(usable_cores()) as pool:
        return dict(zip(paths, pool.map(one, paths), strict=True))


def find_copies(splits: dict[str, Split], prints: dict[Path, Fingerprint]) -> list[Copy]:
    """Copies in the order of splits and samples; an image is named at most once, equal before nearly equal.

    Across splits the later one is named: what is in train and in val is a problem of val.
    """
    equal, unequal = _equal(splits, prints)
    return equal + _nearly_equal(unequal, prints)


def _equal(splits: dict[str, Split], prints: dict[Path, Fingerprint]) -> tuple[list[Copy], list[Member]]:
    """Copies of files, and all images that are no copy of an earlier one."""
    first: dict[bytes, dict[str, Path]] = {}
    copies: list[Copy] = []
    rest: list[Member] = []
    for name, split in splits.items():
        for sample in split.samples:
            places = first.setdefault(prints[sample.image].digest, {})
            # The same file in another split matters more than another one in its own.
            other = next((place for place in places if place != name), name if name in places else None)
            if other is None:
                rest.append((name, sample.image))
            else:
                copies.append(Copy(name, sample.image, other, places[other], equal=True))
            places.setdefault(name, sample.image)
    return copies, rest


def _nearly_equal(members: list[Member], prints: dict[Path, Fingerprint]) -> list[Copy]:
    """Copies across splits among distinct files. members: in the order of splits."""
    if len({name for name, _ in members}) < 2:
        return []
    thumbnails = np.array([prints[image].thumbnail for _, image in members], np.uint8)
    copies: list[tuple[int, Copy]] = []
    for group in near_equal_groups(thumbnails):
        indices = group.tolist()
        # Sorted by index is sorted by split: what is before the first member of a split is in earlier ones.
        start_of = {members[i][0]: k for k, i in reversed(list(enumerate(indices)))}
        for i in indices:
            start = start_of[members[i][0]]
            if start:
                other = _nearest(thumbnails, i, indices[:start]) if len(copies) < MAX_NAMED else indices[0]
                (split, image), (other_split, other_image) = members[i], members[other]
                copies.append((i, Copy(split, image, other_split, other_image, equal=False)))
    return [copy for _, copy in sorted(copies, key=lambda item: item[0])]


def _nearest(thumbnails: Array, index: int, others: list[int]) -> int:
    difference = thumbnails[others].astype(np.int32) - thumbnails[index].astype(np.int32)
    return others[int(np.square(difference).sum((1, 2)).argmin())]
