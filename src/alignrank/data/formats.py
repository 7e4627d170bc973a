"""The table of formats that are read: what a folder or file of each looks like, and what reads it.

The first row that recognises a place reads it, so a format whose files could be taken for another's stands above it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alignrank.data import coco, coco_folder, cvat, label_studio, labelme, parquet, visdrone, voc, yolo, yolo_folder
from alignrank.data.faults import Faults
from alignrank.data.samples import DataSource
from alignrank.errors import InputError

Read = Callable[[Path, Faults], DataSource]


@dataclass(frozen=True, slots=True)
class Format:
    """layout: in words, for messages. is_folder and read_folder, and the same of a single file where it is enough."""

    layout: str
    is_folder: Callable[[Path], bool]
    read_folder: Read
    suffixes: tuple[str, ...] = ()
    is_file: Callable[[Path], bool] = lambda path: True
    read_file: Read | None = None


def formats(require_val: bool) -> tuple[Format, ...]:
    """The rows. require_val: refuse a data.yaml without `val`."""
    by_yaml = partial(_by_yaml, require_val=require_val)
    return (
        Format(
            "YOLO (data.yaml, or images/train with labels/train)",
            lambda folder: yolo_folder.yaml_file(folder) is not None,
            by_yaml,
            (".yaml", ".yml"),
            read_file=by_yaml,
        ),
        Format(
            "LabelMe (JSON files beside images)",
            labelme.is_folder,
            labelme.read_folder,
            (".json",),
            labelme.is_file,
            _one_picture,
        ),
        Format("CVAT (annotations.xml)", cvat.is_folder, cvat.read_folder, (".xml",), cvat.is_file, cvat.read_file),
        Format(
            "Parquet (data/train-*.parquet)",
            parquet.is_folder,
            parquet.read_folder,
            parquet.SUFFIXES,
            read_file=parquet.read_file,
        ),
        Format(
            "Label Studio (the exported JSON)",
            lambda folder: any(label_studio.is_file(path) for path in coco_folder.files(folder).values()),
            lambda folder, faults: label_studio.read_files(folder, coco_folder.files(folder), faults),
            (".json",),
            label_studio.is_file,
            lambda path, faults: label_studio.read_files(path, {"train": path}, faults),
        ),
        Format(
            "COCO (annotations/train.json, or the JSON file itself)",
            lambda folder: bool(coco_folder.files(folder)),
            coco_folder.read_folder,
            (".json",),
            read_file=lambda path, faults: DataSource(path, "coco", train=coco.read_file(path, faults)),
        ),
        Format(
            "Pascal VOC (Annotations/ with JPEGImages/, or XML beside images)",
            voc.is_folder,
            voc.read_folder,
            (".xml", ".txt"),
            read_file=_one_picture,
        ),
        Format("VisDrone (images/ with annotations/*.txt)", visdrone.is_folder, visdrone.read_folder),
        Format("", yolo_folder.is_folder, yolo.read_folder),  # in words above
    )


def _by_yaml(place: Path, faults: Faults, *, require_val: bool) -> DataSource:
    file = yolo_folder.yaml_file(place) if place.is_dir() else place
    assert file is not None
    return yolo.read_yaml_file(file, require_val=require_val, faults=faults)


def _one_picture(path: Path, faults: Faults) -> DataSource:
    raise InputError(f"{path}: is the annotation of one image; give the folder of the data set")
