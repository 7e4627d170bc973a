"""The embedded data set `digits`: real handwritten digits on real photographs, composed here, nothing downloaded.

The digits are scikit-learn's (UCI optical recognition, 8 x 8 pixels), the photographs those that scikit-learn
and scikit-image carry in their wheels. A digit image, and a photograph, serves either train or val, never both.
Boxes are the tight boxes of the digits' ink; distractors (strokes, cut-up digits) have none.
How one scene is drawn: `digit_scene`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignrank.cores import usable_cores
from alignrank.data.convert import new_folder, write_json
from alignrank.data.digit_scene import SCENE_SIDE, Artist
from alignrank.data.samples import Array, Sample, Split
from alignrank.data.unpacked import cache_folder
from alignrank.errors import InputError
from alignrank.extras import PACKAGES, require

# Part of the folder's name: raise it with every change of the pictures.
VERSION = 3
NUM_TRAIN, NUM_VAL = 900, 150
CLASSES = tuple("0123456789")
# The first digits of scikit-learn's 1797 go to train scenes, the rest to val scenes.
_TRAIN_DIGITS = 1347
_JPEG_QUALITY = 92
_PHOTOGRAPHS = {
    "train": (
        "sklearn/datasets/images/china.jpg",
        *(f"skimage/data/{n}" for n in ("astronaut.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")),
        *(f"skimage/data/{n}" for n in ("brick.png", "grass.png", "retina.jpg")),
    ),
    "val": (
        "sklearn/datasets/images/flower.jpg",
        *(f"skimage/data/{n}" for n in ("chelsea.png", "camera.png", "hubble_deep_field.jpg", "gravel.png", "ihc.png")),
    ),
}


def ensure() -> Path:
    """The folder of the data set (COCO layout), made on the first call: a few seconds.

    It lies in $ALIGNRANK_CACHE, else in the user's cache folder. Raises InputError if it cannot be
    written, or scikit-learn or scikit-image are not installed.
    """
    folder = cache_folder() / f"digits-v{VERSION}"
    if _is_complete(folder):
        return folder
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        build(folder)
    except InputError:
        # Another process may have been faster.
        if not _is_complete(folder):
            raise
    return folder


def build(out: str | Path, *, num_train: int = NUM_TRAIN, num_val: int = NUM_VAL, seed: int = 0) -> None:
    """Write images/ and annotations/{train,val}.json to the new folder `out`; the same for the same seed.

    Raises InputError if `out` exists or cannot be written, or the sources are not installed.
    """
    sources = {name: _sources(name) for name in ("train", "val")}
    first_id = 1
    with new_folder(out) as folder:
        try:
            (folder / "images").mkdir()
            for index, (name, count) in enumerate((("train", num_train), ("val", num_val))):
                split = _write_split(folder, name, sources[name], range(first_id, first_id + count), (seed, index))
                write_json(folder / "annotations" / f"{name}.json", split.to_coco())
                first_id += count
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None


@dataclass(frozen=True, slots=True)
class _Sources:
    """What a split is made of: photographs uint8 [H,W,3], digits float32 [N,8,8] in 0..1, their values [N]."""

    photographs: list[Array]
    digits: Array
    values: Array


def _sources(split: str) -> _Sources:
    require("digits", "sklearn", "skimage")
    from sklearn.datasets import load_digits

    digits, values = load_digits(return_X_y=True)
    part = slice(None, _TRAIN_DIGITS) if split == "train" else slice(_TRAIN_DIGITS, None)
    pixels = (digits[part].reshape(-1, 8, 8) / 16).astype(np.float32)
    return _Sources([_photograph(name) for name in _PHOTOGRAPHS[split]], pixels, values[part].astype(np.int64))


def _photograph(name: str) -> Array:
    """uint8 [H,W,3] of a file in an installed package, found without importing it."""
    from alignrank.data.decode import decode

    module, _, rest = name.partition("/")
    spec = importlib.util.find_spec(module)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(folders or ["."]))) / rest
    if not path.is_file():
        package = PACKAGES.get(module, module)
        raise InputError(f"{path}: is missing; `pip install --force-reinstall {package}` brings it back")
    return decode(path)


def _write_split(folder: Path, name: str, sources: _Sources, ids: range, seed: tuple[int, int]) -> Split:
    from PIL import Image

    artist = Artist(sources.photographs, sources.digits, sources.values)

    def one(image_id: int) -> Sample:
        # One generator per scene: any scene can be made again without those before it.
        scene = artist.draw(np.random.default_rng([*seed, image_id]))
        path = folder / "images" / f"{name}_{image_id:04d}.jpg"
        Image.fromarray(scene.image).save(path, quality=_JPEG_QUALITY)
        boxes = scene.boxes.astype(np.float32)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        crowd = np.zeros(len(boxes), bool)
        return Sample(path, image_id, (SCENE_SIDE, SCENE_SIDE), boxes, scene.labels, areas, crowd)

    with ThreadPoolExecutor(usable_cores()) as pool:
        samples = list(pool.map(one, ids))
    return Split(CLASSES, tuple(range(1, 11)), samples, folder)


def _is_complete(folder: Path) -> bool:
    if not all((folder / "annotations" / f"{name}.json").is_file() for name in ("train", "val")):
        return False
    images = folder / "images"
    return images.is_dir() and len(os.listdir(images)) == NUM_TRAIN + NUM_VAL
