"""What sources consist of: single images, files of several, and what was left out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from alignrank.data.decode import Array
from alignrank.terminal.progress import warn
from alignrank.terminal.skipped import NAMED, skipped_in_words

Unit = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image: its name in results, pixels [H,W,3] uint8 RGB, the file, address or camera it is from (None for
    arrays); of one of several frames also its index from 0, and of a video its time in seconds, where it tells it.
    """

    name: str
    image: Array = field(repr=False)
    path: str | None = None
    frame_index: int | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Several:
    """Frames of one source, to be read in order. rate: frames a second, None of pages; asked for after the first."""

    frames: Generator[SourceImage, None, None]
    rate: Callable[[], Fraction | None]


@dataclass(frozen=True, slots=True)
class First:
    """The first of the frames of an animation, which stands for all `of` them."""

    image: Array
    of: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One source that has been named, not opened yet.

    read: its pixels, or the frames it turns out to hold. count: how many images, None where that cannot be known.
    live: it does not end. Both raise InputError for what cannot be read.
    """

    name: str
    read: Callable[[], Array | Several | First]
    path: str | None = None
    unit: Unit = "image"
    count: Callable[[], int | None] = lambda: 1
    live: bool = False


@dataclass(slots=True)
class Skips:
    """What was left out, in order: (`image` or `video`, the reason, which names the file).

    firsts: animations of which the first frame alone was taken, and how many they have.
    """

    items: list[tuple[Unit, str]] = field(default_factory=list)
    firsts: list[tuple[str, int]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many, by unit."""
        return dict(Counter(unit for unit, _ in self.items))

    def report(self) -> None:
        """Warn on stderr, one counted line for each unit; silent if nothing was left out."""
        for line in (*skipped_in_words(self.items), *self.first_in_words()):
            warn(line)

    def first_in_words(self) -> list[str]:
        """One counted line about the animations, none where there are none."""
        if not self.firsts:
            return []
        named = [f"{name} (of {count})" for name, count in sorted(self.firsts)[:NAMED]]
        more = [f"and {len(self.firsts) - NAMED} more"] if len(self.firsts) > NAMED else []
        files = f"{len(self.firsts)} animation{'s' * (len(self.firsts) > 1)}"
        return [f"took the first frame of {files}: {'; '.join([*named, *more])}; name a file itself for all frames"]


def frame_name(path: str, index: int) -> str:
    """What a frame is called in results."""
    return f"{path}#{index}"


def frame_index(name: str, path: str | None) -> int | None:
    """The index in such a name, None for the name of anything else (a file's name can hold a `#`)."""
    index = name.removeprefix(f"{path}#")
    return int(index) if path is not None and index != name and index.isdecimal() else None
