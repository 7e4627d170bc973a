"""The lines of YOLO's label files, and how those of one data set are to be read.

`class cx cy w h` is a box and `class x1 y1 x2 y2 x3 y3 ...` a polygon, or an oriented box where it has four corners;
both become the smallest upright box. With `kpt_shape: [k, d]` in data.yaml a line has k key points of d numbers behind
its box: the box is read, the key points are left out. Without it lines are polygons, except that lines which look like
boxes with key points are refused (`yolo_readings`), and so are lines that may be either where there is no data.yaml;
`kpt_shape: null` says that they are polygons. What became of polygons and key points is said once for a data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from alignrank.data.faults import Box, Faults, LineError
from alignrank.data.records import ImageRecord, Rows
from alignrank.data.samples import DataSource
from alignrank.data.yolo_readings import Doubt, KeyPoints, Readings, pose_readings
from alignrank.errors import InputError
from alignrank.files import read_text
from alignrank.terminal.skipped import Skipped

# Export tools round the border outwards; more than a hundredth beyond it is another unit.
_TOLERANCE = 0.01


class Entry(NamedTuple):
    """A label line: class, box x1, y1, x2, y2 in fractions, and all numbers behind the class."""

    label: int
    box: Box
    values: list[float]


@dataclass(slots=True)
class LabelLines:
    """How the lines of one data set are read, and what was found in them.

    source: the data.yaml, or the folder where there is none. key_points: its `kpt_shape`; settled: whether
    it has this key, be it null. polygons (quads: those of four corners), poses: how many lines held them.
    """

    source: Path
    classes: tuple[str, ...]
    key_points: KeyPoints | None = None
    settled: bool = False
    polygons: int = 0
    quads: int = 0
    poses: int = 0
    _readings: Readings = field(default_factory=Readings)

    def read_file(self, path: Path, rows: Rows, index: int, record: ImageRecord, faults: Faults) -> list[Skipped]:
        """Append the objects of a label file to `rows` as those of image `index`; what is left out."""
        height, width = record.size
        seen: set[tuple[int, Box]] = set()
        skipped: list[Skipped] = []
        try:
            lines = read_text(path).splitlines()
        except InputError as error:
            faults.refuse("unreadable_annotations", str(error), record.path)
            rows.refused.append(index)
            return []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                label, fractions, values = parse_line(line, len(self.classes), self.key_points)
            except LineError as error:
                faults.refuse(error.kind, f"{where}: {error}", record.path)
                rows.refused.append(index)
                continue
            x1, y1, x2, y2 = fractions
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            if (label, fractions) in seen:
                reason = "the same line stands above"
                skipped.append(Skipped("box", where, reason, "duplicate_line", record.path, box))
                continue
            seen.add((label, fractions))
            rows.add(index, box, label, where)
            if len(values) > 4:
                self._count(values)
        return skipped

    def for_faults_alone(self) -> LabelLines:
        """The same way to read, for lines that do not count."""
        return LabelLines(self.source, self.classes, self.key_points, self.settled)

    def conclude(self, source: DataSource, faults: Faults) -> None:
        """Say in the notes of every split what became of the data set's polygons and key points.

        Raises InputError (or tells `faults`) where they cannot be told from each other.
        """
        doubt = None if self.settled else self._readings.doubt()
        if doubt is not None and (doubt.likely or not self.source.is_file()):
            faults.refuse("two_readings", f"{self.source}: {self._in_doubt(doubt)}")
        for kind, text in (("key_points", self._poses_in_words()), ("outline", self._polygons_in_words())):
            if text:
                faults.note(kind, f"{self.source}: {text}")
                for split in source.splits().values():
                    split.notes.append(f"{self.source}: {text}")

    def _count(self, values: list[float]) -> None:
        if self.key_points is not None:
            self.poses += 1
            return
        self.polygons += 1
        self.quads += len(values) == 8
        if not self.settled:
            self._readings.add(values)

    def _poses_in_words(self) -> str:
        if not self.poses:
            return ""
        one = self.poses == 1
        return f"{self.poses:,} object{' has' if one else 's have'} key points: left out, only the box is used"

    def _polygons_in_words(self) -> str:
        if not self.polygons:
            return ""
        one, became = self.polygons == 1, "became its bounding box"
        became = became if one else "became their bounding boxes"
        if self.quads == self.polygons:
            what = "oriented box or four-cornered polygon" if one else "oriented boxes or four-cornered polygons"
            return f"{self.quads:,} {what} {became}"
        some = f" ({self.quads:,} of them with four corners, as oriented boxes have)" if self.quads else ""
        return f"{self.polygons:,} polygon{'s' * (not one)} {became}{some}"

    def _in_doubt(self, doubt: Doubt) -> str:
        lines = f"{doubt.lines:,} label line{'s' * (doubt.lines != 1)} of {doubt.columns} columns"
        polygon = f"polygons of {(doubt.columns - 1) // 2} corners"
        if doubt.likely:
            what = f"{lines} look like {doubt.reading}, not like {polygon}"
        else:
            what = f"{lines} can be {polygon} or {doubt.reading}"
        place = "write" if self.source.is_file() else "write a data.yaml with train, val, names and"
        pose = "take the confidence off, and " * doubt.reading.confidence
        return f"{what}; {pose}{place} kpt_shape: {list(doubt.reading.key_points)}, or kpt_shape: null for polygons"


def parse_line(line: str, num_classes: int, key_points: KeyPoints | None = None) -> Entry:
    """A label line; key_points: the `kpt_shape` of data.yaml. Raises LineError saying what is wrong."""
    words = line.split()
    _check_columns(len(words), key_points)
    try:
        number = float(words[0])
    except ValueError:
        raise LineError("unknown_class", f"class {words[0][:40]!r} must be an index, not a name") from None
    if not math.isfinite(number) or number != int(number) or not 0 <= number < num_classes:
        text = f"is not one of the {num_classes} classes (0 to {num_classes - 1})"
        raise LineError("unknown_class", f"class {words[0][:40]} {text}")
    values = []
    for word in words[1:]:
        try:
            values.append(float(word))
        except ValueError:
            raise LineError("invalid_record", f"{word[:40]!r} is not a number") from None
    used = values if key_points is None else values[:4]
    bad_value = next((v for v in used if not -_TOLERANCE <= v <= 1 + _TOLERANCE), None)
    if bad_value is not None:
        text = f"{bad_value:g} is outside 0..1: coordinates are fractions of the image, not pixels"
        text += _other_form(values, bad_value) if key_points is None else ""
        raise LineError("out_of_range" if math.isfinite(bad_value) else "non_finite", text)
    if len(used) == 4:
        cx, cy, w, h = used
        return Entry(int(number), (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), values)
    return Entry(int(number), (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])), values)


def _check_columns(columns: int, key_points: KeyPoints | None) -> None:
    if columns == 5:
        return
    if key_points is None:
        if columns >= 7 and columns % 2:
            return
        text = "expected class cx cy w h, or class and at least three points (spaces between them)"
        raise LineError("invalid_record", f"{columns} columns; {text}{_refused_form(columns)}")
    number, size = key_points
    expected = 5 + number * size
    if columns != expected:
        text = f"kpt_shape: [{number}, {size}] asks for {expected}, or 5 for a box without key points"
        more = "; is the last one a confidence, as detectors save it? take it off" if columns == expected + 1 else ""
        if columns == 5 + number * (5 - size):
            more = f"; is it kpt_shape: [{number}, {5 - size}]?"
        raise LineError("invalid_record", f"{columns} columns; {text}{more}")


def _refused_form(columns: int) -> str:
    """What a line with an even number of columns may be."""
    if columns < 6:
        return ""
    if columns == 6:
        return "; is it class cx cy w h with a confidence, as detectors save it? take the last column off"
    readings = [*map(str, pose_readings(columns)), "a polygon or oriented box with a confidence"]
    shapes = [f"kpt_shape: {list(r.key_points)}" for r in pose_readings(columns) if not r.confidence]
    advice = f"name {shapes[0]} in data.yaml for key points, and " if shapes else ""
    return f"; is it {', or '.join(readings)}? {advice}take a confidence off"


def _other_form(values: list[float], bad_value: float) -> str:
    """What a line may be that has a number too large for a polygon."""
    shape = next((r.key_points for r in pose_readings(1 + len(values)) if r.key_points[1] == 3), None)
    if len(values) == 6 and values[5] == bad_value >= 2 and bad_value == int(bad_value):
        return "; is it class cx cy w h with a confidence and a track number? take both off"
    if shape is not None and bad_value == 2:
        return f"; is it a box with key points and their visibility? then name kpt_shape: {list(shape)} in data.yaml"
    return ""
