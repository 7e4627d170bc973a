"""Write a data set in another format: a new folder with its own copy of the images, complete or not there at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import yaml

from alignrank.data.samples import DataSource, Sample, Split
from alignrank.errors import InputError

Format = Literal["coco", "yolo", "voc"]


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: folder, images, boxes, and crowd regions left out because the format has none."""

    path: Path
    images: int
    boxes: int
    crowd_left_out: int


def convert(source: DataSource, out: str | Path, to: Format, *, link: bool = False) -> Converted:
    """Write `source` to the new folder `out`.

    to: `coco` (images/, annotations/{split}.json, ids kept), `yolo` (images/, labels/, data.yaml) or `voc`
    (JPEGImages/, Annotations/, ImageSets/Main/, classes.txt; coordinates with fractions).
    link: hard links where the file system allows, instead of copies.
    Raises InputError if `out` exists, cannot be written, or `to` is unknown; nothing is left behind then.
    """
    if to not in _WRITERS:
        raise InputError(f"{to!r} is not a format; known: {', '.join(_WRITERS)}")
    splits = source.splits()
    with new_folder(out) as folder:
        names = _image_names(splits)
        try:
            _WRITERS[to](folder, splits, names, link)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    crowd = sum(int(sample.crowd.sum()) for split in splits.values() for sample in split.samples)
    left_out = 0 if to == "coco" else crowd
    boxes = sum(split.num_boxes for split in splits.values()) - left_out
    return Converted(Path(out), sum(map(len, splits.values())), boxes, left_out)


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name at the end; removed if the block fails.

    Raises InputError if `out` exists already or its parent cannot be written.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise InputError(f"{out}: exists already; give a new folder")
    # Not a folder of `tempfile`, which only its owner may read.
    temporary = out.parent / f".{out.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    try:
        yield temporary
        try:
            os.rename(temporary, out)
        except OSError as error:  # also where another process has filled the folder in the meantime, as it must
            reason = "exists already; give a new folder" if os.path.lexists(out) else f"cannot be written ({error})"
            raise InputError(f"{out}: {reason}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """UTF-8 JSON, parents made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def _image_names(splits: dict[str, Split]) -> dict[Path, str]:
    """A file name of its own for every image, with a stem of its own: labels go by the stem."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for split in splits.values():
        for sample in split.samples:
            if sample.image in names:
                continue
            stem, number = sample.image.stem, 1
            while stem.casefold() in taken:
                number += 1
                stem = f"{sample.image.stem}_{number}"
            taken.add(stem.casefold())
            names[sample.image] = stem + sample.image.suffix
    return names


def _place(image: Path, target: Path, link: bool) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(image.resolve(), target)
            return
        except OSError:
            pass  # another file system, or one without links: copy
    shutil.copyfile(image, target)


def _write_coco(folder: Path, splits: dict[str, Split], names: dict[Path, str], link: bool) -> None:
    (folder / "images").mkdir()
    for name, split in splits.items():
        document = split.to_coco()
        for record, sample in zip(document["images"], split.samples, strict=True):
            record["file_name"] = names[sample.image]
            _place(sample.image, folder / "images" / names[sample.image], link)
        write_json(folder / "annotations" / f"{name}.json", document)


def _write_yolo(folder: Path, splits: dict[str, Split], names: dict[Path, str], link: bool) -> None:
    head: dict[str, object] = {}  # no `path`: every reader then starts at the file itself
    for name, split in splits.items():
        head[name] = f"images/{name}"
        (folder / "labels" / name).mkdir(parents=True)
        for sample in split.samples:
            image = names[sample.image]
            _place(sample.image, folder / "images" / name / image, link)
            text = "".join(line + "\n" for line in _yolo_lines(sample))
            (folder / "labels" / name / image).with_suffix(".txt").write_text(text, encoding="utf-8")
    head["names"] = dict(enumerate(next(iter(splits.values())).classes))
    (folder / "data.yaml").write_text(yaml.safe_dump(head, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _yolo_lines(sample: Sample) -> Iterator[str]:
    height, width = sample.size
    for box, label, crowd in zip(sample.boxes.tolist(), sample.labels.tolist(), sample.crowd.tolist(), strict=True):
        if not crowd:
            x1, y1, x2, y2 = box
            cx, cy = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
            # Nine digits keep a thousandth of a pixel up to sides of 100,000.
            yield f"{label} {cx:.9f} {cy:.9f} {(x2 - x1) / width:.9f} {(y2 - y1) / height:.9f}"


def _write_voc(folder: Path, splits: dict[str, Split], names: dict[Path, str], link: bool) -> None:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    classes = next(iter(splits.values())).classes
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    for name, split in splits.items():
        stems = []
        for sample in split.samples:
            image = names[sample.image]
            stems.append(Path(image).stem)
            _place(sample.image, folder / "JPEGImages" / image, link)
            xml = folder / "Annotations" / f"{stems[-1]}.xml"
            xml.write_text(_voc_xml(sample, image, classes), encoding="utf-8")
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{s}\n" for s in stems), encoding="utf-8")


def _voc_xml(sample: Sample, image: str, classes: tuple[str, ...]) -> str:
    height, width = sample.size
    lines = ["<annotation>", f"  <folder>JPEGImages</folder>\n  <filename>{escape(image)}</filename>"]
    lines.append(f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    for box, label, crowd in zip(sample.boxes.tolist(), sample.labels.tolist(), sample.crowd.tolist(), strict=True):
        if crowd:
            continue
        # Counted from 1, the last pixel included: only the first corner moves.
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
        inner = "".join(f"<{key}>{value:.4f}</{key}>" for key, value in corners)
        name = escape(classes[label])
        lines.append(f"  <object><name>{name}</name><difficult>0</difficult><bndbox>{inner}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])


_Writer = Callable[[Path, dict[str, Split], dict[Path, str], bool], None]
_WRITERS: dict[str, _Writer] = {"coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}
