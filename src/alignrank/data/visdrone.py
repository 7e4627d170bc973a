"""VisDrone-DET: one text file per image, lines `left,top,width,height,score,category,truncation,occlusion`.

Categories 1 to 10 are the published classes. Category 0 is a region that evaluation ignores: it becomes a
crowd region of every class. Category 11 (others) is left out. An object with score 0 does not count in
evaluation either: it becomes a crowd region of its class.
"""

from __future__ import annotations

from pathlib import Path

from alignrank.data.decode import list_images
from alignrank.data.faults import RAISE_FIRST, Faults, LineError
from alignrank.data.records import Rows, build_samples, sized_images
from alignrank.data.samples import DataSource, Split
from alignrank.errors import InputError
from alignrank.files import read_text

CLASSES = (
    "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor"
)  # fmt: skip
_IGNORED, _OTHERS = 0, 11
_MAX_NUMBER = 2**31
_SPLITS = {"train": ("train",), "val": ("val",), "test": ("test-dev", "test")}


def is_folder(folder: Path) -> bool:
    """Whether these are folders of VisDrone, or annotations/ holds text files."""
    return bool(split_folders(folder)) or next((folder / "annotations").glob("*.[tT][xX][tT]"), None) is not None


def read_folder(folder: Path, faults: Faults = RAISE_FIRST) -> DataSource:
    """A folder of `VisDrone2019-DET-{train,val,test-dev}`, or one such folder (images/, annotations/).

    A single folder is `train`. Raises InputError naming label file and line.
    """
    parts = split_folders(folder) or {"train": folder}
    source = DataSource(folder, "visdrone")
    for name, part in parts.items():
        with faults.reading():
            setattr(source, name, read_part(part, faults))
    return source


def split_folders(folder: Path) -> dict[str, Path]:
    """The `VisDrone*-{train,val,test-dev}` folders in `folder` that have annotations."""
    found: dict[str, Path] = {}
    children = sorted(path for path in folder.iterdir() if path.name.lower().startswith("visdrone"))
    for name, endings in _SPLITS.items():
        for ending in endings:
            match = [p for p in children if p.name.lower().endswith(f"-{ending}") and (p / "annotations").is_dir()]
            if match:
                found.setdefault(name, match[0])
    return found


def read_part(folder: Path, faults: Faults = RAISE_FIRST) -> Split:
    """One folder with images/ and annotations/ -> a split."""
    images = list_images(folder / "images")
    labels = [folder / "annotations" / f"{image.stem}.txt" for image in images]
    if not any(label.is_file() for label in labels):
        raise InputError(f"{folder / 'annotations'}: none of the {len(images)} images has a label file here")
    records, kept, skipped = sized_images(images, source=folder)
    rows, others = Rows(), 0
    for index, position in enumerate(kept):
        if labels[position].is_file():
            others += _add_file(rows, index, labels[position], records[index].path, faults)
    if faults.collecting:
        for position in sorted(set(range(len(images))).difference(kept)):
            # The image cannot be opened: its lines are read for their faults alone.
            if labels[position].is_file():
                _add_file(Rows(), 0, labels[position], images[position], faults)
        for path in sorted(set((folder / "annotations").glob("*.txt")) - set(labels)):
            faults.note("orphan_label", f"{path}: there is no image for it")
    samples, skipped_boxes, notes = build_samples(records, rows, place=str, faults=faults)
    if others:
        notes.append(f"{others} objects of category 11 (others) are left out")
    ids = tuple(range(1, len(CLASSES) + 1))
    return Split(CLASSES, ids, samples, folder, skipped + skipped_boxes, notes)


def parse_line(line: str) -> tuple[float, float, float, float, int, int]:
    """left, top, width, height, score, category. Raises LineError saying what is wrong."""
    words = [word.strip() for word in line.strip().rstrip(",").split(",")]
    if len(words) != 8:
        raise LineError("invalid_record", f"{len(words)} columns; expected 8, separated by commas")
    try:
        values = [int(word) for word in words]
    except ValueError:
        raise LineError("invalid_record", "all columns must be whole numbers") from None
    if max(map(abs, values)) > _MAX_NUMBER:
        raise LineError("invalid_record", f"a number is larger than {_MAX_NUMBER}")
    left, top, width, height, score, category = values[:6]
    if not _IGNORED <= category <= _OTHERS:
        raise LineError("unknown_class", f"category {category} is not one of 0 to 11")
    return left, top, width, height, score, category


def _add_file(rows: Rows, index: int, path: Path, image: Path, faults: Faults) -> int:
    """Append the objects of a label file; the number of those in category 11."""
    others = 0
    try:
        lines = read_text(path).splitlines()
    except InputError as error:
        faults.refuse("unreadable_annotations", str(error), image)
        rows.refused.append(index)
        return 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            left, top, width, height, score, category = parse_line(line)
        except LineError as error:
            faults.refuse(error.kind, f"{path}: line {number}: {error}", image)
            rows.refused.append(index)
            continue
        box, where = (left, top, left + width, top + height), f"{path}: line {number}"
        if category == _OTHERS:
            others += 1
            rows.refused.append(index)
        elif category == _IGNORED:
            for label in range(len(CLASSES)):
                rows.add(index, box, label, where, crowd=True)
        else:
            rows.add(index, box, category - 1, where, crowd=score == 0)
    return others
