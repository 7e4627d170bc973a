"""`read`: a data set in any format, from a folder or a file, recognised by what lies there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from alignrank.data import coco, visdrone, voc, yolo
from alignrank.data.faults import RAISE_FIRST, Faults
from alignrank.data.records import check_images as check_split_images
from alignrank.data.samples import DataSource, Split
from alignrank.errors import InputError
from alignrank.files import read_bytes

_SPLIT_OF_WORD = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "minival": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Files beside COCO's boxes that describe something else.
_OTHER_COCO_FILES = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_", "lvis_v1_image_info_")
_LAYOUTS = (
    "COCO (annotations/train.json, or the JSON file itself), YOLO (data.yaml, or images/train with labels/train), "
    "Pascal VOC (Annotations/ with JPEGImages/, or XML beside images), VisDrone (images/ with annotations/*.txt)"
)


def read(
    path: str | Path, *, check_images: bool = True, require_val: bool = True, faults: Faults = RAISE_FIRST
) -> DataSource:
    """A data set -> its splits.

    path: a folder, a COCO JSON file, a data.yaml, or the word `digits` (the embedded data; write ./digits
    for a folder of that name). A single annotation file, or a folder without splits, is `train`.
    check_images: leave out images whose header cannot be read or contradicts the annotated size (splits
    of up to 20,000 images). require_val: refuse a data.yaml without `val`. faults: who is told of records
    that cannot be used; where it does not raise, they are left out, and so are splits that cannot be read.
    Raises InputError naming the file and the field.
    """
    if path == "digits":
        from alignrank.data import digits

        path = digits.ensure()
    text, path = str(path), Path(path)
    if not os.path.exists(path):
        raise InputError(
            f"{text!r}: there is no such file or folder (data: a folder, a JSON file, a data.yaml, or digits)"
        )
    source = (_read_folder if path.is_dir() else _read_file)(path, require_val, faults)
    _same_classes(source, faults)
    _note_shared_images(source)
    if check_images:
        for split in source.splits().values():
            check_split_images(split)
    return source


def _read_file(path: Path, require_val: bool, faults: Faults) -> DataSource:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return DataSource(path, "coco", train=coco.read_file(path, faults))
    if suffix in (".yaml", ".yml"):
        return yolo.read_yaml_file(path, require_val=require_val, faults=faults)
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"):
        raise InputError(f"{path}: archives are not read; unpack it and give the folder")
    if suffix in (".xml", ".txt"):
        raise InputError(f"{path}: is the annotation of one image; give the folder of the data set")
    raise InputError(f"{path}: is not a data set; known: {_LAYOUTS}")


def _read_folder(folder: Path, require_val: bool, faults: Faults) -> DataSource:
    try:
        yaml_file = _yaml_file(folder)
        if yaml_file is not None:
            return yolo.read_yaml_file(yaml_file, require_val=require_val, faults=faults)
        files = coco_files(folder)
        if files:
            return _read_coco(folder, files, faults)
        if _is_voc(folder):
            return voc.read_folder(folder, faults)
        if visdrone.split_folders(folder) or _any(folder / "annotations", ".txt"):
            return visdrone.read_folder(folder, faults)
        if _is_yolo(folder):
            return yolo.read_folder(folder, faults)
        children = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from None
    if len(children) == 1:
        # VOCdevkit/VOC2007, or what unpacking an archive leaves.
        return _read_folder(children[0], require_val, faults)
    inside = [child for child in children if _is_voc(child) or _yaml_file(child) or coco_files(child)]
    hint = f"; give one of its folders: {', '.join(child.name for child in inside)}" if inside else ""
    raise InputError(f"{folder}: no data set is recognised here{hint}; known: {_LAYOUTS}")


def _read_coco(folder: Path, files: dict[str, Path], faults: Faults) -> DataSource:
    source = DataSource(folder, "coco")
    for name, path in files.items():
        with faults.reading():
            setattr(source, name, coco.read_file(path, faults))
    return source


def _yaml_file(folder: Path) -> Path | None:
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
        if (folder / name).is_file():
            return folder / name
    found = [path for path in sorted(folder.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")]
    found = [path for path in found if re.search(rb"(?m)^(train|names)\s*:", read_bytes(path)[:100_000])]
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds several yaml files ({', '.join(p.name for p in found)}); give the one to use"
        )
    return found[0] if found else None


def coco_files(folder: Path) -> dict[str, Path]:
    """The COCO annotation file of each split in `folder`; {} if there is none.

    Raises InputError where several could be meant.
    """
    for place in (folder / "annotations", folder):
        if not place.is_dir():
            continue
        every = sorted(place.glob("*.json"))
        files = [path for path in every if not path.name.startswith(_OTHER_COCO_FILES)]
        # Their boxes are those of the instances, so they serve where these are absent.
        files = files or [path for path in every if path.name.startswith("person_keypoints_")]
        if files:
            return _by_split(files, folder)
    roboflow = {}
    for child in ("train", "valid", "val", "test"):
        file = folder / child / "_annotations.coco.json"
        if file.is_file():
            roboflow[_SPLIT_OF_WORD[child]] = file
    return roboflow


def _by_split(files: list[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, list[Path]] = {}
    for path in files:
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


def _any(folder: Path, suffix: str) -> bool:
    return folder.is_dir() and any(path.suffix.lower() == suffix for path in folder.iterdir())


def _is_voc(folder: Path) -> bool:
    places = ("Annotations", "", "train", "valid", "val")
    return any(_any(folder / place, ".xml") for place in places)


def _is_yolo(folder: Path) -> bool:
    if (folder / "labels").is_dir() or any((folder / name / "labels").is_dir() for name in ("train", "val", "valid")):
        return True
    texts = {path.stem for path in folder.iterdir() if path.suffix.lower() == ".txt"}
    return any(path.stem in texts for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def _same_classes(source: DataSource, faults: Faults) -> None:
    """Give all splits the classes of the first one that has them all; a split that contradicts it is refused."""
    splits = source.splits()
    whole = max(splits.values(), key=lambda split: len(split.classes), default=None)
    if whole is None:
        return
    for name, split in splits.items():
        if (split.classes, split.category_ids) == (whole.classes, whole.category_ids):
            continue
        known = dict(zip(whole.category_ids, whole.classes, strict=True))
        other = [pair for pair in zip(split.category_ids, split.classes, strict=True) if known.get(pair[0]) != pair[1]]
        for identifier, class_name in other:
            text = f"id {identifier} is {class_name!r}, but {known.get(identifier, 'absent')!r} in {whole.source}"
            faults.refuse("class_conflict", f"{split.source}: categories: {text}")
        if other:
            setattr(source, name, None)
        else:
            _relabel(split, whole)


def _relabel(split: Split, whole: Split) -> None:
    table = np.array([whole.category_ids.index(identifier) for identifier in split.category_ids], np.int64)
    for sample in split.samples:
        sample.labels = table[sample.labels]
    split.classes, split.category_ids = whole.classes, whole.category_ids


def _note_shared_images(source: DataSource) -> None:
    if source.train is None or source.val is None:
        return
    train = {sample.image for sample in source.train.samples}
    shared = sum(sample.image in train for sample in source.val.samples)
    if shared:
        source.val.notes.append(
            f"{shared} of the {len(source.val)} val images are train images too: val figures will flatter"
        )
