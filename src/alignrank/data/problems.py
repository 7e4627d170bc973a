"""The collector of everything that is wrong with a data set: counts in full, examples up to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignrank.data.faults import KINDS, Box
from alignrank.errors import InputError
from alignrank.terminal.skipped import Skipped

# Per kind: enough to see a pattern, and memory stays bounded where every box of a million is wrong.
MAX_EXAMPLES = 100
# Boxes kept for pictures: of one image, of all.
MAX_MARKS_PER_IMAGE, MAX_MARKS = 60, 50_000


@dataclass(slots=True)
class Problem:
    """All problems of one kind, a key of `faults.KINDS`. examples: the first ones, each naming file and id or line."""

    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def severity(self) -> str:
        """`error` where training would not start, else `warning`."""
        return KINDS[self.kind].severity

    def to_dict(self) -> dict[str, Any]:
        """kind, meaning, severity, what training does (refuses, leaves out, keeps), count, examples."""
        kind = KINDS[self.kind]
        return {
            "kind": self.kind,
            "meaning": kind.meaning,
            "severity": kind.severity,
            "training": kind.training,
            "count": self.count,
            "examples": self.examples,
        }


class Problems:
    """A `faults.Faults` that ends nothing and keeps count.

    marks: boxes to draw on an image, (x1, y1, x2, y2) in its pixels with what is wrong with it.
    first_refused: the message that training would end with.
    """

    collecting = True

    def __init__(self) -> None:
        self.marks: dict[Path, list[tuple[Box, str]]] = {}
        self.first_refused: str | None = None
        self._found: dict[str, Problem] = {}
        self._per_image: Counter[Path] = Counter()
        self._marks_left = MAX_MARKS

    def refuse(self, kind: str, message: str, image: Path | None = None) -> None:
        """A record that training cannot accept."""
        self.first_refused = self.first_refused or message
        self.note(kind, message, image)

    def note(self, kind: str, message: str, image: Path | None = None, box: Box | None = None) -> None:
        """One problem more."""
        problem = self._found.setdefault(kind, Problem(kind))
        problem.count += 1
        if len(problem.examples) < MAX_EXAMPLES:
            problem.examples.append(message)
        if image is not None:
            self._per_image[image] += 1
            if box is not None:
                self.mark(image, box, KINDS[kind].meaning)

    def mark(self, image: Path, box: Box, text: str) -> None:
        """A box to draw on a picture of the image."""
        marks = self.marks.setdefault(image, [])
        if len(marks) < MAX_MARKS_PER_IMAGE and self._marks_left:
            marks.append((box, text))
            self._marks_left -= 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A split that cannot be read is one problem."""
        try:
            yield
        except InputError as error:
            self.refuse("unreadable_split", str(error))

    def add_skipped(self, skipped: Iterable[Skipped]) -> None:
        """What a reader left out."""
        for item in skipped:
            self.note(item.kind, f"{item.where}: {item.reason}", item.image, item.box)

    def sorted(self) -> list[Problem]:
        """In the order of `faults.KINDS`: what training refuses first."""
        return [self._found[kind] for kind in KINDS if kind in self._found]

    def worst_images(self) -> list[Path]:
        """Images with problems of their own, the most first."""
        return [image for image, _ in sorted(self._per_image.items(), key=lambda item: (-item[1], str(item[0])))]
