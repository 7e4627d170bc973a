"""A font of a few characters, made on the spot: tests must not depend on what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignrank import fonts
from alignrank.fonts import Fonts

pytest.importorskip("fontTools", reason="fontTools is not installed (it comes with Matplotlib, extra 'report')")
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen


def small_font(path: Path, characters: str) -> str:
    """A filled triangle for each of `characters`, a hollow square for all others. Returns the path."""
    names = {ord(character): f"u{ord(character):x}" for character in characters}
    outlines = {".notdef": [[(50, 0), (50, 700), (650, 700), (650, 0)], [(100, 50), (600, 50), (600, 650), (100, 650)]]}
    outlines |= {name: [[(0, 0), (350, 800), (700, 0)]] for name in names.values()}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(outlines))
    builder.setupCharacterMap(names)
    glyphs = {}
    for name, contours in outlines.items():
        pen = TTGlyphPen(None)
        for start, *others in contours:
            pen.moveTo(start)
            for point in others:
                pen.lineTo(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(outlines, (750, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": f"Small {path.stem}", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


def fonts_with(*paths: str) -> Fonts:
    """DejaVu Sans and `paths`, whatever is installed."""
    return Fonts(fonts.fonts().first, lambda: paths)
