"""Which file of a data set a tool means by the name it wrote, when it has moved since."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from alignrank.data.decode import list_images


class Finder:
    """The images below a folder, by the ends of their paths; listed once, when the first is not where it should be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str) -> Path | str:
        """name: relative, with forward slashes (`relative_name`) -> the file, or why there is none.

        As named, from the folder or from `images` in it, else the one file whose path ends in the most of its parts.
        """
        for place in (self.folder / name, self.folder / "images" / name):
            if os.path.isfile(place):  # unlike `Path.is_file` also of a name that is too long
                return place
        parts = PurePosixPath(name).parts
        alike = self._listed().get(parts[-1], [])
        if not alike:
            return f"there is no file {parts[-1]!r} in {self.folder}"
        depths = [_shared_end(path.parts, parts) for path in alike]
        if depths.count(max(depths)) > 1:
            return f"{depths.count(max(depths))} files in {self.folder} could be {name!r}"
        return alike[depths.index(max(depths))]

    def _listed(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for path in list_images(self.folder, recursive=True):
                self._by_name.setdefault(path.name, []).append(path)
        return self._by_name


def _shared_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """How many parts two paths have in common, from the end on."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count
