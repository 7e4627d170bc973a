"""One colour per class, the same in every picture and plot."""

from __future__ import annotations

import colorsys

# Mid-tones: they stand out on photographs and on white paper, and carry white text.
_FIRST = ("#2563eb", "#ea580c", "#16a34a", "#db2777", "#7c3aed", "#0e8fa8", "#b58105", "#dc2626", "#5f8f0b", "#64748b")
_GOLDEN_TURN = 0.61803398875
_BRIGHTEST = 0.28  # of 1: white text on it keeps a contrast above 3


def color(index: int) -> str:
    """The hex colour of class `index`: ten chosen ones, then hues a golden-ratio turn apart."""
    if index < len(_FIRST):
        return _FIRST[index]
    turn = (index * _GOLDEN_TURN) % 1
    lightness, saturation = (0.36, 0.45, 0.52)[index % 3], (0.9, 0.65)[index % 2]
    while _luminance(rgb := colorsys.hls_to_rgb(turn, lightness, saturation)) > _BRIGHTEST:
        lightness -= 0.02
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in rgb)


def _luminance(rgb: tuple[float, float, float]) -> float:
    """WCAG's relative luminance of sRGB in 0..1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
