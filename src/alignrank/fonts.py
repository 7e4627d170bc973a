"""Fonts that have the characters of a text: class and file names come in every script.

DejaVu Sans first, then what is installed. Where no font has a character, a square would be drawn for it: such a text is
to be replaced by one that can be read, and one warning says so.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import ImageFont

from alignrank.terminal.progress import warn

_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_DEJAVU = "DejaVuSans.ttf"
# Regular sans-serif faces first; Apple's font of last resort draws squares for everything.
_UNUSUAL = re.compile(r"bold|italic|oblique|light|thin|black|heavy|condensed|mono|serif", re.IGNORECASE)
_LAST_RESORT = "lastresort"
# Large enough that a character and the square for a missing one are never the same picture.
_TRIAL_SIZE = 40
_NO_CHARACTER = "\U0010ffff"
_NAMED = 20  # missing characters in a warning
# What the Unicode names of Chinese, Japanese and Korean characters begin with.
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC")


class Fonts:
    """Font files in order of preference. others: finds those behind the first one, asked for when that lacks something.

    The path "" is Pillow's own font.
    """

    def __init__(self, first: str, others: Callable[[], Sequence[str]]) -> None:
        self.first = first
        self._find_others = others
        self._others: Sequence[str] | None = None
        self._font_of: dict[str, str | None] = {}
        self._reported: set[str] = set()

    def runs(self, text: str) -> list[tuple[str, str]]:
        """`text` in pieces, each with the font that has its characters; one piece if one font has them all."""
        for path in self._paths():
            if all(_can_draw(path, character) for character in text):
                return [(path, text)]
        pieces = groupby(text, lambda character: self._found(character) or self.first)
        return [(path, "".join(characters)) for path, characters in pieces]

    def lacking(self, text: str) -> str:
        """The characters of `text` that no font has, each once."""
        return "".join(character for character in dict.fromkeys(text) if self._found(character) is None)

    def paths_for(self, texts: Iterable[str]) -> list[str]:
        """The fonts that `texts` need beyond the first one."""
        used = dict.fromkeys(path for text in texts for path, _ in self.runs(text))
        return [path for path in used if path and path != self.first]

    def report(self, texts: Sequence[str], instead: str) -> None:
        """One warning of what no font has in `texts`, and of what is drawn `instead`; of a character once a process."""
        missing = self.lacking("".join(texts))
        if set(missing) <= self._reported:
            return
        self._reported |= set(missing)
        shown = missing[:_NAMED] + ("..." if len(missing) > _NAMED else "")
        warn(
            f"no font here has the characters {shown}: {instead}; install a font that has them, "
            f"such as {_package(missing)} on Debian or Ubuntu"
        )

    def _paths(self) -> Iterator[str]:
        yield self.first
        if self._others is None:
            self._others = self._find_others()
        yield from self._others

    def _found(self, character: str) -> str | None:
        """The first font that has it."""
        if character not in self._font_of:
            self._font_of[character] = next((path for path in self._paths() if _can_draw(path, character)), None)
        return self._font_of[character]


@cache
def fonts() -> Fonts:
    """Those of this machine."""
    return Fonts(_bundled(), installed)


def installed() -> list[str]:
    """Font files on this machine, plain ones first."""
    found: dict[str, None] = {}
    for folder in _folders():
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.suffix.lower() in _SUFFIXES and _LAST_RESORT not in path.name.lower():
                found[str(path)] = None
    return sorted(found, key=lambda path: (len(_UNUSUAL.findall(Path(path).name.replace("Sans", ""))), path))


@lru_cache(maxsize=32)
def load(path: str, size: int) -> Any:
    """The font file at a size in px."""
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def tidy(text: str) -> str:
    """On one line: a font has no picture of a line break."""
    return " ".join(text.split())


def _bundled() -> str:
    """DejaVu Sans, which matplotlib ships (found without its import): knows more scripts than Pillow's own."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / _DEJAVU
        if path.is_file():
            return str(path)
    return next((path for path in installed() if Path(path).name == _DEJAVU), "")


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", str(home / "AppData" / "Local"))
        return [
            Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts",
            Path(local) / "Microsoft" / "Windows" / "Fonts",
        ]
    if sys.platform == "darwin":
        return [home / "Library" / "Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [home / ".fonts", *(Path(folder) / "fonts" for folder in [own, *shared.split(os.pathsep)])]


@cache
def _can_draw(path: str, character: str) -> bool:
    """Whether the font draws something of its own. Fonts of coloured bitmaps cannot be drawn at any size."""
    kind = unicodedata.category(character)
    if kind in ("Zs", "Cf") or 0xFE00 <= ord(character) <= 0xFE0F:  # spaces, and what only changes its neighbours
        return True
    if kind in ("Cc", "Cs", "Cn", "Zl", "Zp"):
        return False
    drawn = _picture(path, character)
    return drawn is not None and any(drawn[1]) and drawn != _picture(path, _NO_CHARACTER)


@cache
def _picture(path: str, character: str) -> tuple[tuple[int, int], bytes] | None:
    """(size, pixels) as the font draws the character alone; None if it cannot be used."""
    try:
        mask = _trial(path).getmask(character)
    except (OSError, ValueError):
        return None
    return mask.size, bytes(mask)


@lru_cache(maxsize=8)
def _trial(path: str) -> Any:
    # The basic layout: the other one puts a circle below marks that stand alone.
    if not path:
        return ImageFont.load_default(_TRIAL_SIZE)
    return ImageFont.truetype(path, _TRIAL_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _package(missing: str) -> str:
    """The Debian package of a font that has most of such characters."""
    if any(unicodedata.name(c, "").startswith(_CJK) for c in missing):
        return "fonts-noto-cjk"
    return "fonts-symbola" if all(unicodedata.category(c) == "So" for c in missing) else "fonts-noto-core"
