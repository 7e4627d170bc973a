"""From the pictures that an annotation tool describes to a split: what cannot be used is left out and told.

Readers of tools that name classes by words give `Annotated`, one for each picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alignrank.data.decode import read_size
from alignrank.data.faults import Box, Faults, LineError
from alignrank.data.records import ImageRecord, Rows, build_samples, without_name
from alignrank.data.samples import DataSource, Split
from alignrank.errors import InputError, nearest
from alignrank.files import read_text
from alignrank.terminal.skipped import Skipped

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# As files of classes are called, one name a line.
CLASS_FILES = ("classes.txt", "labels.txt")


@dataclass(slots=True)
class Annotated:
    """A picture and its objects.

    where: file and record, for messages. image: its file; absent: why there is none. size: (height, width) as
    annotated, None where only the file's header tells. objects: class, box in pixels, and where it stands.
    refused: objects that were told of and are not here.
    """

    where: str
    image: Path | None
    absent: str = "there is no image for it"
    kind: str = "missing_image"
    size: tuple[int, int] | None = None
    objects: list[tuple[str, Box, str]] = field(default_factory=list)
    refused: int = 0

    def take(self, found: Path | str) -> None:
        """found: its file, or why there is none."""
        self.image, self.absent = (found, "") if isinstance(found, Path) else (None, found)

    def refuse_name(self, error: InputError, what: str, faults: Faults) -> None:
        """There is no image, because its name, which `what` holds, is not taken."""
        faults.refuse("unsafe_path", str(error))
        self.absent, self.kind = f"its {what} is refused", "unsafe_path"

    @contextmanager
    def reading(self, where: str, faults: Faults) -> Iterator[None]:
        """Around the reading of one object: a LineError in it is told, and the object is not there."""
        try:
            yield
        except LineError as error:
            faults.refuse(error.kind, f"{where}: {error}", self.image)
            self.refused += 1


@dataclass(slots=True)
class Tally:
    """What became of objects that are no boxes, over a data set: said once. Both count by the tool's own word."""

    outlines: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def outline(self, word: str) -> None:
        """One object of which the bounding box is used."""
        self.outlines[word] = self.outlines.get(word, 0) + 1

    def leave_out(self, word: str) -> None:
        """One that has no box."""
        self.left_out[word] = self.left_out.get(word, 0) + 1

    def conclude(self, source: DataSource, faults: Faults) -> None:
        """Say it in the notes of every split."""
        ends = (("outline", self.outlines, "the bounding box is used"), ("other_shape", self.left_out, "left out"))
        for kind, counts, became in ends:
            if counts:
                text = f"{source.path}: {', '.join(f'{n:,} x {word}' for word, n in sorted(counts.items()))}: {became}"
                faults.note(kind, text)
                for split in source.splits().values():
                    split.notes.append(text)


def split_folders(folder: Path, is_part: Callable[[Path], bool]) -> dict[str, Path]:
    """The folders of splits in `folder` that `is_part`; {} where there is none."""
    found = {}
    for name, words in SPLIT_FOLDERS.items():
        part = next((folder / word for word in words if (folder / word).is_dir() and is_part(folder / word)), None)
        if part is not None:
            found[name] = part
    return found


def classes_of(folder: Path, items: Iterable[Annotated]) -> tuple[str, ...]:
    """`classes.txt` or `labels.txt` of the folder, else all names found, sorted. Raises InputError if there is none.

    LabelMe's own `__ignore__` and `_background_` in such a file are no classes.
    """
    for path in (folder / name for name in CLASS_FILES):
        if path.is_file():
            lines = (line.strip() for line in read_text(path).splitlines())
            names = tuple(line for line in lines if line and line not in ("__ignore__", "_background_"))
            if not names or len(set(names)) != len(names):
                raise InputError(f"{path}: must name each class once, one a line")
            return names
    found = {name for item in items for name, _, _ in item.objects}
    if not found:
        raise InputError(f"{folder}: none of its annotations has a box, so there are no classes")
    return tuple(sorted(found))


def read_splits(
    source: DataSource, parts: dict[str, list[Annotated]], classes: Sequence[str], faults: Faults, *, first_id: int = 1
) -> DataSource:
    """`source` with the splits of `parts`. first_id: of the classes."""
    for name, items in parts.items():
        with faults.reading():
            split = _split(items, classes, source.path, faults)
            split.category_ids = tuple(range(first_id, first_id + len(classes)))
            setattr(source, name, split)
    return source


def _split(items: Sequence[Annotated], classes: Sequence[str], source: Path, faults: Faults) -> Split:
    rows, records, skipped = Rows(), list[ImageRecord](), list[Skipped]()
    labels, seen = {name: i for i, name in enumerate(classes)}, dict[Path, str]()
    for number, item in enumerate(items, start=1):
        if item.image is None:
            skipped.append(Skipped("image", item.where, item.absent, item.kind))
            continue
        if item.image in seen:
            text = f"{item.where}: {item.image} is the image of {seen[item.image]}, too"
            faults.refuse("duplicate_image_id", text, item.image)
            continue
        seen[item.image] = item.where
        try:
            size = item.size or read_size(item.image)
        except InputError as error:
            skipped.append(Skipped("image", str(item.image), without_name(error, item.image), "unreadable_image"))
            continue
        rows.refused += [len(records)] * item.refused
        for name, box, where in item.objects:
            if name in labels:
                rows.add(len(records), box, labels[name], where)
                continue
            text = f"{where}: label {name[:80]!r} is not one of the classes; {nearest(name, labels)}"
            faults.refuse("unknown_class", text, item.image)
            rows.refused.append(len(records))
        records.append(ImageRecord(item.image, number, size))
    if not records:
        first = f" ({skipped[0].where}: {skipped[0].reason})" if skipped else ""
        raise InputError(f"{source}: none of its {len(items)} annotated images can be used{first}")
    samples, skipped_boxes, notes = build_samples(records, rows, place=str, faults=faults)
    return Split(tuple(classes), (), samples, source, skipped + skipped_boxes, notes)


def size_of(height: object, width: object, where: str, faults: Faults) -> tuple[int, int] | None:
    """(height, width) as annotated; None where either is absent, or refused."""
    if height in (None, "") or width in (None, ""):
        return None
    sides = []
    for key, value in (("height", height), ("width", width)):
        try:
            side = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
        except (ValueError, OverflowError):
            side = 0.0
        if not 0 < side < 2**31 or side != int(side):
            text = f"{where}: {key} must be a positive whole number, is {str(value)[:80]!r}"
            faults.refuse("invalid_record", text)
            return None
        sides.append(int(side))
    return sides[0], sides[1]
