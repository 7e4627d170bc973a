"""`read`: a data set in any format, from a folder or a file, recognised by what lies there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from alignrank.data.faults import RAISE_FIRST, Faults
from alignrank.data.formats import Format, formats
from alignrank.data.records import check_images as check_split_images
from alignrank.data.samples import DataSource, Split
from alignrank.errors import InputError

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def read(
    path: str | Path, *, check_images: bool = True, require_val: bool = True, faults: Faults = RAISE_FIRST
) -> DataSource:
    """A data set -> its splits.

    path: a folder, a file of the whole data set (JSON of COCO or Label Studio, data.yaml, XML of CVAT, Parquet), or
    the word `digits` (the embedded data; write ./digits for a folder of that name). A single annotation file, or a
    folder without splits, is `train`.
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
    source = (_read_folder if path.is_dir() else _read_file)(path, formats(require_val), faults)
    _same_classes(source, faults)
    _note_shared_images(source)
    if check_images:
        for split in source.splits().values():
            check_split_images(split)
    return source


def _read_file(path: Path, known: tuple[Format, ...], faults: Faults) -> DataSource:
    suffix = path.suffix.lower()
    if suffix in _ARCHIVES:
        raise InputError(f"{path}: archives are not read; unpack it and give the folder")
    for form in known:
        if form.read_file is not None and suffix in form.suffixes and form.is_file(path):
            return form.read_file(path, faults)
    raise InputError(f"{path}: is not a data set; known: {_layouts(known)}")


def _read_folder(folder: Path, known: tuple[Format, ...], faults: Faults) -> DataSource:
    try:
        for form in known:
            if form.is_folder(folder):
                return form.read_folder(folder, faults)
        children = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]
        if len(children) == 1:
            # VOCdevkit/VOC2007, or what unpacking an archive leaves.
            return _read_folder(children[0], known, faults)
        inside = [child for child in children if any(form.is_folder(child) for form in known)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from None
    hint = f"; give one of its folders: {', '.join(child.name for child in inside)}" if inside else ""
    raise InputError(f"{folder}: no data set is recognised here{hint}; known: {_layouts(known)}")


def _layouts(known: tuple[Format, ...]) -> str:
    return ", ".join(form.layout for form in known if form.layout)


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
