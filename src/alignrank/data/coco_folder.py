"""Which JSON files of a folder hold the boxes of its splits: COCO's own layout, Roboflow's and CVAT's."""

from __future__ import annotations

import re
from pathlib import Path

from alignrank.data import coco
from alignrank.data.faults import Faults
from alignrank.data.samples import DataSource
from alignrank.errors import InputError

_SPLIT_OF_WORD = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "minival": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Files beside COCO's boxes that describe something else.
_OTHER_COCO_FILES = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_", "lvis_v1_image_info_")


def read_folder(folder: Path, faults: Faults) -> DataSource:
    """Every split that has a file."""
    source = DataSource(folder, "coco")
    for name, path in files(folder).items():
        with faults.reading():
            setattr(source, name, coco.read_file(path, faults))
    return source


def files(folder: Path) -> dict[str, Path]:
    """The JSON file of each split in `folder`; {} if there is none.

    Raises InputError where several could be meant.
    """
    for place in (folder / "annotations", folder):
        if not place.is_dir():
            continue
        every = sorted(place.glob("*.json"))
        chosen = [path for path in every if not path.name.startswith(_OTHER_COCO_FILES)]
        # Their boxes are those of the instances, so they serve where these are absent.
        chosen = chosen or [path for path in every if path.name.startswith("person_keypoints_")]
        if chosen:
            return _by_split(chosen, folder)
    roboflow = {}
    for child in ("train", "valid", "val", "test"):
        file = folder / child / "_annotations.coco.json"
        if file.is_file():
            roboflow[_SPLIT_OF_WORD[child]] = file
    return roboflow


def _by_split(every: list[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, list[Path]] = {}
    for path in every:
        words = [_SPLIT_OF_WORD[w] for w in re.findall("[a-z]+", path.stem.lower()) if w in _SPLIT_OF_WORD]
        found.setdefault(words[0] if words else "", []).append(path)
    if not any(found.get(name) for name in ("train", "val", "test")):
        found = {"train": found.get("", [])}
    found.pop("", None)
    for name, paths in found.items():
        instances = [path for path in paths if path.name.startswith("instances_")]
        if len(instances or paths) > 1:
            listed = ", ".join(path.name for path in instances or paths)
            raise InputError(f"{folder}: several annotation files could be {name} ({listed}); give the one to use")
        found[name] = instances or paths
    return {name: paths[0] for name, paths in found.items()}
