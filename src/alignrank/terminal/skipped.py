"""What was left out of a data set or of a prediction's sources: one counted line that says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignrank.terminal.progress import say, warn

# Reasons that a line gives for each unit before it only counts.
NAMED = 5
_PLURALS = {"box": "boxes"}


@dataclass(frozen=True, slots=True)
class Skipped:
    """One thing that was left out: where it stands (file and line or id), and why.

    kind: a key of `data.faults.KINDS`. image, box: of a box its image, and x1, y1, x2, y2 in pixels as annotated.
    """

    unit: Literal["image", "box"]
    where: str
    reason: str
    kind: str
    image: Path | None = None
    box: tuple[float, float, float, float] | None = None


def report_skipped(skipped: Sequence[Skipped]) -> None:
    """One warning for each unit: how many, the first of them and why."""
    for line in skipped_in_words(reasons(skipped)):
        warn(line)


def say_processed(images: int, objects: int, skipped: Sequence[tuple[str, str]]) -> None:
    """The last line of a verb: what was used, what was left out and why. skipped: (unit, reason)."""
    used = f"processed {_counted(images, 'image')} with {_counted(objects, 'object')}"
    say("; ".join([used, *skipped_in_words(skipped)]))


def reasons(skipped: Sequence[Skipped]) -> list[tuple[str, str]]:
    """(unit, place and reason) of each."""
    return [(item.unit, f"{item.where}: {item.reason}") for item in skipped]


def skipped_in_words(items: Sequence[tuple[str, str]]) -> list[str]:
    """(unit, reason) -> `skipped 2 boxes: reason; reason`, a line for each unit with at most NAMED reasons.

    Of more than that, those that differ in the name before the first colon only are named once, with their number.
    """
    lines = []
    for unit, count in Counter(unit for unit, _ in items).items():
        named = [reason for of, reason in items if of == unit]
        alike: dict[str, list[str]] = {}
        for reason in named:
            alike.setdefault(reason.partition(": ")[2] or reason, []).append(reason)
        if count > NAMED and 1 < len(alike) < count:
            most = sorted(alike.values(), key=len, reverse=True)[:NAMED]
            count_named = sum(map(len, most))
            named = [f"{same[0]} ({len(same)} of these)" if len(same) > 1 else same[0] for same in most]
        else:
            named, count_named = named[:NAMED], min(count, NAMED)
        more = f"; and {count - count_named} more" if count > count_named else ""
        lines.append(f"skipped {_counted(count, unit)}: {'; '.join(named)}{more}")
    return lines


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit if count == 1 else _PLURALS.get(unit, f'{unit}s')}"
