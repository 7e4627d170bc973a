"""One colour per class, the same in every picture and plot."""

from __future__ import annotations

import colorsys

# Mid-tones: they stand out on photographs and on white paper, and carry white text.
_FIRST = ("#2563eb", "#ea580c", "#16a34a", "#db2777", "#7c3aed", "#0e8fa8", "#b58105", "#dc2626", "#5f8f0b", "#64748b")
_GOLDEN_TURN = 0.61803398875


def color(index: int) -> str:
    """The hex colour of class `index`: ten chosen ones, then hues a golden-ratio turn apart."""
    if index < len(_FIRST):
        return _FIRST[index]
    turn = (index * _GOLDEN_TURN) % 1
    lightness, saturation = (0.36, 0.45, 0.52)[index % 3], (0.9, 0.65)[index % 2]
    r, g, b = colorsys.hls_to_rgb(turn, lightness, saturation)
    return f"#{round(r * 255):02x}{round(g * 255):02x}{round(b * 255):02x}"
