"""A train/val split that keeps near-equal images together, and gives every class its share.

Frames of one video, or copies of one image, on both sides would make val figures flatter. Near-equal
images are found by a 64-bit difference hash (signs of the horizontal differences of a 9 x 8 thumbnail,
Krawetz 2013) within MAX_HASH_DISTANCE bits, confirmed on a 16 x 16 thumbnail: flat images have like hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from alignrank.cores import usable_cores
from alignrank.data.convert import convert
from alignrank.data.decode import grey_thumbnail
from alignrank.data.samples import Array, DataSource, Sample, Split
from alignrank.errors import InputError
from alignrank.terminal.skipped import Skipped

MAX_HASH_DISTANCE = 3
# Root mean square difference of two thumbnails, as a share of their contrast, up to which they are the same.
MAX_DIFFERENCE = 0.25
THUMBNAIL_SIDE = 16
_CHUNK = 1024
_PASSES = 10


def split(
    source: DataSource, out: str | Path | None = None, *, val_fraction: float = 0.2, seed: int = 0
) -> tuple[Split, Split]:
    """(train, val) of all train and val samples of `source`; a test split is not touched.

    out: a new folder to write both to, as COCO. val_fraction: wanted share of images and of each class.
    The same source and seed give the same split. Raises InputError for a fraction outside 0..1, for
    fewer than two groups of near-equal images, and if `out` exists.
    """
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must lie between 0 and 1, is {val_fraction}")
    whole = _merged(source)
    thumbnails, readable, skipped = _thumbnails([sample.image for sample in whole.samples])
    samples = [whole.samples[i] for i in readable]
    groups = near_equal_groups(thumbnails)
    if len(groups) < 2:
        raise InputError(
            f"{source.path}: cannot be split: {len(samples)} readable image{'s' * (len(samples) != 1)} in "
            f"{len(groups)} group{'s' * (len(groups) != 1)} of near-equal ones; at least two groups are needed"
        )
    chosen = _choose_val(groups, _counts(samples, len(whole.classes)), val_fraction, seed)
    train = replace(
        whole, samples=[s for i, s in enumerate(samples) if i not in chosen], skipped=whole.skipped + skipped
    )
    val = replace(whole, samples=[s for i, s in enumerate(samples) if i in chosen], skipped=[], notes=[])
    if out is not None:
        convert(DataSource(source.path, source.format, train=train, val=val), out, "coco")
    return train, val


def near_equal_groups(thumbnails: Array) -> list[Array]:
    """uint8 [N,16,16] -> groups of indices, each sorted, in the order of their first index.

    Near-equality is made transitive: a chain of similar frames is one group.
    """
    hashes = difference_hashes(thumbnails)
    parent = np.arange(len(thumbnails))
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    contrast = flat.std(1)

    def same(a: Array, b: Array) -> Array:
        difference = np.sqrt(np.square(flat[a] - flat[b]).mean(-1))
        alike: Array = difference <= MAX_DIFFERENCE * np.minimum(contrast[a], contrast[b]) + 1
        return alike

    leaders = _join_equal(hashes, same, parent)
    for a, b in _close_pairs(hashes[leaders]):
        i, j = leaders[a], leaders[b]
        alike = same(i, j)
        for first, second in zip(i[alike].tolist(), j[alike].tolist(), strict=True):
            _join(parent, first, second)
    roots = np.array([_find(parent, i) for i in range(len(parent))], np.int64)
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    return np.split(order, starts[1:]) if len(order) else []


def difference_hashes(thumbnails: Array) -> Array:
    """uint8 [N,16,16] -> uint64 [N]: bit = a pixel of the 9 x 8 reduction is darker than its right neighbour."""
    bits = []
    for thumbnail in thumbnails:
        small = np.asarray(Image.fromarray(thumbnail).resize((9, 8), Image.Resampling.BILINEAR)).astype(np.int16)
        bits.append(small[:, 1:] > small[:, :-1])
    packed = np.packbits(np.array(bits, bool).reshape(-1, 64), axis=1)
    return np.ascontiguousarray(packed).view(np.uint64).reshape(-1)


def _join_equal(hashes: Array, same: Callable[[Array, Array], Array], parent: Array) -> Array:
    """Join images of one hash to the first like it; the indices of those firsts, sorted.

    Thousands of copies of one image would otherwise be millions of pairs.
    """
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]]))
    sizes = np.diff(starts, append=len(order))
    leaders = order[starts[sizes == 1]].tolist()
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        members = order[start : start + size]
        while len(members):
            alike = same(members[:1], members)
            alike[0] = True
            parent[members[alike]] = members[0]
            leaders.append(int(members[0]))
            members = members[~alike]
    return np.array(sorted(leaders), np.int64)


def _close_pairs(hashes: Array) -> Iterator[tuple[Array, Array]]:
    """Index pairs within MAX_HASH_DISTANCE bits; some come more than once.

    Cut into one piece more than bits may differ, two close hashes share a piece unchanged (pigeonhole), so
    only hashes with an equal piece are compared.
    """
    pieces = MAX_HASH_DISTANCE + 1
    words = hashes.view(np.uint16).reshape(-1, 4)
    assert words.shape[1] == pieces
    for piece in range(pieces):
        order = np.argsort(words[:, piece], kind="stable")
        starts = np.flatnonzero(np.diff(words[order, piece].astype(np.int64), prepend=-1))
        for bucket in np.split(order, starts[1:]):
            for start in range(0, len(bucket) if len(bucket) > 1 else 0, _CHUNK):
                left = bucket[start : start + _CHUNK]
                near = np.bitwise_count(hashes[left][:, None] ^ hashes[bucket][None]) <= MAX_HASH_DISTANCE
                rows, columns = np.nonzero(near)
                later = columns > rows + start
                for part in range(0, int(later.sum()), 65_536):
                    chosen = slice(part, part + 65_536)
                    yield left[rows[later][chosen]], bucket[columns[later][chosen]]


def _find(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i


def _join(parent: Array, i: int, j: int) -> None:
    a, b = _find(parent, i), _find(parent, j)
    # The smaller index stays the root, so that groups come in the order of their first image.
    parent[max(a, b)] = min(a, b)


def _merged(source: DataSource) -> Split:
    parts = [part for part in (source.train, source.val) if part is not None]
    if not parts:
        raise InputError(f"{source.path}: has neither a train nor a val split")
    samples = [sample for part in parts for sample in part.samples]
    if len({sample.image_id for sample in samples}) < len(samples):
        samples = [replace(sample, image_id=i) for i, sample in enumerate(samples, start=1)]
    return replace(
        parts[0],
        samples=samples,
        source=source.path,
        skipped=[item for part in parts for item in part.skipped],
        notes=[note for part in parts for note in part.notes],
    )


def _thumbnails(images: Sequence[Path]) -> tuple[Array, list[int], list[Skipped]]:
    """uint8 [N,16,16] of the images that can be read, their indices, and the others."""

    def one(path: Path) -> Array | InputError:
        try:
            return grey_thumbnail(path, THUMBNAIL_SIDE)
        except InputError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        results = list(pool.map(one, images))
    good = [i for i, result in enumerate(results) if not isinstance(result, InputError)]
    bad = [
        Skipped("image", str(path), str(result).removeprefix(f"{path}: "), "unreadable_image")
        for path, result in zip(images, results, strict=True)
        if isinstance(result, InputError)
    ]
    return np.array([results[i] for i in good], np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE), good, bad


def _counts(samples: Sequence[Sample], num_classes: int) -> Array:
    """float64 [N, 1 + C]: one for the image, then its objects of each class."""
    counts = np.ones((len(samples), 1 + num_classes))
    for row, sample in zip(counts, samples, strict=True):
        row[1:] = np.bincount(sample.labels[~sample.crowd], minlength=num_classes)
    return counts


def _choose_val(groups: Sequence[Array], counts: Array, fraction: float, seed: int) -> set[int]:
    """Indices of val: groups change sides, large ones first, as long as that brings val nearer to its targets."""
    shuffled = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    shuffled.sort(key=len, reverse=True)
    contents = np.array([counts[group].sum(0) for group in shuffled])
    target = counts.sum(0) * fraction
    weight = np.where(target > 0, 1 / np.maximum(target, 1e-9) ** 2, 0)
    # The number of images counts as much as all classes together.
    weight[0] *= max(1, np.count_nonzero(target[1:]))
    missing, in_val = target.copy(), np.zeros(len(shuffled), bool)
    for _ in range(_PASSES):
        before = in_val.copy()
        for i, content in enumerate(contents):
            left = missing + content if in_val[i] else missing - content
            if (weight * (missing**2 - left**2)).sum() > 1e-12:
                missing, in_val[i] = left, not in_val[i]
        if (in_val == before).all():
            break
    if in_val.all() or not in_val.any():
        in_val[:] = False
        in_val[-1] = True
    return {i for group, chosen in zip(shuffled, in_val, strict=True) if chosen for i in group.tolist()}
